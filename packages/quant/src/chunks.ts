/** Chunks of a weight through the loops of simd.ts: in, codes and scales (or values) out, while they lie in the cache. */
import type { Format } from "./format.ts";
import { CHUNK, LONGEST, fast, fastDecode, isFastName } from "./simd.ts";
import type { Elements, Input } from "./simd.ts";

/** Full blocks of a size that the loops can do, and how many are in a chunk. */
const cut = (n: number, block: number): { readonly whole: number; readonly each: number } => ({ whole: block % 32 === 0 && block <= LONGEST ? Math.floor(n / block) : 0, each: Math.max(1, Math.floor(CHUNK / block)) });

/** Full blocks by the loops of simd.ts, which equal the encoders bit for bit, and by `one` what those leave; gives how many were done. */
export function encodeChunks(x: Elements, input: Input, { name, bits }: Format, block: number, values: Float32Array, packed: Uint8Array, one: (block: number) => void): number {
  const { whole, each } = cut(x.length, block), loops = isFastName(name) && whole > 0 ? fast(name, input) : null, size = (block * bits) / 8;
  if (loops === null) return 0;
  const made = { codes: loops.codes.subarray(0, each * size), scales: loops.scales.subarray(0, each) };
  for (let b = 0; b < whole; b += each) {
    const count = Math.min(each, whole - b);
    loops.x.set(x.subarray(b * block, (b + count) * block));
    const left = loops.quantize(count, block);
    values.set(count === each ? made.scales : made.scales.subarray(0, count), b);
    packed.set(count === each ? made.codes : made.codes.subarray(0, count * size), b * size);
    if (left) for (let i = 0; i < count; i++) if ((loops.left[i >> 2] >> (i & 3)) & 1) one(b + i);
  }
  return whole;
}

/** Full blocks back to f32, bit for bit as the plain loops of dequantize.ts; gives how many were done. */
export function decodeChunks(codes: Uint8Array, { bits, table }: Format, block: number, scales: Float32Array, mins: Float32Array | null, x: Float32Array): number {
  const { whole, each } = cut(x.length, block), loops = whole > 0 ? fastDecode(bits === 8 ? "8" : mins === null ? "4" : "4 mins") : null, size = (block * bits) / 8;
  if (loops === null) return 0;
  loops.table(table);
  for (let b = 0; b < whole; b += each) {
    const count = Math.min(each, whole - b), end = b + count;
    loops.codes.set(codes.subarray(b * size, end * size));
    loops.scales.set(scales.subarray(b, end));
    if (mins !== null) loops.mins.set(mins.subarray(b, end));
    loops.dequantize(count, block);
    x.set(loops.x.subarray(0, count * block), b * block);
  }
  return whole;
}
