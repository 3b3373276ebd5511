/** Best-fit allocator of one linear memory: blocks of 64 bytes and more, neighbours merged when freed; grows through a callback. */

const ALIGN = 64;
interface Block { start: number; size: number }

export class Heap {
  /** free blocks by address */
  readonly #free: Block[] = [];
  readonly #sizes = new Map<number, number>();
  #end: number;
  readonly #grow: (end: number) => number;
  used = 0;

  /** Manages addresses from `start`; `grow(n)` must make at least n bytes exist and returns the new end. */
  constructor(start: number, end: number, grow: (end: number) => number) {
    this.#grow = grow;
    this.#end = end;
    const first = Math.ceil(start / ALIGN) * ALIGN;
    if (end > first) this.#free.push({ start: first, size: end - first });
  }

  alloc(bytes: number): number {
    const size = Math.max(ALIGN, Math.ceil(bytes / ALIGN) * ALIGN);
    let best = this.#bestFit(size);
    if (best < 0) { this.#extend(size); best = this.#bestFit(size); }
    const block = this.#free[best], start = block.start;
    if (block.size === size) this.#free.splice(best, 1);
    else { block.start += size; block.size -= size; }
    this.#sizes.set(start, size);
    this.used += size;
    return start;
  }
  free(start: number): void {
    const size = this.#sizes.get(start);
    if (size === undefined) return;
    this.#sizes.delete(start);
    this.used -= size;
    this.#insert({ start, size });
  }
  sizeOf(start: number): number { return this.#sizes.get(start) ?? 0; }

  #bestFit(size: number): number {
    let best = -1;
    for (let i = 0; i < this.#free.length; i++) if (this.#free[i].size >= size && (best < 0 || this.#free[i].size < this.#free[best].size)) best = i;
    return best;
  }
  #extend(size: number): void {
    const last = this.#free[this.#free.length - 1];
    const tail = last !== undefined && last.start + last.size === this.#end ? last.size : 0;
    const end = this.#grow(this.#end + size - tail);
    this.#insert({ start: this.#end, size: end - this.#end });
    this.#end = end;
  }
  #insert(b: Block): void {
    let lo = 0, hi = this.#free.length;
    while (lo < hi) { const m = (lo + hi) >> 1; if (this.#free[m].start < b.start) lo = m + 1; else hi = m; }
    this.#free.splice(lo, 0, b);
    const next = this.#free[lo + 1];
    if (next !== undefined && b.start + b.size === next.start) { b.size += next.size; this.#free.splice(lo + 1, 1); }
    const before = this.#free[lo - 1];
    if (before !== undefined && before.start + before.size === b.start) { before.size += b.size; this.#free.splice(lo, 1); }
  }
}
