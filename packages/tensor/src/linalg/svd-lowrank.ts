/** The first singular values of a large matrix by a random subspace: a few thin products instead of a whole decomposition. */
import { ConfigError } from "../errors.ts";
import { hostNormal } from "../random.ts";
import { finite, type Matrix, matrixOf, transposed } from "./matrix.ts";
import { product } from "./product.ts";
import { qr } from "./qr.ts";
import { signed, type SVD, svd, truncate } from "./svd.ts";

/** Options of `svdLowrank`. */
export interface SVDLowrankOptions {
  /** how many singular values; more than min(m, n) means min(m, n) (torch's q) */
  readonly rank: number;
  /** how many more directions the subspace has than are returned; default 0, as torch; 5 to 10 make the last values accurate */
  readonly oversample?: number;
  /** subspace iterations (torch's niter); default 2. Errors of direction j shrink by (s[rank + oversample] / s[j])² in each */
  readonly iterations?: number;
  /** of the random directions; default 0. The same seed gives the same bits everywhere; torch's numbers are others */
  readonly seed?: number;
}

/**
 * A ≈ U diag(s) Vᵀ with k = min(rank, m, n) values: A (m, n), U (m, k), s (k), Vᵀ (k, n); signs as `svd`'s.
 *
 * For tall A: Q = orthonormal basis of A Ω, Ω (n, rank + oversample) normal; `iterations` times Q = basis of A (basis of Aᵀ Q); then the
 * exact SVD of the small QᵀA. A wide matrix is read as its transpose. Exact to rounding where A's rank is at most rank + oversample; no
 * value is ever larger than the true one. O(m n (rank + oversample)(2 iterations + 2)).
 * Source: Halko, Martinsson & Tropp 2011, algorithms 4.4 and 5.1 (torch.svd_lowrank, PEFT's pissa_niter_K).
 * @throws ConfigError for a rank below 1, negative or fractional oversample or iterations, NaN and infinity
 * @example const { u, s, vt } = svdLowrank(w, { rank: 16, iterations: 4, seed: 1 })
 */
export function svdLowrank(a: Matrix, { rank, oversample = 0, iterations = 2, seed = 0 }: SVDLowrankOptions): SVD {
  const op = "svdLowrank", { rows: m, cols: n } = finite(op, a), wide = m < n;
  const whole = (key: string, value: number, low: number): void => {
    if (!Number.isInteger(value) || value < low) throw new ConfigError(`${op}: ${key} ${value}`, { op, key, value, fix: `pass an integer from ${low} on` });
  };
  whole("rank", rank, 1);
  whole("oversample", oversample, 0);
  whole("iterations", iterations, 0);
  const k = Math.min(rank, m, n), width = Math.min(rank + oversample, m, n);
  if (k === 0) return svd(a);
  const times = (x: Matrix, transposeA: boolean): Matrix => product(a, x, { transposeA }), basis = (x: Matrix): Matrix => qr(x).q;
  let q = basis(times(matrixOf(hostNormal(seed, "svd-lowrank", [Math.min(m, n), width])), wide));
  for (let i = 0; i < iterations; i++) q = basis(times(basis(times(q, !wide)), wide));
  const inner = svd(transposed(times(q, !wide))), first = truncate({ u: product(q, inner.u), s: inner.s, vt: inner.vt }, k); // tall: (Aᵀ Q)ᵀ = QᵀA
  return signed(wide ? { u: transposed(first.vt), s: first.s, vt: transposed(first.u) } : first);
}
