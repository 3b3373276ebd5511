/** A naive interpreter of the kernel IR in f64: the meaning against which printed code is held. */
import { type Affine, type ColsKernel, type ContractKernel, type DType, decode, encode, type Expr, type GatherKernel, type Kernel, type MapKernel, type ReduceOp, roundTo, type RowsKernel, type ScatterAddKernel, type View } from "@adjoint/tensor";

export interface Data { readonly dtype: DType; readonly values: number[] }
export interface Env { readonly buffers: Data[]; readonly uniforms: number[] }

interface Leaves { load(i: number): number; uniform(i: number): number; affine(i: number): number; stat(i: number): number; acc(): number }

const erf = (x: number): number => {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  let s = a, t = a;
  if (a < 2.5) { for (let n = 1; n < 120; n++) { t *= -a * a / n; s += t / (2 * n + 1); } return Math.sign(x) * 2 / Math.sqrt(Math.PI) * s; }
  let f = 0;
  for (let k = 80; k >= 1; k--) f = k / 2 / (a + f);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + f));
};

export function evaluate(root: Expr, leaves: Leaves): number {
  const memo = new Map<Expr, number>();
  const go = (e: Expr): number => {
    const known = memo.get(e);
    if (known !== undefined) return known;
    const y = compute(e);
    memo.set(e, y);
    return y;
  };
  const wrap = (e: Expr, x: number): number => (e.type === "i32" ? x | 0 : e.type === "u32" ? x >>> 0 : x);
  const compute = (e: Expr): number => {
    switch (e.fn) {
      case "const": return wrap(e, e.leaf);
      case "load": return convert(leaves.load(e.leaf), e.type);
      case "uniform": return wrap(e, leaves.uniform(e.leaf));
      case "affine": return wrap(e, leaves.affine(e.leaf));
      case "stat": return leaves.stat(e.leaf);
      case "acc": return leaves.acc();
      default:
    }
    const [a, b, c] = e.args.map(go), t = e.args[0].type, int = t !== "float";
    switch (e.fn) {
      case "add": return wrap(e, a + b);
      case "sub": return wrap(e, a - b);
      case "mul": return int ? wrap(e, Math.imul(a, b)) : a * b;
      case "div": return int ? (b === 0 ? 0 : wrap(e, Math.trunc(a / b))) : a / b;
      case "neg": return wrap(e, -a);
      case "abs": return wrap(e, Math.abs(a));
      case "min": return Math.min(a, b);
      case "max": return Math.max(a, b);
      case "sqrt": return Math.sqrt(a);
      case "rsqrt": return 1 / Math.sqrt(a);
      case "exp": return Math.exp(a);
      case "log": return Math.log(a);
      case "tanh": return Math.tanh(a);
      case "sin": return Math.sin(a);
      case "cos": return Math.cos(a);
      case "erf": return erf(a);
      case "floor": return Math.floor(a);
      case "pow": return b === 0 ? 1 : a ** b;
      case "lt": return +(a < b);
      case "le": return +(a <= b);
      case "gt": return +(a > b);
      case "ge": return +(a >= b);
      case "eq": return +(a === b);
      case "ne": return +(a !== b);
      case "and": return wrap(e, a & b);
      case "or": return wrap(e, a | b);
      case "xor": return wrap(e, a ^ b);
      case "not": return e.type === "bool" ? 1 - a : wrap(e, ~a);
      case "shl": return wrap(e, a << b);
      case "shr": return t === "u32" ? a >>> b : a >> b;
      case "select": return a !== 0 ? b : c;
      case "toF": return a;
      case "toI": return t === "float" ? roundTo("i32", a) : a | 0;
      case "toU": return t === "float" ? roundTo("u32", a) : a >>> 0;
      case "toB": return +(a !== 0);
      case "roundF16": return roundTo("f16", Math.fround(a));
      case "roundBf16": return roundTo("bf16", a);
      default: throw new Error(`interpret: ${e.fn}`);
    }
  };
  return go(root);
}
function convert(x: number, type: Expr["type"]): number { return type === "float" ? x : type === "bool" ? +(x !== 0) : type === "u32" ? x >>> 0 : x | 0; }

const product = (xs: readonly number[]): number => xs.reduce((a, b) => a * b, 1);
function* indices(shape: readonly number[]): Generator<number[]> {
  const n = product(shape);
  for (let i = 0; i < n; i++) {
    const at: number[] = [];
    let r = i;
    for (let a = shape.length - 1; a >= 0; a--) { at.unshift(r % shape[a]); r = Math.floor(r / shape[a]); }
    yield at;
  }
}
const dot = (s: readonly number[], at: readonly number[]): number => at.reduce((t, x, a) => t + x * s[a], 0);

interface Space { readonly loads: readonly View[]; readonly affines: readonly Affine[]; readonly uniforms: readonly number[] }
function element(env: Env, k: { readonly uniforms: readonly number[] }, v: View, at: readonly number[]): number {
  return v.offset + dot(v.strides, at) + (v.at === undefined ? 0 : env.uniforms[k.uniforms[v.at.uniform]] * v.at.stride);
}
function leavesAt(env: Env, k: Space, at: readonly number[], stats: readonly number[] = [], acc = 0): Leaves {
  return {
    load: (i) => env.buffers[k.loads[i].buffer].values[element(env, k, k.loads[i], at)],
    uniform: (i) => env.uniforms[k.uniforms[i]],
    affine: (i) => k.affines[i].offset + dot(k.affines[i].strides, at),
    stat: (i) => stats[i], acc: () => acc,
  };
}
/** What a stored element reads back as. */
export const stored = (dtype: DType, x: number, type: Expr["type"]): number =>
  type !== "float" && (dtype === "u8" || dtype === "i8") ? (dtype === "u8" ? x & 255 : (x << 24) >> 24) : decode(dtype, encode(dtype, dtype === "f16" ? Math.fround(x) : x));
