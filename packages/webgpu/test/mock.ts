/**
 * A GPU that is not one: buffers hold bytes, copies copy, and a dispatch runs a JavaScript function named by its "shader".
 * It counts calls, checks what WebGPU checks (usage hazards, sizes, life), finishes work when told, and fails when told.
 */
import { COMPUTE } from "../src/gpu.ts";

/** What a dispatch does to the bytes of its bindings; `params` are the words of binding 0. */
export type Script = (bindings: readonly Uint8Array[], params: Uint32Array, numbers: Uint32Array | null) => void;

export interface MockOptions {
  readonly features?: readonly string[];
  readonly limits?: Readonly<Record<string, number>>;
  /** requestAdapter gives null */
  readonly noAdapter?: boolean;
  /** requestDevice gives null, rejects with a text, or never answers */
  readonly device?: "null" | "reject" | "never";
  /** work is finished only by `finish()` */
  readonly manual?: boolean;
  /** pipelines are there only after `compiled()` */
  readonly slowCompile?: boolean;
  readonly info?: Readonly<Record<string, unknown>>;
}

class Named extends Error { constructor(message: string) { super(message); this.name = new.target.name; } }
class GPUValidationError extends Named {}
class GPUOutOfMemoryError extends Named {}

export class MockBuffer {
  readonly size: number; readonly usage: number; readonly label: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly device: MockDevice;
  destroyed = false;
  mapState: "unmapped" | "pending" | "mapped" = "unmapped";
  constructor(device: MockDevice, d: { size: number; usage: number; label?: string }) {
    this.device = device; this.size = d.size; this.usage = d.usage; this.label = d.label ?? "";
    this.bytes = new Uint8Array(d.size).fill(0xcd);          // fresh memory is not zero
  }
  mapAsync(_mode: number, offset: number = 0, size: number = this.size - offset): Promise<void> {
    this.device.gpu.count.mapAsync++;
    if (this.mapState !== "unmapped" || offset + size > this.size || size % 4 !== 0) return Promise.reject(new GPUValidationError(`mapAsync of ${this.label}: ${this.mapState}, ${size} of ${this.size}`));
    if (this.device.gpu.failMap !== null) { const m = this.device.gpu.failMap; this.device.gpu.failMap = null; return Promise.reject(new GPUValidationError(m)); }
    this.mapState = "pending";
    return this.device.later().then(() => { this.mapState = "mapped"; });
  }
  getMappedRange(offset: number = 0, size: number = this.size - offset): ArrayBuffer {
    if (this.mapState !== "mapped") throw new GPUValidationError("not mapped");
    return this.bytes.buffer.slice(offset, offset + size);
  }
  unmap(): void { this.mapState = "unmapped"; }
  destroy(): void { this.destroyed = true; }
}

interface Entry { readonly binding: number; readonly resource: { readonly buffer: MockBuffer; readonly offset?: number; readonly size?: number } }
interface MockLayout { readonly entries: readonly { readonly binding: number; readonly buffer: { readonly type: string } }[] }
interface MockGroup { readonly label: string; readonly layout: MockLayout; readonly entries: readonly Entry[] }
interface MockPipeline { readonly code: string; readonly label: string }
type Command = () => void;

