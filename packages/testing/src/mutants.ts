/**
 * Mutants: faults put in on purpose, each of which the conformance suite must catch.
 *
 * A wrong gradient is an op whose vjp is replaced; a wrong schedule, memory plan or kernel is a backend that receives
 * a damaged plan. The list grows with every fault that was met for real.
 */
import {
  type Affine, type Backend, type Expr, type Kernel, type Op, type PlanSpec, type Tensor, type View, concat, type Intrinsic, createReference, expand, gather, leaf, matmul, permute, record, reshape, slice, sum, tanh, where,
} from "@adjoint/tensor";
import { forward } from "./conform.ts";
import { tensorSubjects } from "./core.ts";
import { type Subject, subjectOf } from "./subjects.ts";

/** A fault, and the laws that are to notice it. */
export interface Mutant {
  readonly name: string;
  /** the backend to test; the fused reference if absent */
  readonly backend?: () => Backend;
  /** the ops to test; random graphs are always tried */
  readonly subjects?: () => readonly Subject[];
  /** kinds of laws to run, in order */
  readonly laws: readonly string[];
}

// ---- wrong gradients

type Vjp = NonNullable<Op["vjp"]>;
const named = (name: string): Subject => {
  const found = tensorSubjects.map(subjectOf).find((s) => s.name === name);
  if (!found) throw new Error(`no subject is called ${name}`);
  return found;
};
/** The subject with another vjp at its last node. */
function withVjp(name: string, vjp: Vjp): Subject {
  const s = named(name);
  return { ...s, samples: s.samples.map((x) => ({ ...x, apply: (xs) => { const y = x.apply(xs); return y.inputs.length === 0 ? y : record({ ...y.op, vjp }, y.inputs, y.attrs, y.shape, y.dtype); } })) };
}
const wrongGradient = (name: string, subject: string, vjp: Vjp): Mutant => ({ name: `gradient: ${name}`, subjects: () => [withVjp(subject, vjp)], laws: ["differences"] });
const numbers = (attrs: unknown, key: string): number[] => {
  const list: unknown = typeof attrs === "object" && attrs !== null ? Reflect.get(attrs, key) : [];
  return Array.isArray(list) ? list.filter((x) => typeof x === "number") : [];
};
/** Cuts a gradient to a shape without summing: what forgetting to un-broadcast looks like. */
const cut = (g: Tensor, x: Tensor): Tensor => {
  let y = g;
  while (y.rank > x.rank) y = reshape(slice(y, 0, 0, 1), y.shape.slice(1));
  return x.shape.reduce((t, d, a) => (t.shape[a] === d ? t : slice(t, a, 0, d)), y);
};

