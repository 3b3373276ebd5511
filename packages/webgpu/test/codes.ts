/** Operands of codes for kernel tests, each beside the plain operand of the numbers that it means. */
import type { BlockNumbers, ContractKernel, Decode, Factor, Kernel, PlanSpec, View } from "@adjoint/tensor";
import { contractWith } from "../src/contract.ts";
import { problemOf, product } from "../src/gemm-problem.ts";
import { lower } from "../src/lower.ts";
import type { Program, Target } from "../src/program.ts";
import { type Bench, type Buffer4, execute } from "./execute.ts";
import { type Draw, uniforms } from "./products.ts";

export interface Coding { readonly bits: 4 | 8; readonly block: number; /** block of numbers that are codes themselves; 0: they are not */ readonly nested?: number; readonly mins?: boolean }
export const one = (buffer: number, dtype: View["dtype"] = "f32"): View => ({ buffer, dtype, offset: 0, strides: [1] });

/** Numbers with full mantissas: roundings show. */
const rough = (d: Draw): number => Math.fround(((d.int(2000001) - 1e6) / 1e6) * 2 ** (d.int(5) - 2));

/** Any codes for `length` elements, in new buffers of the draw, and what they mean. */
export function coded(d: Draw, length: number, { bits, block, nested = 0, mins = false }: Coding): { codes: number; decode: Decode; values: number[] } {
  const put = (dtype: View["dtype"], values: number[]): number => d.buffers.push({ dtype, values }) - 1, fill = (n: number, f: () => number): number[] => Array.from({ length: n }, f), f = Math.fround;
  const bytes = fill(Math.ceil((length * bits) / 8), () => d.int(256)), table = fill(2 ** bits, () => rough(d)), blocks = Math.ceil(length / block);
  const codes = put("u8", bytes), tableAt = put("f32", table);
  const numbers = (): { view: BlockNumbers; all: number[] } => {
    if (nested === 0) { const all = fill(blocks, () => rough(d)); return { view: { values: one(put("f32", all)) }, all }; }
    const inner = fill(blocks, () => d.int(256)), entries = fill(256, () => rough(d)), groups = fill(Math.ceil(blocks / nested), () => rough(d)), offset = rough(d);
    const view: BlockNumbers = { values: one(put("f32", groups)), nested: { codes: one(put("u8", inner), "u8"), table: one(put("f32", entries)), block: nested, offset: one(put("f32", [offset])) } };
    return { view, all: inner.map((c, b) => f(f(entries[c] * groups[Math.floor(b / nested)]) + offset)) };
  };
  const scales = numbers(), least = mins ? numbers() : null;
  const code = (e: number): number => (bits === 8 ? bytes[e] : e % 2 === 0 ? bytes[e >> 1] >> 4 : bytes[e >> 1] & 15);
  const values = Array.from({ length }, (_, e) => { const b = Math.floor(e / block), x = f(table[code(e)] * scales.all[b]); return least === null ? x : f(x - least.all[b]); });
  return { codes, decode: { bits, block, table: one(tableAt), scales: scales.view, ...(least === null ? {} : { mins: least.view }) }, values };
}
/** A drawn view of f32 turned into codes: the plain one then has their numbers. */
export function encoded(d: Draw, view: View, coding: Coding): Factor {
  const { values } = d.buffers[view.buffer], { codes, decode, values: means } = coded(d, values.length, coding);
  d.buffers[view.buffer] = { dtype: "f32", values: means };
  return { ...view, buffer: codes, dtype: "u8", decode };
}
/** Every row of the operand has one element that is a power of two, so that sums of products are exact. */
export function oneHot(d: Draw, view: View, rows: number, columns: number): void {
  const { values } = d.buffers[view.buffer], [r, c] = view.strides.slice(-2);
  values.fill(0);
  for (let i = 0; i < rows; i++) values[view.offset + i * r + d.int(columns) * c] = 2 ** (d.int(3) - 1) * (d.int(2) * 2 - 1);
}
export const planFor = (buffers: readonly Buffer4[], kernel: Kernel): PlanSpec => ({
  kernels: [kernel], uniforms: ["float", "i32"], arenaBytes: 0, inputs: 0, outputs: 0,
  buffers: buffers.map((b, position) => ({ kind: "store", dtype: b.dtype, length: b.values.length, offset: 0, position })),
});
export const output = async (b: Bench, buffers: readonly Buffer4[], kernel: Kernel, program: Program, buffer: number): Promise<number[]> =>
  (await execute(b, planFor(buffers, kernel), program, buffers, uniforms))[buffer];
/** Lowering with small tiles only: software takes seconds to compile a large one. */
export function lowerSmall(kernel: Kernel, plan: PlanSpec, target: Target): Program {
  if (kernel.kind !== "contract" || product(kernel.shape) === 0) return lower(kernel, plan, target);
  const problem = problemOf(kernel);
  return contractWith(kernel, plan, target, problem, { variant: problem.m <= 4 ? { kind: "vec", lanes: 4, threads: 16, step: 8 } : { kind: "tile", BM: 16, BN: 16, BK: 8, TM: 4, TN: 4, KG: 1, prefetch: false }, splits: 1 });
}
/** The kernel with codes in the place of an operand. */
export const withCodes = (k: ContractKernel, side: "a" | "b", factor: Factor): ContractKernel => ({ ...k, [side]: factor });
