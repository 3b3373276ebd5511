/** Sums of products: one contract kernel adds up several matmuls, exactly those that nobody wants alone, and no number changes. */
import fc from "fast-check";
import { type Backend, type PlanSpec, type Tensor, amax, createReference, fromHost, hostArray, relu, tanh, tensor } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { describe, expect, test } from "vitest";
import { evaluate, record } from "../src/index.ts";

const plain = createReference();
const adding = (products: number): Backend => createReference({ name: `fused reference, sums of ${products}`, fuse: true, arena: true, products });
const sumsIn = (plan: PlanSpec): number[] => plan.kernels.flatMap((k) => (k.kind === "contract" ? [1 + (k.more?.length ?? 0)] : [])).sort();
const runs = Number(process.env["ADJOINT_RUNS"] ?? 16) * 10;

/** One product of a sum: how its operands lie in memory, and who else looks at it. */
interface Term { readonly k: number; readonly flipA: boolean; readonly flipB: boolean; readonly wideA: boolean; readonly wideB: boolean; readonly use: "once" | "answer" | "twice" | "scaled"; readonly seed: number }
interface Sum { readonly batch: readonly number[]; readonly m: number; readonly n: number; readonly terms: readonly Term[]; readonly limit: number; readonly order: number; readonly bias: number | null; readonly end: "sum" | "relu" | "tanh" | "norm"; readonly partial: boolean }

const size = fc.constantFrom(1, 2, 3, 5);
const term: fc.Arbitrary<Term> = fc.record({
  k: fc.constantFrom(1, 2, 3, 7), flipA: fc.boolean(), flipB: fc.boolean(), wideA: fc.boolean(), wideB: fc.boolean(), seed: fc.nat(1000),
  use: fc.oneof({ weight: 5, arbitrary: fc.constant("once" as const) }, fc.constantFrom("answer" as const, "twice" as const, "scaled" as const)),
});
const sums: fc.Arbitrary<Sum> = fc.record({
  batch: fc.constantFrom([], [2], [3], [1], [2, 3]), m: size, n: size, terms: fc.array(term, { minLength: 2, maxLength: 4 }), limit: fc.constantFrom(2, 3, 8),
  order: fc.nat(100), bias: fc.option(fc.nat(3)), end: fc.constantFrom("sum", "relu", "tanh", "norm"), partial: fc.boolean(),
});

/** f64 on the grid k/16: all sums of these products are exact, so any order gives the same bits. */
function grid(shape: readonly number[], seed: number): Tensor {
  const data = hostArray("f64", shape.reduce((a, b) => a * b, 1));
  for (let i = 0; i < data.length; i++) data[i] = ((((i + 1) * 2654435761 + seed * 40503) >>> 7) % 65 - 32) / 16;
  return fromHost({ dtype: "f64", shape, data });
}
/** A matrix product of [batch..., m, n] with operands stored as the term says; without a batch of its own an operand is broadcast. */
function product({ batch, m, n }: Sum, { k, flipA, flipB, wideA, wideB, seed }: Term): Tensor {
  const stored = (wide: boolean, flip: boolean, rows: number, columns: number, s: number): Tensor => {
    const x = grid([...(wide ? batch : []), ...(flip ? [columns, rows] : [rows, columns])], s);
    return flip ? x.transpose() : x;
  };
  const a = stored(wideA, flipA, m, k, seed), b = stored(wideB, flipB, k, n, seed + 1);
  return wideA || wideB || batch.length === 0 ? a.matmul(b) : a.matmul(b).expand([...batch, m, n]);
}
/** Shape of the matmul that `product` records, or null where it is not one of the sum's own shape. */
const shapeOf = ({ batch, m, n }: Sum, { wideA, wideB }: Term): string | null =>
  batch.length === 0 ? `${m},${n}` : wideB ? [...batch, m, n].join() : wideA ? [batch.reduce((a, b) => a * b, m), n].join() : null;

interface Built { readonly asked: Tensor[]; readonly kernels: number }
function build(s: Sum): Built {
  const products = s.terms.map((t) => product(s, t)), shape = [...s.batch, s.m, s.n], asked: Tensor[] = [];
  const addends = products.map((p, i) => (s.terms[i].use === "scaled" ? p.mul(0.5) : p));
  if (s.bias !== null) addends.splice(s.bias % addends.length, 0, grid([s.n], 77).expand(shape));
  products.forEach((p, i) => {
    if (s.terms[i].use === "answer") asked.push(p);
    if (s.terms[i].use === "twice") asked.push(p.mul(p));
  });
  // any order and any bracketing
  const rest = [...addends];
  let seed = s.order;
  while (rest.length > 1) {
    const [x] = rest.splice(seed % rest.length, 1), [y] = rest.splice((seed >> 2) % rest.length, 1);
    rest.push(x.add(y));
    seed = (seed * 7 + 3) % 101;
  }
  const y = rest[0], end = s.end === "relu" ? relu(y) : s.end === "tanh" ? tanh(y) : s.end === "norm" ? y.sub(amax(y, -1)) : y;
  if (s.partial && end !== y) asked.push(y);
  // who may share an accumulator: products of one shape that are only added up
  const classes = new Map<string, number>();
  let alone = 0;
  s.terms.forEach((t) => {
    const key = t.use === "once" ? shapeOf(s, t) : null;
    if (key === null) alone++; else classes.set(key, (classes.get(key) ?? 0) + 1);
  });
  return { asked: [...new Set([...asked, end])], kernels: alone + [...classes.values()].reduce((n, c) => n + Math.ceil(c / s.limit), 0) };
}

