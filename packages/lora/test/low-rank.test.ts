import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { gather, hostArray, planOf, scalar, type Shape, type Store, store, tensor, type Tensor } from "@adjoint/tensor";
import type { Site } from "../src/adapter.ts";
import { loraConfig } from "../src/config/config.ts";
import { lowRank } from "../src/methods/low-rank.ts";

const site = (inFeatures: number, outFeatures: number, r: number, scale: number, kind: Site["kind"] = "linear"): Site => ({
  path: "m", kind, r, alpha: scale * r, scale, parameters: r * (inFeatures + outFeatures), matchedBy: "m", inFeatures, outFeatures,
});

const size = fc.constantFrom(1, 2, 3, 5, 7);
const scales = fc.constantFrom(0.25, 1, 2, -1.5);
const grid = (n: number): fc.Arbitrary<number[]> => fc.array(fc.integer({ min: -32, max: 32 }).map((k) => k / 16), { minLength: n, maxLength: n });
const matrix = (values: readonly number[], shape: Shape): Store => {
  const data = hostArray("f64", values.length);
  values.forEach((v, i) => { data[i] = v; });
  return store({ dtype: "f64", shape, data });
};

/** A random layer in f64 on the reference backend, where sums of these products are exact. */
const layer = fc.record({ n: size, i: size, o: size, r: size, s: scales }).chain(({ n, i, o, r, s }) =>
  fc.record({ x: grid(n * i), w: grid(o * i), a: grid(r * i), b: grid(o * r), g: grid(n * o) }).map((v) => ({
    site: site(i, o, r, s),
    x: matrix(v.x, [n, i]), W: matrix(v.w, [o, i]), A: matrix(v.a, [r, i]), B: matrix(v.b, [o, r]), g: matrix(v.g, [n, o]),
  })),
);
type Layer = typeof layer extends fc.Arbitrary<infer T> ? T : never;
const run = ({ site: at, x, W, A, B }: Layer): Tensor => lowRank.forward({ A, B }, at, { x, y: x.matmul(W.T), module: {}, frozen: { weight: W }, key: null, dropout: 0 });

const numbers = async (t: Tensor | null): Promise<number[]> => (t === null ? [] : [...(await t.data())]);
async function close(actual: Tensor | null, expected: Tensor | readonly number[]): Promise<void> {
  const [a, e] = [await numbers(actual), Array.isArray(expected) ? [...expected] : await numbers(expected as Tensor)];
  expect(a.length).toBe(e.length);
  a.forEach((v, i) => { expect(Math.abs(v - e[i])).toBeLessThanOrEqual(1e-12 * (1 + Math.abs(e[i]))); });
}