const gradientMutants: readonly Mutant[] = [
  wrongGradient("tanh forgets the square", "tanh", (g, y) => [g.mul(y.like(1).sub(y))]),
  wrongGradient("exp passes g on", "exp", (g) => [g]),
  wrongGradient("div loses a sign", "div", (g, y) => [g.div(y.inputs[1]), g.mul(y).div(y.inputs[1])]),
  wrongGradient("mul swaps its operands", "mul", (g, { inputs: [a, b] }) => [g.mul(a), g.mul(b)]),
  wrongGradient("sub forgets the minus", "sub", (g) => [g, g]),
  wrongGradient("pow forgets the exponent's gradient", "pow", (g, { inputs: [a, b] }) => [g.mul(b).mul(a.pow(b.sub(1))), null]),
  wrongGradient("rsqrt has the wrong power", "rsqrt", (g, y) => [g.mul(-0.5).mul(y.mul(y))]),
  wrongGradient("erf forgets 2/√π", "erf", (g, { inputs: [x] }) => [g.mul(x.square().neg().exp())]),
  wrongGradient("sqrt halves twice", "sqrt", (g, y) => [g.mul(0.25).div(y)]),
  wrongGradient("sin gives sin", "sin", (g, y) => [g.mul(y)]),
  wrongGradient("cos loses its minus", "cos", (g, { inputs: [x] }) => [g.mul(x.sin())]),
  wrongGradient("abs is always positive", "abs", (g) => [g]),
  wrongGradient("maximum gives both the whole", "maximum", (g) => [g, g]),
  wrongGradient("log multiplies", "log", (g, { inputs: [x] }) => [g.mul(x)]),
  wrongGradient("where swaps its branches", "where", (g, { inputs: [c] }) => [null, where(c, 0, g), where(c, g, 0)]),
  wrongGradient("expand does not sum", "expand", (g, { inputs: [x] }) => [cut(g, x)]),
  wrongGradient("permute is not inverted", "permute", (g, y) => [reshape(permute(g, numbers(y.attrs, "axes")), y.inputs[0].shape)]),
  wrongGradient("slice puts the gradient first", "slice", (g, y) => [y.inputs[0].shape.reduce((t, d, a) => (t.shape[a] === d ? t : concat([t, t.like(0, t.shape.map((n, i) => (i === a ? d - n : n)))], a)), g)]),
  wrongGradient("sum takes the mean", "sum", (g, y) => { const x = y.inputs[0]; return [expand(reshape(g, x.shape.map((d, i) => (numbers(y.attrs, "axes").includes(i) ? 1 : d))), x.shape).mul(y.size / x.size)]; }),
  wrongGradient("amax gives everyone the whole", "amax", (g, y) => { const x = y.inputs[0]; return [expand(reshape(g, x.shape.map((d, i) => (numbers(y.attrs, "axes").includes(i) ? 1 : d))), x.shape)]; }),
  wrongGradient("matmul doubles one side", "matmul aᵀ b", (g, { inputs: [a, b] }) => [reshape(matmul(g, b.T), a.shape), reshape(matmul(a.T, g), b.shape).mul(2)]),
  wrongGradient("concat gives the parts in reverse", "concat", (g, y) => {
    const axis = Number(Reflect.get(Object(y.attrs), "axis"));
    let end = y.shape[axis];
    return y.inputs.map((x) => slice(g, axis, end - x.shape[axis], (end -= x.shape[axis]) + x.shape[axis]));
  }),
  wrongGradient("gather forgets repeated rows", "gather", (g, { inputs: [table, ids] }) => [sum(gather(table, ids).mul(g)).mul(table.mul(0).add(1)), null]),
  wrongGradient("tanh of order two is constant", "tanh", (g, y) => [g.mul(tanh(y.inputs[0].mul(1)).square().neg().add(1).mul(stop(y)))]),
];
/** 1 at the value of y, but with a slope: right at order one, wrong at order two. */
function stop(y: Tensor): Tensor {
  const op: Op = { name: "stopGradient", kind: "view", vjp: () => [null] };
  return y.sub(record(op, [y], null, y.shape, y.dtype)).add(1);
}

// ---- damaged plans

type Damage = (plan: PlanSpec) => PlanSpec;
/** The fused reference, running damaged plans. */
function damaged(damage: Damage, arena = false): Backend {
  const inner = createReference({ name: "fused reference", fuse: true, arena });
  return { ...forward(inner), prepare: (plan) => inner.prepare(damage(plan)) };
}
const wrongPlan = (name: string, damage: Damage, { subjects = [], arena = false, laws }: { subjects?: readonly string[]; arena?: boolean; laws?: readonly string[] } = {}): Mutant =>
  ({ name: `plan: ${name}`, backend: () => damaged(damage, arena), subjects: () => subjects.map(named), laws: laws ?? (subjects.length ? ["values", "gradients"] : ["graphs"]) });

