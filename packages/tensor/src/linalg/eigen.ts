/** Eigenvalues and eigenvectors of symmetric matrices, by a tridiagonal form and implicit QR. */
import { AdjointError, ConfigError } from "../errors.ts";
import { times } from "./bidiagonal.ts";
import { largest, type Matrix, square, zeroMatrix } from "./matrix.ts";
import { accumulate, reflect } from "./reflectors.ts";
import { length, rotate, type Rotation, Sweeps } from "./rotations.ts";
import { signs } from "./svd.ts";

const EPSILON = 2 ** -52;

export interface Eigen {
  /** n eigenvalues, from the smallest */
  readonly values: Float64Array;
  /** (n, n), orthogonal; column j belongs to value j, and its largest entry (the first of those within a millionth) is positive */
  readonly vectors: Matrix;
}

/** Throws ConfigError unless A = Aᵀ up to rounding (n·2^-50 of the largest entry). */
export function symmetric(op: string, a: Matrix): Matrix {
  const n = square(op, a).rows, limit = n * 2 ** -50 * largest(a.data);
  for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) {
    const gap = a.data[i * n + j] - a.data[j * n + i];
    if (Math.abs(gap) > limit) throw new ConfigError(`${op}: A is not symmetric: elements (${i}, ${j}) and (${j}, ${i}) are ${gap} apart`, { op, key: "a", value: gap, fix: "pass (A + Aᵀ) / 2, if that is what you mean" });
  }
  return a;
}

/**
 * A = V diag(values) Vᵀ for A = Aᵀ (n, n): values from the smallest to the largest (as torch.linalg.eigh), VᵀV = I. O(n³).
 * Source: Golub & Van Loan, 8.3 (Householder's tridiagonal form, Wilkinson's shift).
 * @throws ShapeError unless A is square; ConfigError where it is not symmetric, and for NaN and infinity
 * @example const { values, vectors } = eigSymmetric(product(b, b, { transposeA: true }))
 */
export function eigSymmetric(a: Matrix): Eigen {
  const n = symmetric("eigSymmetric", a).rows, most = largest(a.data), unit = most === 0 ? 1 : 2 ** Math.max(-1000, Math.min(1000, Math.floor(Math.log2(most))));
  const { d, e, v } = tridiagonalise(n, a.data.map((x) => x / unit));
  diagonalise(d, e, v);
  const order = Array.from(d, (_, i) => i).sort((i, j) => d[i] - d[j] || i - j), vectors = zeroMatrix(n, n);
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) vectors.data[i * n + j] = v.data[i * n + order[j]];
  const sign = signs(vectors);
  for (let i = 0; i < n * n; i++) vectors.data[i] *= sign[i % n];
  return { values: Float64Array.from(order, (i) => d[i] * unit), vectors };
}

/** A = V T Vᵀ with T tridiagonal: diagonal d, and e beside it. */
function tridiagonalise(n: number, a: Float64Array): { d: Float64Array; e: Float64Array; v: Matrix } {
  const steps = Math.max(0, n - 1), d = new Float64Array(n), e = new Float64Array(steps), reflections = zeroMatrix(n, steps), tau = new Float64Array(steps);
  const x = new Float64Array(n), y = new Float64Array(n), none = new Float64Array(n);
  for (let k = 0; k < steps; k++) {
    d[k] = a[k * n + k];
    for (let i = k + 1; i < n; i++) x[i] = a[i * n + k];
    const { beta, tau: t } = reflect(x, k + 1, n);
    e[k] = beta;
    tau[k] = t;
    for (let i = k + 1; i < n; i++) reflections.data[i * steps + k] = x[i];
    let xy = 0;
    times(a, k + 1, n, n, none, none, x, t, y);
    for (let i = k + 1; i < n; i++) xy += x[i] * y[i];
    for (let i = k + 1; i < n; i++) y[i] -= t * xy / 2 * x[i];
    for (let i = k + 1; i < n; i++) subtractBoth(a, i * n, k + 1, n, x, y, x[i], y[i]);
  }
  if (n > 0) d[n - 1] = a[n * n - 1];
  return { d, e, v: n === 0 ? zeroMatrix(0, 0) : steps === 0 ? accumulate(zeroMatrix(1, 0), tau, 1) : accumulate(reflections, tau, n, 1) };
}

/** a[row + j] -= xi·y[j] + yi·x[j] for j in [from, n). */
function subtractBoth(a: Float64Array, row: number, from: number, n: number, x: Float64Array, y: Float64Array, xi: number, yi: number): void {
  for (let j = from, p = row + from; j < n; j++, p++) a[p] -= xi * y[j] + yi * x[j];
}

/** Makes e zero in place, v following; zero is what rounding beside its neighbours, or beside 1/16 of the largest entry, could have made. */
function diagonalise(d: Float64Array, e: Float64Array, v: Matrix): void {
  const n = d.length, sweeps = new Sweeps(v.data, n), g: Rotation = { c: 1, s: 0, r: 0 }, most = Math.max(largest(d), largest(e));
  const negligible = (i: number): boolean => Math.abs(e[i]) <= EPSILON * Math.max(Math.abs(d[i]) + Math.abs(d[i + 1]), most / 16);
  for (let hi = n - 1, count = 0; hi > 0;) {
    if (negligible(hi - 1)) { e[--hi] = 0; continue; }
    if (count++ > 40 * n) throw new AdjointError("eigSymmetric: the QR iteration did not converge", { op: "eigSymmetric", fix: "report the matrix; no known one does this" });
    let lo = hi - 1;
    while (lo > 0 && !negligible(lo - 1)) lo--;
    if (lo > 0) e[lo - 1] = 0;
    const half = (d[hi - 1] - d[hi]) / 2, last = e[hi - 1], shift = d[hi] - last * last / (half + (half < 0 ? -1 : 1) * length(half, last));
    let x = d[lo] - shift, z = e[lo];
    sweeps.begin(lo, 1, hi - lo);
    for (let k = lo; k < hi; k++) {
      rotate(x, z, g);
      const { c, s, r } = g, p = d[k], q = d[k + 1], o = e[k];
      if (k > lo) e[k - 1] = r;
      d[k] = c * c * p + 2 * c * s * o + s * s * q;
      d[k + 1] = s * s * p - 2 * c * s * o + c * c * q;
      x = e[k] = c * s * (q - p) + (c * c - s * s) * o;
      if (k + 1 < hi) {
        z = s * e[k + 1];
        e[k + 1] *= c;
      }
      sweeps.push(c, s);
    }
  }
  sweeps.flush();
}
