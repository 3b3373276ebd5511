/**
 * Clusters while a graph is being grouped: which node is wanted where and under which map, and how a node opens a
 * kernel of its own with an iteration space that suits it.
 */
import type { GNode } from "./graph.ts";
import { type IndexMap, type Refine, identityMap, refineMap, sameMap, startOf, throughView } from "./indexmap.ts";
import { dequantizeOp } from "./dequantize.ts";
import { isHalf } from "./dtype.ts";
import type { Sums } from "./products.ts";
import type { ReduceAttrs } from "./ops/reduce.ts";
import type { PermuteAttrs } from "./ops/views.ts";
import type { ConcatAttrs } from "./ops/concat.ts";
import { castOp } from "./ops/pointwise.ts";
import { type Shape, sizeOf } from "./shape.ts";

type ClusterKind = "map" | "rows" | "cols" | "contract" | "special";

/** Somebody in `cluster` needs a node at `map`. */
interface Demand { readonly cluster: Cluster; map: IndexMap }

/** One kernel to be. */
export interface Cluster {
  readonly id: number;
  kind: ClusterKind;
  /** iteration space; rows: the last axis is the row; cols: [outer, reduced, inner] */
  space: number[];
  readonly members: Set<GNode>;
  /** nodes that this cluster writes to memory */
  readonly outputs: Set<GNode>;
  /** cols: the reduction; contract: the product (the last recorded of a sum); special: the node */
  main: GNode | null;
  outerAxes: number;
  reducedAxes: number;
  /** concat part: where in the joined buffer this cluster writes */
  part: { readonly node: GNode; readonly source: GNode; readonly start: readonly number[] } | null;
  readonly demands: Demand[];
  /** clusters that read what this one writes */
  readonly feeds: Set<Cluster>;
  /** the last search for a path that came by */
  walk: number;
}

export const inMemory = (t: GNode): boolean => t.op.kind === "leaf" || t.op.kind === "read";
export const isRefine = (x: IndexMap | Refine | null): x is Refine => x !== null && "axis" in x;

/** What is known of a node so far. */
export interface Wanted {
  /** how it is wanted inside clusters */
  readonly demands: Demand[];
  /** clusters that want it in memory */
  readonly readers: Cluster[];
  /** it must be in memory although nobody reads it as an operand */
  forced: boolean;
  /** the cluster that writes it to memory */
  home: Cluster | null;
  /** the map under which that cluster enumerates it, if it is the cluster's own node */
  self: Demand | null;
}

/** The clusters of one graph, with everything that is wanted so far. */
export class Clusters {
  readonly list: Cluster[] = [];
  /** by number of the node; nobody has asked for those that are missing */
  private readonly nodes: Wanted[] = [];
  private walks = 0;
  private readonly roots: ReadonlySet<GNode>;
  private readonly sums: Sums;
  private readonly decodes: boolean;
  constructor(roots: ReadonlySet<GNode>, sums: Sums, decodes: boolean) { this.roots = roots; this.sums = sums; this.decodes = decodes; }

  private open(kind: ClusterKind, space: Shape, main: GNode | null): Cluster {
    const c: Cluster = { id: this.list.length, kind, space: space.length ? [...space] : [1], members: new Set(), outputs: new Set(), main, outerAxes: 0, reducedAxes: 0, part: null, demands: [], feeds: new Set(), walk: 0 };
    this.list.push(c);
    return c;
  }
  /** What is known of t, if anybody wants it. */
  find(t: GNode): Wanted | undefined { return this.nodes[t.number]; }
  private of(t: GNode): Wanted { return (this.nodes[t.number] ??= { demands: [], readers: [], forced: false, home: null, self: null }); }
  /** t must be in memory. */
  force(t: GNode): void { this.of(t).forced = true; }
  private isForced(t: GNode): boolean { return this.find(t)?.forced ?? false; }

  /** The maps under which c wants t. */
  mapsIn(t: GNode, c: Cluster): IndexMap[] {
    const maps: IndexMap[] = [], wanted = this.find(t);
    if (wanted) for (const d of wanted.demands) if (d.cluster === c) maps.push(d.map);
    return maps;
  }
  /** The map under which c writes its output t. */
  mapOf(t: GNode, c: Cluster): IndexMap {
    const self = this.find(t)?.self;
    return self?.cluster === c ? self.map : this.mapsIn(t, c)[0];
  }
  /** Whether c reads t as an operand in memory. */
  reads(t: GNode, c: Cluster): boolean { return this.find(t)?.readers.includes(c) ?? false; }

