/** Views: ops that move no numbers; each is an index map that kernels read through. */
import { ShapeError } from "../errors.ts";
import { axisOf, checkShape, listed, resolveReshape, sameShape, type Shape, show } from "../shape.ts";
import { type Op, type Tensor, record } from "../tensor.ts";
import { concat } from "./concat.ts";

export interface PermuteAttrs { readonly axes: readonly number[] }
export interface SliceAttrs { readonly start: readonly number[] }

/** Repeats axes of size 1 (NumPy broadcasting); its gradient sums. */
export const expandOp: Op = { name: "expand", kind: "view", vjp: (g, { inputs: [x] }) => [unexpand(g, x.shape)] };
export const reshapeOp: Op = { name: "reshape", kind: "view", vjp: (g, { inputs: [x] }) => [reshape(g, x.shape)] };
export const permuteOp: Op = {
  name: "permute", kind: "view",
  vjp: (g, y) => [permute(g, invert((y.attrs as PermuteAttrs).axes))],
};
export const sliceOp: Op = {
  name: "slice", kind: "view",
  vjp: (g, y) => {
    const x = y.inputs[0], { start } = y.attrs as SliceAttrs;
    return [x.shape.reduce((acc, d, a) => padAxis(acc, a, start[a], d - start[a] - y.shape[a]), g)];
  },
};
/** The same numbers; no gradient passes. */
export const stopOp: Op = { name: "stopGradient", kind: "view", vjp: () => [null] };
/** The same numbers, recorded after another value exists (and never merged with other copies of the recipe). */
export const afterOp: Op = { name: "after", kind: "view", vjp: (g) => [g, null] };

/** The same numbers, in memory as soon as they exist: readers are never fused with what made them. */
export const storedOp: Op = { name: "stored", kind: "view", vjp: (g) => [g] };

const invert = (axes: readonly number[]): number[] => axes.map((_, i) => axes.indexOf(i));

/** x repeated to `shape`; every axis of x is 1 or already equal. */
export function expand(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = shape.length - x.shape.length;
  if (lead < 0 || x.shape.some((d, i) => d !== 1 && d !== shape[i + lead]))
    throw new ShapeError(`expand: ${show(x.shape)} does not broadcast to ${show(shape)}`, { op: "expand", shapes: [x.shape, shape] });
  return record(expandOp, [x], null, shape, x.dtype);
}
function unexpand(g: Tensor, shape: Shape): Tensor {
  const lead = g.shape.length - shape.length;
  const axes = g.shape.map((_, i) => i).filter((i) => i < lead || (shape[i - lead] === 1 && g.shape[i] > 1));
  return reshape(axes.length ? g.sum(axes) : g, shape);
}
/** The same values in row-major order under another shape; one axis may be -1. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const to = resolveReshape(x.shape, shape);
  if (sameShape(to, x.shape)) return x;
  if (x.op === reshapeOp && x.inputs.length === 1) return reshape(x.inputs[0], to);
  return record(reshapeOp, [x], null, to, x.dtype);
}
/** Reorders axes: result axis i is x's axis axes[i]. */
export function permute(x: Tensor, axes: readonly number[]): Tensor {
  listed("permute", axes);
  const p = axes.map((a) => axisOf("permute", a, x.rank));
  if (p.length !== x.rank || new Set(p).size !== p.length) throw new ShapeError(`permute: [${axes.join(", ")}] does not reorder the ${x.rank} axes of ${show(x.shape)}`, { op: "permute", shapes: [x.shape] });
  if (p.every((a, i) => a === i)) return x;
  if (x.op === permuteOp && x.inputs.length === 1) return permute(x.inputs[0], p.map((a) => (x.attrs as PermuteAttrs).axes[a]));
  return record(permuteOp, [x], { axes: p } satisfies PermuteAttrs, p.map((a) => x.shape[a]), x.dtype);
}
/** Swaps two axes (the last two by default). */
export function transpose(x: Tensor, a = -2, b = -1): Tensor {
  const i = axisOf("transpose", a, x.rank), j = axisOf("transpose", b, x.rank);
  return permute(x, x.shape.map((_, k) => (k === i ? j : k === j ? i : k)));
}
/** x[start, end) along one axis; negative positions count from the end. */
export function slice(x: Tensor, axis: number, start: number, end?: number): Tensor {
  const a = axisOf("slice", axis, x.rank), d = x.shape[a];
  const from = start < 0 ? start + d : start, to = end === undefined ? d : end < 0 ? end + d : end;
  if (!(from >= 0 && from < to && to <= d)) throw new ShapeError(`slice: [${start}, ${end ?? d}) is empty or outside axis ${axis} of size ${d} in ${show(x.shape)}`, { op: "slice", shapes: [x.shape], value: [start, end] });
  if (from === 0 && to === d) return x;
  return record(sliceOp, [x], { start: x.shape.map((_, i) => (i === a ? from : 0)) } satisfies SliceAttrs, x.shape.map((n, i) => (i === a ? to - from : n)), x.dtype);
}
function padAxis(x: Tensor, axis: number, before: number, after: number): Tensor {
  const zero = (n: number): Tensor[] => (n > 0 ? [x.like(0, x.shape.map((d, i) => (i === axis ? n : d)))] : []);
  const parts = [...zero(before), x, ...zero(after)];
  return parts.length === 1 ? x : concat(parts, axis);
}
/** x with zeros before and after along one axis. */
export const pad = (x: Tensor, axis: number, before: number, after: number): Tensor => padAxis(x, axisOf("pad", axis, x.rank), before, after);
/** Adds an axis of size 1 at this place. */
export function unsqueeze(x: Tensor, axis: number): Tensor {
  const a = axisOf("unsqueeze", axis, x.rank + 1);
  return reshape(x, checkShape("unsqueeze", [...x.shape.slice(0, a), 1, ...x.shape.slice(a)]));
}
/** Removes an axis of size 1. */
export function squeeze(x: Tensor, axis: number): Tensor {
  const a = axisOf("squeeze", axis, x.rank);
  if (x.shape[a] !== 1) throw new ShapeError(`squeeze: axis ${axis} of ${show(x.shape)} has size ${x.shape[a]}, not 1`, { op: "squeeze", shapes: [x.shape] });
  return reshape(x, x.shape.filter((_, i) => i !== a));
}
/** The value of x without its history. */
export const stopGradient = (x: Tensor): Tensor => record(stopOp, [x], null, x.shape, x.dtype);
/** x, ordered after g: recomputation that must not be merged with the first computation starts here. */
export const after = (x: Tensor, g: Tensor, region: number): Tensor => record(afterOp, [x, g], { region }, x.shape, x.dtype);
/** x in memory: for sums that grow chunk by chunk, where fusion would keep every chunk until the end. */
export const stored = (x: Tensor): Tensor => record(storedOp, [x], null, x.shape, x.dtype);
