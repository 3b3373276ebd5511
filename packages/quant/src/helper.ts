/**
 * A second thread that encodes chunks of a weight while the caller's thread brings them in and takes codes out.
 *
 * The two share a few memories of chunks, used in turns, and two counters: chunks posted, which only the caller changes, and chunks done, which only the thread changes. While all
 * memories are full the caller encodes chunks itself, and at the end, after a moment, also what the thread still has. So the thread may come late, be slow or be gone, and nobody sees it in the codes; and the caller never
 * sleeps, which a page's own thread may not.
 */
import { HALVES, LONGEST, X } from "./simd-loops.ts";
import type { Tables } from "./simd-loops.ts";
import { putTables, roomIn, sharedMemory, sharedModule } from "./simd.ts";
import type { Elements, FastName, Input, Room } from "./simd.ts";
import { sharedCopy, spawn } from "./spawn.ts";

/** Memories: the thread has the next chunk when it is done with one, and the caller may encode one in the meantime. */
const SLOTS = 4;
/** Milliseconds after which the caller encodes what it waits for itself, and for which a thread may take to start. */
const PATIENCE = 0.5, START = 10000;
/** Weights that it misses after it was slow. */
const REST = 16;
/** Words that the threads share, each counter in a cache line of its own; and of each slot: blocks (0: a module), bytes of a block (of the module), what the loops gave (the module's number). */
const UP = 0, POSTED = 16, DONE = 32, SLEEPS = 48, QUIT = 64, SLOT = 80, WORDS: number = SLOT + 16 * SLOTS;

/** JavaScript of the thread. Text, so that bundles and sources start it alike. */
const text = `
"use strict";
function serve({ words, memories }) {
  const all = [];
  let runs = [];
  Atomics.store(words, ${UP}, 1);
  for (let done = 0; ; Atomics.store(words, ${DONE}, ++done)) {
    for (let until = performance.now() + 0.02, i = 0; Atomics.load(words, ${POSTED}) === done; i++) {
      if ((i & 255) !== 255 || performance.now() < until) continue;
      Atomics.store(words, ${SLEEPS}, 1);
      Atomics.wait(words, ${POSTED}, done, 1000);
      Atomics.store(words, ${SLEEPS}, 0);
    }
    if (Atomics.load(words, ${QUIT}) !== 0) return;
    const k = done % ${SLOTS}, at = ${SLOT} + 16 * k, number = words[at + 2];
    if (words[at] > 0) { words[at + 2] = runs[k](words[at], words[at + 1]); continue; }
    if (all[number] === undefined) {
      const module = new WebAssembly.Module(new Uint8Array(memories[k].buffer, ${X}, words[at + 1]).slice());
      all[number] = memories.map((m) => new WebAssembly.Instance(module, { e: { m } }).exports.run);
    }
    runs = all[number];
  }
}`;

/** Blocks [from, from + count). */
export type Blocks = readonly [from: number, count: number];
/** Called with codes and scales of blocks [from, from + count), whether any of them is left to the encoder, and what tells which. */
export type Take = (made: Room, from: number, count: number, left: boolean) => void;

export class Helper {
  readonly #words = new Int32Array(new SharedArrayBuffer(4 * WORDS));
  readonly #memories: readonly WebAssembly.Memory[] = Array.from({ length: SLOTS }, sharedMemory);
  readonly copy: (to: Uint8Array, from: Uint8Array) => void = sharedCopy();
  readonly #thread = spawn(text, { words: this.#words, memories: this.#memories });
  readonly #known = new Map<string, readonly [number: number, module: Uint8Array, tables: Tables]>();
  #loaded = "";
  #rooms: readonly Room[] = [];
  #bytes: readonly Uint8Array[] = [];
  /** of each slot: the blocks that it holds; none: a module */
  readonly #jobs: Blocks[] = [];
  #posted = 0;
  #taken = 0;
  #compiles = false;
  #rest = 0;

