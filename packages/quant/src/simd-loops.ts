/** The loops of quantize in WebAssembly SIMD: scales of four blocks at a time, then codes of 32 elements at a time; a format is a value. */
import { ADD32, ADDF, ALL8, AND, ANDNOT, BITS32, CEIL, DIVF, EQ32, EQF, GT32, GT8, GTF, LTF, MAX32, MAXU32, MINU8, MULF, NARROW16S, NARROW8S, OR, SELECT, SHL16, SHL32, SHR16S, SHR32, SUB16, SUB32, SUB8, SUBF, SWIZZLE, TRUNC, XOR, add, bytes, f32x4, get, greaterAt, i32, i32x4, i8x16, lanes, less, load, load16S, load16U, load32, load32Splat, load8, loop, op, set, shift, shiftLeft, shiftRight, shuffle, store, store32, store8, swizzleNear, tee, whenNot } from "./simd-code.ts";
import type { Code } from "./simd-code.ts";
import { TINY, searchOf } from "./encode.ts";
import { formats } from "./format.ts";
import { ascending, midpoints } from "./nearest.ts";

/** Elements that lie in the module's memory at once, beside their codes in the cache; a longer block lies there alone. */
export const CHUNK = 32768, LONGEST = 65536;
const COUNT = CHUNK / 32 + 4;
/** Where things lie. Elements come last, as f32 and as the halves these are widened from: groups of four blocks read beyond the last one. */
export const THRESHOLDS = 0, ODD = 256, SCALES = 1024, FACTORS: number = SCALES + 4 * COUNT, LIST: number = FACTORS + 4 * COUNT, CODES: number = LIST + LONGEST / 4, STARTS: number = CODES + LONGEST, ABOVE: number = STARTS + 32768, X: number = ABOVE + 1024, HALVES: number = X + 16 * LONGEST, PAGES: number = Math.ceil((HALVES + 8 * LONGEST) / 65536);

/** Locals: two parameters, scalars, vectors. */
const BLOCKS = 0, BYTES = 1, AT = 2, END1 = 3, END2 = 4, END3 = 5, END = 6, SCALE = 7, OUT = 8, LEFT = 9, MARK = 10, ANYODD = 11, HALF = 12, V = 13;
export const SCALARS = 11, VECTORS = 24;
const M = V + 8, S = V + 10, F = V + 11, STRANGE = V + 12, X0 = V + 13;

/** What is looked up, and where it lies. */
export type Tables = readonly (readonly [at: number, table: Uint8Array | Float32Array])[];
interface Loops {
  /** what is kept of a block's elements: the largest, as whole numbers, of a function of their bits */
  readonly folds: readonly (readonly [code: number, of: (x: Code) => Code])[];
  /** from those, of four blocks in locals M, M + 1: scales into S, factors into F, blocks that the encoder must do into STRANGE */
  readonly scales: Code;
  /** after a block's factor was loaded into V */
  readonly begin?: Code;
  /** codes of 32 elements */
  readonly codes: Code;
  readonly end?: Code;
  readonly tables?: Tables;
}

const four = [0, 1, 2, 3] as const, eight = [0, 1, 2, 3, 4, 5, 6, 7] as const;
const SIGN = 0x80000000, INFINITE = 0x7f800000;
const bitsOf = (v: number): number => new Uint32Array(Float32Array.of(v).buffer)[0];

/** The largest of each of four vectors, one a lane: two by two. */
function largest(code: number, from: number): Code {
  const pair = (a: Code, b: Code, unit: number, low: readonly number[], high: readonly number[]): Code => op(code, shuffle(a, b, lanes(unit, low)), shuffle(a, b, lanes(unit, high)));
  return [[0, 2].map((k) => set(from + k, pair(get(from + k), get(from + k + 1), 4, [0, 4, 1, 5], [2, 6, 3, 7]))), pair(get(from), get(from + 2), 8, [0, 2], [1, 3])];
}

/** Pairs, then pairs of those: a chain of three instructions where a fold has one of eight, which a long block would wait for. */
const tree = (code: number, all: readonly Code[]): Code => (all.length === 1 ? all[0] : op(code, tree(code, all.slice(0, all.length / 2)), tree(code, all.slice(all.length / 2))));

/** What elements come as. */
export type Input = "f32" | "f16" | "bf16";
/** Halves 4 k and on as f32. What is not finite in f16 becomes 2^16 and more: only `absmax` can tell. */
const widened: Readonly<Record<Exclude<Input, "f32">, (k: number) => Code>> = {
  bf16: (k) => shift(SHL32, load16U(get(HALF), 8 * k), 16),
  f16: (k) => op(MULF, op(AND, shift(SHL32, load16S(get(HALF), 8 * k), 13), i32x4(0x8fffe000)), f32x4(2 ** 112)),
};

