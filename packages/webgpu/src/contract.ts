/**
 * Matrix products: sums in registers, then the kernel's formulas on them; or sums of parts of k in scratch, added in order by
 * a second kernel that has the formulas. The second way also serves results that overwrite an operand, and kernels with more
 * buffers than a dispatch may bind.
 */
import { type ContractKernel, Expr, leaf, type MapKernel, type PlanSpec } from "@adjoint/tensor";
import { type Job, productDispatch, reduceDispatch, scratchWords } from "./gemm.ts";
import { epilogueBuffers } from "./gemm-epilogue.ts";
import { problemOf, type Problem, product } from "./gemm-problem.ts";
import { lowerMap } from "./map.ts";
import type { Lower, Program, Target } from "./program.ts";
import { choose } from "./gemm-choose.ts";
import type { Choice } from "./tiles.ts";

export const lowerContract: Lower<ContractKernel> = (kernel, plan, target) => {
  if (product(kernel.shape) === 0) return { dispatches: [], scratch: [] };
  const problem = problemOf(kernel);
  return contractWith(kernel, plan, target, problem, choose(problem, target));
};

/** A product by a given variant: what tests and the tuner call too. */
export function contractWith(kernel: ContractKernel, plan: PlanSpec, target: Target, problem: Problem, choice: Choice): Program {
  const operands = new Set(problem.products.flatMap(({ a, b }) => [a.view.buffer, b.view.buffer])), after = epilogueBuffers(kernel), most = target.limits.storageBuffers;
  const job: Job = { kernel, plan, target, problem, choice };
  const direct = choice.splits === 1 && new Set([...operands, ...after]).size <= most && !kernel.stores.some((s) => operands.has(s.view.buffer));
  if (direct) return { dispatches: [productDispatch(job, null)], scratch: [] };
  const at = plan.buffers.length;
  if (after.size < most) return { dispatches: [productDispatch(job, at), reduceDispatch(job, at)], scratch: [scratchWords(problem, choice.splits) * 4] };
  const whole: Job = { ...job, choice: { ...choice, splits: 1 } }, words = scratchWords(problem, 1), rest = mapped(whole, at, words);
  return { dispatches: [productDispatch(whole, at), ...rest.dispatches], scratch: [words * 4, ...rest.scratch] };
}

/** The formulas as a map over the sums. */
function mapped({ kernel, plan, target, problem }: Job, at: number, words: number): Program {
  const columns = Math.ceil(problem.n / 4) * 4, nb = kernel.shape.length - 2, load = leaf("load", kernel.loads.length, "float"), seen = new Map<Expr, Expr>();
  const put = (e: Expr): Expr => {
    const known = seen.get(e);
    if (known !== undefined) return known;
    const out = e.fn === "acc" ? load : e.args.length === 0 ? e : new Expr(e.fn, e.args.map(put), e.type, e.leaf);
    seen.set(e, out);
    return out;
  };
  const strides = kernel.shape.map(() => 0);
  let step = problem.m * columns;
  for (let i = nb - 1; i >= 0; i--) { strides[i] = step; step *= kernel.shape[i]; }
  strides[nb] = problem.turned ? 1 : columns;
  strides[nb + 1] = problem.turned ? columns : 1;
  const map: MapKernel = {
    kind: "map", shape: kernel.shape, loads: [...kernel.loads, { buffer: at, dtype: "f32", offset: 0, strides }], affines: kernel.affines, uniforms: kernel.uniforms, label: kernel.label,
    stores: kernel.stores.map((s) => ({ view: s.view, value: put(s.value) })),
  };
  // for the map the sums are one more buffer of the plan
  return lowerMap(map, { ...plan, buffers: [...plan.buffers, { kind: "slot", dtype: "f32", length: words, offset: 0, position: 0 }] }, target);
}
