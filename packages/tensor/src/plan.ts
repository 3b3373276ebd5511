/** A plan: kernels in order over buffers with places; made once per structure and kept while it is used. */
import type { Backend, BlockNumbers, BufferSpec, Factor, Kernel, PlanSpec, Prepared, View } from "./backend.ts";
import type { Cluster } from "./clusters.ts";
import { bytesOf } from "./dtype.ts";
import { leaf } from "./expr.ts";
import type { GNode, Graph } from "./graph.ts";
import { type Draft, lower } from "./lower.ts";
import { schedule } from "./schedule.ts";
import { sizeOf } from "./shape.ts";
import type { ReadAttrs } from "./store.ts";
import { exprType } from "./tensor.ts";

/** A store (by its position in the graph) receives a node's value. */
export interface Write { readonly store: number; readonly node: GNode }
export interface Plan { readonly spec: PlanSpec; readonly prepared: Prepared; readonly device: Backend }

/** A factor with all its views replaced: its own, and those of what it is decoded with. */
function mapFactor(f: Factor, go: <V extends View>(v: V) => V): Factor {
  if (!f.decode) return go(f);
  const numbers = (b: BlockNumbers): BlockNumbers => ({ values: go(b.values), ...(b.nested ? { nested: { ...b.nested, codes: go(b.nested.codes), table: go(b.nested.table), offset: go(b.nested.offset) } } : {}) });
  const { table, scales, mins } = f.decode;
  return { ...go(f), decode: { ...f.decode, table: go(table), scales: numbers(scales), ...(mins ? { mins: numbers(mins) } : {}) } };
}
/** What is read for a factor. */
function factorViews(f: Factor): View[] {
  const views: View[] = [];
  mapFactor(f, (v) => { views.push(v); return v; });
  return views;
}

/** Buffers that a kernel reads and writes. */
export function accesses(k: Kernel): { reads: View[]; writes: View[] } {
  switch (k.kind) {
    case "map": case "rows": case "cols": return { reads: [...k.loads], writes: k.stores.map((s) => s.view) };
    case "contract": return { reads: [...[k, ...(k.more ?? [])].flatMap(({ a, b }) => [...factorViews(a), ...factorViews(b)]), ...k.loads], writes: k.stores.map((s) => s.view) };
    case "gather": return { reads: [k.table, k.ids], writes: [k.out] };
    case "scatterAdd": return { reads: [k.source, k.ids], writes: [k.out] };
    case "composite": return { reads: [...k.inputs], writes: [...k.outputs] };
    default: return k satisfies never;
  }
}

/** Schedules, lowers, orders and places a graph; a contract kernel adds up at most `products` matmuls and reads codes where it `decodes`. */
export function makePlan(graph: Graph, outputs: readonly GNode[], writes: readonly Write[], fuse: boolean, products = 1, decodes = false): PlanSpec {
  const roots = new Set([...outputs, ...writes.map((w) => w.node)]);
  const sched = schedule(graph, roots, fuse, products, decodes);
  const buffers: Draft[] = [], bufferNumber = new Map<GNode, number>(), storeBuffer = new Map<number, number>();
  const add = (kind: Draft["kind"], t: GNode, position: number): number => {
    const name = t.op.kind === "read" ? (t.attrs as ReadAttrs).store.name : t.tensor.name;
    return buffers.push({ kind, dtype: t.dtype, length: Math.max(1, sizeOf(t.shape)), offset: 0, position, ...(name ? { name } : {}) }) - 1;
  };
  const bufferOf = (t: GNode): number => {
    let b = bufferNumber.get(t);
    if (b === undefined) {
      if (t.op.kind === "read") { b = storeBuffer.get(t.position) ?? add("store", t, t.position); storeBuffer.set(t.position, b); }
      else if (t.op.kind === "leaf") b = add("input", t, t.position);
      else b = outputs.includes(t) ? add("output", t, outputs.indexOf(t)) : add("slot", t, -1);
      bufferNumber.set(t, b);
    }
    return b;
  };
  const memory = { bufferOf, slot: (t: GNode): number => add("slot", t, -1), updatesInPlace: (): boolean => false };

  const drafts: { kernel: Kernel; order: number; seq: number }[] = [];
  for (const c of sched.clusters) for (const kernel of lower(c, sched, memory)) drafts.push({ kernel, order: orderOf(c), seq: drafts.length });
  let kernels = sort(drafts);

  // stores: in place where every reader of the old value is done, else through a copy at the end
  const uses = new Uses(kernels), tail: Kernel[] = [];
  for (const w of writes) {
    const from = bufferOf(w.node);
    let to = storeBuffer.get(w.store);
    if (to === undefined) { to = add("store", w.node, w.store); storeBuffer.set(w.store, to); }
    if (buffers[from].kind === "slot" && uses.inPlace(from, to)) {
      uses.rename(from, to);
      bufferNumber.set(w.node, to);
    } else { tail.push(copyKernel(buffers, from, to)); uses.taken.add(to); }
  }
  kernels = [...uses.kernels.filter((k) => !selfCopy(k)), ...tail.map((k) => uses.resolve(k))];
  const arenaBytes = place(kernels, buffers);
  return { kernels, buffers, uniforms: graph.scalars.map((s) => { const t = exprType(s.dtype); return t === "bool" ? "i32" : t; }), arenaBytes, inputs: graph.leaves.length, outputs: outputs.length };
}

