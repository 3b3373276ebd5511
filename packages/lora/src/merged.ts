/**
 * What the weights of a base hold besides their own numbers: adapters merged into them, in order, and by whom.
 *
 * A set of adapters and an adapter outside of it may stand over one base. Each takes the base as it was when it was made: a merge that the other one
 * does, or takes back, is an error at the next use, which names both. Within a set, and among adapters that are in none, merges stack.
 */
import type { Quantized } from "@adjoint/quant";
import { ConfigError, type HostArray, type Tensor } from "@adjoint/tensor";
import type { Attachment } from "./attachments.ts";
import type { RequantizeError } from "./requantize.ts";
import type { Tuned } from "./tuned.ts";

type Adapter = Tuned<unknown>;
const isObject = (x: unknown): x is object => typeof x === "object" && x !== null;

const stacks = new WeakMap<object, Adapter[]>();
/** Adapters that are merged into a base now, in the order of the merges. */
export function mergedInto(base: unknown): Adapter[] {
  if (!isObject(base)) return [];
  const stack = stacks.get(base) ?? [];
  stacks.set(base, stack);
  return stack;
}

const queues = new WeakMap<object, Promise<unknown>>();
/** Work that changes the weights of a base, or reads them through a merge, one after another in the order of the calls: it begins when the work before it has ended, in whatever way. */
export async function inTurn<T>(base: unknown, work: () => Promise<T>): Promise<T> {
  if (!isObject(base)) return work();
  const mine = (queues.get(base) ?? Promise.resolve()).then(work);
  queues.set(base, mine.catch(() => undefined));
  return mine;
}

/** A weight as it lies in memory: numbers, or codes. */
export type Held = HostArray | Quantized;
/** Options of a merge. */
export interface MergeOptions { readonly allowRequantize?: boolean; readonly keep?: boolean }
/** What an adapter does while its caller holds the base's turn. */
export interface Steps {
  merge(options: MergeOptions): Promise<readonly RequantizeError[]>;
  unmerge(): Promise<void>;
  absorb(which: (attachment: Attachment) => boolean): Promise<readonly RequantizeError[]>;
  /** what its merge has replaced in a parameter of the base; "not kept", or null where it has changed nothing there */
  replaced(parameter: Tensor): Held | "not kept" | null;
}
const steps = new WeakMap<Adapter, Steps>();
export function registerSteps(adapter: Adapter, own: Steps): void {
  steps.set(adapter, own);
}
export function stepsOf(adapter: Adapter): Steps {
  const own = steps.get(adapter);
  if (own === undefined) throw new ConfigError("this adapter was not made by the constructor of Tuned", { fix: "make it with lora or createLora" });
  return own;
}

/** The sets that an adapter is in, with its name there. */
const homes = new WeakMap<Adapter, Map<object, () => string>>();
const homesOf = (adapter: Adapter): ReadonlyMap<object, () => string> => homes.get(adapter) ?? new Map<object, () => string>();
/** The adapter, or a copy of one that stands for it, is in the set under this name. */
export function enter(set: object, adapter: Adapter, name: () => string): void {
  homes.set(adapter, new Map([...homesOf(adapter), [set, name]]));
}
export function leave(set: object, adapter: Adapter): void {
  homes.get(adapter)?.delete(set);
}

/** An adapter in words: by its name in a set, else by what it is and where. */
export function called(adapter: Adapter): string {
  const [name] = homesOf(adapter).values();
  if (name !== undefined) return `adapter ${name()} of a set`;
  const [first, ...more] = adapter.attachments;
  return `the adapter outside of sets (${first.method.name} on ${first.site.path}${more.length > 0 ? ` and ${more.length} more` : ""})`;
}

/** Whether merges of one are the other's business: they are in one set, or both in none. */
function together(a: Adapter, b: Adapter): boolean {
  const [x, y] = [homesOf(a), homesOf(b)];
  return (x.size === 0 && y.size === 0) || [...x.keys()].some((set) => y.has(set));
}

/** Updates that went into a base for good (`Tuned.absorb`), in order; what did it may be gone. */
const absorbed = new WeakMap<object, { readonly by: WeakRef<Adapter>; readonly words: string }[]>();
const absorbedBy = (base: unknown): readonly { readonly by: WeakRef<Adapter>; readonly words: string }[] => (isObject(base) ? (absorbed.get(base) ?? []) : []);
/** The base holds an update of this adapter for good. */
export function absorbedInto(base: unknown, by: Adapter): void {
  if (isObject(base)) absorbed.set(base, [...absorbedBy(base), { by: new WeakRef(by), words: called(by) }]);
}

/** The base as a set or an adapter found it: what was merged into it, and how many updates it had taken up for good. */
export interface Ground {
  readonly merged: readonly Adapter[];
  readonly absorbed: number;
}
export const groundOf = (base: unknown): Ground => ({ merged: [...mergedInto(base)], absorbed: absorbedBy(base).length });

/** @throws ConfigError where the base holds other adapters of others than `ground`: merged since, or taken out */
function checkGround(op: string, who: string, base: unknown, ground: Ground, own: (t: Adapter) => boolean, join: string): void {
  const stack = mergedInto(base), came = stack.find((t) => !own(t) && !ground.merged.includes(t)), gone = ground.merged.find((t) => !own(t) && !stack.includes(t));
  if (came !== undefined) {
    throw new ConfigError(`${op}: the base weights hold ${called(came)}, which was merged into them after ${who} was made, and would act in every call`, { op, key: "merged", fix: `take it out first (unmerge); ${join}` });
  }
  if (gone !== undefined) {
    throw new ConfigError(`${op}: ${who} was made over a base that held ${called(gone)}, which has been taken out since`, { op, key: "merged", fix: "merge it again, or make this anew over the base as it is now" });
  }
  const forGood = absorbedBy(base).slice(ground.absorbed).find(({ by }) => { const t = by.deref(); return t === undefined || !own(t); });
  if (forGood !== undefined) {
    throw new ConfigError(`${op}: the base weights were changed for good by ${forGood.words} (as ReLoRA does) after ${who} was made`, { op, key: "merged", fix: "make this anew over the base as it is now, or load the base again" });
  }
}

/** Before an adapter is used, or merged: nobody else has changed the weights below it. */
export const checkAdapter = (op: string, adapter: Adapter, ground: Ground): void => {
  checkGround(op, called(adapter), adapter.base, ground, (t) => t === adapter || together(t, adapter), homesOf(adapter).size === 0 ? "or use both in one set: set.add(name, tuned)" : "or add it to the set: set.add(name, tuned)");
};

/** Before adapters of a set are used, or merged. */
export const checkSet = (op: string, set: object, base: unknown, names: readonly string[], ground: Ground): void => {
  checkGround(op, names.length === 0 ? "this set" : `the set of ${names.length === 1 ? "adapter" : "adapters"} ${names.join(", ")}`, base, ground, (t) => homesOf(t).has(set), "or add it to this set: set.add(name, tuned)");
};
