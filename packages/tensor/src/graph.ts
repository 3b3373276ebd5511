/** From recorded tensors to a numbered graph: composites expanded, equal recipes merged, structure turned into a key. */
import type { HostArray } from "./dtype.ts";
import { StaleError } from "./errors.ts";
import type { Shape } from "./shape.ts";
import type { DType } from "./dtype.ts";
import { type ReadAttrs, type Store, readOp } from "./store.ts";
import { type NodeLike, type Op, type Tensor, hasNumbers, leafOp, scalarOp } from "./tensor.ts";
import { meanings } from "./op.ts";

/** One value of a graph; `order` is when it was first recorded. */
export interface GNode extends NodeLike {
  readonly number: number;
  readonly op: Op;
  readonly inputs: readonly GNode[];
  readonly attrs: unknown;
  readonly shape: Shape;
  readonly dtype: DType;
  readonly tensor: Tensor;
  readonly order: number;
  /** binding position of leaves, scalars and reads */
  readonly position: number;
  readonly users: GNode[];
}

export interface Graph {
  readonly nodes: readonly GNode[];
  readonly of: (t: Tensor) => GNode;
  readonly has: (t: Tensor) => boolean;
  readonly leaves: readonly Tensor[];
  readonly scalars: readonly Tensor[];
  readonly stores: readonly Store[];
  readonly key: string;
}

const opNumbers = new WeakMap<Op, number>();
let ops = 0;
/** Views of one name mean the same map, even where each call brings its own gradient (checkpoint, customGradient). */
const opNumber = (op: Op): number | string => {
  if (op.kind === "view") return op.name;
  let n = opNumbers.get(op);
  if (n === undefined) opNumbers.set(op, (n = ops++));
  return n;
};
const attrText = new WeakMap<object, string>();
const textOf = (attrs: unknown): string => {
  if (attrs === null || typeof attrs !== "object") return String(attrs);
  let s = attrText.get(attrs);
  if (s === undefined) attrText.set(attrs, (s = JSON.stringify(attrs)));
  return s;
};

/** What a node is computed from: a composite without its own kernel is its definition. */
export function dependencies(t: Tensor, composites: ReadonlySet<string>): readonly Tensor[] {
  if (hasNumbers(t)) return [];
  if (t.alias) return [t.alias];
  if (t.op.kind === "composite" && !composites.has(t.op.name)) return [meaningOf(t)];
  return t.inputs;
}
export function meaningOf(t: Tensor): Tensor {
  let m = meanings.get(t);
  if (!m) meanings.set(t, (m = t.op.define!(t.inputs, t.attrs)));
  return m;
}

const nothing: ReadonlySet<Tensor> = new Set();
/** Uncomputed tensors under the roots, inputs first; what `ends` are made of is left out. */
export function postorder(roots: readonly Tensor[], composites: ReadonlySet<string>, ends: ReadonlySet<Tensor> = nothing): Tensor[] {
  const out: Tensor[] = [], state = new Map<Tensor, boolean>();
  const stack: Tensor[] = [...roots].reverse();
  while (stack.length) {
    const t = stack[stack.length - 1];
    const done = state.get(t);
    if (done === true) { stack.pop(); continue; }
    if (done === false) { state.set(t, true); out.push(t); stack.pop(); continue; }
    state.set(t, false);
    const ds = ends.has(t) ? [] : dependencies(t, composites);
    for (let i = ds.length - 1; i >= 0; i--) if (!state.has(ds[i])) stack.push(ds[i]);
  }
  return out;
}

/** Builds the graph under `roots`. `extra` is the text of everything else that makes two plans different. */
export function buildGraph(roots: readonly Tensor[], composites: ReadonlySet<string>): Graph {
  const nodes: GNode[] = [], byTensor = new Map<Tensor, GNode>(), byKey = new Map<string, GNode>();
  const leaves: Tensor[] = [], scalars: Tensor[] = [], stores: Store[] = [], storeNumber = new Map<Store, number>();
  const lines: string[] = [], regions = new Map<unknown, number>();
  const attrsOf = (t: Tensor): string => {
    if (t.attrs === null) return "";
    if (t.op.kind !== "view" || typeof t.attrs !== "object" || !("region" in t.attrs)) return textOf(t.attrs);
    let r = regions.get(t.attrs.region);
    if (r === undefined) regions.set(t.attrs.region, (r = regions.size));
    return `region${r}`;                                   // numbered within the graph: equal steps have equal keys
  };
  for (const t of postorder(roots, composites)) {
    if (!hasNumbers(t) && t.alias) { byTensor.set(t, byTensor.get(t.alias)!); continue; }
    if (t.op.kind === "composite" && !hasNumbers(t) && !composites.has(t.op.name)) { byTensor.set(t, byTensor.get(meaningOf(t))!); continue; }
    let key: string, position = 0, op = t.op, inputs: GNode[] = [];
    if (t.op === scalarOp) { key = `s${scalars.length}${t.dtype}`; position = scalars.push(t) - 1; }
    else if (hasNumbers(t)) { op = leafOp; key = `l${leaves.length}${t.dtype}[${t.shape.join()}]`; position = leaves.push(t) - 1; }
    else if (t.op === readOp) {
      const { store, version } = t.attrs as ReadAttrs;
      if (version !== store.version) throw stale(t, store, version);
      let n = storeNumber.get(store);
      if (n === undefined) { n = stores.push(store) - 1; storeNumber.set(store, n); }
      key = `r${n}${t.dtype}[${t.shape.join()}]`; position = n;
    } else {
      inputs = t.inputs.map((i) => byTensor.get(i)!);
      key = `${opNumber(t.op)}${t.dtype}(${inputs.map((i) => i.number).join()})${attrsOf(t)}[${t.shape.join()}]`;
    }
    let node = byKey.get(key);
    if (!node) {
      node = { number: nodes.length, op, inputs, attrs: t.attrs, shape: t.shape, dtype: t.dtype, tensor: t, order: t.id, position, users: [] };
      nodes.push(node);
      byKey.set(key, node);
      lines.push(key);
      for (const i of new Set(inputs)) i.users.push(node);
    }
    byTensor.set(t, node);
  }
  return { nodes, of: (t) => byTensor.get(t)!, has: (t) => byTensor.has(t), leaves, scalars, stores, key: lines.join("\n") };
}

function stale(t: Tensor, store: Store, version: number): StaleError {
  return new StaleError(`a recipe reads ${store.name || "a store"} at version ${version}, but it is at version ${store.version} now`, {
    op: "flush", key: store.name, value: { version, now: store.version }, shapes: [t.shape],
    fix: "read the value before the store changes, return it from the step, or keep(t) it",
  });
}
export type { HostArray };
