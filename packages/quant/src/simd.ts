/** The loops of quantize in WebAssembly SIMD: largest magnitudes of blocks, and codes of nf4, int4 and int8, 32 elements at a time. */
import { formats } from "./format.ts";
import { midpoints } from "./nearest.ts";

/** Elements that lie in the module's memory at once. */
export const CHUNK = 65536;
/** Where things lie: tables, then elements, reciprocals (or largest magnitudes), codes. */
const TABLES = 0, X = 1024, SCALES = X + 4 * CHUNK, CODES = SCALES + CHUNK / 8, PAGES = 8;

/** Formats whose codes are made here. */
export type FastName = "nf4" | "int4" | "int8";
export const isFastName = (name: string): name is FastName => name === "nf4" || name === "int4" || name === "int8";

export interface Fast {
  /** elements to be quantized */
  readonly x: Float32Array;
  /** bits of each block's largest magnitude, after `absmax`; then what the elements are multiplied with */
  readonly magnitudes: Uint32Array;
  readonly factors: Float32Array;
  readonly codes: Uint8Array;
  /** fills `magnitudes`; a block is a multiple of 32 elements */
  absmax(blocks: number, block: number): void;
  encode(name: FastName, blocks: number, block: number): void;
}

type Code = readonly (number | Code)[];
const flat = (code: Code): number[] => code.flatMap((part) => (typeof part === "number" ? [part] : flat(part)));
const leb = (n: number): number[] => (n < 128 ? [n] : [(n & 127) | 128, ...leb(n >>> 7)]);
/** Signed LEB128. */
const sleb = (n: number): number[] => { const low = n & 127, rest = n >> 7; return (rest === 0 && (low & 64) === 0) || (rest === -1 && (low & 64) !== 0) ? [low] : [low | 128, ...sleb(rest)]; };
const get = (i: number): Code => [0x20, leb(i)], set = (i: number, value: Code): Code => [value, 0x21, leb(i)];
const i32 = (n: number): Code => [0x41, sleb(n)], add = (a: Code, b: Code): Code => [a, b, 0x6a];
/** One instruction of the vector set, after its operands. */
const op = (code: number, ...operands: Code[]): Code => [operands, 0xfd, leb(code)];
const load = (at: Code, offset = 0): Code => [at, 0xfd, 0x00, 0x00, leb(offset)], store = (at: Code, value: Code): Code => [at, value, 0xfd, 0x0b, 0x00, 0x00];
const constant = (bytes: Uint8Array): Code => [0xfd, 0x0c, [...bytes]];
const f32x4 = (v: number): Code => constant(new Uint8Array(new Float32Array(4).fill(v).buffer)), i32x4 = (v: number): Code => constant(new Uint8Array(new Uint32Array(4).fill(v).buffer)), i16x8 = (v: number): Code => constant(new Uint8Array(new Uint16Array(8).fill(v).buffer)), i8x16 = (v: number): Code => constant(new Uint8Array(16).fill(v));
const shuffle = (a: Code, b: Code, lanes: readonly number[]): Code => [a, b, 0xfd, 0x0d, lanes];
const SWIZZLE = 0x0e, GT = 0x44, AND = 0x4e, OR = 0x50, NARROW8S = 0x65, NARROW8U = 0x66, SUB8 = 0x71, NARROW16S = 0x85, NARROW16U = 0x86, SHL16 = 0x8b, SHR16 = 0x8d, MAXU32 = 0xb9, ADDF = 0xe4, MULF = 0xe6, SPLATF = 0x13, LANE32 = 0x1b;
const interleave = (unit: number, from: number): number[] => Array.from({ length: 16 / unit / 2 }, (_, i) => [0, 16].flatMap((side) => Array.from({ length: unit }, (_v, byte) => side + from + i * unit + byte))).flat();

/** Parameters and locals of every function. */
const BLOCKS = 0, BYTES = 1, AT = 2, SCALE = 3, OUT = 4, END = 5, V = 6, VECTORS = 14;

