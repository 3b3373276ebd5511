/** Linear systems: LU with partial pivoting, and Cholesky's factor of positive definite matrices. */
import { ConfigError, ShapeError } from "../errors.ts";
import { copyMatrix, finite, type Matrix, shapeOf, square, zeroMatrix } from "./matrix.ts";

const EPSILON = 2 ** -52;

/**
 * X with A X = B: A (n, n), B (n, k), X (n, k).
 *
 * P A = L U by rows, then two triangular solves. A pivot is taken for zero when rounding alone could have made it, that is when
 * |u[k, k]| <= n·2^-52·(|L||U|)[k, k] (Higham, Accuracy and Stability, theorem 9.3); for singular A use `pinv`.
 * @throws ShapeError unless A is square and has B's rows; ConfigError for a singular A, NaN and infinity
 * @example solve(matrixOf([[2, 1], [1, 3]]), identityMatrix(2)) // the inverse
 */
export function solve(a: Matrix, b: Matrix): Matrix {
  const op = "solve", n = square(op, a).rows, k = finite(op, b).cols;
  if (b.rows !== n) throw new ShapeError(`solve: A is [${n}, ${n}], B is [${b.rows}, ${k}]`, { op, shapes: [shapeOf(a), shapeOf(b)], fix: `pass a B of ${n} rows` });
  const lu = a.data.slice(), x = copyMatrix(b), y = x.data;
  for (let p = 0; p < n; p++) {
    let pivot = p;
    for (let i = p + 1; i < n; i++) if (Math.abs(lu[i * n + p]) > Math.abs(lu[pivot * n + p])) pivot = i;
    if (pivot !== p) {
      swap(lu, n, p, pivot);
      swap(y, k, p, pivot);
    }
    let size = Math.abs(lu[p * n + p]);
    const limit = size;
    for (let j = 0; j < p; j++) size += Math.abs(lu[p * n + j] * lu[j * n + p]);
    if (limit <= n * EPSILON * size) throw new ConfigError(`solve: A [${n}, ${n}] is singular to rounding at pivot ${p}: ${lu[p * n + p]}`, { op, key: "a", value: lu[p * n + p], fix: "add a small multiple of the identity, or use pinv" });
    for (let i = p + 1; i < n; i++) {
      const f = lu[i * n + p] /= lu[p * n + p];
      if (f === 0) continue;
      subtract(lu, i * n + p + 1, f, lu, p * n + p + 1, n - p - 1);
      subtract(y, i * k, f, y, p * k, k);
    }
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let p = i + 1; p < n; p++) subtract(y, i * k, lu[i * n + p], y, p * k, k);
    for (let j = 0; j < k; j++) y[i * k + j] /= lu[i * n + i];
  }
  return x;
}

/** x[i ..] -= f·y[j ..], `count` numbers. */
function subtract(x: Float64Array, i: number, f: number, y: Float64Array, j: number, count: number): void {
  for (const end = i + count; i < end; i++, j++) x[i] -= f * y[j];
}

function swap(data: Float64Array, cols: number, i: number, j: number): void {
  for (let c = 0; c < cols; c++) {
    const t = data[i * cols + c];
    data[i * cols + c] = data[j * cols + c];
    data[j * cols + c] = t;
  }
}

/**
 * L, lower triangular with a positive diagonal, and A = L Lᵀ: A (n, n) symmetric positive definite; only its lower half is read.
 * Source: Golub & Van Loan, 4.2.
 * @throws ShapeError unless A is square; ConfigError where it is not positive definite, and for NaN and infinity
 */
export function cholesky(a: Matrix): Matrix {
  const op = "cholesky", n = square(op, a).rows, l = zeroMatrix(n, n), x = l.data;
  for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) {
    let sum = a.data[i * n + j];
    for (let p = 0; p < j; p++) sum -= x[i * n + p] * x[j * n + p];
    if (i !== j) { x[i * n + j] = sum / x[j * n + j]; continue; }
    if (!(sum > 0)) throw new ConfigError(`cholesky: A [${n}, ${n}] is not positive definite: pivot ${i} is ${sum}`, { op, key: "a", value: sum, fix: "add a small multiple of the identity" });
    x[i * n + i] = Math.sqrt(sum);
  }
  return l;
}
