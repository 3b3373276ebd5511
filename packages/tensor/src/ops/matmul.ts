/** Matrix product, batched, any strides: a transposed operand is an index map, never a copy. */
import { isFloat, isHalf } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { reals } from "../op.ts";
import { broadcastShapes, show, sizeOf } from "../shape.ts";
import { type Op, type Tensor, record } from "../tensor.ts";
import { cast } from "./pointwise.ts";
import { type PermuteAttrs, expand, permuteOp, reshape, transpose } from "./views.ts";

/** y[..., m, n] = Σ_k a[..., m, k] b[..., k, n];  dA = g bᵀ, dB = aᵀ g. */
export const matmulOp: Op = {
  name: "matmul", kind: "contract", domain: [reals, reals],
  vjp: (g, { inputs: [a, b] }) => [
    like(flipped(a) ? transpose(matmul(b, transpose(g))) : matmul(g, transpose(b)), a),
    like(flipped(b) ? transpose(matmul(transpose(g), a)) : matmul(transpose(a), g), b),
  ],
};
/** A transposed operand gets its gradient in its own layout: (aᵀ g)ᵀ = gᵀ a. */
const flipped = (x: Tensor): boolean => x.op === permuteOp && x.inputs.length === 1 && (x.attrs as PermuteAttrs).axes[x.rank - 1] === x.rank - 2;
const like = (g: Tensor, x: Tensor): Tensor => (g.dtype === "f64" && x.dtype !== "f64" ? cast(g, "f32") : g);

/** Product over the last axis of a and the second last of b; leading axes broadcast. Half-precision operands are widened; the result is f32. */
export function matmul(a: Tensor, b: Tensor): Tensor {
  if (a.rank < 2 || b.rank < 2) throw new ShapeError(`matmul: needs matrices\n  a  ${show(a.shape)}   ${a.name}\n  b  ${show(b.shape)}   ${b.name}`, { op: "matmul", shapes: [a.shape, b.shape], fix: "add an axis: x.unsqueeze(0)" });
  if (!isFloat(a.dtype) || !isFloat(b.dtype)) throw new DTypeError(`matmul: needs floats, got ${a.dtype} and ${b.dtype}`, { op: "matmul", fix: 'cast first: x.cast("f32")' });
  const half = isHalf(a.dtype) || isHalf(b.dtype);
  if (a.dtype !== b.dtype && (!half || a.dtype === "f64" || b.dtype === "f64")) throw new DTypeError(`matmul: dtypes differ: ${a.dtype} and ${b.dtype}`, { op: "matmul", fix: `cast one of them: b.cast("${a.dtype}")` });
  const [m, k] = a.shape.slice(-2), [k2, n] = b.shape.slice(-2);
  if (k !== k2) {
    const hint = k === n ? "did you mean a.matmul(b.T)?" : m === k2 ? "did you mean a.T.matmul(b)?" : undefined;
    throw new ShapeError(`matmul: inner dimensions differ\n  a  ${show(a.shape)}   ${a.name}\n  b  ${show(b.shape)}   ${b.name}\n  ${k} ≠ ${k2}${hint ? `\n  hint: ${hint}` : ""}`, { op: "matmul", shapes: [a.shape, b.shape], value: [k, k2], ...(hint ? { fix: hint } : {}) });
  }
  if (b.rank === 2 && a.rank > 2) return reshape(matmul(reshape(a, [sizeOf(a.shape) / k, k]), b), [...a.shape.slice(0, -1), n]);
  const lead = broadcastShapes("matmul", [a.shape.slice(0, -2), b.shape.slice(0, -2)]);
  return record(matmulOp, [expand(a, [...lead, m, k]), expand(b, [...lead, k, n])], null, [...lead, m, n], a.dtype === "f64" ? "f64" : "f32");
}