/** For each block: `begin`, then `body` for every `step` bytes of elements, then `end`. */
const loops = (begin: Code, body: Code, step: number, end: Code): Code => [
  set(AT, i32(X)), set(SCALE, i32(SCALES)), set(OUT, i32(CODES)),
  0x03, 0x40, // loop
  set(END, add(get(AT), get(BYTES))), begin,
  0x03, 0x40, body, set(AT, add(get(AT), i32(step))), get(AT), get(END), 0x49, 0x0d, 0x00, 0x0b, // while at < end
  end, set(SCALE, add(get(SCALE), i32(4))),
  set(BLOCKS, [get(BLOCKS), i32(1), 0x6b]), get(BLOCKS), 0x0d, 0x00, 0x0b, // while --blocks
];

const magnitudes = loops(
  set(V, i32x4(0)), set(V, op(MAXU32, get(V), op(MAXU32, op(AND, load(get(AT)), i32x4(0x7fffffff)), op(AND, load(get(AT), 16), i32x4(0x7fffffff))))), 32,
  [set(V, op(MAXU32, get(V), shuffle(get(V), get(V), [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7]))), set(V, op(MAXU32, get(V), shuffle(get(V), get(V), [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11]))),
    get(SCALE), op(LANE32, get(V)), 0x00, 0x36, 0x02, 0x00],
);

const factor = set(V, op(SPLATF, [get(SCALE), 0x2a, 0x02, 0x00]));
const four = [0, 1, 2, 3] as const;
/** Four vectors of small whole numbers as one of bytes. */
const bytes = (parts: readonly Code[]): Code => op(NARROW8U, op(NARROW16U, parts[0], parts[1]), op(NARROW16U, parts[2], parts[3]));
/** Scaled elements 16 * group + 4 * j and on. */
const scaled = (group: number, j: number): Code => op(MULF, load(get(AT), group * 64 + j * 16), get(V));
/** Whole numbers of `value + shift`, ties to even, in the lower bits: beside 1.5 * 2^23 an f32 has no room for a fraction. */
const whole = (value: Code, shift: number, mask: number): Code => op(AND, op(ADDF, value, f32x4(12582912 + shift)), i32x4(mask));
/** Sixteen codes become eight bytes in the lower halves of eight 16-bit lanes: the first of two codes in the upper half of the byte. */
const pairs = (codes: Code, local: number): Code => [set(local, codes), op(OR, [op(AND, get(local), i16x8(0xff)), i32(4), 0xfd, leb(SHL16)], [get(local), i32(8), 0xfd, leb(SHR16)])];
const packed = (codes: (group: number) => Code): Code => [store(get(OUT), op(NARROW8U, pairs(codes(0), V + 13), pairs(codes(1), V + 13))), set(OUT, add(get(OUT), i32(16)))];

const even8: Code = loops(factor, [0, 1].map((group) => [store(get(OUT), bytes(four.map((j) => whole(scaled(group, j), 0, 255)))), set(OUT, add(get(OUT), i32(16)))]), 128, []);
const even4: Code = loops(factor, packed((group) => bytes(four.map((j) => whole(scaled(group, j), 8, 15)))), 128, []);

/**
 * NF4: a bucket of width 1/15 holds at most one threshold. From the bucket comes the rank of its lower part, from that the threshold,
 * whose four bytes are looked up apart and woven together; `rank - (s > threshold ? -1 : 0)` is the code.
 */
