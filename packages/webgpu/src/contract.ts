/**
 * Matrix products: a tile of sums in registers, then the kernel's formulas on them; or the sums of parts of k in scratch,
 * added in order by a second kernel that has the formulas.
 */
import { type ContractKernel, leaf, type Expr, Expr as Formula, type MapKernel, type PlanSpec } from "@adjoint/tensor";
import { flopsOf, operandBytes, partial, type Sink, tileDispatch } from "./gemm.ts";
import { problemOf, type Problem, product } from "./gemm-problem.ts";
import type { Place } from "./gemm-tile.ts";
import { lowerMap } from "./map.ts";
import type { Dispatch, Lower, Program, Target } from "./program.ts";
import type { Shader } from "./shader.ts";
import { type Choice, choose } from "./tiles.ts";

export const lowerContract: Lower<ContractKernel> = (kernel, plan, target) => {
  const problem = problemOf(kernel);
  if (product(kernel.shape) === 0) return { dispatches: [], scratch: [] };
  return contractWith(kernel, plan, target, problem, choose(problem, target));
};

/** A product by a given variant: what tests and the tuner call. */
export function contractWith(kernel: ContractKernel, plan: PlanSpec, target: Target, problem: Problem, choice: Choice): Program {
  const operands = problem.products.flatMap(({ a, b }) => [a.view.buffer, b.view.buffer]);
  const scalar = (): boolean => false;
  const writes = new Set(kernel.stores.map((s) => s.view.buffer));
  const simple = choice.splits === 1 && kernel.stores.length === 1 && kernel.stores[0].value.fn === "acc" && kernel.stores[0].view.dtype === "f32" && kernel.stores[0].view.at === undefined && !operands.some((b) => writes.has(b));
  const common = { kernel, plan, target, problem, choice, scalar, bytes: operandBytes(problem) };
  const run = (writes: ReadonlySet<number>, sink: (shader: Shader, place: Place, zz: string) => Sink): Dispatch => {
    if (choice.variant.kind !== "tile") throw new Error("not here yet");
    return tileDispatch({ ...common, writes, sink }, choice.variant);
  };
  if (simple) return { dispatches: [run(writes, (shader, place) => plain(shader, place, kernel, problem))], scratch: [] };
  const at = plan.buffers.length, { words } = partial(problem, choice.splits);
  return {
    scratch: [words * 4],
    dispatches: [run(new Set([at]), (shader, place, zz) => toScratch(shader, place, zz, at, problem)), ...fromScratch(kernel, plan, target, problem, at)],
  };
}

function plain(shader: Shader, place: Place, kernel: ContractKernel, problem: Problem): Sink {
  const { view } = kernel.stores[0], s = problem.strides(view.strides), nb = problem.batch.length, out = shader.bind(view.buffer, "f32");
  const base = [shader.param(view.offset), ...problem.batch.map((_, i) => `z${i} * ${shader.param(s[i])}`)].join(" + ");
  shader.use("put", `fn put(m: u32, n: u32, base: u32, x: vec4<f32>) { if (m < ${shader.param(problem.m)}) { let o = base + m * ${shader.param(s[nb])}; let s = ${shader.param(s[nb + 1])}; let N = ${shader.param(problem.n)};
${[0, 1, 2, 3].map((e) => `if (n + ${e}u < N) { ${out}[o + (n + ${e}u) * s] = x.${"xyzw"[e]}; }`).join("\n")} } }`);
  return { lines: [`let base = ${base};`], emit: (m, n, acc) => `put(${m}, ${n}, base, ${acc});` };
}

function toScratch(shader: Shader, place: Place, zz: string, at: number, problem: Problem): Sink {
  const out = shader.bind(at, "vec4f"), columns = shader.param(partial(problem, 1).columns);
  shader.use("put", `fn put(m: u32, n: u32, row: u32, x: vec4<f32>) { if (m < ${shader.param(problem.m)} && n < ${shader.param(problem.n)}) { ${out}[(row + m) * ${columns} + n / 4u] = x; } }`);
  return { lines: [`let row = ${zz} * ${place.M};`], emit: (m, n, acc) => `put(${m}, ${n}, row, ${acc});` };
}

/** The formulas as a map over the sums. */
function fromScratch(kernel: ContractKernel, plan: PlanSpec, target: Target, problem: Problem, at: number): readonly Dispatch[] {
  const { columns } = partial(problem, 1), nb = kernel.shape.length - 2;
  const load = leaf("load", kernel.loads.length, "float"), seen = new Map<Expr, Expr>();
  const swap = (e: Expr): Expr => {
    let out = seen.get(e);
    if (out === undefined) { out = e.fn === "acc" ? load : e.args.length === 0 ? e : new Formula(e.fn, e.args.map(swap), e.type, e.leaf); seen.set(e, out); }
    return out;
  };
  const m = problem.turned ? 1 : columns * 4, n = problem.turned ? columns * 4 : 1, strides = [...kernel.shape.map(() => 0)];
  let step = problem.m * columns * 4;
  for (let i = nb - 1; i >= 0; i--) { strides[i] = step; step *= kernel.shape[i]; }
  strides[nb] = m; strides[nb + 1] = n;
  const map: MapKernel = {
    kind: "map", shape: kernel.shape, loads: [...kernel.loads, { buffer: at, dtype: "f32", offset: 0, strides }], affines: kernel.affines, uniforms: kernel.uniforms, label: kernel.label,
    stores: kernel.stores.map((s) => ({ view: s.view, value: swap(s.value) })),
  };
  const { dispatches, scratch } = lowerMap(map, plan, target);
  if (scratch.length > 0) throw new Error("a map kernel wants no scratch");
  return dispatches;
}
