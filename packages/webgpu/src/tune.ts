/** Measures product kernels on this device and keeps the fastest of each class of problems as a table. */
import { type ContractKernel, ConfigError, type DType, bytesOf, encode, hostArray, leaf, type PlanSpec, type View } from "@adjoint/tensor";
import { nameOf } from "./adapter.ts";
import { contractWith } from "./contract.ts";
import { Device, newStats } from "./device.ts";
import { flopsOf } from "./gemm.ts";
import { problemOf } from "./gemm-problem.ts";
import { USAGE, type WebGpuOptions } from "./gpu.ts";
import type { Program } from "./program.ts";
import { classOf, type TileTable } from "./tile-table.ts";
import { candidates, type Choice } from "./tiles.ts";

/** c [batch, m, n] = a [batch, m, k] b [batch, k, n]; "column" when m of a or k of b is the contiguous axis. */
export interface TuneShape { readonly m: number; readonly n: number; readonly k: number; readonly batch?: number; readonly a?: "row" | "column"; readonly b?: "row" | "column"; readonly types?: readonly [DType, DType] }
/** One candidate's result; `gflops` 0 where it was wrong or refused, with the reason in `error`. */
export interface TuneProgress { readonly shape: TuneShape; readonly done: number; readonly of: number; readonly choice: Choice; readonly gflops: number; readonly error?: string }
export interface TuneOptions {
  /** default: products of fine-tuning and decoding with models of 768 to 4096 features */
  readonly shapes?: readonly TuneShape[];
  /** candidates of a shape, by modelled cost; default 12 */
  readonly most?: number;
  /** no new candidate after so many seconds; default 180 */
  readonly seconds?: number;
  readonly onProgress?: (progress: TuneProgress) => void;
  readonly signal?: AbortSignal;
}

/** x Wᵀ, g W and gᵀ x of dense layers; x Aᵀ and the gradients of low-rank factors; scores and values of attention; one row of decoding. */
export function standardShapes(types: readonly [DType, DType] = ["f32", "f32"]): readonly TuneShape[] {
  const shapes: TuneShape[] = [];
  for (const f of [768, 2048, 4096]) for (const t of [512, 2048]) {
    shapes.push({ m: t, n: f, k: f, b: "column" }, { m: t, n: f, k: f }, { m: f, n: f, k: t, a: "column" });
    for (const r of [8, 64]) shapes.push({ m: t, n: r, k: f, b: "column" }, { m: t, n: f, k: r, b: "column" }, { m: f, n: r, k: t, a: "column" }, { m: r, n: f, k: t, a: "column" });
  }
  shapes.push({ m: 512, n: 512, k: 64, batch: 48, b: "column" }, { m: 512, n: 64, k: 512, batch: 48 }, { m: 512, n: 50257, k: 768, b: "column" });
  for (const f of [768, 2048, 4096]) shapes.push({ m: 1, n: f, k: f, b: "column" }, { m: 1, n: 4 * f, k: f, b: "column" });
  return shapes.map((s) => ({ ...s, types }));
}
const softwareShapes: readonly TuneShape[] = [{ m: 64, n: 64, k: 64, b: "column" }, { m: 64, n: 8, k: 64, b: "column" }, { m: 1, n: 64, k: 64, b: "column" }];

function caseOf({ m, n, k, batch = 1, a = "row", b = "row", types = ["f32", "f32"] }: TuneShape): { kernel: ContractKernel; plan: PlanSpec } {
  const lead = batch > 1 ? [batch] : [];
  const view = (buffer: number, dtype: DType, rows: number, columns: number, order: "row" | "column"): View => ({ buffer, dtype, offset: 0, strides: [...lead.map(() => rows * columns), ...(order === "row" ? [columns, 1] : [1, rows])] });
  const out = view(2, "f32", m, n, "row");
  const kernel: ContractKernel = { kind: "contract", label: "tune", shape: [...lead, m, n], k, a: view(0, types[0], m, k, a), b: view(1, types[1], k, n, b), loads: [], affines: [], uniforms: [], stores: [{ view: out, value: leaf("acc", 0, "float") }] };
  const store = (position: number, dtype: DType, length: number): PlanSpec["buffers"][number] => ({ kind: "store", dtype, length, offset: 0, position });
  return { kernel, plan: { kernels: [kernel], uniforms: [], arenaBytes: 0, inputs: 0, outputs: 0, buffers: [store(0, types[0], batch * m * k), store(1, types[1], batch * k * n), store(2, "f32", batch * m * n)] } };
}

