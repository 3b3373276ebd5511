/** Counter-based random tensors: the same bits on every backend, layout and thread count. */
import { ConfigError } from "../errors.ts";
import { keyOfStream, threefryExpr, uniformExpr } from "../random.ts";
import { rowMajor, type Shape } from "../shape.ts";
import { type Op, type Tensor, record, scalar } from "../tensor.ts";

/** Names a stream of random numbers: a seed, a stream's name, and the step (a number that is data, 0 by default). */
export interface Key { readonly seed: number; readonly stream: string; readonly step?: Tensor }

const words = (key: Key): Tensor[] => {
  const [k0, k1] = keyOfStream(key.seed, key.stream);
  if (key.step && (key.step.dtype !== "u32" || key.step.op.kind !== "scalar")) throw new ConfigError("a random key's step must be a scalar of u32", { key: "step", fix: 'live(counter, (t) => t, "u32")' });
  return [scalar(k0, "u32"), scalar(k1, "u32"), key.step ?? scalar(0, "u32")];
};
/** 32 random bits per element: Threefry-2x32-20 of (row-major index, step) under (seed, stream). */
export const randomBitsOp: Op = { name: "randomBits", kind: "map", forward: ([k0, k1, step], node, index) => threefryExpr(k0, k1, index(rowMajor(node.shape), "u32"), step), vjp: () => [null, null, null] };
export const randomBits = (shape: Shape, key: Key): Tensor => record(randomBitsOp, words(key), null, shape, "u32");

/** Uniform on [0, 1): (bits >>> 8)·2^-24. */
export const randomUniformOp: Op = { name: "randomUniform", kind: "map", forward: ([k0, k1, step], node, index) => uniformExpr(threefryExpr(k0, k1, index(rowMajor(node.shape), "u32"), step)), vjp: () => [null, null, null] };
export const randomUniform = (shape: Shape, key: Key): Tensor => record(randomUniformOp, words(key), null, shape, "f32");

/** True with probability `keep`: an integer comparison (bits >>> 8) < keep·2^24, hence equal on every backend. */
export const randomMaskOp: Op = { name: "randomMask", kind: "map", forward: ([k0, k1, step, limit], node, index) => threefryExpr(k0, k1, index(rowMajor(node.shape), "u32"), step).shr(8).lt(limit), vjp: () => [null, null, null, null] };
export function randomMask(shape: Shape, keep: number, key: Key): Tensor {
  if (!(keep >= 0 && keep <= 1)) throw new ConfigError(`a probability must lie in [0, 1], got ${keep}`, { key: "keep", value: keep });
  return record(randomMaskOp, [...words(key), scalar(Math.round(keep * 2 ** 24), "u32")], null, shape, "bool");
}
/** Inverted dropout: x/(1-p) where the mask is true, else 0; p = 0 is the identity and draws nothing. */
export function dropout(x: Tensor, p: number, key: Key): Tensor {
  if (!(p >= 0 && p < 1)) throw new ConfigError(`dropout: p must lie in [0, 1), got ${p}`, { key: "p", value: p, fix: "use a probability of zeroing" });
  return p === 0 ? x : randomMask(x.shape, 1 - p, key).where(x.mul(1 / (1 - p)), 0);
}
