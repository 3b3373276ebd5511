/** The loops of dequantize in WebAssembly SIMD: 32 elements at a time, one look-up and one product (and one difference, where a format has minima). */
import { AND, MULF, SHR16U, SUBF, add, get, i32, i8x16, lanes, less, load, load32Lane, load32Splat, load32Zero, load8, loop, op, set, shift, shiftLeft, shuffle, store, swizzleNear } from "./simd-code.ts";
import type { Code } from "./simd-code.ts";
import { CHUNK, LONGEST } from "./simd-loops.ts";

/** Where things lie. */
export const TABLE = 0, SCALES = 1024, MINS: number = SCALES + CHUNK / 8, CODES: number = MINS + CHUNK / 8, X: number = CODES + LONGEST, PAGES: number = Math.ceil((X + 4 * LONGEST) / 65536);

/** Locals: two parameters (blocks, bytes of a block's codes), scalars, vectors. */
const BLOCKS = 0, BYTES = 1, AT = 2, END = 3, SCALE = 4, OUT = 5, V = 6;
export const SCALARS = 4, VECTORS = 16;
const S = V, MIN = V + 1, PLANES = V + 2, T = V + 6;

const four = [0, 1, 2, 3] as const;
const step = (local: number, by: number): Code => set(local, add(get(local), i32(by)));

/** The bytes of sixteen f32 numbers: first the lowest byte of each, then the next. */
export function planes(values: Float32Array): Uint8Array {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, 64);
  return Uint8Array.from(bytes, (_, i) => bytes[4 * (i & 15) + (i >> 4)]);
}

/** Bytes, or pairs of them, of the lower (0) or upper (1) halves of two vectors in turns. */
const unpack = (a: Code, b: Code, unit: 1 | 2, half: 0 | 1): Code => {
  const n = 16 / unit;
  return shuffle(a, b, lanes(unit, Array.from({ length: n }, (_, i) => half * (n / 2) + (i >> 1) + (i & 1) * n)));
};

/** 16 bytes of codes: their nibbles in order, a value's bytes by one shuffle each, put together again. */
function nibbles(value: (v: Code) => Code): Code {
  const high = T, low = T + 1, index = T + 2, byte = T + 3, ab = T + 7, cd = T + 8;
  const sixteen = (half: 0 | 1): Code => [
    set(index, unpack(get(high), get(low), 1, half)), four.map((k) => set(byte + k, swizzleNear(get(PLANES + k), get(index)))),
    ([0, 1] as const).map((h) => [
      set(ab, unpack(get(byte), get(byte + 1), 1, h)), set(cd, unpack(get(byte + 2), get(byte + 3), 1, h)),
      ([0, 1] as const).map((g) => store(get(OUT), value(unpack(get(ab), get(cd), 2, g)), 64 * half + 32 * h + 16 * g)),
    ]),
  ];
  return [
    set(index, load(get(AT))), set(high, op(AND, shift(SHR16U, get(index), 4), i8x16(15))), set(low, op(AND, get(index), i8x16(15))),
    sixteen(0), sixteen(1), step(AT, 16),
  ];
}

/** 32 codes of 8 bits, a value of the table at a time. */
function wholeBytes(value: (v: Code) => Code): Code {
  const place = (e: number): Code => shiftLeft(load8(get(AT), e), 2);
  const vector = (e: number): Code => [1, 2, 3].reduce<Code>((v, lane) => load32Lane(lane, place(e + lane), TABLE, v), load32Zero(place(e), TABLE));
  return [Array.from({ length: 8 }, (_, k) => store(get(OUT), value(vector(4 * k)), 16 * k)), step(AT, 32)];
}

/** The function of codes of so many bits. */
export function bodyOf(bits: 4 | 8, mins: boolean): Code {
  const product = (v: Code): Code => op(MULF, v, get(S)), value = mins ? (v: Code): Code => op(SUBF, product(v), get(MIN)) : product;
  return [
    bits === 4 ? four.map((k) => set(PLANES + k, load(i32(TABLE), 16 * k))) : [],
    set(AT, i32(CODES)), set(SCALE, i32(SCALES)), set(OUT, i32(X)),
    loop([
      set(S, load32Splat(get(SCALE))), mins ? set(MIN, load32Splat(add(get(SCALE), i32(MINS - SCALES)))) : [], set(END, add(get(AT), get(BYTES))),
      loop([bits === 4 ? nibbles(value) : wholeBytes(value), step(OUT, 128)], less(get(AT), get(END))),
      step(SCALE, 4), set(BLOCKS, [get(BLOCKS), i32(1), 0x6b]),
    ], get(BLOCKS)),
    i32(0),
  ];
}
