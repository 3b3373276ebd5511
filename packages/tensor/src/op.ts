/** How ops are declared: `pointwise` turns a scalar formula into a broadcasting tensor function. */
import type { DType } from "./dtype.ts";
import { DTypeError } from "./errors.ts";
import type { Expr } from "./expr.ts";
import { broadcastShapes, sameShape, show } from "./shape.ts";
import { type Domain, type NodeLike, type Op, type Tensor, current, record, scalar, scalarOp } from "./tensor.ts";

/** A tensor, or a number that adopts the other operand's dtype and enters as data. */
export type Operand = Tensor | number;
export type Unary = ((x: Tensor) => Tensor) & { readonly op: Op };
export type Binary = ((a: Operand, b: Operand) => Tensor) & { readonly op: Op };

/** Domains that tests draw from. */
export const reals: Domain = { low: -3, high: 3 };
export const positive: Domain = { low: 0.25, high: 4 };
export const nonzero: Domain = { low: -3, high: 3, avoid: [0] };
export const integers: Domain = { low: -8, high: 8, integer: true, dtype: "i32" };

export interface PointwiseSpec {
  readonly forward: (...args: Expr[]) => Expr;
  readonly vjp?: (g: Tensor, y: Tensor) => readonly (Tensor | null)[];
  readonly domain?: readonly Domain[];
  readonly laws?: Op["laws"];
  readonly doc?: string;
  /** dtype of the result; the inputs' own by default */
  readonly result?: DType;
  /** dtypes that make sense; all by default */
  readonly accepts?: (dtype: DType) => boolean;
}

const entry = (name: string, spec: PointwiseSpec): Op =>
  Object.freeze({ name, kind: "map", ...spec, forward: (args: readonly Expr[]) => spec.forward(...args) } satisfies Op);

/** Declares a unary pointwise op. */
export function unary(name: string, spec: PointwiseSpec): Unary {
  const op = entry(name, spec);
  return Object.assign((x: Tensor) => {
    accept(op, spec, x);
    return record(op, [x], null, x.shape, spec.result ?? x.dtype);
  }, { op });
}
/** Declares a binary pointwise op with NumPy broadcasting. */
export function binary(name: string, spec: PointwiseSpec): Binary {
  const op = entry(name, spec);
  return Object.assign((a: Operand, b: Operand) => {
    const [x, y] = unify(name, a, b);
    accept(op, spec, x);
    const inputs = broadcast(name, [x, y]);
    return record(op, inputs, null, commonShape(inputs), spec.result ?? x.dtype);
  }, { op });
}
function accept(op: Op, spec: PointwiseSpec, x: Tensor): void {
  if (spec.accepts && !spec.accepts(x.dtype)) throw new DTypeError(`${op.name}: a ${x.dtype} tensor makes no sense here`, { op: op.name, value: x.dtype, fix: 'cast it first: x.cast("f32")' });
}

/** Numbers adopt the tensor's dtype; two tensors must agree. */
export function unify(name: string, a: Operand, b: Operand): [Tensor, Tensor] {
  if (typeof a === "number") return typeof b === "number" ? [scalar(a), scalar(b)] : [scalar(a, b.dtype), b];
  if (typeof b === "number") return [a, scalar(b, a.dtype)];
  if (a.dtype !== b.dtype) throw new DTypeError(`${name}: dtypes differ\n  a  ${a.dtype} ${show(a.shape)} ${a.name}\n  b  ${b.dtype} ${show(b.shape)} ${b.name}`, { op: name, value: [a.dtype, b.dtype], fix: `cast one of them: b.cast("${a.dtype}")` });
  return [a, b];
}
/** Expands all tensors to the common shape; plain numbers stay numbers. */
export function broadcast(name: string, xs: readonly Tensor[]): Tensor[] {
  const wide = xs.filter((x) => x.op !== scalarOp);
  if (wide.length === 0) return [...xs];
  const shape = broadcastShapes(name, wide.map((x) => x.shape), wide.map((x) => x.name || undefined));
  return xs.map((x) => (x.op === scalarOp || sameShape(x.shape, shape) ? x : x.expand(shape)));
}
export const commonShape = (xs: readonly Tensor[]): readonly number[] => (xs.find((x) => x.op !== scalarOp) ?? xs[0]).shape;

/** Declares an op whose meaning is a composition; a backend may override it by a kernel of the same name. */
export function composite<A>(name: string, spec: { define: (inputs: readonly Tensor[], attrs: A) => Tensor; vjp?: Op["vjp"]; doc?: string }): { readonly op: Op; (inputs: readonly Tensor[], attrs: A): Tensor } {
  const op: Op = { name, kind: "composite", define: (inputs, attrs) => spec.define(inputs, attrs as A), vjp: spec.vjp, doc: spec.doc };
  return Object.assign((inputs: readonly Tensor[], attrs: A): Tensor => {
    const now = inputs.map(current), meaning = spec.define(now, attrs);     // eager shapes come from the meaning itself
    const t = record(op, now, attrs, meaning.shape, meaning.dtype);
    meanings.set(t, meaning);
    return t;
  }, { op });
}
/** The definition that was recorded beside a composite. */
export const meanings: WeakMap<Tensor, Tensor> = new WeakMap();
export type { NodeLike };
