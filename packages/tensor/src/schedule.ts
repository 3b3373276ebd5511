/**
 * The scheduler: which nodes are computed together, in one of four kernel shapes.
 *
 * Nodes are visited consumers first. Invariants, each held by a law in the tests:
 * 1. A node joins a cluster only if every demand for it inside that cluster is an affine index map.
 * 2. A node that others read too becomes an extra output, and only where it lives in the cluster's own index space
 *    (its map is the identity) and no other reader is an ancestor of the cluster (else a cycle).
 * 3. A reduction joins rows only if it enumerates the cluster's rows in order, judged by maps, never by equal sizes.
 * 4. Only cheap nodes are computed twice.
 * 5. Ties break by position in the graph, so plans are reproducible.
 */
import { type GNode, type Graph } from "./graph.ts";
import { type IndexMap, type Refine, identityMap, isLinear, linear, mapKey, refineMap, sameMap, throughView } from "./indexmap.ts";
import { isHalf } from "./dtype.ts";
import type { ReduceAttrs } from "./ops/reduce.ts";
import type { PermuteAttrs } from "./ops/views.ts";
import type { ConcatAttrs } from "./ops/concat.ts";
import { castOp } from "./ops/pointwise.ts";
import { rowMajor, type Shape, sizeOf } from "./shape.ts";

export type ClusterKind = "map" | "rows" | "cols" | "contract" | "special";

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
  /** cols: the reduction; contract: the product; special: the node */
  main: GNode | null;
  outerAxes: number;
  reducedAxes: number;
  /** concat part: where in the joined buffer this cluster writes */
  part: { readonly node: GNode; readonly source: GNode; readonly start: readonly number[] } | null;
  readonly demands: Demand[];
  /** clusters that read what this one writes */
  readonly feeds: Set<Cluster>;
}

/** An operand read from memory through views, as strides over its own shape. */
export interface Operand { readonly base: GNode; readonly offset: number; readonly strides: readonly number[] }

export interface Schedule {
  readonly clusters: readonly Cluster[];
  /** the cluster that writes a materialised node */
  readonly home: ReadonlyMap<GNode, Cluster>;
  /** the map under which a cluster writes its output t */
  readonly mapOf: (t: GNode, c: Cluster) => IndexMap;
  /** whether c reads t as an operand in memory */
  readonly reads: (t: GNode, c: Cluster) => boolean;
}

const inMemory = (t: GNode): boolean => t.op.kind === "leaf" || t.op.kind === "read";
const isRefine = (x: IndexMap | Refine | null): x is Refine => x !== null && "axis" in x;
const MAX_MEMBERS = 160;
const transcendental = new Set(["exp", "log", "tanh", "sin", "cos", "erf", "pow", "sqrt", "rsqrt", "div", "threefry"]);