/** Where each of four blocks ends. */
const ends = [END1, END2, END3, END] as const;
/** Two passes over the blocks of a chunk: scales and factors of four at a time, then codes. */
function passes({ folds, scales, begin = [], codes, end = [] }: Loops, input: Input): Code {
  const step = (local: number, by: number): Code => set(local, add(get(local), i32(by)));
  return [
    set(AT, i32(X)), set(HALF, i32(HALVES)), set(SCALE, i32(SCALES)), set(OUT, i32(ODD)), set(LEFT, get(BLOCKS)),
    loop([
      ends.map((end, k) => set(end, add(get(k === 0 ? AT : ends[k - 1]), get(BYTES)))),
      folds.flatMap((_, i) => four.map((k) => set(V + 4 * i + k, i32x4(0)))),
      four.map((k) => loop([
        eight.map((j) => (input === "f32" ? set(X0 + j, load(get(AT), 16 * j)) : [set(X0 + j, widened[input](j)), store(get(AT), get(X0 + j), 16 * j)])),
        folds.map(([code, of], i) => set(V + 4 * i + k, op(code, get(V + 4 * i + k), tree(code, eight.map((j) => of(get(X0 + j))))))),
        step(AT, 128), input === "f32" ? [] : step(HALF, 64),
      ], less(get(AT), get(ends[k])))),
      folds.map(([code], i) => set(M + i, largest(code, V + 4 * i))), scales,
      input === "f16" ? set(STRANGE, or(get(STRANGE), op(GT32, get(M), i32x4(bitsOf(65536) - 1)))) : [],
      store(get(SCALE), get(S)), store(add(get(SCALE), i32(FACTORS - SCALES)), get(F)),
      store8(get(OUT), tee(END, op(BITS32, get(STRANGE)))), set(ANYODD, [get(ANYODD), get(END), 0x72]),
      step(SCALE, 16), step(OUT, 1), set(LEFT, [get(LEFT), i32(4), 0x6b]),
    ], [get(LEFT), i32(0), 0x4a]),

    set(AT, i32(X)), set(SCALE, i32(FACTORS)), set(OUT, i32(CODES)), set(LEFT, get(BLOCKS)), set(MARK, i32(LIST)),
    loop([
      set(V, load32Splat(get(SCALE))), set(END, add(get(AT), get(BYTES))), begin,
      loop([codes, step(AT, 128)], less(get(AT), get(END))),
      step(SCALE, 4), set(LEFT, [get(LEFT), i32(1), 0x6b]),
    ], get(LEFT)),
    end, get(ANYODD),
  ];
}

const absolute = (x: Code): Code => op(AND, x, i32x4(~SIGN));
const byMagnitude = [[MAXU32, absolute]] as const;
const or = (...all: readonly Code[]): Code => all.reduce((a, b) => op(OR, a, b));
const tooLarge = op(GT32, get(M), i32x4(INFINITE - 1));
/** `scale = max|x|`, `factor = fround(levels / scale)`, 0 for zeros; by a division in f32, which rounds as one in f64 that is then rounded does. */
const byLevels = (levels: number, least = TINY): Code => [
  set(S, get(M)), set(STRANGE, op(GT32, i32x4(bitsOf(least)), get(M))),
  set(F, op(ANDNOT, op(DIVF, f32x4(levels), get(M)), get(STRANGE))),
  set(STRANGE, or(tooLarge, op(AND, get(STRANGE), op(GT32, get(M), i32x4(0))))),
];

/** `x * factor` for elements 4 k and on. */
const scaled = (k: number, factor = V): Code => op(MULF, load(get(AT), 16 * k), get(factor));
/** Beside 1.5 * 2^23 an f32 has no room for a fraction: whole numbers, ties to even, in the lower bits. */
const WHOLE = 12582912, whole = (value: Code, zero = 0): Code => op(ADDF, value, f32x4(WHOLE + zero));
/** Upper halves of lanes from `b`'s lower halves, lower ones from `a`. */
const weave = (a: Code, b: Code): Code => shuffle(a, shift(SHL32, b, 16), lanes(2, [0, 9, 2, 11, 4, 13, 6, 15]));
const advance: Code = set(OUT, add(get(OUT), i32(16)));

