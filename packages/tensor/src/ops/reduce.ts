/** Reductions over named axes (kept as size 1); over all axes they give shape []. */
import type { ReduceOp } from "../backend.ts";
import { DTypeError } from "../errors.ts";
import { axesOf, sameShape, sizeOf } from "../shape.ts";
import { reals } from "../op.ts";
import { type Op, type Tensor, record } from "../tensor.ts";
import { expand, reshape } from "./views.ts";

export interface ReduceAttrs { readonly axes: readonly number[]; readonly reduce: ReduceOp }
export type Axes = number | readonly number[];

const back = (g: Tensor, x: Tensor, y: Tensor): Tensor => expand(reshape(g, kept(x.shape, (y.attrs as ReduceAttrs).axes)), x.shape);
const kept = (shape: readonly number[], axes: readonly number[]): number[] => shape.map((d, i) => (axes.includes(i) ? 1 : d));

export const sumOp: Op = { name: "sum", kind: "reduce", domain: [reals], vjp: (g, y) => [back(g, y.inputs[0], y)] };
/** A sum over all axes whose running sums are f64 where the backend has it. */
export const totalOp: Op = { ...sumOp, name: "total" };
/** Ties share the gradient evenly. */
const extreme = (name: string): Op => ({
  name, kind: "reduce", domain: [reals],
  vjp: (g, y) => {
    const x = y.inputs[0], hit = x.eq(back(y, x, y)).cast(x.dtype);
    return [back(g, x, y).mul(hit).div(expand(reshape(sum(hit, (y.attrs as ReduceAttrs).axes), kept(x.shape, (y.attrs as ReduceAttrs).axes)), x.shape))];
  },
});
export const amaxOp: Op = extreme("amax");
export const aminOp: Op = extreme("amin");

function reduce(op: Op, how: ReduceOp, x: Tensor, axes: Axes | undefined): Tensor {
  if (x.dtype === "bool") throw new DTypeError(`${op.name}: a bool tensor has no ${op.name}`, { op: op.name, fix: 'cast it first: x.cast("f32") counts' });
  const list = axesOf(op.name, axes, x.rank), all = axes === undefined || list.length === x.rank;
  const live = list.filter((a) => x.shape[a] > 1);
  if (live.length === 0) return reshape(x, axes === undefined ? [] : kept(x.shape, list));
  // a trailing run of axes is one row; what remains is a second reduction down the columns
  let cut = x.rank;
  while (cut > 0 && (live.includes(cut - 1) || x.shape[cut - 1] === 1)) cut--;
  const rows = live.filter((a) => a >= cut), cols = live.filter((a) => a < cut);
  let y = x;
  if (rows.length) y = record(op, [y], { axes: rows, reduce: how } satisfies ReduceAttrs, kept(y.shape, rows), x.dtype);
  if (cols.length) y = record(op, [y], { axes: cols, reduce: how } satisfies ReduceAttrs, kept(y.shape, cols), x.dtype);
  const want = axes === undefined && all ? [] : kept(x.shape, list);
  return sameShape(y.shape, want) ? y : reshape(y, want);
}
/** Σ over axes. */
export const sum = (x: Tensor, axes?: Axes): Tensor => reduce(sumOp, "sum", x, axes);
/**
 * Σ over all elements, shape []: added in f64 and rounded once on the CPU (reference and wasm), in the order of `sum` on WebGPU, which has no f64.
 * Dearer than `sum`; meant for norms over millions of numbers.
 */
export const total = (x: Tensor): Tensor => reduce(totalOp, "sum64", x, undefined);
/** Largest value over axes. */
export const amax = (x: Tensor, axes?: Axes): Tensor => reduce(amaxOp, "max", x, axes);
/** Smallest value over axes. */
export const amin = (x: Tensor, axes?: Axes): Tensor => reduce(aminOp, "min", x, axes);
/** Arithmetic mean over axes. */
export function mean(x: Tensor, axes?: Axes): Tensor {
  const s = sum(x, axes);
  return s.mul(sizeOf(s.shape) / x.size);
}
/** Mean squared distance from the mean (no Bessel correction). */
export const variance = (x: Tensor, axes?: Axes): Tensor => {
  const c = x.sub(axes === undefined ? mean(x) : mean(x, axes));
  return mean(c.mul(c), axes);
};