const eachKernel = (f: (k: Kernel) => Kernel): Damage => (plan) => ({ ...plan, kernels: plan.kernels.map(f) });
const eachView = (f: (v: View, shape: readonly number[]) => View): Damage => eachKernel((k) => ("loads" in k ? { ...k, loads: k.loads.map((v) => f(v, k.shape)) } : k));
const eachStore = (f: (e: Expr, k: Kernel) => Expr): Damage => eachKernel((k) => {
  switch (k.kind) {
    case "map": case "cols": case "contract": return { ...k, stores: k.stores.map((s) => ({ ...s, value: f(s.value, k) })) };
    case "rows": return { ...k, stores: k.stores.map((s) => ({ ...s, value: f(s.value, k) })) };
    default: return k;
  }
});
const eachAffine = (f: (a: Affine) => Affine): Damage => eachKernel((k) => ("affines" in k ? { ...k, affines: k.affines.map(f) } : k));
/** The formula with intrinsic `from` replaced. */
function replace(e: Expr, from: Intrinsic, to: (args: readonly Expr[]) => Expr): Expr {
  if (e.args.length === 0) return e;
  const args = e.args.map((a) => replace(a, from, to));
  if (e.fn === from) return to(args);
  return args.every((a, i) => a === e.args[i]) ? e : Reflect.construct(e.constructor, [e.fn, args, e.type, e.leaf]) as Expr;
}

