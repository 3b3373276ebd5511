/** Concatenation: the one op that writes parts of a buffer. */
import { DTypeError, ShapeError } from "../errors.ts";
import { axisOf, show } from "../shape.ts";
import { type Op, type Tensor, record } from "../tensor.ts";

export interface ConcatAttrs { readonly axis: number }
export const concatOp: Op = {
  name: "concat", kind: "concat",
  vjp: (g, y) => {
    const { axis } = y.attrs as ConcatAttrs;
    let at = 0;
    return y.inputs.map((x) => g.slice(axis, at, (at += x.shape[axis])));
  },
};
/** Joins tensors along an existing axis. */
export function concat(xs: readonly Tensor[], axis = 0): Tensor {
  if (xs.length === 0) throw new ShapeError("concat: no tensors given", { op: "concat" });
  const a = axisOf("concat", axis, xs[0].rank);
  xs.forEach((x) => {
    if (x.dtype !== xs[0].dtype) throw new DTypeError(`concat: dtypes differ: ${xs[0].dtype} and ${x.dtype}`, { op: "concat", fix: "cast them first" });
    if (x.rank !== xs[0].rank || x.shape.some((d, i) => i !== a && d !== xs[0].shape[i])) throw new ShapeError(`concat: ${show(x.shape)} does not join ${show(xs[0].shape)} along axis ${axis}`, { op: "concat", shapes: [xs[0].shape, x.shape] });
  });
  if (xs.length === 1) return xs[0];
  const total = xs.reduce((n, x) => n + x.shape[a], 0);
  return record(concatOp, xs, { axis: a } satisfies ConcatAttrs, xs[0].shape.map((d, i) => (i === a ? total : d)), xs[0].dtype);
}
/** Joins tensors of one shape along a new axis. */
export const stack = (xs: readonly Tensor[], axis = 0): Tensor => concat(xs.map((x) => x.unsqueeze(axis)), axis);
