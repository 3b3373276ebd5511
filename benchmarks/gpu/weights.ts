/** Weights of the benchmark's models as stores. */
import { type DType, type Store, fromHost, hostArray, store } from "@adjoint/tensor";
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
/** A constant vector. */
export const constantStore = (name: string, size: number, value: number): Store => store(fromHost({ dtype: "f32", shape: [size], data: new Float32Array(size).fill(value) }), name);

/** Bits of a normal number in half precision, cut off. */
function half(x: number): number {
  const bits = new Uint32Array(Float32Array.of(x).buffer)[0], e = ((bits >>> 23) & 255) - 112;
  return ((bits >>> 16) & 0x8000) | (e <= 0 ? 0 : (e << 10) | ((bits >>> 13) & 1023));
}
