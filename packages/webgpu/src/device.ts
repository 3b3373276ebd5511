/** One GPU device: what it can do, its pipelines by text, its layouts by signature, and its errors. */
import { DeviceError } from "@adjoint/tensor";
import { type AdapterReport, chooseAdapter, nameOf, requestDevice, targetOf } from "./adapter.ts";
import { asError, compileError, lostError, messageOf, outOfMemory, reported } from "./errors.ts";
import { COMPUTE, findGpu, inNode, type WebGpuOptions } from "./gpu.ts";
import { provenMatrix } from "./matrix-check.ts";
import type { Maker } from "./pool.ts";
import type { Dispatch, Target } from "./program.ts";

/** What was made and done since the backend began; a steady-state step moves only submits, dispatches and uploads. */
export interface Stats {
  buffersCreated: number; bindGroupsCreated: number; pipelines: number; readbacksCreated: number;
  submits: number; dispatches: number; uploads: number; plans: number; devices: number;
  /** bytes that dispatches read and wrote, each binding once, and their floating-point operations */
  bytes: number; flops: number;
}
export const newStats = (): Stats => ({ buffersCreated: 0, bindGroupsCreated: 0, pipelines: 0, readbacksCreated: 0, submits: 0, dispatches: 0, uploads: 0, plans: 0, devices: 0, bytes: 0, flops: 0 });

/** A pipeline on its way; `ready` never rejects. */
export interface Pipeline { value: GPUComputePipeline | null; error: DeviceError | null; /** plans that hold it */ users: number; readonly ready: Promise<void>; readonly layout: GPUBindGroupLayout }

/** Pipelines that are kept though no plan holds them. */
const KEPT_PIPELINES = 1024;
/** Buffers from this size on are watched for running out of memory. */
const WATCHED = 2 ** 20;

export class Device implements Maker {
  readonly gpu: GPUDevice;
  readonly report: AdapterReport;
  readonly target: Target;
  readonly validated: boolean;
  readonly stats: Stats;
  readonly generation: number;
  /** buffers made here that were not destroyed */
  alive = 0;
  /** why the device is gone */
  gone: DeviceError | null = null;
  /** errors of the device that no call was there to receive */
  onError: (error: DeviceError) => void = () => {};
  onLost: (error: DeviceError) => void = () => {};
  memoryReport: () => string = () => "";
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #pipelines = new Map<string, Pipeline>();
  readonly #watched = new Set<Promise<void>>();
  /** buffers that there was no memory for */
  readonly #missing = new Map<GPUBuffer, DeviceError>();
  readonly #hoping = new Set<(error: unknown) => void>();

