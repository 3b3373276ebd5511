/** Device memory by class: stores and answers as cells, step values, uniforms and staging. */
import { bytesOf, type DeviceBuffer, DeviceError, type DType, type StoreUse } from "@adjoint/tensor";
import type { Device } from "./device.ts";
import { LOST_FIX } from "./errors.ts";
import { deviceBytes } from "./plan.ts";
import { BufferPool, Pages, type Region, Workspace } from "./pool.ts";
import { Staging } from "./staging.ts";

/** Stores below this size share pages. */
const PAGED = 2 ** 20;

/** A buffer that outlives a run: a store's numbers, or the answer of a run. */
export class Cell implements DeviceBuffer {
  readonly dtype: DType;
  readonly length: number;
  readonly kind: "store" | "answer";
  /** where the numbers are; null until first use */
  region: Region | null = null;
  /** the device that has them */
  generation = 0;
  /** zeros are owed: nothing has been written yet */
  blank = true;
  /** what it holds, where its store says so */
  use?: StoreUse;
  /** a plan writes it: state rather than parameter, where nobody has said what it holds */
  state = false;
  freed = false;
  /** where its region goes back to */
  owner: Pages | BufferPool | null = null;
  /** stores that lie beside it for merged dispatches */
  beside: Set<Cell> | null = null;
  /** the numbers of a small answer, on their way to the host */
  host: Promise<ArrayBuffer> | null = null;
  /** why the numbers never came */
  failed: Error | null = null;
  constructor(dtype: DType, length: number, kind: "store" | "answer") { this.dtype = dtype; this.length = length; this.kind = kind; }
  get bytes(): number { return this.length * bytesOf(this.dtype); }
}

export interface MemoryByClass {
  /** stores of parameters (said to be such, or only read by plans), of adapters, of optimizers; others that plans write (caches); answers that are still held */
  readonly parameters: number; readonly adapters: number; readonly optimizer: number; readonly state: number; readonly answers: number;
  /** step values: one set for all plans */
  readonly activations: number;
  readonly uniforms: number; readonly staging: number;
}

const classes = { parameter: "parameters", adapter: "adapters", optimizer: "optimizer" } as const satisfies Record<StoreUse, keyof MemoryByClass>;

/** The memory of one device. */
export class DeviceMemory {
  readonly device: Device;
  readonly workspace: Workspace;
  readonly staging: Staging;
  readonly #pages: Pages;
  readonly #answers: Pages;
  readonly #large: BufferPool;
  uniforms = 0;
  /** cells that have a place here */
  readonly #placed = new Set<Cell>();

  constructor(device: Device) {
    this.device = device;
    this.workspace = new Workspace(device);
    this.staging = new Staging(device);
    this.#pages = new Pages(device, "adjoint stores");
    this.#answers = new Pages(device, "adjoint answers");
    this.#large = new BufferPool(device, "adjoint values", 2 ** 28);
  }

  /** Gives a cell its place; false where it had one. */
  place(cell: Cell): boolean {
    if (cell.region !== null && cell.generation === this.device.generation) return false;
    const bytes = deviceBytes(cell.dtype, cell.length), { bindingBytes } = this.device.target.limits;
    if (bytes > bindingBytes) {
      throw new DeviceError(`webgpu: a buffer of ${cell.length} ${cell.dtype} takes ${bytes} bytes; this device binds at most ${bindingBytes}`, { key: "maxStorageBufferBindingSize", value: bytes, fix: "store it in half precision, or split it by rows" });
    }
    cell.owner = bytes >= PAGED || (cell.kind === "answer" && bytes > 1024) ? this.#large : cell.kind === "store" ? this.#pages : this.#answers;
    cell.region = cell.owner.take(bytes);
    cell.beside = null;
    cell.generation = this.device.generation;
    cell.blank = true;
    this.#placed.add(cell);
    return true;
  }
  /**
   * Puts stores side by side in one GPU buffer, unless they are. Stores that lay beside one of them come along, so that
   * plans with different wishes come to rest. What it gives back lets the old places go, after the submit.
   */
  gather(cells: readonly Cell[], encoder: GPUCommandEncoder): (() => void) | null {
    if (cells.every((c) => c.beside !== null && c.beside === cells[0].beside)) return null;
    const all = new Set(cells);
    for (const c of cells) for (const x of c.beside ?? []) all.add(x);
    const list = [...all], left: (() => void)[] = [], regions = this.#pages.together(list.map((c) => deviceBytes(c.dtype, c.length)));
    list.forEach((c, i) => {
      const from = c.region!, to = regions[i], owner = c.owner!;
      encoder.copyBufferToBuffer(from.buffer, from.offset, to.buffer, to.offset, Math.min(from.bytes, to.bytes));
      left.push(() => { owner.give(from); });
      c.owner = this.#pages;
      c.region = to;
      c.beside = all;
    });
    return () => { for (const f of left) f(); };
  }
  release(cell: Cell): void {
    const { region } = cell;
    if (region === null || cell.generation !== this.device.generation) { cell.region = null; return; }
    cell.owner!.give(region);
    cell.beside?.delete(cell);
    cell.beside = null;
    this.#placed.delete(cell);
    cell.region = null;
  }
  /** Drops buffers that are kept for later. */
  trim(): void { this.#large.trim(); this.staging.trim(); }
  get byClass(): MemoryByClass {
    const sums = { parameters: 0, adapters: 0, optimizer: 0, state: 0, answers: 0 };
    for (const c of this.#placed) sums[c.kind === "answer" ? "answers" : c.use !== undefined ? classes[c.use] : c.state ? "state" : "parameters"] += c.region?.bytes ?? 0;
    return { ...sums, activations: this.workspace.bytes, uniforms: this.uniforms, staging: this.staging.bytes };
  }
}

/** A cell whose device is gone. */
export const deadCell = (cell: Cell, name: string): DeviceError => new DeviceError(`webgpu: ${name} (${cell.length} ${cell.dtype}) was lost with its device`, { key: "lost", fix: LOST_FIX });

export function showMemory(m: MemoryByClass): string {
  const line = (what: string, n: number): string => `  ${what.padEnd(34)} ${(n / 2 ** 20).toFixed(1).padStart(10)} MiB`;
  return [
    line("parameters", m.parameters), line("adapters", m.adapters), line("state of the optimizer", m.optimizer), line("other stores that plans write", m.state), line("activations and gradients (a step)", m.activations),
    line("answers still held", m.answers), line("uniforms", m.uniforms), line("staging for reads", m.staging),
  ].join("\n");
}
