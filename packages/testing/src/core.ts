/** Subjects for the ops of @adjoint/tensor that are not pointwise: views, reductions, products, rows by id. */
import fc from "fast-check";
import {
  type DType, type Tensor,
  add, abs, amax, amin, bitAnd, bitOr, bitXor, cast, concat, cos, crossEntropy, div, dropout, eq, erf, exp, expand, floor, gather, ge, gelu, geluTanh, gt, iota, layerNorm, le,
  linearIndex, log, logSoftmax, logSumExp, lt, matmul, maximum, mean, minimum, mul, ne, neg, not, pad, permute, pow, relu, reshape, rmsNorm, rsqrt, scatterAdd, sigmoid, silu, sin,
  slice, softmax, softplus, sqrt, squeeze, stack, stopGradient, stored, sub, sum, tanh, total, transpose, unsqueeze, update, scalar, variance, where,
} from "@adjoint/tensor";
import { checkpoint, customGradient } from "@adjoint/autograd";
import { attentionSubjects } from "./attention.ts";
import { axisSizes, draws, ids, narrowed, orders, shapes } from "./arbitraries.ts";
import { type Sample, type Subject, type Testable, sample } from "./subjects.ts";

const positive = { low: 0.25, high: 3 };
const someShape = shapes({ minRank: 1, maxRank: 4, limit: 200 });
const axesOf = (rank: number): fc.Arbitrary<number[]> => fc.subarray(Array.from({ length: rank }, (_, i) => i), { minLength: 1 });

const subject = (name: string, samples: fc.Arbitrary<Sample>, smooth = true): Subject => ({ name, samples, smooth });
/** f(x) on any shape of rank 1 or more. */
const of = (name: string, f: (x: Tensor) => Tensor, smooth = true): Subject => subject(name, someShape.chain((s) => draws(s)).map((x) => sample(name, [x], ([t]) => f(t))), smooth);
/** f(x, axis). */
const along = (name: string, f: (x: Tensor, axis: number) => Tensor, smooth = true): Subject =>
  subject(name, someShape.chain((s) => fc.tuple(draws(s), fc.nat(s.length - 1))).map(([x, axis]) => sample(name, [x], ([t]) => f(t, axis), `axis ${axis}`)), smooth);
/** f(x, axes or all). */
const over = (name: string, f: (x: Tensor, axes?: number[]) => Tensor, smooth = true): Subject =>
  subject(name, someShape.chain((s) => fc.tuple(draws(s), fc.option(axesOf(s.length), { nil: undefined }))).map(([x, axes]) => sample(name, [x], ([t]) => f(t, axes), axes ? `axes [${axes.join()}]` : "all")), smooth);

const conversions: readonly [DType, DType][] = [["f32", "f16"], ["f32", "bf16"], ["f16", "f32"], ["bf16", "f32"], ["f32", "i32"], ["i32", "f32"], ["f32", "u8"], ["f32", "i8"], ["f32", "bool"], ["bool", "f32"], ["i32", "u32"], ["u32", "f32"], ["i32", "u8"], ["i32", "i8"], ["u8", "f32"], ["i8", "i32"], ["bool", "i32"], ["i32", "bool"]];

const sizes = fc.tuple(axisSizes, axisSizes, axisSizes);
const matrices = fc.tuple(shapes({ maxRank: 2, limit: 6 }), sizes).chain(([lead, [m, k, n]]) =>
  fc.tuple(narrowed(lead), narrowed(lead)).chain(([la, lb]) => fc.tuple(draws([...la, m, k]), draws([...lb, k, n]))));

