/** Several named adapters over one base model: which are on is said by each call, never by a flag. */
import type { ModuleAdapter } from "@adjoint/nn";
import { ConfigError, type Store, store, structureChanged, type Tensor, tensor } from "@adjoint/tensor";
import { fileSystem } from "@adjoint/io";
import { holders, refuseAdapted } from "../adapted-model.ts";
import type { AdapterTree } from "../attachments.ts";
import { bakeScale } from "../config/bake.ts";
import { combine, type CombineOptions } from "../combine/combine.ts";
import { type LoadReport } from "../files/peft.ts";
import { type Choice, entriesOf, isTensor } from "./choice.ts";
import { isFlora, loadFlora } from "./flora-tuned.ts";
import { loadLora, lora, type NewLoraOptions } from "../lora.ts";
import { called, checkSet, enter, type Ground, groundOf, inTurn, leave, mergedInto, type MergeOptions, stepsOf } from "../merged.ts";
import { BASE, checkFolder, checkName, checkOptions, unknownName } from "./names.ts";
import { checkOrder } from "./order.ts";
import { rebuilt } from "./rebuilt.ts";
import type { RequantizeError } from "../requantize.ts";
import type { RowAdapter, RowForm } from "./row-parts.ts";
import { MixedRows } from "./rows.ts";
import { checkStrength, strongAdapter } from "./strength.ts";
import { type SetRow, setTable } from "./set-table.ts";
import { Together } from "./together.ts";
import { Tuned } from "../tuned.ts";
import { AdapterView } from "./view.ts";

interface Member<M> {
  readonly tuned: Tuned<M>;
  /** k in s = k alpha / r, as a number and, once it was changed, as data */
  factor: number;
  strength: Store | null;
  /** a copy with the factor in its scale, when that was merged in the adapter's place */
  copy: Tuned<M> | null;
}
/** What of a member the base weights hold now: the adapter, a copy of it, or nothing. */
const mergedOf = <M>({ tuned, copy }: Member<M>): Tuned<M> | null => (tuned.merged ? tuned : copy?.merged === true ? copy : null);

/** Named adapters over one base. */
export class AdapterSet<M extends object> {
  readonly base: M;
  #members = new Map<string, Member<M>>();
  /** names that a merge is at work on */
  #merging: readonly string[] = [];
  /** the base as the set found it */
  readonly #ground: Ground;
  constructor(base: M) {
    refuseAdapted("adapterSet", base);
    holders.add(this);
    this.base = base;
    this.#ground = groundOf(base);
  }

