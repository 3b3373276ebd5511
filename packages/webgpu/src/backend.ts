/** The WebGPU backend: every call becomes an operation, and operations happen in the order of their calls. */
import {
  type Backend, type Bindings, bytesOf, type Counters, type DeviceBuffer, DeviceError, type DType, DTypeError, hostArray, type Kernel, type PlanSpec, type Prepared, type RunResult, ShapeError, type TypedArray, viewBytes,
} from "@adjoint/tensor";
import type { AdapterReport } from "./adapter.ts";
import { composites } from "./composites/index.ts";
import { Device, newStats, type Stats } from "./device.ts";
import { closedError, messageOf, reported } from "./errors.ts";
import { checkOptions, inNode, USAGE, type WebGpuOptions } from "./gpu.ts";
import { lower } from "./lower.ts";
import { Cell, deadCell, DeviceMemory, type MemoryByClass, showMemory } from "./memory.ts";
import { type Layout, layOut, SMALL_INPUT } from "./plan.ts";
import type { Target } from "./program.ts";
import { OperationQueue } from "./queue.ts";
import { blockOf, Instance } from "./replay.ts";
import type { Landing } from "./staging.ts";

/** Runs that may wait or be under way before `run` refuses. */
const MOST_RUNS = 100;

class Ready implements Prepared {
  readonly plan: PlanSpec;
  layout: Layout;
  target: Target;
  instance: Instance | null = null;
  released = false;
  readonly host: Uint32Array<ArrayBuffer>;
  readonly floats: Float32Array<ArrayBuffer>;
  constructor(plan: PlanSpec, layout: Layout, target: Target) {
    this.plan = plan; this.layout = layout; this.target = target;
    this.host = new Uint32Array((plan.uniforms.length + 3) & ~3);
    this.floats = new Float32Array(this.host.buffer);
  }
}

export class WebGpuBackend implements Backend {
  readonly name = "webgpu";
  readonly dtypes: ReadonlySet<DType> = new Set<DType>(["f32", "f16", "bf16", "i32", "u32", "u8", "i8", "bool"]);
  readonly fuse = true;
  readonly composites: ReadonlySet<string> = new Set(composites.keys());
  readonly products = 2;
  readonly threads = 1;
  readonly sync = false;
  readonly stats: Stats;
  readonly #options: WebGpuOptions;
  readonly #queue = new OperationQueue();
  readonly #numbers = new Map<number, GPUBuffer>();
  #device: Device;
  #memory: DeviceMemory;
  #opening: Promise<void> | null = null;
  #openError: Error | null = null;
  /** an error that nobody has heard of yet */
  #unheard: Error | null = null;
  #closed = false;
  #runs = 0;
  #waiters: { readonly queued: number; readonly resolve: () => void; readonly reject: (e: unknown) => void }[] = [];
  #bufferBytes = 0;
  #buffers = 0;

  constructor(device: Device, options: WebGpuOptions, stats: Stats) {
    this.#options = options;
    this.stats = stats;
    this.#device = device;
    this.#memory = this.#adopt(device);
  }

