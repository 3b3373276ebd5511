/**
 * Kernels that need more buffers than a dispatch may bind, cut into several: one result each, and parts of formulas
 * (and statistics of rows) computed beforehand into scratch memory until the rest fits.
 */
import { bytesOf, type BufferSpec, type ColsKernel, DeviceError, type DType, Expr, type ExprType, leaf, type MapKernel, type PlanSpec, type RowsKernel, type StoreTo, type View, walk } from "@adjoint/tensor";
import type { Dispatch, Program, Target } from "./program.ts";
import { product } from "./space.ts";

type Formulas = MapKernel | RowsKernel | ColsKernel;
/** Makes the dispatches of a kernel that fits; `scratch` gives a buffer of so many bytes. */
export type Make<K> = (kernel: K, plan: PlanSpec, target: Target, scratch: (bytes: number) => number) => Dispatch | readonly Dispatch[];

/** Scratch buffers of one program; their numbers follow the plan's, and they look like slots of a larger plan. */
class Scratch {
  readonly bytes: number[] = [];
  readonly #specs: BufferSpec[];
  readonly #plan: PlanSpec;
  constructor(plan: PlanSpec) { this.#plan = plan; this.#specs = [...plan.buffers]; }
  get plan(): PlanSpec { return { ...this.#plan, buffers: this.#specs }; }
  readonly take = (bytes: number): number => this.#add("u32", bytes / 4);
  typed(dtype: DType, length: number): number { return this.#add(dtype, length); }
  #add(dtype: DType, length: number): number {
    this.bytes.push(length * bytesOf(dtype));
    return this.#specs.push({ kind: "slot", dtype, length, offset: 0, position: 0 }) - 1;
  }
}

/** Formulas in which nodes are replaced. */
function rebuild(roots: readonly Expr[], replace: (e: Expr) => Expr | undefined): Expr[] {
  const made = new Map<Expr, Expr>();
  const go = (e: Expr): Expr => {
    let y = made.get(e);
    if (y === undefined) {
      y = replace(e);
      if (y === undefined) {
        const args = e.args.map(go);
        y = args.every((a, i) => a === e.args[i]) ? e : new Expr(e.fn, args, e.type, e.leaf);
      }
      made.set(e, y);
    }
    return y;
  };
  return roots.map(go);
}
const rootsOf = (k: Formulas): Expr[] => [...(k.kind === "rows" ? k.stats.map((s) => s.value) : k.kind === "cols" ? [k.value] : []), ...k.stores.map((s) => s.value)];

/** The kernel with other formulas over other loads; loads that no formula uses are dropped. */
function withFormulas<K extends Formulas>(k: K, roots: readonly Expr[], loads: readonly View[]): K {
  const used: number[] = [];
  walk(roots, (e) => { if (e.fn === "load" && !used.includes(e.leaf)) used.push(e.leaf); });
  used.sort((a, b) => a - b);
  const moved = rebuild(roots, (e) => (e.fn === "load" ? leaf("load", used.indexOf(e.leaf), e.type) : undefined));
  const first = roots.length - k.stores.length, stores = k.stores.map((s, i) => ({ ...s, value: moved[first + i] })), kept = used.map((i) => loads[i]);
  if (k.kind === "rows") return { ...k, loads: kept, stores, stats: k.stats.map((s, i) => ({ ...s, value: moved[i] })) };
  if (k.kind === "cols") return { ...k, loads: kept, stores, value: moved[0] };
  return { ...k, loads: kept, stores };
}
/** The kernel with one of its stores, perhaps to another place. */
function only<K extends Formulas>(k: K, i: number, to: Partial<StoreTo> = {}): K {
  const one: K = k.kind === "rows" ? { ...k, stores: [{ ...k.stores[i], ...to }] } : { ...k, stores: [{ ...k.stores[i], ...to }] };
  return withFormulas(one, rootsOf(one), k.loads);
}

/** Distinct buffers that formulas read. */
function reads(roots: readonly Expr[], loads: readonly View[]): Set<number> {
  const out = new Set<number>();
  walk(roots, (e) => { if (e.fn === "load") out.add(loads[e.leaf].buffer); });
  return out;
}
const buffersOf = (k: Formulas): Set<number> => new Set([...reads(rootsOf(k), k.loads), ...k.stores.map((s) => s.view.buffer)]);

/** The store of a value in row-major order over the points at which `like` is written (axes on which it repeats count once). */
function scratchView(scratch: Scratch, shape: readonly number[], dtype: DType, like?: readonly number[]): View {
  const sizes = shape.map((n, a) => (like !== undefined && like[a] === 0 ? 1 : n)), strides = sizes.map((n, a) => (n === 1 ? 0 : product(sizes.slice(a + 1))));
  return { buffer: scratch.typed(dtype, product(sizes)), dtype, offset: 0, strides };
}
const dtypeOf = (type: ExprType): DType => (type === "float" ? "f32" : type === "i32" ? "i32" : "u32");
const stored = (e: Expr): Expr => (e.type === "bool" ? e.toU() : e);
const reloaded = (position: number, type: ExprType): Expr => (type === "bool" ? leaf("load", position, "u32").toB() : leaf("load", position, type));

/**
 * The statistics that need no other, each in a row kernel of its own, and the kernel that reads them; null where there are fewer than two. The first one is
 * computed in both: a row kernel has a statistic, and what it is added to must not wait for it.
 */
function withoutStats<K extends Formulas>(k: K, scratch: Scratch): { readonly before: readonly K[]; readonly kernel: K } | null {
  if (k.kind !== "rows") return null;
  const alone = k.stats.flatMap(({ value }, i) => { let own = true; walk([value], (e) => { if (e.fn === "stat") own = false; }); return own ? [i] : []; }), first = alone[0];
  if (alone.length < 2) return null;
  const perRow = k.shape.map((_, a) => (a < k.shape.length - k.rowAxes ? 1 : 0)), kept = k.stats.flatMap((_, i) => (i !== first && alone.includes(i) ? [] : [i])), views = alone.map((i) => scratchView(scratch, k.shape, dtypeOf(k.stats[i].value.type), perRow));
  const before = alone.map((i, n): K => {
    const { op, value } = k.stats[i], one: K = { ...k, stats: [{ op, value }], stores: [{ view: views[n], value: stored(leaf("stat", 0, value.type)), perRow: true }] };
    return withFormulas(one, rootsOf(one), k.loads);
  });
  const roots = rebuild(rootsOf(k), (e) => (e.fn !== "stat" ? undefined : alone.includes(e.leaf) ? reloaded(k.loads.length + alone.indexOf(e.leaf), e.type) : leaf("stat", kept.indexOf(e.leaf), e.type)));
  const stats = kept.map((i) => ({ op: k.stats[i].op, value: roots[i] })), stores = k.stores.map((s, i) => ({ ...s, value: roots[k.stats.length + i] })), rest: K = { ...k, stats, stores };
  return { before, kernel: withFormulas(rest, rootsOf(rest), [...k.loads, ...views]) };
}

/**
 * Moves parts of the formulas into map kernels before `k`, and statistics of rows into row kernels, until it binds at most `limit` buffers.
 * @throws DeviceError if results alone are too many
 */
function shrink<K extends Formulas>(k: K, limit: number, scratch: Scratch): { before: (MapKernel | K)[]; kernel: K } {
  const before: (MapKernel | K)[] = [];
  for (let kernel = k; ;) {
    if (buffersOf(kernel).size <= limit) return { before, kernel };
    const { loads, stores, shape, affines, uniforms, label } = kernel, roots = rootsOf(kernel), written = new Set(stores.map((s) => s.view.buffer));
    // candidates do not depend on statistics and fit a kernel of their own; the best leaves the fewest buffers
    const inside = new Map<Expr, { readonly set: Set<number>; readonly free: boolean }>();
    walk(roots, (e) => {
      const args = e.args.map((a) => inside.get(a)), set = new Set(args.flatMap((a) => [...(a?.set ?? [])]));
      if (e.fn === "load") set.add(loads[e.leaf].buffer);
      inside.set(e, { set, free: e.fn !== "stat" && e.fn !== "acc" && args.every((a) => a?.free === true) });
    });
    let best: Expr | undefined, left = buffersOf(kernel).size;
    for (const [e, { set, free }] of inside) {
      if (!free || e.args.length === 0 || set.size < 2 || set.size > limit - 1) continue;
      const rest = new Set([...written, ...reads(rebuild(roots, (x) => (x === e ? leaf("affine", 0, e.type) : undefined)), loads)]).size + 1;
      if (rest < left) { best = e; left = rest; }
    }
    const parted = best === undefined ? withoutStats(kernel, scratch) : null;
    if (parted !== null) {
      before.push(...parted.before);
      kernel = parted.kernel;
      continue;
    }
    if (best === undefined) throw new DeviceError(`webgpu: ${label} needs ${buffersOf(kernel).size} buffers and cannot be cut; this device allows ${limit}`, { key: "maxStorageBuffersPerShaderStage", value: limit });
    const target = best, view = scratchView(scratch, shape, dtypeOf(target.type));
    before.push(withFormulas({ kind: "map", shape, loads, affines, uniforms, label, stores: [{ view, value: stored(target) }] }, [stored(target)], loads));
    const position = loads.length;
    kernel = withFormulas(kernel, rebuild(roots, (x) => (x === target ? reloaded(position, x.type) : undefined)), [...loads, view]);
  }
}

/** Kernels of one store each, in an order in which none overwrites what a later one reads; where there is none, through scratch. */
function apart<K extends Formulas>(k: K, scratch: Scratch): { kernels: K[]; after: MapKernel[] } {
  if (k.stores.length === 1) return { kernels: [k], after: [] };
  const single = k.stores.map((_, i) => only(k, i)), kernels: K[] = [], after: MapKernel[] = [];
  const inputs = single.map((x) => reads(rootsOf(x), x.loads)), outputs = k.stores.map((s) => s.view.buffer), left = new Set(single.keys());
  while (left.size > 0) {
    const ready = [...left].find((i) => ![...left].some((j) => j !== i && inputs[j].has(outputs[i])));
    const i = ready ?? [...left][0];
    left.delete(i);
    if (ready !== undefined) { kernels.push(single[i]); continue; }
    const { view, value } = k.stores[i], away = scratchView(scratch, k.shape, dtypeOf(value.type), view.strides);
    kernels.push(only(k, i, { view: away, value: stored(value) }));
    after.push({ kind: "map", shape: k.shape.map((n, a) => (view.strides[a] === 0 ? 1 : n)), loads: [away], affines: [], uniforms: k.uniforms, label: k.label, stores: [{ view, value: reloaded(0, value.type) }] });
  }
  return { kernels, after };
}

/** The program of a kernel: one dispatch where it fits beside `own` scratch buffers of its kind, else its parts. */
export function splitInto<K extends Formulas>(kernel: K, plan: PlanSpec, target: Target, own: number, make: Make<K>, makeMap: Make<MapKernel>): Program {
  const limit = target.limits.storageBuffers, scratch = new Scratch(plan), dispatches: Dispatch[] = [];
  const emit = <L extends Formulas>(k: L, by: Make<L>): void => { dispatches.push(...[by(k, scratch.plan, target, scratch.take)].flat()); };
  const room = limit - own;
  if (buffersOf(kernel).size <= room) emit(kernel, make);
  else {
    const { kernels, after } = apart(kernel, scratch);
    for (const single of kernels) {
      const { before, kernel: rest } = shrink(single, room, scratch);
      for (const b of before) if (b.kind === "map") emit(b, makeMap); else emit(b, make);
      emit(rest, make);
    }
    for (const copy of after) emit(copy, makeMap);
  }
  return { dispatches, scratch: scratch.bytes };
}
export const splitMap = (kernel: MapKernel, plan: PlanSpec, target: Target, make: Make<MapKernel>): Program => splitInto(kernel, plan, target, 0, make, make);
