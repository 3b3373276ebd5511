/** The singular value decomposition: exact, to the rounding of f64. */
import { ConfigError } from "../errors.ts";
import { bidiagonalise, diagonalise } from "./bidiagonal.ts";
import { finite, largest, type Matrix, transposed, zeroMatrix } from "./matrix.ts";
import { product, scaleColumns } from "./product.ts";
import { qr } from "./qr.ts";

export interface SVD {
  /** (m, k), orthonormal columns: the left singular vectors */
  readonly u: Matrix;
  /** k singular values, sorted from the largest, none negative */
  readonly s: Float64Array;
  /** (k, n), orthonormal rows: the right singular vectors */
  readonly vt: Matrix;
}

/**
 * A = U diag(s) Vᵀ, reduced: A (m, n), U (m, k), s (k), Vᵀ (k, n), k = min(m, n); s₀ >= s₁ >= ... >= 0.
 *
 * Signs are fixed: in each column of U the entry of the largest magnitude (the first of those within a millionth of it) is positive.
 * Other libraries may choose other signs, and where values are equal other vectors: compare products, not vectors.
 * Tall matrices go through QR first (Chan 1982), then Golub & Kahan's bidiagonal form and implicit QR. O(m n k).
 * Source: Golub & Van Loan, Matrix Computations, 8.6.
 * @throws ConfigError for NaN and infinity
 * @example const { u, s, vt } = svd(w) // the best approximation of rank r: lowRank(svd(w), r)
 */
export function svd(a: Matrix): SVD {
  const { rows: m, cols: n } = finite("svd", a);
  if (m < n) {
    const { u, s, vt } = tall(transposed(a));
    return signed({ u: transposed(vt), s, vt: transposed(u) });
  }
  return signed(tall(a));
}

/** Of a matrix with at least as many rows as columns; signs as they come. */
function tall(a: Matrix): SVD {
  const { rows: m, cols: n } = a;
  if (m > 1.5 * n && n > 0) {
    const { q, r } = qr(a), inner = tall(r);
    return { u: product(q, inner.u), s: inner.s, vt: inner.vt };
  }
  const most = largest(a.data), unit = most === 0 ? 1 : 2 ** Math.max(-1000, Math.min(1000, Math.floor(Math.log2(most)))); // so that squares neither overflow nor vanish
  const form = bidiagonalise({ rows: m, cols: n, data: a.data.map((x) => x / unit) });
  diagonalise(form);
  const { d, u, v } = form, order = Array.from(d, (_, i) => i).sort((i, j) => Math.abs(d[j]) - Math.abs(d[i]) || i - j);
  const sortedU = zeroMatrix(m, n), vt = zeroMatrix(n, n);
  for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) sortedU.data[i * n + j] = u.data[i * n + order[j]];
  for (let i = 0; i < n; i++) {
    const from = order[i], sign = d[from] < 0 ? -1 : 1;
    for (let j = 0; j < n; j++) vt.data[i * n + j] = sign * v.data[j * n + from];
  }
  return { u: sortedU, s: Float64Array.from(order, (i) => Math.abs(d[i]) * unit), vt };
}

/** -1 for each column whose largest entry (the first of those within a millionth) is negative, else 1. */
export function signs(u: Matrix): Float64Array {
  const { rows, cols, data } = u;
  return Float64Array.from({ length: cols }, (_, j) => {
    let most = 0;
    for (let i = 0; i < rows; i++) most = Math.max(most, Math.abs(data[i * cols + j]));
    for (let i = 0; i < rows; i++) if (Math.abs(data[i * cols + j]) >= most * (1 - 1e-6)) return data[i * cols + j] < 0 ? -1 : 1;
    return 1;
  });
}

/** The same decomposition with the signs that `svd` promises; changes it in place. */
export function signed({ u, s, vt }: SVD): SVD {
  signs(u).forEach((sign, j) => {
    if (sign > 0) return;
    for (let i = 0; i < u.rows; i++) u.data[i * u.cols + j] *= -1;
    for (let i = 0; i < vt.cols; i++) vt.data[j * vt.cols + i] *= -1;
  });
  return { u, s, vt };
}

/** The first `rank` singular values with their vectors. @throws ConfigError for a rank outside 1 ... k */
export function truncate({ u, s, vt }: SVD, rank: number): SVD {
  if (!Number.isInteger(rank) || rank < 1 || rank > s.length) throw new ConfigError(`truncate: rank ${rank} of ${s.length} singular values`, { op: "truncate", key: "rank", value: rank, fix: `pass an integer from 1 to ${s.length}` });
  const left = zeroMatrix(u.rows, rank);
  for (let i = 0; i < u.rows; i++) left.data.set(u.data.subarray(i * u.cols, i * u.cols + rank), i * rank);
  return { u: left, s: s.slice(0, rank), vt: { rows: rank, cols: vt.cols, data: vt.data.slice(0, rank * vt.cols) } };
}

/** U diag(s) Vᵀ of the first `rank` values (default all): of all matrices of that rank the nearest to A (Eckart & Young 1936). */
export function lowRank(parts: SVD, rank: number = parts.s.length): Matrix {
  const { u, s, vt } = rank === parts.s.length ? parts : truncate(parts, rank);
  return product(scaleColumns(u, s), vt);
}

/** Options of `pinv`. */
export interface PinvOptions {
  /** singular values up to rtol times the largest count as zero; default max(m, n)·2^-52, torch's */
  readonly rtol?: number;
}
/**
 * The pseudo-inverse A⁺ = V diag(1/s) Uᵀ over the singular values above `rtol`·s₀: (m, n) becomes (n, m). A⁺b is the shortest x of those
 * with the least ‖Ax - b‖. Source: Penrose 1955; torch.linalg.pinv.
 * @throws ConfigError for NaN, infinity, or an rtol that is negative or NaN
 */
export function pinv(a: Matrix, { rtol = Math.max(a.rows, a.cols) * 2 ** -52 }: PinvOptions = {}): Matrix {
  finite("pinv", a);
  if (!(rtol >= 0)) throw new ConfigError(`pinv: rtol ${rtol}`, { op: "pinv", key: "rtol", value: rtol, fix: "pass a number from 0 on" });
  const { u, s, vt } = svd(a), limit = s.length === 0 ? 0 : rtol * s[0];
  return product(scaleColumns(transposed(vt), s.map((x) => (x > limit ? 1 / x : 0))), u, { transposeB: true });
}
