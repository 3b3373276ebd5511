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
import { type Cluster, Clusters, inMemory, isRefine, trailing } from "./clusters.ts";
import type { GNode, Graph } from "./graph.ts";
import { type IndexMap, identityMap, isLinear, linear, throughView } from "./indexmap.ts";
import { type Sums, sumsOfProducts } from "./products.ts";
import type { ReduceAttrs } from "./ops/reduce.ts";
import { reshapeOp } from "./ops/views.ts";
import { type Shape, sizeOf } from "./shape.ts";

export interface Schedule {
  readonly clusters: readonly Cluster[];
  /** whether a cluster writes t to memory */
  readonly stored: (t: GNode) => boolean;
  /** the map under which a cluster writes its output t */
  readonly mapOf: (t: GNode, c: Cluster) => IndexMap;
  /** whether c reads t as an operand in memory */
  readonly reads: (t: GNode, c: Cluster) => boolean;
  readonly sums: Sums;
}

const MAX_MEMBERS = 160, MAX_SIBLINGS = 5;
const transcendental = new Set(["exp", "log", "tanh", "sin", "cos", "erf", "pow", "sqrt", "rsqrt", "div", "threefry"]);

/** Groups a graph into clusters. `roots` are the nodes that must end up in memory. With fuse = false every node is its own kernel; up to `products` matmuls share an accumulator; with decodes = true they read codes. */
export function schedule(graph: Graph, roots: ReadonlySet<GNode>, fuse: boolean, products = 1, decodes = false): Schedule {
  const sums = sumsOfProducts(graph, roots, fuse ? products : 1), clusters = new Clusters(roots, sums, decodes), cheap = cheapNodes(graph), owners = new Map<GNode, Cluster[]>();
  for (const t of graph.nodes) if (t.op.name === "stored") clusters.force(t);
  for (let i = graph.nodes.length - 1; i >= 0; i--) {
    const t = graph.nodes[i];
    if (inMemory(t) && roots.has(t)) continue;
    if (!clusters.find(t) && !roots.has(t)) continue;     // nobody needs it
    place(t);
  }
  return { clusters: clusters.list, stored: (t) => !!clusters.find(t)?.home, mapOf: (t, c) => clusters.mapOf(t, c), reads: (t, c) => clusters.reads(t, c), sums };

  function place(t: GNode): void {
    if (inMemory(t)) return;
    const wanted = clusters.find(t), memory: readonly Cluster[] = wanted?.readers ?? [], forced = roots.has(t) || (wanted?.forced ?? false), must = forced || memory.length > 0;
    const inside: Cluster[] = [];
    for (const { cluster } of wanted?.demands ?? []) if (!inside.includes(cluster)) inside.push(cluster);
    if (t.op.kind === "scalar") { if (must) clusters.openOwn(t); return; }
    if (t.op.kind === "view" && !forced) {
      for (const c of inside) cross(t, c);
      if (must) { clusters.force(t); clusters.openOwn(t); }
      return;
    }
    if (!fuse || t.op.kind === "view") { clusters.openOwn(t); return; }
    const joinable = inside.filter((c) => fits(t, c));
    if (!must && inside.length === 1 && joinable.length === 1) { join(t, inside[0]); return; }
    const beside = inside.length === 0 ? sibling(t, memory) : undefined;
    if (beside) {
      clusters.openBeside(t, beside.cluster, beside.map);
      own(t, beside.cluster);
      return;
    }
    if (inside.length > 0 && cheap(t)) {
      joinable.forEach((c) => { join(t, c); });
      if (must || joinable.length < inside.length) clusters.openOwn(t);
      return;
    }
    const all = [...inside, ...memory];
    const host = joinable.find((c) => !memory.includes(c) && ownsOutput(t, c) && all.every((o) => o === c || !clusters.reaches(o, c)));
    if (!host || (host.kind === "rows" && endsProduct(t))) {               // a matmul writes its own epilogue, so the product alone never goes to memory
      clusters.openOwn(t);
      if (t.op.kind === "map" && roots.has(t)) own(t, clusters.list[clusters.list.length - 1]);
      return;
    }
    const rowLevel = rowLevelIn(t, host, clusters.mapsIn(t, host));
    join(t, host);
    if (rowLevel) host.kind = "rows";
    host.outputs.add(t);
    clusters.written(t, host);
  }

  /**
   * A kernel of assignments that computes or reads some of what t, another assignment, needs, over the same points, while neither needs the other: one kernel then
   * does both (m and p of Lion; codes, scales and p of 8-bit Adam), in place, where two would compute everything twice, or keep it in memory, and keep a copy of the old value.
   */
  function sibling(t: GNode, readers: readonly Cluster[]): { readonly cluster: Cluster; readonly map: IndexMap } | undefined {
    const size = sizeOf(t.shape);
    if (t.op.kind !== "map" || !roots.has(t) || size === 1) return undefined;
    for (const x of formulaOf(t)) for (const c of owners.get(x) ?? []) {
      if ((c.kind !== "map" && c.kind !== "rows") || c.part || c.reducedAxes > 1 || c.members.size >= MAX_MEMBERS || c.outputs.size >= MAX_SIBLINGS || ![...c.outputs].every((o) => roots.has(o))) continue;
      if (readers.some((r) => r === c || clusters.reaches(r, c))) continue;
      const points = sizeOf(c.space), width = c.kind === "map" && size > points && sizeOf(x.shape) === size ? size / points : 0;      // c makes a number a row of what t has whole
      if (!Number.isInteger(width) || (width > 0 && c.space.length >= 8)) continue;
      const perRow = size < points, space = width ? [...c.space, width] : c.space, map = (!perRow || rowable(c)) && underShape(t, perRow ? [...space.slice(0, -1), 1] : space, space);
      if (!map || !(perRow ? isRowLevel : isLinear)(map, t.shape, space)) continue;
      if (width) clusters.widen(c, width); else if (perRow) c.kind = "rows";
      return { cluster: c, map };
    }
    return undefined;
  }
  /** Notes what the kernel of an assignment computes and reads. */
  function own(t: GNode, c: Cluster): void {
    for (const x of formulaOf(t)) {
      const list = owners.get(x);
      if (!list) owners.set(x, [c]); else if (!list.includes(c)) list.push(c);
    }
  }

  /** t is the epilogue of a matmul that nothing else reads. */
  function endsProduct(t: GNode): boolean {
    if (t.op.kind !== "map") return false;
    return t.inputs.some((x) => x.users.length === 1 && !roots.has(x) && !sums.zeros.has(x) && sizeOf(x.shape) === sizeOf(t.shape)
      && (x.op.kind === "contract" || (x.op.kind === "view" ? x.op === reshapeOp && x.inputs[0].users.length === 1 && !roots.has(x.inputs[0]) && x.inputs[0].op.kind === "contract" : endsProduct(x))));
  }

  /** A view inside c: its input is wanted through it, or in memory where no affine map crosses it. */
  function cross(t: GNode, c: Cluster): void {
    const x = t.inputs[0];
    for (let again = true; again;) {
      again = false;
      for (const map of clusters.mapsIn(t, c)) {
        if (t.op.name === "reshape" && inMemory(x)) continue;
        const next = throughView(t, map, c.space);
        if (isRefine(next) && clusters.mayRefine(c, next.axis)) { clusters.refine(c, next); again = true; break; }
        if (next === null || isRefine(next)) { clusters.force(x); clusters.readBy(x, c); continue; }
        clusters.demand(x, c, next);
      }
    }
    c.members.add(t);
  }

  /** t's value may be written from inside c. */
  function ownsOutput(t: GNode, c: Cluster): boolean {
    if (c.kind === "cols" || c.kind === "special" || c.part) return false;
    const maps = clusters.mapsIn(t, c);
    if (maps.length !== 1) return false;
    if (isLinear(maps[0], t.shape, c.space)) return true;
    return rowable(c) && c.reducedAxes <= 1 && isRowLevel(maps[0], t.shape, c.space);
  }

  function fits(t: GNode, c: Cluster): boolean {
    if (c.kind === "special" || c.members.size >= MAX_MEMBERS) return false;
    const maps = clusters.mapsIn(t, c);
    if (t.op.kind === "map") {
      const dear = costOf(t) > 4;
      if (maps.length > 1 && dear) return false;
      const rowLevel = c.kind === "rows" && maps.every((m) => m.coef.every((k) => k[c.space.length - 1] === 0));
      if (dear && !rowLevel && !rowLevelIn(t, c, maps) && sizeOf(c.space) > 2 * sizeOf(t.shape)) return false;
      return true;
    }
    // kernels of parts run late, when the joined tensor is due: of reductions only totals, for which no large value waits, join them
    if (maps.length !== 1 || (c.part && !(t.op.kind === "reduce" && (t.attrs as ReduceAttrs).reduce === "sum64"))) return false;
    const map = maps[0];
    if (t.op.kind === "reduce") {
      const { axes } = t.attrs as ReduceAttrs, x = t.inputs[0], width = axes.reduce((n, a) => n * x.shape[a], 1);
      const live = axes.filter((a) => x.shape[a] > 1);
      if (!trailing(x.shape, axes) || live.length !== 1) return false;
      if (c.kind === "rows") return c.reducedAxes <= 1 && c.space[c.space.length - 1] === width && isRowLevel(map, t.shape, c.space);
      if (c.kind !== "map") return false;
      if (!c.part && isRowOf(t, c, map, width)) return [...c.outputs].every((o) => rowsCanWrite(o, c));
      return isLinear(map, t.shape, c.space) && c.space.length < 8;
    }
    if (t.op.kind === "contract") return c.kind === "map" && isLinear(map, t.shape, c.space) && endsWith(c.space, t.shape[t.shape.length - 1]);
    return false;
  }

  function join(t: GNode, c: Cluster): void {
    if (t.op.kind === "reduce" && c.kind === "map") {
      const x = t.inputs[0], width = (t.attrs as ReduceAttrs).axes.reduce((n, a) => n * x.shape[a], 1);
      if (isRowOf(t, c, clusters.mapsIn(t, c)[0], width)) c.kind = "rows"; else clusters.widen(c, width);
    }
    if (t.op.kind === "map" && c.kind === "map" && costOf(t) > 4 && rowLevelIn(t, c, clusters.mapsIn(t, c))) c.kind = "rows";
    if (t.op.kind === "contract") { c.kind = "contract"; clusters.multiply(t, c); }
    clusters.settle(t, c);
  }
}

