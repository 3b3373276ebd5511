/** What a forward pass is told besides its input: training or not, where random numbers come from, which adapter is on. */
import type { Key, Tensor } from "@adjoint/tensor";

/** One argument of every `forward`; modules hold no flags. */
export interface Context {
  /** dropout is on; false by default */
  readonly train?: boolean;
  /** stream and step of the dropout masks; needed when a module drops while training */
  readonly key?: Key;
  /** an adapter that adds to what modules compute; null or absent: the base model alone */
  readonly adapter?: ModuleAdapter | null;
  /** how a model's layers give up their intermediate values and compute them again in the backward pass: autograd's `checkpoint` */
  readonly checkpoint?: ((f: (...xs: Tensor[]) => Tensor) => (...xs: Tensor[]) => Tensor) | null;
  /** set where a model hands a layer flattened rows, so that an adapter that differs from example to example finds its own */
  readonly flattened?: Flattened;
}

/** A part of the rows of a batch [batch, T] that were flattened to [batch T]: entry i is row (from + i) / per of the batch, rounded down. */
export interface Flattened {
  readonly from: number;
  readonly per: number;
}

/** Sees what layers compute, and may change it; layers are told apart by the objects that they are. */
export interface ModuleAdapter {
  /** The output to use of a layer with input x (ids of an embedding) and output y; y itself where it changes nothing. */
  output?(module: object, x: Tensor, y: Tensor, context: Context): Tensor;
  /** The weight to use of a layer that computes more than one product of it (an LSTM's weight_ih_l0); `weight` itself where it changes nothing. */
  weight?(module: object, name: string, weight: Tensor, context: Context): Tensor;
}

/** y as the context's adapter would have it: the last line of a layer's `forward`. */
export const adapted = (module: object, x: Tensor, y: Tensor, context: Context): Tensor => context.adapter?.output?.(module, x, y, context) ?? y;
/** A weight as the context's adapter would have it. */
export const adaptedWeight = (module: object, name: string, weight: Tensor, context: Context): Tensor => context.adapter?.weight?.(module, name, weight, context) ?? weight;

/** A context of the same pass whose random numbers come from a stream of its own, named below the old one. */
export const within = (context: Context, name: string): Context =>
  (context.key ? { ...context, key: { ...context.key, stream: `${context.key.stream}/${name}` } } : context);