  demand(t: GNode, cluster: Cluster, map: IndexMap): void {
    if (t.op.kind === "scalar" || this.sums.zeros.has(t)) return;
    const list = this.of(t).demands;
    for (const d of list) if (d.cluster === cluster && sameMap(d.map, map)) return;
    const d = { cluster, map };
    list.push(d);
    cluster.demands.push(d);
  }
  readBy(t: GNode, cluster: Cluster): void {
    const wanted = this.of(t);
    if (t.op.kind === "scalar") wanted.forced = true;
    if (!wanted.readers.includes(cluster)) wanted.readers.push(cluster);
  }
  refine(c: Cluster, r: Refine): void {
    if (c.reducedAxes > 1 && c.kind === "rows" && r.axis >= c.space.length - c.reducedAxes) c.reducedAxes++;   // a row of several axes gets one more
    c.space = [...c.space.slice(0, r.axis), c.space[r.axis] / r.low, r.low, ...c.space.slice(r.axis + 1)];
    for (const d of c.demands) d.map = refineMap(d.map, r);
  }
  /** The points of a map become rows of this width. */
  widen(c: Cluster, width: number): void {
    c.space = [...c.space, width];
    for (const d of c.demands) d.map = { offset: d.map.offset, coef: d.map.coef.map((k) => [...k, 0]) };
    c.kind = "rows";
  }
  mayRefine(c: Cluster, axis: number): boolean {
    return c.space.length < 8 && (c.kind === "map" ? true : (c.kind === "rows" || c.kind === "contract") && axis < c.space.length - 1);
  }
  reaches(from: Cluster, to: Cluster): boolean {
    const stack = [from], walk = ++this.walks;
    for (from.walk = walk; stack.length;) {
      const c = stack.pop()!;
      if (c === to) return true;
      for (const f of c.feeds) if (f.walk !== walk) { f.walk = walk; stack.push(f); }
    }
    return false;
  }

  /** An operand that must sit in memory with strides: walks views, forces what cannot be expressed. */
  private operand(t: GNode, reader: Cluster): void {
    let v = t, map = identityMap(t.shape);
    for (;;) {
      if (this.isForced(v) || this.roots.has(v)) break;
      if (v.op === castOp && isHalf(v.inputs[0].dtype) && v.dtype === "f32" && memoryBase(v.inputs[0])) { v = v.inputs[0]; continue; }
      if (v.op.kind !== "view") break;
      const next = throughView(v, map, t.shape);
      if (next === null || isRefine(next)) {
        if (v.op.name === "reshape") v = this.run(v.inputs[0]);                 // memory is linear under a reshape
        if (v.op.kind === "view") this.force(v);
        break;
      }
      map = next; v = v.inputs[0];
    }
    if (!this.decodes || v.op !== dequantizeOp) { this.readBy(v, reader); return; }
    v.inputs.forEach((x, i) => { this.contiguous(x, reader, i === 0); });                // never whole for this reader; blocks count from the first code
  }
  /** The node in memory that t shows in order and without gaps (`whole`: from its first element on); t itself where a view in between breaks the order. */
  private run(t: GNode, whole = false): GNode {
    let v = t;
    while (v.op.kind === "view" && !this.isForced(v) && !this.roots.has(v)) {
      const start = startOf(v);
      if (start === null || (whole && start > 0)) return t;
      v = v.inputs[0];
    }
    return v;
  }
  /** c multiplies: t, and what its accumulator adds to it. */
  multiply(t: GNode, c: Cluster): void {
    c.main = t;
    for (const product of this.sums.of(t)) {
      c.members.add(product);
      for (const x of product.inputs) this.operand(x, c);
    }
  }
  /** An operand that must sit in memory, contiguous. */
  private contiguous(t: GNode, reader: Cluster, whole = false): void {
    const v = this.run(t, whole);
    if (v.op.kind === "view") this.force(v);
    this.readBy(v, reader);
  }

