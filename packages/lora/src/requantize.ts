/** Merging into weights that are held as codes: decode, add, quantize again, and say what that lost. */
import { dequantize, quantize, type Quantized } from "@adjoint/quant";

/** What quantizing a merged weight again lost. */
export interface RequantizeError {
  readonly name: string;
  /** √mean (W' - W)² / √mean W², with W the decoded weight plus ΔW and W' what its codes give */
  readonly relative: number;
  /** ‖W' - W‖ / ‖ΔW‖: above 1 the rounding is larger than what was learned */
  readonly ofDelta: number;
  /** max |W' - W| */
  readonly max: number;
}

/** `sum` in the format, block size and scales of `old`. */
export function requantize(old: Quantized, sum: Float32Array, name: string): { readonly quantized: Quantized; readonly error: RequantizeError } {
  const { format, block, shape, dtype, scales } = old;
  const quantized = quantize(sum, shape, { format: format.name, block, dtype, name, ...(scales.nested === undefined ? {} : { doubleQuant: true }) });
  const before = dequantize(old), after = dequantize(quantized);
  let lost = 0, all = 0, delta = 0, max = 0;
  for (let i = 0; i < sum.length; i++) {
    const e = after[i] - sum[i], d = sum[i] - before[i];
    lost += e * e;
    all += sum[i] * sum[i];
    delta += d * d;
    max = Math.max(max, Math.abs(e));
  }
  return { quantized, error: { name, relative: all === 0 ? 0 : Math.sqrt(lost / all), ofDelta: delta === 0 ? 0 : Math.sqrt(lost / delta), max } };
}