const zero = (op: ReduceOp): number => (op === "sum" || op === "sum64" ? 0 : op === "max" ? -Infinity : Infinity);
const join = (op: ReduceOp, a: number, b: number): number => (op === "sum" || op === "sum64" ? a + b : op === "max" ? Math.max(a, b) : Math.min(a, b));

export function interpret(env: Env, k: Kernel): void {
  switch (k.kind) {
    case "map": return map(env, k);
    case "rows": return rows(env, k);
    case "cols": return cols(env, k);
    case "contract": return contract(env, k);
    case "gather": return gather(env, k);
    case "scatterAdd": return scatterAdd(env, k);
    default: throw new Error(`interpret: ${k.kind}`);
  }
}
type Writes = [Data, number, number][];
function put(w: Writes): void { for (const [b, i, x] of w) b.values[i] = x; }
function map(env: Env, k: MapKernel): void {
  const writes: Writes = [];
  for (const at of indices(k.shape)) for (const s of k.stores) {
    const b = env.buffers[s.view.buffer];
    writes.push([b, element(env, k, s.view, at), stored(b.dtype, evaluate(s.value, leavesAt(env, k, at)), s.value.type)]);
  }
  put(writes);
}
function rows(env: Env, k: RowsKernel): void {
  const outer = k.shape.slice(0, k.shape.length - k.rowAxes), inner = k.shape.slice(outer.length), writes: Writes = [];
  for (const o of indices(outer)) {
    const stats: number[] = [];
    for (const s of k.stats) {
      let total = zero(s.op);
      for (const i of indices(inner)) total = join(s.op, total, evaluate(s.value, leavesAt(env, k, [...o, ...i], stats)));
      stats.push(total);
    }
    for (const s of k.stores) {
      const b = env.buffers[s.view.buffer];
      for (const i of s.perRow ? [inner.map(() => 0)] : indices(inner)) {
        const at = [...o, ...i];
        writes.push([b, element(env, k, s.view, at), stored(b.dtype, evaluate(s.value, leavesAt(env, k, at, stats)), s.value.type)]);
      }
    }
  }
  put(writes);
}
function cols(env: Env, k: ColsKernel): void {
  const outer = k.shape.slice(0, k.outerAxes), reduced = k.shape.slice(k.outerAxes, k.outerAxes + k.reducedAxes), inner = k.shape.slice(k.outerAxes + k.reducedAxes), writes: Writes = [];
  for (const o of indices(outer)) for (const i of indices(inner)) {
    let total = zero(k.op);
    for (const r of indices(reduced)) total = join(k.op, total, evaluate(k.value, leavesAt(env, k, [...o, ...r, ...i])));
    const at = [...o, ...reduced.map(() => 0), ...i];
    for (const s of k.stores) {
      const b = env.buffers[s.view.buffer];
      writes.push([b, element(env, k, s.view, at), stored(b.dtype, evaluate(s.value, leavesAt(env, k, at, [total])), s.value.type)]);
    }
  }
  put(writes);
}
function contract(env: Env, k: ContractKernel): void {
  const nb = k.shape.length - 2, writes: Writes = [];
  for (const at of indices(k.shape)) {
    const batch = at.slice(0, nb), [m, n] = at.slice(nb);
    let acc = 0;
    for (let p = 0; p < k.k; p++) acc += env.buffers[k.a.buffer].values[element(env, k, k.a, [...batch, m, p])] * env.buffers[k.b.buffer].values[element(env, k, k.b, [...batch, p, n])];
    for (const s of k.stores) {
      const b = env.buffers[s.view.buffer];
      writes.push([b, element(env, k, s.view, at), stored(b.dtype, evaluate(s.value, leavesAt(env, k, at, [], acc)), s.value.type)]);
    }
  }
  put(writes);
}
function gather(env: Env, k: GatherKernel): void {
  const table = env.buffers[k.table.buffer], ids = env.buffers[k.ids.buffer], out = env.buffers[k.out.buffer];
  for (let r = 0; r < k.rows; r++) {
    const id = Math.min(k.limit - 1, Math.max(0, ids.values[k.ids.offset + r]));
    for (let c = 0; c < k.cols; c++) out.values[k.out.offset + r * k.cols + c] = stored(out.dtype, table.values[k.table.offset + id * k.cols + c], "float");
  }
}
function scatterAdd(env: Env, k: ScatterAddKernel): void {
  const source = env.buffers[k.source.buffer], ids = env.buffers[k.ids.buffer], out = env.buffers[k.out.buffer];
  out.values.fill(0, k.out.offset, k.out.offset + k.limit * k.cols);
  for (let r = 0; r < k.rows; r++) {
    const id = ids.values[k.ids.offset + r];
    if (id < 0 || id >= k.limit) continue;
    for (let c = 0; c < k.cols; c++) out.values[k.out.offset + id * k.cols + c] += source.values[k.source.offset + r * k.cols + c];
  }
}