const planMutants: readonly Mutant[] = [
  wrongPlan("a repeated axis is walked", eachView((v, shape) => ({ ...v, strides: v.strides.map((s, i) => (s === 0 && shape[i] > 1 && v.strides.some((x) => x > 0) ? 1 : s)) }))),
  wrongPlan("a transposed read of equal axes is read straight", eachView((v, shape) => (shape.length === 2 && shape[0] === shape[1] && v.strides[0] === 1 && v.strides[1] > 1 ? { ...v, strides: [v.strides[1], 1] } : v))),
  wrongPlan("offsets of slices are dropped", eachView((v) => ({ ...v, offset: 0 }))),
  wrongPlan("offsets of joined parts are dropped", eachKernel((k) => (k.kind === "map" ? { ...k, stores: k.stores.map((s) => ({ ...s, view: { ...s.view, offset: 0 } })) } : k))),
  wrongPlan("extra outputs are lost", eachKernel((k) => (k.kind === "map" ? { ...k, stores: k.stores.slice(0, 1) } : k)), { arena: true }),
  wrongPlan("extra outputs of rows are lost", eachKernel((k) => (k.kind === "rows" ? { ...k, stores: k.stores.slice(-1) } : k)), { arena: true }),
  wrongPlan("all slots share one place", (plan) => ({ ...plan, buffers: plan.buffers.map((b) => (b.kind === "slot" ? { ...b, offset: 0 } : b)) }), { arena: true }),
  wrongPlan("kernels run in reverse", (plan) => ({ ...plan, kernels: [...plan.kernels].reverse() }), { arena: true }),
  wrongPlan("stores are written before their last reader", (plan) => {
    const early = (k: Kernel): boolean => "stores" in k && k.stores.some((s) => plan.buffers[s.view.buffer].kind === "store");
    return { ...plan, kernels: [...plan.kernels.filter(early), ...plan.kernels.filter((k) => !early(k))] };
  }, { laws: ["stores, compile", "stores, scope"] }),
  wrongPlan("stores are swapped", (plan) => ({ ...plan, buffers: plan.buffers.map((b) => (b.kind === "store" && b.position < 2 && sameLength(plan, 0, 1) ? { ...b, position: 1 - b.position } : b)) }), { laws: ["stores, compile"] }),
  wrongPlan("sums become maxima", eachKernel((k) => (k.kind === "rows" ? { ...k, stats: k.stats.map((s) => (s.op === "sum" ? { ...s, op: "max" as const } : s)) } : k))),
  wrongPlan("columns forget their last row", eachKernel((k) => (k.kind === "cols" && k.reducedAxes === 1 && k.shape[k.outerAxes] > 1 && k.outerAxes === 0 ? { ...k, shape: k.shape.map((d, i) => (i === k.outerAxes ? d - 1 : d)) } : k))),
  wrongPlan("products forget their last term", eachKernel((k) => (k.kind === "contract" && k.k > 1 ? { ...k, k: k.k - 1 } : k))),
  wrongPlan("the epilogue of a product is dropped", eachStore((e, k) => (k.kind === "contract" ? leaf("acc", 0, "float") : e))),
  wrongPlan("the second operand of a product is transposed", eachKernel((k) => (k.kind === "contract" ? { ...k, b: { ...k.b, strides: [...k.b.strides.slice(0, -2), k.b.strides[k.b.strides.length - 1], k.b.strides[k.b.strides.length - 2]] } } : k))),
  wrongPlan("the batch of a product is ignored", eachKernel((k) => (k.kind === "contract" ? { ...k, b: { ...k.b, strides: k.b.strides.map((s, i) => (i < k.shape.length - 2 ? 0 : s)) } } : k)), { subjects: ["matmul"] }),
  wrongPlan("rows use the first statistic for all", eachStore((e, k) => (k.kind === "rows" ? swapStat(e) : e)), { subjects: ["softmax", "layerNorm"] }),
  wrongPlan("half precision stays wide in registers", eachStore((e) => replace(replace(e, "roundF16", ([x]) => x), "roundBf16", ([x]) => x)), { subjects: ["f16 by a number", "bf16 by a number"], laws: ["fusion"] }),
  wrongPlan("half precision stays wide between ops", eachStore((e) => replace(replace(e, "roundF16", ([x]) => x), "roundBf16", ([x]) => x)), { laws: ["fusion"] }),
  wrongPlan("all numbers are the first number", eachKernel((k) => ("uniforms" in k ? { ...k, uniforms: k.uniforms.map(() => 0) } : k))),
  wrongPlan("positions count by twos", eachAffine((a) => ({ ...a, strides: a.strides.map((s) => 2 * s) }))),
  wrongPlan("a start that is data is ignored", eachKernel((k) => (k.kind === "map" ? { ...k, stores: k.stores.map((s) => ({ ...s, view: { buffer: s.view.buffer, dtype: s.view.dtype, offset: s.view.offset, strides: s.view.strides } })) } : k)), { subjects: ["update"] }),
  wrongPlan("gather misses the last row", eachKernel((k) => (k.kind === "gather" ? { ...k, limit: Math.max(1, k.limit - 1) } : k)), { subjects: ["gather"] }),
  wrongPlan("scatterAdd misses the last source row", eachKernel((k) => (k.kind === "scatterAdd" && k.rows > 1 ? { ...k, rows: k.rows - 1 } : k)), { subjects: ["scatterAdd"] }),
  wrongPlan("lt is le", eachStore((e) => replace(e, "lt", ([a, b]) => a.le(b))), { subjects: ["lt"] }),
  wrongPlan("exp is off by four ulp of one", eachStore((e) => replace(e, "exp", ([x]) => x.exp().mul(1 + 2 ** -20))), { subjects: ["exp", "sigmoid", "softmax"] }),
];
const sameLength = (plan: PlanSpec, a: number, b: number): boolean => {
  const [x, y] = [a, b].map((position) => plan.buffers.find((s) => s.kind === "store" && s.position === position));
  return x !== undefined && y !== undefined && x.length === y.length;
};
/** Leaf stat i becomes stat 0. */
function swapStat(e: Expr): Expr {
  if (e.fn === "stat") return leaf("stat", 0, e.type);
  return e.args.length === 0 ? e : Reflect.construct(e.constructor, [e.fn, e.args.map(swapStat), e.type, e.leaf]) as Expr;
}

// ---- a backend that leaks

const leaky = (): Backend => {
  const inner = createReference({ name: "fused reference", fuse: true });
  return { ...forward(inner), get counters() { return inner.counters; }, release: () => undefined };
};

/** Every mutant. */
export const mutants: readonly Mutant[] = [
  ...gradientMutants, ...planMutants,
  { name: "memory: plans are not released", backend: leaky, laws: ["memory"] },
];
