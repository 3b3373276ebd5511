/** Plain matrices of f64 on the host, row after row, and the way to them from tensors' host arrays and back. */
import { convertArray, type DType, type HostArray } from "../dtype.ts";
import { ConfigError, ShapeError } from "../errors.ts";

/** A matrix on the host: element (i, j) is `data[i * cols + j]`. Functions here never change one that they were given. */
export interface Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly data: Float64Array;
}

/**
 * A matrix of a host array with two axes, widened to f64, or of nested numbers. The data is always a copy.
 * @throws ShapeError for another number of axes, for rows of unequal length, and for nested numbers without a row
 * @example matrixOf(await weight.host())
 */
export function matrixOf(x: HostArray | readonly (readonly number[])[]): Matrix {
  if (!("shape" in x)) {
    if (x.length === 0) throw new ShapeError("matrixOf: no rows, so nobody knows how many columns", { op: "matrixOf", fix: "pass a host array of shape [0, n]" });
    const cols = x[0].length, wrong = x.findIndex((row) => row.length !== cols);
    if (wrong >= 0) throw new ShapeError(`matrixOf: row ${wrong} has ${x[wrong].length} numbers, row 0 has ${cols}`, { op: "matrixOf", shapes: [[cols], [x[wrong].length]], fix: "make all rows equally long" });
    return { rows: x.length, cols, data: Float64Array.from(x.flat()) };
  }
  if (x.shape.length !== 2) throw new ShapeError(`matrixOf: [${x.shape.join(", ")}] has ${x.shape.length} axes, a matrix has 2`, { op: "matrixOf", shapes: [x.shape], fix: "reshape it to two axes first" });
  return { rows: x.shape[0], cols: x.shape[1], data: new Float64Array(convertArray(x.data, x.dtype, "f64")) };
}

/** The host array [rows, cols] of a matrix, each number rounded once to `dtype` (default f32). @example fromHost(hostOf(q)) */
export function hostOf(a: Matrix, dtype: DType = "f32"): HostArray {
  return { dtype, shape: [a.rows, a.cols], data: convertArray(a.data, "f64", dtype) };
}

/** A matrix of zeros. */
export const zeroMatrix = (rows: number, cols: number): Matrix => ({ rows, cols, data: new Float64Array(rows * cols) });

/** I of n rows and columns (or the first `cols` columns of I). */
export function identityMatrix(n: number, cols: number = n): Matrix {
  const out = zeroMatrix(n, cols);
  for (let i = 0; i < Math.min(n, cols); i++) out.data[i * cols + i] = 1;
  return out;
}

/** A copy. */
export const copyMatrix = (a: Matrix): Matrix => ({ rows: a.rows, cols: a.cols, data: a.data.slice() });

/** Aᵀ, moved in tiles of 16 x 16 so that both sides stay in cache. */
export function transposed(a: Matrix): Matrix {
  const { rows, cols, data } = a, out = zeroMatrix(cols, rows), to = out.data;
  for (let i0 = 0; i0 < rows; i0 += 16) for (let j0 = 0; j0 < cols; j0 += 16) {
    const i1 = Math.min(i0 + 16, rows), j1 = Math.min(j0 + 16, cols);
    for (let i = i0; i < i1; i++) for (let j = j0; j < j1; j++) to[j * rows + i] = data[i * cols + j];
  }
  return out;
}

/** Rows and columns [from, to) of a matrix, copied. */
export function block(a: Matrix, rowFrom: number, rowTo: number, colFrom: number, colTo: number): Matrix {
  const out = zeroMatrix(rowTo - rowFrom, colTo - colFrom);
  for (let i = rowFrom; i < rowTo; i++) out.data.set(a.data.subarray(i * a.cols + colFrom, i * a.cols + colTo), (i - rowFrom) * out.cols);
  return out;
}

export const shapeOf = (a: Matrix): readonly [number, number] => [a.rows, a.cols];

/** The matrix, after a check that its data has as many numbers as its shape and none is NaN or infinite. */
export function finite(op: string, a: Matrix): Matrix {
  if (a.data.length !== a.rows * a.cols) throw new ShapeError(`${op}: ${a.data.length} numbers are no [${a.rows}, ${a.cols}]`, { op, shapes: [shapeOf(a), [a.data.length]], fix: "make data rows * cols long" });
  for (let i = 0; i < a.data.length; i++) {
    if (!Number.isFinite(a.data[i])) throw new ConfigError(`${op}: element (${Math.floor(i / a.cols)}, ${i % a.cols}) is ${a.data[i]}`, { op, value: a.data[i], fix: "find where it came from (explainNaN); no factorisation exists" });
  }
  return a;
}

/** Throws ShapeError unless the matrix has as many rows as columns. */
export function square(op: string, a: Matrix): Matrix {
  if (a.rows !== a.cols) throw new ShapeError(`${op}: [${a.rows}, ${a.cols}] is not square`, { op, shapes: [shapeOf(a)], fix: "pass as many rows as columns" });
  return finite(op, a);
}

/** The largest |element|; 0 of an empty matrix. */
export function largest(data: Float64Array): number {
  let most = 0;
  for (let i = 0; i < data.length; i++) most = Math.max(most, Math.abs(data[i]));
  return most;
}