/** Multiples of 1/8 in [-1, 1]: exact in every type, so that all kernels must agree nearly to the bit. */
function values(dtype: DType, length: number, seed: number): Uint8Array<ArrayBuffer> {
  const block = Math.min(length, 65521), out = hostArray(dtype, length);
  let s = seed;
  for (let i = 0; i < block; i++) { s = (Math.imul(s, 1664525) + 1013904223) >>> 0; out[i] = encode(dtype, ((s >>> 24) % 17 - 8) / 8); }
  for (let i = block; i < length; i += block) out.set(out.subarray(0, Math.min(block, length - i)), i);
  const bytes = new Uint8Array((length * bytesOf(dtype) + 3) & ~3);
  bytes.set(new Uint8Array(out.buffer, out.byteOffset, out.byteLength));
  return bytes;
}

const COPY = 1 << 16;
/** The buffers of one shape on the device. */
class Bench {
  readonly #device: Device;
  readonly #buffers: GPUBuffer[];
  constructor(device: Device, plan: PlanSpec) {
    this.#device = device;
    this.#buffers = plan.buffers.map((b, i) => {
      const bytes = values(b.dtype, b.length, i + 1), buffer = this.#make(bytes.length);
      device.gpu.queue.writeBuffer(buffer, 0, bytes);
      return buffer;
    });
  }
  #make(bytes: number): GPUBuffer { return this.#device.create(Math.max(16, (bytes + 15) & ~15), USAGE.storage | USAGE.copySource | USAGE.copyTarget, "tune"); }
  destroy(): void { for (const b of this.#buffers) b.destroy(); }

  /** Milliseconds of one program, the least of three runs, and a sample of the result. */
  async time(program: Program, limit: number): Promise<{ ms: number; sample: Float32Array }> {
    const { gpu } = this.#device, own: GPUBuffer[] = program.scratch.map((n) => this.#make(n));
    try {
      const all = [...this.#buffers, ...own], steps: { readonly pipeline: GPUComputePipeline; readonly group: GPUBindGroup; readonly workgroups: readonly [number, number, number] }[] = [];
      for (const d of program.dispatches) {
        const pipeline = this.#device.pipeline(d);
        await pipeline.ready;
        if (pipeline.error !== null) throw pipeline.error;
        if (pipeline.value === null) throw new ConfigError("tune: no pipeline");
        const params = this.#device.create(d.params.length * 4, USAGE.uniform | USAGE.copyTarget, "tune");
        own.push(params);
        gpu.queue.writeBuffer(params, 0, Int32Array.from(d.params));
        const entries = [params, ...d.bindings.map((b) => all[b.buffer])].map((buffer, i) => ({ binding: i === 0 ? 0 : i + 1, resource: { buffer } }));
        steps.push({ pipeline: pipeline.value, group: gpu.createBindGroup({ layout: pipeline.layout, entries }), workgroups: d.workgroups });
      }
      const run = async (times: number): Promise<number> => {
        const encoder = gpu.createCommandEncoder(), pass = encoder.beginComputePass();
        for (let i = 0; i < times; i++) for (const s of steps) { pass.setPipeline(s.pipeline); pass.setBindGroup(0, s.group); pass.dispatchWorkgroups(...s.workgroups); }
        pass.end();
        const commands = encoder.finish(), start = performance.now();
        gpu.queue.submit([commands]);
        await this.#device.guard(gpu.queue.onSubmittedWorkDone());
        return (performance.now() - start) / times;
      };
      await run(1);
      const first = await run(1), times = Math.max(1, Math.min(200, Math.round(30 / Math.max(first, 0.02))));
      let ms = first;
      // far behind the best one: no need to know by how much
      if (first / 3 < limit) { ms = Infinity; for (let i = 0; i < 3; i++) ms = Math.min(ms, await run(times)); }
      return { ms, sample: await this.#sample() };
    } finally { for (const b of own) b.destroy(); }
  }
  async #sample(): Promise<Float32Array> {
    const { gpu } = this.#device, from = this.#buffers[2], part = Math.min(COPY, from.size), to = this.#device.create(2 * part, USAGE.mapRead | USAGE.copyTarget, "tune");
    const encoder = gpu.createCommandEncoder();
    encoder.copyBufferToBuffer(from, 0, to, 0, part);
    encoder.copyBufferToBuffer(from, from.size - part, to, part, part);
    gpu.queue.submit([encoder.finish()]);
    await this.#device.guard(to.mapAsync(1));
    const out = new Float32Array(to.getMappedRange().slice(0));
    to.destroy();
    return out;
  }
}

/**
 * Measures 6 to 20 candidates a shape on the device that `webgpu(device)` would open, and gives the table of the fastest
 * right ones: save it as JSON, give it back by `webgpu({ tiles })`. A candidate whose result differs from the plain register
 * tile's is reported and never chosen.
 * @throws ConfigError for impossible options, DeviceError without an adapter, the signal's reason when it is aborted
 */
export async function tune(device: WebGpuOptions = {}, options: TuneOptions = {}): Promise<TileTable> {
  const { most = 12, seconds = 180, onProgress, signal } = options;
  if (!(most >= 1)) throw new ConfigError("tune: most must be at least 1", { key: "most", value: most });
  const gpu = await Device.open(device, newStats(), 1), { target, report } = gpu, entries: Record<string, Choice> = {}, until = performance.now() + 1e3 * seconds;
  const shapes = options.shapes ?? (report.software ? softwareShapes : [...standardShapes(), ...(target.f16 ? standardShapes(["f16", "f16"]) : [])]);
  try {
    for (const shape of shapes) {
      const { kernel, plan } = caseOf(shape), problem = problemOf(kernel), all = candidates(problem, target), tested = all.slice(0, most);
      if (plan.buffers.some((b) => b.length * bytesOf(b.dtype) > target.limits.bindingBytes) || performance.now() > until) continue;
      // the register tile is the judge of all others
      const judge = tested.findIndex((c) => c.variant.kind === "tile"), plain = judge >= 0 ? tested[judge] : all.find((c) => c.variant.kind === "tile");
      const order = plain === undefined ? tested : [plain, ...tested.filter((c) => c !== plain)], bench = new Bench(gpu, plan);
      let best = Infinity, truth: Float32Array | undefined;
      try {
        for (const [i, choice] of order.entries()) {
          signal?.throwIfAborted();
          if (i > 0 && performance.now() > until) break;
          const tell = (gflops: number, error?: string): void => { onProgress?.({ shape, done: i + 1, of: order.length, choice, gflops, ...(error === undefined ? {} : { error }) }); };
          let ms: number, sample: Float32Array;
          try { ({ ms, sample } = await bench.time(contractWith(kernel, plan, target, problem, choice), best)); } catch (e) {
            if (gpu.gone !== null) throw gpu.gone;
            tell(0, e instanceof Error ? e.message : String(e));
            continue;
          }
          truth ??= sample;
          const expected = truth, scale = 1e-4 * Math.sqrt(shape.k) + 1e-5, wrong = sample.findIndex((x, at) => !(Math.abs(x - expected[at]) <= scale));
          if (wrong >= 0) { tell(0, `wrong: element ${wrong} of the sample is ${sample[wrong]}, not ${expected[wrong]}`); continue; }
          tell(flopsOf(problem) / ms / 1e6);
          if (ms < best) { best = ms; entries[classOf(problem, target)] = choice; }
        }
      } finally { bench.destroy(); }
    }
  } finally { gpu.gpu.destroy(); }
  return { version: 1, device: nameOf(report), entries };
}