const BUCKETS = 15;
const nf4: Code = (() => {
  const s = V + 1, base = V + 5, plane = V + 6, woven = V + 10; // s: 4 vectors, plane: 4, woven: 2
  const codes = (group: number): Code => [
    four.map((j) => set(s + j, scaled(group, j))),
    set(base, bytes(four.map((j) => whole(op(MULF, get(s + j), f32x4(BUCKETS)), BUCKETS, 255)))),
    set(base, op(OR, op(SWIZZLE, load(i32(TABLES)), get(base)), op(SWIZZLE, load(i32(TABLES), 16), op(SUB8, get(base), i8x16(16))))),
    four.map((k) => set(plane + k, op(SWIZZLE, load(i32(TABLES), 32 + 16 * k), get(base)))),
    [0, 8].map((half) => [
      set(woven, shuffle(get(plane), get(plane + 1), interleave(1, half))), set(woven + 1, shuffle(get(plane + 2), get(plane + 3), interleave(1, half))),
      [0, 8].map((quarter) => { const j = s + half / 4 + quarter / 8; return set(j, op(GT, get(j), shuffle(get(woven), get(woven + 1), interleave(2, quarter)))); }),
    ]),
    op(SUB8, get(base), op(NARROW8S, op(NARROW16S, get(s), get(s + 1)), op(NARROW16S, get(s + 2), get(s + 3)))),
  ];
  return loops(factor, packed(codes), 128, []);
})();

/** Ranks of buckets and the bytes of thresholds, as the NF4 loop reads them. */
function tables(): Uint8Array {
  const above = midpoints(formats.nf4.table), all = new Uint8Array(96), of = new Uint8Array(above.buffer);
  const buckets = Array.from(above.subarray(0, 15), (t) => Math.fround(Math.fround(t * BUCKETS) + 12582912 + BUCKETS) - 12582912);
  if (new Set(buckets).size !== buckets.length) throw new Error("nf4: two thresholds in one bucket");
  for (let bucket = 0; bucket < 32; bucket++) all[bucket] = buckets.filter((b) => b < bucket).length;
  for (let rank = 0; rank < 16; rank++) for (let byte = 0; byte < 4; byte++) all[32 + 16 * byte + rank] = of[4 * rank + byte];
  return all;
}

const section = (id: number, content: Code): Code => { const all = flat(content); return [id, leb(all.length), all]; };
const text = (s: string): Code => [leb(s.length), [...s].map((c) => c.charCodeAt(0))];
const func = (body: Code): Code => { const all = flat([0x02, [4], 0x7f, [VECTORS], 0x7b, body, 0x0b]); return [leb(all.length), all]; };

function assemble(): Uint8Array<ArrayBuffer> {
  const bodies = { absmax: magnitudes, nf4, int4: even4, int8: even8 }, names = Object.keys(bodies);
  return Uint8Array.from(flat([
    0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00,
    section(1, [1, 0x60, 2, 0x7f, 0x7f, 0]), section(3, [names.length, names.map(() => 0)]), section(5, [1, 0x00, PAGES]),
    section(7, [names.length + 1, text("memory"), 0x02, 0x00, names.map((name, i) => [text(name), 0x00, i])]),
    section(10, [names.length, Object.values(bodies).map(func)]),
  ]));
}

const isLoop = (exported: unknown): exported is (blocks: number, bytes: number) => void => typeof exported === "function";
let made: Fast | null | undefined;

/** The loops; null where WebAssembly or its SIMD is missing, or a page's policy forbids it. Made once, at the first call. */
export function fast(): Fast | null {
  if (made === undefined) {
    try {
      made = make();
    } catch {
      made = null; // the encoders do the same, slower
    }
  }
  return made;
}

function make(): Fast | null {
  const { memory, absmax, ...encode } = new WebAssembly.Instance(new WebAssembly.Module(assemble())).exports;
  if (!(memory instanceof WebAssembly.Memory)) return null;
  const { buffer } = memory, call = (loop: unknown, blocks: number, block: number): void => { if (isLoop(loop)) loop(blocks, block * 4); };
  new Uint8Array(buffer).set(tables(), TABLES);
  return {
    x: new Float32Array(buffer, X, CHUNK), magnitudes: new Uint32Array(buffer, SCALES, CHUNK / 32), factors: new Float32Array(buffer, SCALES, CHUNK / 32), codes: new Uint8Array(buffer, CODES, CHUNK),
    absmax: (blocks, block) => call(absmax, blocks, block),
    encode: (name, blocks, block) => call(encode[name], blocks, block),
  };
}
