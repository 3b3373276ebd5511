/** A model with an adapter beside it: forward and loss with the adapter on, summary, merge, and PEFT's files. */
import { type Context, type ModuleAdapter, within } from "@adjoint/nn";
import { ConfigError, convertArray, type HostArray, isFloat, Store, structureChanged, type Tensor } from "@adjoint/tensor";
import { type Quantized, quantizedOf } from "@adjoint/quant";
import type { AdapterMethod, Site } from "./adapter.ts";
import { bakeScale } from "./bake.ts";
import type { LoraConfig } from "./config.ts";
import type { Adaptable } from "./modules.ts";
import { factorKey, type Role } from "./peft-keys.ts";
import { writeAdapterDirectory } from "./peft.ts";
import { requantize, type RequantizeError } from "./requantize.ts";
import type { TargetTable } from "./targets.ts";

/** Trainable tensors in a tree whose paths are the names in PEFT's file. */
export interface AdapterTree {
  readonly [key: string]: Store | AdapterTree;
}

/** One method of a model that takes a context as its last argument. */
type Takes<Name extends string, I, C, O> = Readonly<Record<Name, (input: I, context?: C) => O>>;
type Field<M, Name extends string> = M extends Readonly<Record<Name, infer V>> ? V : undefined;

/** A tuned model over a base that has some method. */
interface On<B> {
  readonly base: B;
  readonly loraConfig: LoraConfig;
  context<C extends Context>(context?: C): C;
}

/** The context of a loss: with an adapter that drops, it must say whether this is training. */
function decided<C extends Context>(tuned: On<unknown>, context?: C): C {
  const { loraDropout } = tuned.loraConfig;
  if (loraDropout > 0 && context?.train === undefined) {
    throw new ConfigError(`lora_dropout = ${loraDropout}, and the call does not say whether it trains`, {
      key: "lora_dropout",
      value: loraDropout,
      fix: "pass { train: true, key } while training and { train: false } while evaluating",
    });
  }
  return tuned.context(context);
}

/** A field of a model that may have it. */
function fieldOf<M, Name extends string>(model: M, name: Name): Field<M, Name>;
function fieldOf(model: object, name: string): unknown {
  const value: unknown = Reflect.get(model, name);
  return value;
}

/** One adapted module with its trainable tensors. */
export interface Attachment {
  readonly site: Site;
  readonly module: Adaptable;
  readonly factors: Readonly<Record<Role, Store>>;
}

const roles: readonly Role[] = ["A", "B"];
/** A weight as it lies in memory: numbers, or codes. */
type Held = HostArray | Quantized;

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

/** Applies attachments to the modules they belong to; any other module keeps its output. */
class Attached implements ModuleAdapter {
  /** the trainable tensors, in sight: compiled steps tell adapters among their arguments apart by them */
  readonly adapter: AdapterTree;
  readonly #sites: ReadonlyMap<object, Attachment>;
  readonly #method: AdapterMethod;
  readonly #dropout: number;
  constructor(method: AdapterMethod, attachments: readonly Attachment[], adapter: AdapterTree, dropout: number) {
    this.adapter = adapter;
    this.#method = method;
    this.#sites = new Map(attachments.map((a) => [a.module, a]));
    this.#dropout = dropout;
  }
  output(module: object, x: Tensor, y: Tensor, context: Context): Tensor {
    const found = this.#sites.get(module);
    if (found === undefined) return y;
    const { site, factors } = found, dropout = site.kind === "embedding" ? 0 : this.#dropout; // ids cannot be dropped
    const drops = context.train === true && dropout > 0;
    const key = drops ? within(context, `lora/${site.path}`).key : undefined;
    if (drops && key === undefined) {
      throw new ConfigError(`lora_dropout = ${dropout} needs random numbers while training`, {
        key: "lora_dropout",
        value: dropout,
        fix: 'pass { train: true, key: { seed, stream: "dropout", step } } with a step that counts, or set train to false',
      });
    }
    const result = this.#method.forward(factors, site, { x, y, weight: found.module.weight, key: key ?? null, dropout });
    return result.dtype === y.dtype ? result : result.cast(y.dtype);
  }
}

/** What `lora` made, for the class below. */
export interface TunedParts<M> {
  readonly base: M;
  readonly method: AdapterMethod;
  readonly config: LoraConfig;
  readonly table: TargetTable;
  readonly attachments: readonly Attachment[];
  /** every parameter of the base by path; tied ones appear once for each path */
  readonly weights: readonly { readonly path: string; readonly store: Tensor }[];
}

/** A frozen base and one adapter. `base` itself never changes unless `merge` is called; the adapter is on by being passed along, not by a flag. */
export class Tuned<M> {
  readonly base: M;
  readonly loraConfig: LoraConfig;
  readonly targets: TargetTable;
  /** what trains; paths are the names in adapter_model.safetensors */
  readonly adapter: AdapterTree;
  /** sees what modules compute: the value of `adapter` in a Context */
  readonly moduleAdapter: ModuleAdapter;
  readonly #parts: TunedParts<M>;
  #original: ReadonlyMap<string, Held> | null = null;