  get names(): readonly string[] {
    return [...this.#members.keys()];
  }
  has(name: string): boolean {
    return this.#members.has(name);
  }
  /** @throws ConfigError with near names when there is none */
  get(name: string): Tuned<M> {
    return this.#member(name).tuned;
  }

  /**
   * Adds an adapter: a new one from options, one that was made for this base, or one from PEFT's files (a directory; asynchronous).
   * Nothing is switched on by it. @throws ConfigError for a name that cannot be one or is taken, and for an adapter of another base
   */
  add(name: string, directory: string): Promise<Tuned<M>>;
  add(name: string, adapter?: NewLoraOptions | Tuned<M>): Tuned<M>;
  add(name: string, from: string | NewLoraOptions | Tuned<M> = {}): Tuned<M> | Promise<Tuned<M>> {
    checkName(name, this.names);
    if (typeof from === "string") return this.load(name, from).then(() => this.get(name));
    const tuned = from instanceof Tuned ? from : lora(this.base, from);
    if (tuned.base !== this.base) throw new ConfigError(`adapter ${name} was made for another model`, { key: "name", value: name, fix: "make it with lora(set.base, ...), or load its files here" });
    const held = this.names.find((other) => this.get(other) === tuned);
    if (held !== undefined) throw new ConfigError(`adapter ${name} is in the set already, as ${held}`, { key: "name", value: name, fix: `rename it: set.rename("${held}", "${name}")` });
    this.#members.set(name, { tuned, factor: 1, strength: null, copy: null });
    enter(this, tuned, () => this.#nameOf(tuned));
    structureChanged(); // compiled steps may go by the set's names
    return tuned;
  }
  /** Reads PEFT's files into a new adapter; errors as `loadLora`. */
  async load(name: string, directory: string, options: { readonly strict?: boolean } = {}): Promise<LoadReport> {
    checkName(name, this.names);
    if (await isFlora(directory)) {
      if (options.strict === false) throw new ConfigError(`${directory} holds FLoRA, which is loaded whole or not at all`, { op: "load", key: "strict", value: false, fix: "leave strict out" });
      const tuned = this.add(name, await loadFlora(this.base, directory));
      return { file: directory, loaded: tuned.tensors().size, missing: [], unexpected: [], mismatched: [], renamed: [], warnings: [] };
    }
    const { tuned, report } = await loadLora(this.base, directory, options);
    this.add(name, tuned);
    return report;
  }
  /** @throws ConfigError while it is merged */
  delete(name: string): void {
    this.#unmerged(name, "delete");
    leave(this, this.get(name));
    this.#members.delete(name);
    structureChanged();
  }
  /** Keeps its place in the order. */
  rename(from: string, to: string): void {
    const member = this.#member(from);
    if (this.#merging.includes(from)) this.#unmerged(from, "rename");
    checkName(to, this.names);
    this.#members = new Map([...this.#members].map(([name, m]) => (m === member ? [to, m] : [name, m])));
    structureChanged();
  }

  /**
   * The base with these adapters on; their contributions are added in this order. Views do not know of each other.
   * `train` names those that train (default: all that are on and not merged). A model-wide switch does not exist, so nothing has to be put back.
   * @example set.with("a").loss(batch); set.with(["a", "b"]).logits(ids); set.with({ a: 0.5, b: 1 }); set.with([])
   */
  with(choice: Choice, options: { readonly train?: readonly string[] } = {}): AdapterView<M> {
    checkOptions("with", options, ["train"]);
    const { train } = options;
    const on = entriesOf(choice).map(([name, k]) => ({ name, member: this.#member(name), k: k === 1 ? null : this.#factor(name, k) })), names = on.map(({ name }) => name);
    if (new Set(names).size !== names.length) throw new ConfigError(`an adapter is named twice: ${names.join(", ")}`, { key: "with", value: names, fix: "name it once, with a factor: { a: 2 }" });
    const active = on.filter(({ member }) => mergedOf(member) === null), inBase = this.merged.filter((name) => names.includes(name));
    checkOrder([...inBase, ...active.map(({ name }) => name)].map((name) => ({ name, attachments: this.get(name).attachments })), inBase);
    const parts = active.map(({ name, member, k }) => ({ name, part: strongAdapter(member.tuned.attachments, member.tuned.adapter, member.tuned.dropout, () => both(member.strength, k)) }));
    const trees = Object.fromEntries(active.map(({ name, member }) => [name, member.tuned.adapter]));
    const together = parts.length === 0 ? null : new Together(trees, active.flatMap(({ k }) => (k === null ? [] : [k])), parts);
    const acting = active.map(({ name }) => name);
    return this.#view(names, train ?? acting, typeof choice === "string", together, acting);
  }

  /**
   * One batch in which each row (entry of the first axis) names its adapter, "__base__" or null for none; inference and training.
   * Instead of names an i32 tensor [batch] may say it: 0 for the base, k for the k-th of `among` (default: all adapters of the set, in order).
   * An index outside of that is refused where the host knows it, also by a compiled step that takes it as an argument, and gives NaN in its row where only the device does.
   * Another assignment is other data, not another plan. Each adapter's gradient is the sum over its rows.
   * `form` fixes how low-rank products are done (`chooseForm` decides by sizes otherwise).
   * @example const loss = set.rows(["a", "b", "__base__", "a"]).loss(batch);
   */
  rows(which: Tensor | readonly (string | null)[], options: { readonly among?: readonly string[]; readonly train?: readonly string[]; readonly form?: RowForm } = {}): AdapterView<M> {
    checkOptions("rows", options, ["among", "train", "form"]);
    const { among = this.names, train = among, form } = options;
    if (new Set(among).size !== among.length) throw new ConfigError(`an adapter is named twice in among: ${among.join(", ")}`, { op: "rows", key: "among", value: among, fix: "name each once" });
    const adapters = among.map((name): RowAdapter => {
      this.#unmerged(name, "rows");
      const { tuned, strength } = this.#member(name);
      return { name, attachments: tuned.attachments, tree: tuned.adapter, dropout: tuned.dropout, strength: () => strength };
    });
    return this.#view(among, train, false, new MixedRows(adapters, isTensor(which) ? which : this.index(which, among), form), among);
  }
  /** The index of a mixed batch as a tensor, for steps that take it as an argument. @throws ConfigError for a name that is not among them */
  index(names: readonly (string | null)[], among: readonly string[] = this.names): Tensor {
    if (names.length === 0) throw new ConfigError("a mixed batch of no rows", { op: "rows", key: "names", value: names, fix: 'name an adapter, or "__base__", for each row of the batch' });
    return tensor(Int32Array.from(names, (name) => (name === null || name === BASE ? 0 : among.includes(name) ? among.indexOf(name) + 1 : unknownName(name, [...among, BASE]))));
  }

  /** Trainable tensors by adapter: what one optimizer over several adapters takes. */
  trainable(names: readonly string[] = this.names): AdapterTree {
    return Object.fromEntries(names.map((name) => [name, this.get(name).adapter]));
  }

  /** The factor k on an adapter's scale, s = k alpha / r (or alpha / sqrt(r)); 1 at the start. */
  scale(name: string): number {
    return this.#member(name).factor;
  }
  /** s = k times the adapter's own scale from now on, in every view. A number like any other: after the first change no plan is made anew. */
  setScale(name: string, k: number): void {
    const member = this.#member(name);
    this.#unmerged(name, "setScale");
    checkStrength(name, k, member.tuned);
    member.factor = k;
    const value = { dtype: "f32" as const, shape: [1], data: Float32Array.of(k) };
    if (member.strength !== null) member.strength.set(value);
    else if (k !== 1) {
      member.strength = store(value, `${name}.scale`);
      structureChanged();
    }
  }
  /** Multiplies the scale of an adapter by k. */
  scaleAdapter(name: string, k: number): void {
    this.setScale(name, this.scale(name) * k);
  }
  /** Divides it by k; without k, the scale that it was made with. */
  unscaleAdapter(name: string, k: number | null = null): void {
    this.setScale(name, k === null ? 1 : this.scale(name) / k);
  }

  /** Names of the adapters that the base weights hold now, in the order of the merges. */
  get merged(): readonly string[] {
    return mergedInto(this.base).map((t) => this.#nameOf(t)).filter((name) => name !== "");
  }
  /**
   * Puts adapters into the base weights one after another, each with its scale; all or none, checked for finite numbers (`Tuned.merge`).
   * Those that are merged already stay as they are. Merges of one base that overlap wait for each other. @throws ConfigError as `with`, and when an adapter outside of the set was merged after the set was made
   */
  async merge(names: string | readonly string[], options: { readonly allowRequantize?: boolean; readonly keep?: boolean } = {}): Promise<readonly RequantizeError[]> {
    checkOptions("merge", options, ["allowRequantize", "keep"]);
    const asked = typeof names === "string" ? [names] : names;
    if (new Set(asked).size !== asked.length) throw new ConfigError(`an adapter is named twice: ${asked.join(", ")}`, { op: "merge", key: "names", value: asked, fix: "name each once" });
    return inTurn(this.base, () => this.#merge(asked, options));
  }
  async #merge(names: readonly string[], options: MergeOptions): Promise<readonly RequantizeError[]> {
    const todo = names.filter((name) => mergedOf(this.#member(name)) === null), errors: RequantizeError[] = [], done: string[] = [];
    checkSet("merge", this, this.base, todo, this.#ground);
    checkOrder([...this.merged, ...todo].map((name) => ({ name, attachments: this.get(name).attachments })), [...this.merged, ...todo]);
    this.#merging = todo;
    try {
      for (const name of todo) {
        const scaled = this.#scaled(name);
        enter(this, scaled, () => this.#nameOf(scaled));
        this.#member(name).copy = scaled;
        errors.push(...(await stepsOf(scaled).merge(options)));
        done.push(name);
      }
    } catch (error) {
      if (options.keep !== false) await this.#unmerge(done);
      throw error;
    } finally {
      this.#merging = [];
    }
    return errors;
  }
  /** Takes merged adapters out again, the last one first, bit for bit; default: all. @throws ConfigError when a later merge is not among them */
  async unmerge(names?: string | readonly string[]): Promise<void> {
    return inTurn(this.base, () => this.#unmerge(typeof names === "string" ? [names] : (names ?? this.merged)));
  }
  async #unmerge(names: readonly string[]): Promise<void> {
    const wanted = new Set(names), stack = mergedInto(this.base);
    for (const name of wanted) if (mergedOf(this.#member(name)) === null) throw new ConfigError(`adapter ${name} is not merged`, { op: "unmerge", key: name, fix: "merge it first" });
    const first = stack.findIndex((t) => wanted.has(this.#nameOf(t))), over = first < 0 ? undefined : stack.slice(first).find((t) => this.#nameOf(t) === "");
    if (over !== undefined) throw new ConfigError(`${called(over)} was merged after adapter ${this.#nameOf(stack[first])}`, { op: "unmerge", key: this.#nameOf(stack[first]), fix: "unmerge that one first" });
    while (wanted.size > 0) {
      const last = this.merged.at(-1) ?? "";
      if (!wanted.delete(last)) throw new ConfigError(`adapter ${last} was merged later`, { op: "unmerge", key: last, fix: "unmerge it first, or name it too" });
      const merged = mergedOf(this.#member(last));
      if (merged !== null) await stepsOf(merged).unmerge();
    }
  }

  /** Adds the weighted combination of adapters as a new plain LoRA adapter of scale 1; its options and errors are those of `combine`. */
  async combine(name: string, weights: Readonly<Record<string, number>>, options: CombineOptions = {}): Promise<Tuned<M>> {
    checkName(name, this.names);
    const parts = Object.entries(weights).map(([from, weight]) => ({ name: from, adapter: this.#scaled(from), weight }));
    return this.add(name, await combine(this.base, parts, options));
  }

  /** Writes PEFT's files: the adapter called default into the directory, every other one into a folder of its name below it. */
  async save(directory: string, names: readonly string[] = this.names): Promise<void> {
    for (const name of names) {
      if (this.scale(name) <= 0) throw new ConfigError(`adapter ${name} has its scale times ${this.scale(name)}, and files hold scales above 0`, { op: "save", key: name, value: this.scale(name), fix: "set.unscaleAdapter(name), or set.combine(name, { ... }) with this weight" });
    }
    for (const name of names) await this.#scaled(name).save(name === "default" ? directory : `${directory}/${name}`);
  }

  /** The adapters: method, rank, scale, modules, tensors; which are on and which train, in a view. */
  table(on: readonly string[] = [], trains: readonly string[] = []): string {
    return setTable([...this.#members].map(([name, member]): SetRow => ({ name, tuned: member.tuned, factor: member.factor, merged: mergedOf(member) !== null, on: on.includes(name), trains: trains.includes(name) })));
  }
  toString(): string {
    return this.table();
  }

  #member(name: string): Member<M> {
    return this.#members.get(name) ?? unknownName(name, this.names);
  }
  /** Whose tensors these are; "" where they are none of the set's. */
  #nameOf(adapter: Tuned<unknown>): string {
    return [...this.#members].find(([, { tuned, copy }]) => adapter === tuned || adapter === copy)?.[0] ?? "";
  }
  #unmerged(name: string, op: string): void {
    if (this.#merging.includes(name)) throw new ConfigError(`adapter ${name} is being merged into the base weights`, { op, key: name, fix: "await the merge first" });
    if (mergedOf(this.#member(name)) !== null) throw new ConfigError(`adapter ${name} is merged into the base weights`, { op, key: name, fix: `await set.unmerge() first` });
  }
  #factor(name: string, k: number | Tensor): Tensor {
    if (isTensor(k)) {
      if (k.size !== 1) throw new ConfigError(`the factor of adapter ${name} has ${k.size} elements`, { key: name, value: k.shape, fix: "pass a number, or a tensor of one element" });
      checkStrength(name, 1, this.get(name));
      return k;
    }
    checkStrength(name, k, this.get(name));
    return tensor([k]);
  }
  #view(names: readonly string[], trains: readonly string[], alone: boolean, moduleAdapter: ModuleAdapter | null, active: readonly string[]): AdapterView<M> {
    for (const name of trains) if (!active.includes(name)) throw new ConfigError(`adapter ${name} cannot train: it is not on, or it is merged`, { key: "train", value: name, fix: "name only adapters that are on" });
    const members = active.map((name) => this.get(name)), [only] = trains;
    return new AdapterView({
      base: this.base, names, trains, moduleAdapter,
      adapter: alone && trains.length === 1 ? this.get(only).adapter : this.trainable(trains),
      dropout: Math.max(0, ...members.map((t) => t.dropout)),
      check: (on) => { this.#check(on, active); },
      penalty: () => members.reduce<Tensor | null>((sum, t) => { const term = t.penalty(); return term === null ? sum : sum === null ? term : sum.add(term); }, null),
      table: () => this.table(names, trains),
    });
  }
  /** What is merged acts in every call: it must be among what is on, and must have been merged when the view was made. */
  #check(on: readonly string[], active: readonly string[]): void {
    checkSet("context", this, this.base, on, this.#ground);
    for (const [name, member] of this.#members) {
      const merged = mergedOf(member);
      if (merged !== null && !on.includes(name)) throw new ConfigError(`adapter ${name} is merged into the base weights, so it cannot be left out`, { key: name, fix: "await set.unmerge() first" });
      if (on.includes(name) && (merged !== null) === active.includes(name)) throw new ConfigError(`adapter ${name} was ${merged === null ? "taken out of" : "merged into"} the base after this view was made`, { key: name, fix: "make the view again: set.with(...)" });
    }
  }
  /** The adapter with its factor in its scale; tensors are shared. */
  #scaled(name: string): Tuned<M> {
    const { tuned, factor } = this.#member(name);
    if (factor === 1) return tuned;
    const targets = tuned.targets.targets.map((t) => ({ ...t, alpha: t.alpha * factor, scale: t.scale * factor })), config = factor > 0 ? bakeScale(tuned.loraConfig, targets) : tuned.loraConfig;
    const attachments = tuned.attachments.map((a) => ({ ...a, site: { ...a.site, alpha: a.site.alpha * factor, scale: a.site.scale * factor } }));
    return new Tuned(rebuilt(tuned, { config, table: { ...tuned.targets, targets }, attachments }));
  }
}

/** k of the set times k of the call. */
const both = (a: Tensor | null, b: Tensor | null): Tensor | null => (a === null ? b : b === null ? a : a.mul(b.dtype === "f32" ? b : b.cast("f32")));

/** A set of named adapters over a model, empty. @example const set = adapterSet(model); set.add("poems", { r: 8, targetModules: "all-linear" }); */
export const adapterSet = <M extends object>(model: M): AdapterSet<M> => new AdapterSet(model);

/**
 * The adapters that PEFT or `set.save` wrote into a directory: `default` from its own files, others from the folders in it that hold an adapter.
 * @throws FormatError and ConfigError as `loadLora`; ConfigError when there is none, and, before anything is read, for a folder whose name cannot be an adapter's
 */
export async function loadAdapters<M extends object>(model: M, directory: string, options: { readonly strict?: boolean } = {}): Promise<AdapterSet<M>> {
  const set = adapterSet(model), here = await fileSystem().list(directory), holds = (names: readonly string[] | "file" | null): boolean => Array.isArray(names) && names.includes("adapter_config.json");
  const found = new Map(holds(here) ? [["default", directory]] : []);
  for (const name of here === "file" || here === null ? [] : here) {
    const folder = `${directory}/${name}`;
    if (!holds(await fileSystem().list(folder))) continue;
    checkFolder(name, folder, found.keys());
    found.set(name, folder);
  }
  for (const [name, folder] of found) await set.load(name, folder, options);
  if (set.names.length === 0) throw new ConfigError(`${directory} holds no adapter`, { key: "directory", value: directory, fix: "name the folder with adapter_config.json, or the one with the adapters' folders" });
  return set;
}