describe("LoRA", () => {
  it("has the closed-form gradients dA = Tᵀ x, dB = s gᵀ H, dx = g W + T A, and none for W", async () => {
    await fc.assert(
      fc.asyncProperty(layer, async (l) => {
        const { x, W, A, B, g } = l, s = l.site.scale;
        const d = gradients(run(l).mul(g).sum(), { x, A, B });
        const H = x.matmul(A.T), T = g.matmul(B).mul(s);
        await close(d.B, g.T.matmul(H).mul(s));
        await close(d.A, T.T.matmul(x));
        await close(d.x, g.matmul(W).add(T.matmul(A)));
      }),
      { numRuns: 60 },
    );
  });

  it("equals its numeric anchor", async () => {
    const m = (rows: number[][]): Store => matrix(rows.flat(), [rows.length, rows[0].length]);
    const [W, A, B] = [m([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]), m([[0.1, 0.2, 0.3], [-0.1, 0, 0.2]]), m([[0.5, -0.5], [1, 0.25]])];
    const [x, g] = [m([[1, 2, 3], [0, -1, 1]]), m([[1, 0], [0.5, -1]])];
    const y = run({ site: site(3, 2, 2, 2), x, W, A, B, g });
    const d = gradients(y.mul(g).sum(), { x, A, B });
    await close(d.B, [2.9, 1.2, -0.2, -0.4]);
    await close(d.A, [1, 3.5, 1.5, -1, -1, -4]);
    await close(d.x, [0.3, 0.4, 0.4, -0.4, -0.7, -1.1]);
    await close(y, [2.3, 6.25, 0, 0.4]);
    await close(W.add(lowRank.delta({ A, B }, site(3, 2, 2, 2))), [0.3, 0.4, 0.4, 0.55, 0.9, 1.3]);
  });

  it("equals the layer with the merged weight, also for weights stored (in, out)", async () => {
    await fc.assert(
      fc.asyncProperty(layer, async (l) => {
        const { x, W, A, B } = l;
        const y = run(l);
        await close(x.matmul(W.add(lowRank.delta({ A, B }, l.site)).T), y);
        await close(x.matmul(W.T.add(lowRank.delta({ A, B }, { ...l.site, kind: "conv1d" }))), y);
      }),
      { numRuns: 40 },
    );
  });

  it("adapts an embedding by rows, forward and backward", async () => {
    const table = fc.record({ v: size, d: size, r: size, s: scales }).chain(({ v, d, r, s }) =>
      fc.record({ e: grid(v * d), a: grid(r * v), b: grid(d * r), ids: fc.array(fc.nat(v - 1), { minLength: 4, maxLength: 4 }), g: grid(4 * d) }).map((z) => ({ v, d, r, s, ...z })),
    );
    await fc.assert(
      fc.asyncProperty(table, async ({ v, d, r, s, e, a, b, ids, g }) => {
        const at = site(v, d, r, s, "embedding");
        const [W, A, B, G] = [matrix(e, [v, d]), matrix(a, [r, v]), matrix(b, [d, r]), matrix(g, [4, d])];
        const x = tensor(Int32Array.from(ids));
        const y = lowRank.forward({ A, B }, at, { x, y: gather(W, x), module: {}, frozen: { weight: W }, key: null, dropout: 0 });
        const D = gradients(y.mul(G).sum(), { A, B });
        const oneHot = matrix(ids.flatMap((i) => Array.from({ length: v }, (_, j) => (i === j ? 1 : 0))), [4, v]);
        const H = oneHot.matmul(A.T);
        await close(D.B, G.T.matmul(H).mul(s));
        await close(D.A, G.matmul(B).mul(s).T.matmul(oneHot));
        await close(y, oneHot.matmul(W.add(lowRank.delta({ A, B }, at))));
      }),
      { numRuns: 30 },
    );
  });

  it("starts as the identity, with a gradient for B and none for A; rsLoRA's does not depend on the rank", async () => {
    for (const [scaling, slope] of [["lora", -0.5], ["rslora", 0]] as const) {
      const norms: number[] = [];
      for (const r of [4, 16, 64]) {
        const scale = scaling === "lora" ? 16 / r : 16 / Math.sqrt(r);
        const at = site(96, 64, r, scale);
        const { A, B } = lowRank.init(at, loraConfig({ r }), 7);
        expect(A.shape).toEqual([r, 96]);
        expect(Math.max(...A.data.map(Math.abs))).toBeLessThanOrEqual(1 / Math.sqrt(96));
        const p = { A: store(A), B: store(B) };
        const x = tensor(Float32Array.from({ length: 32 * 96 }, (_, i) => (((i * 37) % 65) - 32) / 32), { shape: [32, 96] });
        const y0 = x.mul(0).matmul(p.A.T).matmul(p.B.T);
        const y = lowRank.forward(p, at, { x, y: y0, module: {}, frozen: { weight: y0 }, key: null, dropout: 0 });
        const d = gradients(y.sum(), p);
        expect((await numbers(d.A)).every((v) => v === 0)).toBe(true);
        norms.push(Math.hypot(...(await numbers(d.B))));
        expect((await numbers(y)).every((v) => v === 0)).toBe(true);
      }
      const measured = Math.log(norms[2] / norms[0]) / Math.log(16);
      expect(Math.abs(measured - slope)).toBeLessThan(0.12);
    }
  });

  it("draws what PEFT draws: bounds and deviations of every rule", () => {
    const at = site(64, 48, 8, 1), table = site(64, 48, 8, 1, "embedding");
    const stats = (data: ArrayLike<number>): { max: number; std: number } => ({ max: Math.max(...Array.from(data, Math.abs)), std: Math.sqrt(Array.from(data).reduce((s, v) => s + v * v, 0) / data.length) });
    const of = (s: Site, rule: boolean | "gaussian", role: "A" | "B"): { max: number; std: number } => stats(lowRank.init(s, loraConfig({ r: 8, initLoraWeights: rule }), 3)[role].data);
    const near = (value: number, wanted: number): void => { expect(Math.abs(value / wanted - 1)).toBeLessThan(0.12); };
    near(of(at, true, "A").max, 1 / 8);
    near(of(at, true, "A").std, 1 / 8 / Math.sqrt(3));
    near(of(at, "gaussian", "A").std, 1 / 8);
    near(of(at, false, "B").max, 1 / Math.sqrt(8));
    near(of(table, true, "B").std, 1);
    near(of(table, false, "A").std, 1);
    for (const zero of [of(at, true, "B"), of(at, "gaussian", "B"), of(table, true, "A"), of(table, "gaussian", "A")]) expect(zero.max).toBe(0);
    expect(lowRank.init(at, loraConfig({ r: 8 }), 3)).toEqual(lowRank.init(at, loraConfig({ r: 8 }), 3));
    expect(lowRank.init(at, loraConfig({ r: 8 }), 4)).not.toEqual(lowRank.init(at, loraConfig({ r: 8 }), 3));
  });

  it("drops elements of the adapter's input only, and scales the rest by 1 / (1 - p)", async () => {
    const n = 64, at = site(n, n, n, 1);
    const eye = matrix(Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0)), [n, n]);
    const x = matrix(Array.from({ length: n * n }, () => 1), [n, n]);
    const out = (step: number): Promise<number[]> =>
      numbers(lowRank.forward({ A: eye, B: eye }, at, { x, y: x, module: {}, frozen: { weight: eye }, key: { seed: 1, stream: "d", step: scalar(step, "u32") }, dropout: 0.25 }));
    const first = await out(0);
    const kept = first.filter((v) => Math.abs(v - (1 + 4 / 3)) < 1e-9).length;
    expect(kept + first.filter((v) => v === 1).length).toBe(n * n);
    expect(Math.abs(kept / (n * n) - 0.75)).toBeLessThan(0.03);
    expect(await out(0)).toEqual(first);
    expect(await out(1)).not.toEqual(first);
  });
});

