/** Which dispatches of a plan become one: equal texts, no dependency between them, and buffers that can lie side by side. */
import { bytesOf, type PlanSpec } from "@adjoint/tensor";
import { mostSegments, type SegmentPlan, segmentPlan } from "./merge.ts";
import { roundUp } from "./pool.ts";
import type { Dispatch, Target } from "./program.ts";

/** One dispatch with buffers numbered over the whole plan: the plan's own first, then all scratch. */
export interface Step { readonly dispatch: Dispatch; readonly buffers: readonly number[]; readonly kernel: number }
/** Steps that run as one dispatch. */
export interface Group { readonly steps: readonly Step[]; readonly segment: SegmentPlan }
/** Where a numbered buffer lives: in the step's own memory, in a store, or in an answer's own buffer. */
export type Home = "step" | "store" | "answer";

/** Buffers that lie side by side in one GPU buffer, with their places in it. */
export interface Union { readonly members: readonly number[]; readonly offsets: readonly number[]; readonly bytes: number }
export interface Grouping { readonly items: readonly (Step | Group)[]; readonly unions: readonly Union[]; readonly storeUnions: readonly (readonly number[])[] }

/** How far ahead a dispatch is looked for that could run now. */
const AHEAD = 320;
/** Dispatches that move more bytes gain nothing from company, unless it stands beside them. */
const SMALL = 2 ** 22, NEAR = 12, MOST = 2 ** 28;

export const isGroup = (x: Step | Group): x is Group => "steps" in x;
export const stepsOf = (x: Step | Group): readonly Step[] => (isGroup(x) ? x.steps : [x]);

export function group(plan: PlanSpec, steps: readonly Step[], bytes: readonly number[], homes: readonly Home[], target: Target): Grouping {
  let items = find(plan, defer(plan, steps, bytes), homes);
  for (;;) {
    const { unions, stores, bad } = join(items, bytes, homes, target);
    if (bad === null) return { items, unions, storeUnions: stores };
    items = items.flatMap((x): (Step | Group)[] => (x === bad ? [...bad.steps] : [x]));
  }
}

/** Kernels that a small result may wait for company, and bytes that its operands may hold meanwhile. */
const PATIENCE = 24, HELD = 2 ** 28;

/**
 * Lets kernels with small results that nobody wants soon wait a while (the gradients of adapters, which only the
 * optimizer reads), so that those of a layer stand together: all first dispatches, then all second ones.
 */
function defer(plan: PlanSpec, steps: readonly Step[], bytes: readonly number[]): Step[] {
  const units: { readonly steps: Step[]; readonly reads: Set<number>; readonly writes: Set<number> }[] = [];
  for (const s of steps) {
    if (units.length === 0 || units[units.length - 1].steps[0].kernel !== s.kernel) units.push({ steps: [], reads: new Set(), writes: new Set() });
    const u = units[units.length - 1];
    u.steps.push(s);
    s.dispatch.bindings.forEach((b, k) => { (b.access === "read" ? u.reads : u.writes).add(s.buffers[k]); });
  }
  type Unit = (typeof units)[number];
  const meet = (a: Unit, b: Unit): boolean => [...a.writes].some((x) => b.reads.has(x) || b.writes.has(x)) || [...a.reads].some((x) => b.writes.has(x));
  const sum = (set: Set<number>): number => [...set].reduce((n, b) => n + bytes[b], 0), texts = new Map<string, number>(), keyOf = (u: Unit): string => u.steps.map((s) => s.dispatch.code).join("\n");
  for (const u of units) texts.set(keyOf(u), (texts.get(keyOf(u)) ?? 0) + 1);
  const out: Step[] = [];
  let waiting: Unit[] = [], since = 0, held = 0;
  const flush = (): void => {
    for (let level = 0; waiting.some((u) => level < u.steps.length); level++) for (const u of waiting) if (level < u.steps.length) out.push(u.steps[level]);
    waiting = []; held = 0;
  };
  units.forEach((u, i) => {
    if (waiting.length > 0 && (i - since >= PATIENCE || held > HELD || waiting.some((w) => meet(w, u)))) flush();
    const small = plan.kernels[u.steps[0].kernel].kind === "contract" && sum(u.writes) <= SMALL && (texts.get(keyOf(u)) ?? 0) > 1;
    if (!small || units.slice(i + 1, i + 1 + PATIENCE).some((v) => meet(u, v))) { out.push(...u.steps); return; }
    if (waiting.length === 0) since = i;
    waiting.push(u);
    held += sum(u.reads);
  });
  flush();
  return out;
}