  constructor(gpu: GPUDevice, report: AdapterReport, target: Target, validated: boolean, stats: Stats, generation: number) {
    this.gpu = gpu; this.report = report; this.target = target; this.validated = validated; this.stats = stats; this.generation = generation;
    stats.devices++;
    gpu.onuncapturederror = (event) => { event.preventDefault?.(); this.#uncaptured(event.error); };
    void gpu.lost.then((info) => { this.lose(lostError(info?.reason ?? "unknown", info?.message ?? "")); }, (e: unknown) => { this.lose(lostError("unknown", messageOf(e))); });
  }
  static async open(o: WebGpuOptions, stats: Stats, generation: number): Promise<Device> {
    const gpu = await findGpu(o), { adapter, report } = await chooseAdapter(gpu, o), device = await requestDevice(adapter, report);
    if (report.software && o.allowSoftware !== true && o.backend !== "null" && generation === 1) {
      // eslint-disable-next-line no-console -- said once, where no caller could be asked
      console.warn(`webgpu: ${nameOf(report)} is a program on the CPU: right, but much slower than the wasm backend (allowSoftware: true hides this line)`);
    }
    let target = targetOf(device, report, o);
    if (target.matrix.length > 0 && o.backend !== "null") {
      // eslint-disable-next-line no-console -- said once, where no caller could be asked
      target = await provenMatrix(device, target, (line) => { console.warn(`webgpu: ${nameOf(report)}: ${line}`); });
    }
    return new Device(device, report, target, o.mode === "safe" || !inNode || o.gpu !== undefined, stats, generation);
  }
  #uncaptured(error: GPUError): void {
    const tell = (): void => {
      // what follows from a lack of memory is no news
      if (this.#missing.size === 0 || !/due to a previous error/.test(error.message)) this.onError(reported(error, "the device reports", () => this.memoryReport()));
    };
    const { doubts } = this;
    if (doubts === null) tell(); else void doubts.finally(tell);
  }
  lose(error: DeviceError): void {
    if (this.gone !== null) return;
    this.gone = error;
    for (const reject of [...this.#hoping]) reject(error);
    this.#hoping.clear();
    this.onLost(error);
  }
  /** A promise of this device that also ends when the device does. */
  guard<T>(promise: Promise<T>): Promise<T> {
    if (this.gone !== null) return Promise.reject(this.gone);
    return new Promise<T>((resolve, reject) => {
      this.#hoping.add(reject);
      promise.then((v) => { this.#hoping.delete(reject); resolve(v); }, (e: unknown) => { this.#hoping.delete(reject); reject(asError(e)); });
    });
  }

  get limit(): number { return this.gpu.limits.maxBufferSize; }
  create(size: number, usage: number, label: string): GPUBuffer {
    if (size > this.limit) throw new DeviceError(`webgpu: a buffer of ${size} bytes (${label}); this device allows ${this.limit}`, { key: "maxBufferSize", value: size, fix: "use shorter sequences, smaller batches, or half precision" });
    this.stats.buffersCreated++;
    this.alive++;
    if (size < WATCHED) return this.gpu.createBuffer({ label, size, usage });
    this.gpu.pushErrorScope("out-of-memory");
    const buffer = this.gpu.createBuffer({ label, size, usage });
    const watch: Promise<void> = this.guard(this.gpu.popErrorScope()).then((error) => {
      if (error === null) return;
      const e = outOfMemory(`${label}, ${size} bytes: ${error.message}`, this.memoryReport());
      this.#missing.set(buffer, e);
      this.onError(e);
    }, () => {}).finally(() => { this.#watched.delete(watch); });
    this.#watched.add(watch);
    return buffer;
  }
  destroy(buffer: GPUBuffer): void {
    this.alive--;
    buffer.destroy();
  }
  /** Throws where a buffer could not be had. */
  demand(buffer: GPUBuffer): void {
    const e = this.#missing.size > 0 ? this.#missing.get(buffer) : undefined;
    if (e !== undefined) throw e;
  }
  /** Resolves when it is known whether the buffers created so far exist; null where nothing is in doubt. */
  get doubts(): Promise<unknown> | null { return this.#watched.size === 0 ? null : Promise.all(this.#watched); }

  /** The pipeline of a dispatch, compiled once for each text. */
  pipeline(d: Dispatch): Pipeline {
    const found = this.#pipelines.get(d.code);
    if (found !== undefined) { found.users++; return found; }
    if (this.#pipelines.size >= KEPT_PIPELINES) this.#forget();
    const group = this.#layout(d), { gpu } = this;
    this.stats.pipelines++;
    const compile = async (): Promise<void> => {
      gpu.pushErrorScope("validation");
      let made: Promise<GPUComputePipeline>, module: GPUShaderModule, refused: Promise<GPUError | null>;
      try {
        module = gpu.createShaderModule({ label: d.label, code: d.code });
        // a layout of its own: wgpu (Deno, Firefox) keeps the last pipeline's sizes of bindings where two share one
        const layout = gpu.createPipelineLayout({ label: d.label, bindGroupLayouts: [group] });
        made = gpu.createComputePipelineAsync({ label: d.label, layout, compute: { module, entryPoint: "main" } });
      } finally { refused = gpu.popErrorScope(); refused.catch(() => {}); }
      try {
        pipeline.value = await this.guard(made);
      } catch (error) {
        if (this.gone !== null) { pipeline.error = this.gone; return; }
        const info = await this.guard(module.getCompilationInfo()).catch(() => ({ messages: [] }));
        pipeline.error = compileError(d.label, d.code, info.messages, messageOf(error));
      }
    };
    const pipeline: Pipeline = { value: null, error: null, users: 1, layout: group, ready: Promise.resolve().then(compile).catch((e: unknown) => { pipeline.error ??= e instanceof DeviceError ? e : compileError(d.label, d.code, [], messageOf(e)); }) };
    this.#pipelines.set(d.code, pipeline);
    return pipeline;
  }
  /** Drops the older half of what no plan holds. */
  #forget(): void {
    const idle = [...this.#pipelines].filter(([, p]) => p.users === 0);
    for (const [code] of idle.slice(0, (idle.length >> 1) + 1)) this.#pipelines.delete(code);
  }
  #layout(d: Dispatch): GPUBindGroupLayout {
    const key = `${d.numbers ? "n" : ""}${d.bindings.map((b) => (b.access === "read" ? "r" : "w")).join("")}`, found = this.#layouts.get(key);
    if (found !== undefined) return found;
    const entries: GPUBindGroupLayoutEntry[] = [{ binding: 0, visibility: COMPUTE, buffer: { type: "uniform" } }];
    if (d.numbers) entries.push({ binding: 1, visibility: COMPUTE, buffer: { type: "uniform" } });
    d.bindings.forEach((b, i) => entries.push({ binding: i + 2, visibility: COMPUTE, buffer: { type: b.access === "read" ? "read-only-storage" : "storage" } }));
    const group = this.gpu.createBindGroupLayout({ label: key, entries });
    this.#layouts.set(key, group);
    return group;
  }
}
