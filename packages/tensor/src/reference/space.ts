/** Iteration spaces: from a run of points in row-major order to the elements that a view touches there. */
import { encode, decode, type DType, type TypedArray } from "../dtype.ts";
import type { ExprType } from "../expr.ts";
import type { Lane } from "./intrinsics.ts";

/** Points evaluated at once; large enough to forget the cost of a closure call, small enough to stay in cache. */
export const BLOCK = 256;

/** out[i] = offset + Σ index[axis]·strides[axis] for the points first ≤ p < first + n of `shape`. */
export function addresses(shape: readonly number[], strides: readonly number[], offset: number, first: number, n: number, out: Int32Array | Lane): void {
  const rank = shape.length, index = new Array<number>(rank).fill(0);
  let at = offset;
  for (let axis = rank - 1, rest = first; axis >= 0; axis--) {
    index[axis] = rest % shape[axis];
    rest = Math.floor(rest / shape[axis]);
    at += index[axis] * strides[axis];
  }
  for (let i = 0; ;) {
    out[i] = at;
    if (++i >= n) return;
    for (let axis = rank - 1; axis >= 0; axis--) {
      at += strides[axis];
      if (++index[axis] < shape[axis]) break;
      at -= shape[axis] * strides[axis];
      index[axis] = 0;
    }
  }
}

/** Reads elements as numbers. */
export function load(data: TypedArray, dtype: DType, at: Int32Array, n: number, out: Lane): void {
  if (dtype === "f16" || dtype === "bf16") for (let i = 0; i < n; i++) out[i] = decode(dtype, data[at[i]]);
  else for (let i = 0; i < n; i++) out[i] = data[at[i]];
}

/**
 * Writes numbers as elements: floats round to nearest even; a float becomes an integer by truncation and saturation,
 * an integer becomes a narrower one by wrapping.
 */
export function save(data: TypedArray, dtype: DType, type: ExprType, at: Int32Array, n: number, values: Lane): void {
  const plain = dtype === "f32" || dtype === "f64" || (type !== "float" && dtype !== "f16" && dtype !== "bf16" && dtype !== "bool");
  if (plain) for (let i = 0; i < n; i++) data[at[i]] = values[i];
  else for (let i = 0; i < n; i++) data[at[i]] = encode(dtype, values[i]);
}
