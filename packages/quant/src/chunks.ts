/** Chunks of a weight through the loops of simd.ts: in, codes and scales out, while they lie in the cache. */
import type { Format } from "./format.ts";
import { CHUNK, LONGEST, fast, isFastName } from "./simd.ts";

/** Full blocks by the loops of simd.ts, which equal the encoders bit for bit, and by `one` what those leave; gives how many were done. */
export function encodeChunks(x: Float32Array, { name, bits }: Format, block: number, values: Float32Array, packed: Uint8Array, one: (block: number) => void): number {
  const loops = isFastName(name) && block % 32 === 0 && block <= LONGEST && x.length >= block ? fast(name) : null, whole = Math.floor(x.length / block), each = Math.max(1, Math.floor(CHUNK / block)), size = (block * bits) / 8;
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
