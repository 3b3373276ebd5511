import { beforeEach, describe, expect, it } from "vitest";
import fc from "fast-check";
import { type Tensor, createReference, fromHost, setDevice, store, tensor } from "@adjoint/tensor";
import { type Context, Conv1D, Dropout, Embedding, LayerNorm, Linear, RMSNorm, attention, causalMask, kaimingUniform, nextTokenLossSum, normal, paddingMask, rope, ropeFrequencies, ropeTables, segmentMask, xavierUniform } from "@adjoint/nn";
import { golden, goldenTensors } from "@adjoint/testing/fixtures";

beforeEach(() => { setDevice(createReference({ name: "fused", fuse: true })); });
const grid = (n: number): fc.Arbitrary<number[]> => fc.array(fc.integer({ min: -48, max: 48 }).map((k) => k / 16), { minLength: n, maxLength: n });
const of = (values: readonly number[], shape: readonly number[]): Tensor => tensor([...values], { shape });
const near = (a: ArrayLike<number>, b: ArrayLike<number>, tolerance = 1e-5): void => {
  expect(a.length).toBe(b.length);
  for (let i = 0; i < a.length; i++) if (!(Math.abs(a[i] - b[i]) <= tolerance)) expect.fail(`element ${i}: ${a[i]} and ${b[i]}`);
};

describe("modules", () => {
  it("Linear and Conv1D are made of parameters, not of sizes, and name the weight that an input does not fit", () => {
    for (const Layer of [Linear, Conv1D]) {
      expect(() => Reflect.construct(Layer, [2, 3])).toThrow(/weight is 2, no tensor: a layer is made of its parameters/);
      expect(() => Reflect.construct(Layer, [store(tensor([[1, 2]])), true])).toThrow(/bias is of type boolean, no tensor/);
    }
    const x = tensor([[1, 2, 3]]).named("x");
    expect(() => new Linear(store(tensor([[1, 2]]), "fc.weight")).forward(x)).toThrow("Linear: x has 3 features, the weight wants 2\n  x       [1, 3]  x\n  weight  [1, 2]  fc.weight");
    expect(() => new Conv1D(store(tensor([[1, 2]]))).forward(x)).toThrow("Conv1D: x has 3 features, the weight wants 1");
  });
  const x = tensor([[1, 2], [3, -1]]), w = store(tensor([[1, 0.5], [2, -1], [0, 3]])), b = store(tensor([1, 0, -1]));
  it("Linear is x Wᵀ + b over the last axis of any rank, for every dtype of the weight", async () => {
    expect(await new Linear(w, b).forward(x).array()).toEqual([[3, 0, 5], [3.5, 7, -4]]);
    for (const dtype of ["f16", "bf16"] as const) {
      const half = new Linear(store(await hostAs(w, dtype)), store(await hostAs(b, dtype))), y = half.forward(x.unsqueeze(0));
      expect([y.dtype, y.shape]).toEqual(["f32", [1, 2, 3]]);
      expect(await y.array()).toEqual([[[3, 0, 5], [3.5, 7, -4]]]);
    }
    expect(() => new Linear(b)).toThrow("[out, in]");
    expect(() => new Linear(w, store(tensor([1, 2])))).toThrow("does not fit");
  });
  it("hands x and y to the adapter of the context and to no other", async () => {
    const layer = new Linear(w), table = new Embedding(w), seen: unknown[] = [];
    const context: Context = { adapter: { output: (m, x, y, c) => { seen.push(m, x, c); return m === layer ? y.add(1) : y.neg(); } } };
    const ids = tensor(Int32Array.of(2, 0));
    expect(await layer.forward(x, context).array()).toEqual([[3, 1, 7], [3.5, 8, -2]]);
    expect(await table.forward(ids, context).array()).toEqual([[-0, -3], [-1, -0.5]]);
    expect(seen).toEqual([layer, x, context, table, ids, context]);
    expect(await layer.forward(x, { adapter: null }).array()).toEqual([[2, 0, 6], [2.5, 7, -3]]);
  });
  it("norms normalise the last axis", () => fc.assert(fc.asyncProperty(grid(12), grid(4), async (values, weight) => {
    const rows = of(values, [3, 4]), g = store(of(weight, [4])), rms = await new RMSNorm(g, 1e-6).forward(rows).data(), layer = await new LayerNorm(g, g).forward(rows).data();
    near(rms, values.map((v, i) => (v / Math.sqrt(mean(row(values, i).map((u) => u * u)) + 1e-6)) * weight[i % 4]));
    near(layer, values.map((v, i) => { const m = mean(row(values, i)); return ((v - m) / Math.sqrt(mean(row(values, i).map((u) => (u - m) ** 2)) + 1e-5)) * weight[i % 4] + weight[i % 4]; }), 1e-4);
  }), { numRuns: 20 }));
  it("Dropout draws by stream, step and element, only in training", async () => {
    const d = new Dropout(0.25, "here"), ones = tensor(new Float32Array(4000).fill(1)), key = { seed: 3, stream: "dropout" };
    expect(d.forward(ones)).toBe(ones);
    expect(() => d.forward(ones, { train: true })).toThrow("key");
    expect(() => new Dropout(1, "x")).toThrow("[0, 1)");
    const a = await d.forward(ones, { train: true, key }).data(), again = await d.forward(ones, { train: true, key }).data(), other = await new Dropout(0.25, "there").forward(ones, { train: true, key }).data();
    expect(again).toEqual(a);
    expect(other).not.toEqual(a);
    near([...new Set(a)].sort(), [0, 4 / 3]);
    expect(Math.abs(mean([...a]) - 1)).toBeLessThan(0.04);
  });
});