/** What t's formula computes and reads, of t's size or of rows where t has a number a row: formulas, statistics along the last axis, what they begin with. */
function formulaOf(t: GNode): Set<GNode> {
  const seen = new Set<GNode>([t]), found = new Set<GNode>();
  for (const y of seen) {
    if (y.op.kind !== "view" && sizeOf(y.shape) >= sizeOf(t.shape)) found.add(y);
    if (seen.size < 2 * MAX_MEMBERS && (y.op.kind === "map" || y.op === reshapeOp || y.op.name === "expand" || isStatistic(y))) for (const x of y.inputs) if (sizeOf(x.shape) > 1) seen.add(x);
  }
  return found;
}
/** A reduction of the last axis. */
const isStatistic = (t: GNode): boolean => t.op.kind === "reduce" && (t.attrs as ReduceAttrs).axes.length === 1 && (t.attrs as ReduceAttrs).axes[0] === t.inputs[0].shape.length - 1;
/** How a node is enumerated by a space where it has this shape of its size; null where no index map does. */
function underShape(t: GNode, shape: Shape, space: readonly number[]): IndexMap | null {
  if (sizeOf(shape) !== sizeOf(t.shape)) return null;
  const map = throughView({ op: reshapeOp, inputs: [t], attrs: null, shape, dtype: t.dtype }, identityMap(shape), space);
  return map !== null && "coef" in map ? map : null;
}

