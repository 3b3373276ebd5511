/** DoRA: the numeric anchor, gradients in closed form, and what must not change. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { Conv1D, Embedding, Linear } from "@adjoint/nn";
import { quantize, quantizedWeight } from "@adjoint/quant";
import { type Backend, clearPlans, gather, getDevice, hostArray, hostNormal, planOf, scalar, setDevice, type Shape, type Store, store, tensor, type Tensor } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";
import { type Application, type Factors, loadLora, lora, loraConfig, methodOf, type Site, type Tuned } from "../src/index.ts";
import { ids, Toy } from "./toy.ts";

const numRuns = Number(process.env["ADJOINT_RUNS"] ?? 12);
const dora = methodOf(loraConfig({ useDora: true }), "linear");
const site = (inFeatures: number, outFeatures: number, r: number, scale: number, kind: Site["kind"] = "linear"): Site => ({ path: "m", kind, r, alpha: scale * r, scale, parameters: 0, matchedBy: "m", inFeatures, outFeatures });
const matrix = (values: readonly number[], shape: Shape): Store => {
  const data = hostArray("f64", values.length);
  values.forEach((v, i) => { data[i] = v; });
  return store({ dtype: "f64", shape, data });
};
const numbers = async (t: Tensor | null): Promise<number[]> => (t === null ? [] : [...(await t.data())]);
async function close(actual: Tensor | null, expected: Tensor | readonly number[], tolerance = 1e-9): Promise<void> {
  const a = await numbers(actual), e = "shape" in expected ? await numbers(expected) : [...expected];
  expect(a.length).toBe(e.length);
  a.forEach((v, i) => { expect(Math.abs(v - e[i])).toBeLessThanOrEqual(tolerance * (1 + Math.abs(e[i]))); });
}

/** A layer of some kind: W is [out, in] in the formulas and lies as the kind has it. */
interface Layer { readonly at: Site; readonly x: Store; readonly W: Store; readonly A: Store; readonly B: Store; readonly m: Store; readonly g: Store; readonly bias: Store }
const lying = ({ at, W }: Layer): Tensor => (at.kind === "linear" ? W : W.T);
const factorsOf = (l: Layer): Factors => {
  const p = { A: l.A, B: l.B, magnitude: l.m };
  return { ...p, ...dora.constants?.(l.at, { weight: lying(l) }) };
};
const useOf = (l: Layer): Application => ({ x: l.x, y: l.x.matmul(l.W.T).add(l.bias), module: {}, frozen: { weight: lying(l), bias: l.bias }, key: null, dropout: 0 });
const run = (l: Layer): Tensor => dora.forward(factorsOf(l), l.at, useOf(l));
const rowsOf = ({ at, W, A, B }: Layer): Tensor => W.add(B.matmul(A).mul(at.scale));
const lengths = (V: Tensor): Tensor => V.square().sum(1).sqrt().reshape([V.shape[0]]);

const size = fc.constantFrom(1, 2, 3, 5), grid = (n: number, from = -32): fc.Arbitrary<number[]> => fc.array(fc.integer({ min: from, max: 32 }).map((k) => k / 16), { minLength: n, maxLength: n });
const layer = fc.record({ n: size, i: size, o: size, r: size, s: fc.constantFrom(0.25, 1, 2, -1.5), kind: fc.constantFrom<Site["kind"]>("linear", "conv1d") }).chain(({ n, i, o, r, s, kind }) =>
  fc.record({ x: grid(n * i), w: grid(o * i), a: grid(r * i), b: grid(o * r), g: grid(n * o), m: grid(o, 1), c: grid(o) }).map((v): Layer => ({
    at: site(i, o, r, s, kind), x: matrix(v.x, [n, i]), W: matrix(v.w, [o, i]), A: matrix(v.a, [r, i]), B: matrix(v.b, [o, r]), g: matrix(v.g, [n, o]), m: matrix(v.m, [o]), bias: matrix(v.c, [o]),
  })));