  /** t becomes a member of c and passes its own demands on. */
  settle(t: GNode, c: Cluster): void {
    c.members.add(t);
    for (const map of this.mapsIn(t, c)) this.descend(t, c, map);
  }
  private descend(t: GNode, c: Cluster, map: IndexMap): void {
    if (t.op.kind === "map") { for (const x of t.inputs) this.demand(x, c, map); return; }
    if (t.op.kind === "reduce") {
      const { axes } = t.attrs as ReduceAttrs, x = t.inputs[0];
      this.demand(x, c, c.kind === "rows" ? rowInput(x, axes, map, c.space.length) : colInput(x, axes, c));
    }
  }

  /** Gives t a kernel of its own. */
  openOwn(t: GNode): void {
    switch (t.op.kind) {
      case "map": case "view": case "scalar": case "leaf": case "read": { this.writes(t, t.op.name === "permute" ? this.openPermute(t) : this.openMap(t)); return; }
      case "reduce": { this.writes(t, trailing(t.inputs[0].shape, (t.attrs as ReduceAttrs).axes) ? this.openRows(t) : this.openCols(t)); return; }
      case "contract": {
        const c = this.open("contract", t.shape, t);
        this.selfDemand(t, c, identityMap(t.shape));
        this.multiply(t, c);
        this.writes(t, c);
        return;
      }
      case "concat": { this.openParts(t); return; }
      case "update": {
        const c = this.open("special", t.shape, t);
        this.readBy(t.inputs[0], c);
        if (t.inputs[0].op.kind === "view") this.force(t.inputs[0]);
        this.contiguous(t.inputs[1], c);
        this.writes(t, c);
        return;
      }
      case "gather": case "scatterAdd": case "composite": {
        const c = this.open("special", t.shape, t);
        for (const x of t.inputs) if (x.op.kind !== "scalar" || t.op.kind !== "composite") this.contiguous(x, c);
        this.writes(t, c);
        return;
      }
      default: throw new Error(`schedule: no kernel for ${t.op.kind satisfies never}`);
    }
  }
  /** Iterates in the input's order, so that its kernel can write the new layout itself. */
  private openPermute(t: GNode): Cluster {
    const { axes } = t.attrs as PermuteAttrs, x = t.inputs[0], id = identityMap(x.shape);
    const c = this.open("map", x.shape, null);
    this.selfDemand(t, c, { offset: t.shape.map(() => 0), coef: axes.map((a) => id.coef[a]) });
    c.members.add(t);
    this.demand(x, c, id);
    return c;
  }
  /** Gives t a place in a kernel over the same points, or over rows of which it holds a number each, that wants nothing of it. */
  openBeside(t: GNode, c: Cluster, map: IndexMap): void {
    this.selfDemand(t, c, map);
    c.members.add(t);
    this.descend(t, c, map);
    this.writes(t, c);
  }
  private openMap(t: GNode): Cluster {
    const c = this.open("map", t.shape, null);
    let map = flatIdentity(t.shape);
    this.selfDemand(t, c, map);
    c.members.add(t);
    if (t.op.kind === "map") this.descend(t, c, map);
    if (t.op.kind !== "view") return c;
    const x = t.inputs[0];
    if (t.op.name === "reshape" && inMemory(x)) return c;
    for (;;) {
      const next = throughView(t, map, c.space);
      if (isRefine(next)) { this.refine(c, next); map = refineMap(map, next); continue; }
      if (next === null) { this.force(x); this.readBy(x, c); }
      else this.demand(x, c, next);
      return c;
    }
  }
  private openRows(t: GNode): Cluster {
    const { axes } = t.attrs as ReduceAttrs, x = t.inputs[0], lead = Math.min(...axes);
    const space = [...x.shape.slice(0, lead), sizeOf(x.shape.slice(lead))];
    const kept = (rank: number): IndexMap => ({ offset: t.shape.map(() => 0), coef: t.shape.map((d, i) => Array.from({ length: rank }, (_, s) => (s === i && i < lead && d > 1 ? 1 : 0))) });
    const c = this.open("rows", space, null), map = kept(space.length);
    this.selfDemand(t, c, map);
    c.members.add(t);
    if (x.shape.slice(lead).filter((d) => d > 1).length <= 1) { this.descend(t, c, map); return c; }
    // the row spans several axes of x: its map is found through a reshape to the space
    const next = throughView({ op: { name: "reshape", kind: "view" }, inputs: [x], attrs: null, shape: space, dtype: x.dtype }, identityMap(space), space);
    if (next !== null && !isRefine(next)) { this.demand(x, c, next); return c; }
    c.space = [...x.shape];
    c.reducedAxes = x.shape.length - lead;
    this.demand(x, c, identityMap(x.shape));
    this.find(t)!.self!.map = kept(x.shape.length);
    return c;
  }
  private openCols(t: GNode): Cluster {
    const { axes } = t.attrs as ReduceAttrs, x = t.inputs[0], order = colOrder(x.shape, axes), kept = (i: number): boolean => !axes.includes(i);
    const c = this.open("cols", order.map((i) => x.shape[i]), t);
    c.outerAxes = order.indexOf(axes[0]);
    c.reducedAxes = axes.length;
    const map = { offset: t.shape.map(() => 0), coef: t.shape.map((d, i) => order.map((a) => (a === i && kept(i) && d > 1 ? 1 : 0))) };
    this.selfDemand(t, c, map);
    c.members.add(t);
    this.descend(t, c, map);
    return c;
  }
  private openParts(t: GNode): void {
    const { axis } = t.attrs as ConcatAttrs;
    let at = 0;
    for (const x of t.inputs) {
      const c = this.open("map", x.shape, null);
      c.part = { node: t, source: x, start: x.shape.map((_, i) => (i === axis ? at : 0)) };
      if (x.op.kind !== "scalar") this.demand(x, c, flatIdentity(x.shape));
      at += x.shape[axis];
      this.written(t, c);                                   // any part: orders readers after; lower.ts looks at all parts
    }
  }
  private selfDemand(t: GNode, c: Cluster, map: IndexMap): void {
    const d = { cluster: c, map };
    c.demands.push(d);
    this.of(t).self = d;
  }
  private writes(t: GNode, c: Cluster): void {
    c.outputs.add(t);
    this.written(t, c);
  }
  /** c writes t for all who want it. */
  written(t: GNode, c: Cluster): void {
    const wanted = this.of(t);
    wanted.home = c;
    for (const d of wanted.demands) if (d.cluster !== c) c.feeds.add(d.cluster);
    for (const r of wanted.readers) if (r !== c) c.feeds.add(r);
  }
}

