/** Chunks of a weight through the loops of simd.ts: in, codes and scales (or values) out, while they lie in the cache. */
import type { Format } from "./format.ts";
import { helper } from "./helper.ts";
import { CHUNK, LONGEST, fast, fastDecode, isFastName } from "./simd.ts";
import type { Elements, Input, Room } from "./simd.ts";

/** Full blocks of a size that the loops can do, and how many are in a chunk. */
const cut = (n: number, block: number): { readonly whole: number; readonly each: number } => ({ whole: block % 32 === 0 && block <= LONGEST ? Math.floor(n / block) : 0, each: Math.max(1, Math.floor(CHUNK / block)) });

/** Elements from which a second thread is worth the talk with it. */
const MANY = 1 << 20;

/** Full blocks by the loops of simd.ts, which equal the encoders bit for bit, and by `one` what those leave; gives how many were done. */
export function encodeChunks(x: Elements, input: Input, { name, bits }: Format, block: number, values: Float32Array, packed: Uint8Array, one: (block: number) => void): number {
  const { whole, each } = cut(x.length, block), loops = isFastName(name) && whole > 0 ? fast(name, input) : null, size = (block * bits) / 8;
  if (loops === null || !isFastName(name)) return 0;
  const other = helper(), helps = other !== null && x.length >= MANY && other.begin(name, input) ? other : null, rest: number[] = [];
  const take = ({ scales, codes, left: which }: Room, b: number, count: number, left: boolean): void => {
    values.set(scales.subarray(0, count), b);
    const to = packed.subarray(b * size, (b + count) * size), from = codes.subarray(0, to.length);
    if (helps === null) to.set(from);
    else helps.copy(to, from);
    if (left) for (let i = 0; i < count; i++) if ((which[i >> 2] >> (i & 3)) & 1) rest.push(b + i);
  };
  const own = (b: number, count: number): void => {
    loops.x.set(x.subarray(b * block, (b + count) * block));
    take(loops, b, count, loops.quantize(count, block));
  };
  if (helps === null) for (let b = 0; b < whole; b += each) own(b, Math.min(each, whole - b));
  else helps.share(Math.ceil(whole / each), (c) => [c * each, Math.min(each, whole - c * each)], x, block, own, take);
  rest.sort((a, b) => a - b).forEach(one);
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
