/**
 * The thread pool: all threads walk one program in shared memory and meet between kernels.
 *
 * The calling thread is thread 0. Small kernels run on it alone, the others wait at the next meeting. Every wait is
 * bounded: 50 us of spinning, then sleeps of at most a second. A thread that traps writes why and sets `failed`; one that
 * stays away for a second (and ten times what this thread needed) counts as dead. Either way the caller gets a
 * DeviceError, and the pool is rebuilt for the next plan.
 */
import { DeviceError } from "@adjoint/tensor";
import { type Compiler, type Loaded, MAX_PHASES } from "./compile.ts";
import { LONGEST } from "./company.ts";
import { MEETING_BYTES, MESSAGE_BYTES, PROGRAM_WORDS, SPIN_MICROSECONDS, step, word } from "./control.ts";
import { type Call, type Executor, trapped } from "./executor.ts";
import type { LinearMemory } from "./memory.ts";
import type { Spawner, Thread } from "./spawn.ts";

/** Milliseconds that a thread may be late. */
const PATIENCE = 1000, START_PATIENCE = 15000;
/** Words that the calls up to the next meeting take at most. */
const LONGEST_RUN = 4 * LONGEST;

/** Part of a plan: what this thread does, and the others' program. */
interface Segment { readonly calls: readonly Call[]; readonly program: Int32Array | undefined }

export class Pool implements Executor {
  messages = 0;
  readonly #memory: LinearMemory;
  readonly #compiler: Compiler;
  readonly #spawner: Spawner;
  readonly #threads: number;
  /** words by which this thread and its workers meet, and their address; new ones when workers start again */
  #meeting = 0;
  #control: Int32Array;
  readonly #program: Int32Array;
  readonly #plans = new WeakMap<readonly Call[], readonly Segment[]>();
  #workers: Thread[] = [];
  #alive = 0;
  #loads: Loaded[] = [];
  #forget: number[] = [];
  #closed = false;
  /** false while threads start that need our event loop */
  #listening = true;

  constructor(memory: LinearMemory, compiler: Compiler, spawner: Spawner, threads: number) {
    this.#memory = memory;
    this.#compiler = compiler;
    this.#spawner = spawner;
    this.#threads = threads;
    this.#control = this.#words();
    this.#program = new Int32Array(memory.buffer, 0, word.end);
    this.#start();
  }

