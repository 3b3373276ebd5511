/**
 * What a recorded graph means: node by node, with explicit indices, in f64 rounded to each node's dtype.
 *
 * It shares no line with scheduler, planner or backends, and beside each value it carries a bound on how far a correct
 * backend may be from it (see bounds.ts). Slow and plain on purpose.
 */
import {
  type DType, type Expr, type HostArray, type NodeLike, type Tensor, AdjointError, current, decode, encode, exprType, hostArray, isFloat, isHalf, leaf, loopOf, rowMajor, sizeOf, walk,
} from "@adjoint/tensor";
import { type Point, type Ulps, passes, ulpsOf } from "./bounds.ts";

/** Values and how far a backend's may lie from them. */
export interface Judged { readonly shape: readonly number[]; readonly dtype: DType; readonly values: Float64Array; readonly errors: Float64Array }

/** Rounding unit of arithmetic that produces a dtype. */
const unitOf = (dtype: DType): number => (dtype === "f64" ? 2 ** -53 : isFloat(dtype) ? 2 ** -24 : 0);
/** Ulp of half-precision storage, relative. */
const halfUlp = (dtype: DType): number => (dtype === "f16" ? 2 ** -10 : dtype === "bf16" ? 2 ** -7 : 0);
const TINY = 2 ** -126;

/** Evaluates tensors on the host without the engine; `backend` names the column of bounds. */
export function oracle(tensors: readonly Tensor[], backend = "reference"): Judged[] {
  const known = new Map<Tensor, Judged>(), ulps = ulpsOf(backend);
  const go = (x: Tensor): Judged => {
    const t = current(x);
    let y = known.get(t);
    if (y === undefined) known.set(t, (y = evaluate(t, go, ulps)));
    return y;
  };
  return tensors.map(go);
}

function evaluate(t: Tensor, go: (x: Tensor) => Judged, ulps: Ulps): Judged {
  if (t.value) return fromHost(t.value);
  const inputs = (): Judged[] => t.inputs.map(go);
  switch (t.op.kind) {
    case "composite": {
      if (!t.op.define) throw new AdjointError(`oracle: ${t.op.name} has no definition`, { op: t.op.name });
      return go(t.op.define(t.inputs, t.attrs));
    }
    case "map": return map(t, inputs(), ulps);
    case "view": return view(t, inputs()[0]);
    case "reduce": return reduce(t, inputs()[0]);
    case "contract": return contract(t, inputs());
    case "concat": return concat(t, inputs());
    case "gather": return gather(t, inputs());
    case "scatterAdd": return scatterAdd(t, inputs());
    case "update": return update(t, inputs());
    case "leaf": case "read": case "scalar": throw new AdjointError(`oracle: the value of ${t.op.name} ${t.name} is not on the host`, { op: t.op.name });
    default: return t.op.kind satisfies never;
  }
}

const blank = (n: NodeLike): Judged => ({ shape: n.shape, dtype: n.dtype, values: new Float64Array(sizeOf(n.shape)), errors: new Float64Array(sizeOf(n.shape)) });
const fromHost = ({ shape, dtype, data }: HostArray): Judged => ({ shape, dtype, values: Float64Array.from(data, (x) => decode(dtype, x)), errors: new Float64Array(data.length) });

/** An attribute that must be a list of integers, or one integer. */
function integers(attrs: unknown, key: string): readonly number[] {
  const value: unknown = typeof attrs === "object" && attrs !== null ? Reflect.get(attrs, key) : undefined;
  if (typeof value === "number") return [value];
  if (Array.isArray(value) && value.every((x): x is number => typeof x === "number")) return value;
  throw new AdjointError(`oracle: attribute ${key} is missing`, { key });
}

/** Calls f(position, index) for every element in row-major order; the index array is reused. */
export function eachIndex(shape: readonly number[], f: (p: number, index: readonly number[]) => void): void {
  const index = new Array<number>(shape.length).fill(0), n = sizeOf(shape);
  for (let p = 0; p < n; p++) {
    f(p, index);
    for (let a = shape.length - 1; a >= 0 && ++index[a] === shape[a]; a--) index[a] = 0;
  }
}
const dot = (index: readonly number[], strides: readonly number[]): number => index.reduce((s, i, a) => s + i * strides[a], 0);

/** Rounds values to the node's dtype; a half-precision store may go either way once its input is uncertain. */
function finish(y: Judged, wrap: boolean, pure: boolean): Judged {
  const cell = hostArray(y.dtype, 1), half = halfUlp(y.dtype), unit = unitOf(y.dtype);
  for (let i = 0; i < y.values.length; i++) {
    if (wrap) cell[0] = y.values[i]; else cell[0] = encode(y.dtype, y.values[i]);
    y.values[i] = decode(y.dtype, cell[0]);
    if (y.errors[i] > 0) y.errors[i] += unit * Math.abs(y.values[i]);
    if (half > 0 && (y.errors[i] > 0 || !pure)) y.errors[i] += half * Math.abs(y.values[i]) + 2 ** -24;
  }
  return y;
}

