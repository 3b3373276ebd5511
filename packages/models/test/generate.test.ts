import { describe, expect, it } from "vitest";
import fc from "fast-check";
import { clearPlans, createReference, memory, setDevice, tensor } from "@adjoint/tensor";
import { wasmSync } from "@adjoint/wasm";
import { Session, distribution, generateIds, initModel, loadModel, sample } from "@adjoint/models";
import { fixture } from "@adjoint/testing/fixtures";

const config = { model_type: "mistral", vocab_size: 23, hidden_size: 8, intermediate_size: 12, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 512, initializer_range: 0.5 };

for (const device of [createReference({ name: "fused", fuse: true, arena: true }), wasmSync()]) describe(device.name, () => {
  for (const window of [null, 5]) it(`cached logits are uncached logits${window ? ` with a window of ${window}` : ""}`, async () => {
    setDevice(device);
    const model = initModel({ ...config, sliding_window: window }, 1), session = new Session(model), prompt = [3, 1, 4, 1, 5, 9, 2, 6];
    let ids = [...prompt], got = await session.read(prompt);
    for (let i = 0; i < 70; i++) {
      if ([0, 1, 2, 30, 55, 56, 57, 69].includes(i)) {
        const all = await model.logits(tensor(Int32Array.from(ids), { shape: [1, ids.length] })).data(), want = all.slice(-23);
        want.forEach((x, j) => { expect(Math.abs(got[j] - x)).toBeLessThan(1e-5); });
      }
      const id = (i * i + 7) % 23;
      ids = [...ids, id];
      got = await session.next(id);
    }
  });
  it("decoding 200 tokens makes one plan a capacity, and the next generation makes none", async () => {
    setDevice(device);
    clearPlans();
    const model = initModel(config, 2), before = memory().plansMade, first = await generateIds(model, [1, 2, 3], { maxNewTokens: 200, seed: 5 });
    expect(first.length).toBe(200);
    expect(memory().plansMade - before).toBe(4);                                  // the prompt; capacities 64, 128, 256
    const { buffers, bufferBytes } = memory();
    expect(await generateIds(model, [1, 2, 3], { maxNewTokens: 200, seed: 5 })).toEqual(first);
    const after = memory();                                                       // the caches of the first one serve again; other tests' buffers may be collected
    expect(after.buffers).toBeLessThanOrEqual(buffers);
    expect(after.bufferBytes).toBeLessThanOrEqual(bufferBytes);
    expect(memory().plansMade - before).toBe(4);
  });
});

describe("generate", () => {
  it("takes the most likely token at temperature 0, ends at the end of text and at the last position", async () => {
    setDevice(createReference({ name: "fused", fuse: true }));
    const model = await loadModel(fixture("llama/tiny")), ids = [24, 50, 27], out = await generateIds(model, ids, { maxNewTokens: 5, temperature: 0, stopAtEos: false });
    const all = [...ids];
    for (const id of out) {
      const logits = (await model.logits(tensor(Int32Array.from(all), { shape: [1, all.length] })).data()).slice(-61);
      expect(id).toBe(logits.indexOf(Math.max(...logits)));
      all.push(id);
    }
    expect((await generateIds(model, ids, { maxNewTokens: 500, stopAtEos: false })).length).toBe(64 - 3 + 1);
    const seen: number[] = [];
    expect(await generateIds(model, ids, { maxNewTokens: 50, seed: 3, stopAtEos: false, onToken: ({ id }) => { seen.push(id); return seen.length < 7; } })).toEqual(seen);
    expect(seen.length).toBe(7);
    const free = await generateIds(model, ids, { maxNewTokens: 60, seed: 11, stopAtEos: false }), stopped = await generateIds(model, ids, { maxNewTokens: 60, seed: 11 }), end = free.indexOf(2);
    expect(stopped).toEqual(end < 0 ? free : free.slice(0, end));
  });
  it("refuses bad options by name", async () => {
    const model = initModel(config, 1);
    for (const [key, options] of Object.entries({ maxNewTokens: { maxNewTokens: 0 }, temperature: { temperature: -1 }, topK: { topK: 1.5 }, topP: { topP: 0 } })) await expect(generateIds(model, [1], options)).rejects.toThrow(key);
    await expect(generateIds(model, [])).rejects.toThrow("prompt");
    for (const id of [1.5, NaN, -1, model.config.vocabSize]) await expect(generateIds(model, [1, id])).rejects.toThrow(`prompt[1] is ${id}`);
  });
});

describe("sampling", () => {
  const rows = fc.array(fc.integer({ min: -48, max: 48 }).map((k) => k / 16), { minLength: 1, maxLength: 12 });
  it("keeps the most likely tokens, at most k and at least p, in the ratios of the softmax", () => {
    fc.assert(fc.property(rows, fc.integer({ min: 1, max: 14 }), fc.integer({ min: 1, max: 16 }).map((k) => k / 16), fc.integer({ min: 1, max: 32 }).map((k) => k / 16), (logits, topK, topP, temperature) => {
      const { ids, probabilities } = distribution(logits, { topK, topP, temperature }), e = (i: number): number => Math.exp(logits[i] / temperature);
      expect(ids.length).toBeLessThanOrEqual(topK);
      expect(probabilities.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 12);
      const left = logits.map((_, i) => i).filter((i) => !ids.includes(i));
      for (const i of left) for (const j of ids) expect(logits[i]).toBeLessThanOrEqual(logits[j]);
      ids.forEach((id, i) => { expect(probabilities[i] / probabilities[0]).toBeCloseTo(e(id) / e(ids[0]), 9); });
      const top = [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b).slice(0, topK), mass = top.reduce((a, i) => a + e(i), 0);
      expect(ids.reduce((a, i) => a + e(i), 0) / mass).toBeGreaterThanOrEqual(topP - 1e-9);                        // enough
      expect(ids.slice(0, -1).reduce((a, i) => a + e(i), 0) / mass).toBeLessThan(topP + 1e-9);                     // and no more than needed
    }));
  });
  it("draws each token as often as its probability says", () => {
    const logits = [0, 1, 2, -1], options = { temperature: 1, topK: Infinity, topP: 1 }, { ids, probabilities } = distribution(logits, options), n = 4000;
    const counts = ids.map(() => 0);
    for (let i = 0; i < n; i++) counts[ids.indexOf(sample(logits, options, 9, i))]++;
    counts.forEach((c, i) => { expect(Math.abs(c / n - probabilities[i])).toBeLessThan(4 * Math.sqrt((probabilities[i] * (1 - probabilities[i])) / n)); });
  });
});
