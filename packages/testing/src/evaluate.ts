/**
 * Runs recorded tensors on a given backend as one plan, without the engine's state: nothing is attached to the
 * tensors, so one recording can be run on several backends, fused and unfused, and compared.
 */
import { type Backend, type PlanSpec, type RunResult, type Tensor, type TypedArray, AdjointError, buildGraph, current, decode, makePlan } from "@adjoint/tensor";

/** A recording turned into a plan with the numbers it needs. */
export interface Recording { readonly plan: PlanSpec; readonly inputs: readonly TypedArray[]; readonly uniforms: readonly number[]; readonly outputs: readonly number[] }

const hostOf = (t: Tensor): NonNullable<Tensor["value"]> => {
  if (!t.value) throw new AdjointError(`evaluate: ${t.op.name} has no numbers`, { op: t.op.name });
  return t.value;
};

/** Plans tensors that are not leaves. */
export function record(tensors: readonly Tensor[], backend: Backend, fuse: boolean = backend.fuse): Recording {
  const graph = buildGraph(tensors.map(current), backend.composites), nodes = [...new Set(tensors.map((t) => graph.of(current(t))))];
  return {
    plan: makePlan(graph, nodes, [], fuse, backend.products, backend.decodes),
    inputs: graph.leaves.map((t) => hostOf(t).data),
    uniforms: graph.scalars.map((t) => decode(t.dtype, hostOf(t).data[0])),
    outputs: tensors.map((t) => nodes.indexOf(graph.of(current(t)))),
  };
}

/** One output of a run, read from whatever device it is on. */
export async function answer(backend: Backend, run: RunResult, position: number): Promise<TypedArray> {
  if (run.readSync) return run.readSync(position);
  const buffer = run.take?.(position);
  if (!buffer) throw new AdjointError(`${backend.name}: a run has neither readSync nor take`, { op: "run" });
  try { return await backend.read(buffer); } finally { backend.free(buffer); }
}

/** Values of tensors, as plain numbers. */
export async function evaluate(tensors: readonly Tensor[], backend: Backend, fuse: boolean = backend.fuse): Promise<number[][]> {
  const asked = tensors.map(current), real = asked.filter((t) => !t.value);
  const widen = (data: TypedArray, t: Tensor): number[] => Array.from(data, (x) => decode(t.dtype, x));
  if (real.length === 0) return asked.map((t) => widen(hostOf(t).data, t));
  const { plan, inputs, uniforms, outputs } = record(real, backend, fuse), prepared = backend.prepare(plan);
  try {
    const run = backend.run(prepared, { stores: [], inputs, uniforms });
    const data = new Map(await Promise.all([...new Set(outputs)].map(async (position) => [position, await answer(backend, run, position)] as const)));
    return asked.map((t) => widen(t.value ? t.value.data : data.get(outputs[real.indexOf(t)])!, t));
  } finally {
    backend.release(prepared);
  }
}