function map(t: Tensor, inputs: readonly Judged[], ulps: Ulps): Judged {
  const { forward, name } = t.op;
  if (!forward) throw new AdjointError(`oracle: ${name} has no formula`, { op: name });
  const y = blank(t), n = y.values.length, lanes = new Map<Expr, { x: Float64Array; e: Float64Array }>(), unit = unitOf(t.dtype) || unitOf("f32");
  const affines: (readonly number[])[] = [];
  const root = forward(inputs.map((x, i) => leaf("load", i, exprType(x.dtype))), t, (strides, type) => leaf("affine", affines.push(strides) - 1, type));
  let steps = 0;
  walk([root], (f) => {
    const x = new Float64Array(n), e = new Float64Array(n);
    lanes.set(f, { x, e });
    if (f.fn === "const") x.fill(f.type === "u32" ? f.leaf >>> 0 : f.leaf);
    else if (f.fn === "load") { const from = inputs[f.leaf]; for (let i = 0; i < n; i++) { const j = from.values.length === 1 ? 0 : i; x[i] = from.values[j]; e[i] = from.errors[j]; } }
    else if (f.fn === "affine") eachIndex(t.shape, (p, index) => { x[p] = dot(index, affines[f.leaf]); });
    else if (f.fn === "uniform" || f.fn === "stat" || f.fn === "acc") throw new AdjointError(`oracle: formula of ${name} reads ${f.fn}`, { op: name });
    else {
      steps++;
      const args = f.args.map((a) => lanes.get(a) ?? { x, e }), none = { x, e };
      const [a, b, c] = [args[0] ?? none, args[1] ?? none, args[2] ?? none];
      loopOf(f.fn, f.args[f.fn === "select" ? 1 : 0].type)(x, n, a.x, b.x, c.x);
      const pass = passes[f.fn], own = ulps[f.fn];
      for (let i = 0; i < n; i++) {
        const p = (v: { x: Float64Array; e: Float64Array }): Point => ({ x: v.x[i], e: v === none ? 0 : v.e[i] });
        e[i] = pass(x[i], p(a), p(b), p(c));
        if (f.type === "float") e[i] += Math.abs(x[i]) * unit * (2 * own + (e[i] > 0 || steps > 1 ? 1 : 0)) + (own > 0 ? TINY : 0);
      }
    }
  });
  const out = lanes.get(root);
  if (out) { y.values.set(out.x); y.errors.set(out.e); }
  if (!isFloat(t.dtype)) for (let i = 0; i < n; i++) if (y.errors[i] > 0) y.errors[i] = Infinity;
  return finish(y, root.type !== "float" && !isHalf(t.dtype) && t.dtype !== "bool", steps === 0 || (steps === 1 && name === "cast"));
}

function view(t: Tensor, x: Judged): Judged {
  const y = blank(t), from = rowMajor(x.shape), lead = t.shape.length - x.shape.length;
  const axes = t.op.name === "permute" ? integers(t.attrs, "axes") : [], start = t.op.name === "slice" ? integers(t.attrs, "start") : [];
  eachIndex(t.shape, (p, index) => {
    let q = p;
    switch (t.op.name) {
      case "reshape": case "stopGradient": case "after": case "checkpoint": case "customGradient": case "stored": break;
      case "expand": q = x.shape.reduce((s, d, a) => s + (d === 1 ? 0 : index[a + lead] * from[a]), 0); break;
      case "permute": q = index.reduce((s, i, a) => s + i * from[axes[a]], 0); break;
      case "slice": q = index.reduce((s, i, a) => s + (i + start[a]) * from[a], 0); break;
      default: throw new AdjointError(`oracle: unknown view ${t.op.name}`, { op: t.op.name });
    }
    y.values[p] = x.values[q];
    y.errors[p] = x.errors[q];
  });
  return y;
}

/** Adds a term to element p, keeping the bound 4 k u Σ|terms| in `weights`. */
interface Sums { readonly values: Float64Array; readonly errors: Float64Array; readonly weights: Float64Array; readonly counts: Float64Array }
const sums = (n: number): Sums => ({ values: new Float64Array(n), errors: new Float64Array(n), weights: new Float64Array(n), counts: new Float64Array(n) });
function addTerm(s: Sums, p: number, x: number, e: number): void {
  s.values[p] += x; s.errors[p] += e; s.weights[p] += Math.abs(x); s.counts[p]++;
}
function settle(s: Sums, y: Judged, product: boolean): Judged {
  const unit = unitOf(y.dtype);
  y.values.set(s.values);
  for (let i = 0; i < s.values.length; i++) y.errors[i] = s.errors[i] + (s.counts[i] > 1 || product ? 4 * s.counts[i] * unit * s.weights[i] : 0);
  return finish(y, !isFloat(y.dtype), false);
}

