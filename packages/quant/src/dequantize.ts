/** From codes and scales back to f32. */
import { ShapeError } from "@adjoint/tensor";
import { decodeChunks } from "./chunks.ts";
import { blocksOf, scaleValues, sizeOf } from "./quantized.ts";
import type { Quantized } from "./quantized.ts";

/**
 * `value(e) = fround(fround(table[code(e)] * scale(b)) - min(b))` for all elements, row-major: one look-up and one product, the same bits everywhere.
 *
 * @param into where they go, and what is given back (default: an array of their own, whose fresh memory costs several times the decoding)
 * @throws ShapeError if `into` has another length
 */
export function dequantize(q: Quantized, into?: Float32Array): Float32Array {
  const { format, shape, block, codes, scales, mins } = q, { table, bits } = format;
  const n = sizeOf(shape), blocks = blocksOf(q), x = into ?? new Float32Array(n), scale = scaleValues(scales, blocks), min = mins === undefined ? null : scaleValues(mins, blocks);
  if (x.length !== n) throw new ShapeError(`dequantize: into has ${x.length} places, [${shape.join(", ")}] needs ${n}`, { op: "dequantize", key: "into", shapes: [shape, [x.length]] });
  const value = new Float32Array(table.length), done = decodeChunks(codes, format, block, scale, min, x);
  if (bits === 8 && min !== null) for (let e = 0, end = done * block; e < end; e++) x[e] -= min[Math.floor(e / block)]; // the loops of 8 bits know of no minima
  for (let b = done; b < blocks; b++) {
    const from = b * block, to = Math.min(n, from + block), s = scale[b], m = min === null ? 0 : min[b];
    if (bits === 8) {
      for (let e = from; e < to; e++) x[e] = Math.fround(table[codes[e]] * s) - m;
      continue;
    }
    for (let code = 0; code < 16; code++) value[code] = min === null ? table[code] * s : Math.fround(table[code] * s) - m;
    for (let e = from; e < to; e++) x[e] = value[(e & 1) === 0 ? codes[e >> 1] >> 4 : codes[e >> 1] & 15];
  }
  return x;
}

/** One element's code. */
export const codeAt = ({ format, codes }: Quantized, e: number): number => (format.bits === 8 ? codes[e] : (e & 1) === 0 ? codes[e >> 1] >> 4 : codes[e >> 1] & 15);