describe("rope", () => {
  it("keeps norms, and products depend on distances alone", () => fc.assert(fc.asyncProperty(grid(6), grid(6), fc.nat(200), fc.nat(40), fc.nat(40), async (q, k, shift, i, j) => {
    const { cos, sin } = ropeTables(300, ropeFrequencies(6));
    const at = async (x: number[], p: number): Promise<number[]> => [...(await rope(of(x, [1, 1, 1, 6]), cos.slice(0, p, p + 1).unsqueeze(0), sin.slice(0, p, p + 1).unsqueeze(0)).data())];
    const dot = (a: number[], b: number[]): number => a.reduce((n, x, t) => n + x * b[t], 0);
    near([dot(await at(q, i), await at(k, j)), Math.hypot(...(await at(q, i)))], [dot(await at(q, i + shift), await at(k, j + shift)), Math.hypot(...q)], 2e-4);
  }), { numRuns: 10 }));
  it("turns element j with element j + d/2 by position · theta^(-2j/d)", async () => {
    const { cos, sin } = ropeTables(3, ropeFrequencies(4, 100)), [c, s] = [Math.cos, Math.sin];
    near(await rope(of([1, 2, 3, 4], [1, 1, 1, 4]), cos.slice(0, 2).unsqueeze(0), sin.slice(0, 2).unsqueeze(0)).data(), [c(2) - 3 * s(2), 2 * c(0.2) - 4 * s(0.2), 3 * c(2) + s(2), 4 * c(0.2) + 2 * s(0.2)], 1e-6);
    expect(() => ropeFrequencies(5)).toThrow("even");
  });
});