/** Codes of 32 elements in the lowest bytes of eight vectors' lanes (0 above, in 16 bits) become 16 bytes; `map` sees bytes in the order (0, 2, 1, 3) of vectors for each lane. */
function packed(vector: (k: number) => Code, local: number, map = (bytes: Code, _group: number): Code => bytes): Code {
  const quad = (g: number): Code => map(op(OR, weave(vector(4 * g), vector(4 * g + 1)), shift(SHL32, weave(vector(4 * g + 2), vector(4 * g + 3)), 8)), g);
  return [
    set(local, quad(0)), set(local + 1, quad(1)),
    store(get(OUT), op(SWIZZLE, op(OR, shift(SHL32, shuffle(get(local), get(local + 1), lanes(4, [0, 2, 4, 6])), 4), shuffle(get(local), get(local + 1), lanes(4, [1, 3, 5, 7]))), bytes([0, 4, 2, 6, 1, 5, 3, 7, 8, 12, 10, 14, 9, 13, 11, 15]))),
    advance,
  ];
}
/** Codes of 32 elements, one a byte, from whole numbers of a byte with their sign in the lower halves of eight vectors' lanes. */
function unpacked(vector: (k: number) => Code): Code {
  const inOrder = [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15];
  return [0, 4].map((k) => [store(get(OUT), op(SWIZZLE, op(NARROW8S, weave(vector(k), vector(k + 1)), weave(vector(k + 2), vector(k + 3))), bytes(inOrder))), advance]);
}

const even4: Loops = { folds: byMagnitude, scales: byLevels(7), codes: packed((k) => whole(scaled(k), 8), V + 1) };
const even8: Loops = { folds: byMagnitude, scales: byLevels(127), codes: unpacked((k) => whole(scaled(k))) };

/** As `roundF16` of encode.ts, four lanes at a time; `a` is the magnitude of `d`, both are locals. */
const half = (d: number, a: number): Code => op(SELECT,
  op(OR, op(SUBF, op(ADDF, get(a), f32x4(0.75)), f32x4(0.75)), op(AND, get(d), i32x4(SIGN))),
  op(AND, op(ADD32, get(d), op(ADD32, op(AND, shift(SHR32, get(d), 13), i32x4(1)), i32x4(0xfff))), i32x4(0xffffe000)),
  op(LTF, get(a), f32x4(2 ** -14)));
/** `factor = 1 / d`, 0 where the stored scale is 0. d and its magnitude lie in V and V + 1; beyond f16 the encoder says what is wrong. */
const byHalf: Code = [
  set(S, half(V, V + 1)), set(F, op(ANDNOT, op(DIVF, f32x4(1), get(V)), op(EQF, get(S), f32x4(0)))),
  set(STRANGE, or(tooLarge, op(GT32, get(V + 1), i32x4(bitsOf(65520) - 1)))),
];

/** Ties away from 0: the number just below one half, with x's sign, is added, and the fraction cut off. */
const q8: Loops = {
  folds: byMagnitude, scales: [set(V, op(DIVF, get(M), f32x4(127))), set(V + 1, get(V)), byHalf],
  codes: unpacked((k) => { const v = V + 1 + (k & 3); return whole(op(TRUNC, op(ADDF, tee(v, scaled(k)), op(OR, op(AND, get(v), i32x4(SIGN)), f32x4(0.5 - 2 ** -25))))); }),
};

/** The largest and, as unsigned bits, the most negative value; where both are as large (or -0 is among zeros) the first decides: left to the encoder. */
const q4: Loops = {
  folds: [[MAX32, (x) => x], [MAXU32, (x) => x]],
  scales: [
    set(V + 2, absolute(get(M + 1))), set(V + 3, op(AND, op(EQ32, get(M), get(V + 2)), op(GT32, i32x4(0), get(M + 1)))),
    set(V, op(MULF, op(SELECT, get(M), get(M + 1), or(op(GT32, get(M), get(V + 2)), op(GT32, get(M + 1), i32x4(-1)))), f32x4(-0.125))),
    set(V + 1, absolute(get(V))), set(M, op(MAX32, get(M), get(V + 2))), byHalf,
    set(STRANGE, or(get(STRANGE), get(V + 3))),
  ],
  codes: packed((k) => whole(op(TRUNC, op(ADDF, scaled(k), f32x4(8.5)))), V + 1, (codes) => op(MINU8, codes, i8x16(15))),
};

/** Bytes of one table for places 0 to 15, of another for places -16 to -1: a place beyond a table gives 0. */
const lookup = (below: readonly number[], from0: readonly number[], place: number): Code => op(OR, swizzleNear(bytes(from0), get(place)), swizzleNear(bytes(below), op(XOR, get(place), i8x16(0xf0))));

