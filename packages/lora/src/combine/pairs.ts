/** Pairs of factors B A as matrices on the host: side by side, as one product, and back by singular values. */
import { type Matrix, product, qr, quantile, scaleColumns, scaleRows, svd, transposed, truncate } from "@adjoint/tensor";

/** B A: B (out, r), A (r, in). */
export interface Pair {
  readonly A: Matrix;
  readonly B: Matrix;
}
/** w s B A. */
export interface Weighted extends Pair {
  readonly weight: number;
  readonly scale: number;
}

/** s B A. */
export const deltaOf = ({ A, B, scale }: Weighted): Matrix => { const d = product(B, A); return { ...d, data: d.data.map((v) => v * scale) }; };

/** [B_1, B_2, ...] and [w_1 s_1 A_1; w_2 s_2 A_2; ...], whose product is Σ w s B A. */
export function concatenated(parts: readonly Weighted[]): Pair {
  const rank = parts.reduce((n, { A }) => n + A.rows, 0), { cols } = parts[0].A, { rows } = parts[0].B, a = new Float64Array(rank * cols), b = new Float64Array(rows * rank);
  let from = 0;
  for (const { A, B, weight, scale } of parts) {
    a.set(A.data.map((v) => v * weight * scale), from * cols);
    for (let o = 0; o < rows; o++) b.set(B.data.subarray(o * B.cols, (o + 1) * B.cols), o * rank + from);
    from += A.rows;
  }
  return { A: { rows: rank, cols, data: a }, B: { rows, cols: rank, data: b } };
}

/** U_k S_k and V_kᵀ of a matrix: its best approximation of rank k (Eckart & Young). */
export function topSingular(delta: Matrix, k: number): Pair {
  const { u, s, vt } = truncate(svd(delta), k);
  return { B: scaleColumns(u, s), A: vt };
}

/** The same of a product of thin factors without forming it: B = Q_b R_b, Aᵀ = Q_a R_a, and the singular values of R_b R_aᵀ. O((out + in) r²). */
export function factored({ A, B }: Pair, k: number): Pair {
  const b = qr(B), a = qr(transposed(A)), inner = topSingular(product(b.r, a.r, { transposeB: true }), k);
  return signed({ B: product(b.q, inner.B), A: product(inner.A, a.q, { transposeB: true }) });
}
/** In each column of B the entry of the largest magnitude (the first of those within a millionth of it) is positive, as `svd` has it of U. */
function signed({ A, B }: Pair): Pair {
  const sign = Float64Array.from({ length: B.cols }, (_, j) => {
    const column = Array.from({ length: B.rows }, (__, i) => B.data[i * B.cols + j]), most = Math.max(...column.map(Math.abs));
    return (column.find((v) => Math.abs(v) >= most * (1 - 1e-6)) ?? 0) < 0 ? -1 : 1;
  });
  return { A: scaleRows(A, sign), B: scaleColumns(B, sign) };
}

/** Both factors cut at ± a quantile of their magnitudes (`signed`: of the numbers themselves, which depends on the signs that the decomposition chose). */
export function clamped({ A, B }: Pair, q: number, signed: boolean): Pair {
  const all = [...B.data, ...A.data], high = quantile(signed ? all : all.map(Math.abs), q), cut = (m: Matrix): Matrix => ({ ...m, data: m.data.map((v) => Math.min(high, Math.max(-high, v))) });
  return { A: cut(A), B: cut(B) };
}