describe("the plan of the adapter's gradient", () => {
  it("never computes dW: no value of W's size is written, and the products are those of the closed form", () => {
    const [n, i, o, r] = [29, 53, 41, 3];
    const at = site(i, o, r, 2);
    const f32 = (shape: Shape): Store => store({ dtype: "f32", shape, data: Float32Array.from({ length: shape[0] * shape[1] }, (_, k) => (k % 7) / 16) });
    const [W, A, B, x, g] = [f32([o, i]), f32([r, i]), f32([o, r]), f32([n, i]), f32([n, o])];
    const y = lowRank.forward({ A, B }, at, { x, y: x.matmul(W.T), module: {}, frozen: { weight: W }, key: null, dropout: 0 });
    const d = gradients(y.mul(g).sum(), { x, A, B });
    const { spec } = planOf([y, d.x, d.A, d.B].filter((t) => t !== null));
    const products = spec.kernels.flatMap((k) => (k.kind === "contract" ? [2 * k.shape.reduce((a, b) => a * b, 1) * k.k] : []));
    // forward W, A, B; backward T, dB, dA, g W, T A
    const formula = 2 * n * i * o + 2 * n * r * (i + o) + 2 * n * r * (o + o + i) + 2 * n * i * o + 2 * n * r * i;
    expect(Math.abs(products.reduce((a, b) => a + b, 0) / formula - 1)).toBeLessThan(0.01);
    for (const b of spec.buffers) if (b.kind === "slot" || b.kind === "output") expect(b.length).not.toBe(i * o);
  });
});
