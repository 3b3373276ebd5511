/** Reading back: mappable buffers that take turns. */
import { DeviceError } from "@adjoint/tensor";
import type { Device } from "./device.ts";
import { messageOf } from "./errors.ts";
import { MAP_READ, USAGE } from "./gpu.ts";
import { sizeClass } from "./pool.ts";

/** Larger read-back buffers are not kept. */
const KEPT = 2 ** 25;

export interface Landing { readonly buffer: GPUBuffer; readonly bytes: number }

export class Staging {
  readonly #device: Device;
  readonly #free = new Map<number, Landing[]>();
  bytes = 0;
  constructor(device: Device) { this.#device = device; }

  take(bytes: number): Landing {
    const size = sizeClass(Math.max(bytes, 4096), this.#device.limit), found = this.#free.get(size)?.pop();
    if (found !== undefined) return found;
    this.#device.stats.readbacksCreated++;
    this.bytes += size;
    return { buffer: this.#device.create(size, USAGE.mapRead | USAGE.copyTarget, "adjoint read"), bytes: size };
  }
  /** Sees to it that `count` read-backs of this size find a buffer. */
  reserve(bytes: number, count: number): void {
    const made: Landing[] = [];
    while (made.length < count) made.push(this.take(bytes));
    for (const l of made) this.#give(l);
  }
  /** After the submit that fills it: the first `bytes` bytes, once they are there. */
  async land(landing: Landing, bytes: number): Promise<ArrayBuffer> {
    try {
      await this.#device.guard(landing.buffer.mapAsync(MAP_READ, 0, bytes));
      const copy = landing.buffer.getMappedRange(0, bytes).slice(0);
      landing.buffer.unmap();
      this.#give(landing);
      return copy;
    } catch (cause) {
      this.bytes -= landing.bytes;
      try { this.#device.destroy(landing.buffer); } catch { /* a lost device has nothing to give back */ }
      throw this.#device.gone ?? new DeviceError(`webgpu: reading back failed: ${messageOf(cause)}`, { cause });
    }
  }
  #give(landing: Landing): void {
    if (landing.bytes > KEPT) { this.bytes -= landing.bytes; this.#device.destroy(landing.buffer); return; }
    const list = this.#free.get(landing.bytes);
    if (list === undefined) this.#free.set(landing.bytes, [landing]); else list.push(landing);
  }
  trim(): void {
    for (const list of this.#free.values()) for (const l of list) { this.bytes -= l.bytes; this.#device.destroy(l.buffer); }
    this.#free.clear();
  }
}
