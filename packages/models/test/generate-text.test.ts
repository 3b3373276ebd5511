import { describe, expect, it } from "vitest";
import { createReference, setDevice, structureChanged, type Tensor } from "@adjoint/tensor";
import { generate, generateIds, initModel, loadTokenizer, trainTokenizer } from "@adjoint/models";

describe("generate", async () => {
  setDevice(createReference({ name: "fused", fuse: true }));
  const { tokenizerJson, config } = trainTokenizer(["the whale, the white whale: é ü 鯨 and the sea. the sea and the whale"], { vocabSize: 280 }), tokenizer = await loadTokenizer({ tokenizerJson, config });
  const model = initModel({ model_type: "llama", vocab_size: 280, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 128, initializer_range: 0.3 }, 4, { tokenizer });
  const options = { maxNewTokens: 60, seed: 2, stopAtEos: false };

  it("gives the text of the new tokens, and tells it piece by piece", async () => {
    let told = "";
    const ids: number[] = [], text = await generate(model, "the whale", { ...options, onToken: (t) => { told += t.text; ids.push(t.id); expect(t.index).toBe(ids.length - 1); } });
    expect(ids).toEqual(await generateIds(model, tokenizer.encode("the whale"), options));
    expect(text).toBe(tokenizer.decode(ids, { skipSpecialTokens: true }));
    expect(text.startsWith(told)).toBe(true);
    expect(text.slice(told.length)).toMatch(/^\uFFFD*$/);                      // only a character that was never finished is held back
    expect(await generate(model, "the whale", { ...options, seed: 3 })).not.toBe(text);
  });
  it("runs with the adapter of a wrapped model, with another one, or with none", async () => {
    const turn = (m: object): boolean => m === model.modules().find((e) => e.isOutputHead)?.module;
    const adapter = { output: (m: object, _x: unknown, y: Tensor) => (turn(m) ? y.neg() : y) };
    const wrapped = { base: model, context: (c = {}) => ({ adapter, ...c }) }, plain = await generateIds(model, [5], options), turned = await generateIds(wrapped, [5], options);
    expect(turned).not.toEqual(plain);
    expect(await generateIds(model, [5], { ...options, adapter })).toEqual(turned);
    expect(await generateIds(wrapped, [5], { ...options, adapter: null })).toEqual(plain);
  });
  it("asks for the adapter again when the model's structure changes on the way, as when it is merged", async () => {
    const head = model.modules().find((e) => e.isOutputHead)?.module, turned = { output: (m: object, _x: unknown, y: Tensor) => (m === head ? y.neg() : y) }, greedy = { ...options, temperature: 0, maxNewTokens: 6 };
    let on = true;
    const ids = await generateIds({ base: model, context: (c = {}) => ({ ...c, adapter: on ? turned : null }) }, [5], { ...greedy, onToken: ({ index }) => { if (index === 2) { on = false; structureChanged(); } } });
    const first = await generateIds(model, [5], { ...greedy, maxNewTokens: 3, adapter: turned });
    expect(ids).toEqual([...first, ...await generateIds(model, [5, ...first], { ...greedy, maxNewTokens: 3 })]);
  });
  it("needs a tokenizer for text", async () => {
    await expect(generate(initModel({ ...model.config.json }, 1), "x")).rejects.toThrow("tokenizer");
  });
});
