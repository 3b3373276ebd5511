/**
 * Matrix products: sums in registers, then the kernel's formulas on them; or sums of parts of k in scratch, added in order by
 * a second kernel that has the formulas. The second way also serves results that overwrite an operand, and kernels with more
 * buffers than a dispatch may bind. Codes are decoded where they are read; the weight that they mean is never in memory.
 */
import { type ContractKernel, Expr, type Factor, leaf, type MapKernel, type PlanSpec, type Product } from "@adjoint/tensor";
import { reduceNumbers, reducible } from "./code-numbers.ts";
import { type Job, productDispatch, reduceDispatch, scratchWords } from "./gemm.ts";
import { epilogueBuffers } from "./gemm-epilogue.ts";
import { operandBuffers, problemOf, type Problem, product } from "./gemm-problem.ts";
import { lowerMap } from "./map.ts";
import type { Dispatch, Lower, Program, Target } from "./program.ts";
import { choose } from "./gemm-choose.ts";
import type { Choice } from "./tiles.ts";

export const lowerContract: Lower<ContractKernel> = (kernel, plan, target) => {
  if (product(kernel.shape) === 0) return { dispatches: [], scratch: [] };
  const problem = problemOf(kernel);
  return contractWith(kernel, plan, target, problem, choose(problem, target));
};

/** A product by a given variant: what tests and the tuner call too. */
export function contractWith(kernel: ContractKernel, plan: PlanSpec, target: Target, problem: Problem, choice: Choice): Program {
  const operands = operandBuffers(problem), after = epilogueBuffers(kernel), most = target.limits.storageBuffers;
  const job: Job = { kernel, plan, target, problem, choice };
  const direct = choice.splits === 1 && !kernel.stores.some((s) => operands.has(s.view.buffer)), bound = direct ? new Set([...operands, ...after]).size : operands.size + 1;
  if (direct && bound <= most) return { dispatches: [productDispatch(job, null)], scratch: [] };
  if (bound > most && factorsOf(kernel).some((x) => x.decode !== undefined && reducible(x.decode))) return reduced(job);
  // one product after the other where even their operands are too many
  const whole: Choice = { ...choice, splits: 1 }, apart = operands.size + 1 > most;
  const products = apart ? problem.products.map((x): Job => ({ ...job, problem: { ...problem, products: [x] }, choice: whole })) : [after.size < most ? job : { ...job, choice: whole }];
  const splits = apart ? products.length : products[0].choice.splits, at = plan.buffers.length, words = scratchWords(problem, 1);
  const sums = products.map((x, i) => productDispatch(x, at, i)), parts: Job = { ...job, choice: { ...choice, splits } };
  if (after.size < most) return { dispatches: [...sums, reduceDispatch(parts, at)], scratch: [words * 4 * splits] };
  const rest = mapped(parts, at, words);
  return { dispatches: [...sums, ...rest.dispatches], scratch: [words * 4 * splits, ...rest.scratch] };
}

const factorsOf = (k: ContractKernel): Factor[] => [k, ...(k.more ?? [])].flatMap(({ a, b }) => [a, b]);

/** Where codes bind too many buffers: their blocks' numbers are worked out first, into scratch. */
function reduced({ kernel, plan, target, choice }: Job): Program {
  const dispatches: Dispatch[] = [], scratch: number[] = [], buffers = [...plan.buffers];
  const factor = (x: Factor): Factor => {
    if (x.decode === undefined || !reducible(x.decode)) return x;
    const { dispatches: own, decode, length } = reduceNumbers(x.decode, { ...plan, buffers }, target, buffers.length, kernel.label);
    buffers.push({ kind: "slot", dtype: "f32", length, offset: 0, position: 0 });
    dispatches.push(...own);
    scratch.push(length * 4);
    return { ...x, decode };
  };
  const both = (p: Product): Product => ({ k: p.k, a: factor(p.a), b: factor(p.b) });
  const simple: ContractKernel = { ...kernel, ...both(kernel), ...(kernel.more === undefined ? {} : { more: kernel.more.map(both) }) };
  // for the product they are more buffers of the plan
  const rest = contractWith(simple, { ...plan, buffers }, target, problemOf(simple), choice);
  return { dispatches: [...dispatches, ...rest.dispatches], scratch: [...scratch, ...rest.scratch] };
}

/** The formulas as a map over the sums of all parts. */
function mapped({ kernel, plan, target, problem, choice: { splits } }: Job, at: number, words: number): Program {
  const columns = Math.ceil(problem.n / 4) * 4, nb = kernel.shape.length - 2, seen = new Map<Expr, Expr>();
  const loads = Array.from({ length: splits }, (_, i) => leaf("load", kernel.loads.length + i, "float")), sum = loads.slice(1).reduce((t, x) => t.add(x), loads[0]);
  const put = (e: Expr): Expr => {
    const known = seen.get(e);
    if (known !== undefined) return known;
    const out = e.fn === "acc" ? sum : e.args.length === 0 ? e : new Expr(e.fn, e.args.map(put), e.type, e.leaf);
    seen.set(e, out);
    return out;
  };
  const strides = kernel.shape.map(() => 0);
  let step = problem.m * columns;
  for (let i = nb - 1; i >= 0; i--) { strides[i] = step; step *= kernel.shape[i]; }
  strides[nb] = problem.turned ? 1 : columns;
  strides[nb + 1] = problem.turned ? columns : 1;
  const map: MapKernel = {
    kind: "map", shape: kernel.shape, loads: [...kernel.loads, ...loads.map((_, i) => ({ buffer: at, dtype: "f32", offset: i * words, strides }) as const)], affines: kernel.affines, uniforms: kernel.uniforms, label: kernel.label,
    stores: kernel.stores.map((s) => ({ view: s.view, value: put(s.value) })),
  };
  // for the map the sums are one more buffer of the plan
  return lowerMap(map, { ...plan, buffers: [...plan.buffers, { kind: "slot", dtype: "f32", length: words * splits, offset: 0, position: 0 }] }, target);
}
