/** From a matrix to a bidiagonal one by reflections from both sides, and from there to singular values by implicit QR. */
import { AdjointError } from "../errors.ts";
import { type Matrix, zeroMatrix } from "./matrix.ts";
import { accumulate, reflect } from "./reflectors.ts";
import { length, rotate, type Rotation, Sweeps } from "./rotations.ts";

const EPSILON = 2 ** -52;

/** A = U B Vᵀ with B upper bidiagonal: diagonal d, and e above it. */
export interface Bidiagonal {
  readonly d: Float64Array;
  readonly e: Float64Array;
  /** (m, n), orthonormal columns */
  readonly u: Matrix;
  /** (n, n), orthogonal */
  readonly v: Matrix;
}

/**
 * A of m >= n rows. Golub & Kahan 1965, with two passes over the matrix a step instead of four: the two reflections of a step are
 * subtracted when the next step reads the rows for its own Aᵀu, and A v is taken of rows that lack the last one, then corrected.
 */
export function bidiagonalise(matrix: Matrix): Bidiagonal {
  const { rows: m, cols: n } = matrix, a = matrix.data.slice();
  const d = new Float64Array(n), e = new Float64Array(Math.max(0, n - 1)), left = zeroMatrix(m, n), right = zeroMatrix(n, Math.max(0, n - 1));
  const tauLeft = new Float64Array(n), tauRight = new Float64Array(Math.max(0, n - 1));
  const w = new Float64Array(n), v = new Float64Array(n), row = new Float64Array(n), y = new Float64Array(m);
  let u = new Float64Array(m), next = new Float64Array(m);
  for (let k = 0; k < n; k++) { // the true matrix is a - u wᵀ - y vᵀ
    for (let i = k; i < m; i++) next[i] = a[i * n + k] - u[i] * w[k] - y[i] * v[k];
    const { beta, tau } = reflect(next, k, m);
    d[k] = beta;
    tauLeft[k] = tau;
    for (let i = k; i < m; i++) left.data[i * n + k] = next[i];
    if (k + 1 === n) break;
    row.fill(0);
    settle(a, k, m, n, u, w, y, v, next, row);
    for (let j = k + 1; j < n; j++) {
      w[j] = tau * row[j];
      v[j] = a[k * n + j] - w[j];
    }
    const reflection = reflect(v, k + 1, n);
    e[k] = reflection.beta;
    tauRight[k] = reflection.tau;
    for (let j = k + 1; j < n; j++) right.data[j * (n - 1) + k] = v[j];
    [u, next] = [next, u];
    times(a, k + 1, m, n, u, w, v, reflection.tau, y);
  }
  return { d, e, u: accumulate(left, tauLeft, n), v: accumulate(right, tauRight, n, 1) };
}

/** Rows k.. of a, columns after k: a -= u wᵀ + y vᵀ, and sums += nextᵀ a; two rows at a time. */
function settle(a: Float64Array, k: number, m: number, n: number, u: Float64Array, w: Float64Array, y: Float64Array, v: Float64Array, next: Float64Array, sums: Float64Array): void {
  let i = k;
  for (; i + 2 <= m; i += 2) {
    const u0 = u[i], y0 = y[i], z0 = next[i], u1 = u[i + 1], y1 = y[i + 1], z1 = next[i + 1];
    for (let j = k + 1, p = i * n + k + 1, q = p + n; j < n; j++, p++, q++) {
      const wj = w[j], vj = v[j], s = a[p] - u0 * wj - y0 * vj, t = a[q] - u1 * wj - y1 * vj;
      a[p] = s;
      a[q] = t;
      sums[j] += z0 * s + z1 * t;
    }
  }
  for (; i < m; i++) for (let j = k + 1; j < n; j++) {
    const s = a[i * n + j] -= u[i] * w[j] + y[i] * v[j];
    sums[j] += next[i] * s;
  }
}

/** y ← tau (a - u wᵀ) v on rows from `from` and columns from it too; four rows at a time. */
export function times(a: Float64Array, from: number, m: number, n: number, u: Float64Array, w: Float64Array, v: Float64Array, tau: number, y: Float64Array): void {
  let wv = 0, i = from;
  for (let j = from; j < n; j++) wv += w[j] * v[j];
  for (; i + 4 <= m; i += 4) {
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (let j = from, p = i * n + from; j < n; j++, p++) {
      const x = v[j];
      s0 += a[p] * x;
      s1 += a[p + n] * x;
      s2 += a[p + 2 * n] * x;
      s3 += a[p + 3 * n] * x;
    }
    y[i] = tau * (s0 - u[i] * wv);
    y[i + 1] = tau * (s1 - u[i + 1] * wv);
    y[i + 2] = tau * (s2 - u[i + 2] * wv);
    y[i + 3] = tau * (s3 - u[i + 3] * wv);
  }
  for (; i < m; i++) {
    let s = 0;
    for (let j = from; j < n; j++) s += a[i * n + j] * v[j];
    y[i] = tau * (s - u[i] * wv);
  }
}

