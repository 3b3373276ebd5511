/** From clusters to kernels: formulas are built by walking members, loads by composing index maps with strides. */
import { collapse, conform, mergeBatch } from "./axes.ts";
import type { Affine, BufferSpec, Factor, Kernel, Product, ReduceOp, View } from "./backend.ts";
import { type Cluster, colInput, flatIdentity } from "./clusters.ts";
import { type DequantizeAttrs, decodeOf, dequantizeOp } from "./dequantize.ts";
import { isHalf } from "./dtype.ts";
import { type Expr, leaf } from "./expr.ts";
import type { GNode } from "./graph.ts";
import { type IndexMap, identityMap, linear, sameMap, startOf, throughView } from "./indexmap.ts";
import { castOp, rounded } from "./ops/pointwise.ts";
import type { LimitAttrs, UpdateAttrs } from "./ops/indexing.ts";
import type { ReduceAttrs } from "./ops/reduce.ts";
import type { Schedule } from "./schedule.ts";
import { rowMajor, sizeOf } from "./shape.ts";
import { exprType } from "./tensor.ts";

/** A buffer before memory is planned. */
export type Draft = { -readonly [K in keyof BufferSpec]: BufferSpec[K] };

/** What lowering needs to know about memory. */
export interface Memory {
  /** buffer number of a node in memory */
  bufferOf(t: GNode): number;
  /** a fresh slot */
  slot(t: GNode): number;
  /** whether t's buffer is the same memory as the value that it updates */
  updatesInPlace(t: GNode): boolean;
}

const isMap = (x: ReturnType<typeof throughView>): x is IndexMap => x !== null && "coef" in x;

/** Kernels of one cluster, usually one. */
export function lower(c: Cluster, schedule: Schedule, memory: Memory): Kernel[] {
  if (c.kind === "special") return special(c.main!, c, schedule, memory);
  return [new Lowering(c, schedule, memory).kernel()].flat();
}

class Lowering {
  readonly loads: View[] = [];
  readonly affines: Affine[] = [];
  readonly uniforms: number[] = [];
  readonly stats: { op: ReduceOp; value: Expr }[] = [];
  private readonly memo = new Map<GNode, { readonly map: IndexMap; readonly value: Expr }[]>();
  private readonly loadKeys = new Map<string, number>();
  private readonly c: Cluster;
  private readonly schedule: Schedule;
  private readonly memory: Memory;
  private readonly rank: number;
  /** the matmul is read from memory instead of the accumulator (when a contract had to be split) */
  split = false;
  private mainBuffer = -1;
  constructor(c: Cluster, schedule: Schedule, memory: Memory) {
    this.c = c; this.schedule = schedule; this.memory = memory; this.rank = c.space.length;
  }

  private load(buffer: number, dtype: GNode["dtype"], a: Affine): Expr {
    const key = `${buffer}:${a.offset}:${a.strides.join()}`;
    let i = this.loadKeys.get(key);
    if (i === undefined) {
      i = this.loads.push({ buffer, dtype, offset: a.offset, strides: this.trim(a.strides) }) - 1;
      this.loadKeys.set(key, i);
    }
    return leaf("load", i, exprType(dtype));
  }
  private trim(strides: readonly number[]): number[] { return strides.map((s, i) => (this.c.space[i] === 1 ? 0 : s)); }
  private uniform(t: GNode): Expr {
    let i = this.uniforms.indexOf(t.position);
    if (i < 0) i = this.uniforms.push(t.position) - 1;
    return leaf("uniform", i, exprType(t.dtype));
  }