  constructor(parts: TunedParts<M>) {
    this.base = parts.base;
    this.loraConfig = parts.config;
    this.targets = parts.table;
    this.adapter = treeOf(this.#storesOf(parts));
    this.moduleAdapter = new Attached(parts.method, parts.attachments, this.adapter, parts.config.loraDropout);
    this.#parts = parts;
  }

  #storesOf(parts: TunedParts<M>): ReadonlyMap<string, Store> {
    return new Map(parts.attachments.flatMap(({ site, factors }) => roles.map((role) => [factorKey(site.path, role, site.kind), factors[role]] as const)));
  }

  /** Trainable tensors by the name that PEFT's file gives them. */
  tensors(): ReadonlyMap<string, Store> {
    return this.#storesOf(this.#parts);
  }

  /** Whether the base weights hold the adapter now. */
  get merged(): boolean {
    return this.#original !== null;
  }

  /** The context with this adapter on; `adapter: null` in it leaves the base alone. @throws ConfigError when a merged adapter is to be left out */
  context<C extends Context>(context?: C): C;
  context(context: Context = {}): Context {
    if (this.merged) {
      if (context.adapter === null) throw new ConfigError("the adapter is merged into the base weights, so it cannot be left out", { key: "adapter", value: null, fix: "await tuned.unmerge() first" });
      return { ...context, adapter: context.adapter ?? null };
    }
    return context.adapter === undefined ? { ...context, adapter: this.moduleAdapter } : context;
  }

  // Everything below is the base's own method with the adapter on, so that a tuned model is a model.

  forward<I, C extends Context, O>(this: On<Takes<"forward", I, C, O>>, input: I, context?: C): O {
    return this.base.forward(input, this.context(context));
  }
  /** Scores of the next token. */
  logits<I, C extends Context, O>(this: On<Takes<"logits", I, C, O>>, input: I, context?: C): O {
    return this.base.logits(input, this.context(context));
  }
  /** What the output head reads. */
  hidden<I, C extends Context, O>(this: On<Takes<"hidden", I, C, O>>, input: I, context?: C): O {
    return this.base.hidden(input, this.context(context));
  }
  /** The output head. */
  head<I, C extends Context, O>(this: On<Takes<"head", I, C, O>>, input: I, context?: C): O {
    return this.base.head(input, this.context(context));
  }
  /** Mean loss of a batch. @throws ConfigError when the adapter drops and the context does not say whether this is training */
  loss<B, C extends Context, O>(this: On<Takes<"loss", B, C, O>>, batch: B, context?: C): O {
    return this.base.loss(batch, decided(this, context));
  }
  /** Summed loss of a batch and the number of predicted tokens; errors as `loss`. */
  lossSum<B, C extends Context, O>(this: On<Takes<"lossSum", B, C, O>>, batch: B, context?: C): O {
    return this.base.lossSum(batch, decided(this, context));
  }
  modules<O>(this: On<{ readonly modules: () => O }>): O {
    return this.base.modules();
  }
  /** The base's weights, as they lie in memory. */
  weights<O>(this: On<{ readonly weights: () => O }>): O {
    return this.base.weights();
  }
  /** The base's parameters; the adapter's are `adapter`. */
  parameters<O>(this: On<{ readonly parameters: () => O }>): O {
    return this.base.parameters();
  }
  get config(): Field<M, "config"> {
    return fieldOf(this.base, "config");
  }
  get tokenizer(): Field<M, "tokenizer"> {
    return fieldOf(this.base, "tokenizer");
  }

  /** Rank, scale, share of parameters, the table of modules, and warnings. */
  summary(): string {
    const { config, table, weights } = this.#parts;
    const baseParameters = [...new Set(weights.map((w) => w.store))].reduce((n, w) => n + w.size, 0);
    const name = config.scaling === "rslora" ? "rsLoRA" : config.scaling === "lora" ? "LoRA" : "LoRA (own scale)";
    const share = ((100 * table.parameters) / baseParameters).toPrecision(3);
    const linear = table.targets.filter((t) => t.kind !== "embedding").length;
    const head = `${name}: ${linear} of ${linear + table.notAdapted.length} linear layers, ${table.parameters.toLocaleString("en-US")} of ${baseParameters.toLocaleString("en-US")} parameters train (${share} %)`;
    return [head, table.toString(), ...table.warnings.map((w) => `warning: ${w}`)].join("\n");
  }

