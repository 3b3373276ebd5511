/** Finds windows of one collection of texts in another: hashes propose (Karp and Rabin 1987), characters decide. */

/** Multiplier of the rolling hash: odd, so that it is invertible modulo 2^32. */
const BASE = 0x2c9277b5;

/** Calls `visit` with hash and start of each window of `length` UTF-16 units. */
function roll(text: string, length: number, visit: (hash: number, at: number) => void): void {
  let top = 1;
  for (let k = 1; k < length; k++) top = Math.imul(top, BASE);
  let hash = 0;
  for (let end = 0; end < text.length; end++) {
    if (end >= length) hash = (hash - Math.imul(text.charCodeAt(end - length), top)) | 0;
    hash = (Math.imul(hash, BASE) + text.charCodeAt(end)) | 0;
    if (end >= length - 1) visit(hash, end - length + 1);
  }
}

/** All windows of some texts; equal windows share the position of the first. */
export class Windows {
  readonly length: number;
  /** the texts one after another, and where each starts */
  readonly all: string;
  readonly starts: readonly number[];
  /** for each position of `all`, the first position with the same window, -1 where no window fits into its text */
  readonly first: Int32Array;
  private readonly slots: Int32Array;

  constructor(texts: readonly string[], length: number) {
    if (!Number.isInteger(length) || length < 1) throw new RangeError(`windows of ${length} characters: the length must be a positive integer`);
    this.length = length;
    this.all = texts.join("");
    this.first = new Int32Array(this.all.length).fill(-1);
    this.slots = new Int32Array(2 ** Math.ceil(Math.log2(2 * this.all.length + 2))).fill(-1);
    const starts: number[] = [];
    let start = 0;
    for (const text of texts) {
      starts.push(start);
      roll(text, length, (hash, at) => {
        const slot = this.slot(hash, text, at);
        if (this.slots[slot] === -1) this.slots[slot] = start + at;
        this.first[start + at] = this.slots[slot];
      });
      start += text.length;
    }
    this.starts = starts;
  }

  /** Calls `hit` for each window of `text` that is one of these: where it starts in `text`, and its first position here. */
  search(text: string, hit: (at: number, position: number) => void): void {
    roll(text, this.length, (hash, at) => {
      const position = this.slots[this.slot(hash, text, at)];
      if (position !== -1) hit(at, position);
    });
  }

  /** Open addressing: the slot of these characters, or the empty one where they belong. */
  private slot(hash: number, text: string, at: number): number {
    const mask = this.slots.length - 1;
    let slot = (hash ^ (hash >>> 15)) & mask;
    while (this.slots[slot] !== -1 && !this.equal(this.slots[slot], text, at)) slot = (slot + 1) & mask;
    return slot;
  }

  private equal(position: number, text: string, at: number): boolean {
    for (let k = 0; k < this.length; k++) if (this.all.charCodeAt(position + k) !== text.charCodeAt(at + k)) return false;
    return true;
  }
}