const orderOf = (c: Cluster): number => Math.max(0, ...[...c.outputs].map((t) => t.order), c.part ? c.part.node.order : 0);

/** Dependencies first; among the ready, the earliest recorded. */
function sort(drafts: { kernel: Kernel; order: number; seq: number }[]): Kernel[] {
  const writers = new Map<number, number[]>(), after: Set<number>[] = drafts.map(() => new Set()), waits = drafts.map(() => 0);
  const edge = (i: number, j: number): void => { if (i !== j && !after[i].has(j)) { after[i].add(j); waits[j]++; } };
  const touched = drafts.map((d) => accesses(d.kernel));
  touched.forEach(({ writes }, i) => {
    for (const { buffer } of writes) {
      const list = writers.get(buffer);
      if (!list) writers.set(buffer, [i]);
      else if (list[list.length - 1] !== i) { edge(list[list.length - 1], i); list.push(i); }
    }
  });
  touched.forEach(({ reads, writes }, j) => {
    for (const { buffer } of reads) {
      const list = writers.get(buffer);
      if (list && !writes.some((v) => v.buffer === buffer)) for (const i of list) edge(i, j);
    }
  });
  const heap: number[] = [], before = (a: number, b: number): boolean => drafts[a].order - drafts[b].order < 0 || (drafts[a].order === drafts[b].order && a > b);
  const push = (x: number): void => { let i = heap.push(x) - 1; while (i > 0) { const p = (i - 1) >> 1; if (!before(heap[i], heap[p])) break; [heap[i], heap[p]] = [heap[p], heap[i]]; i = p; } };
  const pop = (): number => {
    const top = heap[0], last = heap.pop()!;
    if (heap.length) {
      heap[0] = last;
      for (let i = 0; ;) { const l = 2 * i + 1; if (l >= heap.length) break; const c = l + 1 < heap.length && before(heap[l + 1], heap[l]) ? l + 1 : l; if (!before(heap[c], heap[i])) break; [heap[i], heap[c]] = [heap[c], heap[i]]; i = c; }
    }
    return top;
  };
  waits.forEach((w, i) => { if (w === 0) push(i); });
  const out: Kernel[] = [];
  while (heap.length) {
    const i = pop();
    out.push(drafts[i].kernel);
    for (const j of after[i]) if (--waits[j] === 0) push(j);
  }
  if (out.length !== drafts.length) throw new Error(`scheduler: ${drafts.length - out.length} kernels wait for each other: ${drafts.filter((_, i) => waits[i] > 0).map((d) => d.kernel.label).join("; ").slice(0, 400)}`);
  return out;
}

