/** What a flush takes along: assignments that belong to the same plan, and small values that cost nothing more. */
import { dependencies, postorder } from "./graph.ts";
import { state } from "./state.ts";
import { type ReadAttrs, type Store, readOp } from "./store.ts";
import { type Tensor, hasNumbers, leafOp, scalarOp } from "./tensor.ts";

/** values of at most so many bytes are carried along unasked */
export const SMALL_BYTES = 256;
/** a small value that no plan took along for this many flushes is no longer waited for */
const PATIENCE = 4;


/** Whether a flush would have something to do for t itself. */
export const isComputation = (t: Tensor): boolean => !hasNumbers(t) && !t.alias && t.op !== readOp && t.op !== leafOp && t.op !== scalarOp;


/**
 * Assignments that must come along: they share an uncomputed node, or read a store that this plan overwrites.
 * Recipes that share a node form one component (union-find), so every node is visited once.
 */
export function companions(wanted: readonly Tensor[], chosen: Set<Store>, pending: readonly Store[] = [...state.pending]): void {
  if (pending.every((s) => chosen.has(s))) return;
  const composites = state.device.composites, component = new Map<Tensor, number>(), parent: number[] = [], overwrites = new Map<number, Set<Store>>();
  const find = (i: number): number => { while (parent[i] !== i) { parent[i] = parent[parent[i]]; i = parent[i]; } return i; };
  const enter = (root: Tensor): number => {
    const id = parent.push(parent.length) - 1, stack = [root];
    while (stack.length) {
      const t = stack.pop()!;
      if (t.op === readOp && t.attrs !== null) { const set = overwrites.get(id) ?? new Set(); set.add((t.attrs as ReadAttrs).store); overwrites.set(id, set); }
      if (!isComputation(t)) { if (t.alias) stack.push(t.alias); continue; }
      const seen = component.get(t);
      if (seen !== undefined) { parent[find(id)] = find(seen); continue; }
      component.set(t, id);
      stack.push(...dependencies(t, composites));
    }
    return id;
  };
  const mine = wanted.map(enter), ids = new Map(pending.map((s) => [s, enter(s.current)]));
  for (const s of chosen) mine.push(ids.get(s) ?? enter(s.current));
  const taken = new Set(mine.map(find)), reads = new Map<number, Set<Store>>();
  for (const [id, set] of overwrites) { const c = find(id), all = reads.get(c) ?? new Set(); set.forEach((s) => all.add(s)); reads.set(c, all); }
  for (let grew = true; grew;) {
    grew = false;
    for (const [s, id] of ids) {
      const c = find(id);
      if (chosen.has(s) || !(taken.has(c) || [...(reads.get(c) ?? [])].some((r) => chosen.has(r)))) continue;
      chosen.add(s); taken.add(c); grew = true;
    }
  }
}
/** Small values of the user's whose larger inputs the plan computes anyway. */
export function smallOnes(wanted: readonly Tensor[], stores: ReadonlySet<Store>): { readonly taken: Tensor[]; readonly rest: Tensor[] } {
  if (state.small.length === 0) return { taken: [], rest: [] };
  const composites = state.device.composites;
  const inPlan = new Set(postorder([...wanted, ...[...stores].map((s) => s.current)], composites));
  const taken: Tensor[] = [], rest: Tensor[] = [];
  const ok = new Map<Tensor, boolean>();
  const cheap = (x: Tensor): boolean => {
    let t = x;
    while (!hasNumbers(t) && t.alias) t = t.alias;
    if (inPlan.has(t) || !isComputation(t)) return t.op !== readOp || t.attrs === null || (t.attrs as ReadAttrs).version === (t.attrs as ReadAttrs).store.version;
    const known = ok.get(t);
    if (known !== undefined) return known;
    ok.set(t, false);
    const yes = (t.bytes <= SMALL_BYTES || state.kept.has(t)) && dependencies(t, composites).every(cheap);
    ok.set(t, yes);
    return yes;
  };
  const isPending = new Set([...state.pending].map((s) => s.current)), asked = new Set(wanted);
  for (const t of state.small) {
    if (hasNumbers(t) || t.alias || t.computed || asked.has(t) || isPending.has(t)) continue;
    const touches = state.kept.has(t) || dependencies(t, composites).some((d) => inPlan.has(d) && isComputation(d)) || inPlan.has(t);
    (touches && cheap(t) ? taken : rest).push(t);
  }
  return { taken, rest };
}
/** Whether one more flush has passed without t, and t is still waited for. */
export function waits(t: Tensor): boolean {
  const age = (state.age.get(t) ?? 0) + 1;
  state.age.set(t, age);
  return age < PATIENCE || state.kept.has(t);
}
/** Which recipes read, beyond the values that a plan computes (`ends`), a store that it overwrites; what is stale already stays so. */
export function overtaken(roots: readonly Tensor[], ends: ReadonlySet<Tensor>, chosen: ReadonlySet<Store>, composites: ReadonlySet<string>): Set<Tensor> {
  const over = new Set<Tensor>(), lost = new Set<Tensor>();
  for (const t of postorder(roots, composites, ends)) {
    if (ends.has(t) || hasNumbers(t)) continue;
    const from = dependencies(t, composites);
    if (t.op === readOp && !t.alias) {
      const { store, version } = t.attrs as ReadAttrs;
      if (version !== store.version) lost.add(t);
      else if (chosen.has(store)) over.add(t);
    } else if (from.some((d) => lost.has(d))) lost.add(t);
    else if (from.some((d) => over.has(d))) over.add(t);
  }
  return over;
}
