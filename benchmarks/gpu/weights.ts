/** Weights of the benchmark's models as stores, and as 4-bit codes. */
import { formats, quantize, quantizedWeight } from "@adjoint/quant";
import { type DType, type Store, type Tensor, fromHost, hostArray, store } from "@adjoint/tensor";
import { block } from "./block.ts";

const BLOCK = block.length;

/** A store of N(0, 0.02²) numbers. */
export function randomStore(name: string, shape: readonly number[], dtype: Extract<DType, "f32" | "bf16" | "f16"> = "f32"): Store {
  const size = shape.reduce((a, b) => a * b, 1), data = hostArray(dtype, size), piece = hostArray(dtype, BLOCK);
  const bits = new Uint32Array(block.buffer);
  for (let i = 0; i < BLOCK; i++) piece[i] = dtype === "f32" ? block[i] : dtype === "bf16" ? bits[i] >>> 16 : half(block[i]);
  for (let at = 0; at < size; at += BLOCK) data.set(size - at < BLOCK ? piece.subarray(0, size - at) : piece, at);
  return store(fromHost({ dtype, shape, data }), name);
}
/** The same numbers as nf4 in blocks of 64 with f32 scales: one piece, over and over. */
export function codesLike(name: string, shape: readonly number[]): Tensor {
  const size = shape.reduce((a, b) => a * b, 1), piece = quantize(block, [BLOCK], { format: "nf4" }), codes = new Uint8Array(size / 2), values = new Float32Array(size / 64);
  for (let at = 0; at < codes.length; at += BLOCK / 2) codes.set(piece.codes.subarray(0, codes.length - at), at);
  for (let at = 0; at < values.length; at += BLOCK / 64) values.set(piece.scales.values.subarray(0, values.length - at), at);
  return quantizedWeight({ format: formats.nf4, shape, block: 64, codes, scales: { values }, dtype: "f32" }, name);
}
/** A constant vector. */
export const constantStore = (name: string, size: number, value: number): Store => store(fromHost({ dtype: "f32", shape: [size], data: new Float32Array(size).fill(value) }), name);

/** Bits of a normal number in half precision, cut off. */
function half(x: number): number {
  const bits = new Uint32Array(Float32Array.of(x).buffer)[0], e = ((bits >>> 23) & 255) - 112;
  return ((bits >>> 16) & 0x8000) | (e <= 0 ? 0 : (e << 10) | ((bits >>> 13) & 1023));
}
