/**
 * The reference backend: readable loops in f64 that every other backend is compared with.
 *
 * It runs one node a kernel, gives every buffer its own array (so it cannot share a fault of the memory plan with a
 * device), and interprets formulas by closures: no `eval`, hence at home under a strict content security policy.
 */
import type { Backend, Bindings, BufferSpec, Counters, DeviceBuffer, PlanSpec, Prepared, RunResult } from "../backend.ts";
import { bytesOf, dtypes, hostArray, viewBytes, type DType, type TypedArray } from "../dtype.ts";
import { showExpr } from "../expr.ts";
import { DeviceError } from "../errors.ts";
import { runnerOf, type Runner } from "./kernels.ts";

export { loopOf, type Lane, type Loop } from "./intrinsics.ts";

/** Variations for tests. */
export interface ReferenceOptions {
  readonly name?: string;
  /** accept fused kernels; default false */
  readonly fuse?: boolean;
  /** slots lie at the plan's offsets in one arena that is filled with NaN before each run, which exposes a wrong memory plan; default false */
  readonly arena?: boolean;
  /** false: answers stay on the device and are read later, as on a GPU; default true */
  readonly sync?: boolean;
  /** how many matmuls a fused contract kernel may add up; default 1 */
  readonly products?: number;
}
const turn = (): Promise<void> => new Promise((resolve) => { setTimeout(resolve, 0); });

class Cell implements DeviceBuffer {
  readonly dtype: DType;
  readonly length: number;
  data: TypedArray;
  alive = true;
  constructor(dtype: DType, length: number, data: TypedArray = hostArray(dtype, length)) { this.dtype = dtype; this.length = length; this.data = data; }
  get bytes(): number { return bytesOf(this.dtype) * this.length; }
}

class ReadyPlan implements Prepared {
  readonly plan: PlanSpec;
  readonly runners: readonly Runner[];
  readonly slots: readonly (TypedArray | undefined)[];
  readonly arena: Uint8Array | undefined;
  readonly bytes: number;
  constructor(plan: PlanSpec, shared: boolean) {
    this.plan = plan;
    this.runners = plan.kernels.map(runnerOf);
    const arena = shared ? new Uint8Array(plan.arenaBytes) : undefined;
    this.arena = arena;
    this.slots = plan.buffers.map((b) => (b.kind !== "slot" || b.offset + b.length * bytesOf(b.dtype) > plan.arenaBytes ? undefined : arena ? viewBytes(b.dtype, arena.buffer, b.offset, b.length) : hostArray(b.dtype, b.length)));
    this.bytes = this.slots.reduce((sum, s) => sum + (s?.byteLength ?? 0), 0);
  }
}

const outputDType = (plan: PlanSpec, position: number): DType => plan.buffers.find((b) => b.kind === "output" && b.position === position)!.dtype;

/** Makes a reference backend; `referenceBackend` is the plain one. */
export function createReference({ name = "reference", fuse = false, arena = false, sync = true, products = 1 }: ReferenceOptions = {}): Backend {
  const counters: Counters = { arenaBytes: 0, bufferBytes: 0, buffers: 0, pages: 0, modules: 0, messages: 0 };

  const cell = (buffer: DeviceBuffer): Cell => {
    if (!(buffer instanceof Cell)) throw new DeviceError(`${name}: a buffer of another backend`);
    if (!buffer.alive) throw new DeviceError(`${name}: a buffer that was freed`);
    return buffer;
  };
  const checked = (data: TypedArray, b: BufferSpec): TypedArray => {
    if (data.length < b.length) throw new DeviceError(`${name}: ${b.kind} ${b.position} has ${data.length} elements, the plan wants ${b.length}`);
    return data;
  };

  const own = (made: Cell): Cell => { counters.buffers++; counters.bufferBytes += made.bytes; return made; };
  /** runs that an asynchronous device would still be busy with, oldest first */
  const unfinished: Promise<void>[] = [];

  return {
    name, fuse, counters, threads: 1, sync, products,
    dtypes: new Set(dtypes),
    composites: new Set<string>(),
    alloc: (dtype, length) => own(new Cell(dtype, length)),
    free(buffer) {
      const old = cell(buffer);
      old.alive = false; old.data = hostArray(old.dtype, 0);
      counters.buffers--; counters.bufferBytes -= old.bytes;
    },
    write(buffer, data) {
      const { length, data: to } = cell(buffer);
      if (data.length !== length) throw new DeviceError(`${name}: ${data.length} elements written to a buffer of ${length}`);
      to.set(data);
    },
    async read(buffer) {
      const data = cell(buffer).data.slice();
      if (!sync) await turn();
      return data;
    },
    ...(sync ? { readSync: (buffer: DeviceBuffer): TypedArray => cell(buffer).data.slice() } : {
      async pace(queued: number): Promise<void> { while (unfinished.length > queued) await unfinished[0]; },
    }),
    prepare(plan) {
      const ready = new ReadyPlan(plan, arena);
      counters.arenaBytes += ready.bytes;
      return ready;
    },
    run(prepared: Prepared, bindings: Bindings): RunResult {
      if (!(prepared instanceof ReadyPlan)) throw new DeviceError(`${name}: a plan of another backend`);
      const { plan, runners, slots } = prepared, outputs: TypedArray[] = [];
      prepared.arena?.fill(0xff); // NaN as a float of any width
      const memory = plan.buffers.map((b, i): TypedArray => {
        switch (b.kind) {
          case "slot": return slots[i] ?? hostArray(b.dtype, b.length);
          case "input": { const from = bindings.inputs[b.position]; return checked(ArrayBuffer.isView(from) ? from : cell(from).data, b); }
          case "store": return checked(cell(bindings.stores[b.position]).data, b);
          case "output": return (outputs[b.position] = hostArray(b.dtype, b.length));
          default: return b.kind satisfies never;
        }
      });
      plan.kernels.forEach((kernel, i) => {
        const uniforms = kernel.kind === "gather" || kernel.kind === "scatterAdd" ? bindings.uniforms : kernel.uniforms.map((u) => bindings.uniforms[u]);
        runners[i]({ memory, uniforms });
      });
      if (sync) return { readSync: (position) => outputs[position] };
      unfinished.push(turn().then(() => { void unfinished.shift(); }));
      return { take: (position) => own(new Cell(outputDType(plan, position), outputs[position].length, outputs[position])) };
    },
    release(prepared) {
      if (prepared instanceof ReadyPlan) counters.arenaBytes -= prepared.bytes;
    },
    source(kernel) {
      return "stores" in kernel ? kernel.stores.map((s) => `${s.view.dtype} = ${showExpr(s.value)}`).join("\n") : kernel.kind;
    },
  };
}

/** The plain reference: every dtype, one node a kernel, f64 inside. */
export const referenceBackend: Backend = createReference();