/** Every op of the tensor package. */
export const tensorSubjects: readonly Testable[] = [
  add, sub, mul, div, pow, maximum, minimum, neg, abs, exp, log, sqrt, rsqrt, tanh, sin, cos, erf, floor,
  lt, le, gt, ge, eq, ne, bitAnd, bitOr, bitXor,
  subject("not", someShape.chain((s) => draws(s, { low: 0, high: 1, integer: true, dtype: "bool" })).map((x) => sample("not", [x], ([t]) => not(t))), false),
  ...(["add", "sub", "mul", "maximum", "minimum"] as const).map((name) => subject(`${name} of i32`,
    someShape.chain((s) => fc.tuple(...[0, 1].map(() => draws(s, { low: -2147483648, high: 2147483647, integer: true, dtype: "i32" }))))
      .map((xs) => sample(name, xs, ([a, b]) => ({ add, sub, mul, maximum, minimum })[name](a, b))), false)),
  subject("where", someShape.chain((s) => fc.tuple(narrowed(s), narrowed(s), narrowed(s))).chain(([c, a, b]) => fc.tuple(draws(c, { low: 0, high: 1, integer: true, dtype: "bool" }), draws(a), draws(b)))
    .map((xs) => sample("where", xs, ([c, a, b]) => where(c, a, b)))),
  subject("cast", fc.tuple(someShape, fc.constantFrom(...conversions)).chain(([s, [from, to]]) => {
    const whole = from !== "f32" && from !== "f16" && from !== "bf16", low = from === "u8" || from === "u32" ? 0 : from === "i8" ? -128 : -300, high = from === "i8" ? 127 : from === "u8" ? 255 : 300;
    return draws(s, from === "bool" ? { low: 0, high: 1, integer: true, dtype: from } : { low, high, integer: whole, dtype: from }).map((x) => sample(`cast to ${to}`, [x], ([t]) => cast(t, to)));
  }), false),
  subject("cast there and back", fc.tuple(someShape, fc.constantFrom("f16" as const, "bf16" as const)).chain(([s, dtype]) => draws(s).map((x) => sample(`cast to ${dtype} and back`, [x], ([t]) => cast(cast(t, dtype), t.dtype)))), false),
  ...(["f16", "bf16"] as const).map((dtype) => subject(`${dtype} by a number`, someShape.chain((s) => draws(s, { low: -3, high: 3, dtype })).map((x) => sample(dtype, [x], ([t]) => t.mul(0.3).add(1))), false)),
  // views
  subject("expand", someShape.chain((s) => fc.tuple(narrowed(s).chain((n) => draws(n)), fc.constant(s))).map(([x, s]) => sample("expand", [x], ([t]) => expand(t, s), `to [${s.join()}]`))),
  subject("reshape", fc.tuple(axisSizes, axisSizes, axisSizes).chain(([a, b, c]) => fc.tuple(fc.constantFrom([a, b, c], [a * b, c], [c, a * b], [a * b * c]), fc.constantFrom([a, b * c], [a * b, c], [c * b, a], [b, 1, c, a], [-1])))
    .chain(([from, to]) => draws(from).map((x) => sample("reshape", [x], ([t]) => reshape(t, to), `to [${to.join()}]`)))),
  subject("permute", someShape.chain((s) => fc.tuple(draws(s), orders(s.length))).map(([x, p]) => sample("permute", [x], ([t]) => permute(t, p), `[${p.join()}]`))),
  subject("transpose", shapes({ minRank: 2, limit: 200 }).chain((s) => draws(s)).map((x) => sample("transpose", [x], ([t]) => transpose(t)))),
  subject("slice", someShape.chain((s) => fc.tuple(fc.constant(s), fc.nat(s.length - 1))).chain(([s, axis]) => fc.tuple(draws(s), fc.constant(axis), fc.nat(s[axis] - 1)).chain(([x, a, start]) => fc.tuple(fc.constant(x), fc.constant(a), fc.constant(start), fc.integer({ min: start + 1, max: s[axis] }))))
    .map(([x, axis, start, end]) => sample("slice", [x], ([t]) => slice(t, axis, start, end), `axis ${axis} from ${start} to ${end}`))),
  subject("pad", someShape.chain((s) => fc.tuple(draws(s), fc.nat(s.length - 1), fc.nat(2), fc.nat(2))).map(([x, axis, a, b]) => sample("pad", [x], ([t]) => pad(t, axis, a, b), `axis ${axis} by ${a}, ${b}`))),
  along("unsqueeze then squeeze", (x, axis) => squeeze(unsqueeze(x, axis), axis)),
  of("stored", (x) => stored(stored(x.mul(x)).add(x)).mul(stored(x))),
  of("stopGradient", (x) => stopGradient(x).mul(x), false),
  // reductions and what is made of them
  over("sum", sum), over("amax", amax), over("amin", amin), over("mean", mean), over("variance", variance),
  subject("total", someShape.chain((s) => draws(s)).map((x) => sample("total", [x], ([t]) => total(t)))),
  subject("sum of i32", someShape.chain((s) => fc.tuple(draws(s, { low: -9, high: 9, integer: true, dtype: "i32" }), axesOf(s.length))).map(([x, axes]) => sample("sum", [x], ([t]) => sum(t, axes), `axes [${axes.join()}]`)), false),
  along("softmax", softmax), along("logSoftmax", logSoftmax), along("logSumExp", logSumExp),
  of("sigmoid", sigmoid), of("silu", silu), of("gelu", gelu), of("geluTanh", geluTanh), of("softplus", softplus), of("relu", relu),
  subject("rmsNorm", someShape.chain((s) => fc.tuple(draws(s), draws(s.slice(-1), positive))).map((xs) => sample("rmsNorm", xs, ([x, w]) => rmsNorm(x, w, 0.1)))),
  subject("layerNorm", someShape.chain((s) => fc.tuple(draws(s), draws(s.slice(-1), positive), draws(s.slice(-1)))).map((xs) => sample("layerNorm", xs, ([x, w, b]) => layerNorm(x, w, b, 0.1)))),
  subject("crossEntropy", someShape.chain((s) => fc.tuple(draws([...s.slice(0, 3), 5]), draws(s.slice(0, 3), { low: -2, high: 4, integer: true, dtype: "i32" }))).map((xs) => sample("crossEntropy", xs, ([x, labels]) => crossEntropy(x, labels)))),
  ...attentionSubjects,
  // products
  subject("matmul", matrices.map((xs) => sample("matmul", xs, ([a, b]) => matmul(a, b)))),
  subject("matmul a bᵀ", sizes.chain(([m, k, n]) => fc.tuple(draws([m, k]), draws([n, k]))).map((xs) => sample("matmul a bᵀ", xs, ([a, b]) => matmul(a, b.T)))),
  subject("matmul aᵀ b", sizes.chain(([m, k, n]) => fc.tuple(draws([k, m]), draws([k, n]))).map((xs) => sample("matmul aᵀ b", xs, ([a, b]) => matmul(a.T, b)))),
  subject("matmul of f16", sizes.chain(([m, k, n]) => fc.tuple(draws([m, k]), draws([n, k], { low: -3, high: 3, dtype: "f16" }))).map((xs) => sample("matmul of f16", xs, ([a, b]) => matmul(a.cast("f32"), b.T))), false),
  subject("matmul of bf16", sizes.chain(([m, k, n]) => fc.tuple(draws([m, k]), draws([k, n], { low: -3, high: 3, dtype: "bf16" }))).map((xs) => sample("matmul of bf16", xs, ([a, b]) => matmul(a.cast("f32"), b))), false),
  subject("linear", sizes.chain(([m, k, n]) => fc.tuple(draws([2, m, k]), draws([n, k]), draws([n]))).map((xs) => sample("linear", xs, ([x, w, b]) => matmul(x, w.T).add(b)))),
  // joining, rows by id, writes
  subject("concat", someShape.chain((s) => fc.tuple(fc.constant(s), fc.nat(s.length - 1), fc.array(axisSizes, { minLength: 1, maxLength: 3 })))
    .chain(([s, axis, parts]) => fc.tuple(...parts.map((d) => draws(s.map((x, i) => (i === axis ? d : Math.min(x, 3)))))).map((xs) => sample("concat", xs, (ts) => concat(ts, axis), `axis ${axis}`)))),
  subject("stack", someShape.chain((s) => fc.tuple(fc.tuple(draws(s), draws(s)), fc.nat(s.length))).map(([xs, axis]) => sample("stack", xs, (ts) => stack(ts, axis), `axis ${axis}`))),
  subject("gather", fc.tuple(axisSizes, axisSizes, shapes({ maxRank: 3, limit: 40 })).chain(([rows, width, s]) => fc.tuple(draws([rows, width]), ids(s, rows))).map((xs) => sample("gather", xs, ([table, i]) => gather(table, i)))),
  subject("scatterAdd", fc.tuple(axisSizes, axisSizes, shapes({ maxRank: 2, limit: 40 })).chain(([rows, width, s]) => fc.tuple(draws([...s, width]), ids(s, rows), fc.constant(rows)))
    .map(([x, i, rows]) => sample("scatterAdd", [x, i], ([source, at]) => scatterAdd(source, at, rows), `${rows} rows`))),
  subject("update", someShape.chain((s) => fc.tuple(fc.constant(s), fc.nat(s.length - 1))).chain(([s, axis]) => fc.tuple(fc.constant(s), fc.constant(axis), fc.integer({ min: 1, max: s[axis] })))
    .chain(([s, axis, n]) => fc.tuple(draws(s), draws(s.map((d, i) => (i === axis ? n : d))), fc.nat(s[axis] - n), fc.constant(axis)))
    .map(([x, v, at, axis]) => sample("update", [x, v], ([t, value]) => update(t, value, scalar(at, "i32"), axis), `axis ${axis} at ${at}`)), false),
  subject("dropout", fc.tuple(someShape.chain((s) => draws(s)), fc.nat(9)).map(([x, seed]) => sample("dropout", [x], ([t]) => dropout(t, 0.25, { seed, stream: "test" }), `seed ${seed}`))),
  of("checkpoint", (x) => checkpoint((t) => tanh(t).mul(t).exp())(x)),
  of("checkpoint of reductions", (x) => checkpoint((t) => t.mul(softmax(t)))(x).mul(x)),
  of("customGradient", (x) => customGradient((t) => tanh(t), (g, y) => [g.mul(y.like(1).sub(y.mul(y)))])(x)),
  subject("iota", someShape.chain((s) => fc.tuple(draws(s), fc.nat(s.length - 1))).map(([x, axis]) => sample("iota", [x], ([t]) => iota(t.shape, axis, t.dtype).mul(t), `axis ${axis}`))),
  of("linearIndex", (x) => linearIndex(x.shape).cast(x.dtype).add(x)),
];
