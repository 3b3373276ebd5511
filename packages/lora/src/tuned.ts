/** A model with an adapter beside it: forward and loss with the adapter on, summary, merge, and PEFT's files. */
import type { Context, ModuleAdapter } from "@adjoint/nn";
import { ConfigError, convertArray, flushAll, type HostArray, isFloat, Store, structureChanged, type Tensor } from "@adjoint/tensor";
import { writeDirectoryAtomic } from "@adjoint/io";
import { quantizedOf } from "@adjoint/quant";
import { AdaptedModel } from "./adapted-model.ts";
import { packedRanks } from "./methods/adalora.ts";
import { type AdapterTree, Attached, type Attachment, fixedStoresOf, storesOf, tensorsOf, treeOf } from "./attachments.ts";
import { bakeScale } from "./config/bake.ts";
import type { LoraConfig } from "./config/config.ts";
import { adapterTitle } from "./config/kinds.ts";
import { absorbedInto, called, checkAdapter, type Ground, groundOf, type Held, inTurn, mergedInto, type MergeOptions, registerSteps } from "./merged.ts";
import { ownParameter } from "./own-weights.ts";
import { moduleOf, parametersOf } from "./targets/modules.ts";
import { convertedConfig, convertedTensors, originOf } from "./methods/origin.ts";
import { adapterFiles } from "./files/peft.ts";
import { requantize, type RequantizeError } from "./requantize.ts";
import { echoesOf, f32 } from "./files/saved-along.ts";
import { type EmbeddingsDecision, savedEmbeddings, type SaveEmbeddings } from "./files/saved-embeddings.ts";
import { baseChanged, copied, followBase, settled } from "./settled.ts";
import { leavesOut, type TargetTable } from "./targets/targets.ts";

/** What a merge has put other numbers into: what was there, or nothing where it was not kept. */
type Replaced = ReadonlyMap<Tensor, Held | "not kept">;

/** How an adapter is written. */
export interface SaveOptions {
  /** write what an initialisation took out of the base as plain LoRA of rank 2r; true by default */
  readonly convert?: boolean;
  /** the frozen input embedding and output head: "auto" (default) only where their rows are not the base config's vocabulary, true as PEFT's save_embedding_layers=True */
  readonly saveEmbeddings?: SaveEmbeddings;
}

/** What `lora` made, for the class below. */
export interface TunedParts<M> {
  readonly base: M;
  readonly config: LoraConfig;
  readonly table: TargetTable;
  readonly attachments: readonly Attachment[];
  /** every parameter of the base by path; tied ones appear once for each path */
  readonly weights: readonly { readonly path: string; readonly store: Tensor }[];
  /** for evaluation only */
  readonly frozen?: boolean;
  /** the base as it was when this adapter was made; as it is now when left out */
  readonly ground?: Ground;
  /** what this is a copy of; itself when left out */
  readonly source?: object;
}

/** A frozen base and one adapter. `base` itself never changes unless `merge` is called; the adapter is on by being passed along, not by a flag. */
export class Tuned<M> extends AdaptedModel<M> {
  override readonly base: M;
  readonly loraConfig: LoraConfig;
  readonly targets: TargetTable;
  /** what trains; paths are the names in adapter_model.safetensors */
  readonly adapter: AdapterTree;
  /** sees what modules compute: the value of `adapter` in a Context */
  readonly moduleAdapter: ModuleAdapter;
  /** the base as this adapter found it, or the one that it is a copy of */
  readonly ground: Ground;
  /** one value for an adapter and all its copies */
  readonly source: object;
  readonly #parts: TunedParts<M>;
  /** while the adapter is merged, by the base's parameters */
  #replaced: Replaced | null = null;

