/** From codes and scales back to f32. */
import { blocksOf, scaleValues, sizeOf } from "./quantized.ts";
import type { Quantized } from "./quantized.ts";

/** `value(e) = fround(fround(table[code(e)] * scale(b)) - min(b))` for all elements, row-major: one look-up and one product, the same bits everywhere. */
export function dequantize(q: Quantized): Float32Array {
  const { format: { table, bits }, shape, block, codes, scales, mins } = q;
  const n = sizeOf(shape), blocks = blocksOf(q), x = new Float32Array(n), scale = scaleValues(scales, blocks), min = mins === undefined ? null : scaleValues(mins, blocks);
  const value = new Float32Array(table.length);
  for (let b = 0; b < blocks; b++) {
    const from = b * block, to = Math.min(n, from + block), s = scale[b], m = min === null ? 0 : min[b];
    if (bits === 8) {
      for (let e = from; e < to; e++) x[e] = table[codes[e]] * s;
      continue;
    }
    for (let code = 0; code < 16; code++) value[code] = min === null ? table[code] * s : Math.fround(table[code] * s) - m;
    for (let e = from; e < to; e++) x[e] = value[(e & 1) === 0 ? codes[e >> 1] >> 4 : codes[e >> 1] & 15];
  }
  return x;
}

/** One element's code. */
export const codeAt = ({ format, codes }: Quantized, e: number): number => (format.bits === 8 ? codes[e] : (e & 1) === 0 ? codes[e >> 1] >> 4 : codes[e >> 1] & 15);
