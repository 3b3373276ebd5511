/** Ops driven by integers: positions, rows by id, sums by id, writes at a position that is data. */
import type { DType } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { axisOf, type Shape, show, sizeOf } from "../shape.ts";
import { exprType, leafOp, type Op, type Tensor, record } from "../tensor.ts";
import { reshape } from "./views.ts";

export interface IotaAttrs { readonly strides: readonly number[] }
export const iotaOp: Op = {
  name: "iota", kind: "map",
  forward: (_, node, index) => {
    const i = index((node.attrs as IotaAttrs).strides, node.dtype === "u32" ? "u32" : "i32");
    return exprType(node.dtype) === "float" ? i.toF() : i;
  },
};
/** The position along one axis: 0, 1, 2, ... in every row. */
export function iota(shape: Shape, axis = -1, dtype: DType = "i32"): Tensor {
  const a = axisOf("iota", axis, shape.length);
  return record(iotaOp, [], { strides: shape.map((_, i) => (i === a ? 1 : 0)) } satisfies IotaAttrs, shape, dtype);
}
/** The row-major index of every element. */
export function linearIndex(shape: Shape, dtype: DType = "u32"): Tensor {
  const strides = shape.map((_, i) => sizeOf(shape.slice(i + 1)));
  return record(iotaOp, [], { strides } satisfies IotaAttrs, shape, dtype);
}
/** 0, 1, ..., n - 1. */
export const arange = (n: number, dtype: DType = "i32"): Tensor => iota([n], 0, dtype);

/** What errors about ids outside a table say; `gather` and the vocabulary's size where nobody else looks things up. */
export interface IdWords { readonly op?: string; readonly fix?: string }
export interface LimitAttrs extends IdWords { readonly limit: number }
/** Throws when host ids leave [0, limit). */
export function checkIds(op: string, ids: ArrayLike<number>, limit: number, fix = "check the vocabulary size against the token ids"): void {
  for (let i = 0; i < ids.length; i++) if (!(ids[i] >= 0 && ids[i] < limit)) throw new ShapeError(`${op}: id ${ids[i]} at position ${i} is outside [0, ${limit})`, { op, value: ids[i], fix });
}
function checked(op: string, ids: Tensor, limit: number, fix?: string): Tensor {
  if (ids.dtype !== "i32") throw new DTypeError(`${op}: ids must be i32, got ${ids.dtype}`, { op, fix: 'cast them: ids.cast("i32")' });
  if (ids.op === leafOp && ids.value) checkIds(op, ids.value.data, limit, fix);
  return ids;
}

/** y[..., :] = table[ids[...], :]; its gradient adds rows by id. */
export const gatherOp: Op = {
  name: "gather", kind: "gather",
  vjp: (g, { inputs: [table, ids] }) => [scatterAdd(g, ids, table.shape[0]), null],
};
/**
 * Rows of a table [vocabulary, width] by id; ids of any shape give [...ids.shape, width]. Half-precision tables give f32.
 * Ids that the host knows are checked, also whenever a compiled step is replayed with others; those that only a device knows are clamped there.
 * @throws ShapeError for an id outside the table, in `words` where these are given
 */
export function gather(table: Tensor, ids: Tensor, words: IdWords = {}): Tensor {
  if (table.rank !== 2) throw new ShapeError(`gather: the table must be a matrix, got ${show(table.shape)}`, { op: "gather", shapes: [table.shape] });
  checked(words.op ?? "gather", ids, table.shape[0], words.fix);
  const dtype = table.dtype === "f16" || table.dtype === "bf16" ? "f32" : table.dtype;
  return record(gatherOp, [table, ids], { limit: table.shape[0], ...words } satisfies LimitAttrs, [...ids.shape, table.shape[1]], dtype);
}
/** y[v, :] = Σ over rows with ids = v of source[row, :]. */
export const scatterAddOp: Op = {
  name: "scatterAdd", kind: "scatterAdd",
  vjp: (g, { inputs: [source, ids] }) => [reshape(gather(g, ids), source.shape), null],
};
export function scatterAdd(source: Tensor, ids: Tensor, rows: number): Tensor {
  const width = source.shape[source.rank - 1];
  if (sizeOf(source.shape) / width !== ids.size) throw new ShapeError(`scatterAdd: ${show(source.shape)} has other rows than the ids ${show(ids.shape)}`, { op: "scatterAdd", shapes: [source.shape, ids.shape] });
  checked("scatterAdd", ids, rows);
  return record(scatterAddOp, [source, ids], { limit: rows } satisfies LimitAttrs, [rows, width], source.dtype);
}

export interface UpdateAttrs { readonly axis: number }
/** x with `value` written at `position` (a number that is data) along one axis; in place when x is a store that is assigned the result. */
export const updateOp: Op = { name: "update", kind: "update" };
export function update(x: Tensor, value: Tensor, position: Tensor, axis: number): Tensor {
  const a = axisOf("update", axis, x.rank);
  if (value.rank !== x.rank || value.shape.some((d, i) => (i === a ? d > x.shape[i] : d !== x.shape[i]))) throw new ShapeError(`update: ${show(value.shape)} does not fit into ${show(x.shape)} along axis ${axis}`, { op: "update", shapes: [x.shape, value.shape] });
  if (value.dtype !== x.dtype) throw new DTypeError(`update: dtypes differ: ${x.dtype} and ${value.dtype}`, { op: "update", fix: `cast the value: value.cast("${x.dtype}")` });
  if (position.dtype !== "i32" || position.op.kind !== "scalar") throw new DTypeError("update: the position must be a scalar of i32", { op: "update", fix: 'scalar(position, "i32")' });
  return record(updateOp, [x, value, position], { axis: a } satisfies UpdateAttrs, x.shape, x.dtype);
}
