/** Double quantization: the scales themselves in 8 bits, around their mean (QLoRA, arXiv 2305.14314, section 3). */
import { encodeChunks } from "./chunks.ts";
import { encoders } from "./encode.ts";
import { formats } from "./format.ts";
import type { Scales } from "./quantized.ts";

/** Scales that share a scale of their own. */
export const NESTED_BLOCK = 256;

/**
 * `offset = mean(scales)`, `codes = dynamic8(scales - offset)` in blocks of 256: 8.125 bits a scale instead of 32.
 *
 * 4 + 32/64 = 4.5 bits a parameter become 4 + 8/64 + 32/(64 * 256) = 4.127. The mean is summed in f64 and rounded once.
 */
export function doubleQuantize(scales: Float32Array): Scales {
  const encode = encoders.dynamic8, n = scales.length;
  if (encode === null) throw new Error("dynamic8 has no encoder");
  let sum = 0;
  for (let i = 0; i < n; i++) sum += scales[i];
  const offset = n === 0 ? 0 : Math.fround(sum / n), x = new Float32Array(n);
  for (let i = 0; i < n; i++) x[i] = scales[i] - offset;
  const codes = new Uint8Array(n), values = new Float32Array(Math.ceil(n / NESTED_BLOCK)), scaled = new Float32Array(NESTED_BLOCK), bits = new Uint32Array(scaled.buffer);
  const one = (b: number): void => {
    const from = b * NESTED_BLOCK, to = Math.min(n, from + NESTED_BLOCK);
    let absmax = 0;
    for (let i = from; i < to; i++) absmax = Math.max(absmax, Math.abs(x[i]));
    values[b] = encode({ x, from, to, absmax, short: to - from < NESTED_BLOCK, scaled, bits, codes: codes.subarray(from, to) });
  };
  for (let b = encodeChunks(x, "f32", formats.dynamic8, NESTED_BLOCK, values, codes, one); b < values.length; b++) one(b);
  return { values, nested: { codes, table: formats.dynamic8.table, block: NESTED_BLOCK, offset } };
}
