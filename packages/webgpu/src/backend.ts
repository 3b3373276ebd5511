/** The WebGPU backend: every call becomes an operation, and operations happen in the order of their calls. */
import {
  type Backend, type Bindings, bytesOf, ConfigError, type Counters, type DeviceBuffer, DeviceError, type DType, DTypeError, hostArray, type Kernel, type PlanSpec, type Prepared, type RunResult, ShapeError, type TypedArray, viewBytes,
} from "@adjoint/tensor";
import type { AdapterReport } from "./adapter.ts";
import { composites } from "./composites/index.ts";
import type { Stats } from "./device.ts";
import { closedError } from "./errors.ts";
import { checkOptions, type WebGpuOptions } from "./gpu.ts";
import { lower } from "./lower.ts";
import { Cell, deadCell, type MemoryByClass, showMemory } from "./memory.ts";
import { Pace } from "./pace.ts";
import { deviceBytes, type Layout, layOut } from "./plan.ts";
import type { Target } from "./program.ts";
import type { ProfileRow } from "./profile.ts";
import { blockOf, Instance } from "./replay.ts";
import { type Host, Ready, Run } from "./run.ts";
import { checked, Session } from "./session.ts";

/** Runs that may be unfinished before `run` refuses another one. */
const MOST_RUNS = 100;

export class WebGpuBackend implements Backend {
  readonly name = "webgpu";
  readonly dtypes: ReadonlySet<DType> = new Set<DType>(["f32", "f16", "bf16", "i32", "u32", "u8", "i8", "bool"]);
  readonly fuse = true;
  readonly composites: ReadonlySet<string> = new Set(composites.keys());
  readonly products = 2;
  readonly decodes = true;
  readonly threads = 1;
  readonly sync = false;
  readonly #session: Session;
  readonly #lower: typeof lower;
  readonly #pace = new Pace();
  readonly #host: Host;
  #bufferBytes = 0;
  #buffers = 0;