/** Four times a magnitude, rounded up, says which thresholds (all multiples of a quarter) lie below it. */
const mxfp4 = (): Loops => {
  const exponent = V, magnitude = (u: number): number => [1, 3, 5, 7, 10, 14, 20].filter((quarters) => u > quarters).length, u = V + 3, sign = V + 4;
  const sixteen = Array.from({ length: 16 }, (_, i) => i), order = [0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15];
  const signs = (g: number): Code => op(SWIZZLE, op(NARROW8S, ...[0, 2].map((k) => op(NARROW16S, load(get(AT), 64 * g + 16 * k), load(get(AT), 64 * g + 16 * k + 16)))), bytes(order));
  return {
    folds: byMagnitude,
    scales: [
      set(exponent, op(MAX32, op(SUB32, shift(SHR32, get(M), 23), i32x4(2)), i32x4(0))),
      set(S, op(SELECT, i32x4(0x400000), shift(SHL32, get(exponent), 23), op(EQ32, get(exponent), i32x4(0)))), set(F, shift(SHL32, op(SUB32, i32x4(256), op(MAX32, get(exponent), i32x4(2))), 23)),
      // the encoder's logarithm may round up; and below 2^-123 the factor is no f32
      set(STRANGE, or(tooLarge, op(GT32, op(AND, get(M), i32x4(0x7fffff)), i32x4(0x7ffe00)), op(AND, op(GT32, i32x4(bitsOf(2 ** -123)), get(M)), op(GT32, get(M), i32x4(0))))),
    ],
    codes: packed((k) => whole(op(CEIL, absolute(scaled(k)))), V + 1, (ups, g) => [
      set(u, op(SUB8, op(MINU8, ups, i8x16(31)), i8x16(16))), set(sign, op(AND, op(GT8, i8x16(0), signs(g)), i8x16(8))),
      swizzleNear(bytes(sixteen.map((code) => (code === 8 ? 0 : code))), op(OR, get(sign), lookup(sixteen.map(magnitude), sixteen.map((i) => magnitude(i + 16)), u))),
    ]),
  };
};

/**
 * A codebook of 16 values by one comparison: t = round(K x / scale) in 16 bits, whose upper five are a bucket that holds at most one threshold.
 * From the bucket comes the rank of its lower part, from that the threshold T; then the code's rank is `rank + (t > T)`. Where t = T the f32
 * numbers decide: such places (one in a thousand) are listed, and compared with every threshold afterwards.
 */
function codebook(table: Float32Array): Loops {
  const codeOf = ascending(table), above = midpoints(Float32Array.from(codeOf, (code) => table[code])), k = scaleOf(above), t = [...above].map((v, rank) => (rank + 1 < above.length ? Math.round(v * k) : 32767));
  while (t.length < 16) t.push(32767);
  const order = Array.from({ length: 16 }, (_, rank) => codeOf[Math.min(rank, codeOf.length - 1)]), sixteen = order.map((_, i) => i), inOrder = order.every((code, rank) => code === rank);
  const base = (bucket: number): number => t.filter((v) => v >> 11 < bucket).length;
  const factor = V + 1, p = V + 2, index = V + 4, rank = V + 5, low = V + 6, high = V + 7, apart = V + 8, result = V + 10;
  const named = (ranks: Code): Code => (inOrder ? ranks : swizzleNear(bytes(order), ranks));
  const group = (g: number): Code => [
    [0, 1].map((h) => set(p + h, weave(whole(scaled(4 * g + 2 * h, factor)), whole(scaled(4 * g + 2 * h + 1, factor))))),
    set(index, op(NARROW8S, shift(SHR16S, get(p), 11), shift(SHR16S, get(p + 1), 11))),
    set(rank, lookup(sixteen.map((i) => base(i - 16)), sixteen.map(base), index)),
    set(low, swizzleNear(bytes(t.map((v) => v & 255)), get(rank))), set(high, swizzleNear(bytes(t.map((v) => (v >> 8) & 255)), get(rank))),
    set(apart + g, op(NARROW8S, ...[0, 8].map((from, h) => op(SUB16, shuffle(get(low), get(high), [0, 1, 2, 3, 4, 5, 6, 7].flatMap((i) => [from + i, 16 + from + i])), get(p + h))))),
    // first the even places of each vector, then the odd ones
    set(result + g, op(SWIZZLE, named(op(SUB8, get(rank), op(GT8, i8x16(0), get(apart + g)))), bytes([0, 4, 1, 5, 8, 12, 9, 13, 2, 6, 3, 7, 10, 14, 11, 15]))),
  ];
  const s = V + 12, ranks = V + 14, threshold = V + 1;
  return {
    folds: byMagnitude, scales: byLevels(1, TINY * 2 ** 16), begin: set(factor, op(MULF, get(V), f32x4(k))),
    codes: [
      group(0), group(1),
      store(get(OUT), op(OR, shift(SHL16, shuffle(get(result), get(result + 1), lanes(8, [0, 2])), 4), shuffle(get(result), get(result + 1), lanes(8, [1, 3])))), advance,
      store32(get(MARK), get(AT)), store32(get(MARK), get(SCALE), 4),
      set(MARK, add(get(MARK), [op(ALL8, op(MINU8, get(apart), get(apart + 1))), 0x45, i32(3), 0x74])),
    ],
    end: whenNot([get(MARK), i32(LIST), 0x46], loop([
      set(MARK, add(get(MARK), i32(-8))), set(AT, load32(get(MARK))), set(V, load32Splat(load32(get(MARK), 4))), set(OUT, add(i32(CODES), [get(AT), i32(X), 0x6b, i32(3), 0x76])),
      eight.map((j) => set(ranks + j, i32x4(0))), set(END, i32(THRESHOLDS)),
      loop([
        set(threshold, load32Splat(get(END))), eight.map((j) => set(ranks + j, op(SUB32, get(ranks + j), op(GTF, scaled(j), get(threshold))))),
        set(END, add(get(END), i32(4))),
      ], less(get(END), i32(THRESHOLDS + 4 * (above.length - 1)))),
      packed((j) => get(ranks + j), s, named),
    ], [get(MARK), i32(LIST), 0x47])),
    tables: [[THRESHOLDS, above]],
  };
}

