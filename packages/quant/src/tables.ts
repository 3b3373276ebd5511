/** Codebooks: the value that each code stands for, before the block's scale. */

const f = Math.fround;
const table = (length: number, value: (code: number) => number): Float32Array => Float32Array.from({ length }, (_, code) => value(code));

/**
 * NF4 (Dettmers et al., QLoRA, arXiv 2305.14314, appendix E): quantiles of a normal distribution, scaled to [-1, 1], with a zero.
 *
 * `o = 1 - (1/30 + 1/32)/2`; eight values `Phi^-1(linspace(o, 1/2, 9))`, seven `-Phi^-1(linspace(o, 1/2, 8))`, and 0, over the largest.
 * The literals are those of the bitsandbytes library, which every NF4 file carries.
 */
export const nf4: Float32Array = Float32Array.of(
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
  0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
);

/** Of a code whose upper bit is the sign; code 8 stands for a zero without one, as in the libraries. */
const signOf = (code: number): number => (code > 8 ? -1 : 1);

/** FP4 of bitsandbytes: sign, two bits of exponent, one of mantissa, over 12: `(0, 1/16, 8, 12, 4, 6, 2, 3) / 12`, then the same with the sign bit. */
export const fp4: Float32Array = table(16, (code) => signOf(code) * [0, 0.0625, 8, 12, 4, 6, 2, 3][code & 7] / 12);

/** Fifteen even steps: `(code - 8) / 7`; code 0 is never written. */
export const int4: Float32Array = table(16, (code) => (code - 8) / 7);

const signed = (byte: number): number => (byte << 24) >> 24;

/** 255 even steps, a code is the byte of an int8: `int8(code) / 127`; -128 is never written. */
export const int8: Float32Array = table(256, (code) => signed(code) / 127);

/** GGUF's Q8_0, and the scales of Q6_K: `int8(code)`. */
export const q8: Float32Array = table(256, signed);

/** GGUF's Q4_0: `code - 8`. */
export const q4: Float32Array = table(16, (code) => code - 8);

/** GGUF's Q4_K, Q4_1 and Q2_K: `code`. */
export const q4k: Float32Array = table(16, (code) => code);

/** GGUF's Q3_K: `code - 4`, three bits. */
export const q3k: Float32Array = table(16, (code) => code - 4);

/** GGUF's Q5_0: `code - 16`, five bits in a byte. */
export const q5: Float32Array = table(256, (code) => code - 16);

/** GGUF's Q6_K, and the scales of Q3_K and IQ4_XS: `code - 32`, six bits in a byte. */
export const six: Float32Array = table(256, (code) => code - 32);

/** GGUF's IQ4_NL and IQ4_XS: sixteen uneven steps, finer around 0 (ggml's `kvalues_iq4nl`). */
export const iq4: Float32Array = Float32Array.of(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);

/** MXFP4's elements, E2M1 (OCP Microscaling Formats 1.0, section 5.3.3): `0, 1/2, 1, 3/2, 2, 3, 4, 6`, then the same with the sign bit. */
export const e2m1: Float32Array = table(16, (code) => signOf(code) * [0, 0.5, 1, 1.5, 2, 3, 4, 6][code & 7]);

/** Bits as they are: the codes of Q5_1 and Q5_K, the scales of Q2_K, Q4_K and Q5_K. */
export const identity: Float32Array = table(256, (code) => code);

/**
 * The dynamic 8-bit map of bitsandbytes, ascending (Dettmers, arXiv 1511.04561 and 2110.02861): a decade gets more fraction bits the larger it is.
 *
 * For `i = 0..6`: the means of neighbours of `linspace(0.1, 1, n)` times `10^(i - 6)`, with `n = 2^i + 1` (signed: both signs) or
 * `2^(i+1) + 1` (unsigned: positive only); then 0 and 1. Signed has no -1: its least value is -0.99296874, so a block whose largest
 * magnitude is negative loses 0.7 % there. With the unsigned map negative values become 0.
 * @example dynamicMap(true)[255] // 1
 */
export function dynamicMap(isSigned: boolean): Float32Array {
  const values = [0, 1];
  for (let i = 0; i < 7; i++) {
    const boundaries = linspace(2 ** (isSigned ? i : i + 1) + 1);
    for (let k = 0; k + 1 < boundaries.length; k++) {
      const value = f(f(f(boundaries[k] + boundaries[k + 1]) / 2) * f(10 ** (i - 6)));
      values.push(value);
      if (isSigned) values.push(-value);
    }
  }
  return Float32Array.from(values.sort((a, b) => a - b));
}

/** `linspace(0.1, 1, n)` in f32 as PyTorch rounds it: from the nearer end, one fused product and sum a value. */
function linspace(n: number): Float32Array {
  const from = f(0.1), step = f(f(1 - from) / (n - 1));
  return table(n, (k) => (k < n / 2 ? from + step * k : 1 - step * (n - 1 - k)));
}