  /** `lowering` turns a kernel into its program; tests put their own there. */
  constructor(session: Session, lowering: typeof lower = lower) {
    this.#session = session;
    this.#lower = lowering;
    this.#host = { session, instance: (ready) => this.#instance(ready), own: (buffer) => this.#own(buffer), ended: () => { this.#pace.end(session.unheard); } };
    session.onLost = (e) => { this.#pace.fail(e); };
  }

  // ---- what there is --------------------------------------------------------------------------------------------------
  get adapter(): AdapterReport { return this.#session.device.report; }
  get target(): Target { return this.#session.device.target; }
  /** What was made and done so far; a steady-state step moves submits, dispatches and uploads only. */
  get stats(): Readonly<Stats> { return this.#session.stats; }
  get memoryByClass(): MemoryByClass { return this.#session.memory.byClass; }
  /** Memory by class, in words. */
  showMemory(): string { return showMemory(this.memoryByClass); }
  get counters(): Counters {
    const { stats, memory } = this.#session;
    // pages: GPU buffers that are alive; stores and step values share them
    return { arenaBytes: memory.workspace.bytes, bufferBytes: this.#bufferBytes, buffers: this.#buffers, pages: this.#session.device.alive, modules: stats.pipelines, messages: stats.bindGroupsCreated };
  }

  // ---- buffers ---------------------------------------------------------------------------------------------------------
  /** Zeros; the memory is taken when the buffer is first used. */
  alloc(dtype: DType, length: number): DeviceBuffer {
    this.#check(dtype, "alloc");
    this.#session.enter();
    const { bindingBytes } = this.target.limits, bytes = deviceBytes(dtype, length);
    if (bytes > bindingBytes) {
      throw new DeviceError(`webgpu: a buffer of ${length} ${dtype} takes ${bytes} bytes; this device binds at most ${bindingBytes}`, { key: "maxStorageBufferBindingSize", value: bytes, fix: "store it in half precision, or split it by rows" });
    }
    const cell = new Cell(dtype, length, "store");
    this.#buffers++;
    this.#bufferBytes += cell.bytes;
    return cell;
  }
  free(buffer: DeviceBuffer): void {
    const cell = this.#own(buffer);
    cell.freed = true;
    if (cell.kind === "store") { this.#buffers--; this.#bufferBytes -= cell.bytes; }
    this.#session.queue.push({ wait: () => null, run: () => { this.#session.memory.release(cell); }, fail: () => { cell.region = null; } });
  }
  /** Replaces all numbers; a buffer that was lost with its device lives again. */
  write(buffer: DeviceBuffer, data: TypedArray): void {
    const cell = this.#own(buffer), session = this.#session;
    if (data.length !== cell.length || data.BYTES_PER_ELEMENT !== bytesOf(cell.dtype)) {
      throw new ShapeError(`webgpu write: ${cell.length} elements of ${cell.dtype} wanted`, { value: `${data.length} elements of ${data.BYTES_PER_ELEMENT} bytes` });
    }
    session.enter();
    const numbers = session.busy ? data.slice() : data;
    session.queue.push({
      wait: () => session.waiting,
      run: () => { session.memory.place(cell); session.upload(cell.region!.buffer, cell.region!.offset, numbers); cell.blank = false; },
      fail: (e) => { session.hear(e); },
    });
  }
  async read(buffer: DeviceBuffer): Promise<TypedArray> {
    const cell = this.#own(buffer), session = this.#session;
    if (cell.host === null) { session.enter(); session.raise(); }
    const bytes = await (cell.host ?? this.#fetch(cell));
    if (session.unheard !== null) throw session.unheard;
    const out = hostArray(cell.dtype, cell.length);
    out.set(viewBytes(cell.dtype, bytes, 0, cell.length));
    return out;
  }
  #fetch(cell: Cell): Promise<ArrayBuffer> {
    const session = this.#session, size = Math.max(4, (cell.bytes + 3) & ~3);
    const whole = (): void => {
      if (cell.failed !== null) throw cell.failed;
      if (session.dead(cell)) throw deadCell(cell, cell.kind === "store" ? "a store" : "an answer");
    };
    if (cell.failed !== null) return Promise.reject(cell.failed);
    return new Promise((resolve, reject) => {
      session.queue.push({
        wait: () => session.waiting,
        run: () => {
          whole();
          const landing = session.memory.staging.take(size), encoder = session.device.gpu.createCommandEncoder({ label: "adjoint read" });
          session.prepare(cell, encoder);
          encoder.copyBufferToBuffer(cell.region!.buffer, cell.region!.offset, landing.buffer, 0, size);
          const check = session.submit(encoder, "read");
          checked(session.memory.staging.land(landing, size), [check]).then((bytes) => { if (cell.failed === null) resolve(bytes); else reject(cell.failed); }, reject);
        },
        fail: reject,
      });
    });
  }

  // ---- plans -----------------------------------------------------------------------------------------------------------
  prepare(plan: PlanSpec): Prepared {
    this.#session.enter();
    for (const b of plan.buffers) this.#check(b.dtype, `${b.kind} ${b.position}`);
    const { target } = this, ready = new Ready(plan, this.#layout(plan, target), target);
    this.#session.stats.plans++;
    if (!this.#session.busy) this.#instance(ready);
    return ready;
  }
  #layout(plan: PlanSpec, target: Target): Layout { return layOut(plan, plan.kernels.map((k) => this.#lower(k, plan, target)), target); }
  /** The plan on the present device; lowered again where a new device can do other things. */
  #instance(ready: Ready): Instance {
    const { device, memory } = this.#session, { plan } = ready;
    if (ready.instance?.device === device) return ready.instance;
    if (device.target !== ready.target && JSON.stringify(device.target) !== JSON.stringify(ready.target)) {
      ready.layout = this.#layout(plan, device.target);
      ready.target = device.target;
    }
    return (ready.instance = new Instance(device, memory, plan, ready.layout, plan.uniforms.length > 0 ? this.#session.numbers(blockOf(plan)) : null));
  }
  /** Queued: it begins when the calls before it are done and its pipelines are compiled. */
  run(prepared: Prepared, bindings: Bindings): RunResult {
    const ready = this.#plan(prepared), session = this.#session;
    session.raise();
    session.enter();
    if (this.#pace.runs >= MOST_RUNS) throw new DeviceError(`webgpu: ${this.#pace.runs} runs are unfinished`, { value: this.#pace.runs, fix: "a loop that never awaits cannot hear from the device: await a loss, or pace(2), in every step" });
    const run = new Run(this.#host, ready, bindings, session.busy || ready.instance === null || ready.instance.unready), { answers } = run, taken = new Set<Cell>();
    this.#pace.begin();
    session.queue.push(run);
    const result: RunResult = { take: (position) => { taken.add(answers[position]); return answers[position]; } };
    if (answers.length > 0) this.#forgotten.register(result, { answers, taken });
    return result;
  }
  /** Answers that nobody took go back when the result is forgotten. */
  readonly #forgotten = new FinalizationRegistry<{ readonly answers: readonly Cell[]; readonly taken: ReadonlySet<Cell> }>(({ answers, taken }) => {
    for (const c of answers) if (!taken.has(c) && !c.freed) this.free(c);
  });
  release(prepared: Prepared): void {
    const ready = this.#plan(prepared), session = this.#session;
    ready.released = true;
    const drop = (): void => {
      if (ready.instance !== null && ready.instance.device === session.device && session.device.gone === null) ready.instance.release();
      ready.instance = null;
    };
    session.queue.push({ wait: () => null, run: drop, fail: drop });
  }
  /** The WGSL of a kernel, with its workgroups and the buffers that it binds. */
  source(kernel: Kernel, plan: PlanSpec): string {
    const { dispatches, scratch } = this.#lower(kernel, plan, this.target);
    const name = (b: number): string => (b < plan.buffers.length ? `b${b}` : `temporary ${b - plan.buffers.length} (${scratch[b - plan.buffers.length]} bytes)`);
    return dispatches.map((d) => `// ${d.label}: workgroups ${d.workgroups.join(" x ")}; ${d.bindings.map((b, i) => `binding ${i + 2} = ${name(b.buffer)}`).join(", ")}; P = ${d.params.join(", ")}\n${d.code}`).join("\n\n");
  }
  /** Resolves when at most `queued` runs are unfinished; rejects with an error that the device reported meanwhile. */
  async pace(queued: number): Promise<void> {
    if (this.#session.closed) throw closedError();
    this.#session.raise();
    await this.#pace.wait(queued);
    this.#session.raise();
  }
  /** What each kernel took since the last look, the slowest first; needs `profile: true`. Waits for the runs so far. */
  async profile(): Promise<ProfileRow[]> {
    const { profiler } = this.#session;
    if (profiler === null) throw new ConfigError("webgpu: times were not measured", { key: "profile", fix: "open the device with webgpu({ profile: true })" });
    await this.pace(0);
    return profiler.rows();
  }
  /** Ends the device; what waits is rejected. */
  close(): Promise<void> {
    if (!this.#session.closed) this.#session.close();
    return Promise.resolve();
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
    return prepared;
  }
}

/** Opens the GPU. @example setDevice(await webgpu()) */
export async function webgpu(options: WebGpuOptions = {}): Promise<WebGpuBackend> {
  checkOptions(options);
  return new WebGpuBackend(await Session.open(options));
}