  /** The value of t at a mapped index. */
  value(t: GNode, map: IndexMap): Expr {
    if (t.op.kind === "scalar") return this.uniform(t);
    let known = this.memo.get(t);
    if (!known) this.memo.set(t, (known = []));
    for (const e of known) if (sameMap(e.map, map)) return e.value;
    const value = this.compute(t, map);
    known.push({ map, value });
    return value;
  }
  private fromMemory(t: GNode, map: IndexMap): Expr {
    return this.load(this.memory.bufferOf(t), t.dtype, linear(map, t.shape, this.rank));
  }
  private compute(t: GNode, map: IndexMap): Expr {
    if (!this.c.members.has(t)) return this.fromMemory(t, map);
    switch (t.op.kind) {
      case "map": {
        const index = (strides: readonly number[], type: "i32" | "u32"): Expr => {
          const a = linear(map, t.shape, this.rank, strides);
          this.affines.push({ offset: a.offset, strides: this.trim(a.strides) });
          return leaf("affine", this.affines.length - 1, type);
        };
        const { zeros } = this.schedule.sums;
        if (zeros.size > 0 && t.inputs.some((x) => zeros.has(x))) return this.value(t.inputs.find((x) => !zeros.has(x))!, map);       // x + 0
        return rounded(t.op.forward!(t.inputs.map((x) => this.value(x, map)), t, index), t.dtype);
      }
      case "view": {
        const x = t.inputs[0];
        if (t.op.name === "reshape" && !this.c.members.has(x) && (x.op.kind === "leaf" || x.op.kind === "read" || this.schedule.stored(x)))
          return this.load(this.memory.bufferOf(x), x.dtype, linear(map, t.shape, this.rank));
        const next = throughView(t, map, this.c.space);
        if (isMap(next)) return this.value(x, next);
        return this.load(this.memory.bufferOf(x), x.dtype, linear(map, t.shape, this.rank));
      }
      case "reduce": {
        const { axes, reduce } = t.attrs as ReduceAttrs, x = t.inputs[0];
        if (this.c.kind === "cols") return leaf("stat", 0, exprType(t.dtype));
        const rowAxes = Math.max(1, this.c.reducedAxes), row = axes.filter((a) => x.shape[a] > 1);
        let inner: IndexMap;
        if (rowAxes > 1) inner = this.schedule.mapOf(x, this.c);   // the identity, refined with the space
        else if (row.length > 1) {
          const next = throughView({ op: { name: "reshape", kind: "view" }, inputs: [x], attrs: null, shape: this.c.space, dtype: x.dtype }, identityMap(this.c.space), this.c.space);
          inner = next as IndexMap;
        } else inner = {
          offset: x.shape.map((_, i) => (axes.includes(i) ? 0 : map.offset[i])),
          coef: x.shape.map((_, i) => (axes.includes(i) ? this.c.space.map((_u, s) => (i === row[0] && s === this.rank - 1 ? 1 : 0)) : map.coef[i])),
        };
        const value = this.value(x, inner);
        this.stats.push({ op: reduce, value });
        return leaf("stat", this.stats.length - 1, exprType(t.dtype));
      }
      case "contract":
        return this.split ? this.load(this.mainBuffer, t.dtype, linear(map, t.shape, this.rank)) : leaf("acc", 0, "float");
      default: throw new Error(`lower: ${t.op.name} cannot be computed inside a ${this.c.kind} kernel`);
    }
  }

  kernel(): Kernel | Kernel[] {
    const { c } = this, names: string[] = [];
    for (const t of c.members) if (t.op.kind !== "view") names.push(t.op.name);
    const label = names.reverse().join(" ") || "copy";
    const stores: { view: View; value: Expr; perRow: boolean }[] = [];
    const rowAxes = Math.max(1, c.reducedAxes);
    if (c.part) {
      const { node, source, start } = c.part, strides = rowMajor(node.shape);
      const refined = this.refinedIdentity(source);
      stores.push({ view: { buffer: this.memory.bufferOf(node), dtype: node.dtype, offset: start.reduce((a, s, i) => a + s * strides[i], 0), strides: this.trim(linear(refined, source.shape, this.rank, strides).strides) }, value: this.value(source, refined), perRow: c.kind === "rows" });
    }
    for (const t of c.outputs) {
      const map = this.schedule.mapOf(t, c), a = linear(map, t.shape, this.rank);
      const value = t.op.kind === "scalar" ? this.uniform(t) : this.value(t, map);
      stores.push({ view: { buffer: this.memory.bufferOf(t), dtype: t.dtype, offset: a.offset, strides: this.trim(a.strides) }, value, perRow: c.kind === "rows" && map.coef.every((k) => k.slice(this.rank - rowAxes).every((x) => x === 0)) });
    }
    const common = { shape: c.space, loads: this.loads, affines: this.affines, uniforms: this.uniforms, label };
    switch (c.kind) {
      case "map": return collapse({ ...common, kind: "map", stores: stores.map(({ view, value }) => ({ view, value })) }, []);
      case "rows": return collapse({ ...common, kind: "rows", rowAxes, stats: this.stats, stores }, [this.rank - rowAxes]);
      case "cols": {
        const { axes, reduce } = c.main!.attrs as ReduceAttrs, x = c.main!.inputs[0];
        const value = this.value(x, colInput(x, axes, c));
        return collapse({ ...common, kind: "cols", outerAxes: c.outerAxes, reducedAxes: c.reducedAxes, op: reduce, value, stores: stores.map(({ view, value: v }) => ({ view, value: v })) }, [c.outerAxes, c.outerAxes + c.reducedAxes]);
      }
      case "contract": return this.contract(stores, label);
      default: throw new Error("lower: special clusters have their own path");
    }
  }
  private refinedIdentity(source: GNode): IndexMap {
    return this.schedule.mapOf(source, this.c) ?? flatIdentity(source.shape);
  }