describe("sums of products", () => {
  test("equal separate products, and share accumulators exactly where nobody wants a product alone", async () => {
    await fc.assert(fc.asyncProperty(sums, async (s) => {
      const { asked, kernels } = build(s), device = adding(s.limit);
      expect(await evaluate(asked, device)).toEqual(await evaluate(asked, plain));
      const found = sumsIn(record(asked, device).plan);
      expect(found.length).toBe(kernels);
      expect(found.every((n) => n <= s.limit)).toBe(true);
      expect(sumsIn(record(asked, adding(1)).plan)).toEqual(s.terms.map(() => 1));
    }), { numRuns: runs, seed: 1 });
  });

  test("have the gradients of separate products", async () => {
    await fc.assert(fc.asyncProperty(sums, async (s) => {
      const leaves: Tensor[] = [], seen = new Set<Tensor>();
      const { asked } = build(s), walk = (t: Tensor): void => { if (seen.has(t)) return; seen.add(t); if (t.value && t.rank > 0) leaves.push(t); t.inputs.forEach(walk); };
      asked.forEach(walk);
      const loss = asked.map((y) => y.mul(grid(y.shape, 5)).sum()).reduce((a, b) => a.add(b)), all = [loss, ...gradients(loss, leaves).filter((g) => g !== null)];
      const [got, want] = [await evaluate(all, adding(s.limit)), await evaluate(all, plain)];
      got.forEach((g, i) => { g.forEach((v, j) => { expect(Math.abs(v - want[i][j])).toBeLessThanOrEqual(1e-12 * (1 + Math.abs(want[i][j]))); }); });
    }), { numRuns: Math.ceil(runs / 3), seed: 2 });
  });

  test("an operand that the sum itself feeds is no product of it", async () => {
    const [x, w, v] = [grid([3, 4], 1), grid([4, 4], 2), grid([4, 4], 3)], h = x.matmul(w), y = h.add(h.matmul(v));
    expect(sumsIn(record([y], adding(8)).plan)).toEqual([1, 1]);
    expect(await evaluate([y], adding(8))).toEqual(await evaluate([y], plain));
  });

  test("twice the same product is not a sum of two", async () => {
    const p = grid([3, 4], 1).matmul(grid([4, 5], 2)), y = p.add(p);
    expect(sumsIn(record([y], adding(8)).plan)).toEqual([1]);
    expect(await evaluate([y], adding(8))).toEqual(await evaluate([y], plain));
  });
});

test("a linear layer with LoRA: two contract kernels forward and four backward", async () => {
  const f32 = (...shape: number[]): Tensor => tensor(Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => ((i * 7) % 17 - 8) / 16), { shape });
  for (const lead of [[6], [2, 3]]) {
    const [x, W, A, B, g] = [f32(...lead, 8), f32(5, 8), f32(2, 8), f32(5, 2), f32(...lead, 5)];
    const y = x.matmul(W.T).add(x.matmul(A.T).mul(0.5).matmul(B.T));
    expect(sumsIn(record([y], adding(2)).plan)).toEqual([1, 2]);
    expect(sumsIn(record([y], adding(1)).plan)).toEqual([1, 1, 1]);
    const d = gradients(y.mul(g).sum(), { x, A, B }), all = [d.x, d.A, d.B].filter((t) => t !== null);
    expect(sumsIn(record(all, adding(2)).plan)).toEqual([1, 1, 1, 1, 2]);          // x Aᵀ again, g B, dA, dB; g W + (g B) A
    expect(sumsIn(record([y, ...all], adding(2)).plan)).toEqual([1, 1, 1, 1, 2, 2]);
    expect(sumsIn(record([y, ...all], adding(1)).plan)).toEqual(Array.from({ length: 8 }, () => 1));
    const [got, want] = [await evaluate([y, ...all], adding(2)), await evaluate([y, ...all], plain)];
    got.forEach((v, i) => { v.forEach((e, j) => { expect(Math.abs(e - want[i][j])).toBeLessThanOrEqual(1e-6 * (1 + Math.abs(want[i][j]))); }); });
  }
});
