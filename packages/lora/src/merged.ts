/**
 * What the weights of a base hold besides their own numbers: adapters merged into them, in order, and by whom.
 *
 * A set of adapters and an adapter outside of it may stand over one base. Each takes the base as it was when it was made: a merge that the other one
 * does, or takes back, is an error at the next use, which names both. Within a set, and among adapters that are in none, merges stack.
 */
import { ConfigError } from "@adjoint/tensor";
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

/** What was merged into the base when a set or an adapter was made over it. */
export type Ground = readonly Adapter[];

/** @throws ConfigError where the base holds other adapters of others than `ground`: merged since, or taken out */
function checkGround(op: string, who: string, base: unknown, ground: Ground, own: (t: Adapter) => boolean, join: string): void {
  const stack = mergedInto(base), came = stack.find((t) => !own(t) && !ground.includes(t)), gone = ground.find((t) => !own(t) && !stack.includes(t));
  if (came !== undefined) {
    throw new ConfigError(`${op}: the base weights hold ${called(came)}, which was merged into them after ${who} was made, and would act in every call`, { op, key: "merged", fix: `take it out first (unmerge); ${join}` });
  }
  if (gone !== undefined) {
    throw new ConfigError(`${op}: ${who} was made over a base that held ${called(gone)}, which has been taken out since`, { op, key: "merged", fix: "merge it again, or make this anew over the base as it is now" });
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