class MockEncoder {
  readonly commands: Command[] = [];
  readonly uses: Set<MockBuffer> = new Set();
  readonly device: MockDevice;
  constructor(device: MockDevice) { this.device = device; }
  copyBufferToBuffer(from: MockBuffer, fromOffset: number, to: MockBuffer, toOffset: number, size: number): void {
    if (size % 4 !== 0 || fromOffset % 4 !== 0 || toOffset % 4 !== 0) this.device.invalid(`a copy of ${size} bytes from ${fromOffset} to ${toOffset}`);
    if (fromOffset + size > from.size || toOffset + size > to.size) this.device.invalid(`a copy beyond the end: ${from.label} ${fromOffset}+${size} of ${from.size}, ${to.label} ${toOffset}+${size} of ${to.size}`);
    if (from === to) this.device.invalid("a copy inside one buffer");
    this.uses.add(from); this.uses.add(to);
    this.commands.push(() => { to.bytes.set(from.bytes.subarray(fromOffset, fromOffset + size), toOffset); });
  }
  clearBuffer(b: MockBuffer, offset: number, size: number): void { this.uses.add(b); this.commands.push(() => { b.bytes.fill(0, offset, offset + size); }); }
  beginComputePass(d?: { timestampWrites?: unknown }): unknown {
    let pipeline: MockPipeline | null = null, group: MockGroup | null = null;
    void d;
    this.device.gpu.count.passes++;
    return {
      setPipeline: (p: MockPipeline) => { pipeline = p; this.device.gpu.count.setPipeline++; },
      setBindGroup: (_: number, g: MockGroup) => { group = g; },
      dispatchWorkgroups: () => { this.dispatch(pipeline!, group!); },
      end: () => {},
    };
  }
  dispatch(pipeline: MockPipeline, group: MockGroup): void {
    this.device.gpu.count.dispatches++;
    const seen: { buffer: MockBuffer; start: number; end: number; write: boolean }[] = [];
    for (const e of group.entries) {
      const { buffer, offset = 0, size = buffer.size } = e.resource, write = group.layout.entries.find((l) => l.binding === e.binding)?.buffer.type === "storage";
      if (offset % 256 !== 0 || offset + size > buffer.size || size === 0) this.device.invalid(`${group.label}: binding ${e.binding} is ${offset}+${size} of ${buffer.size}`);
      for (const o of seen) {
        if (o.buffer !== buffer) continue;
        if (o.write !== write) this.device.invalid(`${group.label}: one buffer is bound for reading and for writing`);
        if (o.write && write && o.start < offset + size && offset < o.end) this.device.invalid(`${group.label}: two writable bindings overlap`);
      }
      seen.push({ buffer, start: offset, end: offset + size, write });
      this.uses.add(buffer);
    }
    const view = (binding: number): Uint8Array | null => {
      const e = group.entries.find((x) => x.binding === binding);
      return e === undefined ? null : e.resource.buffer.bytes.subarray(e.resource.offset ?? 0, (e.resource.offset ?? 0) + (e.resource.size ?? e.resource.buffer.size));
    };
    const script = this.device.gpu.scripts.get(pipeline.code);
    if (script === undefined) return;
    this.commands.push(() => {
      const words = (b: Uint8Array): Uint32Array => new Uint32Array(b.slice().buffer), numbers = view(1);
      script(group.entries.filter((e) => e.binding >= 2).map((e) => view(e.binding)!), words(view(0)!), numbers === null ? null : words(numbers));
    });
  }
  finish(): MockEncoder { return this; }
}

export class MockDevice {
  readonly gpu: MockGpu;
  readonly features: ReadonlySet<string>;
  readonly limits: Record<string, number>;
  readonly lost: Promise<{ reason: string; message: string }>;
  onuncapturederror: ((e: { error: Error }) => void) | null = null;
  destroyed = false;
  /** bytes that createBuffer may still hand out before it reports a lack of memory */
  room: number = Infinity;
  readonly buffers: MockBuffer[] = [];
  readonly #scopes: (Error | null)[] = [];
  #lose: (info: { reason: string; message: string }) => void = () => {};
  #pending: (() => void)[] = [];
  readonly queue: unknown;