/** Which kernels touch which buffer, while stores are being placed. */
class Uses {
  readonly kernels: Kernel[];
  /** stores that a copy at the end overwrites */
  readonly taken = new Set<number>();
  /** what each kernel reads and writes */
  private readonly touched: ReturnType<typeof accesses>[];
  private readonly of = new Map<number, Set<number>>();
  private readonly moved = new Map<number, number>();
  constructor(kernels: readonly Kernel[]) {
    this.kernels = [...kernels];
    this.touched = kernels.map(accesses);
    this.touched.forEach(({ reads, writes }, i) => {
      for (const v of reads) this.at(v.buffer).add(i);
      for (const v of writes) this.at(v.buffer).add(i);
    });
  }
  private at(buffer: number): Set<number> {
    let set = this.of.get(buffer);
    if (!set) this.of.set(buffer, (set = new Set()));
    return set;
  }
  /** Whether the kernels that write `from` may write straight into `to`: all readers of the old value come before, or read just what they write. */
  inPlace(from: number, to: number): boolean {
    if (this.taken.has(to)) return false;
    let first = Infinity;
    for (const i of this.at(from)) if (i < first && this.touched[i].writes.some((v) => v.buffer === from)) first = i;
    if (first === Infinity) return false;
    for (const i of this.at(to)) {
      const k = this.kernels[i], { reads, writes } = this.touched[i];
      if (writes.some((v) => v.buffer === to)) return false;
      if (i < first) continue;
      if (i > first || k.kind === "cols" || k.kind === "gather" || k.kind === "scatterAdd" || k.kind === "composite") return false;
      if (k.kind === "contract" && [k, ...(k.more ?? [])].some(({ a, b }) => [...factorViews(a), ...factorViews(b)].some((v) => v.buffer === to))) return false;
      const target = writes.find((v) => v.buffer === from)!;
      if (!reads.every((v) => v.buffer !== to || (v.offset === target.offset && !v.at && !target.at && v.strides.every((s, d) => s === target.strides[d])))) return false;
    }
    return true;
  }
  rename(from: number, to: number): void {
    for (const i of this.at(from)) {
      this.kernels[i] = rename(this.kernels[i], from, to);
      this.touched[i] = accesses(this.kernels[i]);
      this.at(to).add(i);
    }
    this.moved.set(from, to);
  }
  /** A later copy reads where the value went. */
  resolve(k: Kernel): Kernel {
    let out = k;
    for (const [from, to] of this.moved) out = rename(out, from, to);
    return out;
  }
}
const swap = <V extends View>(v: V, from: number, to: number): V => (v.buffer === from ? { ...v, buffer: to } : v);
function rename(k: Kernel, from: number, to: number): Kernel {
  const go = <V extends View>(v: V): V => swap(v, from, to);
  switch (k.kind) {
    case "map": case "cols": return { ...k, loads: k.loads.map(go), stores: k.stores.map((s) => ({ ...s, view: go(s.view) })) };
    case "rows": return { ...k, loads: k.loads.map(go), stores: k.stores.map((s) => ({ ...s, view: go(s.view) })) };
    case "contract": return { ...k, a: mapFactor(k.a, go), b: mapFactor(k.b, go), ...(k.more ? { more: k.more.map((p) => ({ ...p, a: mapFactor(p.a, go), b: mapFactor(p.b, go) })) } : {}), loads: k.loads.map(go), stores: k.stores.map((s) => ({ ...s, view: go(s.view) })) };
    case "gather": return { ...k, table: go(k.table), ids: go(k.ids), out: go(k.out) };
    case "scatterAdd": return { ...k, source: go(k.source), ids: go(k.ids), out: go(k.out) };
    case "composite": return { ...k, inputs: k.inputs.map(go), outputs: k.outputs.map(go) };
    default: return k satisfies never;
  }
}
const selfCopy = (k: Kernel): boolean => k.kind === "map" && k.label === "copy" && k.stores.length === 1 && k.loads.length === 1 && k.loads[0].buffer === k.stores[0].view.buffer && !k.stores[0].view.at;
function copyKernel(buffers: readonly Draft[], from: number, to: number): Kernel {
  const { length, dtype } = buffers[from], strides = [length === 1 ? 0 : 1];
  return { kind: "map", shape: [length], loads: [{ buffer: from, dtype, offset: 0, strides }], affines: [], uniforms: [], label: "copy", stores: [{ view: { buffer: to, dtype, offset: 0, strides }, value: leaf("load", 0, exprType(dtype)) }] };
}

/** Greedy best fit by lifetime: two buffers share bytes only if no kernel needs both. */
function place(kernels: readonly Kernel[], buffers: Draft[]): number {
  const first = new Map<number, number>(), last = new Map<number, number>();
  kernels.forEach((k, i) => {
    const { reads, writes } = accesses(k);
    for (const list of [reads, writes]) for (const v of list) {
      if (!first.has(v.buffer)) first.set(v.buffer, buffers[v.buffer].kind === "input" ? -1 : i);
      last.set(v.buffer, i);
    }
  });
  const live = buffers.map((b, i) => ({ b, i })).filter(({ b, i }) => b.kind !== "store" && (first.has(i) || b.kind === "output"));
  live.sort((x, y) => (first.get(x.i) ?? 0) - (first.get(y.i) ?? 0) || x.i - y.i);
  let active: { start: number; end: number; until: number }[] = [], expires = Infinity, top = 0;        // by start
  for (const { b, i } of live) {
    const from = first.get(i) ?? 0, until = b.kind === "output" ? Infinity : last.get(i)!, bytes = Math.ceil((b.length * bytesOf(b.dtype)) / 64) * 64;
    if (expires < from) {
      active = active.filter((a) => a.until >= from);
      expires = active.reduce((t, a) => Math.min(t, a.until), Infinity);
    }
    let end = 0, best = active.length, bestGap = Infinity, start = -1;
    active.forEach((a, j) => {
      const gap = a.start - end;
      if (gap >= bytes && gap < bestGap) { best = j; bestGap = gap; start = end; }
      end = Math.max(end, a.end);
    });
    if (start < 0) start = end;
    b.offset = start;
    active.splice(best, 0, { start, end: start + bytes, until });
    expires = Math.min(expires, until);
    top = Math.max(top, start + bytes);
  }
  return top;
}

/** Plans of one device, least recently used first; at most `limit`. */
export class PlanCache {
  private readonly plans = new Map<string, Plan>();
  private readonly limit: number;
  made = 0;
  constructor(limit = 64) { this.limit = limit; }
  get size(): number { return this.plans.size; }
  get(key: string, make: () => Plan): Plan {
    let p = this.plans.get(key);
    if (p) this.plans.delete(key);
    else {
      p = make();
      this.made++;
      if (this.plans.size >= this.limit) {
        const [old, evicted] = this.plans.entries().next().value!;
        this.plans.delete(old);
        evicted.device.release(evicted.prepared);
      }
    }
    this.plans.set(key, p);
    return p;
  }
  clear(): void {
    for (const p of this.plans.values()) p.device.release(p.prepared);
    this.plans.clear();
  }
}
export type { BufferSpec };
