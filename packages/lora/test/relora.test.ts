/** ReLoRA's merges: the function stays, the factors start anew, and the sum of updates has a rank above r. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { quantize, quantizedOf, quantizedWeight } from "@adjoint/quant";
import { Linear } from "@adjoint/nn";
import { assign, compile, ConfigError, type DType, hostArray, referenceBackend, setDevice, store, type Tensor } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";
import { lora, mergeAndReinit, reinitSeed, type Tuned } from "../src/index.ts";
import { ids, Toy } from "./toy.ts";

const numbers = async (t: Tensor): Promise<number[]> => [...(await t.data())].map(Number);
/** Gives every factor numbers. */
function fill<M>(tuned: Tuned<M>, start = 3): Tuned<M> {
  let k = start;
  for (const s of tuned.tensors().values()) {
    const data = hostArray(s.dtype, s.size);
    for (let i = 0; i < data.length; i++) data[i] = ((k = (k * 29 + 7) % 65) - 32) / 64;
    s.set({ dtype: s.dtype, shape: s.shape, data });
  }
  return tuned;
}
const factorsOf = async (tuned: Tuned<unknown>): Promise<Record<string, number[]>> => Object.fromEntries(await Promise.all([...tuned.tensors()].map(async ([name, s]) => [name, await numbers(s)] as const)));

describe("mergeAndReinit", () => {
  it.each<DType>(["f64", "f32", "bf16"])("keeps the function, empties B and draws A by the merge's number: %s", async (dtype) => {
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(1, 2, 3), fc.constantFrom<readonly string[] | string>("all-linear", ["q_proj", "embed"]), fc.integer({ min: 1, max: 9 }), async (r, targetModules, count) => {
        const model = new Toy({ dtype }), tuned = fill(lora(model, { r, loraAlpha: 2, targetModules }));
        const before = await numbers(tuned.forward(ids));
        expect(await mergeAndReinit(tuned, { seed: 5, count })).toEqual([]);
        const after = await numbers(tuned.forward(ids)), tolerance = dtype === "f64" ? 1e-12 : dtype === "f32" ? 1e-5 : 0.2;
        after.forEach((v, i) => { expect(Math.abs(v - before[i])).toBeLessThanOrEqual(tolerance * (1 + Math.abs(before[i]))); });
        expect(await numbers(tuned.forward(ids, { adapter: null }))).toEqual(after);
        const factors = await factorsOf(tuned), fresh = await factorsOf(lora(new Toy({ dtype }), { r, loraAlpha: 2, targetModules, seed: reinitSeed(5, count) }));
        expect(factors).toEqual(fresh);
        await mergeAndReinit(fill(tuned), { seed: 5, count: count + 1 });
        expect(await factorsOf(tuned)).not.toEqual(fresh);
        expect(tuned.merged).toBe(false);
      }),
      { numRuns: 4 },
    );
  });

  it("gives the sum of updates a rank above r", async () => {
    const start = store(hostOf([6, 6])), model = { q_proj: new Linear(store(hostOf([6, 6]))), config: { modelType: "llama" } };
    const tuned = lora(model, { r: 1, targetModules: ["q_proj"] });
    for (let count = 1; count <= 3; count++) await mergeAndReinit(fill(tuned, 3 + count), { seed: 1, count });
    const delta = await numbers(model.q_proj.weight.sub(start));
    expect(rank(delta, 6)).toBe(3);
  });

  it("decodes, adds and quantizes again over codes, and says what that lost", async () => {
    const data = Float32Array.from({ length: 64 * 4 }, (_, i) => Math.sin(i * 1.7) / 4), q = quantize(data, [4, 64], { format: "nf4", block: 64, name: "q_proj.weight" });
    const model = { q_proj: new Linear(quantizedWeight(q, "q_proj.weight")), config: { modelType: "llama" } }, tuned = fill(lora(model, { r: 2, targetModules: ["q_proj"] }));
    const held = quantizedOf(model.q_proj.weight), before = await held?.host(), [error] = await mergeAndReinit(tuned, { count: 1 });
    expect(error.name).toBe("q_proj.weight");
    expect(error.ofDelta).toBeGreaterThan(0);
    expect((await held?.host())?.codes).not.toEqual(before?.codes);
  });

  it("reaches compiled steps on wasm: they go on with the new base", async () => {
    const train = async (): Promise<number[]> => {
      const model = new Toy(), tuned = lora(model, { r: 2, seed: 1, targetModules: "all-linear" }), p = Object.fromEntries(tuned.tensors());
      const step = compile(() => {
        const loss = tuned.loss(ids), g = gradients(loss, p), paths = Object.keys(p);
        assign(paths.map((k) => p[k]), paths.map((k) => p[k].sub((g[k] ?? p[k].mul(0)).mul(0.05))));
        return loss;
      });
      const losses: number[] = [];
      for (let i = 0; i < 6; i++) {
        losses.push(...(await numbers(step())));
        if (i === 2) await mergeAndReinit(tuned, { count: 1 });
      }
      return losses;
    };
    const want = await train();
    setDevice(await wasm({ threads: 1 }));
    try {
      (await train()).forEach((v, i) => { expect(Math.abs(v - want[i])).toBeLessThan(1e-4 * Math.abs(want[i])); });
    } finally {
      setDevice(referenceBackend);
    }
    expect(want[5]).toBeLessThan(want[0]);
  });

  it("refuses what cannot be: a merged base, tied weights, a bad count; and then changes nothing", async () => {
    const model = new Toy(), tuned = fill(lora(model, { targetModules: ["q_proj"] })), other = lora(model, { targetModules: ["up_proj"] });
    await expect(mergeAndReinit(tuned, { count: 0 })).rejects.toThrow(ConfigError);
    await other.merge();
    const before = await numbers(tuned.forward(ids));
    await expect(mergeAndReinit(tuned, { count: 1 })).rejects.toThrow(/another|merged into this base/);
    expect(await numbers(tuned.forward(ids))).toEqual(before);
    await other.unmerge();
    const tied = fill(lora(new Toy({ tied: true }), { targetModules: ["embed"] }));
    await expect(mergeAndReinit(tied, { count: 1 })).rejects.toThrow(/shares its weight/);
    for (const kind of [{ vera: {} }, { adalora: { initR: 3, targetR: 2, tinit: 1, tfinal: 2, deltaT: 1, totalStep: 10 } }]) {
      const others = fill(lora(model, { targetModules: ["q_proj"], ...kind })), was = await numbers(model.forward(ids));
      await expect(mergeAndReinit(others, { count: 1 })).rejects.toThrow(/vera|adalora/);
      expect(await numbers(model.forward(ids))).toEqual(was);
    }
  });
});

function hostOf(shape: readonly number[]): { dtype: "f64"; shape: readonly number[]; data: Float64Array<ArrayBuffer> } {
  return { dtype: "f64", shape, data: Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => ((i * 7) % 11) / 16) };
}
/** Rank of a square matrix by elimination. */
function rank(values: readonly number[], n: number): number {
  const m = Array.from({ length: n }, (_, i) => values.slice(i * n, i * n + n));
  let found = 0;
  for (let c = 0; c < n && found < n; c++) {
    const at = m.slice(found).reduce((best, row, i) => (Math.abs(row[c]) > Math.abs(m[best][c]) ? found + i : best), found);
    if (Math.abs(m[at][c]) < 1e-7) continue;
    [m[at], m[found]] = [m[found], m[at]];
    for (let i = found + 1; i < n; i++) { const f = m[i][c] / m[found][c]; for (let j = c; j < n; j++) m[i][j] -= f * m[found][j]; }
    found++;
  }
  return found;
}