/** Takes, for each dispatch in turn, later ones of its text that nothing in between forbids to run now. */
function find(plan: PlanSpec, steps: readonly Step[], homes: readonly Home[]): (Step | Group)[] {
  const count = new Map<string, number>(), plans = new Map<string, SegmentPlan | null>();
  for (const s of steps) count.set(s.dispatch.code, (count.get(s.dispatch.code) ?? 0) + 1);
  for (const [code, n] of count) if (n > 1) plans.set(code, segmentPlan(steps.find((s) => s.dispatch.code === code)!.dispatch));
  const out: (Step | Group)[] = [], taken = new Set<number>();
  steps.forEach((first, i) => {
    if (taken.has(i)) return;
    const segment = plans.get(first.dispatch.code) ?? null;
    if (segment === null || plan.kernels[first.kernel].kind === "composite") { out.push(first); return; }
    const all = [first], reads = new Set<number>(), writes = new Map<number, Part[]>(), most = mostSegments(segment);
    const enter = (s: Step): void => {
      s.dispatch.bindings.forEach((b, k) => {
        const x = s.buffers[k];
        if (b.access === "read") reads.add(x); else writes.set(x, [...(writes.get(x) ?? []), partOf(plan, s, x)]);
      });
    };
    const free = (s: Step): boolean => s.dispatch.bindings.every((b, k) => {
      const x = s.buffers[k], written = writes.get(x);
      return (written === undefined || (b.access !== "read" && apart(partOf(plan, s, x), written))) && (b.access === "read" || !reads.has(x));
    });
    enter(first);
    for (let j = i + 1; j < steps.length && j <= i + AHEAD && all.length < most; j++) {
      if (taken.has(j)) continue;
      const s = steps[j];
      if (s.dispatch.code === first.dispatch.code && (Math.max(s.dispatch.bytes, first.dispatch.bytes) <= SMALL || (j - i <= NEAR && !s.buffers.some((b) => homes[b] === "store"))) && free(s) && alike(plan, homes, all, s)) { all.push(s); taken.add(j); }
      enter(s);
    }
    out.push(all.length > 1 ? { steps: all, segment } : first);
  });
  return out;
}
/** Elements of a buffer, from the first to the last; null: all of it, or as good as all. */
type Part = readonly [from: number, to: number] | null;
/** What a step writes of a buffer, where whole words show it: kernels that join a tensor write a part each. */
function partOf(plan: PlanSpec, s: Step, buffer: number): Part {
  const kernel = plan.kernels[s.kernel];
  if ((kernel.kind !== "rows" && kernel.kind !== "map") || kernel.loads.some((v) => v.buffer === buffer)) return null;
  const views = kernel.stores.flatMap(({ view }) => (view.buffer === buffer ? [view] : []));
  if (views.length === 0 || views.some((v) => bytesOf(v.dtype) !== 4)) return null;
  const ends = views.map(({ offset, strides }) => strides.reduce(([from, to], stride, a) => { const far = stride * (kernel.shape[a] - 1); return [from + Math.min(0, far), to + Math.max(0, far)] as const; }, [offset, offset] as const));
  return [Math.min(...ends.map(([from]) => from)), Math.max(...ends.map(([, to]) => to))];
}
const apart = (a: Part, all: readonly Part[]): boolean => a !== null && all.every((b) => b !== null && (a[1] < b[0] || b[1] < a[0]));
/** At each binding: the same buffer in all, or buffers that can be placed side by side. */
function alike(plan: PlanSpec, homes: readonly Home[], all: readonly Step[], s: Step): boolean {
  return s.buffers.every((b, k) => {
    const a = all[0].buffers[k];
    if (all.every((x) => x.buffers[k] === b)) return true;
    return [a, b].every((x) => homes[x] === homes[a] && homes[x] !== "answer" && plan.buffers[x]?.kind !== "input");
  });
}

/** Unions of the buffers that groups want side by side, or a group that cannot be. */
function join(items: readonly (Step | Group)[], bytes: readonly number[], homes: readonly Home[], target: Target): { unions: Union[]; stores: number[][]; bad: Group | null } {
  const parent = new Map<number, number>();
  const root = (b: number): number => { let r = b; while (parent.has(r) && parent.get(r) !== r) r = parent.get(r)!; return r; };
  const tie = (a: number, b: number): void => { const x = root(a), y = root(b); parent.set(x, y); if (!parent.has(y)) parent.set(y, y); };
  const groups = items.filter(isGroup);
  for (const g of groups) for (let k = 0; k < g.steps[0].buffers.length; k++) for (const s of g.steps) if (s.buffers[k] !== g.steps[0].buffers[k]) tie(g.steps[0].buffers[k], s.buffers[k]);
  const sets = new Map<number, number[]>();
  for (const b of [...parent.keys()].sort((x, y) => x - y)) { const r = root(b), set = sets.get(r); if (set === undefined) sets.set(r, [b]); else set.push(b); }
  const users = (b: number): Group[] => groups.filter((g) => g.steps.some((s) => s.buffers.some((x) => root(x) === root(b)))).sort((x, y) => x.steps.length - y.steps.length);
  // one dispatch binds a union for reading or for writing, not both; a merged one also not twice for writing
  for (const x of items) {
    const parts = stepsOf(x), merged = parts.length > 1;
    for (const s of parts) for (let i = 0; i < s.buffers.length; i++) for (let j = 0; j < i; j++) {
      const p = s.dispatch.bindings[i].access, q = s.dispatch.bindings[j].access;
      if (homes[s.buffers[i]] === "store" || root(s.buffers[i]) !== root(s.buffers[j]) || (p === "read" && q === "read")) continue;
      if (merged || p !== q) return { unions: [], stores: [], bad: merged ? (x as Group) : users(s.buffers[i])[0] };
    }
  }
  const unions: Union[] = [], stores: number[][] = [];
  for (const members of sets.values()) {
    let total = 0;
    const offsets = members.map((b) => { const at = total; total += roundUp(bytes[b], 256); return at; });
    if (total > Math.min(target.limits.bindingBytes, MOST)) return { unions: [], stores: [], bad: users(members[0])[0] };
    if (homes[members[0]] === "store") stores.push(members); else unions.push({ members, offsets, bytes: total });
  }
  return { unions, stores, bad: null };
}
