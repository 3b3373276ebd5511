/** Random graphs: a short byte code whose every word list is a valid program, so that counterexamples shrink well. */
import fc from "fast-check";
import { type Tensor, amax, concat, gather, iota, matmul, permute, relu, reshape, scatterAdd, sizeOf, slice, softmax, stopGradient, sum, mean, where } from "@adjoint/tensor";
import { type Draw, draws, showDraw } from "./arbitraries.ts";

/** One instruction: an op and up to three operands, taken modulo what there is. */
export interface Word { readonly op: number; readonly a: number; readonly b: number; readonly c: number }
/** Leaves, instructions, and which values are asked for beside the last. */
export interface Program { readonly leaves: readonly Draw[]; readonly words: readonly Word[]; readonly roots: readonly number[] }

type Step = (pick: (n: number) => Tensor, w: Word) => Tensor;
const axisOf = (x: Tensor, n: number): number => n % x.rank;
/** The same values as [rows, last axis]. */
const matrix = (x: Tensor): Tensor => reshape(x, [-1, x.shape[x.rank - 1]]);
const rotate = (x: Tensor, n: number): Tensor => permute(x, x.shape.map((_, i) => (i + 1 + (n % Math.max(1, x.rank - 1))) % x.rank));
/** b made to broadcast with a: itself if it does, else its sum. */
const fit = (a: Tensor, b: Tensor): Tensor => {
  const rank = Math.max(a.rank, b.rank), at = (x: Tensor, i: number): number => x.shape[i - rank + x.rank] ?? 1;
  return Array.from({ length: rank }, (_, i) => i).every((i) => at(a, i) === at(b, i) || at(a, i) === 1 || at(b, i) === 1) ? b : mean(b);
};
const small = (x: Tensor): boolean => x.size <= 600;

/** What instructions do; values stay of rank 1 to 4 and at most a few hundred elements. */
export const steps: Readonly<Record<string, Step>> = {
  add: (p, w) => p(w.a).add(fit(p(w.a), p(w.b))),
  mul: (p, w) => p(w.a).mul(fit(p(w.a), p(w.b))),
  sub: (p, w) => fit(p(w.a), p(w.b)).sub(p(w.a)),
  maximum: (p, w) => p(w.a).maximum(fit(p(w.a), p(w.b))),
  tanh: (p, w) => p(w.a).tanh(),
  exp: (p, w) => p(w.a).minimum(1).exp(),
  square: (p, w) => p(w.a).tanh().square(),
  relu: (p, w) => relu(p(w.a)),
  scale: (p, w) => p(w.a).mul((w.b % 9) / 4 - 1),
  half: (p, w) => p(w.a).cast(w.b % 2 ? "f16" : "bf16").cast(p(w.a).dtype),
  where: (p, w) => where(p(w.a).gt((w.c % 5) / 2 - 1), fit(p(w.a), p(w.b)), p(w.a)),
  sum: (p, w) => sum(p(w.a), axisOf(p(w.a), w.b)),
  sums: (p, w) => sum(p(w.a), p(w.a).shape.map((_, i) => i).filter((i) => (w.b >> i) & 1)),
  amax: (p, w) => amax(p(w.a), axisOf(p(w.a), w.b)),
  softmax: (p, w) => softmax(p(w.a), axisOf(p(w.a), w.b)),
  normalise: (p, w) => p(w.a).mul(mean(p(w.a).square(), axisOf(p(w.a), w.b)).add(0.25).rsqrt()),
  rotate: (p, w) => rotate(p(w.a), w.b),
  transpose: (p, w) => (p(w.a).rank > 1 ? p(w.a).transpose() : p(w.a).neg()),
  flatten: (p, w) => matrix(p(w.a)),
  merge: (p, w) => { const x = p(w.a); return x.rank > 1 ? reshape(x, [x.shape[0] * x.shape[1], ...x.shape.slice(2)]) : reshape(x, [1, ...x.shape]); },
  slice: (p, w) => { const x = p(w.a), axis = axisOf(x, w.b), start = w.c % x.shape[axis]; return slice(x, axis, start); },
  double: (p, w) => { const x = p(w.a); return concat([x, x.mul(2)], axisOf(x, w.b)); },
  join: (p, w) => { const x = p(w.a), y = p(w.b); return x.shape.length === y.shape.length && x.shape.slice(1).every((d, i) => d === y.shape[i + 1]) ? concat([x, y], 0) : concat([x, x], 0); },
  gram: (p, w) => { const x = matrix(p(w.a)); return matmul(x, x.T); },
  product: (p, w) => { const x = matrix(p(w.a)), y = matrix(p(w.b)); return x.shape[1] === y.shape[0] ? matmul(x, y) : x.shape[0] === y.shape[0] ? matmul(x.T, y) : matmul(x.T, x); },
  rows: (p, w) => { const x = matrix(p(w.a)), n = x.shape[0]; return gather(x, iota([Math.min(4, n + 1)], 0).mul(w.b % 3).minimum(n - 1)); },
  add_rows: (p, w) => { const x = matrix(p(w.a)), n = x.shape[0]; return scatterAdd(x, iota([n], 0).mul(w.b % 3).minimum(2), 3); },
  position: (p, w) => { const x = p(w.a); return x.add(iota(x.shape, axisOf(x, w.b)).cast(x.dtype).mul(0.125)); },
  stop: (p, w) => p(w.a).mul(stopGradient(fit(p(w.a), p(w.b)))),
};
const names = Object.keys(steps);
/** The name of an instruction. */
export const wordName = (w: Word): string => names[w.op % names.length];

