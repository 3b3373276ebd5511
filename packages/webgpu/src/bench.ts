/** One product on a device by itself: buffers of known values, runs of any kernel, times, and a sample of the result. */
import { bytesOf, type ContractKernel, DeviceError, type DType, encode, hostArray, leaf, type PlanSpec, type View } from "@adjoint/tensor";
import { USAGE } from "./gpu.ts";
import type { Program } from "./program.ts";

/** c [batch, m, n] = a [batch, m, k] b [batch, k, n]; "column" when m of a or k of b is the contiguous axis. */
export interface ProductShape { readonly m: number; readonly n: number; readonly k: number; readonly batch?: number; readonly a?: "row" | "column"; readonly b?: "row" | "column"; readonly types?: readonly [DType, DType]; /** b is codes of so many bits in blocks of 64, over the order in which it lies */ readonly codes?: 4 | 8 }
export function caseOf({ m, n, k, batch = 1, a = "row", b = "row", types = ["f32", "f32"], codes }: ProductShape): { kernel: ContractKernel; plan: PlanSpec } {
  const lead = batch > 1 ? [batch] : [];
  const view = (buffer: number, dtype: DType, rows: number, columns: number, order: "row" | "column"): View => ({ buffer, dtype, offset: 0, strides: [...lead.map(() => rows * columns), ...(order === "row" ? [columns, 1] : [1, rows])] });
  const out = view(2, "f32", m, n, "row"), flat = (buffer: number): View => ({ buffer, dtype: "f32", offset: 0, strides: [1] }), elements = batch * k * n;
  const kernel: ContractKernel = { kind: "contract", label: "tune", shape: [...lead, m, n], k, a: view(0, types[0], m, k, a), b: { ...view(1, types[1], k, n, b), ...(codes === undefined ? {} : { decode: { bits: codes, block: BLOCK, table: flat(3), scales: { values: flat(4) } } }) }, loads: [], affines: [], uniforms: [], stores: [{ view: out, value: leaf("acc", 0, "float") }] };
  const store = (position: number, dtype: DType, length: number): PlanSpec["buffers"][number] => ({ kind: "store", dtype, length, offset: 0, position });
  return { kernel, plan: { kernels: [kernel], uniforms: [], arenaBytes: 0, inputs: 0, outputs: 0, buffers: [store(0, types[0], batch * m * k), codes === undefined ? store(1, types[1], elements) : store(1, "u8", Math.ceil((elements * codes) / 8)), store(2, "f32", batch * m * n), ...(codes === undefined ? [] : [store(3, "f32", 2 ** codes), store(4, "f32", Math.ceil(elements / BLOCK))])] } };
}

const BLOCK = 64;

/** Multiples of 1/8 in [-1, 1], and any bytes: exact in every type, so that all kernels must agree nearly to the bit. */
function values(dtype: DType, length: number, seed: number): Uint8Array<ArrayBuffer> {
  const block = Math.min(length, 65521), out = hostArray(dtype, length);
  let s = seed;
  for (let i = 0; i < block; i++) { s = (Math.imul(s, 1664525) + 1013904223) >>> 0; out[i] = dtype === "u8" ? s >>> 24 : encode(dtype, ((s >>> 24) % 17 - 8) / 8); }
  for (let i = block; i < length; i += block) out.set(out.subarray(0, Math.min(block, length - i)), i);
  const bytes = new Uint8Array((length * bytesOf(dtype) + 3) & ~3);
  bytes.set(new Uint8Array(out.buffer, out.byteOffset, out.byteLength));
  return bytes;
}

