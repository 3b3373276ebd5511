/** The CPU backend: plans laid out in one linear memory and run as a list of kernel calls. */
import {
  type Backend, type Bindings, bytesOf, type Counters, type DeviceBuffer, DeviceError, type DType, hostArray, type Kernel, type PlanSpec, type Prepared, type RunResult, ShapeError, type TypedArray, viewBytes,
} from "@adjoint/tensor";
import { runsOf } from "./company.ts";
import { type Compiler, type Entry, recipeOf } from "./compile.ts";
import { checkDType } from "./element.ts";
import type { Executor, Call } from "./executor.ts";
import { describe } from "./explain.ts";
import type { LinearMemory } from "./memory.ts";
import { type Recipe, type Target, WORKSPACE } from "./recipe.ts";
import type { Patch } from "./space.ts";

class Buffer implements DeviceBuffer {
  readonly dtype: DType;
  readonly length: number;
  address: number;
  constructor(dtype: DType, length: number, address: number) { this.dtype = dtype; this.length = length; this.address = address; }
}

class Ready implements Prepared {
  readonly plan: PlanSpec;
  readonly entries: Entry[];
  /** argument words of all kernels, after the plan's uniforms */
  readonly block: number;
  readonly calls: readonly Call[];
  /** words (from the block's start) that follow each buffer; the last list follows the workspace */
  readonly patches: readonly (readonly Patch[])[];
  readonly bound: Float64Array;
  released = false;
  constructor(plan: PlanSpec, entries: Entry[], block: number, calls: readonly Call[], patches: readonly (readonly Patch[])[]) {
    this.plan = plan; this.entries = entries; this.block = block; this.calls = calls; this.patches = patches;
    this.bound = new Float64Array(patches.length).fill(-1);
  }
}

/** Work in elements: what decides between one thread and all. */
const workOf = (k: Kernel, r: Recipe): number => r.work / (k.kind === "contract" ? 16 : 1);

export class WasmBackend implements Backend {
  readonly name = "wasm";
  readonly dtypes: ReadonlySet<DType> = new Set<DType>(["f32", "f16", "bf16", "i32", "u32", "u8", "i8", "bool"]);
  readonly fuse = true;
  readonly composites: ReadonlySet<string> = new Set<string>(["dequantize"]);
  readonly decodes = true;
  readonly threads: number;
  readonly sync = true;
  readonly counters: Counters;
  /** the GEMM tile in use, fused multiply-add or not: a recorded property of a run */
  readonly tile: Target["tile"];
  readonly #memory: LinearMemory;
  readonly #target: Target;
  readonly #compiler: Compiler;
  readonly #executor: Executor;
  #arena = 0;
  #arenaBytes = 0;
  #workspace = 0;
  #workspaceBytes = 0;

  constructor(memory: LinearMemory, target: Target, compiler: Compiler, executor: Executor) {
    this.#memory = memory;
    this.#target = target;
    this.#compiler = compiler;
    this.#executor = executor;
    this.threads = target.threads;
    this.tile = target.tile;
    this.counters = { arenaBytes: 0, bufferBytes: 0, buffers: 0, pages: memory.pages, modules: compiler.modules, messages: 0 };
  }

  alloc(dtype: DType, length: number): DeviceBuffer {
    checkDType(dtype, "alloc");
    const bytes = length * bytesOf(dtype), address = this.#memory.alloc(bytes);
    this.#memory.u8.fill(0, address, address + bytes);
    this.counters.bufferBytes += bytes;
    this.counters.buffers++;
    this.#levels();
    return new Buffer(dtype, length, address);
  }
  free(buffer: DeviceBuffer): void {
    const b = this.#own(buffer);
    this.#memory.free(b.address);
    b.address = -1;
    this.counters.bufferBytes -= b.length * bytesOf(b.dtype);
    this.counters.buffers--;
  }
  write(buffer: DeviceBuffer, data: TypedArray): void {
    const b = this.#own(buffer);
    this.#copyIn(b.dtype, b.length, b.address, data, "write");
  }
  readSync(buffer: DeviceBuffer): TypedArray {
    const b = this.#own(buffer);
    return this.#copyOut(b.dtype, b.length, b.address);
  }
  read(buffer: DeviceBuffer): Promise<TypedArray> { return Promise.resolve(this.readSync(buffer)); }

