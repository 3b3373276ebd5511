/** Quantizing host arrays of any float type; half floats are widened a piece at a time, so that no f32 copy of the whole exists. */
import { DTypeError, fromF16 } from "@adjoint/tensor";
import type { HostArray } from "@adjoint/tensor";
import { doubleQuantize } from "./double.ts";
import { blockOf, formatOf } from "./format.ts";
import { quantize } from "./quantize.ts";
import type { QuantizeOptions } from "./quantize.ts";
import { called, codeBytes } from "./quantized.ts";
import type { Quantized } from "./quantized.ts";

/** Elements of a piece, at least. */
const PIECE = 1 << 18;

/**
 * Quantizes a host array of f32, f16 or bf16: `quantize` of its values, which half floats widen to exactly.
 *
 * @throws DTypeError naming tensor and file for other types; errors of quantize
 */
export function quantizeArray({ dtype, shape, data }: HostArray, options: Omit<QuantizeOptions, "dtype">): Quantized {
  if (data instanceof Float32Array) return quantize(data, shape, { ...options, dtype });
  if (dtype !== "f16" && dtype !== "bf16") throw new DTypeError(`${called(options)}: ${dtype} cannot be quantized`, { op: "quantizeArray", key: options.name, file: options.file, value: dtype, fix: "quantize f32, f16 or bf16" });
  const widen = dtype === "bf16" ? widenBf16 : widenF16, whole = (): Quantized => quantize(widen(data, 0, data.length), shape, { ...options, dtype });
  const format = formatOf(options.format), block = blockOf(format, options.block), piece = Math.ceil(PIECE / (2 * block)) * 2 * block;
  if (data.length <= piece || (options.doubleQuant === true && format.scale !== "f32")) return whole();
  const codes = new Uint8Array(codeBytes(format, data.length)), values = new Float32Array(Math.ceil(data.length / block));
  for (let from = 0; from < data.length; from += piece) {
    const x = widen(data, from, Math.min(data.length, from + piece));
    let part: Quantized;
    try {
      part = quantize(x, [x.length], { ...options, doubleQuant: false });
    } catch {
      return whole(); // throws too, and counts elements from the tensor's first one
    }
    codes.set(part.codes, codeBytes(format, from));
    values.set(part.scales.values, from / block);
  }
  return { format, shape, block, codes, scales: options.doubleQuant === true ? doubleQuantize(values) : { values }, dtype };
}

function widenBf16(data: ArrayLike<number>, from: number, to: number): Float32Array {
  const x = new Float32Array(to - from), words = new Uint32Array(x.buffer);
  for (let i = from; i < to; i++) words[i - from] = data[i] << 16;
  return x;
}

let halves: Float32Array | undefined;
function widenF16(data: ArrayLike<number>, from: number, to: number): Float32Array {
  const x = new Float32Array(to - from), table = (halves ??= Float32Array.from({ length: 65536 }, (_, bits) => fromF16(bits)));
  for (let i = from; i < to; i++) x[i - from] = table[data[i]];
  return x;
}
