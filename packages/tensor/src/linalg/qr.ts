/** QR by Householder's reflections, in blocks, with LAPACK's signs. */
import { ConfigError } from "../errors.ts";
import { copyMatrix, finite, type Matrix, zeroMatrix } from "./matrix.ts";
import { accumulate, applyBlock, BLOCK, reflect, triangle } from "./reflectors.ts";
import { product } from "./product.ts";

export interface QR {
  /** (m, k), orthonormal columns */
  readonly q: Matrix;
  /** (k, n), upper triangular (trapezoidal) */
  readonly r: Matrix;
}

/** Options of `qr`. */
export interface QROptions {
  /** only the first `rank` columns of Q and rows of R (what OLoRA needs): O(m n rank) instead of O(m n min(m, n)) */
  readonly rank?: number;
}

/**
 * A = Q R, reduced: A (m, n), Q (m, k) with QᵀQ = I, R (k, n) upper triangular, k = min(m, n).
 *
 * Signs are LAPACK's, so R equals `torch.linalg.qr`'s to rounding where A has full rank: R[i, i] has the sign opposite to the entry it
 * replaced, and the last one of a square or wide A keeps its own. With `rank`, the first rows and columns of the same factors.
 * Source: Golub & Van Loan, Matrix Computations, 5.2; LAPACK dgeqrf.
 * @throws ConfigError for NaN, infinity, or a rank outside 1 ... min(m, n)
 * @example const { q, r } = qr(matrixOf([[3, 1], [4, 2]])) // r[0][0] = -5
 */
export function qr(a: Matrix, { rank }: QROptions = {}): QR {
  const op = "qr", { rows: m, cols: n } = finite(op, a), most = Math.min(m, n), k = rank ?? most;
  if (rank !== undefined && (!Number.isInteger(rank) || rank < 1 || rank > most)) throw new ConfigError(`qr: rank ${rank} of [${m}, ${n}]`, { op, key: "rank", value: rank, fix: `pass an integer from 1 to ${most}` });
  if (k < most && n > k) return partial(a, k);
  const work = copyMatrix(a), v = zeroMatrix(m, k), tau = new Float64Array(k), column = new Float64Array(m);
  for (let from = 0; from < k; from += BLOCK) {
    const to = Math.min(from + BLOCK, k);
    panel(work, v, tau, from, to, column);
    if (to < n) applyBlock(v, triangle(v, tau, from, to - from, from), from, from, work, to, true);
  }
  const r = zeroMatrix(k, n);
  for (let i = 0; i < k; i++) for (let j = i; j < n; j++) r.data[i * n + j] = work.data[i * n + j];
  return { q: accumulate(v, tau, k), r };
}

/** Q of the first k columns alone; the other columns of R are QᵀA. */
function partial(a: Matrix, k: number): QR {
  const n = a.cols, first = zeroMatrix(a.rows, k);
  for (let i = 0; i < a.rows; i++) first.data.set(a.data.subarray(i * n, i * n + k), i * k);
  const { q, r: corner } = qr(first), r = product(q, a, { transposeA: true });
  for (let i = 0; i < k; i++) r.data.set(corner.data.subarray(i * k, i * k + k), i * n);
  return { q, r };
}

/** Reduces columns [from, to) one by one; their reflections become columns of v. */
function panel(work: Matrix, v: Matrix, tau: Float64Array, from: number, to: number, column: Float64Array): void {
  const { rows: m, cols: n, data: x } = work, w = new Float64Array(to - from);
  for (let j = from; j < to; j++) {
    for (let i = j; i < m; i++) column[i] = x[i * n + j];
    const { beta, tau: t } = reflect(column, j, m);
    tau[j] = t;
    x[j * n + j] = beta;
    for (let i = j; i < m; i++) v.data[i * v.cols + j] = column[i];
    if (t === 0) continue;
    w.fill(0);
    for (let i = j; i < m; i++) for (let p = j + 1; p < to; p++) w[p - from] += column[i] * x[i * n + p];
    for (let i = j; i < m; i++) for (let p = j + 1; p < to; p++) x[i * n + p] -= t * column[i] * w[p - from];
  }
}