  prepare(plan: PlanSpec): Prepared {
    for (const b of plan.buffers) checkDType(b.dtype, `${b.kind} ${b.position}`);
    const recipes = plan.kernels.map((k) => recipeOf(k, this.#target));
    const { entries, loaded } = this.#compiler.get(recipes);
    if (loaded !== undefined) this.#executor.load(loaded);
    const uniformWords = (plan.uniforms.length + 15) & ~15;
    let total = uniformWords;
    const starts = recipes.map((r) => { const at = total; total += (r.layout.words + 15) & ~15; return at; });
    const block = this.#memory.alloc(total * 4), words = new Int32Array(total);
    const patches: Patch[][] = [...plan.buffers.map((): Patch[] => []), []];
    recipes.forEach((r, i) => {
      const part = words.subarray(starts[i], starts[i] + r.layout.words);
      for (const p of r.fill(part)) {
        const list = patches[p.buffer === WORKSPACE ? plan.buffers.length : p.buffer];
        if (list === undefined) throw new DeviceError(`wasm: kernel ${plan.kernels[i].label} names buffer ${p.buffer} of ${plan.buffers.length}`);
        list.push({ word: p.word + starts[i], buffer: p.buffer, bytes: p.bytes });
      }
      part[r.layout.uniformBase] = block;
    });
    const { threads, soloBelow } = this.#target, runs = threads > 1 ? runsOf(plan, recipes) : recipes.map((_, i) => i), work = recipes.map(() => 0);
    recipes.forEach((r, i) => {
      work[runs[i]] += workOf(plan.kernels[i], r);
      if (r.turn !== undefined) words[starts[i] + r.turn] = (i - runs[i]) % threads;
    });
    this.#memory.i32.set(words, block / 4);
    const calls = recipes.flatMap((r, i) => entries[i].phases.map((run, phase): Call => ({
      run, kernel: entries[i].id, phase, args: block + starts[i] * 4, parallel: threads > 1 && work[runs[i]] >= soloBelow, flows: runs[i + 1] === runs[i], label: plan.kernels[i].label,
      counter: r.counter === undefined ? undefined : block + (starts[i] + r.counter) * 4,
    })));
    this.#reserve(plan.arenaBytes, Math.max(0, ...recipes.map((r) => r.workspace)));
    this.counters.modules = this.#compiler.modules;
    this.#levels();
    return new Ready(plan, entries, block, calls, patches);
  }
  release(prepared: Prepared): void {
    const ready = this.#ready(prepared);
    ready.released = true;
    this.#memory.free(ready.block);
    this.#executor.unload(this.#compiler.release(ready.entries));
  }

  run(prepared: Prepared, bindings: Bindings): RunResult {
    const ready = this.#ready(prepared), { plan } = ready, memory = this.#memory;
    this.#bind(ready, bindings);
    for (const b of plan.buffers) {
      if (b.kind !== "input") continue;
      const data = bindings.inputs[b.position];
      if (data && !ArrayBuffer.isView(data)) throw new DeviceError("wasm: answers never stay on this device, so no buffer can be an input");
      this.#copyIn(b.dtype, b.length, this.#arena + b.offset, data, `input ${b.position}`);
    }
    plan.uniforms.forEach((type, i) => {
      if (type === "float") memory.f32[ready.block / 4 + i] = bindings.uniforms[i];
      else memory.i32[ready.block / 4 + i] = bindings.uniforms[i];
    });
    this.#executor.run(ready.calls);
    const outputs: TypedArray[] = [];
    for (const b of plan.buffers) if (b.kind === "output") outputs[b.position] = this.#copyOut(b.dtype, b.length, this.#arena + b.offset);
    this.counters.messages = this.#executor.messages;
    return { readSync: (i) => outputs[i] };
  }

  source(kernel: Kernel): string { return describe(kernel, recipeOf(kernel, this.#target)); }
  close(): Promise<void> { return this.#executor.close(); }
  /** Ends a worker thread as an accident would: for tests of what follows. */
  killWorker(thread: number): Promise<void> { return this.#executor.kill(thread); }

  /** Writes the addresses of this run's buffers where they changed. */
  #bind(ready: Ready, bindings: Bindings): void {
    const { plan, patches, bound, block } = ready, i32 = this.#memory.i32;
    for (let i = 0; i < patches.length; i++) {
      const b = plan.buffers[i];
      let base = this.#workspace;
      if (b !== undefined) {
        if (b.kind === "store") {
          const store = this.#own(bindings.stores[b.position]);
          if (store.length < b.length || store.dtype !== b.dtype) throw new ShapeError(`wasm: store ${b.position} holds ${store.length} ${store.dtype}, the plan wants ${b.length} ${b.dtype}`);
          base = store.address;
        } else base = this.#arena + b.offset;
      }
      if (bound[i] === base) continue;
      bound[i] = base;
      for (const p of patches[i]) i32[block / 4 + p.word] = base + p.bytes;
    }
  }
  /** Arena and workspace are as large as the largest plan wants; they hold nothing between plans. */
  #reserve(arena: number, workspace: number): void {
    if (arena > this.#arenaBytes) {
      if (this.#arenaBytes > 0) this.#memory.free(this.#arena);
      this.#arenaBytes = 0;
      this.#arena = this.#memory.alloc(arena);
      this.#arenaBytes = arena;
    }
    if (workspace > this.#workspaceBytes) {
      if (this.#workspaceBytes > 0) this.#memory.free(this.#workspace);
      this.#workspaceBytes = 0;
      this.#workspace = this.#memory.alloc(workspace);
      this.#workspaceBytes = workspace;
    }
  }
  #levels(): void {
    this.counters.pages = this.#memory.pages;
    this.counters.arenaBytes = this.#arenaBytes + this.#workspaceBytes;
  }
  #copyIn(dtype: DType, length: number, address: number, data: TypedArray, what: string): void {
    if (data === undefined || data.length !== length || data.BYTES_PER_ELEMENT !== bytesOf(dtype)) {
      throw new ShapeError(`wasm ${what}: ${length} elements of ${dtype} wanted`, { value: data === undefined ? "nothing" : `${data.length} elements of ${data.BYTES_PER_ELEMENT} bytes` });
    }
    this.#memory.u8.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), address);
  }
  #copyOut(dtype: DType, length: number, address: number): TypedArray {
    const out = hostArray(dtype, length);
    out.set(viewBytes(dtype, this.#memory.buffer, address, length));
    return out;
  }
  #own(buffer: DeviceBuffer): Buffer {
    if (!(buffer instanceof Buffer)) throw new DeviceError("wasm: the buffer belongs to another backend");
    if (buffer.address < 0) throw new DeviceError("wasm: the buffer was freed");
    return buffer;
  }
  #ready(prepared: Prepared): Ready {
    if (!(prepared instanceof Ready)) throw new DeviceError("wasm: the plan was prepared by another backend");
    if (prepared.released) throw new DeviceError("wasm: the plan was released");
    return prepared;
  }
}
