/** Whether all numbers of an array are finite, from their bits: a few milliseconds for ten million. */
import { convertArray, FormatError, type HostArray } from "@adjoint/tensor";
import type { Place } from "./stored.ts";

/** Words that are looked at before the result is. */
const CHUNK = 1 << 14;

/**
 * Gives `array` back if none of its numbers is NaN or infinite; types without such numbers pass.
 *
 * @throws FormatError naming file, tensor, element and value
 */
export function checkFinite(array: HostArray, place: Place): HostArray {
  const at = firstNotFinite(array);
  if (at < 0) return array;
  const value = convertArray(array.data.slice(at, at + 1), array.dtype, "f64")[0];
  throw new FormatError(`${place.file}: tensor "${place.key}": element ${at} is ${value}`, { ...place, value, fix: "the model diverged before it was saved, or the file is damaged: use an earlier checkpoint, or get the file again" });
}

/** Index of the first NaN or infinity; -1: there is none. */
export function firstNotFinite({ dtype, data }: HostArray): number {
  const { buffer, byteOffset, length } = data;
  if (dtype === "f64") return data.findIndex((x) => !Number.isFinite(x));
  if (dtype === "f32") {
    const words = new Int32Array(buffer, byteOffset, length), chunk = firstChunk(words, 0x7f800000, 0x00800000, -0x80000000);
    return chunk < 0 ? -1 : words.findIndex((w, i) => i >= chunk && (w & 0x7f800000) === 0x7f800000);
  }
  if ((dtype !== "f16" && dtype !== "bf16") || length === 0) return -1;
  const [mask, step] = dtype === "bf16" ? [0x7f80, 0x80] : [0x7c00, 0x400], halves = new Uint16Array(buffer, byteOffset, length), lead = Math.min(length, (byteOffset >> 1) & 1), pairs = (length - lead) >> 1;
  const bad = (half: number): boolean => (half & mask) === mask;
  if (lead === 1 && bad(halves[0])) return 0;
  const chunk = firstChunk(new Int32Array(buffer, byteOffset + 2 * lead, pairs), mask * 0x10001, step * 0x10001, 0x80008000 | 0);
  if (chunk >= 0) return halves.findIndex((half, i) => i >= lead + 2 * chunk && bad(half));
  return length > lead + 2 * pairs && bad(halves[length - 1]) ? length - 1 : -1;
}

/** Start of the first chunk with a word whose exponent (`mask`) is all ones, so that `step`, its lowest bit, carries into the sign (`signs`); -1: none. */
function firstChunk(words: Int32Array, mask: number, step: number, signs: number): number {
  for (let start = 0; start < words.length; start += CHUNK) {
    const end = Math.min(words.length, start + CHUNK);
    let seen = 0;
    for (let i = start; i < end; i++) seen |= ((words[i] & mask) + step) | 0;
    if ((seen & signs) !== 0) return start;
  }
  return -1;
}