describe("attention", () => {
  const sizes = fc.record({ B: fc.constantFrom(1, 2), KV: fc.constantFrom(1, 2), G: fc.constantFrom(1, 2, 3), T: fc.constantFrom(1, 2, 3, 5), d: fc.constantFrom(2, 3) });
  const inputs = sizes.chain((s) => fc.tuple(fc.constant(s), grid(s.B * s.KV * s.G * s.T * s.d), grid(s.B * s.KV * s.T * s.d), grid(s.B * s.KV * s.T * s.d)));
  it("is the formula, one query at a time", () => fc.assert(fc.asyncProperty(inputs, async ([{ B, KV, G, T, d }, q, k, v]) => {
    const got = await attention(of(q, [B, KV, G, T, d]), of(k, [B, KV, T, d]), of(v, [B, KV, T, d]), { mask: causalMask(T) }).data(), want: number[] = [];
    for (let h = 0; h < B * KV; h++) for (let g = 0; g < G; g++) for (let t = 0; t < T; t++) {
      const w = Array.from({ length: t + 1 }, (_, s) => Math.exp(range(d).reduce((n, i) => n + q[((h * G + g) * T + t) * d + i] * k[(h * T + s) * d + i], 0) / Math.sqrt(d))), z = w.reduce((a, b) => a + b, 0);
      for (let i = 0; i < d; i++) want.push(w.reduce((n, p, s) => n + (p / z) * v[(h * T + s) * d + i], 0));
    }
    near(got, want, 1e-5);
  }), { numRuns: 25 }));
  it("in segments is attention of each segment alone", () => fc.assert(fc.asyncProperty(grid(20), grid(20), grid(20), fc.integer({ min: 1, max: 4 }), async (q, k, v, cut) => {
    const all = (x: number[]): Tensor => of(x, [1, 2, 5, 2]), query = (x: Tensor): Tensor => x.unsqueeze(2), segments = tensor(Int32Array.from(range(5), (i) => (i < cut ? 7 : 3)), { shape: [1, 5] });
    const packed = await attention(query(all(q)), all(k), all(v), { mask: segmentMask(segments) }).data();
    for (const [from, to] of [[0, cut], [cut, 5]]) {
      const part = (x: number[]): Tensor => all(x).slice(2, from, to), alone = await attention(query(part(q)), part(k), part(v)).data();
      near(range(2).flatMap((h) => [...packed.slice((h * 5 + from) * 2, (h * 5 + to) * 2)]), alone);
    }
  }), { numRuns: 10 }));
  it("sees no padding; a query that sees nothing gets the mean", async () => {
    const q = of([1, 2], [1, 1, 1, 1, 2]), k = of([1, 0, 0, 1, 5, 5], [1, 1, 3, 2]), v = of([1, 2, 3, 4, 100, 200], [1, 1, 3, 2]), real = (m: number[]): Tensor => tensor(Int32Array.from(m), { shape: [1, 3] });
    near(await attention(q, k, v, { mask: paddingMask(real([1, 1, 0])) }).data(), await attention(q, k.slice(2, 0, 2), v.slice(2, 0, 2)).data());
    near(await attention(q, k, v, { mask: paddingMask(real([0, 0, 0])) }).data(), [104 / 3, 206 / 3]);
    expect(() => attention(q, k, v, { mask: causalMask(3) })).toThrow("does not fit");
    expect(() => attention(q, k.slice(3, 0, 1), v)).toThrow("shapes do not fit");
  });
});

describe("losses", () => {
  interface Case { readonly case: number; readonly label_smoothing: number; readonly labels: number[][]; readonly num_items: number | null; readonly predicted: number; readonly loss: number }
  const { cases } = golden<{ cases: Case[] }>("clm-loss"), tensors = goldenTensors("clm-loss");
  for (const c of cases) it(`case ${c.case} is transformers' loss`, async () => {
    const logits = fromHost(tensors.get(`${c.case}/logits`)!), labels = tensor(Int32Array.from(c.labels.flat()), { shape: [c.labels.length, c.labels[0].length] });
    const { total, count } = nextTokenLossSum(logits, labels, { labelSmoothing: c.label_smoothing });
    expect(await count.item()).toBe(c.predicted);
    expect((await total.item()) / (c.num_items ?? c.predicted) / c.loss).toBeCloseTo(1, 6);
  });
});

describe("initialisers", () => {
  it("are functions of seed and name", async () => {
    const a = await normal(1, 0.02)("w", [50, 40]).data();
    expect(await normal(1, 0.02)("w", [50, 40]).data()).toEqual(a);
    expect(await normal(2, 0.02)("w", [50, 40]).data()).not.toEqual(a);
    expect(await normal(1, 0.02)("v", [50, 40]).data()).not.toEqual(a);
    expect(Math.abs(Math.sqrt(mean([...a].map((x) => x * x))) / 0.02 - 1)).toBeLessThan(0.1);
    for (const [f, bound] of [[kaimingUniform(1, Math.sqrt(5)), Math.sqrt(1 / 40)], [xavierUniform(1), Math.sqrt(6 / 90)]] as const) {
      const top = Math.max(...(await f("w", [50, 40]).data()).map(Math.abs));
      expect(top).toBeLessThanOrEqual(bound);
      expect(top).toBeGreaterThan(0.95 * bound);
    }
  });
});

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const mean = (xs: readonly number[]): number => xs.reduce((a, b) => a + b, 0) / xs.length;
const row = (xs: readonly number[], i: number): number[] => xs.slice(4 * Math.floor(i / 4), 4 * Math.floor(i / 4) + 4);
const hostAs = (x: Tensor, dtype: "f16" | "bf16"): Promise<Awaited<ReturnType<Tensor["host"]>>> => x.cast(dtype).host();
