/** The one linear memory: a heap of buffers, argument blocks, arena and workspace, and typed views that follow growth. */
import { DeviceError } from "@adjoint/tensor";
import type { MemoryType } from "./assembler.ts";
import { Heap } from "./heap.ts";

const PAGE = 65536;
/** kernels may read (never write) this far past a buffer's end */
const MARGIN = 256;

export class LinearMemory {
  readonly memory: WebAssembly.Memory;
  readonly heap: Heap;
  /** bytes at the start that the heap leaves alone */
  readonly reserved: number;
  #buffer: ArrayBufferLike;
  u8: Uint8Array;
  i32: Int32Array;
  f32: Float32Array;

  constructor(type: MemoryType, reserved: number) {
    const initial = Math.ceil((reserved + PAGE) / PAGE);
    this.reserved = reserved;
    this.memory = new WebAssembly.Memory({ initial, maximum: type.maximum, shared: type.shared });
    this.#buffer = this.memory.buffer;
    this.u8 = new Uint8Array(this.#buffer);
    this.i32 = new Int32Array(this.#buffer);
    this.f32 = new Float32Array(this.#buffer);
    this.heap = new Heap(reserved, initial * PAGE - MARGIN, (end) => this.#grow(end, type.maximum));
  }
  get pages(): number { return this.#buffer.byteLength / PAGE; }
  alloc(bytes: number): number { return this.heap.alloc(bytes); }
  free(address: number): void { this.heap.free(address); }

  #grow(end: number, maximum: number): number {
    const want = Math.ceil((end + MARGIN) / PAGE), have = this.pages;
    // a little ahead, so that many small buffers do not grow one page at a time
    const pages = Math.min(maximum, Math.max(want, have + Math.min(256, have >> 2)));
    try {
      if (want > maximum) throw new RangeError("maximum reached");
      this.memory.grow(pages - have);
    } catch (cause) {
      throw new DeviceError(`wasm: out of memory: ${Math.ceil((want * PAGE) / 2 ** 20)} MiB wanted, ${Math.ceil((have * PAGE) / 2 ** 20)} MiB in use, at most ${(maximum * PAGE) / 2 ** 20} MiB`, { cause, fix: "use a smaller batch, shorter sequences or checkpoint(...)" });
    }
    this.refresh();
    return this.pages * PAGE - MARGIN;
  }
  /** takes the views anew after growth */
  refresh(): void {
    if (this.memory.buffer === this.#buffer) return;
    this.#buffer = this.memory.buffer;
    this.u8 = new Uint8Array(this.#buffer);
    this.i32 = new Int32Array(this.#buffer);
    this.f32 = new Float32Array(this.#buffer);
  }
  get buffer(): ArrayBufferLike { return this.#buffer; }
}