function reduce(t: Tensor, x: Judged): Judged {
  const y = blank(t), axes = integers(t.attrs, "axes"), how: unknown = typeof t.attrs === "object" && t.attrs !== null ? Reflect.get(t.attrs, "reduce") : undefined;
  // the result keeps reduced axes as size 1, or has shape []; either way its elements are the kept indices in order
  const strides = rowMajor(x.shape.map((d, a) => (axes.includes(a) ? 1 : d))).map((s, a) => (axes.includes(a) ? 0 : s));
  const s = sums(y.values.length);
  const adds = how === "sum" || how === "sum64";
  if (!adds) { y.values.fill(how === "max" ? -Infinity : Infinity); }
  eachIndex(x.shape, (p, index) => {
    const q = dot(index, strides);
    if (adds) addTerm(s, q, x.values[p], x.errors[p]);
    else {
      y.values[q] = how === "max" ? Math.max(y.values[q], x.values[p]) : Math.min(y.values[q], x.values[p]);
      y.errors[q] = Math.max(y.errors[q], x.errors[p]);
    }
  });
  return adds ? settle(s, y, false) : finish(y, false, true);
}

function contract(t: Tensor, [a, b]: readonly Judged[]): Judged {
  const y = blank(t), rank = t.shape.length, k = a.shape[rank - 1], sa = rowMajor(a.shape), sb = rowMajor(b.shape), s = sums(y.values.length);
  eachIndex(t.shape, (p, index) => {
    let pa = 0, pb = 0;
    for (let d = 0; d < rank - 2; d++) { pa += index[d] * sa[d]; pb += index[d] * sb[d]; }
    pa += index[rank - 2] * sa[rank - 2];
    pb += index[rank - 1];
    for (let i = 0; i < k; i++) {
      const x = pa + i, z = pb + i * sb[rank - 2];
      addTerm(s, p, a.values[x] * b.values[z], a.errors[x] * (Math.abs(b.values[z]) + b.errors[z]) + Math.abs(a.values[x]) * b.errors[z]);
    }
  });
  return settle(s, y, true);
}

function concat(t: Tensor, inputs: readonly Judged[]): Judged {
  const y = blank(t), [axis] = integers(t.attrs, "axis"), strides = rowMajor(t.shape);
  let at = 0;
  for (const x of inputs) {
    eachIndex(x.shape, (p, index) => {
      const q = dot(index, strides) + at * strides[axis];
      y.values[q] = x.values[p];
      y.errors[q] = x.errors[p];
    });
    at += x.shape[axis];
  }
  return y;
}

function gather(t: Tensor, [table, ids]: readonly Judged[]): Judged {
  const y = blank(t), [rows, width] = table.shape;
  ids.values.forEach((id, r) => {
    const row = Math.min(rows - 1, Math.max(0, id));
    for (let c = 0; c < width; c++) { y.values[r * width + c] = table.values[row * width + c]; y.errors[r * width + c] = table.errors[row * width + c]; }
  });
  return y;
}

function scatterAdd(t: Tensor, [source, ids]: readonly Judged[]): Judged {
  const y = blank(t), [limit, width] = t.shape, s = sums(y.values.length);
  ids.values.forEach((id, r) => {
    if (id >= 0 && id < limit) for (let c = 0; c < width; c++) addTerm(s, id * width + c, source.values[r * width + c], source.errors[r * width + c]);
  });
  return settle(s, y, false);
}

function update(t: Tensor, [x, value, position]: readonly Judged[]): Judged {
  const y = blank(t), [axis] = integers(t.attrs, "axis"), strides = rowMajor(x.shape);
  y.values.set(x.values);
  y.errors.set(x.errors);
  const at = Math.min(x.shape[axis] - value.shape[axis], Math.max(0, position.values[0]));
  eachIndex(value.shape, (p, index) => {
    const q = dot(index, strides) + at * strides[axis];
    y.values[q] = value.values[p];
    y.errors[q] = value.errors[p];
  });
  return y;
}

/** How far `data` is from what it should be, as a share of the bound; an error text beyond it. */
export function judge(expected: Judged, data: ArrayLike<number>): { share: number; fault: string | null } {
  if (data.length !== expected.values.length) return { share: Infinity, fault: `${data.length} values, the shape [${expected.shape.join(", ")}] has ${expected.values.length}` };
  let share = 0;
  for (let i = 0; i < data.length; i++) {
    const want = expected.values[i], bound = expected.errors[i], got = data[i];
    if (bound === Infinity || Number.isNaN(bound) || Object.is(want, got) || want === got || (Number.isNaN(want) && Number.isNaN(got))) continue;
    const off = Math.abs(want - got);
    if (!(off <= bound)) return { share: Infinity, fault: `element ${i} of [${expected.shape.join(", ")}] is ${got}, expected ${want} ± ${bound.toExponential(2)}` };
    share = Math.max(share, off / bound);
  }
  return { share, fault: null };
}
