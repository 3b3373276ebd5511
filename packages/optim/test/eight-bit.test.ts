/** 8-bit optimizers on leaves of any shape: rows of a block inside a step change no number. */
import { type DType, type Store, type Tensor, convertArray, setDevice, store, tensor } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Optimizer, adamw8bit, blockwise8bit, chain, clipByGlobalNorm, decayWeights, lion8bit, optimizerOf, rmsprop8bit, scaleByAdam, scaleByLearningRate } from "@adjoint/optim";
import { devices } from "./golden.ts";

const [reference] = devices, wasm = devices[3];
const wave = (n: number, k: number): Float32Array => Float32Array.from({ length: n }, (_, i) => Math.fround(Math.sin(i * 0.7 + k) * 10 ** ((i % 5) - 3)));
const shapes = [[32, 8], [16, 16], [8, 96], [1024], [4, 2, 32], [30, 7], [512, 2], [3, 5], [256]] as const;
type Tree = Record<string, Store>;
const treeOf = (chosen: readonly number[], dtype: DType = "f32"): Tree => Object.fromEntries(chosen.map((c, i) => {
  const shape = shapes[c], n = shape.reduce((a: number, b) => a * b, 1);
  return [`leaf${i}`, store({ dtype, shape: [...shape], data: convertArray(wave(n, i), "f32", dtype) })];
}));
/** Parameters and states after three steps. */
async function after(make: () => Optimizer, tree: Tree): Promise<Record<string, readonly number[]>> {
  const o = make().for(tree);
  for (let step = 0; step < 3; step++) {
    const { gradNorm } = o.step(Object.fromEntries(Object.entries(tree).map(([name, p], i): [string, Tensor] => [name, tensor(wave(p.size, 7 * step + i + 1), { shape: p.shape })])));
    await gradNorm.data();
  }
  const out: Record<string, readonly number[]> = {};
  for (const [name, p] of Object.entries(tree)) out[name] = Array.from(await p.data(), Number);
  for (const [name, leaves] of Object.entries(o.states)) for (const [path, s] of Object.entries(leaves)) { expect([path, s.shape.reduce((a, b) => a * b, 1)]).toEqual([path, name.startsWith("absmax") ? Math.ceil(tree[path].size / 256) : tree[path].size]); out[`${name} of ${path}`] = Array.from(await s.data(), Number); }
  return out;
}

describe("leaves in codes, in f32 and without whole blocks beside each other", () => {
  const trees = fc.array(fc.nat(shapes.length - 1), { minLength: 1, maxLength: 5 }), common = { learningRate: 0.01, weightDecay: 0.1, betas: [0.9, 0.99] as const };
  it("law: adamw8bit is its chain, whose links see leaves in their own shapes, bit for bit", async () => {
    setDevice(reference);
    await fc.assert(fc.asyncProperty(trees, fc.constantFrom(1, 256, 512, 4096), fc.constantFrom(undefined, "leaf1"), async (chosen, min8bitSize, keep32bit) => {
      const plain = (): Optimizer => optimizerOf("plain", chain(clipByGlobalNorm(1), decayWeights(0.1, 0.01), blockwise8bit(scaleByAdam({ betas: [0.9, 0.99], average: "sum" }), { exp_avg: "signed", exp_avg_sq: "unsigned" }, min8bitSize, keep32bit), scaleByLearningRate(0.01)));
      const own = await after(() => adamw8bit({ ...common, min8bitSize, maxGradNorm: 1, ...(keep32bit ? { keep32bit } : {}) }), treeOf(chosen));
      expect(own).toEqual(await after(plain, treeOf(chosen)));
    }), { numRuns: 12 });
  });
  it.each([
    ["adamw8bit", () => adamw8bit({ ...common, min8bitSize: 512, maxGradNorm: 1 })], ["with leaf norms", () => adamw8bit({ ...common, min8bitSize: 256, maxLeafNorm: 0.5, maxGradValue: 0.2 })],
    ["with adaptive clipping", () => adamw8bit({ ...common, min8bitSize: 256, adaptiveClip: 0.1 })], ["lion8bit", () => lion8bit({ ...common, min8bitSize: 256, maximize: true })], ["rmsprop8bit", () => rmsprop8bit({ learningRate: 0.01, min8bitSize: 256, weightDecay: 0.1 })],
    ["with groups", () => adamw8bit({ ...common, min8bitSize: 1, groups: [{ match: (path) => path === "leaf0" || path === "leaf2", learningRate: 0.1, weightDecay: 0 }] })],
  ])("%s: fused kernels give the numbers of separate ones; codes within one", async (_, make) => {
    const all = shapes.map((_s, i) => i);
    setDevice(reference);
    const want = await after(make, treeOf(all));
    setDevice(wasm);
    const got = await after(make, treeOf(all));
    for (const [name, values] of Object.entries(want)) {
      const top = Math.max(...values.map(Math.abs));
      if (/^state\d/.test(name) && values.every(Number.isInteger)) values.forEach((v, i) => { expect(Math.abs(v - got[name][i]), `${name}[${i}]`).toBeLessThanOrEqual(1); });
      else values.forEach((v, i) => { expect(Math.abs(v - got[name][i]), `${name}[${i}]`).toBeLessThanOrEqual(4e-6 * top); });
    }
  });
  it.each([["masters", { masterWeights: true }], ["rounding by chance", { stochasticRounding: true, seed: 5 }]] as const)("half-precision parameters with %s", async (_, cure) => {
    setDevice(reference);
    const make = (): Optimizer => adamw8bit({ ...common, ...cure, min8bitSize: 256 }), whole = [0, 2, 3], f32 = await after(() => adamw8bit({ ...common, min8bitSize: 256 }), treeOf(whole));
    const half = await after(make, treeOf(whole, "bf16"));
    for (const [name, values] of Object.entries(f32)) values.forEach((v, i) => { expect(Math.abs(half[name][i] - v), `${name}[${i}]`).toBeLessThanOrEqual(name.startsWith("leaf") ? 2 ** -5 * Math.abs(v) + 2e-4 : 0); });
    expect(Object.keys(half).length).toBe(Object.keys(f32).length + ("masterWeights" in cure ? 3 : 0));
  });
});