/** Runs a program on tensors for its leaves; instructions whose result would be large or of rank 0 or above 4 are skipped. */
export function interpret(program: Program, leaves: readonly Tensor[]): { values: Tensor[]; trace: string[] } {
  const values = [...leaves], trace: string[] = [];
  const pick = (n: number): Tensor => values[n % values.length];
  for (const w of program.words) {
    const name = names[w.op % names.length];
    if (name === "sums" && pick(w.a).shape.every((_, i) => ((w.b >> i) & 1) === 0)) continue;
    const y = steps[name](pick, w);
    if (y.rank === 0 || y.rank > 4 || !small(y) || sizeOf(y.shape) < 1) continue;
    values.push(y);
    trace.push(`v${values.length - 1} = ${name}(v${w.a % (values.length - 1)}, ${w.b}, ${w.c}) [${y.shape.join()}]`);
  }
  return { values, trace };
}
/** The values that a program asks for: the last, and what `roots` name. */
export const rootsOf = (program: Program, values: readonly Tensor[]): Tensor[] => [...new Set([values[values.length - 1], ...program.roots.map((r) => values[r % values.length])])];

const word: fc.Arbitrary<Word> = fc.record({ op: fc.nat(names.length - 1), a: fc.nat(7), b: fc.nat(7), c: fc.nat(7) });
/** Shapes with equal axes half of the time: a transposed read of equal axes looks like a plain one. */
const shape = fc.oneof(
  fc.constantFrom([3, 3], [2, 2], [2, 3], [3, 1], [1, 3], [4, 4], [2, 2, 2], [3, 2, 3], [2, 1, 2], [3], [5], [1]),
  fc.array(fc.constantFrom(1, 2, 3), { minLength: 1, maxLength: 3 }),
  fc.constantFrom([5, 8], [8, 8], [16, 3], [4, 17], [9, 9], [65], [2, 33], [4, 5, 4], [8, 1, 9]),   // whole vectors, and tails
);

/** Programs of up to `length` instructions over one to three leaves. */
export function programs(length = 10): fc.Arbitrary<Program> {
  return fc.array(shape, { minLength: 1, maxLength: 3 })
    .chain((shapes) => fc.record({ leaves: fc.tuple(...shapes.map((s) => draws(s))), words: fc.array(word, { minLength: 1, maxLength: length }), roots: fc.array(fc.nat(20), { maxLength: 2 }) }))
    .map((p) => Object.defineProperty(p, fc.toStringMethod, { value: () => showProgram(p), enumerable: false }));
}
/** The program as lines of a small language. */
export function showProgram(p: Program): string {
  return [...p.leaves.map((l, i) => `v${i} = ${showDraw(l)}`), ...p.words.map((w) => `${names[w.op % names.length]}(${w.a}, ${w.b}, ${w.c})`), `roots ${p.roots.join()}`].join("\n");
}
