/** One encoder a format: reads a block, writes a code an element, gives the block's scale. */
import { formats } from "./format.ts";
import type { FormatName } from "./format.ts";
import { ascending, midpoints, nearest } from "./nearest.ts";
import type { Nearest } from "./nearest.ts";

/** A block of finite f32 values, and room for what is made of it. */
export interface Block {
  readonly x: Float32Array;
  readonly from: number;
  readonly to: number;
  /** largest magnitude of the block */
  readonly absmax: number;
  /** the last one, and shorter than the others */
  readonly short: boolean;
  /** room for the block's values over its scale */
  readonly scaled: Float32Array;
  /** the bits of `scaled` */
  readonly bits: Uint32Array;
  /** one code an element, from 0 on */
  readonly codes: Uint8Array;
}

/** Writes `codes[0 .. to - from)` and returns the scale as it will be stored. */
export type Encoder = (block: Block) => number;

const f = Math.fround;
/** Below this the reciprocal of a block's largest magnitude, times its values, may leave f32: divide instead. */
export const TINY: number = 2 ** -118;

/** `codes[i] = nearest(scaled[i])` for i < n. */
function search({ codes: codeOf, above, start }: Nearest, { scaled, bits, codes }: Block, n: number): void {
  for (let i = 0; i < n; i++) {
    const rank = start[bits[i] >>> 16];
    codes[i] = codeOf[scaled[i] > above[rank] ? rank + 1 : rank];
  }
}

/** `code = nearest(table, x / absmax)`, a tie goes to the lower value; `x / absmax` is `x * fround(1 / absmax)` except in a short block, as in bitsandbytes. */
function byTable(name: FormatName): Encoder {
  const found = once(() => searchOf(formats[name].table));
  return (block) => {
    const { x, from, to, absmax, short, scaled } = block, n = to - from;
    if (absmax === 0) scaled.fill(0, 0, n);
    else if (short || absmax < TINY) for (let i = 0; i < n; i++) scaled[i] = x[from + i] / absmax;
    else {
      const inverse = f(1 / absmax);
      for (let i = 0; i < n; i++) scaled[i] = f(x[from + i] * inverse);
    }
    search(found(), block, n);
    return absmax;
  };
}

/**
 * The search of a codebook: nearest value, ties to the lower one.
 *
 * Of FP4's two zeros only code 0 is written, so that q(dq(q(x))) = q(x); bitsandbytes also writes code 8, which decodes to the same.
 */
export function searchOf(table: Float32Array): Nearest {
  const order = ascending(table);
  return nearest(order, midpoints(Float32Array.from(order, (code) => table[code])));
}

/** `code = round(x * fround(levels / absmax)) + zero`, ties to even: the rule of LLM.int8. */
function even(levels: number, zero: number): Encoder {
  return ({ x, from, to, absmax, codes }) => {
    const n = to - from;
    if (absmax === 0) codes.fill(zero, 0, n);
    else if (absmax < TINY) for (let i = 0; i < n; i++) codes[i] = roundEven((x[from + i] / absmax) * levels) + zero;
    else {
      const inverse = f(levels / absmax);
      for (let i = 0; i < n; i++) codes[i] = roundEven(f(x[from + i] * inverse)) + zero;
    }
    return absmax;
  };
}
/** Nearest whole number, ties to even: beside 1.5 * 2^52 an f64 has no room for a fraction. */
const roundEven = (v: number): number => v + 6755399441055744 - 6755399441055744;

/** Q8_0 (ggml): `d = absmax / 127` in f32, `q = round(x * (1 / d))`, ties away from 0; d is stored in f16; where that is 0 the codes are 0 too. */
const q8: Encoder = ({ x, from, to, absmax, codes }) => {
  const d = f(absmax / 127), stored = roundF16(d), inverse = stored === 0 ? 0 : f(1 / d);
  for (let i = from; i < to; i++) {
    const v = f(x[i] * inverse);
    codes[i - from] = (v < 0 ? v - 0.5 : v + 0.5) | 0;
  }
  return stored;
};

/** Q4_0 (ggml): m the first value of largest magnitude, `d = m / -8`, `q = min(15, trunc(x * (1 / d) + 8.5))`; d is stored in f16. */
const q4: Encoder = ({ x, from, to, absmax, codes }) => {
  let at = from;
  while (Math.abs(x[at]) !== absmax) at++;
  const d = x[at] / -8, stored = roundF16(d), inverse = stored === 0 ? 0 : f(1 / d);
  for (let i = from; i < to; i++) {
    const q = f(f(x[i] * inverse) + 8.5) | 0;
    codes[i - from] = q > 15 ? 15 : q;
  }
  return stored;
};

const one = new Float32Array(1), word = new Uint32Array(one.buffer);
/** An f32 rounded to what f16 can hold, ties to even, as `fromF16(toF16(d))`, which is too slow for every block of 32. */
export function roundF16(d: number): number {
  const a = Math.abs(d);
  if (a >= 65520) return d > 0 ? Infinity : -Infinity;
  if (a < 2 ** -14) { // f16 is even here, in steps of 2^-24, which is what an f32 has left beside 3/4
    const r = f(a + 0.75) - 0.75;
    return d < 0 || Object.is(d, -0) ? -r : r;
  }
  one[0] = d;
  word[0] = (word[0] + 0xfff + ((word[0] >>> 13) & 1)) & 0xffffe000;
  return one[0];
}

/** MXFP4 (OCP, as ggml encodes it): `scale = 2^(floor(log2 absmax) - 2)`, the nearest E2M1 value of `x / scale`, a tie goes to the smaller magnitude. */
const mxfp4: Encoder = (block) => {
  const { x, from, to, absmax, scaled } = block, n = to - from;
  const exponent = absmax === 0 ? -127 : Math.max(-127, floorLog2(absmax) - 2), inverse = powers[127 - exponent];
  for (let i = 0; i < n; i++) scaled[i] = x[from + i] * inverse;
  search(e2m1(), block, n);
  return powers[127 + exponent];
};
/** 2^-127 .. 2^127 */
const powers = Float64Array.from({ length: 255 }, (_, i) => 2 ** (i - 127));
/** `floor(fround(log2 a))`: a's exponent, or one more where the logarithm is rounded up to a whole number. */
function floorLog2(a: number): number {
  one[0] = a;
  const exponent = word[0] >>> 23;
  return exponent === 0 || (word[0] & 0x7fffff) > 0x7ffe00 ? Math.floor(f(Math.log2(a))) : exponent - 127;
}
const e2m1 = once(() => {
  const { codes, above } = searchOf(formats.mxfp4.table);
  return nearest([...codes], above.map((threshold) => (threshold < 0 ? below(threshold) : threshold))); // ties of negative values go up, to the smaller magnitude
});
/** The next f32 below a negative one. */
function below(negative: number): number {
  const value = Float32Array.of(negative);
  new Uint32Array(value.buffer)[0]++;
  return value[0];
}

function once<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}

/** By format; null: can be read but not made. */
export const encoders: Readonly<Record<FormatName, Encoder | null>> = {
  nf4: byTable("nf4"), fp4: byTable("fp4"), int4: even(7, 8), int8: even(127, 0), dynamic8: byTable("dynamic8"), udynamic8: byTable("udynamic8"),
  q8_0: q8, q4_0: q4, mxfp4,
  q2_k: null, q3_k: null, q4_k: null, q5_k: null, q6_k: null, q4_1: null, q5_0: null, q5_1: null, iq4_nl: null, iq4_xs: null,
};
