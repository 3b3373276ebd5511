/** The device of a backend over time: it may be lost and come again; errors that arrive late wait here to be heard. */
import { type TypedArray } from "@adjoint/tensor";
import { Device, newStats, type Stats } from "./device.ts";
import { asError, closedError, reported } from "./errors.ts";
import { USAGE, type WebGpuOptions } from "./gpu.ts";
import { type Cell, DeviceMemory, showMemory } from "./memory.ts";
import { Profiler } from "./profile.ts";
import { OperationQueue } from "./queue.ts";

/** What validation found in a submit, once it is known; null where the device does not validate. */
export type Check = Promise<Error | null> | null;

export class Session {
  readonly options: WebGpuOptions;
  readonly stats: Stats;
  /** where times go, if they are measured */
  readonly profiler: Profiler | null;
  readonly queue: OperationQueue = new OperationQueue();
  device: Device;
  memory: DeviceMemory;
  closed = false;
  /** called when the device is gone, with the reason */
  onLost: (error: Error) => void = () => {};
  readonly #numbers = new Map<number, GPUBuffer>();
  #opening: Promise<void> | null = null;
  #openError: Error | null = null;
  #unheard: Error | null = null;

  static async open(options: WebGpuOptions): Promise<Session> {
    const stats = newStats();
    return new Session(await Device.open(options, stats, 1), options, stats);
  }
  private constructor(device: Device, options: WebGpuOptions, stats: Stats) {
    this.options = options;
    this.stats = stats;
    this.profiler = options.profile === true ? new Profiler() : null;
    this.profiler?.queries(device);
    this.device = device;
    this.memory = this.#adopt(device);
  }
  #adopt(device: Device): DeviceMemory {
    const memory = new DeviceMemory(device);
    device.memoryReport = () => showMemory(memory.byClass);
    device.onError = (e) => { this.hear(e); };
    device.onLost = (e) => {
      if (this.device !== device) return;
      this.#numbers.clear();
      this.queue.reject(e, this.closed);
      this.onLost(e);
    };
    return memory;
  }

  /** Throws after close; after a loss it asks for a new device. */
  enter(): void {
    if (this.closed) throw closedError();
    if (this.device.gone !== null && this.#opening === null) void this.#reopen();
  }
  /** What an operation must wait for before there is a device. */
  get waiting(): Promise<void> | null {
    if (this.#openError !== null) { const e = this.#openError; this.#openError = null; throw e; }
    if (this.device.gone === null) return null;
    return this.#opening ?? this.#reopen();
  }
  #reopen(): Promise<void> {
    return (this.#opening = Device.open(this.options, this.stats, this.device.generation + 1).then((device) => {
      if (this.closed) { device.gpu.destroy(); return; }
      this.device = device;
      this.memory = this.#adopt(device);
    }, (e: unknown) => { this.#openError = asError(e); }).finally(() => { this.#opening = null; }));
  }
  /** No device now, or calls before this one still wait: arguments must be copied. */
  get busy(): boolean { return !this.queue.idle || this.device.gone !== null; }
  close(): void {
    this.closed = true;
    this.device.lose(closedError());
    this.queue.reject(closedError(), true);
    this.device.gpu.destroy();
  }

  /** An error that no call was there to receive: the next one gets it. */
  hear(error: unknown): void { if (this.#unheard === null && !this.closed && error !== this.device.gone) this.#unheard = asError(error); }
  get unheard(): Error | null { return this.#unheard; }
  raise(): void {
    const e = this.#unheard;
    this.#unheard = null;
    if (e !== null) throw e;
  }

  /** The buffer of step numbers of this many words, one for all plans. */
  numbers(words: number): GPUBuffer {
    let b = this.#numbers.get(words);
    if (b === undefined) this.#numbers.set(words, (b = this.device.create(words * 4, USAGE.uniform | USAGE.copyTarget, "adjoint numbers")));
    return b;
  }
  /** Its numbers went away with their device. */
  dead(cell: Cell): boolean { return cell.region !== null && (cell.generation !== this.device.generation || this.device.gone !== null); }
  /** Gives a cell a place, and zeros if nothing was written yet. */
  prepare(cell: Cell, encoder: GPUCommandEncoder): void {
    this.memory.place(cell);
    this.device.demand(cell.region!.buffer);
    if (!cell.blank) return;
    encoder.clearBuffer(cell.region!.buffer, cell.region!.offset, cell.region!.bytes);
    cell.blank = false;
  }
  upload(buffer: GPUBuffer, offset: number, data: TypedArray): void {
    const { queue } = this.device.gpu, bytes = data.byteLength;
    this.stats.uploads++;
    if (bytes % 4 === 0) { queue.writeBuffer(buffer, offset, data.buffer, data.byteOffset, bytes); return; }
    const padded = new Uint8Array((bytes + 3) & ~3);
    padded.set(new Uint8Array(data.buffer, data.byteOffset, bytes));
    queue.writeBuffer(buffer, offset, padded);
  }
  submit(encoder: GPUCommandEncoder, what: string): Check {
    const { gpu, validated } = this.device;
    this.stats.submits++;
    if (!validated) { gpu.queue.submit([encoder.finish()]); return null; }
    gpu.pushErrorScope("validation");
    let scope: Promise<GPUError | null>;
    try { gpu.queue.submit([encoder.finish()]); } finally { scope = this.device.guard(gpu.popErrorScope()); }
    return scope.then((e) => (e === null ? null : reported(e, what, this.device.memoryReport)), asError);
  }
}

/** A value that counts only if the submits behind it were right. */
export async function checked<T>(value: Promise<T>, checks: readonly Check[]): Promise<T> {
  value.catch(() => {});
  for (const c of checks) {
    const error = await c;
    if (error !== null) throw error;
  }
  return value;
}
