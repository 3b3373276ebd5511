/** GPU memory that is given out again: whole buffers by size, and small regions of shared pages. */
import { DeviceError } from "@adjoint/tensor";
import { USAGE } from "./gpu.ts";

/** A range of a GPU buffer; `id` is equal for equal ranges, and never used again for another buffer. */
export interface Region { readonly buffer: GPUBuffer; readonly serial: number; readonly offset: number; readonly bytes: number }

/** Creates and destroys buffers, and counts them. */
export interface Maker { create(bytes: number, usage: number, label: string): GPUBuffer; destroy(buffer: GPUBuffer): void; /** the largest buffer */ readonly limit: number }
export const DATA: number = USAGE.storage | USAGE.copySource | USAGE.copyTarget;

let serials = 0;
export const newSerial = (): number => ++serials;
export const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;

/** Sizes in steps of an eighth, at least 256 bytes: what is freed fits what is asked next. */
export function sizeClass(bytes: number, limit: number = Infinity): number {
  if (bytes <= 256) return 256;
  const step = Math.max(256, 2 ** (Math.floor(Math.log2(bytes)) - 3)), size = roundUp(bytes, step);
  return size <= limit ? size : roundUp(bytes, 16);
}

/** Whole buffers, kept by size class when they come back. */
export class BufferPool {
  readonly #maker: Maker;
  readonly #label: string;
  readonly #free = new Map<number, Region[]>();
  readonly #most: number;
  /** bytes given out, and bytes kept for later */
  used = 0;
  kept = 0;
  constructor(maker: Maker, label: string, most: number) { this.#maker = maker; this.#label = label; this.#most = most; }

  take(bytes: number): Region {
    const size = sizeClass(bytes, this.#maker.limit), list = this.#free.get(size), found = list?.pop();
    this.used += size;
    if (found !== undefined) { this.kept -= size; return found; }
    return { buffer: this.#maker.create(size, DATA, this.#label), serial: newSerial(), offset: 0, bytes: size };
  }
  give(region: Region): void {
    this.used -= region.bytes;
    if (this.kept + region.bytes > this.#most) { this.#maker.destroy(region.buffer); return; }
    this.kept += region.bytes;
    const list = this.#free.get(region.bytes);
    if (list === undefined) this.#free.set(region.bytes, [region]); else list.push(region);
  }
  /** Destroys what nobody uses. */
  trim(): void {
    for (const list of this.#free.values()) for (const r of list) this.#maker.destroy(r.buffer);
    this.#free.clear();
    this.kept = 0;
  }
}

interface Page { readonly buffer: GPUBuffer; readonly serial: number; readonly bytes: number; /** free ranges, by start */ free: { start: number; end: number }[] }

/** Small regions, 256-byte aligned, in the order of allocation, out of pages that double from 1 to 16 MiB. */
export class Pages {
  readonly #maker: Maker;
  readonly #label: string;
  readonly #pages: Page[] = [];
  used = 0;
  bytes = 0;
  constructor(maker: Maker, label: string) { this.#maker = maker; this.#label = label; }

  take(bytes: number): Region {
    const size = roundUp(Math.max(bytes, 1), 256);
    this.used += size;
    for (const page of this.#pages) {
      const i = page.free.findIndex((f) => f.end - f.start >= size);
      if (i < 0) continue;
      const f = page.free[i], offset = f.start;
      if (f.end - f.start === size) page.free.splice(i, 1); else f.start += size;
      return { buffer: page.buffer, serial: page.serial, offset, bytes: size };
    }
    const total = Math.max(roundUp(size, 2 ** 20), Math.min(2 ** 24, 2 ** (20 + this.#pages.length)));
    const page: Page = { buffer: this.#maker.create(total, DATA, this.#label), serial: newSerial(), bytes: total, free: size < total ? [{ start: size, end: total }] : [] };
    this.#pages.push(page);
    this.bytes += total;
    return { buffer: page.buffer, serial: page.serial, offset: 0, bytes: size };
  }
  /** Regions side by side, in a page of their own. */
  together(sizes: readonly number[]): Region[] {
    const rounded = sizes.map((n) => roundUp(Math.max(n, 1), 256)), total = rounded.reduce((n, x) => n + x, 0);
    const page: Page = { buffer: this.#maker.create(total, DATA, this.#label), serial: newSerial(), bytes: total, free: [] };
    this.#pages.push(page);
    this.bytes += total;
    this.used += total;
    let at = 0;
    return rounded.map((bytes) => { const offset = at; at += bytes; return { buffer: page.buffer, serial: page.serial, offset, bytes }; });
  }
  give(region: Region): void {
    const page = this.#pages.find((p) => p.serial === region.serial);
    if (page === undefined) throw new DeviceError("webgpu: a region that belongs to no page was given back");
    this.used -= region.bytes;
    const { free } = page, end = region.offset + region.bytes;
    let i = free.findIndex((f) => f.start >= end);
    if (i < 0) i = free.length;
    free.splice(i, 0, { start: region.offset, end });
    if (i + 1 < free.length && free[i + 1].start === end) { free[i].end = free[i + 1].end; free.splice(i + 1, 1); }
    if (i > 0 && free[i - 1].end === region.offset) { free[i - 1].end = free[i].end; free.splice(i, 1); }
  }
}

/** Buffers of step values, shared by all plans: one plan runs at a time, so a plan takes what others take too. */
export class Workspace {
  readonly #maker: Maker;
  /** by size, with the number of plans that use each */
  readonly #list: { readonly region: Region; users: number }[] = [];
  bytes = 0;
  constructor(maker: Maker) { this.#maker = maker; }

  /** One buffer for each size, no two the same. */
  take(sizes: readonly number[]): Region[] {
    const out: Region[] = [], taken = new Set<number>();
    const order = sizes.map((_, i) => i).sort((a, b) => sizes[b] - sizes[a]);
    for (const i of order) {
      let found = this.#list.find((e) => e.region.bytes >= sizes[i] && !taken.has(e.region.serial));
      if (found === undefined) {
        const bytes = sizeClass(sizes[i], this.#maker.limit);
        found = { region: { buffer: this.#maker.create(bytes, DATA, "adjoint step values"), serial: newSerial(), offset: 0, bytes }, users: 0 };
        const at = this.#list.findIndex((e) => e.region.bytes >= bytes);
        this.#list.splice(at < 0 ? this.#list.length : at, 0, found);
        this.bytes += bytes;
      }
      found.users++;
      taken.add(found.region.serial);
      out[i] = found.region;
    }
    return out;
  }
  give(regions: readonly Region[]): void {
    for (const r of regions) {
      const i = this.#list.findIndex((e) => e.region.serial === r.serial);
      if (i < 0 || --this.#list[i].users > 0) continue;
      this.#list.splice(i, 1);
      this.bytes -= r.bytes;
      this.#maker.destroy(r.buffer);
    }
  }
}
