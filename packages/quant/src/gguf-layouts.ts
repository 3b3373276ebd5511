/** Where each bit of a quantized block of a GGUF file lies, as data (layouts: ggml's ggml-common.h). */
import type { FormatName } from "./format.ts";
import { identity, q8, six } from "./tables.ts";

/** GGUF's element types that stay quantized here. */
export type GgufBlockType = "Q8_0" | "Q4_0" | "MXFP4" | "Q2_K" | "Q3_K" | "Q4_K" | "Q5_K" | "Q6_K" | "Q4_1" | "Q5_0" | "Q5_1" | "IQ4_NL" | "IQ4_XS";

/** `width` bits of a byte, from bit `shift` on; a number is several of them, the lowest first. */
export type Piece = readonly [byte: number, shift: number, width: number];
type Place = (index: number) => readonly Piece[];

/** One type's block: `value = d scale(k) code - dmin min(k)`, k the sub-block. */
export interface GgufLayout {
  readonly format: FormatName;
  /** elements and bytes of a block in the file */
  readonly elements: 32 | 256;
  readonly bytes: number;
  /** byte of d: an f16, or one exponent in the file's first byte */
  readonly d: number | "e8m0";
  /** byte of dmin; `adds`: the file adds it */
  readonly dmin?: number;
  readonly adds?: true;
  /** bits of an element's code */
  readonly code: Place;
  /** bits of the scale and of the minimum of a sub-block, and what the scale's bits stand for */
  readonly scale?: Place;
  readonly min?: Place;
  readonly table?: Float32Array;
}

/** Sixteen bytes from `at` on whose lower halves are elements 0..15, the upper ones 16..31. */
const halves = (at: number): Place => (i) => [[at + (i & 15), 4 * (i >> 4), 4]];
/** The same in four runs of 32 bytes for 64 elements each. */
const runs = (at: number): Place => (i) => [[at + (i >> 6) * 32 + (i & 31), 4 * ((i >> 5) & 1), 4]];
/** Pairs of bits: 32 bytes hold 128 elements, 32 in each pair. */
const pairs = (at: number): Place => (i) => [[at + (i >> 7) * 32 + (i & 31), 2 * ((i >> 5) & 3), 2]];
/** One more bit an element: of byte i / 8, or of byte i mod 32. */
const fifth = (at: number): Place => (i) => [[at + (i >> 3), i & 7, 1]];
const plane = (at: number): Place => (i) => [[at + (i & 31), i >> 5, 1]];
const both = (low: Place, high: Place): Place => (i) => [...low(i), ...high(i)];
/** Scales and minima of 6 bits in the 12 bytes of Q4_K and Q5_K: four whole ones, four cut into 4 and 2 bits. */
const six4: Place = (k) => (k < 4 ? [[4 + k, 0, 6]] : [[8 + k, 0, 4], [k, 6, 2]]), min4: Place = (k) => (k < 4 ? [[8 + k, 0, 6]] : [[8 + k, 4, 4], [4 + k, 6, 2]]);

/** Every type that stays quantized. */
export const ggufLayouts: Readonly<Record<GgufBlockType, GgufLayout>> = {
  Q8_0: { format: "q8_0", elements: 32, bytes: 34, d: 0, code: (i) => [[2 + i, 0, 8]] },
  Q4_0: { format: "q4_0", elements: 32, bytes: 18, d: 0, code: halves(2) },
  Q4_1: { format: "q4_1", elements: 32, bytes: 20, d: 0, dmin: 2, adds: true, code: halves(4) },
  Q5_0: { format: "q5_0", elements: 32, bytes: 22, d: 0, code: both(halves(6), fifth(2)) },
  Q5_1: { format: "q5_1", elements: 32, bytes: 24, d: 0, dmin: 2, adds: true, code: both(halves(8), fifth(4)) },
  MXFP4: { format: "mxfp4", elements: 32, bytes: 17, d: "e8m0", code: halves(1) },
  IQ4_NL: { format: "iq4_nl", elements: 32, bytes: 18, d: 0, code: halves(2) },
  Q2_K: { format: "q2_k", elements: 256, bytes: 84, d: 80, dmin: 82, code: pairs(16), scale: (k) => [[k, 0, 4]], min: (k) => [[k, 4, 4]], table: identity },
  Q3_K: { format: "q3_k", elements: 256, bytes: 110, d: 108, code: both(pairs(32), plane(0)), scale: (k) => [[96 + (k & 7), 4 * (k >> 3), 4], [104 + (k & 3), 2 * (k >> 2), 2]], table: six },
  Q4_K: { format: "q4_k", elements: 256, bytes: 144, d: 0, dmin: 2, code: runs(16), scale: six4, min: min4, table: identity },
  Q5_K: { format: "q5_k", elements: 256, bytes: 176, d: 0, dmin: 2, code: both(runs(48), plane(16)), scale: six4, min: min4, table: identity },
  Q6_K: {
    format: "q6_k", elements: 256, bytes: 210, d: 208, scale: (k) => [[192 + k, 0, 8]], table: q8,
    code: both((i) => [[(i >> 7) * 64 + (i & 63), 4 * ((i >> 6) & 1), 4]], (i) => [[128 + (i >> 7) * 32 + (i & 31), 2 * ((i >> 5) & 3), 2]]),
  },
  IQ4_XS: {
    format: "iq4_xs", elements: 256, bytes: 136, d: 0, scale: (k) => [[4 + (k >> 1), 4 * (k & 1), 4], [2 + (k >> 2), 2 * (k & 3), 2]], table: six,
    code: (i) => [[8 + (i >> 5) * 16 + (i & 15), 4 * ((i >> 4) & 1), 4]],
  },
};

/** Reads and writes numbers of a block whose bits lie in pieces. */
export interface Bits {
  /** numbers 0 .. count - 1 of the block at `at`, into `to` from `start` on */
  read(bytes: Uint8Array, at: number, to: Uint8Array, start: number): void;
  /** the same back, into bytes that are 0 */
  write(from: Uint8Array, start: number, bytes: Uint8Array, at: number): void;
}

/** The pieces of all numbers of a block as a table, so that reading is one loop. */
export function bitsOf(place: Place, count: number): Bits {
  const list = Array.from({ length: count }, (_, i) => { let to = 0; return place(i).map(([byte, shift, width]) => { to += width; return [i, byte, shift, (1 << width) - 1, to - width]; }); }).flat(), pieces = Int32Array.from(list.flat());
  return {
    read(bytes, at, to, start) {
      to.fill(0, start, start + count);
      for (let p = 0; p < pieces.length; p += 5) to[start + pieces[p]] |= ((bytes[at + pieces[p + 1]] >> pieces[p + 2]) & pieces[p + 3]) << pieces[p + 4];
    },
    write(from, start, bytes, at) {
      for (let p = 0; p < pieces.length; p += 5) bytes[at + pieces[p + 1]] |= ((from[start + pieces[p]] >> pieces[p + 4]) & pieces[p + 3]) << pieces[p + 2];
    },
  };
}