/** Rows of V that are (nearly) zero have no direction. */
const directed = async (l: Layer): Promise<boolean> => (await numbers(lengths(rowsOf(l)))).every((n) => n > 0.05);

describe("DoRA on a layer", () => {
  it("equals its numeric anchor", async () => {
    const of = (rows: number[][]): Store => matrix(rows.flat(), [rows.length, rows[0].length]);
    const l: Layer = {
      at: site(3, 2, 2, 2), W: of([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]), A: of([[0.1, 0.2, 0.3], [-0.1, 0, 0.2]]), B: of([[0.5, -0.5], [1, 0.25]]), x: of([[1, 2, 3], [0, -1, 1]]), g: of([[1, 0], [0.5, -1]]),
      m: matrix([Math.hypot(0.1, 0.2, 0.3), Math.hypot(0.4, 0.5, 0.6) * 1.1], [2]), bias: matrix([0, 0], [2]),
    };
    const y = run(l), d = gradients(y.mul(l.g).sum(), { A: l.A, B: l.B, m: l.m });
    await close(lengths(rowsOf(l)), [0.6403124237, 1.6740669043], 1e-9);
    await close(d.m, [3.5919965234, -0.2389390764]);
    await close(d.A, [0.5843487098, 2.0296981023, 0.8920454467, -0.5843487098, -0.5882293053, -2.3335142437]);
    await close(d.B, [1.6946112584, 0.7012184517, -0.1153175038, -0.2306350075]);
    await close(y, [1.3440020325, 3.6036719924, 0, 0.2306350075]);
  });

  it("has the closed-form gradients with n held: dm = Σ g ∘ V x / n, dB = s g'ᵀ H, dA = s (g' B)ᵀ x, dx = g' W + s g' B A", async () => {
    await fc.assert(fc.asyncProperty(layer, async (l) => {
      fc.pre(await directed(l));
      const { x, W, A, B, m, g, at: { scale: s } } = l, V = rowsOf(l), n = lengths(V), G = g.mul(m.div(n));
      const y = run(l), d = gradients(y.mul(g).sum(), { x, A, B, m });
      await close(d.m, g.mul(x.matmul(V.T)).sum(0).reshape([m.size]).div(n));
      await close(d.B, G.T.matmul(x.matmul(A.T)).mul(s));
      await close(d.A, G.matmul(B).T.matmul(x).mul(s));
      await close(d.x, G.matmul(W).add(G.matmul(B).matmul(A).mul(s)));
      await close(y, x.matmul(V.T).mul(m.div(n)).add(l.bias));
    }), { numRuns });
  });

  it("equals the layer with the merged weight, whose rows have the lengths m: the output for the identity has them too", async () => {
    await fc.assert(fc.asyncProperty(layer, async (l) => {
      fc.pre(await directed(l));
      const { weight } = dora.merged(factorsOf(l), l.at, { weight: lying(l) }), rows = l.at.kind === "linear" ? weight : weight.T;
      await close(l.x.matmul(rows.T).add(l.bias), run(l));
      await close(lengths(rows), l.m);
      const k = l.at.inFeatures, eye = matrix(Array.from({ length: k * k }, (_, i) => (i % (k + 1) === 0 ? 1 : 0)), [k, k]);
      await close(lengths(run({ ...l, x: eye, bias: matrix(Array.from({ length: l.m.size }, () => 0), [l.m.size]) }).T), l.m);
    }), { numRuns });
  });

  it("does not change when A is multiplied by c and B divided by it", async () => {
    await fc.assert(fc.asyncProperty(layer, fc.constantFrom(0.25, 2, -4), async (l, c) => {
      fc.pre(await directed(l));
      const times = async (t: Store, by: number): Promise<Store> => matrix((await numbers(t)).map((v) => v * by), t.shape);
      await close(run({ ...l, A: await times(l.A, c), B: await times(l.B, 1 / c) }), run(l), 1e-12);
    }), { numRuns });
  });
});
