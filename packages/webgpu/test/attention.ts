/** One attention as a plan of one composite, and what its definition says. */
import { type AttentionAttrs, attentionSizes, buildGraph, composedAttention, type CompositeKernel, createReference, decode, type Kernel, makePlan, packedAttention, type PlanSpec, scalar, tensor, type Tensor } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { evaluate } from "@adjoint/testing";
import type { Buffer4 } from "./execute.ts";

export interface Shape { readonly B: number; readonly T: number; readonly S: number; readonly KV: number; readonly G: number; readonly d: number }
export interface Use extends Shape { readonly causal?: boolean; readonly window?: number; readonly offset?: number; readonly marks?: boolean; readonly keys?: "tokens" | "heads"; readonly packed?: boolean }
/** A kernel, its plan, the numbers before it, and the numbers of its result. */
export interface Prepared { readonly kernel: CompositeKernel; readonly plan: PlanSpec; readonly buffers: readonly Buffer4[]; readonly uniforms: readonly number[]; readonly want: readonly number[] }

const reference = createReference();
let seed = 1;
const noise = (n: number): Float32Array => Float32Array.from({ length: n }, () => { seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0; return ((seed >>> 8) % 97) / 16 - 3; });

/** Forward and backward of one attention, each as a kernel over buffers that hold its inputs. */
export async function prepare({ B, T, S, KV, G, d, causal = false, window = 0, offset, marks = false, keys = "tokens", packed = false }: Use): Promise<readonly [Prepared, Prepared]> {
  const cells = keys === "tokens" ? [B, S, KV, d] : [B, KV, S, d], of = (shape: readonly number[]): Tensor => tensor(noise(shape.reduce((a, b) => a * b, 1)), { shape });
  const q = of([B, T, KV * G, d]), k = of(cells), v = of(cells), g = of(q.shape), mark = (n: number): Tensor => tensor(Int32Array.from(noise(B * n), (x) => (x > -1 ? 1 : 0)), { shape: [B, n] });
  const all = of([B, T, KV * (G + 2), d]), y = packed ? packedAttention(all, KV * G, { causal, window, marks: marks ? { queries: mark(T), keys: mark(T) } : null }) : composedAttention(q, k, v, { causal, window, keys, offset: offset === undefined ? null : scalar(offset, "i32"), marks: marks ? { queries: mark(T), keys: mark(S) } : null });
  const loss = y.mul(g).sum(), dq = gradients(loss, { x: packed ? all : q }).x!;
  const find = (t: Tensor, name: string): Tensor => { let x = t; while (x.op.name !== name) x = x.inputs[0]; return x; };
  const forward = find(y, "attentionForward"), backward = find(dq, "attentionBackward");
  return [await single(forward), await single(backward)];
}
/** The composite alone: its inputs become leaves. */
async function single(t: Tensor): Promise<Prepared> {
  const leaves = await Promise.all(t.inputs.map(async (x) => (x.value ? x : tensor(Float32Array.from((await evaluate([x], reference))[0]), { shape: x.shape }))));
  const alone = composite(t, leaves), graph = buildGraph([alone], new Set([t.op.name])), plan = makePlan(graph, [graph.of(alone)], [], true), kernel = plan.kernels.find((x: Kernel): x is CompositeKernel => x.kind === "composite")!;
  const buffers = plan.buffers.map((b): Buffer4 => ({ dtype: b.dtype, values: b.kind === "input" ? Array.from(graph.leaves[b.position].value!.data, (x) => decode(b.dtype, x)) : new Array<number>(b.length).fill(1e9) }));
  return { kernel, plan, buffers, uniforms: graph.scalars.map((s) => s.value!.data[0]), want: (await evaluate([alone], reference))[0] };
}
/** The same op with other inputs. */
const composite = (t: Tensor, inputs: readonly Tensor[]): Tensor => Object.assign(Object.create(Object.getPrototypeOf(t) as object) as Tensor, t, { inputs, id: t.id, value: null });

export const sizesOf = (k: CompositeKernel): ReturnType<typeof attentionSizes> => attentionSizes(k.inputs[0].shape, k.inputs[1].shape, k.attrs as AttentionAttrs);