/** The smaller singular value of (f g; 0 h), to full relative accuracy (Demmel & Kahan 1990, 2x2 case). */
function smaller(f: number, g: number, h: number): number {
  const [low, high] = Math.abs(f) < Math.abs(h) ? [Math.abs(f), Math.abs(h)] : [Math.abs(h), Math.abs(f)], side = Math.abs(g);
  if (low === 0) return 0;
  const scale = Math.max(high, side), l = low / scale, x = high / scale, s = side / scale;
  return low * (2 * x / (length(x + l, s) + length(x - l, s)));
}

/**
 * Makes e zero in place: B = U diag(d) Vᵀ, with u and v following. Implicitly shifted QR (Golub & Reinsch 1970); without a shift where
 * B is singular to rounding, which keeps tiny values accurate and splits off zeros (Demmel & Kahan 1990). A sweep runs from the end
 * with the larger entry, so graded matrices converge from either side: from below it is the same sweep of J Bᵀ J.
 * An entry of e is zero when it is below rounding beside its neighbours in d, or beside 1/16 of the largest of all.
 * Returns how many sweeps it took: about two a value where nothing is graded, fewer where it is.
 */
export function diagonalise({ d, e, u, v }: Bidiagonal): number {
  const n = d.length, sweepsU = new Sweeps(u.data, n), sweepsV = new Sweeps(v.data, n), right: Rotation = { c: 1, s: 0, r: 0 }, left: Rotation = { c: 1, s: 0, r: 0 };
  let most = 0, hi = n - 1;
  for (let i = 0; i < n; i++) most = Math.max(most, Math.abs(d[i]), i + 1 < n ? Math.abs(e[i]) : 0);
  const negligible = (i: number): boolean => Math.abs(e[i]) <= EPSILON * Math.max(Math.abs(d[i]) + Math.abs(d[i + 1]), most / 16);
  let count = 0;
  while (hi > 0) {
    if (negligible(hi - 1)) { e[--hi] = 0; continue; }
    if (count++ > 40 * n) throw new AdjointError("svd: the QR iteration did not converge", { op: "svd", fix: "report the matrix; no known one does this" });
    let lo = hi - 1;
    while (lo > 0 && !negligible(lo - 1)) lo--;
    if (lo > 0) e[lo - 1] = 0;
    sweep(lo, hi);
  }
  sweepsU.flush();
  sweepsV.flush();
  return count;

  function sweep(lo: number, hi: number): void {
    const up = Math.abs(d[lo]) < Math.abs(d[hi]), step = up ? -1 : 1, first = up ? hi : lo, count = hi - lo;
    const a = up ? sweepsU : sweepsV, b = up ? sweepsV : sweepsU, D = (i: number): number => first + step * i, E = (i: number): number => (up ? hi - 1 - i : lo + i);
    a.begin(first, step, count);
    b.begin(first, step, count);
    let low = Infinity, high = 0;
    for (let i = lo; i <= hi; i++) {
      low = Math.min(low, Math.abs(d[i]));
      high = Math.max(high, Math.abs(d[i]));
    }
    const shift = low <= EPSILON * high ? 0 : smaller(d[D(count - 1)], e[E(count - 1)], d[D(count)]), d0 = d[D(0)];
    if (shift === 0 || (shift / d0) ** 2 < EPSILON) {
      right.c = left.c = 1;
      for (let i = 0; i < count; i++) {
        const before = left.s;
        rotate(d[D(i)] * right.c, e[E(i)], right);
        if (i > 0) e[E(i - 1)] = before * right.r;
        rotate(left.c * right.r, d[D(i + 1)] * right.s, left);
        d[D(i)] = left.r;
        a.push(right.c, right.s);
        b.push(left.c, left.s);
      }
      const last = d[D(count)] * right.c;
      d[D(count)] = last * left.c;
      e[E(count - 1)] = last * left.s;
      return;
    }
    let f = (Math.abs(d0) - shift) * (Math.sign(d0) + shift / d0), g = e[E(0)];
    for (let i = 0; i < count; i++) {
      rotate(f, g, right);
      if (i > 0) e[E(i - 1)] = right.r;
      const x = d[D(i)], z = e[E(i)], y = d[D(i + 1)], t = right.c * z - right.s * x;
      f = right.c * x + right.s * z;
      g = right.s * y;
      const below = right.c * y;
      rotate(f, g, left);
      d[D(i)] = left.r;
      f = left.c * t + left.s * below;
      d[D(i + 1)] = left.c * below - left.s * t;
      e[E(i)] = f;
      if (i + 1 < count) {
        g = left.s * e[E(i + 1)];
        e[E(i + 1)] = left.c * e[E(i + 1)];
      }
      a.push(right.c, right.s);
      b.push(left.c, left.s);
    }
  }
}
