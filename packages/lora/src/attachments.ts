/** Methods on the modules of one model, with their tensors, and the adapter that a forward pass is given. */
import { type Context, type ModuleAdapter, within } from "@adjoint/nn";
import { ConfigError, type Key, Store, type Tensor } from "@adjoint/tensor";
import type { AdapterMethod, Factors, Role, Site } from "./adapter.ts";
import type { LoraConfig } from "./config/config.ts";
import { parametersOf } from "./targets/modules.ts";
import { factorKey } from "./files/peft-keys.ts";

/** One method on one module, with its tensors. A module may have several attachments; they act in order. */
export interface Attachment {
  readonly site: Site;
  readonly module: object;
  readonly method: AdapterMethod;
  /** what trains */
  readonly factors: Readonly<Record<Role, Store>>;
  /** what stands beside it and does not train: the method's constants, shared projections, what an initialisation took out of the base */
  readonly beside?: Readonly<Record<Role, Store>>;
}

/** All tensors of an attachment, as its method takes them. */
export const tensorsOf = ({ factors, beside }: Attachment): Factors => ({ ...beside, ...factors });
/** The name in PEFT's file. */
export const keyOf = ({ site, method }: Pick<Attachment, "site" | "method">, role: Role): string => method.key?.(site, role) ?? factorKey(site.path, role, site.kind);
/** Trainable tensors in a tree whose paths are the names in PEFT's file. */
export interface AdapterTree {
  readonly [key: string]: Store | AdapterTree;
}

/** Nested objects from dotted names. */
export function treeOf(stores: ReadonlyMap<string, Store>): AdapterTree {
  interface Draft { [key: string]: Store | Draft }
  const root: Draft = {};
  for (const [name, leaf] of stores) {
    const parts = name.split(".");
    const last = parts.pop() ?? name;
    let at = root;
    for (const part of parts) {
      const next = Object.hasOwn(at, part) ? at[part] : (at[part] = {});
      if (next instanceof Store) throw new ConfigError(`${name} lies below another tensor`, { key: name, fix: "rename the module" });
      at = next;
    }
    at[last] = leaf;
  }
  return root;
}

/** What trains, by the names of PEFT's file. */
export const storesOf = (attachments: readonly Attachment[]): ReadonlyMap<string, Store> =>
  new Map(attachments.flatMap((a) => Object.entries(a.factors).map(([role, s]) => [keyOf(a, role), s] as const)));

/** What does not train and is in the file all the same, by name. */
export const fixedStoresOf = (attachments: readonly Attachment[], config: LoraConfig): ReadonlyMap<string, Store> =>
  new Map(attachments.flatMap((a) => Object.keys(a.method.fixed?.(a.site, config) ?? {}).flatMap((role) => (a.beside?.[role] === undefined ? [] : [[keyOf(a, role), a.beside[role]] as const]))));

/** Applies attachments to the modules they belong to; any other module keeps its output. */
export class Attached implements ModuleAdapter {
  /** the trainable tensors, in sight: compiled steps tell adapters among their arguments apart by them */
  readonly adapter: AdapterTree;
  readonly #of: ReadonlyMap<object, readonly Attachment[]>;
  readonly #dropout: number;
  constructor(attachments: readonly Attachment[], adapter: AdapterTree, dropout: number) {
    const of = new Map<object, Attachment[]>();
    for (const a of attachments) of.set(a.module, [...(of.get(a.module) ?? []), a]);
    this.adapter = adapter;
    this.#of = of;
    this.#dropout = dropout;
  }
  output(module: object, x: Tensor, y: Tensor, context: Context): Tensor {
    let result = y;
    for (const a of this.#of.get(module) ?? []) result = a.method.forward(tensorsOf(a), a.site, { x, y: result, module, frozen: parametersOf(module), ...this.#drop(a.site, context) });
    return result.dtype === y.dtype ? result : result.cast(y.dtype);
  }
  weight(module: object, name: string, weight: Tensor): Tensor {
    let result = weight;
    for (const a of this.#of.get(module) ?? []) result = a.method.weight?.(tensorsOf(a), a.site, name, result) ?? result;
    return result;
  }
  /** Dropout of an adapter's input; ids of an embedding and weights cannot be dropped. */
  #drop({ path, kind }: Site, context: Context): { readonly key: Key | null; readonly dropout: number } {
    const dropout = kind === "embedding" || kind === "lstm" || kind === "other" ? 0 : this.#dropout;
    if (context.train !== true || dropout === 0) return { key: null, dropout };
    const { key } = within(context, `lora/${path}`);
    if (key !== undefined) return { key, dropout };
    throw new ConfigError(`lora_dropout = ${dropout} needs random numbers while training`, {
      key: "lora_dropout",
      value: dropout,
      fix: 'pass { train: true, key: { seed, stream: "dropout", step } } with a step that counts, or set train to false',
    });
  }
}
