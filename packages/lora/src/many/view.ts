/** A base model with some of its adapters on: a value, made for a call or kept, that changes no other. */
import type { Context, ModuleAdapter } from "@adjoint/nn";
import { ConfigError, type Tensor } from "@adjoint/tensor";
import { AdaptedModel } from "../adapted-model.ts";
import type { AdapterTree } from "../attachments.ts";

/** What a set gives a view. */
export interface ViewParts<M> {
  readonly base: M;
  readonly names: readonly string[];
  readonly trains: readonly string[];
  readonly adapter: AdapterTree;
  readonly moduleAdapter: ModuleAdapter | null;
  readonly dropout: number;
  /** throws where adapters are merged that this view does not have on; says whether what it has on is merged */
  readonly check: (names: readonly string[]) => void;
  readonly penalty: () => Tensor | null;
  readonly table: () => string;
}

/** The base's methods with the chosen adapters on; `adapter` holds what trains. */
export class AdapterView<M> extends AdaptedModel<M> {
  override readonly base: M;
  /** the adapters that are on, in the order of their contributions */
  readonly names: readonly string[];
  /** those of them that train */
  readonly trains: readonly string[];
  /** tensors that train: of one adapter that was named by a text its own tree, else trees by the adapters' names */
  readonly adapter: AdapterTree;
  /** the value of `adapter` in a Context; null: the base alone */
  readonly moduleAdapter: ModuleAdapter | null;
  override readonly dropout: number;
  readonly #parts: ViewParts<M>;
  constructor(parts: ViewParts<M>) {
    super();
    this.base = parts.base;
    this.names = parts.names;
    this.trains = parts.trains;
    this.adapter = parts.adapter;
    this.moduleAdapter = parts.moduleAdapter;
    this.dropout = parts.dropout;
    this.#parts = parts;
  }
  /** @throws ConfigError while an adapter is merged that this view leaves out, and when the call brings an adapter of its own */
  override context<C extends Context>(context?: C): C;
  override context(context: Context = {}): Context {
    this.#parts.check(this.names);
    if (context.adapter !== undefined && context.adapter !== null) throw new ConfigError("the call names another adapter than the view that it is made on", { key: "adapter", fix: "make the call on set.base, or choose the adapters by set.with" });
    return { ...context, adapter: context.adapter === null ? null : this.moduleAdapter };
  }
  /** The sum of the adapters' own terms of the loss; null where there are none. */
  penalty(): Tensor | null {
    return this.#parts.penalty();
  }
  /** The set's adapters, which of them are on here, and which train. */
  override toString(): string {
    return this.#parts.table();
  }
}