  private contract(stores: { view: View; value: Expr }[], label: string): Kernel | Kernel[] {
    const { c } = this, t = c.main!, lead = t.shape.length - 2, [m, n] = t.shape.slice(-2);
    const [product, ...more] = this.schedule.sums.of(t).map(({ inputs: [a, b] }): Product => ({ k: a.shape[a.shape.length - 1], a: this.operand(a), b: this.operand(b) }));
    const shape = [...t.shape];
    const fit = conform(c.space, shape, [...this.loads, ...this.affines, ...stores.map((s) => s.view)]);
    const core = { kind: "contract" as const, shape, ...product, ...(more.length ? { more } : {}), label };
    if (fit) {
      const [loads, affines, views] = [fit.slice(0, this.loads.length), fit.slice(this.loads.length, this.loads.length + this.affines.length), fit.slice(this.loads.length + this.affines.length)];
      return mergeBatch({ ...core, loads: this.loads.map((v, i) => ({ ...v, strides: loads[i] })), affines: this.affines.map((v, i) => ({ ...v, strides: affines[i] })), uniforms: this.uniforms, stores: stores.map((s, i) => ({ value: s.value, view: { ...s.view, strides: views[i] } })) }, lead, m, n);
    }
    // the epilogue's index space is not the product's: write the product, then map over it
    const second = new Lowering(c, this.schedule, this.memory);
    second.split = true;
    second.mainBuffer = c.outputs.has(t) ? this.memory.bufferOf(t) : this.memory.slot(t);
    const first: Kernel = mergeBatch({ ...core, loads: [], affines: [], uniforms: [], stores: [{ view: { buffer: second.mainBuffer, dtype: t.dtype, offset: 0, strides: rowMajor(shape) }, value: leaf("acc", 0, "float") }] }, lead, m, n);
    const rest: { view: View; value: Expr }[] = [];
    for (const o of c.outputs) {
      if (o === t) continue;
      const map = this.schedule.mapOf(o, c), l = linear(map, o.shape, this.rank);
      rest.push({ value: second.value(o, map), view: { buffer: this.memory.bufferOf(o), dtype: o.dtype, offset: l.offset, strides: this.trim(l.strides) } });
    }
    return [first, collapse({ kind: "map", shape: c.space, loads: second.loads, affines: second.affines, uniforms: second.uniforms, label, stores: rest }, [])];
  }
  /** Strides of an operand over its own shape, read through views; codes where it is decoded. */
  private operand(t: GNode): Factor {
    let v = t, map = identityMap(t.shape);
    for (;;) {
      if (v.op.kind === "leaf" || v.op.kind === "read" || this.schedule.reads(v, this.c)) break;
      if (v.op === castOp && isHalf(v.inputs[0].dtype)) { v = v.inputs[0]; continue; }
      if (v.op.kind !== "view") break;
      const next = throughView(v, map, t.shape);
      if (isMap(next)) { map = next; v = v.inputs[0]; continue; }
      const l = linear(map, v.shape, t.shape.length), { node, start } = runIn(v.inputs[0], this.c, this.schedule);               // a reshape over memory
      return this.factor(node, t, { offset: start + l.offset, strides: l.strides });
    }
    return this.factor(v, t, linear(map, v.shape, t.shape.length));
  }
  private factor(node: GNode, t: GNode, { offset, strides }: Affine): Factor {
    const place = { offset, strides: strides.map((s, i) => (t.shape[i] === 1 ? 0 : s)) };
    if (node.op !== dequantizeOp || this.schedule.reads(node, this.c)) return { buffer: this.memory.bufferOf(node), dtype: node.dtype, ...place };
    const views = node.inputs.map((x) => flatView(x, this.c, this.schedule, this.memory));
    return { buffer: views[0].buffer, dtype: views[0].dtype, ...place, decode: decodeOf(node.attrs as DequantizeAttrs, views) };
  }
}

