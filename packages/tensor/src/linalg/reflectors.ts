/** Householder reflections H = I - τ v vᵀ, one at a time and in blocks I - V T Vᵀ (Schreiber & Van Loan 1989). */
import { identityMatrix, type Matrix, zeroMatrix } from "./matrix.ts";
import { addProduct, turned, view } from "./product.ts";
import { length } from "./rotations.ts";

/** ‖x‖ of x[from..to), without overflow or underflow on the way. */
export function norm(x: Float64Array, from: number, to: number): number {
  let sum = 0;
  for (let i = from; i < to; i++) sum += x[i] * x[i];
  if (sum > 1e-280 && sum < 1e280) return Math.sqrt(sum);
  let most = 0;
  for (let i = from; i < to; i++) most = Math.max(most, Math.abs(x[i]));
  if (most === 0) return 0;
  sum = 0;
  for (let i = from; i < to; i++) sum += (x[i] / most) ** 2;
  return most * Math.sqrt(sum);
}

/** What a reflection left behind. */
export interface Reflection {
  /** H x = (beta, 0, ..., 0) */
  readonly beta: number;
  /** in [1, 2], or 0 where H = I */
  readonly tau: number;
}
/**
 * Turns x[from..to) into v with v[from] = 1 such that H = I - τ v vᵀ maps x to (beta, 0, ...): beta = -sign(x₀)·‖x‖, so nothing cancels.
 * Where all but x₀ is zero, H = I and beta = x₀ of either sign, as LAPACK's dlarfg does, whose signs torch's and PEFT's R have.
 */
export function reflect(x: Float64Array, from: number, to: number): Reflection {
  const alpha = x[from], rest = norm(x, from + 1, to);
  x[from] = 1;
  if (rest === 0) return { beta: alpha, tau: 0 };
  const size = length(alpha, rest), beta = alpha < 0 ? size : -size, first = alpha - beta;
  for (let i = from + 1; i < to; i++) x[i] /= first;
  return { beta, tau: -first / beta };
}

/** Reflections in one block; more make T dear, fewer leave the products thin. */
export const BLOCK = 32;

/** T (k, k), upper triangular, with H₀ H₁ ... = I - V T Vᵀ for columns [from, from + k) of V, whose rows above `top` are zero there. */
export function triangle(v: Matrix, tau: Float64Array, from: number, k: number, top: number): Matrix {
  const t = zeroMatrix(k, k), gram = zeroMatrix(k, k), columns = view(v, top, from);
  addProduct(k, k, v.rows - top, 1, turned(columns), columns, view(gram));
  for (let i = 0; i < k; i++) {
    t.data[i * k + i] = tau[from + i];
    for (let r = 0; r < i; r++) {
      let sum = 0;
      for (let p = r; p < i; p++) sum += t.data[r * k + p] * gram.data[p * k + i];
      t.data[r * k + i] = -tau[from + i] * sum;
    }
  }
  return t;
}

/** A ← (I - V T Vᵀ) A, or with Tᵀ, on rows from `top` and columns from `left`: for columns [from, from + k) of V. */
export function applyBlock(v: Matrix, t: Matrix, from: number, top: number, a: Matrix, left: number, transposeT: boolean): void {
  const k = t.rows, rows = v.rows - top, cols = a.cols - left, columns = view(v, top, from), part = view(a, top, left);
  const vta = zeroMatrix(k, cols), w = zeroMatrix(k, cols);
  addProduct(k, cols, rows, 1, turned(columns), part, view(vta));
  addProduct(k, cols, k, 1, transposeT ? turned(view(t)) : view(t), view(vta), view(w));
  addProduct(rows, cols, k, -1, columns, view(w), part);
}

/** The first `cols` columns of H₀ H₁ ..., where reflection i (column i of V) begins at row i + shift. */
export function accumulate(v: Matrix, tau: Float64Array, cols: number, shift = 0): Matrix {
  const q = identityMatrix(v.rows, cols);
  for (let from = Math.floor((v.cols - 1) / BLOCK) * BLOCK; from >= 0; from -= BLOCK) {
    const k = Math.min(BLOCK, v.cols - from), top = from + shift;
    applyBlock(v, triangle(v, tau, from, k, top), from, top, q, top, false);
  }
  return q;
}
