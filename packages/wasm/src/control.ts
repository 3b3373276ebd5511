/**
 * The control area at the start of shared memory: words by which threads meet, and the program that they walk.
 *
 * Threads that are started again meet by words of their own (a new block on the heap): one that was ended only a moment ago
 * may still wake up, and must find its old words, which tell it to leave.
 */

/** Word numbers. */
export const word = {
  /** number of the program to run; workers sleep on it */
  generation: 16, generationSleepers: 17,
  /** barrier: arrivals, number of passed barriers, sleepers */
  arrived: 32, phase: 48, phaseSleepers: 49,
  /** 0, or 1 + the thread that failed; the kernel it ran; length of its message */
  failed: 64, failedKernel: 65, messageLength: 66,
  /** pages that must be visible before a program starts; 1 asks workers to end */
  pages: 80, quit: 81,
  /** last program that thread t has left (one cache line each) */
  done: 96,
  message: 1024, program: 2048, end: 65536,
} as const;
export const MESSAGE_BYTES: number = (word.program - word.message) * 4;
/** bytes of the words by which threads meet, without the program */
export const MEETING_BYTES: number = word.program * 4;
/** bytes that the heap must leave free */
export const CONTROL_BYTES: number = word.end * 4;
export const PROGRAM_WORDS: number = word.end - word.program;

/** Steps of a program: call [kernel slot, args]; meet [1 if the program ends here]; load [address, bytes, 1 if library]; forget [kernel]. */
export const step = { call: 1, meet: 2, load: 3, forget: 4 } as const;

export const SPIN_MICROSECONDS = 50;

/** JavaScript of a worker: `serve(memory, thread, threads, meeting)`, the last the address of its words. Self-contained text, so that bundles and sources start it alike. */
export const workerSource: string = `
"use strict";
function serve(memory, thread, threads, meeting) {
  const c = new Int32Array(memory.buffer, meeting, ${word.program}), program = new Int32Array(memory.buffer, 0, ${word.end});
  const table = [];
  let library = {};
  const now = () => performance.now();
  // returns false when the program was abandoned
  function meet() {
    const phase = Atomics.load(c, ${word.phase});
    if (Atomics.add(c, ${word.arrived}, 1) === threads - 1) {
      Atomics.store(c, ${word.arrived}, 0);
      Atomics.add(c, ${word.phase}, 1);
      if (Atomics.load(c, ${word.phaseSleepers}) > 0) Atomics.notify(c, ${word.phase});
      return true;
    }
    const until = now() + ${SPIN_MICROSECONDS / 1000};
    do { for (let i = 0; i < 200; i++) if (Atomics.load(c, ${word.phase}) !== phase) return true; } while (now() < until);
    while (Atomics.load(c, ${word.phase}) === phase) {
      if (Atomics.load(c, ${word.failed}) !== 0) return false;
      Atomics.add(c, ${word.phaseSleepers}, 1);
      Atomics.wait(c, ${word.phase}, phase, 1000);
      Atomics.sub(c, ${word.phaseSleepers}, 1);
    }
    return true;
  }
  function load(address, length, isLibrary) {
    const bytes = new Uint8Array(length);
    bytes.set(new Uint8Array(memory.buffer, address, length));
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { e: { m: memory }, g: library });
    if (isLibrary) { library = exports; return; }
    for (const name of Object.keys(exports)) {
      const [id, phase] = name.split(".");
      (table[id] ??= [])[phase] = exports[name];
    }
  }
  function run() {
    let kernel = -1;
    try {
      const pages = Atomics.load(c, ${word.pages});
      while (memory.buffer.byteLength < pages * 65536) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
      for (let pc = ${word.program};;) {
        const op = program[pc];
        if (op === ${step.call}) {
          kernel = program[pc + 1] >>> 4;
          table[kernel][program[pc + 1] & 15](program[pc + 2], thread, threads);
          pc += 3;
        } else if (op === ${step.meet}) {
          const last = program[pc + 1];
          if (!meet() || last) return;
          pc += 2;
        } else if (op === ${step.load}) { load(program[pc + 1] >>> 0, program[pc + 2], program[pc + 3]); pc += 4; }
        else if (op === ${step.forget}) { delete table[program[pc + 1]]; pc += 2; }
        else throw new Error("unknown step " + op + " at " + pc);
        if (Atomics.load(c, ${word.failed}) !== 0) return;
      }
    } catch (error) {
      if (Atomics.compareExchange(c, ${word.failed}, 0, thread + 1) === 0) {
        const text = new TextEncoder().encode(String(error && error.message || error)).subarray(0, ${MESSAGE_BYTES});
        new Uint8Array(c.buffer, meeting + ${word.message * 4}, text.length).set(text);
        c[${word.failedKernel}] = kernel;
        Atomics.store(c, ${word.messageLength}, text.length);
      }
      Atomics.notify(c, ${word.phase});
    }
  }
  let seen = Atomics.load(c, ${word.generation});
  Atomics.store(c, ${word.done} + 16 * thread, seen);
  Atomics.notify(c, ${word.done} + 16 * thread);
  for (;;) {
    const until = now() + ${SPIN_MICROSECONDS / 1000};
    let fresh = false;
    do { for (let i = 0; i < 200 && !fresh; i++) fresh = Atomics.load(c, ${word.generation}) !== seen; } while (!fresh && now() < until);
    while (Atomics.load(c, ${word.generation}) === seen) {
      Atomics.add(c, ${word.generationSleepers}, 1);
      Atomics.wait(c, ${word.generation}, seen, 1000);
      Atomics.sub(c, ${word.generationSleepers}, 1);
    }
    seen = Atomics.load(c, ${word.generation});
    if (Atomics.load(c, ${word.quit}) !== 0) return;
    run();
    Atomics.store(c, ${word.done} + 16 * thread, seen);
    Atomics.notify(c, ${word.done} + 16 * thread);
  }
}
`;