/** The node whose memory x shows in order, as c reads it, and where in that memory x begins. */
function runIn(x: GNode, c: Cluster, schedule: Schedule): { node: GNode; start: number } {
  let node = x, start = 0;
  for (; node.op.kind === "view" && !schedule.reads(node, c); node = node.inputs[0]) start += startOf(node) ?? 0;
  return { node, start };
}

/** The run of elements that x shows, as c reads it. */
function flatView(x: GNode, c: Cluster, schedule: Schedule, memory: Memory): View {
  const { node, start } = runIn(x, c, schedule);
  return { buffer: memory.bufferOf(node), dtype: node.dtype, offset: start, strides: [1] };
}

/** Kernels that do not come from formulas. */
function special(t: GNode, c: Cluster, schedule: Schedule, memory: Memory): Kernel[] {
  const flat = (x: GNode): View => flatView(x, c, schedule, memory);
  const out: View = { buffer: memory.bufferOf(t), dtype: t.dtype, offset: 0, strides: [1] };
  const copyAll = (x: GNode): Kernel => ({ kind: "map", shape: [sizeOf(t.shape)], loads: [flat(x)], affines: [], uniforms: [], label: "copy", stores: [{ view: out, value: leaf("load", 0, exprType(t.dtype)) }] });
  switch (t.op.kind) {
    case "gather": {
      const [table, ids] = t.inputs, cols = table.shape[1];
      return [{ kind: "gather", label: "gather", table: flat(table), ids: flat(ids), out, rows: sizeOf(ids.shape), cols, limit: (t.attrs as LimitAttrs).limit }];
    }
    case "scatterAdd": {
      const [source, ids] = t.inputs;
      return [{ kind: "scatterAdd", label: "scatterAdd", source: flat(source), ids: flat(ids), out, rows: sizeOf(ids.shape), cols: t.shape[1], limit: (t.attrs as LimitAttrs).limit }];
    }
    case "update": {
      const [old, value, position] = t.inputs, { axis } = t.attrs as UpdateAttrs, strides = rowMajor(t.shape);
      const write: Kernel = collapseUpdate({
        kind: "map", shape: value.shape.length ? [...value.shape] : [1], affines: [], uniforms: [position.position], label: "update",
        loads: [{ ...flat(value), strides: rowMajor(value.shape) }],
        stores: [{ view: { ...out, strides: value.shape.map((d, i) => (d === 1 ? 0 : strides[i])), at: { uniform: 0, stride: strides[axis] } }, value: leaf("load", 0, exprType(t.dtype)) }],
      });
      return memory.updatesInPlace(t) ? [write] : [copyAll(old), write];
    }
    case "composite": {
      const shaped = (x: GNode): View & { shape: readonly number[] } => ({ ...flat(x), strides: rowMajor(x.shape), shape: x.shape });
      return [{ kind: "composite", label: t.op.name, name: t.op.name, attrs: t.attrs, inputs: t.inputs.filter((x) => x.op.kind !== "scalar").map(shaped), outputs: [{ ...out, strides: rowMajor(t.shape), shape: t.shape }], uniforms: t.inputs.filter((x) => x.op.kind === "scalar").map((x) => x.position) }];
    }
    default: throw new Error(`lower: ${t.op.name} has no kernel`);
  }
}
const collapseUpdate = (k: Extract<Kernel, { kind: "map" }>): Kernel => collapse(k, []);
