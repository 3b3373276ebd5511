/** Small plans written by hand, and a lowering whose "shaders" are names of JavaScript functions (see mock.ts). */
import { accesses, bytesOf, type BufferSpec, type DType, type Kernel, type MapKernel, type PlanSpec, type View } from "@adjoint/tensor";
import type { lower } from "../src/lower.ts";
import type { Binding, Program } from "../src/program.ts";
import { WebGpuBackend } from "../src/backend.ts";
import { Session } from "../src/session.ts";
import type { WebGpuOptions } from "../src/gpu.ts";
import { MockGpu, type MockOptions } from "./mock.ts";

export type Kind = BufferSpec["kind"];
/** A kernel of a hand-made plan: `code` over buffers by number. */
export interface Line { readonly code: string; readonly reads: readonly number[]; readonly writes: readonly number[]; readonly scratch?: number; readonly numbers?: boolean }

export function planOf(buffers: readonly (readonly [Kind, number, DType?])[], lines: readonly Line[], uniforms: PlanSpec["uniforms"] = []): PlanSpec {
  const count: Record<Kind, number> = { slot: 0, input: 0, output: 0, store: 0 };
  const specs = buffers.map(([kind, length, dtype = "f32"]): BufferSpec => ({ kind, dtype, length, offset: 0, position: kind === "slot" ? -1 : count[kind]++ }));
  const view = (buffer: number): View => ({ buffer, dtype: specs[buffer].dtype, offset: 0, strides: [1] });
  const kernels = lines.map((l): MapKernel => ({
    kind: "map", label: `${l.code}${l.scratch === undefined ? "" : `*${l.scratch}`}`, shape: [specs[l.writes[0]].length], affines: [], uniforms: l.numbers === true ? uniforms.map((_, i) => i) : [],
    loads: l.reads.map(view), stores: l.writes.map((b) => ({ view: view(b), value: { op: "const", type: "float", args: [], value: 0 } as unknown as MapKernel["stores"][number]["value"] })),
  }));
  return { kernels, buffers: specs, uniforms, arenaBytes: 0, inputs: count.input, outputs: count.output };
}

/** One dispatch a kernel, its writes first; stores are writable beside written stores, as `Shader` has it. */
export const lowering: typeof lower = (kernel: Kernel, plan: PlanSpec): Program => {
  const { reads, writes } = accesses(kernel), [code, scratch] = kernel.label.split("*"), written = [...new Set(writes.map((v) => v.buffer))];
  const storeWritten = written.some((b) => plan.buffers[b].kind === "store");
  const bindings: Binding[] = written.map((buffer) => ({ buffer, access: "read_write" }));
  for (const buffer of new Set(reads.map((v) => v.buffer))) if (!written.includes(buffer)) bindings.push({ buffer, access: storeWritten && plan.buffers[buffer].kind === "store" ? "read_write" : "read" });
  if (scratch !== undefined) bindings.push({ buffer: plan.buffers.length, access: "read_write" });
  return {
    dispatches: [{ code, bindings, params: [plan.buffers[written[0]].length, 0, 0, 0], numbers: "uniforms" in kernel && kernel.uniforms.length > 0, workgroups: [1, 1, 1], label: kernel.label, flops: 0, bytes: bytesOf("f32") }],
    scratch: scratch === undefined ? [] : [Number(scratch)],
  };
};

const floats = (b: Uint8Array): Float32Array => new Float32Array(b.buffer, b.byteOffset, b.byteLength >> 2);
/** Scripts: out = in; out = in + 1; out = a + b; out = in + first number. */
export function teach(gpu: MockGpu): void {
  const each = (f: (xs: number[], n: Float32Array | null) => number) => (bindings: readonly Uint8Array[], params: Uint32Array, numbers: Uint32Array | null): void => {
    const [out, ...from] = bindings.map(floats), n = numbers === null ? null : new Float32Array(numbers.buffer);
    for (let i = 0; i < params[0]; i++) out[i] = f([...from.map((x) => x[i]), out[i]], n);
  };
  gpu.scripts.set("copy", each(([x]) => x));
  gpu.scripts.set("inc", each(([x]) => x + 1));
  gpu.scripts.set("add", each(([x, y]) => x + y));
  gpu.scripts.set("own", each((xs) => xs[xs.length - 1] + 1));
  gpu.scripts.set("number", each(([x], n) => x + (n?.[0] ?? NaN)));
}

/** A backend on a GPU that is not one. */
export async function mocked(options: MockOptions = {}, more: WebGpuOptions = {}): Promise<{ gpu: MockGpu; backend: WebGpuBackend }> {
  const gpu = new MockGpu(options);
  teach(gpu);
  return { gpu, backend: new WebGpuBackend(await Session.open({ gpu: gpu.gpu, mode: "safe", ...more }), lowering) };
}
/** Lets promises that are due run. */
export const settle = (): Promise<void> => new Promise((resolve) => { setTimeout(resolve, 0); });
