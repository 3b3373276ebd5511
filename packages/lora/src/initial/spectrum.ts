/** Parts of a singular value decomposition, and how its values are shared between A and B. */
import { type Matrix, scaleColumns, scaleRows, svd, type SVD, svdLowrank, transposed, zeroMatrix } from "@adjoint/tensor";
import type { Start } from "./initial.ts";

/** Columns `from`, `from + step`, ... of a matrix. */
export function columns(a: Matrix, indices: readonly number[]): Matrix {
  const out = zeroMatrix(a.rows, indices.length), n = indices.length;
  for (let i = 0; i < a.rows; i++) for (let j = 0; j < n; j++) out.data[i * n + j] = a.data[i * a.cols + indices[j]];
  return out;
}
/** These rows of a matrix. */
export const rows = (a: Matrix, indices: readonly number[]): Matrix => transposed(columns(transposed(a), indices));
/** n integers from `from` on. */
export const range = (from: number, n: number): readonly number[] => Array.from({ length: n }, (_, i) => from + i);

/** The first k directions of a matrix: exact where the random subspace would be nearly the whole space. */
export const leading = (a: Matrix, k: number, iterations: number, seed: number): SVD =>
  (k >= Math.min(a.rows, a.cols) ? svd(a) : svdLowrank(a, { rank: k, iterations, seed }));

/** B = U √(S / s), A = √(S / s) Vᵀ of the chosen directions, so that s B A = U S Vᵀ. */
export function shared({ u, s, vt }: SVD, chosen: readonly number[], scale: number): NonNullable<Start> {
  const root = chosen.map((i) => Math.sqrt(s[i] / scale));
  return { A: scaleRows(rows(vt, chosen), root), B: scaleColumns(columns(u, chosen), root) };
}