  /** Resolves when the thread listens; gives false where there is none. */
  async ready(): Promise<boolean> {
    for (let waited = 0; this.#thread !== null && waited < START; waited++) {
      if (Atomics.load(this.#words, UP) === 1) return true;
      await new Promise((done) => setTimeout(done, 1));
    }
    return false;
  }
  /** Whether it can take chunks for these loops, which it then gets. */
  begin(name: FastName, input: Input): boolean {
    if (Atomics.load(this.#words, UP) === 0 || Atomics.load(this.#words, DONE) !== this.#posted || this.#rest-- > 0) return false;
    this.#rest = 0;
    const key = `${name} ${input}`;
    this.#compiles = key !== this.#loaded;
    if (!this.#compiles) return true;
    let known = this.#known.get(key);
    if (known === undefined) this.#known.set(key, known = [this.#known.size, ...sharedModule(name, input)]);
    const [number, module, tables] = known, slot = this.#posted % SLOTS, shared = this.#memories.map(({ buffer }) => buffer);
    for (const buffer of shared) putTables(buffer, tables);
    this.#rooms = shared.map((buffer) => roomIn(buffer, input));
    this.#bytes = shared.map((buffer) => new Uint8Array(buffer, input === "f32" ? X : HALVES, 4 * LONGEST));
    new Uint8Array(shared[slot], X).set(module);
    this.#loaded = key;
    this.#post([0, 0], 0, module.length, number);
    return true;
  }
  /**
   * Encodes `chunks`, whose blocks `at` tells, with the thread. The first one is the caller's, and so is what finds no free memory. Where all took longer than the caller
   * would have needed alone, the thread has no core of its own now, and rests.
   */
  share(chunks: number, at: (chunk: number) => Blocks, x: Elements, block: number, own: (from: number, count: number) => void, take: Take): void {
    const begun = performance.now();
    let alone = Infinity;
    for (let c = 0; c < chunks; c++) {
      if (c > 0 && this.#posted - this.#taken < SLOTS) this.give(x, at(c), block);
      else {
        const from = performance.now();
        own(...at(c));
        alone = Math.min(alone, performance.now() - from);
      }
      this.collect(take);
    }
    for (const until = performance.now() + PATIENCE; this.#taken < this.#posted;) {
      this.collect(take);
      if (performance.now() < until) continue;
      for (; this.#taken < this.#posted; this.#taken++) {
        const job = this.#jobs[this.#taken % SLOTS];
        if (job[1] > 0) own(...job);
      }
    }
    if (!this.#compiles && performance.now() - begun > chunks * alone) this.#rest = REST;
  }
  /** Gives it blocks of x; a memory must be free. */
  give(x: Elements, blocks: Blocks, block: number): void {
    const [from, count] = blocks, width = x.BYTES_PER_ELEMENT, bytes = new Uint8Array(x.buffer, x.byteOffset + from * block * width, count * block * width);
    this.copy(this.#bytes[this.#posted % SLOTS], bytes);
    this.#post(blocks, count, 4 * block, 0);
  }
  /** Hands what is done to `take`. */
  collect(take: Take): void {
    for (const done = Atomics.load(this.#words, DONE); this.#taken < done; this.#taken++) {
      const slot = this.#taken % SLOTS, [from, count] = this.#jobs[slot];
      if (count > 0) take(this.#rooms[slot], from, count, this.#words[SLOT + 16 * slot + 2] !== 0);
    }
  }
  end(): void {
    Atomics.store(this.#words, QUIT, 1);
    this.#wake();
    this.#thread?.end();
  }

  #post(blocks: Blocks, ...words: readonly number[]): void {
    const slot = this.#posted++ % SLOTS;
    this.#jobs[slot] = blocks;
    this.#words.set(words, SLOT + 16 * slot);
    this.#wake();
  }
  #wake(): void {
    Atomics.store(this.#words, POSTED, this.#posted);
    if (Atomics.load(this.#words, SLEEPS) === 1) Atomics.notify(this.#words, POSTED);
  }
}

let current: Helper | null = null, users = 0;
/** The thread that helps now; null: none. */
export const helper = (): Helper | null => current;

/** What ends a thread of `quantizeThread`. */
export interface QuantizeThread {
  end(): void;
}
/**
 * Starts a second thread, which every `quantize` of a large weight uses until it is ended; resolves when it listens. The codes are the same.
 *
 * Callers share one thread, which ends with the last of them. The process may end while it runs.
 * @returns null where threads cannot share memory (a page that is not cross-origin isolated) or do not start: then everything stays on the caller's thread
 * @example const thread = await quantizeThread(); quantize(x, shape, { format: "nf4" }); thread?.end();
 */
export async function quantizeThread(): Promise<QuantizeThread | null> {
  const mine = (current ??= makeHelper());
  if (mine === null) return null;
  users++;
  let ended = false;
  const end = (): void => {
    if (ended) return;
    ended = true;
    if (--users > 0) return;
    current = null;
    mine.end();
  };
  if (await mine.ready()) return { end };
  end();
  return null;
}
function makeHelper(): Helper | null {
  try {
    return new Helper();
  } catch {
    return null; // no shared memory, or a page's policy forbids workers
  }
}
