/** Quantizing host arrays of any float type; half floats are widened a chunk at a time, so that no f32 copy of the whole exists. */
import { DTypeError } from "@adjoint/tensor";
import type { HostArray } from "@adjoint/tensor";
import { encoded } from "./quantize.ts";
import type { QuantizeOptions } from "./quantize.ts";
import { called } from "./quantized.ts";
import type { Quantized } from "./quantized.ts";

/**
 * Quantizes a host array of f32, f16 or bf16: `quantize` of its values, which half floats widen to exactly.
 *
 * @throws DTypeError naming tensor and file for other types; errors of quantize
 */
export function quantizeArray({ dtype, shape, data }: HostArray, options: Omit<QuantizeOptions, "dtype">): Quantized {
  if (data instanceof Float32Array) return encoded(data, "f32", shape, { ...options, dtype });
  if ((dtype === "f16" || dtype === "bf16") && data instanceof Uint16Array) return encoded(data, dtype, shape, { ...options, dtype });
  throw new DTypeError(`${called(options)}: ${dtype} cannot be quantized`, { op: "quantizeArray", key: options.name, file: options.file, value: dtype, fix: "quantize f32, f16 or bf16" });
}