/** The last axes of the space, together, have this size. */
function endsWith(space: readonly number[], size: number): boolean {
  let n = 1;
  for (let s = space.length - 1; s >= 0 && n < size; s--) n *= space[s];
  return n === size;
}
const rowsCanWrite = (o: GNode, c: Cluster): boolean => sizeOf(o.shape) === sizeOf(c.space);
/** The reduction t runs along the last axis of the map cluster c. */
const isRowOf = (t: GNode, c: Cluster, map: IndexMap, width: number): boolean =>
  c.space.length > 1 && c.space[c.space.length - 1] === width && isRowLevel(map, t.shape, c.space) && sizeOf(c.space) === sizeOf(t.inputs[0].shape);
/** c is rows, or a map that may become rows: every output covers the whole space. */
const rowable = (c: Cluster): boolean => c.kind === "rows" || (c.kind === "map" && !c.part && c.space.length > 1 && c.space[c.space.length - 1] > 1 && [...c.outputs].every((o) => rowsCanWrite(o, c)));
const rowLevelIn = (t: GNode, c: Cluster, maps: readonly IndexMap[]): boolean => rowable(c) && c.reducedAxes <= 1 && maps.every((m) => isRowLevel(m, t.shape, c.space)) && !maps.some((m) => isLinear(m, t.shape, c.space));
/** The map visits a node in the order of the rows and does not depend on the position within a row. */
function isRowLevel(m: IndexMap, shape: Shape, space: readonly number[]): boolean {
  const last = space.length - 1;
  if (sizeOf(shape) * space[last] !== sizeOf(space)) return false;
  const { offset, strides } = linear(m, shape, space.length);
  if (strides[last] !== 0 || offset !== 0) return false;
  for (let s = last - 1, want = 1; s >= 0; want *= space[s--]) if (space[s] !== 1 && strides[s] !== want) return false;
  return true;
}

/** Rough scalar operations of one node. */
function costOf(t: GNode): number {
  return transcendental.has(t.op.name) ? 10 : t.op.name.startsWith("random") ? 100 : 1;
}
/** Nodes that may be computed wherever they are needed: light formulas of at most one stored value. */
function cheapNodes(graph: Graph): (t: GNode) => boolean {
  const source: (GNode | null)[] = [], cheap: boolean[] = [];          // source null: no stored value at all
  for (const t of graph.nodes) {
    if (t.op.kind === "scalar") { source.push(null); cheap.push(false); continue; }
    let from: GNode | null = null, light = t.op.kind === "map" && costOf(t) <= 2;
    if (light) for (const x of t.inputs) {
      const y = source[x.number];
      if (y === null || y === from) continue;
      if (from !== null) { light = false; break; }
      from = y;
    }
    cheap.push(light);
    source.push(light ? from : t.op.kind === "view" && t.op.name !== "after" ? source[t.inputs[0].number] : t);
  }
  return (t) => cheap[t.number];
}
