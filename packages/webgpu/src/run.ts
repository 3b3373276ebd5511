/** One run of a plan: its arguments are checked at the call, and it is encoded when its turn comes. */
import { type Bindings, bytesOf, type BufferSpec, type DeviceBuffer, DeviceError, type PlanSpec, type Prepared, ShapeError, type TypedArray } from "@adjoint/tensor";
import { asError } from "./errors.ts";
import { Cell, deadCell } from "./memory.ts";
import { type Layout, SMALL_INPUT } from "./plan.ts";
import type { Target } from "./program.ts";
import type { Operation } from "./queue.ts";
import { blockOf, type Instance } from "./replay.ts";
import { type Check, checked, type Session } from "./session.ts";
import { inNode } from "./gpu.ts";
import type { Profiler } from "./profile.ts";
import type { Landing } from "./staging.ts";

interface Part { readonly buffer: number; readonly spec: BufferSpec }

/** A plan that was laid out; its instance belongs to one device. */
export class Ready implements Prepared {
  readonly plan: PlanSpec;
  layout: Layout;
  target: Target;
  instance: Instance | null = null;
  released = false;
  readonly stores: readonly Part[];
  readonly inputs: readonly Part[];
  readonly outputs: readonly Part[];
  /** stores that lie side by side, by their positions in `stores` */
  get unions(): readonly (readonly number[])[] { return (this.#unions ??= this.layout.storeUnions.map((u) => u.map((b) => this.stores.findIndex((s) => s.buffer === b)))); }
  #unions: readonly (readonly number[])[] | null = null;
  readonly words: Uint32Array<ArrayBuffer>;
  readonly floats: Float32Array<ArrayBuffer>;
  constructor(plan: PlanSpec, layout: Layout, target: Target) {
    const parts = (kind: BufferSpec["kind"]): Part[] => plan.buffers.flatMap((spec, buffer) => (spec.kind === kind ? [{ buffer, spec }] : []));
    this.plan = plan; this.layout = layout; this.target = target;
    this.stores = parts("store"); this.inputs = parts("input"); this.outputs = parts("output");
    this.words = new Uint32Array((plan.uniforms.length + 3) & ~3);
    this.floats = new Float32Array(this.words.buffer);
  }
}

/** What a run needs of its backend. */
export interface Host {
  readonly session: Session;
  /** the plan on the present device */
  instance(ready: Ready): Instance;
  own(buffer: DeviceBuffer): Cell;
  ended(): void;
}
type Arrive = (v: ArrayBuffer | Promise<ArrayBuffer>) => void;

export class Run implements Operation {
  readonly answers: Cell[] = [];
  readonly #host: Host;
  readonly #ready: Ready;
  readonly #stores: readonly Cell[];
  readonly #inputs: readonly (Cell | TypedArray)[];
  readonly #uniforms: readonly number[];
  readonly #arrivals: { readonly cell: Cell; readonly buffer: number; readonly arrive: Arrive }[] = [];
  #over = false;

  constructor(host: Host, ready: Ready, bindings: Bindings, later: boolean) {
    const { session } = host;
    this.#host = host;
    this.#ready = ready;
    this.#stores = ready.stores.map(({ buffer, spec }) => {
      const cell = host.own(bindings.stores[spec.position]);
      if (cell.length < spec.length || cell.dtype !== spec.dtype) throw new ShapeError(`webgpu: store ${spec.position} holds ${cell.length} ${cell.dtype}, the plan wants ${spec.length} ${spec.dtype}`);
      if (session.queue.idle && session.dead(cell) && !ready.layout.written.has(buffer)) throw deadCell(cell, `store ${spec.position}`);
      return cell;
    });
    this.#inputs = ready.inputs.map(({ spec }) => this.#input(bindings.inputs[spec.position], spec, later));
    if (bindings.uniforms.length < ready.plan.uniforms.length) throw new ShapeError(`webgpu: ${ready.plan.uniforms.length} step numbers wanted`, { value: bindings.uniforms.length });
    this.#uniforms = later ? [...bindings.uniforms] : bindings.uniforms;
    for (const { buffer, spec } of ready.outputs) {
      const cell = new Cell(spec.dtype, spec.length, "answer");
      this.answers[spec.position] = cell;
      if (ready.layout.homes[buffer] !== "step") continue;
      cell.host = new Promise((arrive) => { this.#arrivals.push({ cell, buffer, arrive }); });
      cell.host.catch(() => {});                            // whoever reads the answer gets the rejection
    }
  }
  #input(data: TypedArray | DeviceBuffer | undefined, spec: BufferSpec, later: boolean): Cell | TypedArray {
    const wrong = (value: string): ShapeError => new ShapeError(`webgpu input ${spec.position}: ${spec.length} elements of ${spec.dtype} wanted`, { value });
    if (data === undefined) throw wrong("nothing");
    if (ArrayBuffer.isView(data)) {
      if (data.length !== spec.length || data.BYTES_PER_ELEMENT !== bytesOf(spec.dtype)) throw wrong(`${data.length} elements of ${data.BYTES_PER_ELEMENT} bytes`);
      return later ? data.slice() : data;
    }
    const cell = this.#host.own(data);
    if (cell.length !== spec.length || cell.dtype !== spec.dtype) throw wrong(`${cell.length} elements of ${cell.dtype}`);
    if (cell.failed !== null) throw cell.failed;
    if (this.#host.session.queue.idle && this.#host.session.dead(cell)) throw deadCell(cell, `input ${spec.position}`);
    return cell;
  }

  wait(): Promise<unknown> | null {
    const { session } = this.#host, wait = session.waiting ?? this.#host.instance(this.#ready).waiting;
    if (wait === null && session.unheard !== null) throw session.unheard;       // what it builds on went wrong
    return wait;
  }
  fail(cause: unknown): void {
    if (this.#over) return;
    this.#over = true;
    const error = asError(cause);
    for (const c of this.answers) c.failed = error;
    for (const a of this.#arrivals) a.arrive(Promise.reject(error));
    this.#host.session.hear(error);
    this.#host.ended();
  }

  run(): void {
    const { session } = this.#host, ready = this.#ready, { plan } = ready, instance = this.#host.instance(ready), { gpu } = session.device, { stats } = session;
    let encoder = gpu.createCommandEncoder({ label: "adjoint step" });
    this.#bind(instance, encoder);
    if (plan.uniforms.length > 0) {
      plan.uniforms.forEach((type, i) => { if (type === "float") ready.floats[i] = this.#uniforms[i]; else ready.words[i] = this.#uniforms[i]; });
      gpu.queue.writeBuffer(session.numbers(blockOf(plan)), 0, ready.words);
      stats.uploads++;
    }
    instance.settle();
    const { profiler } = session, total = instance.slots.length, wanted = session.options.dispatchesPerSubmit ?? (inNode ? Infinity : 1024), checks: Check[] = [];
    const most = profiler === null ? wanted : Math.min(wanted, profiler.most);
    for (let from = 0; from < total;) {
      const to = Math.min(total, from + most), timed = profiler === null ? null : this.#timed(profiler, instance, encoder, from, to);
      if (timed === null) stats.dispatches += instance.encode(encoder, from, to);
      if (to < total || timed !== null) { checks.push(session.submit(encoder, "a step")); encoder = gpu.createCommandEncoder({ label: "adjoint step" }); }
      timed?.();
      from = to;
    }
    stats.bytes += instance.work.bytes;
    stats.flops += instance.work.flops;
    const landing = this.#copyOut(instance, encoder);
    checks.push(session.submit(encoder, "a step"));
    for (const leave of this.#left) leave();
    const done: Promise<ArrayBuffer | null> = landing === null ? session.device.guard(gpu.queue.onSubmittedWorkDone()).then(() => null) : session.memory.staging.land(landing.landing, landing.bytes);
    checked(this.#times.then(() => done), checks).then((bytes) => { this.#arrive(bytes); }, (error: unknown) => { this.fail(error); });
  }
  /** Encodes dispatches with timestamps; what it gives back takes their times in after the submit. */
  #timed(profiler: Profiler, instance: Instance, encoder: GPUCommandEncoder, from: number, to: number): () => void {
    const { device, memory, stats } = this.#host.session;
    const timed = instance.encodeTimed(encoder, from, to, profiler.queries(device).set), landing = profiler.resolve(device, memory.staging, encoder, timed.length);
    stats.dispatches += timed.length;
    return () => { this.#times = Promise.all([this.#times, profiler.take(memory.staging, landing, timed)]); this.#times.catch(() => {}); };
  }
  /** what may be let go once the copies are submitted */
  readonly #left: (() => void)[] = [];
  #times: Promise<unknown> = Promise.resolve();
  #bind(instance: Instance, encoder: GPUCommandEncoder): void {
    const { session } = this.#host, { layout, stores, inputs, outputs } = this.#ready, { memory } = session;
    stores.forEach(({ buffer, spec }, i) => {
      const cell = this.#stores[i];
      if (session.dead(cell) && !layout.written.has(buffer)) throw deadCell(cell, `store ${spec.position}`);
      if (layout.touched.has(buffer)) cell.state = true;
      session.prepare(cell, encoder);
    });
    if (layout.storeUnions.length > 0) for (const list of this.#ready.unions) {
      const leave = memory.gather(list.map((i) => this.#stores[i]), encoder);
      if (leave !== null) this.#left.push(leave);
    }
    stores.forEach(({ buffer }, i) => { instance.bind(buffer, this.#stores[i].region); });
    inputs.forEach(({ buffer, spec }, i) => {
      const from = this.#inputs[i];
      if (layout.places[buffer] < 0) return;                // no kernel reads it
      if (!(from instanceof Cell)) {
        instance.bind(buffer, null);
        const at = instance.places[buffer]!;
        session.upload(at.buffer, at.offset, from);
        return;
      }
      if (from.failed !== null) throw from.failed;
      if (session.dead(from)) throw deadCell(from, `input ${spec.position}`);
      session.prepare(from, encoder);
      const bytes = layout.bytes[buffer];
      // a store may share its page with one that this plan writes, so it is copied too
      if (from.kind === "answer" && bytes > SMALL_INPUT) { instance.bind(buffer, from.region); return; }
      instance.bind(buffer, null);
      const at = instance.places[buffer]!;
      encoder.copyBufferToBuffer(from.region!.buffer, from.region!.offset, at.buffer, at.offset, bytes);
    });
    for (const { buffer, spec } of outputs) {
      const cell = this.answers[spec.position];
      memory.place(cell);
      cell.blank = false;
      if (layout.homes[buffer] === "answer") instance.bind(buffer, cell.region);
    }
  }
  /** Copies small answers out of the step's memory: to where they stay, and to where the host reads them. */
  #copyOut(instance: Instance, encoder: GPUCommandEncoder): { readonly landing: Landing; readonly bytes: number } | null {
    const { layout } = this.#ready, bytes = this.#arrivals.reduce((n, a) => n + layout.bytes[a.buffer], 0);
    if (bytes === 0) return null;
    const landing = this.#host.session.memory.staging.take(bytes);
    let to = 0;
    for (const { cell, buffer } of this.#arrivals) {
      const from = instance.places[buffer]!, size = layout.bytes[buffer];
      encoder.copyBufferToBuffer(from.buffer, from.offset, cell.region!.buffer, cell.region!.offset, size);
      encoder.copyBufferToBuffer(from.buffer, from.offset, landing.buffer, to, size);
      to += size;
    }
    return { landing, bytes };
  }
  #arrive(bytes: ArrayBuffer | null): void {
    if (this.#over) return;
    this.#over = true;
    let at = 0;
    for (const { buffer, arrive } of this.#arrivals) {
      const size = this.#ready.layout.bytes[buffer];
      arrive(bytes === null ? Promise.reject(new DeviceError("webgpu: an answer did not arrive")) : bytes.slice(at, at + size));
      at += size;
    }
    this.#host.ended();
  }
}