/** K for t = round(K s): no threshold may come near the middle between two whole numbers, and no two may share a bucket. */
function scaleOf(above: Float32Array): number {
  const inner = [...above].filter(Number.isFinite);
  for (let k = 32752; k > 32000; k--) {
    if (new Set(inner.map((v) => Math.round(v * k) >> 11)).size === inner.length && inner.every((v) => Math.abs(Math.abs((v * k) % 1) - 0.5) > 1 / 32)) return k;
  }
  throw new Error("codebook: two thresholds in one bucket");
}

/**
 * A codebook of 256 values, an element at a time: the upper 15 bits of s = x / scale give the rank of the least number that has them, and one
 * comparison says whether s lies above the threshold that follows, as in nearest.ts, in a table small enough for the first cache.
 */
const bytewise = (table: Float32Array): Loops => ({
  folds: byMagnitude, scales: byLevels(1), tables: ranks(table),
  codes: [
    eight.map((k) => store(get(AT), scaled(k), 16 * k)),
    Array.from({ length: 32 }, (_, e) => [
      set(END1, load8(shiftRight(load32(get(AT), 4 * e), 17), STARTS)),
      store8(get(OUT), add(get(END1), greaterAt(get(AT), 4 * e, shiftLeft(get(END1), 2), ABOVE)), e),
    ]),
    set(OUT, add(get(OUT), i32(32))),
  ],
});

/** For `bytewise`: ranks by the upper 15 bits, and thresholds. */
function ranks(table: Float32Array): Tables {
  const { codes, above, start } = searchOf(table), word = new Uint32Array(1), float = new Float32Array(word.buffer);
  if (codes.some((code, rank) => code !== rank)) throw new Error("codebook: not in ascending order");
  const starts = Uint8Array.from({ length: 32768 }, (_, key) => start[2 * key + (key >> 14)]);
  starts.forEach((rank, key) => {
    word[0] = key * 131072 + (key >> 14 === 0 ? 131071 : 0); // the greatest of them
    if (rank + 1 < above.length && float[0] > above[rank + 1]) throw new Error(`codebook: two thresholds up to ${float[0]}`);
  });
  return [[STARTS, starts], [ABOVE, above]];
}

/** Formats whose codes are made here. */
export type FastName = "nf4" | "fp4" | "int4" | "int8" | "dynamic8" | "q8_0" | "q4_0" | "mxfp4";
const loops: Readonly<Record<FastName, () => Loops>> = {
  nf4: () => codebook(formats.nf4.table), fp4: () => codebook(formats.fp4.table), dynamic8: () => bytewise(formats.dynamic8.table),
  int4: () => even4, int8: () => even8, q8_0: () => q8, q4_0: () => q4, mxfp4,
};
export const isFastName = (name: string): name is FastName => Object.hasOwn(loops, name);
/** The function of a format (blocks and the bytes of one in, not 0 out if any is left to the encoder), and the tables it reads. */
export function bodyOf(name: FastName, input: Input): readonly [body: Code, tables: Tables] {
  const each = loops[name]();
  return [passes(each, input), each.tables ?? []];
}