  /** Resolves when all threads listen. */
  async ready(): Promise<void> {
    for (let i = 0; i < START_PATIENCE && !this.#allDone(); i++) await new Promise((f) => setTimeout(f, 1));
    this.#waitDone(START_PATIENCE);
  }
  load(module: Loaded): void { this.#loads.push(module); }
  unload(kernels: readonly number[]): void { this.#forget.push(...kernels); }

  run(calls: readonly Call[]): void {
    if (this.#closed) throw new DeviceError("wasm: the backend was closed");
    let segments = this.#plans.get(calls);
    if (segments === undefined) { segments = split(calls); this.#plans.set(calls, segments); }
    for (const s of segments) {
      this.#rewind(s.calls);
      if (s.program === undefined) { for (const c of s.calls) this.#alone(c); continue; }
      if (this.#alive < this.#threads - 1) this.#restart();
      if (!this.#listening && !(this.#listening = this.#allDone())) throw new DeviceError("wasm: the worker threads are starting again", { fix: "give them a moment (await setTimeout), then run the step again" });
      if (this.#loads.length > 0 || this.#forget.length > 0) this.#share();
      this.#publish(s.program);
      this.#walk(s.calls);
    }
  }
  async close(): Promise<void> {
    this.#closed = true;
    this.#dismiss();
    await Promise.all(this.#workers.map((w) => w.end()));
  }
  kill(thread: number): Promise<void> { return this.#workers[thread - 1].end(); }

  /** Puts the counters from which threads draw work back. */
  #rewind(calls: readonly Call[]): void {
    for (const c of calls) if (c.counter !== undefined) this.#memory.i32[c.counter >>> 2] = 0;
  }
  #alone(c: Call): void {
    try { c.run(c.args, 0, 1); } catch (cause) { throw trapped(c.label, cause); }
  }

  #walk(calls: readonly Call[]): void {
    let pending = false;          // work of this thread that others have not waited for
    let begin = -1;
    try {
      for (const c of calls) {
        if (!c.parallel) { this.#alone(c); pending = true; continue; }
        if (pending) { this.#meet(0); pending = false; }
        if (begin < 0) begin = performance.now();
        try { c.run(c.args, 0, this.#threads); } catch (cause) { throw trapped(c.label, cause); }
        if (c.flows) continue;
        this.#meet(performance.now() - begin, c.label);
        begin = -1;
      }
    } catch (error) {
      this.#abandon();
      throw error;
    }
  }

  /** This thread at a barrier; `took` is what its own share needed, in milliseconds. */
  #meet(took: number, label = "?"): void {
    const c = this.#control, phase = Atomics.load(c, word.phase);
    if (Atomics.add(c, word.arrived, 1) === this.#threads - 1) {
      Atomics.store(c, word.arrived, 0);
      Atomics.add(c, word.phase, 1);
      if (Atomics.load(c, word.phaseSleepers) > 0) Atomics.notify(c, word.phase);
      return;
    }
    const until = performance.now() + SPIN_MICROSECONDS / 1000;
    do { for (let i = 0; i < 200; i++) if (Atomics.load(c, word.phase) !== phase) return; } while (performance.now() < until);
    for (let waited = 0; Atomics.load(c, word.phase) === phase;) {
      if (Atomics.load(c, word.failed) !== 0) throw this.#failure(label);
      if (waited > PATIENCE + 10 * took) throw new DeviceError(`wasm: a worker thread did not come back from kernel ${label}`, { op: label, fix: "the pool is rebuilt; run the step again" });
      Atomics.add(c, word.phaseSleepers, 1);
      if (Atomics.wait(c, word.phase, phase, 100) === "timed-out") waited += 100;
      Atomics.sub(c, word.phaseSleepers, 1);
    }
    if (Atomics.load(c, word.failed) !== 0) throw this.#failure(label);
  }
  #failure(label: string): DeviceError {
    const c = this.#control, length = Math.min(MESSAGE_BYTES, Atomics.load(c, word.messageLength));
    const text = new TextDecoder().decode(new Uint8Array(c.buffer, this.#meeting + word.message * 4, length).slice());
    return new DeviceError(`wasm: kernel ${label} failed in thread ${Atomics.load(c, word.failed) - 1}: ${text}`, { op: label, value: Atomics.load(c, word.failedKernel) });
  }

  /** Gives the others a program. */
  #publish(program: Int32Array): void {
    const c = this.#control;
    this.#program.set(program, word.program);
    Atomics.store(c, word.pages, this.#memory.pages);
    Atomics.add(c, word.generation, 1);
    if (Atomics.load(c, word.generationSleepers) > 0) Atomics.notify(c, word.generation);
  }
  /** Sends new code through shared memory, and the numbers of code to forget. */
  #share(): void {
    const modules = this.#loads, blocks: number[] = [], program: number[] = [];
    const put = (bytes: Uint8Array, library: number): void => {
      const at = this.#memory.alloc(bytes.length);
      this.#memory.u8.set(bytes, at);
      blocks.push(at);
      program.push(step.load, at, bytes.length, library);
    };
    for (const id of this.#forget) program.push(step.forget, id);
    this.#forget = [];
    for (const m of modules) put(m.bytes, m.bytes === this.#compiler.libraryBytes ? 1 : 0);
    this.#loads = [];
    for (let i = 0; i < program.length;) {
      let n = i;
      while (n < program.length && n - i < PROGRAM_WORDS - 8) n += program[n] === step.load ? 4 : 2;
      this.#publish(Int32Array.from([...program.slice(i, n), step.meet, 1]));
      try { this.#meet(50, "(loading code)"); this.#waitDone(PATIENCE); } catch (error) { this.#abandon(); throw error; }
      i = n;
    }
    for (const b of blocks) this.#memory.free(b);
  }

  #allDone(): boolean {
    const c = this.#control, g = Atomics.load(c, word.generation);
    for (let t = 1; t < this.#threads; t++) if (Atomics.load(c, word.done + 16 * t) !== g) return false;
    return true;
  }
  /** Waits until every worker is back from its program. @throws DeviceError if one is not */
  #waitDone(patience: number): void {
    const c = this.#control, g = Atomics.load(c, word.generation);
    for (let t = 1; t < this.#threads; t++) {
      for (let waited = 0;;) {
        const at = Atomics.load(c, word.done + 16 * t);
        if (at === g) break;
        if (waited > patience) throw new DeviceError(`wasm: worker thread ${t} does not answer`, { fix: "the pool is rebuilt; run the step again" });
        if (Atomics.wait(c, word.done + 16 * t, at, 50) === "timed-out") waited += 50;
      }
    }
  }
  /** After a failure: lets the others leave the program; who does not is ended, and the next run starts anew. */
  #abandon(): void {
    const c = this.#control;
    Atomics.compareExchange(c, word.failed, 0, 1);
    Atomics.notify(c, word.phase);
    Atomics.notify(c, word.generation);
    try {
      this.#waitDone(300);
      this.#reset();
    } catch { this.#alive = -1; }
  }
  #reset(): void {
    const c = this.#control;
    for (const w of [word.arrived, word.failed, word.messageLength]) Atomics.store(c, w, 0);
  }

  #words(): Int32Array { return new Int32Array(this.#memory.buffer, this.#meeting, word.program); }
  #start(): void {
    const c = this.#control;
    // nobody has left the program of this number yet
    for (let t = 1; t < this.#threads; t++) Atomics.store(c, word.done + 16 * t, Atomics.load(c, word.generation) - 1);
    this.#workers = [];
    this.#alive = this.#threads - 1;
    const mine: Thread[] = this.#workers;
    for (let t = 1; t < this.#threads; t++) {
      mine.push(this.#spawner.start(this.#memory.memory, t, this.#threads, this.#meeting, () => { if (this.#workers === mine) this.#alive--; }));
      this.messages++;
    }
    this.#loads = [{ bytes: this.#compiler.libraryBytes, ids: [] }, ...this.#compiler.alive()];
    this.#forget = [];
  }
  /** Tells the workers to leave, whether they wait for a program or are inside one. */
  #dismiss(): void {
    const c = this.#control;
    Atomics.store(c, word.quit, 1);
    Atomics.compareExchange(c, word.failed, 0, 1);
    Atomics.add(c, word.generation, 1);
    for (const w of [word.generation, word.phase]) Atomics.notify(c, w);
  }
  #restart(): void {
    this.#dismiss();
    for (const w of this.#workers) void w.end();
    // the old words stay: a worker that has not ended yet may look at them once more
    this.#meeting = this.#memory.alloc(MEETING_BYTES);
    this.#control = this.#words().fill(0);
    this.#start();
    this.#listening = !this.#spawner.late;
    if (this.#listening) this.#waitDone(START_PATIENCE);
  }
}

/** Cuts a plan into segments: programs for all threads, and stretches without any parallel call. */
function split(calls: readonly Call[]): Segment[] {
  const segments: Segment[] = [];
  let from = 0, program: number[] = [], pending = false, last = -1;
  const flush = (to: number): void => {
    if (program.length > 0) {
      program[program.length - 1] = 1;
      segments.push({ calls: calls.slice(from, last + 1), program: Int32Array.from(program) });
      from = last + 1;
    }
    if (from < to) segments.push({ calls: calls.slice(from, to), program: undefined });
    from = to; program = []; pending = false;
  };
  calls.forEach((c, i) => {
    if (!c.parallel) { pending = true; return; }
    if (program.length > PROGRAM_WORDS - LONGEST_RUN && !(calls[i - 1]?.flows ?? false)) flush(i);
    if (pending) { program.push(step.meet, 0); pending = false; }
    program.push(step.call, c.kernel * MAX_PHASES + c.phase, c.args);
    if (!c.flows) program.push(step.meet, 0);
    last = i;
  });
  flush(calls.length);
  return segments;
}
