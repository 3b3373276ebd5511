/** Products of f64 matrices on one core: blocks packed for the cache, and a 4 x 4 tile of sums in registers. */
import { ShapeError } from "../errors.ts";
import { type Matrix, shapeOf, zeroMatrix } from "./matrix.ts";

/** Where element (i, j) of a part of a matrix lies: `data[at + i * row + j * col]`. */
export interface View {
  readonly data: Float64Array;
  readonly at: number;
  readonly row: number;
  readonly col: number;
}
/** The part of a matrix from (i, j) on. */
export const view = (a: Matrix, i = 0, j = 0): View => ({ data: a.data, at: i * a.cols + j, row: a.cols, col: 1 });
/** The same numbers with rows and columns exchanged. */
export const turned = (v: View): View => ({ data: v.data, at: v.at, row: v.col, col: v.row });

/** Rows of A, inner elements and columns of B that are packed at a time: A's part (128 KiB) stays in the second cache, a strip of it in the first. */
const MC = 64, KC = 256, NC = 512;

/** Copies `count` rows (by `row`) of `k` elements (by `col`) in strips of four, inner index slowest; missing rows are zeros. */
function pack(out: Float64Array, data: Float64Array, at: number, row: number, col: number, count: number, k: number): void {
  for (let i = 0, o = 0; i < count; i += 4) {
    if (i + 4 <= count) {
      let p = at + i * row;
      for (let j = 0; j < k; j++, p += col, o += 4) {
        out[o] = data[p];
        out[o + 1] = data[p + row];
        out[o + 2] = data[p + 2 * row];
        out[o + 3] = data[p + 3 * row];
      }
    } else for (let j = 0; j < k; j++) for (let t = 0; t < 4; t++) out[o++] = i + t < count ? data[at + (i + t) * row + j * col] : 0;
  }
}

/** sums[4 i + j] = Σ a[4 p + i]·b[4 p + j] over k values of p: sixteen sums that live in registers. */
function tile(sums: Float64Array, a: Float64Array, ia: number, b: Float64Array, ib: number, k: number): void {
  let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0, s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
  for (let p = 0; p < k; p++, ia += 4, ib += 4) {
    const b0 = b[ib], b1 = b[ib + 1], b2 = b[ib + 2], b3 = b[ib + 3];
    let x = a[ia];
    s00 += x * b0; s01 += x * b1; s02 += x * b2; s03 += x * b3;
    x = a[ia + 1];
    s10 += x * b0; s11 += x * b1; s12 += x * b2; s13 += x * b3;
    x = a[ia + 2];
    s20 += x * b0; s21 += x * b1; s22 += x * b2; s23 += x * b3;
    x = a[ia + 3];
    s30 += x * b0; s31 += x * b1; s32 += x * b2; s33 += x * b3;
  }
  sums[0] = s00; sums[1] = s01; sums[2] = s02; sums[3] = s03;
  sums[4] = s10; sums[5] = s11; sums[6] = s12; sums[7] = s13;
  sums[8] = s20; sums[9] = s21; sums[10] = s22; sums[11] = s23;
  sums[12] = s30; sums[13] = s31; sums[14] = s32; sums[15] = s33;
}

/** C ← C + alpha·A·B with C (m, n), A (m, k), B (k, n); C must not overlap A or B. Goto & van de Geijn 2008. */
export function addProduct(m: number, n: number, k: number, alpha: number, a: View, b: View, c: View): void {
  const up4 = (x: number): number => (x + 3) & ~3, depth = Math.min(k, KC);
  const ap = new Float64Array(up4(Math.min(m, MC)) * depth), bp = new Float64Array(up4(Math.min(n, NC)) * depth), sums = new Float64Array(16);
  for (let j0 = 0; j0 < n; j0 += NC) for (let p0 = 0; p0 < k; p0 += KC) {
    const nc = Math.min(NC, n - j0), kc = Math.min(KC, k - p0);
    pack(bp, b.data, b.at + p0 * b.row + j0 * b.col, b.col, b.row, nc, kc);
    for (let i0 = 0; i0 < m; i0 += MC) {
      const mc = Math.min(MC, m - i0);
      pack(ap, a.data, a.at + i0 * a.row + p0 * a.col, a.row, a.col, mc, kc);
      for (let j = 0; j < nc; j += 4) for (let i = 0; i < mc; i += 4) {
        tile(sums, ap, i * kc, bp, j * kc, kc);
        const rows = Math.min(4, mc - i), cols = Math.min(4, nc - j);
        for (let t = 0; t < rows; t++) {
          let o = c.at + (i0 + i + t) * c.row + (j0 + j) * c.col;
          for (let u = 0; u < cols; u++, o += c.col) c.data[o] += alpha * sums[4 * t + u];
        }
      }
    }
  }
}

/** Options of `product`: read a factor as its transpose, without a copy of it. */
export interface ProductOptions {
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
}
/**
 * A·B (or Aᵀ·B, A·Bᵀ, Aᵀ·Bᵀ) in f64: (m, k) times (k, n) is (m, n).
 * @throws ShapeError where the inner sizes differ
 * @example product(w, q, { transposeA: true })
 */
export function product(a: Matrix, b: Matrix, { transposeA = false, transposeB = false }: ProductOptions = {}): Matrix {
  const [m, k] = transposeA ? [a.cols, a.rows] : [a.rows, a.cols], [k2, n] = transposeB ? [b.cols, b.rows] : [b.rows, b.cols];
  if (k !== k2) throw new ShapeError(`product: (${m}, ${k}) times (${k2}, ${n}) has inner sizes ${k} and ${k2}`, { op: "product", shapes: [shapeOf(a), shapeOf(b)], fix: "transpose a factor: { transposeA: true } or { transposeB: true }" });
  const out = zeroMatrix(m, n), va = view(a), vb = view(b);
  addProduct(m, n, k, 1, transposeA ? turned(va) : va, transposeB ? turned(vb) : vb, view(out));
  return out;
}

/** A·diag(s): column j times s[j]. @throws ShapeError unless s has a number for each column */
export function scaleColumns(a: Matrix, s: ArrayLike<number>): Matrix {
  if (s.length !== a.cols) throw new ShapeError(`scaleColumns: ${s.length} numbers for ${a.cols} columns`, { op: "scaleColumns", shapes: [shapeOf(a), [s.length]], fix: "pass one number a column" });
  return { rows: a.rows, cols: a.cols, data: a.data.map((x, i) => x * s[i % a.cols]) };
}
/** diag(s)·A: row i times s[i]. @throws ShapeError unless s has a number for each row */
export function scaleRows(a: Matrix, s: ArrayLike<number>): Matrix {
  if (s.length !== a.rows) throw new ShapeError(`scaleRows: ${s.length} numbers for ${a.rows} rows`, { op: "scaleRows", shapes: [shapeOf(a), [s.length]], fix: "pass one number a row" });
  return { rows: a.rows, cols: a.cols, data: a.data.map((x, i) => x * s[Math.floor(i / a.cols)]) };
}
