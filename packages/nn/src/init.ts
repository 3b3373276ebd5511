/** Initial weights, drawn on the host from named streams: equal on every machine and device. */
import { type DType, type Shape, type Store, encode, hostArray, hostNormal, hostUniform, sizeOf, store } from "@adjoint/tensor";

/** Makes the store of a parameter: its name is its stream. */
export type Initializer = (name: string, shape: Shape) => Store;

/** Normal with this standard deviation. */
export const normal = (seed: number, std: number): Initializer => (name, shape) => store(hostNormal(seed, `init/${name}`, shape, { std }), name);
/** Uniform in [-bound, bound). */
export const uniform = (seed: number, bound: number): Initializer => (name, shape) => store(hostUniform(seed, `init/${name}`, shape, { low: -bound, high: bound }), name);
/** Uniform in ±√(6 / ((1 + a²) fan in)) for a weight [out, in] (He et al. 2015); a = √5 is torch's default for Linear. */
export const kaimingUniform = (seed: number, a = 0): Initializer => (name, shape) => uniform(seed, Math.sqrt(6 / ((1 + a * a) * fans(shape)[0])))(name, shape);
/** Uniform in ±√(6 / (fan in + fan out)) (Glorot and Bengio 2010). */
export const xavierUniform = (seed: number): Initializer => (name, shape) => { const [i, o] = fans(shape); return uniform(seed, Math.sqrt(6 / (i + o)))(name, shape); };
/** All the same number. */
export const constant = (value: number, dtype: DType = "f32"): Initializer => (name, shape) => store({ dtype, shape, data: hostArray(dtype, sizeOf(shape)).fill(encode(dtype, value)) }, name);

const fans = (shape: Shape): readonly [number, number] => {
  const rest = sizeOf(shape.slice(2));
  return [(shape[1] ?? shape[0]) * rest, shape[0] * rest];
};