/** [] is a space of one point. */
export const flatIdentity = (shape: Shape): IndexMap => (shape.length ? identityMap(shape) : { offset: [], coef: [] });
/** Whether everything after the first of these axes is reduced or of size 1. */
export const trailing = (shape: Shape, axes: readonly number[]): boolean => {
  const first = Math.min(...axes);
  return shape.every((d, i) => i < first || axes.includes(i) || d === 1);
};
function rowInput(x: GNode, axes: readonly number[], map: IndexMap, rank: number): IndexMap {
  const row = axes.find((a) => x.shape[a] > 1);
  return { offset: x.shape.map((_, i) => (axes.includes(i) ? 0 : map.offset[i])), coef: x.shape.map((_, i) => (axes.includes(i) ? Array.from({ length: rank }, (_u, s) => (i === row && s === rank - 1 ? 1 : 0)) : map.coef[i])) };
}
/** Axes in the order outer, reduced, inner. */
function colOrder(shape: Shape, axes: readonly number[]): number[] {
  const last = Math.max(...axes), kept = [...shape.keys()].filter((i) => !axes.includes(i));
  return [...kept.filter((i) => i < last), ...axes, ...kept.filter((i) => i > last)];
}
/** How a cols cluster enumerates the input of its reduction. */
export function colInput(x: GNode, axes: readonly number[], c: Cluster): IndexMap {
  const order = colOrder(x.shape, axes);
  return { offset: x.shape.map(() => 0), coef: x.shape.map((d, i) => c.space.map((_, s) => (order[s] === i && d > 1 ? 1 : 0))) };
}
function memoryBase(t: GNode): boolean {
  let v = t;
  while (v.op.kind === "view") v = v.inputs[0];
  return inMemory(v);
}