  constructor(gpu: MockGpu, features: ReadonlySet<string>, limits: Record<string, number>) {
    this.gpu = gpu; this.features = features; this.limits = limits;
    this.lost = new Promise((resolve) => { this.#lose = resolve; });
    this.queue = {
      writeBuffer: (b: MockBuffer, offset: number, data: ArrayBuffer | ArrayBufferView, from = 0, size?: number) => {
        gpu.count.writeBuffer++;
        const all = data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
        const part = all.subarray(from, size === undefined ? undefined : from + size);
        if (part.length % 4 !== 0 || offset % 4 !== 0 || offset + part.length > b.size) this.invalid(`writeBuffer of ${part.length} bytes at ${offset} of ${b.size}`);
        b.bytes.set(part, offset);
      },
      submit: (list: MockEncoder[]) => {
        gpu.count.submits++;
        for (const e of list) {
          const dead = [...e.uses].find((b) => b.destroyed || b.mapState !== "unmapped");
          if (dead !== undefined) { this.invalid(`submit uses ${dead.label}, which is ${dead.destroyed ? "destroyed" : dead.mapState}`); continue; }
          for (const c of e.commands) c();
        }
      },
      onSubmittedWorkDone: () => { gpu.count.workDone++; return this.later(); },
    };
  }
  /** Resolves when the work so far is done. */
  later(): Promise<void> { return this.gpu.options.manual === true ? new Promise((resolve) => { this.#pending.push(resolve); }) : Promise.resolve(); }
  finish(): void { const all = this.#pending; this.#pending = []; for (const f of all) f(); }
  report(error: Error): void {
    const inner = this.#scopes.length - 1;
    if (inner >= 0) this.#scopes[inner] ??= error;
    else this.onuncapturederror?.({ error });
  }
  invalid(message: string): void { this.gpu.problems.push(message); this.report(new GPUValidationError(message)); }
  /** The device is gone. */
  lose(reason = "unknown", message = "the driver crashed"): void { this.destroyed = true; this.#lose({ reason, message }); }

  createBuffer(d: { size: number; usage: number; label?: string }): MockBuffer {
    this.gpu.count.createBuffer++;
    const b = new MockBuffer(this, d.size > this.room ? { ...d, size: 4 } : d);
    if (d.size > this.room) this.report(new GPUOutOfMemoryError(`cannot allocate ${d.size} bytes`));
    else this.room -= d.size;
    this.buffers.push(b);
    return b;
  }
  createBindGroupLayout(d: MockLayout): MockLayout { return d; }
  createPipelineLayout(d: unknown): unknown { return d; }
  createBindGroup(d: MockGroup): MockGroup { this.gpu.count.createBindGroup++; return d; }
  createShaderModule(d: { code: string }): unknown {
    const bad = d.code.split("\n").findIndex((l) => l.includes("!!"));
    return { code: d.code, bad: bad >= 0, getCompilationInfo: () => Promise.resolve({ messages: bad < 0 ? [] : [{ type: "error", message: "no such thing: !!", lineNum: bad + 1, linePos: 1 }] }) };
  }
  createComputePipelineAsync(d: { label?: string; compute: { module: { code: string; bad: boolean } } }): Promise<MockPipeline> {
    this.gpu.count.pipelines++;
    const { code, bad } = d.compute.module, made = { code, label: d.label ?? "" };
    if (bad) return Promise.reject(new Error("invalid shader module"));
    return this.gpu.options.slowCompile === true ? new Promise((resolve) => { this.gpu.compiling.push(() => { resolve(made); }); }) : Promise.resolve(made);
  }
  createCommandEncoder(): MockEncoder { return new MockEncoder(this); }
  pushErrorScope(): void { this.#scopes.push(null); }
  popErrorScope(): Promise<Error | null> { return Promise.resolve(this.#scopes.pop() ?? null); }
  destroy(): void { this.lose("destroyed", ""); }
}

export class MockGpu {
  readonly options: MockOptions;
  readonly scripts: Map<string, Script> = new Map();
  readonly devices: MockDevice[] = [];
  readonly problems: string[] = [];
  readonly compiling: (() => void)[] = [];
  failMap: string | null = null;
  failDevice: string | null = null;
  readonly count: Record<"createBuffer" | "createBindGroup" | "pipelines" | "passes" | "setPipeline" | "dispatches" | "submits" | "writeBuffer" | "mapAsync" | "workDone", number> = { createBuffer: 0, createBindGroup: 0, pipelines: 0, passes: 0, setPipeline: 0, dispatches: 0, submits: 0, writeBuffer: 0, mapAsync: 0, workDone: 0 };
  constructor(options: MockOptions = {}) { this.options = options; void COMPUTE; }

  get device(): MockDevice { return this.devices[this.devices.length - 1]; }
  compiled(): void { for (const f of this.compiling.splice(0)) f(); }
  requestAdapter(): Promise<unknown> {
    if (this.options.noAdapter === true) return Promise.resolve(null);
    const features = new Set(this.options.features ?? ["subgroups"]);
    const limits: Record<string, number> = {
      maxBufferSize: 2 ** 30, maxStorageBufferBindingSize: 2 ** 28, maxUniformBufferBindingSize: 65536, maxComputeWorkgroupStorageSize: 32768, maxComputeInvocationsPerWorkgroup: 256,
      maxComputeWorkgroupSizeX: 256, maxComputeWorkgroupSizeY: 256, maxComputeWorkgroupSizeZ: 64, maxStorageBuffersPerShaderStage: 10, maxComputeWorkgroupsPerDimension: 65535, minUniformBufferOffsetAlignment: 256, ...this.options.limits,
    };
    return Promise.resolve({
      info: { vendor: "mock", architecture: "paper", description: "a GPU that is not one", subgroupMinSize: 32, subgroupMaxSize: 32, isFallbackAdapter: false, ...this.options.info }, features, limits,
      requestDevice: () => {
        if (this.failDevice !== null) return Promise.reject(new Error(this.failDevice));
        if (this.options.device === "null") return Promise.resolve(null);
        if (this.options.device === "reject") return Promise.reject(new Error("no more devices"));
        if (this.options.device === "never") return new Promise(() => {});
        const d = new MockDevice(this, features, limits);
        this.devices.push(d);
        return Promise.resolve(d);
      },
    });
  }
  /** The one cast: the double has the methods that the backend calls, not the whole interface. */
  get gpu(): GPU { return this as unknown as GPU; }
}
