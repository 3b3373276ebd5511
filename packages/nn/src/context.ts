/** What a forward pass is told besides its input: training or not, where random numbers come from, which adapter is on. */
import type { Key, Tensor } from "@adjoint/tensor";
import type { Embedding } from "./embedding.ts";
import type { Linear } from "./linear.ts";

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
}

/** Sees each linear layer's and embedding's input x (or ids) and output y, and returns the output to use; y itself where it adapts nothing. */
export interface ModuleAdapter {
  linear?(module: Linear, x: Tensor, y: Tensor, context: Context): Tensor;
  embedding?(module: Embedding, ids: Tensor, y: Tensor, context: Context): Tensor;
}

/** A context of the same pass whose random numbers come from a stream of its own, named below the old one. */
export const within = (context: Context, name: string): Context =>
  (context.key ? { ...context, key: { ...context.key, stream: `${context.key.stream}/${name}` } } : context);
