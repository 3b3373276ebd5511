/** LLM.int8 (Dettmers et al., arXiv 2208.07339): rows in int8, columns with outliers apart; the host's reference of the product. */
import { ConfigError, ShapeError } from "@adjoint/tensor";
import { dequantize } from "./dequantize.ts";
import { quantize } from "./quantize.ts";
import { sizeOf } from "./quantized.ts";
import type { Named, Quantized } from "./quantized.ts";

/** Activations in int8, a scale a row. */
export interface Int8Rows {
  /** int8 in blocks of a row; columns with outliers are 0 */
  readonly rows: Quantized;
  /** columns in which some |x| reaches the threshold, ascending */
  readonly outliers: readonly number[];
}

/**
 * Rows of x in int8: `scale_i = max |x_ij|` over what is below the threshold, `code = round(x * fround(127 / scale_i))`, ties to even.
 *
 * @param threshold a column with some |x| at or above it is an outlier, and 0 in the codes; 0 means no column is (default 6)
 */
export function int8Rows(x: Float32Array, shape: readonly [number, number], { threshold = 6, ...named }: Named & { readonly threshold?: number } = {}): Int8Rows {
  const [rows, columns] = shape;
  if (x.length !== rows * columns) throw new ShapeError(`int8Rows: ${x.length} values, [${rows}, ${columns}] needs ${rows * columns}`, { op: "int8Rows", shapes: [shape] });
  if (!(threshold >= 0)) throw new ConfigError(`threshold ${threshold}`, { op: "int8Rows", key: "threshold", value: threshold, fix: "0 for none, else a number above 0" });
  const block = Math.max(1, columns);
  if (threshold === 0) return { rows: quantize(x, shape, { format: "int8", block, ...named }), outliers: [] };
  const has = new Uint8Array(columns), inside = x.slice();
  for (let e = 0; e < x.length; e++) {
    if (Math.abs(x[e]) < threshold) continue;
    has[e % columns] = 1;
    inside[e] = 0;
  }
  const outliers = [...has.keys()].filter((column) => has[column] === 1);
  const q = quantize(inside, shape, { format: "int8", block, ...named }); // scales see the rest of such a column, codes do not
  for (const column of outliers) for (let row = 0; row < rows; row++) q.codes[row * columns + column] = 0;
  return { rows: q, outliers };
}

/**
 * `y = x Wᵀ + bias` as LLM.int8 computes it: `(Cx CWᵀ) s_x s_W / 127²` in whole numbers, plus `x_J dq(W_J)ᵀ` over the columns J of outliers.
 *
 * The gradient goes through the codes as if they were a constant matrix: `dX = G dq(W)`, which is what a product with `dequantize(weight)` gives.
 * @param x [rows, in]
 * @param weight int8 in blocks of a row, [out, in]
 */
export function int8Linear(x: Float32Array, rows: number, weight: Quantized, { threshold = 6, bias }: { readonly threshold?: number; readonly bias?: Float32Array } = {}): Float32Array {
  const [out, columns] = weight.shape;
  if (weight.format.name !== "int8" || weight.shape.length !== 2 || weight.block !== columns || weight.scales.nested !== undefined) {
    throw new ConfigError(`int8Linear: the weight is ${weight.format.name} [${weight.shape.join(", ")}] in blocks of ${weight.block}`, { op: "int8Linear", key: "weight", fix: "quantize it to int8 with block = columns" });
  }
  if (bias !== undefined && bias.length !== out) throw new ShapeError(`int8Linear: bias has ${bias.length} numbers, the weight ${out} rows`, { op: "int8Linear", key: "bias", shapes: [[bias.length], [out]] });
  const { rows: { codes, scales }, outliers } = int8Rows(x, [rows, columns], { threshold });
  const a = new Int8Array(codes.buffer, codes.byteOffset, codes.length), w = new Int8Array(weight.codes.buffer, weight.codes.byteOffset, sizeOf(weight.shape));
  const y = new Float32Array(rows * out), full = outliers.length > 0 ? dequantize(weight) : null;
  for (let i = 0; i < rows; i++) {
    for (let o = 0; o < out; o++) {
      let whole = 0, apart = 0;
      for (let j = 0; j < columns; j++) whole += a[i * columns + j] * w[o * columns + j];
      if (full !== null) for (const j of outliers) apart += x[i * columns + j] * full[o * columns + j];
      y[i * out + o] = (whole * scales.values[i] * weight.scales.values[o]) / 16129 + apart + (bias === undefined ? 0 : bias[o]);
    }
  }
  return y;
}