  // ---- what there is --------------------------------------------------------------------------------------------------
  get adapter(): AdapterReport { return this.#device.report; }
  get target(): Target { return this.#device.target; }
  get memoryByClass(): MemoryByClass { return this.#memory.byClass; }
  /** Memory by class, in words. */
  showMemory(): string { return showMemory(this.#memory.byClass); }
  get counters(): Counters {
    return { arenaBytes: this.#memory.workspace.bytes, bufferBytes: this.#bufferBytes, buffers: this.#buffers, pages: this.stats.buffersCreated, modules: this.stats.pipelines, messages: this.stats.bindGroupsCreated };
  }

  // ---- buffers ---------------------------------------------------------------------------------------------------------
  alloc(dtype: DType, length: number): DeviceBuffer {
    this.#check(dtype, "alloc");
    if (this.#closed) throw closedError();
    const cell = new Cell(dtype, length, "store"), { bindingBytes } = this.target.limits;
    if (cell.bytes > bindingBytes) {
      throw new DeviceError(`webgpu: a buffer of ${length} ${dtype} takes ${cell.bytes} bytes; this device binds at most ${bindingBytes}`, { key: "maxStorageBufferBindingSize", value: cell.bytes, fix: "store it in half precision, or split it by rows" });
    }
    this.#buffers++;
    this.#bufferBytes += cell.bytes;
    return cell;
  }
  free(buffer: DeviceBuffer): void {
    const cell = this.#own(buffer);
    cell.freed = true;
    if (cell.kind === "store") { this.#buffers--; this.#bufferBytes -= cell.bytes; }
    if (this.#closed) return;
    if (this.#queue.idle) this.#memory.release(cell);
    else this.#queue.push({ wait: () => null, run: () => { this.#memory.release(cell); }, fail: () => {} });
  }
  write(buffer: DeviceBuffer, data: TypedArray): void {
    const cell = this.#own(buffer);
    if (data.length !== cell.length || data.BYTES_PER_ELEMENT !== bytesOf(cell.dtype)) {
      throw new ShapeError(`webgpu write: ${cell.length} elements of ${cell.dtype} wanted`, { value: `${data.length} elements of ${data.BYTES_PER_ELEMENT} bytes` });
    }
    this.#fresh();
    const numbers = this.#queue.idle && this.#opening === null ? data : data.slice();
    this.#queue.push({ wait: () => this.#open(), run: () => { this.#memory.place(cell); this.#upload(cell.region!.buffer, cell.region!.offset, numbers); cell.blank = false; }, fail: (e) => { this.#hear(e); } });
  }
  async read(buffer: DeviceBuffer): Promise<TypedArray> {
    const cell = this.#own(buffer);
    const bytes = await (cell.host ?? this.#fetch(cell));
    this.#raise();
    const out = hostArray(cell.dtype, cell.length);
    out.set(viewBytes(cell.dtype, bytes, 0, cell.length));
    return out;
  }
  #fetch(cell: Cell): Promise<ArrayBuffer> {
    return new Promise((resolve, reject) => {
      if (cell.failed !== null) { reject(cell.failed); return; }
      if (this.#dead(cell)) { reject(deadCell(cell, cell.kind)); return; }
      const size = Math.max(4, (cell.bytes + 3) & ~3);
      this.#queue.push({
        wait: () => this.#open(),
        run: () => {
          if (cell.failed !== null) throw cell.failed;
          if (this.#dead(cell)) throw deadCell(cell, cell.kind);
          const { gpu } = this.#device, landing = this.#memory.staging.take(size), encoder = gpu.createCommandEncoder({ label: "adjoint read" });
          this.#ready(cell, encoder);
          encoder.copyBufferToBuffer(cell.region!.buffer, cell.region!.offset, landing.buffer, 0, size);
          const check = this.#submit(encoder, "read");
          this.#checked(this.#memory.staging.land(landing, size), check).then(resolve, reject);
        },
        fail: reject,
      });
    });
  }

  // ---- plans -----------------------------------------------------------------------------------------------------------
  prepare(plan: PlanSpec): Prepared {
    if (this.#closed) throw closedError();
    for (const b of plan.buffers) this.#check(b.dtype, `${b.kind} ${b.position}`);
    const { target } = this, ready = new Ready(plan, layOut(plan, plan.kernels.map((k) => lower(k, plan, target)), target), target);
    this.stats.plans++;
    if (this.#device.gone === null) this.#instance(ready);
    return ready;
  }
  release(prepared: Prepared): void {
    const ready = this.#plan(prepared);
    ready.released = true;
    if (this.#closed) return;
    this.#queue.push({ wait: () => null, run: () => { this.#drop(ready); }, fail: () => {} });
  }
  #drop(ready: Ready): void {
    if (ready.instance !== null && ready.instance.device === this.#device && this.#device.gone === null) ready.instance.release();
    ready.instance = null;
  }
  /** The plan on the present device; lowered again where a new device can do other things. */
  #instance(ready: Ready): Instance {
    if (ready.instance?.device === this.#device) return ready.instance;
    const { target } = this, { plan } = ready;
    if (JSON.stringify(target) !== JSON.stringify(ready.target)) {
      ready.layout = layOut(plan, plan.kernels.map((k) => lower(k, plan, target)), target);
      ready.target = target;
    }
    const block = blockOf(plan);
    let numbers = this.#numbers.get(block);
    if (numbers === undefined && plan.uniforms.length > 0) this.#numbers.set(block, (numbers = this.#device.create(block * 4, USAGE.uniform | USAGE.copyTarget, "adjoint numbers")));
    return (ready.instance = new Instance(this.#device, this.#memory, plan, ready.layout, numbers ?? null));
  }

  run(prepared: Prepared, bindings: Bindings): RunResult {
    const ready = this.#plan(prepared), { plan } = ready;
    this.#raise();
    this.#fresh();
    if (this.#runs >= MOST_RUNS) throw new DeviceError(`webgpu: ${this.#runs} runs are unfinished`, { value: this.#runs, fix: "a loop that never awaits cannot hear from the device: await a loss, or the backend's pace(2), now and then" });
    const stores = plan.buffers.map((b): Cell | null => {
      if (b.kind !== "store") return null;
      const cell = this.#own(bindings.stores[b.position]);
      if (cell.length < b.length || cell.dtype !== b.dtype) throw new ShapeError(`webgpu: store ${b.position} holds ${cell.length} ${cell.dtype}, the plan wants ${b.length} ${b.dtype}`);
      return cell;
    });
    const later = !this.#queue.idle || this.#device.gone !== null || ready.instance === null || waits(ready.instance);
    const inputs = plan.buffers.map((b): Cell | TypedArray | null => {
      if (b.kind !== "input") return null;
      const data = bindings.inputs[b.position];
      if (data !== undefined && ArrayBuffer.isView(data)) {
        if (data.length !== b.length || data.BYTES_PER_ELEMENT !== bytesOf(b.dtype)) throw new ShapeError(`webgpu input ${b.position}: ${b.length} elements of ${b.dtype} wanted`, { value: `${data.length} elements of ${data.BYTES_PER_ELEMENT} bytes` });
        return later ? data.slice() : data;
      }
      if (data === undefined) throw new ShapeError(`webgpu input ${b.position}: ${b.length} elements of ${b.dtype} wanted`, { value: "nothing" });
      const cell = this.#own(data);
      if (cell.length !== b.length || cell.dtype !== b.dtype) throw new ShapeError(`webgpu input ${b.position}: ${b.length} elements of ${b.dtype} wanted`, { value: `${cell.length} elements of ${cell.dtype}` });
      return cell;
    });
    stores.forEach((cell, i) => { if (cell !== null && this.#dead(cell) && ready.layout.written.has(i) === false) throw deadCell(cell, `store ${plan.buffers[i].position}`); });
    for (const cell of inputs) if (cell instanceof Cell && cell.kind === "answer") { if (cell.failed !== null) throw cell.failed; if (this.#dead(cell)) throw deadCell(cell, "an answer"); }
    const answers: Cell[] = [];
    plan.buffers.forEach((b, i) => { if (b.kind === "output") { answers[b.position] = new Cell(b.dtype, b.length, "answer"); void i; } });
    const arrivals = new Map<Cell, (v: ArrayBuffer | Promise<ArrayBuffer>) => void>();
    for (const b of plan.buffers) {
      if (b.kind !== "output" || ready.layout.homes[plan.buffers.indexOf(b)] !== "step") continue;
      const cell = answers[b.position];
      cell.host = new Promise((resolve) => { arrivals.set(cell, resolve); });
      cell.host.catch(() => {});
    }
    const uniforms = later ? [...bindings.uniforms] : bindings.uniforms;
    this.#runs++;
    this.#queue.push({
      wait: () => this.#open() ?? this.#instance(ready).waiting,
      run: () => { this.#execute(ready, stores, inputs, uniforms, answers, arrivals); },
      fail: (error) => {
        for (const c of answers) c.failed = error;
        for (const arrive of arrivals.values()) arrive(Promise.reject(error));
        if (!(this.#closed || this.#device.gone !== null)) this.#hear(error);
        this.#finished();
      },
    });
    return { take: (position) => answers[position] };
  }

  #execute(ready: Ready, stores: readonly (Cell | null)[], inputs: readonly (Cell | TypedArray | null)[], uniforms: readonly number[], answers: readonly Cell[], arrivals: ReadonlyMap<Cell, (v: ArrayBuffer | Promise<ArrayBuffer>) => void>): void {
    const { plan, layout } = ready, instance = this.#instance(ready), memory = this.#memory, { gpu } = this.#device, { queue } = gpu;
    const encoder = gpu.createCommandEncoder({ label: "adjoint step" });
    stores.forEach((cell, b) => {
      if (cell === null) return;
      if (this.#dead(cell) && !layout.written.has(b)) throw deadCell(cell, `store ${plan.buffers[b].position}`);
      if (layout.touched.has(b)) memory.mark(cell);
      this.#ready(cell, encoder);
      instance.bind(b, cell.region);
    });
    inputs.forEach((from, b) => {
      if (from === null || layout.places[b] < 0) return;
      if (!(from instanceof Cell)) {
        instance.bind(b, null);
        const at = instance.places[b]!;
        this.#upload(at.buffer, at.offset, from);
        return;
      }
      if (from.failed !== null) throw from.failed;
      if (this.#dead(from)) throw deadCell(from, "an input");
      this.#ready(from, encoder);
      const bytes = layout.bytes[b];
      if (from.kind === "answer" && bytes > SMALL_INPUT) { instance.bind(b, from.region); return; }
      instance.bind(b, null);
      const at = instance.places[b]!;
      encoder.copyBufferToBuffer(from.region!.buffer, from.region!.offset, at.buffer, at.offset, bytes);
    });
    plan.buffers.forEach((b, i) => {
      if (b.kind !== "output") return;
      memory.place(answers[b.position]);
      answers[b.position].blank = false;
      if (layout.homes[i] === "answer") instance.bind(i, answers[b.position].region);
    });
    if (plan.uniforms.length > 0) {
      plan.uniforms.forEach((type, i) => { if (type === "float") ready.floats[i] = uniforms[i]; else ready.host[i] = uniforms[i]; });
      queue.writeBuffer(this.#numbers.get(blockOf(plan))!, 0, ready.host);
      this.stats.uploads++;
    }
    instance.settle();
    const total = instance.slots.length, most = this.#options.dispatchesPerSubmit ?? (inNode ? Infinity : 1024);
    let now = encoder, check: Promise<Error | null> | null = null;
    for (let from = 0; from < total;) {
      const to = Math.min(total, from + most), pass = now.beginComputePass();
      instance.encode(pass, from, to);
      pass.end();
      from = to;
      if (from < total) { check = both(check, this.#submit(now, "a step")); now = gpu.createCommandEncoder({ label: "adjoint step" }); }
    }
    this.stats.dispatches += total;
    const landed = this.#land(ready, instance, now, answers);
    check = both(check, this.#submit(now, "a step"));
    const done: Promise<ArrayBuffer | null> = landed === null ? this.#device.guard(queue.onSubmittedWorkDone()).then(() => null) : memory.staging.land(landed.landing, landed.bytes);
    const result = this.#checked(done, check);
    result.then((bytes) => {
      if (landed !== null && bytes !== null) for (const [cell, at] of landed.at) arrivals.get(cell)!(bytes.slice(at, at + Math.max(4, (cell.bytes + 3) & ~3)));
      this.#finished();
    }, (error: unknown) => {
      for (const c of answers) c.failed = error;
      for (const arrive of arrivals.values()) arrive(Promise.reject(error));
      if (this.#device.gone === null) this.#hear(error);
      this.#finished();
    });
  }
  /** Copies small answers out of the step's memory: to where they stay, and to where the host reads them. */
  #land(ready: Ready, instance: Instance, encoder: GPUCommandEncoder, answers: readonly Cell[]): { readonly landing: Landing; readonly bytes: number; readonly at: ReadonlyMap<Cell, number> } | null {
    const { plan, layout } = ready, at = new Map<Cell, number>();
    let bytes = 0;
    plan.buffers.forEach((b, i) => { if (b.kind === "output" && layout.homes[i] === "step") { at.set(answers[b.position], bytes); bytes += layout.bytes[i]; } });
    if (at.size === 0) return null;
    const landing = this.#memory.staging.take(bytes);
    plan.buffers.forEach((b, i) => {
      if (b.kind !== "output" || layout.homes[i] !== "step") return;
      const from = instance.places[i]!, cell = answers[b.position], size = layout.bytes[i];
      encoder.copyBufferToBuffer(from.buffer, from.offset, cell.region!.buffer, cell.region!.offset, size);
      encoder.copyBufferToBuffer(from.buffer, from.offset, landing.buffer, at.get(cell)!, size);
    });
    return { landing, bytes, at };
  }

  // ---- pace and end ----------------------------------------------------------------------------------------------------
  /** Resolves when at most `queued` runs are unfinished; rejects with an error that the device reported meanwhile. */
  pace(queued: number): Promise<void> {
    return new Promise((resolve, reject) => {
      try { this.#raise(); } catch (e) { reject(e); return; }
      if (this.#runs <= queued) { resolve(); return; }
      this.#waiters.push({ queued, resolve, reject });
    });
  }
  #finished(): void {
    this.#runs--;
    if (this.#waiters.length === 0) return;
    const all = this.#waiters;
    this.#waiters = [];
    for (const w of all) {
      if (this.#unheard !== null) { const e = this.#unheard; this.#unheard = null; w.reject(e); } else if (this.#runs <= w.queued) w.resolve(); else this.#waiters.push(w);
    }
  }
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#queue.reject(closedError(), true);
    this.#device.gpu.destroy();
  }

  // ---- devices come and go ---------------------------------------------------------------------------------------------
  #adopt(device: Device): DeviceMemory {
    const memory = new DeviceMemory(device);
    device.memoryReport = () => showMemory(memory.byClass);
    device.onError = (e) => { this.#hear(e); };
    device.onLost = (e) => {
      if (this.#device !== device) return;
      this.#numbers.clear();
      this.#queue.reject(this.#closed ? closedError() : e, false);
      const all = this.#waiters;
      this.#waiters = [];
      for (const w of all) w.reject(e);
    };
    return memory;
  }
  /** After a loss, the next call asks for a new device. */
  #fresh(): void {
    if (this.#closed) throw closedError();
    if (this.#device.gone !== null) void this.#open();
  }
  /** What an operation must wait for before there is a device. */
  #open(): Promise<void> | null {
    if (this.#device.gone === null) return null;
    if (this.#openError !== null) { const e = this.#openError; this.#openError = null; throw e; }
    return (this.#opening ??= Device.open(this.#options, this.stats, this.#device.generation + 1).then((device) => {
      if (this.#closed) { device.gpu.destroy(); return; }
      this.#device = device;
      this.#memory = this.#adopt(device);
    }, (e: unknown) => { this.#openError = e instanceof Error ? e : new DeviceError(messageOf(e)); }).finally(() => { this.#opening = null; }));
  }
  #dead(cell: Cell): boolean { return cell.region !== null && (cell.generation !== this.#device.generation || this.#device.gone !== null); }
  /** Gives a cell a place, and zeros if nothing was written yet. */
  #ready(cell: Cell, encoder: GPUCommandEncoder): void {
    this.#memory.place(cell);
    if (!cell.blank) return;
    encoder.clearBuffer(cell.region!.buffer, cell.region!.offset, cell.region!.bytes);
    cell.blank = false;
  }
  #upload(buffer: GPUBuffer, offset: number, data: TypedArray): void {
    const { queue } = this.#device.gpu, bytes = data.byteLength;
    this.stats.uploads++;
    if (bytes % 4 === 0) { queue.writeBuffer(buffer, offset, data.buffer as ArrayBuffer, data.byteOffset, bytes); return; }
    const padded = new Uint8Array((bytes + 3) & ~3);
    padded.set(new Uint8Array(data.buffer, data.byteOffset, bytes));
    queue.writeBuffer(buffer, offset, padded);
  }
  /** Submits; the promise says what validation found, where the device validates. */
  #submit(encoder: GPUCommandEncoder, what: string): Promise<Error | null> | null {
    const { gpu, validated } = this.#device;
    this.stats.submits++;
    if (!validated) { gpu.queue.submit([encoder.finish()]); return null; }
    gpu.pushErrorScope("validation");
    try {
      gpu.queue.submit([encoder.finish()]);
    } finally { this.#scope = this.#device.guard(gpu.popErrorScope()).then((e) => (e === null ? null : reported(e, what, () => this.showMemory())), (e: unknown) => (e instanceof Error ? e : new DeviceError(messageOf(e)))); }
    return this.#scope;
  }
  #scope: Promise<Error | null> | null = null;
  async #checked<T>(value: Promise<T>, check: Promise<Error | null> | null): Promise<T> {
    if (check === null) return value;
    value.catch(() => {});
    const error = await check;
    if (error !== null) throw error;
    return value;
  }
  #hear(error: unknown): void { this.#unheard ??= error instanceof Error ? error : new DeviceError(messageOf(error)); }
  #raise(): void {
    if (this.#unheard === null) return;
    const e = this.#unheard;
    this.#unheard = null;
    throw e;
  }

  #check(dtype: DType, what: string): void { if (!this.dtypes.has(dtype)) throw new DTypeError(`webgpu ${what}: ${dtype} does not exist on this device`, { key: dtype, fix: "cast to f32" }); }
  #own(buffer: DeviceBuffer): Cell {
    if (!(buffer instanceof Cell)) throw new DeviceError("webgpu: the buffer belongs to another backend");
    if (buffer.freed) throw new DeviceError("webgpu: the buffer was freed");
    return buffer;
  }
  #plan(prepared: Prepared): Ready {
    if (!(prepared instanceof Ready)) throw new DeviceError("webgpu: the plan was prepared by another backend");
    if (prepared.released) throw new DeviceError("webgpu: the plan was released");
    if (this.#closed) throw closedError();
    return prepared;
  }
}

function waits(instance: Instance): boolean { try { return instance.waiting !== null; } catch { return false; } }
const both = (a: Promise<Error | null> | null, b: Promise<Error | null> | null): Promise<Error | null> | null => (a === null ? b : b === null ? a : Promise.all([a, b]).then(([x, y]) => x ?? y));

/** Opens the GPU. */
export async function webgpu(options: WebGpuOptions = {}): Promise<WebGpuBackend> {
  checkOptions(options);
  const stats = newStats();
  return new WebGpuBackend(await Device.open(options, stats, 1), options, stats);
}
export type { Kernel };