/** Groups a graph into clusters. `roots` are the nodes that must end up in memory. With fuse = false every node is its own kernel. */
export function schedule(graph: Graph, roots: ReadonlySet<GNode>, fuse: boolean): Schedule {
  const clusters: Cluster[] = [], home = new Map<GNode, Cluster>();
  const selves = new Map<GNode, Demand>(), cheap = cheapNodes(graph);
  const demands = new Map<GNode, Demand[]>(), readers = new Map<GNode, Set<Cluster>>(), forced = new Set<GNode>();

  const open = (kind: ClusterKind, space: Shape, main: GNode | null): Cluster => {
    const c: Cluster = { id: clusters.length, kind, space: space.length ? [...space] : [1], members: new Set(), outputs: new Set(), main, outerAxes: 0, reducedAxes: 0, part: null, demands: [], feeds: new Set() };
    clusters.push(c);
    return c;
  };
  const demand = (t: GNode, cluster: Cluster, map: IndexMap): void => {
    if (t.op.kind === "scalar") return;
    let list = demands.get(t);
    if (!list) demands.set(t, (list = []));
    if (list.some((d) => d.cluster === cluster && sameMap(d.map, map))) return;
    const d = { cluster, map };
    list.push(d);
    cluster.demands.push(d);
  };
  const readBy = (t: GNode, cluster: Cluster): void => {
    if (t.op.kind === "scalar") forced.add(t);
    let set = readers.get(t);
    if (!set) readers.set(t, (set = new Set()));
    set.add(cluster);
  };
  const refine = (c: Cluster, r: Refine): void => {
    if (c.reducedAxes > 1 && c.kind === "rows" && r.axis >= c.space.length - c.reducedAxes) c.reducedAxes++;   // a row of several axes gets one more
    c.space = [...c.space.slice(0, r.axis), c.space[r.axis] / r.low, r.low, ...c.space.slice(r.axis + 1)];
    for (const d of c.demands) d.map = refineMap(d.map, r);
  };
  const mayRefine = (c: Cluster, axis: number): boolean =>
    c.space.length < 8 && (c.kind === "map" ? true : (c.kind === "rows" || c.kind === "contract") && axis < c.space.length - 1);
  const reaches = (from: Cluster, to: Cluster): boolean => {
    const seen = new Set<Cluster>([from]), stack = [from];
    while (stack.length) {
      const c = stack.pop()!;
      if (c === to) return true;
      for (const f of c.feeds) if (!seen.has(f)) { seen.add(f); stack.push(f); }
    }
    return false;
  };
  const mapsIn = (t: GNode, c: Cluster): IndexMap[] => (demands.get(t) ?? []).filter((d) => d.cluster === c).map((d) => d.map);

  /** An operand that must sit in memory with strides: walks views, forces what cannot be expressed. */
  const operand = (t: GNode, reader: Cluster, keep: (m: IndexMap) => boolean = () => true): void => {
    let v = t, map = identityMap(t.shape);
    for (;;) {
      if (forced.has(v) || roots.has(v)) break;
      if (v.op === castOp && isHalf(v.inputs[0].dtype) && v.dtype === "f32" && memoryBase(v.inputs[0])) { v = v.inputs[0]; continue; }
      if (v.op.kind !== "view") break;
      const next = throughView(v, map, t.shape);
      if (next === null || isRefine(next) || !keep(next)) {
        if (v.op.name === "reshape" && !(v.inputs[0].op.kind === "view")) { v = v.inputs[0]; break; }   // memory is linear under a reshape
        if (v.op.name === "reshape") v = v.inputs[0];
        forced.add(v);
        break;
      }
      map = next; v = v.inputs[0];
    }
    readBy(v, reader);
  };
  /** An operand that must sit in memory, contiguous. */
  const contiguous = (t: GNode, reader: Cluster): void => {
    let v = t;
    while ((v.op.name === "reshape" || v.op.name === "stopGradient" || v.op.name === "after") && !roots.has(v) && !forced.has(v)) v = v.inputs[0];
    if (v.op.kind === "view") forced.add(v);
    readBy(v, reader);
  };

  /** Members pass their own demands on. */
  const settle = (t: GNode, c: Cluster): void => {
    c.members.add(t);
    for (const map of mapsIn(t, c)) descend(t, c, map);
  };
  const descend = (t: GNode, c: Cluster, map: IndexMap): void => {
    if (t.op.kind === "map") { for (const x of t.inputs) demand(x, c, map); return; }
    if (t.op.kind === "reduce") {
      const { axes } = t.attrs as ReduceAttrs, x = t.inputs[0];
      demand(x, c, c.kind === "rows" ? rowInput(x, axes, map, c.space.length) : colInput(x, axes, c));
    }
  };

  const place = (t: GNode): void => {
    const wanted = demands.get(t) ?? [], inside = [...new Set(wanted.map((d) => d.cluster))];
    const memory = readers.get(t), must = roots.has(t) || forced.has(t) || !!memory?.size;
    if (inMemory(t)) return;
    if (t.op.kind === "scalar") { if (must) openOwn(t); return; }
    if (t.op.kind === "view" && !(forced.has(t) || roots.has(t))) {
      for (const c of inside) {
        for (let again = true; again;) {
          again = false;
          for (const map of mapsIn(t, c)) {
            const x = t.inputs[0];
            if (t.op.name === "reshape" && inMemory(x)) continue;
            const next = throughView(t, map, c.space);
            if (isRefine(next) && mayRefine(c, next.axis)) { refine(c, next); again = true; break; }
            if (next === null || isRefine(next)) { forced.add(x); readBy(x, c); continue; }
            demand(x, c, next);
          }
        }
        c.members.add(t);
      }
      if (memory?.size) forcedView(t);
      return;
    }
    if (!fuse) { openOwn(t); return; }
    if (t.op.kind === "view") { openOwn(t); return; }
    const joinable = inside.filter((c) => fits(t, c));
    if (!must && inside.length === 1 && joinable.length === 1) { join(t, inside[0]); return; }
    if (inside.length > 0 && cheap(t)) {
      joinable.forEach((c) => join(t, c));
      if (must || joinable.length < inside.length) openOwn(t);
      return;
    }
    const all = new Set<Cluster>([...inside, ...(memory ?? [])]);
    const host = joinable.find((c) => !memory?.has(c) && ownsOutput(t, c) && [...all].every((o) => o === c || !reaches(o, c)));
    if (host) {
      const rowLevel = rowLevelIn(t, host, mapsIn(t, host));
      join(t, host);
      if (rowLevel) host.kind = "rows";
      host.outputs.add(t);
      home.set(t, host);
      for (const o of all) if (o !== host) host.feeds.add(o);
      return;
    }
    openOwn(t);
  };
  const forcedView = (t: GNode): void => { forced.add(t); openOwn(t); };

  /** t's value may be written from inside c. */
  const ownsOutput = (t: GNode, c: Cluster): boolean => {
    if (c.kind === "cols" || c.kind === "special" || c.part) return false;
    const maps = mapsIn(t, c);
    if (maps.length !== 1) return false;
    if (isLinear(maps[0], t.shape, c.space)) return true;
    return rowable(c) && c.reducedAxes <= 1 && isRowLevel(maps[0], t.shape, c.space);
  };

  /** c is rows, or a map that may become rows: every output covers the whole space. */
  const rowable = (c: Cluster): boolean => c.kind === "rows" || (c.kind === "map" && !c.part && c.space.length > 1 && c.space[c.space.length - 1] > 1 && [...c.outputs].every((o) => rowsCanWrite(o, c)));
  const rowLevelIn = (t: GNode, c: Cluster, maps: readonly IndexMap[]): boolean => rowable(c) && c.reducedAxes <= 1 && maps.every((m) => isRowLevel(m, t.shape, c.space)) && !maps.some((m) => isLinear(m, t.shape, c.space));

  const fits = (t: GNode, c: Cluster): boolean => {
    if (c.kind === "special" || c.members.size >= MAX_MEMBERS) return false;
    const maps = mapsIn(t, c);
    if (t.op.kind === "map") {
      const dear = costOf(t) > 4;
      if (maps.length > 1 && dear) return false;
      const rowLevel = c.kind === "rows" && maps.every((m) => m.coef.every((k) => k[c.space.length - 1] === 0));
      if (dear && !rowLevel && !rowLevelIn(t, c, maps) && sizeOf(c.space) > 2 * sizeOf(t.shape)) return false;
      return true;
    }
    if (maps.length !== 1 || c.part) return false;
    const map = maps[0];
    if (t.op.kind === "reduce") {
      const { axes } = t.attrs as ReduceAttrs, x = t.inputs[0], width = axes.reduce((n, a) => n * x.shape[a], 1);
      const live = axes.filter((a) => x.shape[a] > 1);
      if (!trailing(x.shape, axes) || live.length !== 1) return false;
      if (c.kind === "rows") return c.reducedAxes <= 1 && c.space[c.space.length - 1] === width && isRowLevel(map, t.shape, c.space);
      if (c.kind !== "map") return false;
      if (c.space.length > 1 && c.space[c.space.length - 1] === width && isRowLevel(map, t.shape, c.space) && sizeOf(c.space) === sizeOf(x.shape)) return [...c.outputs].every((o) => rowsCanWrite(o, c));
      return isLinear(map, t.shape, c.space) && c.space.length < 8;
    }
    if (t.op.kind === "contract") return c.kind === "map" && isLinear(map, t.shape, c.space) && c.space[c.space.length - 1] === t.shape[t.shape.length - 1];
    return false;
  };
  const rowsCanWrite = (o: GNode, c: Cluster): boolean => sizeOf(o.shape) === sizeOf(c.space);

  const join = (t: GNode, c: Cluster): void => {
    if (t.op.kind === "reduce" && c.kind === "map") {
      const x = t.inputs[0], width = (t.attrs as ReduceAttrs).axes.reduce((n, a) => n * x.shape[a], 1);
      if (!(c.space.length > 1 && c.space[c.space.length - 1] === width && isRowLevel(mapsIn(t, c)[0], t.shape, c.space) && sizeOf(c.space) === sizeOf(x.shape))) {
        c.space = [...c.space, width];                                   // rows of what was the whole space
        for (const d of c.demands) d.map = { offset: d.map.offset, coef: d.map.coef.map((k) => [...k, 0]) };
      }
      c.kind = "rows";
    }
    if (t.op.kind === "map" && c.kind === "map" && costOf(t) > 4 && rowLevelIn(t, c, mapsIn(t, c))) c.kind = "rows";
    if (t.op.kind === "contract") { c.kind = "contract"; c.main = t; contractOperands(t, c); }
    settle(t, c);
  };
  const contractOperands = (t: GNode, c: Cluster): void => { operand(t.inputs[0], c); operand(t.inputs[1], c); };

  const openOwn = (t: GNode): void => {
    let c: Cluster;
    switch (t.op.kind) {
      case "map": case "view": case "scalar": case "leaf": case "read": {
        if (t.op.name === "permute") {                       // iterate in the input's order, so that its kernel can write the new layout itself
          const { axes } = t.attrs as PermuteAttrs, x = t.inputs[0], id = identityMap(x.shape);
          c = open("map", x.shape, null);
          selfDemand(t, c, { offset: t.shape.map(() => 0), coef: axes.map((a) => id.coef[a]) });
          c.members.add(t);
          demand(x, c, id);
          break;
        }
        c = open("map", t.shape, null);
        selfDemand(t, c, flatIdentity(t.shape));
        c.members.add(t);
        if (t.op.kind === "map") descend(t, c, flatIdentity(t.shape));
        else if (t.op.kind === "view") {
          let map = flatIdentity(t.shape);
          for (let again = true; again;) {
            again = false;
            const x = t.inputs[0];
            if (t.op.name === "reshape" && inMemory(x)) break;
            const next = throughView(t, map, c.space);
            if (isRefine(next)) { refine(c, next); map = refineMap(map, next); again = true; }
            else if (next === null) { forced.add(x); readBy(x, c); }
            else demand(x, c, next);
          }
        }
        break;
      }
      case "reduce": {
        const { axes } = t.attrs as ReduceAttrs, x = t.inputs[0];
        if (trailing(x.shape, axes)) {
          const lead = Math.min(...axes);
          const space = [...x.shape.slice(0, lead), sizeOf(x.shape.slice(lead))];
          c = open("rows", space, null);
          const map = { offset: t.shape.map(() => 0), coef: t.shape.map((d, i) => space.map((_, s) => (s === i && i < lead && d > 1 ? 1 : 0))) };
          selfDemand(t, c, map);
          c.members.add(t);
          // the row may span several axes of x: then its map is found through a reshape to the space
          const rows = t.inputs[0].shape.slice(lead).filter((d) => d > 1).length > 1;
          if (rows) {
            const next = throughView({ op: { name: "reshape", kind: "view" }, inputs: [x], attrs: null, shape: space, dtype: x.dtype }, identityMap(space), space);
            if (next === null || isRefine(next)) { multiRow(c, x, lead); demand(x, c, identityMap(x.shape)); selfRemap(t, c, lead, x.shape); }
            else demand(x, c, next);
          } else descend(t, c, map);
        } else {
          const last = Math.max(...axes), kept = (i: number): boolean => !axes.includes(i);
          const order = [...x.shape.keys()].filter((i) => kept(i) && i < last).concat(axes, [...x.shape.keys()].filter((i) => kept(i) && i > last));
          c = open("cols", order.map((i) => x.shape[i]), t);
          c.outerAxes = order.indexOf(axes[0]);
          c.reducedAxes = axes.length;
          selfDemand(t, c, { offset: t.shape.map(() => 0), coef: t.shape.map((d, i) => order.map((a) => (a === i && kept(i) && d > 1 ? 1 : 0))) });
          c.members.add(t);
          descend(t, c, mapsIn(t, c)[0]);
        }
        break;
      }
      case "contract": {
        c = open("contract", t.shape, t);
        selfDemand(t, c, identityMap(t.shape));
        c.members.add(t);
        contractOperands(t, c);
        break;
      }
      case "concat": { concatParts(t); return; }
      case "update": {
        c = open("special", t.shape, t);
        readBy(t.inputs[0], c);
        if (t.inputs[0].op.kind === "view") forced.add(t.inputs[0]);
        contiguous(t.inputs[1], c);
        break;
      }
      case "gather": case "scatterAdd": case "composite": {
        c = open("special", t.shape, t);
        for (const x of t.inputs) if (x.op.kind !== "scalar" || t.op.kind !== "composite") contiguous(x, c);
        break;
      }
      default: throw new Error(`schedule: no kernel for ${t.op.kind satisfies never}`);
    }
    c.outputs.add(t);
    setHome(t, c);
  };
  const selfDemand = (t: GNode, c: Cluster, map: IndexMap): void => { c.demands.push({ cluster: c, map }); selves.set(t, c.demands[c.demands.length - 1]); };
  const selfRemap = (t: GNode, c: Cluster, lead: number, shape: Shape): void => { void c; selves.get(t)!.map = { offset: t.shape.map(() => 0), coef: t.shape.map((d, i) => shape.map((_, s) => (s === i && i < lead && d > 1 ? 1 : 0))) }; };
  const multiRow = (c: Cluster, x: GNode, lead: number): void => { c.space = [...x.shape]; c.reducedAxes = x.shape.length - lead; };
  const setHome = (t: GNode, c: Cluster): void => {
    home.set(t, c);
    for (const d of demands.get(t) ?? []) if (d.cluster !== c) c.feeds.add(d.cluster);
    for (const r of readers.get(t) ?? []) if (r !== c) c.feeds.add(r);
  };
  const concatParts = (t: GNode): void => {
    const { axis } = t.attrs as ConcatAttrs;
    let at = 0;
    for (const x of t.inputs) {
      const c = open("map", x.shape, null);
      c.part = { node: t, source: x, start: x.shape.map((_, i) => (i === axis ? at : 0)) };
      if (x.op.kind !== "scalar") demand(x, c, flatIdentity(x.shape));
      at += x.shape[axis];
      for (const d of demands.get(t) ?? []) c.feeds.add(d.cluster);
      for (const r of readers.get(t) ?? []) c.feeds.add(r);
      home.set(t, c);                                  // any part: orders readers after; lower.ts looks at all parts
    }
  };

  for (let i = graph.nodes.length - 1; i >= 0; i--) {
    const t = graph.nodes[i];
    if (inMemory(t) && roots.has(t)) continue;
    if (!demands.has(t) && !readers.has(t) && !roots.has(t) && !forced.has(t)) continue;     // nobody needs it
    place(t);
  }
  return { clusters, home, mapOf: (t, c) => (selves.get(t)?.cluster === c ? selves.get(t)!.map : mapsIn(t, c)[0]), reads: (t, c) => readers.get(t)?.has(c) ?? false };
}

