/** A short fingerprint of an adapter's tensors: a second file says by it which adapter it belongs to. */
import { convertArray, type HostArray } from "@adjoint/tensor";

/** 64 bits in hexadecimal of names, shapes and f32 values, whatever their order; two sums after Appleby's MurmurHash3 (public domain). For mistakes, not against forgery. */
export function digestOf(tensors: ReadonlyMap<string, HostArray>): string {
  let a = 0x9747b28c, b = 0x2545f491;
  const add = (word: number): void => {
    const k = Math.imul(word, 0xcc9e2d51), l = Math.imul(word, 0x85ebca6b);
    a ^= Math.imul((k << 15) | (k >>> 17), 0x1b873593);
    a = (Math.imul((a << 13) | (a >>> 19), 5) + 0xe6546b64) | 0;
    b ^= Math.imul((l << 16) | (l >>> 16), 0xc2b2ae35);
    b = (Math.imul((b << 11) | (b >>> 21), 5) + 0x38495ab5) | 0;
  };
  for (const [name, { shape, dtype, data }] of [...tensors].sort(([x], [y]) => (x < y ? -1 : 1))) {
    for (const c of name) add(c.codePointAt(0) ?? 0);
    for (const n of [shape.length, ...shape]) add(n);
    const values = convertArray(data, dtype, "f32"), numbers = values instanceof Float32Array ? values : Float32Array.from(values);
    for (const word of new Uint32Array(numbers.buffer, numbers.byteOffset, numbers.length)) add(word);
  }
  return [a, b].map((h) => (h >>> 0).toString(16).padStart(8, "0")).join("");
}