const COPY = 1 << 16;
/** The buffers of one shape on the device. */
export class Bench {
  readonly #gpu: GPUDevice;
  readonly #buffers: GPUBuffer[];
  constructor(gpu: GPUDevice, plan: PlanSpec) {
    this.#gpu = gpu;
    this.#buffers = plan.buffers.map((b, i) => {
      const bytes = values(b.dtype, b.length, i + 1), buffer = this.#make(bytes.length);
      gpu.queue.writeBuffer(buffer, 0, bytes);
      return buffer;
    });
  }
  #make(bytes: number): GPUBuffer { return this.#create(Math.max(16, Math.ceil(bytes / 16) * 16), USAGE.storage | USAGE.copySource | USAGE.copyTarget); }
  #create(size: number, usage: number): GPUBuffer { return this.#gpu.createBuffer({ label: "product", size, usage }); }
  /** A promise of the device that also ends when the device does. */
  #guard<T>(promise: Promise<T>): Promise<T> { return Promise.race([promise, this.#gpu.lost.then((info): never => { throw new DeviceError(`webgpu: the device was lost: ${info.message}`); })]); }
  destroy(): void { for (const b of this.#buffers) b.destroy(); }

  /** Milliseconds of one program, the least of three runs, and a sample of the result; programs three times slower than `limit` run twice only. */
  async time(program: Program, limit: number): Promise<{ ms: number; sample: Float32Array }> {
    return this.#with(program, async (run) => {
      await run(1);
      const first = await run(1), times = Math.max(1, Math.min(200, Math.round(30 / Math.max(first, 0.02))));
      if (first / 3 >= limit) return first;
      let ms = Infinity;
      for (let i = 0; i < 3; i++) ms = Math.min(ms, await run(times));
      return ms;
    });
  }
  /** A sample of the result. */
  async once(program: Program): Promise<Float32Array> { return (await this.#with(program, (run) => run(1))).sample; }

  async #with(program: Program, measure: (run: (times: number) => Promise<number>) => Promise<number>): Promise<{ ms: number; sample: Float32Array }> {
    const gpu = this.#gpu, own: GPUBuffer[] = program.scratch.map((n) => this.#make(n));
    try {
      const all = [...this.#buffers, ...own], steps: { readonly pipeline: GPUComputePipeline; readonly group: GPUBindGroup; readonly workgroups: readonly [number, number, number] }[] = [];
      for (const d of program.dispatches) {
        const pipeline = await this.#compile(d.code), params = this.#create(d.params.length * 4, USAGE.uniform | USAGE.copyTarget);
        own.push(params);
        gpu.queue.writeBuffer(params, 0, Int32Array.from(d.params));
        const entries = [params, ...d.bindings.map((b) => all[b.buffer])].map((buffer, i) => ({ binding: i === 0 ? 0 : i + 1, resource: { buffer } }));
        steps.push({ pipeline, group: gpu.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }), workgroups: d.workgroups });
      }
      // the last program's result must not pass for this one's
      const wipe = gpu.createCommandEncoder();
      wipe.clearBuffer(this.#buffers[2]);
      gpu.queue.submit([wipe.finish()]);
      const ms = await measure(async (times) => {
        const encoder = gpu.createCommandEncoder(), pass = encoder.beginComputePass();
        for (let i = 0; i < times; i++) for (const s of steps) { pass.setPipeline(s.pipeline); pass.setBindGroup(0, s.group); pass.dispatchWorkgroups(...s.workgroups); }
        pass.end();
        const commands = encoder.finish(), start = performance.now();
        gpu.queue.submit([commands]);
        await this.#guard(gpu.queue.onSubmittedWorkDone());
        return (performance.now() - start) / times;
      });
      return { ms, sample: await this.#sample() };
    } finally { for (const b of own) b.destroy(); }
  }
  /** Errors of the text, and of the driver, are the caller's. */
  async #compile(code: string): Promise<GPUComputePipeline> {
    const gpu = this.#gpu;
    gpu.pushErrorScope("validation");
    const module = gpu.createShaderModule({ code }), made = gpu.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } });
    const refused = gpu.popErrorScope();
    try { return await this.#guard(made); } finally { await refused.catch(() => null); }
  }
  async #sample(): Promise<Float32Array> {
    const gpu = this.#gpu, from = this.#buffers[2], part = Math.min(COPY, from.size), to = this.#create(2 * part, USAGE.mapRead | USAGE.copyTarget);
    const encoder = gpu.createCommandEncoder();
    encoder.copyBufferToBuffer(from, 0, to, 0, part);
    encoder.copyBufferToBuffer(from, from.size - part, to, part, part);
    gpu.queue.submit([encoder.finish()]);
    await this.#guard(to.mapAsync(1));
    const out = new Float32Array(to.getMappedRange().slice(0));
    to.destroy();
    return out;
  }
}

/** Where a sample of a product over k differs from the right one, in words, or null. */
export function differs(sample: Float32Array, right: Float32Array, k: number): string | null {
  const scale = 1e-4 * Math.sqrt(k) + 1e-5, wrong = sample.findIndex((x, i) => !(Math.abs(x - right[i]) <= scale));
  return wrong < 0 ? null : `wrong: element ${wrong} of the sample is ${sample[wrong]}, not ${right[wrong]}`;
}
