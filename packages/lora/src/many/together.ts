/** Adapters that act one after another in every call: the ModuleAdapter of `set.with`. */
import type { Context, ModuleAdapter } from "@adjoint/nn";
import type { Tensor } from "@adjoint/tensor";
import type { AdapterTree } from "../attachments.ts";

/** Adapters of one `with`: each adds to what those before it gave; a factor of the call is data of the call. */
export class Together implements ModuleAdapter {
  readonly adapters: Readonly<Record<string, AdapterTree>>;
  readonly factors: readonly Tensor[];
  readonly #parts: readonly { readonly name: string; readonly part: ModuleAdapter }[];
  constructor(adapters: Readonly<Record<string, AdapterTree>>, factors: readonly Tensor[], parts: readonly { readonly name: string; readonly part: ModuleAdapter }[]) {
    this.adapters = adapters;
    this.factors = factors;
    this.#parts = parts;
  }
  output(module: object, x: Tensor, y: Tensor, context: Context): Tensor {
    return this.#parts.reduce((sum, { name, part }) => part.output?.(module, x, sum, this.#own(context, name)) ?? sum, y);
  }
  weight(module: object, key: string, weight: Tensor, context: Context): Tensor {
    return this.#parts.reduce((sum, { name, part }) => part.weight?.(module, key, sum, this.#own(context, name)) ?? sum, weight);
  }
  /** Adapters that act together draw masks of their own; one alone draws what it draws without a set. */
  #own(context: Context, name: string): Context {
    return this.#parts.length === 1 || !context.key ? context : { ...context, key: { ...context.key, stream: `${context.key.stream}/${name}` } };
  }
}