  /**
   * W + ΔW of every adapted module by the weight's name, in the weight's dtype (one rounding; f32 for a weight of codes); the base is left alone.
   * A weight that two modules share is refused, unless the caller writes them apart (`untied`, with tie_word_embeddings: false).
   */
  mergedWeights(options: { readonly untied?: boolean } = {}): ReadonlyMap<string, Tensor> {
    if (this.merged) throw new ConfigError("the adapter is already merged", { op: "merge", fix: "read the base's weights, or await tuned.unmerge()" });
    const { method, attachments } = this.#parts;
    if (options.untied !== true) refuseTied(this.#parts);
    return new Map(
      attachments.map(({ site, module: { weight }, factors }) => {
        const delta = method.delta(factors, site);
        const sum = (weight.dtype === delta.dtype ? weight : weight.cast(delta.dtype)).add(delta);
        return [`${site.path}.weight`, weight.dtype === delta.dtype ? sum : sum.cast(weight.dtype)] as const;
      }),
    );
  }

  /**
   * Adds ΔW to the base weights; all or nothing. Weights held as codes are decoded, added to and quantized again, which rounds
   * and so must be allowed: `{ allowRequantize: true }`; what it lost is returned, a line a weight.
   * @throws ConfigError for tied weights, for codes unless allowed, for a second merge, and when a sum is not finite
   */
  async merge({ allowRequantize = false }: { readonly allowRequantize?: boolean } = {}): Promise<readonly RequantizeError[]> {
    const sums = this.mergedWeights(), next = new Map<string, Held>(), original = new Map<string, Held>(), errors: RequantizeError[] = [];
    for (const { site, module: { weight } } of this.#parts.attachments) {
      const name = `${site.path}.weight`, sum = sums.get(name), codes = quantizedOf(weight);
      if (sum === undefined) continue;
      if (codes !== null && !allowRequantize) {
        throw new ConfigError(`${name} is held as ${codes.format.name}: merging would quantize it again, which rounds away part of what was learned`, {
          op: "merge", key: name, value: codes.format.name,
          fix: "keep the adapter beside it, load the base unquantized and merge there, or pass { allowRequantize: true }",
        });
      }
      const numbers = await sum.data();
      if (isFloat(sum.dtype) && !numbers.every(Number.isFinite)) throw new ConfigError(`${name} would not be finite after the merge`, { op: "merge", key: name, fix: "the adapter diverged: use an earlier checkpoint" });
      if (codes === null) {
        const old = await weight.host();
        original.set(name, { ...old, data: old.data.slice() });
        next.set(name, await sum.host());
        continue;
      }
      const old = await codes.host(), { quantized, error } = requantize(old, Float32Array.from(numbers), name);
      original.set(name, old);
      next.set(name, quantized);
      errors.push(error);
    }
    this.#replace(next);
    this.#original = original;
    return errors;
  }

  /** Puts the base weights back, bit for bit. */
  async unmerge(): Promise<void> {
    if (this.#original === null) throw new ConfigError("the adapter is not merged", { op: "unmerge", fix: "call merge first" });
    await Promise.all(this.#parts.attachments.flatMap(({ module: { weight } }) => (quantizedOf(weight) === null ? [weight.host()] : []))); // what still waits on the device ends first
    this.#replace(this.#original);
    this.#original = null;
  }

  #replace(weights: ReadonlyMap<string, Held>): void {
    for (const { site, module: { weight } } of this.#parts.attachments) {
      const w = weights.get(`${site.path}.weight`);
      if (w === undefined) continue;
      if ("codes" in w) quantizedOf(weight)?.set(w);
      else if (weight instanceof Store) weight.set({ ...w, data: w.data.slice() });
    }
    structureChanged();
  }

  /** Factors as f32 arrays by PEFT's names, from the device. */
  async snapshot(): Promise<ReadonlyMap<string, HostArray>> {
    const arrays = new Map<string, HostArray>();
    for (const [name, factor] of this.tensors()) {
      const { dtype, shape, data } = await factor.host();
      arrays.set(name, { dtype: "f32", shape, data: dtype === "f32" ? data.slice() : convertArray(data, dtype, "f32") });
    }
    return arrays;
  }

  /** The config as PEFT can read it: targets written out, an own scale rule written as alpha. */
  fileConfig(): LoraConfig {
    const { config, table } = this.#parts;
    const plain = { ...config, targetModules: table.targetModules };
    return typeof config.scaling === "function" ? bakeScale(plain, table.targets) : plain;
  }

  /** Writes adapter_config.json and adapter_model.safetensors; PeftModel.from_pretrained(base, directory) reads them. All or nothing. */
  async save(directory: string): Promise<void> {
    await writeAdapterDirectory(directory, this.fileConfig(), await this.snapshot());
  }
}

/** A weight that two modules share would change in both. */
function refuseTied<M>(parts: TunedParts<M>): void {
  for (const { site, module } of parts.attachments) {
    const twin = parts.weights.find((w) => w.store === module.weight && w.path !== `${site.path}.weight`)?.path;
    if (twin !== undefined) {
      throw new ConfigError(`${site.path} shares its weight with ${twin}: merging would change both`, {
        op: "merge",
        key: site.path,
        fix: "keep the adapter beside the model, or write an untied base first (tie_word_embeddings: false)",
      });
    }
  }
}
