/**
 * Principal components of data that arrive in batches, without keeping the data.
 *
 * The components so far, times their singular values, stand for all earlier rows; with the new rows and one row for the shift of the mean
 * they are decomposed again. Ross et al. 2008; scikit-learn's IncrementalPCA, which PEFT's EVA follows.
 */
import { type Matrix, scaleRows, type SVD, zeroMatrix } from "@adjoint/tensor";
import { leading, range, rows } from "./spectrum.ts";

/** Directions of largest variance. */
export class IncrementalPCA {
  readonly #count: number;
  readonly #seed: number;
  #seen = 0;
  #mean: Float64Array = new Float64Array(0);
  #variance: Float64Array = new Float64Array(0);
  /** (count, features), orthonormal rows; null before the first batch */
  components: Matrix | null = null;
  singularValues: Float64Array = new Float64Array(0);
  /** share of the whole variance along each */
  explained: Float64Array = new Float64Array(0);

  constructor(count: number, seed: number) {
    this.#count = count;
    this.#seed = seed;
  }

  /** Takes in the rows of x; too few of them (fewer than components) are left out, and the answer is false. */
  add(x: Matrix): boolean {
    const n = x.rows, d = x.cols;
    if (n < this.#count) return false;
    const batchMean = new Float64Array(d), total = this.#seen + n;
    for (let i = 0; i < n; i++) for (let j = 0; j < d; j++) batchMean[j] += x.data[i * d + j] / n;
    const centred = zeroMatrix(n, d), squares = new Float64Array(d);
    for (let i = 0; i < n; i++) for (let j = 0; j < d; j++) {
      const c = x.data[i * d + j] - batchMean[j];
      centred.data[i * d + j] = c;
      squares[j] += c * c;
    }
    const shift = batchMean.map((m, j) => (this.components === null ? 0 : m - this.#mean[j])), between = (this.#seen * n) / total;
    const stackedRows = this.components === null ? centred : this.#withPast(this.components, centred, shift, Math.sqrt(between));
    this.#variance = squares.map((s, j) => (s + between * shift[j] ** 2 + (this.#variance[j] ?? 0) * this.#seen) / total);
    this.#mean = batchMean.map((m, j) => (this.components === null ? m : this.#mean[j] + (shift[j] * n) / total));
    this.#seen = total;
    const { s, vt } = upright(leading(stackedRows, 2 * this.#count, 4, this.#seed)), all = this.#variance.reduce((a, b) => a + b, 0) * total;
    this.components = rows(vt, range(0, this.#count));
    this.singularValues = s.slice(0, this.#count);
    this.explained = this.singularValues.map((v) => (all === 0 ? 0 : (v * v) / all));
    return true;
  }

  #withPast(components: Matrix, centred: Matrix, shift: Float64Array, factor: number): Matrix {
    const past = scaleRows(components, this.singularValues), out = zeroMatrix(past.rows + centred.rows + 1, centred.cols);
    out.data.set(past.data);
    out.data.set(centred.data, past.data.length);
    out.data.set(shift.map((v) => -factor * v), past.data.length + centred.data.length);
    return out;
  }
}

/** The entry of largest magnitude in each right vector is positive: signs as scikit-learn fixes them. */
function upright({ u, s, vt }: SVD): SVD {
  const signs = Array.from(s, (_, i) => {
    const row = vt.data.subarray(i * vt.cols, (i + 1) * vt.cols);
    return row.reduce((best, v) => (Math.abs(v) > Math.abs(best) ? v : best), 0) < 0 ? -1 : 1;
  });
  return { u, s, vt: scaleRows(vt, signs) };
}
