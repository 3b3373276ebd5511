/**
 * How far a backend may be from exact arithmetic: one line an intrinsic, and how errors of operands pass through.
 *
 * |y - ref| is at most what operands bring in (first order) plus the intrinsic's own ulps; a sum of k terms adds
 * 4 k u Σ|terms|. Nothing else is tolerated, so an ulp too many in one kernel shows.
 */
import type { Intrinsic } from "@adjoint/tensor";

/** Ulps of each intrinsic's own error; 0 = correctly rounded. */
export type Ulps = Readonly<Record<Intrinsic, number>>;

const exact: Ulps = {
  add: 0, sub: 0, mul: 0, div: 0, neg: 0, abs: 0, min: 0, max: 0, sqrt: 0, floor: 0, select: 0,
  rsqrt: 1, exp: 1, log: 1, tanh: 1, sin: 1, cos: 1, erf: 1, pow: 1,
  lt: 0, le: 0, gt: 0, ge: 0, eq: 0, ne: 0, and: 0, or: 0, xor: 0, not: 0, shl: 0, shr: 0,
  toF: 0, toI: 0, toU: 0, toB: 0, roundF16: 0, roundBf16: 0,
};

/** The columns of the table: a backend's name, or `default`. */
export const bounds: Readonly<Record<string, Ulps>> = {
  reference: exact,
  // registers are f64 inside a fused kernel, so intermediate results are not rounded as the oracle's are
  "fused reference": { ...exact, add: 0.5, sub: 0.5, mul: 0.5, div: 0.5, sqrt: 0.5 },
  // design section 8: at most 4 ulp
  wasm: { ...exact, rsqrt: 2, exp: 4, log: 4, tanh: 4, sin: 4, cos: 4, erf: 4, pow: 1 },
  // division and square root are those of the WGSL specification (2.5 ulp; 1 / inverseSqrt, 2 ulp and a division); the
  // rest are the backend's own functions, of at most 3 ulp where arithmetic is fused or not
  webgpu: { ...exact, div: 2.5, sqrt: 4.5, rsqrt: 2, exp: 3, log: 3, tanh: 4, sin: 3, cos: 3, erf: 4, pow: 4 },
  default: { ...exact, rsqrt: 2, exp: 4, log: 4, tanh: 4, sin: 4, cos: 4, erf: 4, pow: 4 },
};
export const ulpsOf = (backend: string): Ulps => bounds[backend] ?? bounds["default"];

/** A point of an operand: its value and how far a backend's value may lie from it. */
export interface Point { readonly x: number; readonly e: number }
type Pass = (y: number, a: Point, b: Point, c: Point) => number;

const safe = (a: Point): number => Math.max(Math.abs(a.x) - a.e, 0);
const sumOf: Pass = (_, a, b) => a.e + b.e;
const first: Pass = (_, a) => a.e;
const larger: Pass = (_, a, b) => Math.max(a.e, b.e);
/** A comparison that operands' errors may flip is worth nothing. */
const compare: Pass = (_, a, b) => (a.e + b.e > 0 && Math.abs(a.x - b.x) <= a.e + b.e ? Infinity : 0);
const bits: Pass = (_, a, b) => (a.e + b.e > 0 ? Infinity : 0);
/** Infinity times 0 is 0 here: no error means no error. */
const times = (e: number, slope: number): number => (e === 0 ? 0 : e * slope);

/** How operands' errors arrive in the result. */
export const passes: Readonly<Record<Intrinsic, Pass>> = {
  add: sumOf, sub: sumOf, neg: first, abs: first, min: larger, max: larger,
  mul: (_, a, b) => times(b.e, Math.abs(a.x) + a.e) + times(a.e, Math.abs(b.x)),
  div: (y, a, b) => times(a.e, 1 / safe(b)) + times(b.e, Math.abs(y) / safe(b)),
  sqrt: (_, a) => times(a.e, 1 / Math.sqrt(safe(a))),
  rsqrt: (y, a) => times(a.e, Math.abs(y) / safe(a)),
  exp: (y, a) => times(y, Math.expm1(a.e)),
  log: (_, a) => times(a.e, 1 / safe(a)),
  tanh: (y, a) => a.e * Math.min(1, 1 - y * y + 2 * a.e),
  sin: first, cos: first,
  erf: (_, a) => a.e * 2 / Math.sqrt(Math.PI),
  floor: (_, a) => (a.e > 0 && Math.floor(a.x - a.e) !== Math.floor(a.x + a.e) ? Infinity : 0),
  pow: (y, a, b) => times(a.e, Math.abs(y * b.x) / safe(a)) + times(b.e, Math.abs(y * Math.log(Math.abs(a.x)))),
  lt: compare, le: compare, gt: compare, ge: compare, eq: compare, ne: compare,
  and: bits, or: bits, xor: bits, not: bits, shl: bits, shr: bits,
  select: (_, c, a, b) => (c.e > 0 ? Infinity : c.x !== 0 ? a.e : b.e),
  toF: first,
  toI: (_, a) => (a.e > 0 && Math.trunc(a.x - a.e) !== Math.trunc(a.x + a.e) ? Infinity : 0),
  toU: (_, a) => (a.e > 0 && Math.trunc(a.x - a.e) !== Math.trunc(a.x + a.e) ? Infinity : 0),
  toB: (_, a) => (a.e > 0 && Math.abs(a.x) <= a.e ? Infinity : 0),
  roundF16: (y, a) => (a.e > 0 ? a.e + Math.abs(y) * 2 ** -10 + 2 ** -24 : 0),
  roundBf16: (y, a) => (a.e > 0 ? a.e + Math.abs(y) * 2 ** -7 : 0),
};
