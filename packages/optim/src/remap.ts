/** An optimizer's memory after the rank of factors has changed: what stays goes along, what is new begins at the beginning. */
import { ConfigError, flushAll, type HostArray, type Shape, type Store, sameShape, show, structureChanged } from "@adjoint/tensor";
import type { BoundOptimizer } from "./optimizer.ts";

/** Where the numbers of a leaf came from: along `axis`, place i of the new leaf was place `index[i]` of the old one; null: it was nowhere. */
export interface Origin {
  readonly axis: number;
  readonly index: readonly (number | null)[];
}

/** The axes of a parameter that a state has, by size: all; those that are not 1 in it; all but one where it is a row or a column of a matrix (Adafactor). Null: it cannot be told. */
function axesOf(name: string, state: Shape, param: Shape): readonly (number | null)[] | null {
  const all = param.map((_, i) => i), n = param.length;
  if (state.length === n) return state.every((size, i) => size === param[i] || size === 1) ? state.map((size, i) => (size === param[i] ? i : null)) : null;
  const axes = /row$/.test(name) ? all.slice(0, -1) : /col$/.test(name) ? [...all.slice(0, -2), n - 1] : null;
  return axes !== null && axes.length === state.length && axes.every((axis, i) => state[i] === param[axis]) ? axes : null;
}

/** The new numbers with those of the old ones that stay put in. */
function moved(old: HostArray, fresh: HostArray, at: number, index: readonly (number | null)[]): HostArray {
  const data = fresh.data.slice(), inner = fresh.shape.slice(at + 1).reduce((a, b) => a * b, 1), outer = fresh.shape.slice(0, at).reduce((a, b) => a * b, 1), [was, is] = [old.shape[at], fresh.shape[at]];
  for (let o = 0; o < outer; o++) index.forEach((from, i) => { if (from !== null) for (let k = 0; k < inner; k++) data[(o * is + i) * inner + k] = old.data[(o * was + from) * inner + k]; });
  return { ...fresh, data };
}

/**
 * Gives an optimizer the memory of another one whose factors had other ranks (AdaLoRA's triplets that are left, a rank that grew). Both must be of one
 * kind. `origin` says where the numbers of a leaf came from, null where it has not changed; leaves and places that are new keep the states they have,
 * those of a beginning. Counts of updates go along with a leaf, and so does the step. Take it between steps.
 * Errors: ConfigError for another kind of optimizer, places that are not there, 8-bit states (their blocks span places), and states whose axes cannot be
 * told; then nothing has changed.
 * @example await remapState(old, adamw(options).for(next), (path) => ({ axis: path.includes("lora_B") ? 1 : 0, index: kept }))
 */
export async function remapState<A, B>(from: BoundOptimizer<A>, to: BoundOptimizer<B>, origin: (path: string) => Origin | null): Promise<void> {
  const op = "remapState", fail = (problem: string, key: string, fix: string): ConfigError => new ConfigError(`${op}: ${problem}`, { op, key, fix });
  const names = (o: Pick<BoundOptimizer<unknown>, "states">): string => Object.keys(o.states).sort().join();
  if (from.name !== to.name || names(from) !== names(to)) throw fail(`${from.name} and ${to.name} do not remember the same`, "optimizer", "make both with the same options");
  const next: [Store, HostArray][] = [];
  for (const [name, leaves] of Object.entries(to.states)) for (const [path, s] of Object.entries(leaves)) {
    const old = from.states[name][path], place = path in to.params ? origin(path) : null;
    if (old === undefined) continue;
    if (s.dtype === "u8" && place !== null) throw fail(`${name} of ${path} is held in 8 bits, a scale for each block of places`, path, "use the optimizer in 32 bits, or begin anew");
    const was = await old.host(), is = await s.host();
    if (place === null) {
      if (!sameShape(was.shape, is.shape)) throw fail(`${path} had the shape ${show(from.params[path]?.shape ?? was.shape)} and has ${show(to.params[path]?.shape ?? is.shape)}`, path, "say in `origin` where its numbers came from");
      next.push([s, { ...was, data: was.data.slice() }]);
      continue;
    }
    const shape = to.params[path].shape, before = from.params[path].shape, { axis, index } = place;
    if (!(axis in shape) || index.length !== shape[axis] || !index.every((i) => i === null || (Number.isInteger(i) && i >= 0 && i < before[axis]))) throw fail(`origin of ${path}: ${index.length} places of axis ${axis} from ${show(before)} do not make ${show(shape)}`, path, "give for each place of the new axis the old one, or null");
    const axes = axesOf(name, is.shape, shape), at = axes?.indexOf(axis) ?? -1;
    if (axes === null && !sameShape(was.shape, is.shape)) throw fail(`${name} of ${path} has the shape ${show(is.shape)}, which does not tell its axes`, path, "begin anew with this optimizer");
    next.push([s, at < 0 ? { ...was, data: was.data.slice() } : moved(was, is, at, index)]);
  }
  flushAll();                                    // what was recorded before still means the old numbers
  for (const [s, h] of next) s.set({ dtype: s.dtype, shape: s.shape, data: h.data });
  to.counter.value = from.counter.value;
  for (const [path, count] of Object.entries(to.updates)) if (path in from.updates) count.value = from.updates[path].value;
  structureChanged();
}
