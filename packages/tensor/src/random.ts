/**
 * Counter-based random numbers: Threefry-2x32 with 20 rounds, on the host and as a formula, equal bit for bit.
 *
 * A number depends on (seed, stream name, element index, step) only, never on order, layout, backend or threads.
 * Key = (seed, hash of the stream's name), counter = (row-major element index, step). Salmon et al., "Parallel random
 * numbers: as easy as 1, 2, 3", SC 2011.
 */
import type { HostArray } from "./dtype.ts";
import { ConfigError } from "./errors.ts";
import { literal, type Expr } from "./expr.ts";
import { checkShape, sizeOf, type Shape } from "./shape.ts";

const ROUNDS = 20, PARITY = 0x1bd11bda;
const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24];

/** Threefry-2x32-20 of counter (c0, c1) under key (k0, k1): two words in [0, 2^32). */
export function threefry(k0: number, k1: number, c0: number, c1: number): [number, number] {
  const keys = [k0, k1, PARITY ^ k0 ^ k1];
  let x = (c0 + k0) | 0, y = (c1 + k1) | 0;
  for (let i = 0; i < ROUNDS; i++) {
    const r = ROTATIONS[i & 7];
    x = (x + y) | 0;
    y = ((y << r) | (y >>> (32 - r))) ^ x;
    if ((i & 3) === 3) {
      const j = (i + 1) >> 2;
      x = (x + keys[j % 3]) | 0;
      y = (y + keys[(j + 1) % 3] + j) | 0;
    }
  }
  return [x >>> 0, y >>> 0];
}

/** Both words of `threefry` as formulas over u32. */
export function threefryPair(k0: Expr, k1: Expr, c0: Expr, c1: Expr): [Expr, Expr] {
  const keys = [k0, k1, k0.xor(k1).xor(literal(PARITY, "u32"))];
  let x = c0.add(k0), y = c1.add(k1);
  for (let i = 0; i < ROUNDS; i++) {
    const r = ROTATIONS[i & 7];
    x = x.add(y);
    y = y.shl(r).or(y.shr(32 - r)).xor(x);
    if ((i & 3) === 3) {
      const j = (i + 1) >> 2;
      x = x.add(keys[j % 3]);
      y = y.add(keys[(j + 1) % 3].add(j));
    }
  }
  return [x, y];
}
/** The first word of `threefry` as a formula over u32: the bits of uniforms and dropout masks. */
export const threefryExpr = (k0: Expr, k1: Expr, c0: Expr, c1: Expr): Expr => threefryPair(k0, k1, c0, c1)[0];

/** Uniform in [0, 1): (bits >>> 8)·2^-24, exact in f32. */
export const uniformOf = (bits: number): number => (bits >>> 8) * 2 ** -24;
/** `uniformOf` as a formula. */
export const uniformExpr = (bits: Expr): Expr => bits.shr(8).toF().mul(2 ** -24);

/** Standard normal of two words, by Box and Muller: √(-2 ln(1 - u₀))·cos(2π u₁), in f64. */
export const normalOf = (w0: number, w1: number): number =>
  Math.sqrt(-2 * Math.log(1 - uniformOf(w0))) * Math.cos(2 * Math.PI * uniformOf(w1));
/** `normalOf` as a formula; devices agree to about 1e-6 only, so initial weights come from the host. */
export const normalExpr = ([w0, w1]: readonly [Expr, Expr]): Expr =>
  literal(1).sub(uniformExpr(w0)).log().mul(-2).sqrt().mul(uniformExpr(w1).mul(2 * Math.PI).cos());

/** 32-bit FNV-1a of the name's UTF-8 bytes: the second key word of a stream. */
export function hashName(name: string): number {
  let h = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(name)) h = Math.imul(h ^ byte, 0x01000193);
  return h >>> 0;
}

/** The key of a stream. @throws ConfigError unless seed is an integer in [0, 2^32) */
export function keyOfStream(seed: number, stream: string): [number, number] {
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) {
    throw new ConfigError(`seed ${seed} is not an integer from 0 to 4294967295`, { key: "seed", value: seed, fix: "pass such an integer" });
  }
  return [seed, hashName(stream)];
}

/** How host numbers are drawn. */
export interface DrawOptions {
  /** second counter word; default 0 */
  readonly step?: number;
}

function draw(seed: number, stream: string, shape: Shape, step: number, f: (w0: number, w1: number) => number): HostArray {
  const [k0, k1] = keyOfStream(seed, stream), data = new Float32Array(sizeOf(checkShape("random", shape)));
  for (let i = 0; i < data.length; i++) {
    const [w0, w1] = threefry(k0, k1, i, step);
    data[i] = f(w0, w1);
  }
  return { dtype: "f32", shape: [...shape], data };
}

/** f32 uniforms in [low, high), drawn in f64 on the host: bit-equal everywhere. Default [0, 1). */
export function hostUniform(seed: number, stream: string, shape: Shape, { low = 0, high = 1, step = 0 }: DrawOptions & { readonly low?: number; readonly high?: number } = {}): HostArray {
  return draw(seed, stream, shape, step, (w) => low + (high - low) * uniformOf(w));
}

/** f32 normals with the given mean and standard deviation, drawn in f64 on the host: bit-equal everywhere. */
export function hostNormal(seed: number, stream: string, shape: Shape, { mean = 0, std = 1, step = 0 }: DrawOptions & { readonly mean?: number; readonly std?: number } = {}): HostArray {
  return draw(seed, stream, shape, step, (w0, w1) => mean + std * normalOf(w0, w1));
}

/**
 * A uniformly random integer in [0, n) of a stream, without bias: words of counters (index, 0), (index, 1), ... are
 * refused while they lie in the incomplete last interval of length n.
 */
export function hostInteger(seed: number, stream: string, index: number, n: number): number {
  const [k0, k1] = keyOfStream(seed, stream);
  return bounded(k0, k1, index, n);
}
function bounded(k0: number, k1: number, index: number, n: number): number {
  const limit = 2 ** 32 - (2 ** 32 % n);
  for (let attempt = 0; ; attempt++) {
    const [w] = threefry(k0, k1, index, attempt);
    if (w < limit) return w % n;
  }
}

/** A uniformly random order of 0 ... n-1 (Fisher and Yates), the same on every machine. */
export function permutation(seed: number, stream: string, n: number): Int32Array {
  const [k0, k1] = keyOfStream(seed, stream), order = Int32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = bounded(k0, k1, i, i + 1), t = order[i];
    order[i] = order[j];
    order[j] = t;
  }
  return order;
}