/** [] is a space of one point. */
export const flatIdentity = (shape: Shape): IndexMap => (shape.length ? identityMap(shape) : { offset: [], coef: [] });
const trailing = (shape: Shape, axes: readonly number[]): boolean => {
  const first = Math.min(...axes);
  return shape.every((d, i) => i < first || axes.includes(i) || d === 1);
};
/** The map visits a node in the order of the rows and does not depend on the position within a row. */
export function isRowLevel(m: IndexMap, shape: Shape, space: readonly number[]): boolean {
  const outer = space.slice(0, -1), l = linear(m, shape, space.length);
  if (l.strides[space.length - 1] !== 0 || l.offset !== 0) return false;
  const want = rowMajor(outer);
  return sizeOf(shape) === sizeOf(outer) && outer.every((d, s) => d === 1 || l.strides[s] === want[s]);
}
function rowInput(x: GNode, axes: readonly number[], map: IndexMap, rank: number): IndexMap {
  const row = axes.find((a) => x.shape[a] > 1);
  return { offset: x.shape.map((_, i) => (axes.includes(i) ? 0 : map.offset[i])), coef: x.shape.map((_, i) => (axes.includes(i) ? Array.from({ length: rank }, (_u, s) => (i === row && s === rank - 1 ? 1 : 0)) : map.coef[i])) };
}
function colInput(x: GNode, axes: readonly number[], c: Cluster): IndexMap {
  const last = Math.max(...axes), kept = (i: number): boolean => !axes.includes(i);
  const order = [...x.shape.keys()].filter((i) => kept(i) && i < last).concat(axes, [...x.shape.keys()].filter((i) => kept(i) && i > last));
  return { offset: x.shape.map(() => 0), coef: x.shape.map((d, i) => c.space.map((_, s) => (order[s] === i && d > 1 ? 1 : 0))) };
}
/** Rough scalar operations of one node. */
function costOf(t: GNode): number {
  return transcendental.has(t.op.name) ? 10 : t.op.name.startsWith("random") ? 100 : 1;
}
/** Nodes that may be computed wherever they are needed: light formulas of at most one stored value. */
function cheapNodes(graph: Graph): (t: GNode) => boolean {
  const source = new Map<GNode, GNode | null>();             // null: no stored value at all
  const cheap = new Set<GNode>();
  for (const t of graph.nodes) {
    if (t.op.kind === "scalar") { source.set(t, null); continue; }
    const from = new Set(t.inputs.map((x) => source.get(x) ?? null).filter((x) => x !== null));
    if (t.op.kind === "map" && costOf(t) <= 2 && from.size <= 1) { cheap.add(t); source.set(t, [...from][0] ?? null); }
    else if (t.op.kind === "view" && t.op.name !== "after") source.set(t, source.get(t.inputs[0]) ?? null);
    else source.set(t, t);
  }
  return (t) => cheap.has(t);
}
export function memoryBase(t: GNode): boolean {
  let v = t;
  while (v.op.kind === "view") v = v.inputs[0];
  return inMemory(v);
}
export { mapKey };
