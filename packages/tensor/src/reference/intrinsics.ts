/** What each intrinsic means: one loop over a block of points, in f64; integers and bools travel as exact f64 numbers. */
import { DTypeError } from "../errors.ts";
import { roundTo } from "../dtype.ts";
import type { ExprType, Intrinsic } from "../expr.ts";
import { erf, floatToI32, floatToU32 } from "./math.ts";

/** Values of one formula node at the points of a block. */
export type Lane = Float64Array;
/** out[i] = f(a[i], b[i], c[i]) for i < n; unused operands are ignored. */
export type Loop = (out: Lane, n: number, a: Lane, b: Lane, c: Lane) => void;

const one = (f: (x: number) => number): Loop => (o, n, a) => { for (let i = 0; i < n; i++) o[i] = f(a[i]); };
const two = (f: (x: number, y: number) => number): Loop => (o, n, a, b) => { for (let i = 0; i < n; i++) o[i] = f(a[i], b[i]); };
const copy: Loop = (o, n, a) => { for (let i = 0; i < n; i++) o[i] = a[i]; };

type Table = Partial<Record<Intrinsic, Loop>>;

/** min, max and comparisons, for every type. */
const ordered: Table = {
  min: (o, n, a, b) => { for (let i = 0; i < n; i++) o[i] = Math.min(a[i], b[i]); },
  max: (o, n, a, b) => { for (let i = 0; i < n; i++) o[i] = Math.max(a[i], b[i]); },
  lt: (o, n, a, b) => { for (let i = 0; i < n; i++) o[i] = a[i] < b[i] ? 1 : 0; },
  le: (o, n, a, b) => { for (let i = 0; i < n; i++) o[i] = a[i] <= b[i] ? 1 : 0; },
  gt: (o, n, a, b) => { for (let i = 0; i < n; i++) o[i] = a[i] > b[i] ? 1 : 0; },
  ge: (o, n, a, b) => { for (let i = 0; i < n; i++) o[i] = a[i] >= b[i] ? 1 : 0; },
  eq: (o, n, a, b) => { for (let i = 0; i < n; i++) o[i] = a[i] === b[i] ? 1 : 0; },
  ne: (o, n, a, b) => { for (let i = 0; i < n; i++) o[i] = a[i] !== b[i] ? 1 : 0; },
  select: (o, n, c, a, b) => { for (let i = 0; i < n; i++) o[i] = c[i] !== 0 ? a[i] : b[i]; },
  toB: (o, n, a) => { for (let i = 0; i < n; i++) o[i] = a[i] !== 0 ? 1 : 0; },
  toF: copy,
};

const float: Table = {
  ...ordered,
  add: (o, n, a, b) => { for (let i = 0; i < n; i++) o[i] = a[i] + b[i]; },
  sub: (o, n, a, b) => { for (let i = 0; i < n; i++) o[i] = a[i] - b[i]; },
  mul: (o, n, a, b) => { for (let i = 0; i < n; i++) o[i] = a[i] * b[i]; },
  div: (o, n, a, b) => { for (let i = 0; i < n; i++) o[i] = a[i] / b[i]; },
  neg: (o, n, a) => { for (let i = 0; i < n; i++) o[i] = -a[i]; },
  abs: one(Math.abs), sqrt: one(Math.sqrt), rsqrt: one((x) => 1 / Math.sqrt(x)),
  exp: one(Math.exp), log: one(Math.log), tanh: one(Math.tanh), sin: one(Math.sin), cos: one(Math.cos),
  erf: one(erf), floor: one(Math.floor), pow: two(Math.pow),
  toI: one(floatToI32), toU: one(floatToU32),
  roundF16: one((x) => roundTo("f16", x)), roundBf16: one((x) => roundTo("bf16", x)),
};

/** Division truncates towards zero; by zero it gives 0, as no device may trap. */
const quotient = (x: number, y: number): number => (y === 0 ? 0 : Math.trunc(x / y));

const i32: Table = {
  ...ordered,
  add: two((x, y) => (x + y) | 0), sub: two((x, y) => (x - y) | 0), mul: two(Math.imul), div: two((x, y) => quotient(x, y) | 0),
  neg: one((x) => -x | 0), abs: one((x) => Math.abs(x) | 0),
  and: two((x, y) => x & y), or: two((x, y) => x | y), xor: two((x, y) => x ^ y), not: one((x) => ~x),
  shl: two((x, y) => x << y), shr: two((x, y) => x >> y),
  toI: copy, toU: one((x) => x >>> 0),
};

const u32: Table = {
  ...ordered,
  add: two((x, y) => (x + y) >>> 0), sub: two((x, y) => (x - y) >>> 0), mul: two((x, y) => Math.imul(x, y) >>> 0), div: two((x, y) => quotient(x, y) >>> 0),
  neg: one((x) => -x >>> 0), abs: copy,
  and: two((x, y) => (x & y) >>> 0), or: two((x, y) => (x | y) >>> 0), xor: two((x, y) => (x ^ y) >>> 0), not: one((x) => ~x >>> 0),
  shl: two((x, y) => (x << y) >>> 0), shr: two((x, y) => x >>> y),
  toI: one((x) => x | 0), toU: copy,
};

const bool: Table = {
  ...ordered,
  and: two((x, y) => x & y), or: two((x, y) => x | y), xor: two((x, y) => x ^ y), not: one((x) => 1 - x),
  toI: copy, toU: copy,
};

const tables: Record<ExprType, Table> = { float, i32, u32, bool };

/** The loop of `fn` on operands of `type` (for select: the type of the branches). @throws DTypeError if no such operation exists */
export function loopOf(fn: Intrinsic, type: ExprType): Loop {
  const loop = tables[type][fn];
  if (loop === undefined) throw new DTypeError(`${fn} is not defined for ${type} formulas`, { op: fn, value: type });
  return loop;
}