  constructor(parts: TunedParts<M>) {
    super();
    this.base = parts.base;
    this.loraConfig = parts.config;
    this.targets = parts.table;
    this.adapter = treeOf(storesOf(parts.attachments));
    this.moduleAdapter = new Attached(parts.attachments, this.adapter, parts.config.loraDropout);
    this.ground = parts.ground ?? groundOf(parts.base);
    this.source = parts.source ?? this;
    this.#parts = parts;
    registerSteps(this, { merge: (o) => this.#merge(o), unmerge: () => this.#unmerge(), absorb: (which) => this.#absorb(which), replaced: (p) => this.#replaced?.get(p) ?? null });
    if (isObject(parts.base)) followBase(parts.base, parts.attachments);
  }

  /** Trainable tensors by the name that PEFT's file gives them. */
  tensors(): ReadonlyMap<string, Store> {
    return storesOf(this.#parts.attachments);
  }

  /** Methods on modules, with their tensors: for code that looks inside (ReLoRA, AdaLoRA, combinations). */
  get attachments(): readonly Attachment[] {
    return this.#parts.attachments;
  }

  /** The sum of the methods' own terms of the loss (AdaLoRA's orthogonality); null where there are none. */
  penalty(): Tensor | null {
    const having = this.#parts.attachments.filter((a) => a.method.penalty !== undefined);
    return having.reduce<Tensor | null>((sum, a) => {
      const term = a.method.penalty?.(tensorsOf(a), a.site, this.loraConfig, having.length) ?? null;
      return term === null ? sum : sum === null ? term : sum.add(term);
    }, null);
  }

  /**
   * The adapter as it is now, for evaluation: copies of what trains, and what follows from these alone (DoRA's m / n, a product as large as W for r rows)
   * computed once instead of at every call, which pays where calls are small, as in generation. Training goes on without it: ask again for later numbers.
   * Merges into the base it follows, as every adapter. While the adapter itself is merged there is nothing to compute ahead, and the answer is the adapter.
   */
  frozen(): Tuned<M> {
    if (this.merged) return this;
    const attachments = copied(this.#parts.attachments).map(settled);
    flushAll(); // they read the values of now
    return new Tuned({ ...this.#parts, attachments, frozen: true, ground: this.ground, source: this.source });
  }

  override get dropout(): number {
    return this.loraConfig.loraDropout;
  }

  /** Whether the base weights hold the adapter now. */
  get merged(): boolean {
    return this.#replaced !== null;
  }

  /**
   * The context with this adapter on; `adapter: null` in it leaves the base alone.
   * @throws ConfigError when a merged adapter is to be left out, when its tensors are merged by another value, and when a set over this base has merged one of its adapters since, or taken it out
   */
  override context<C extends Context>(context?: C): C;
  override context(context: Context = {}): Context {
    if (context.train === true && this.#parts.frozen === true) throw new ConfigError("a frozen adapter does not train", { key: "train", value: true, fix: "train the one that it was made of" });
    if (this.merged) {
      if (context.adapter === null) throw new ConfigError("the adapter is merged into the base weights, so it cannot be left out", { key: "adapter", value: null, fix: "await tuned.unmerge() first" });
      return { ...context, adapter: context.adapter ?? null };
    }
    if (context.adapter !== undefined) return context;
    this.#refuseTwice("context");
    checkAdapter("context", this, this.ground);
    return { ...context, adapter: this.moduleAdapter };
  }

  /** Copies of an adapter (`frozen`, one with a factor in a set): what one of them has merged must not act again through another. */
  #refuseTwice(op: string): void {
    if (mergedInto(this.base).some((other) => other.source === this.source)) {
      throw new ConfigError("the tensors of this adapter are in the base weights already: a copy of it is merged", { op, key: "merged", fix: "unmerge that copy first (await set.unmerge() if a set merged it), or use what merged it: set.with(name)" });
    }
  }

  /** Rank, scale, share of parameters, the table of modules, and warnings. */
  summary(): string {
    const { config, table, weights } = this.#parts;
    const baseParameters = [...new Set(weights.map((w) => w.store))].reduce((n, w) => n + w.size, 0);
    const name = `${adapterTitle(config)}${typeof config.scaling === "function" ? " (own scale)" : ""}`;
    const share = ((100 * table.parameters) / baseParameters).toPrecision(3);
    const linear = table.targets.filter((t) => t.kind === "linear" || t.kind === "conv1d").length;
    const others = ([["conv", "convolutions"], ["lstm", "weights of LSTMs"]] as const).map(([kind, called]) => [table.targets.filter((t) => t.kind === kind).length, called] as const).filter(([n]) => n > 0);
    const head = `${name}: ${linear} of ${linear + table.notAdapted.length} linear layers, ${others.map(([n, called]) => `${n} ${called}, `).join("")}${table.parameters.toLocaleString("en-US")} of ${baseParameters.toLocaleString("en-US")} parameters train (${share} %)`;
    const embeddings = this.savedEmbeddings();
    return [head, table.toString(), ...table.warnings.map((w) => `warning: ${w}`), ...(embeddings.notable ? [`when saved: ${embeddings.reason}`] : [])].join("\n");
  }

  /** The summary, for console.log(String(tuned)). */
  override toString(): string {
    return this.summary();
  }

  /**
   * What merging would put in place of the base's parameters, by name: W + ΔW for low-rank updates, in the parameter's dtype (one rounding; f32 for
   * a weight of codes); the base is left alone.
   * A weight that two modules share is refused, unless the caller writes them apart (`untied`, with tie_word_embeddings: false). `which` takes a part of the attachments.
   */
  mergedWeights(options: { readonly untied?: boolean; readonly which?: (attachment: Attachment) => boolean } = {}): ReadonlyMap<string, Tensor> {
    if (this.merged) throw new ConfigError("the adapter is already merged", { op: "merge", fix: "read the base's weights, or await tuned.unmerge()" });
    this.#refuseTwice("merge");
    checkAdapter("merge", this, this.ground);
    const held = new Map<object, Record<string, Tensor>>(), out = new Map<string, Tensor>();
    for (const a of options.which === undefined ? this.#parts.attachments : this.#parts.attachments.filter(options.which)) {
      if (options.untied !== true && leaderOf(this.#parts.attachments, a) !== null) continue; // its weight is the leader's
      const before = held.get(a.module) ?? { ...parametersOf(a.module) }, after = a.method.merged(tensorsOf(a), a.site, before);
      if ("weight" in after && options.untied !== true) refuseTied(this.#parts, a);
      held.set(a.module, { ...before, ...after });
      for (const [name, sum] of Object.entries(after)) {
        const { dtype } = parametersOf(a.module)[name];
        out.set(`${moduleOf(a.site)}.${name}`, sum.dtype === dtype ? sum : sum.cast(dtype));
      }
    }
    return out;
  }

  /**
   * Puts the adapter into the base's parameters; all or nothing. Weights held as codes are decoded, added to and quantized again, which rounds
   * and so must be allowed: `{ allowRequantize: true }`; what it lost is returned, a line a weight. What was there is kept for `unmerge`, unless
   * `{ keep: false }` says otherwise. Adapters of one base that are merged one after another are taken out in the opposite order.
   * Calls that overlap (`merge`, `unmerge` and `absorb` of adapters of one base) wait for each other, and are checked when their turn has come.
   * @throws ConfigError for tied weights, for codes unless allowed, for a second merge, and when a sum is not finite
   */
  async merge(options: { readonly allowRequantize?: boolean; readonly keep?: boolean } = {}): Promise<readonly RequantizeError[]> {
    return inTurn(this.base, () => this.#merge(options));
  }
  async #merge({ allowRequantize = false, keep = true }: MergeOptions): Promise<readonly RequantizeError[]> {
    const { next, original, errors } = await this.#sums(this.mergedWeights(), allowRequantize);
    this.#replace(next);
    this.#replaced = keep ? original : new Map([...original.keys()].map((p) => [p, "not kept"]));
    mergedInto(this.base).push(this);
    return errors;
  }

  /**
   * Adds attachments into the base's parameters for good and leaves the adapter on, so that the caller must start their tensors anew (`mergeAndReinit`
   * does both). All or nothing. Weights held as codes are decoded, added to and quantized again; what that lost is returned, a line a weight.
   * @throws ConfigError for tied weights, while an adapter is merged, and when a sum is not finite
   */
  async absorb(which: (attachment: Attachment) => boolean = () => true): Promise<readonly RequantizeError[]> {
    return inTurn(this.base, () => this.#absorb(which));
  }
  async #absorb(which: (attachment: Attachment) => boolean): Promise<readonly RequantizeError[]> {
    const last = mergedInto(this.base).at(-1);
    if (last !== undefined) throw new ConfigError(`${called(last)} is merged into this base: taking it out would undo what is added now`, { op: "absorb", fix: "unmerge it first" });
    const { next, errors } = await this.#sums(this.mergedWeights({ which }), true);
    this.#replace(next);
    absorbedInto(this.base, this);
    return errors;
  }

  /** Puts the base weights back, bit for bit. @throws ConfigError when it is not merged, merged without keeping them, or another adapter was merged later */
  async unmerge(): Promise<void> {
    return inTurn(this.base, () => this.#unmerge());
  }
  async #unmerge(): Promise<void> {
    const replaced = this.#replaced, stack = mergedInto(this.base), fail = (problem: string, fix: string): ConfigError => new ConfigError(problem, { op: "unmerge", fix }), kept = new Map<Tensor, Held>();
    if (replaced === null) throw fail("the adapter is not merged", "call merge first");
    for (const [p, held] of replaced) {
      if (held === "not kept") throw fail("the weights before the merge were not kept", "load the base again, or merge with { keep: true }");
      kept.set(p, held);
    }
    const last = stack.at(-1) ?? this;
    if (last !== this) throw fail(`another adapter was merged into this base later: ${called(last)}`, "unmerge that one first");
    await Promise.all([...kept.keys()].map(async (p) => { if (quantizedOf(p) === null) await p.host(); })); // what still waits on the device ends first
    this.#replace(kept);
    this.#replaced = null;
    stack.pop();
  }

  /** Sums on the host as they will be held, what they replace, and what quantizing them again lost. */
  async #sums(merged: ReadonlyMap<string, Tensor>, allowRequantize: boolean): Promise<{ readonly next: Map<Tensor, Held>; readonly original: Map<Tensor, Held>; readonly errors: RequantizeError[] }> {
    const next = new Map<Tensor, Held>(), original = new Map<Tensor, Held>(), errors: RequantizeError[] = [];
    for (const [name, sum] of merged) {
      const old = this.#parameter(name), codes = quantizedOf(old);
      if (codes !== null && !allowRequantize) {
        throw new ConfigError(`${name} is held as ${codes.format.name}: merging would quantize it again, which rounds away part of what was learned`, {
          op: "merge", key: name, value: codes.format.name,
          fix: "keep the adapter beside it, load the base unquantized and merge there, or pass { allowRequantize: true }",
        });
      }
      const numbers = await sum.data();
      if (isFloat(sum.dtype) && !numbers.every(Number.isFinite)) throw new ConfigError(`${name} would not be finite after the merge`, { op: "merge", key: name, fix: "the adapter diverged: use an earlier checkpoint" });
      if (codes === null) {
        const host = await old.host();
        original.set(old, { ...host, data: host.data.slice() });
        next.set(old, await sum.host());
        continue;
      }
      const before = await codes.host(), { quantized, error } = requantize(before, Float32Array.from(numbers), name);
      original.set(old, before);
      next.set(old, quantized);
      errors.push(error);
    }
    return { next, original, errors };
  }

  /** The parameter of an adapted module by its full name. */
  #parameter(name: string): Tensor {
    const at = name.lastIndexOf("."), path = name.slice(0, at), found = this.#parts.attachments.find((a) => moduleOf(a.site) === path);
    if (found === undefined) throw new ConfigError(`${name} belongs to no adapted module`, { op: "merge", key: name });
    return parametersOf(found.module)[name.slice(at + 1)];
  }
  #replace(weights: ReadonlyMap<Tensor, Held>): void {
    flushAll(); // what still waits reads the weights of before
    for (const [parameter, w] of weights) {
      if ("codes" in w) quantizedOf(parameter)?.set(w);
      else if (parameter instanceof Store) parameter.set({ ...w, data: w.data.slice() });
    }
    if (isObject(this.base)) baseChanged(this.base);
    structureChanged();
  }

  /**
   * First factors A₀, B₀ by name, for adapters that start away from zero (PiSSA, OLoRA, CorDA, LoRA-GA); empty for others. They never change: a training that
   * is to be resumed stores them once, beside `snapshot()`, and hands them to `createLora` as `data.origin`.
   */
  origin(): ReadonlyMap<string, Store> {
    return new Map(this.#parts.attachments.flatMap(originOf));
  }

  /** Factors as f32 arrays by PEFT's names, from the device: those that train, and those that are in the file without training. */
  async snapshot(): Promise<ReadonlyMap<string, HostArray>> {
    const arrays = new Map<string, HostArray>();
    for (const [name, factor] of [...this.tensors(), ...fixedStoresOf(this.#parts.attachments, this.loraConfig)]) {
      const { dtype, shape, data } = await factor.host();
      arrays.set(name, { dtype: "f32", shape, data: dtype === "f32" ? data.slice() : convertArray(data, dtype, "f32") });
    }
    return arrays;
  }

  /** The config as PEFT can read it: targets written out, an own scale rule written as alpha. */
  fileConfig(): LoraConfig {
    const { config, table } = this.#parts;
    const has = (kind: "conv1d" | "linear"): boolean => table.targets.some((t) => t.kind === kind), fanInFanOut = config.fanInFanOut || (has("conv1d") && !has("linear")); // PEFT wants to be told
    const plain = { ...config, fanInFanOut, targetModules: table.targetModules, modulesToSave: table.modulesToSave, ...(config.vera !== null && leavesOut(config) ? { excludeModules: null, layersToTransform: null, layersPattern: null } : {}) }; // PEFT's VeRA leaves nothing out: its targets are paths then
    return typeof config.scaling === "function" ? bakeScale(plain, table.targets) : plain;
  }

  /**
   * The files of `save`. `convert` (default): what an initialisation took out of the base is written as rank 2r of plain LoRA, so that the files fit the base as
   * it is. While something is merged, parameters of the base are written as they were before. `convert: false`: A and B as they train, as PEFT writes them, with A₀ and B₀ in a file of their own that `loadLora` reads and PEFT does not.
   */
  async files({ convert = true, saveEmbeddings = "auto" }: SaveOptions = {}): Promise<Readonly<Record<string, string | readonly Uint8Array[]>>> {
    const { attachments } = this.#parts, config = this.fileConfig(), origin = new Map<string, HostArray>();
    const now = new Map([...await this.snapshot(), ...await echoesOf(attachments, this.base)]);
    for (const [name, t] of this.savedEmbeddings(saveEmbeddings).parameters) now.set(name, await f32(ownParameter(this.base, t, "save", name)));
    if (convert) {
      const packed = await packedRanks(attachments, convertedConfig(config), await convertedTensors(attachments, now));
      return adapterFiles(packed.config, packed.tensors);
    }
    for (const [name, s] of this.origin()) origin.set(name, await s.host());
    return adapterFiles(config, now, origin);
  }

  /** Writes adapter_config.json and adapter_model.safetensors; PeftModel.from_pretrained(base, directory) reads them. All or nothing. Options as `files`. */
  async save(directory: string, options: SaveOptions = {}): Promise<void> {
    await writeDirectoryAtomic(directory, await this.files(options), { replaceAll: false });
  }

  /** Which frozen embeddings `save` would write with this option, and why, in words. */
  savedEmbeddings(option: SaveEmbeddings = "auto"): EmbeddingsDecision {
    const { base, attachments } = this.#parts;
    return savedEmbeddings(option, typeof base === "object" && base !== null ? base : {}, attachments);
  }
}

/** The store of another attachment that this one uses without a tensor of its own, as the head of a tied pair does. */
function leaderOf(attachments: readonly Attachment[], { factors, beside = {} }: Attachment): Store | null {
  if (Object.keys(factors).length > 0) return null;
  const used = new Set(Object.values(beside));
  for (const other of attachments) for (const store of Object.values(other.factors)) if (used.has(store)) return store;
  return null;
}

/** A weight that two modules share would change in both. */
function refuseTied<M>(parts: TunedParts<M>, { site, module, factors }: Attachment): void {
  const { weight } = parametersOf(module), twin = parts.weights.find((w) => w.store === weight && w.path !== `${site.path}.weight`)?.path;
  // a layer that follows this one changes in the same way
  const own = new Set<Store | null>(Object.values(factors)), together = parts.attachments.some((a) => twin === `${a.site.path}.weight` && own.has(leaderOf(parts.attachments, a)));
  if (twin !== undefined && !together) {
    throw new ConfigError(`${site.path} shares its weight with ${twin}: merging would change both`, {
      op: "merge",
      key: site.path,
      fix: "keep the adapter beside the model, or write an untied base first (tie_word_embeddings: false)",
    });
  }
}

const isObject = (x: unknown): x is object => typeof x === "object" && x !== null;
