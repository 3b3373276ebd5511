/** The SIMD peak of this engine and machine: a WebAssembly loop that touches registers only, on as many threads as the kernels use. */
import { Worker } from "node:worker_threads";
import { type Local, Func, assemble, op, v } from "../../packages/wasm/src/assembler.ts";

/** Sums held in registers: enough to hide a multiply and an add on two pipes each, few enough for 16 registers. */
const NARROW = 12, WIDE = 24;

export interface PeakOptions {
  readonly threads: number;
  /** fused multiply-add instead of a multiply and an add */
  readonly fma: boolean;
  /** more sums, lying in pairs, so that V8's 256-bit path can join them */
  readonly wide: boolean;
}
export interface Peak {
  /** floating-point operations of one run */
  readonly flops: number;
  run(): void;
  end(): Promise<void>;
}

/** (iterations, address): sums start from memory and end there; each iteration does x = x·m + c for every sum. */
function loop(sums: number, fma: boolean): Uint8Array<ArrayBuffer> {
  const f = new Func("run", 2), [n, p] = [0, 1];
  const acc = Array.from({ length: sums }, () => f.v128()), factors = sums === WIDE ? [f.v128(), f.v128()] : [f.v128()], terms = factors.map(() => f.v128());
  acc.forEach((x, i) => f.get(p).vload(16 * i).set(x));
  factors.forEach((x, i) => f.get(p).vload(16 * (sums + i)).set(x));
  terms.forEach((x, i) => f.get(p).vload(16 * (sums + 2 + i)).set(x));
  const each = (x: Local, i: number): void => {
    const m = factors[i % factors.length], c = terms[i % terms.length];
    if (fma) f.get(x).get(m).get(c).simd(v.madd).set(x);
    else f.get(x).get(m).simd(v.mulF).get(c).simd(v.addF).set(x);
  };
  f.loop(() => { acc.forEach(each); f.get(n).const(1).i(op.sub).tee(n).brIf(0); });
  acc.forEach((x, i) => f.get(p).get(x).vstore(16 * i));
  return assemble([f], { maximum: 1, shared: true });
}

const worker = `
const { workerData: { bytes, memory, state, iterations, address, thread } } = require("node:worker_threads");
const { run } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { e: { m: memory } }).exports;
run(100000, address);
Atomics.store(state, 2 + thread, 1);
for (let seen = 0;;) {
  for (let i = 0; i < 100000 && Atomics.load(state, 0) === seen; i++);
  while (Atomics.load(state, 0) === seen) Atomics.wait(state, 0, seen, 1000);
  seen = Atomics.load(state, 0);
  if (seen < 0) break;
  run(iterations, address);
  Atomics.add(state, 1, 1);
}
`;

const isLoop = (x: unknown): x is (iterations: number, address: number) => void => typeof x === "function";

/** Starts the threads; a run lasts some milliseconds. */
export async function peak({ threads, fma, wide }: PeakOptions): Promise<Peak> {
  const sums = wide ? WIDE : NARROW, iterations = 2_000_000;
  const bytes = loop(sums, fma), memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  const numbers = new Float32Array(memory.buffer);
  const start = (thread: number): number => {
    const at = 4096 * thread;
    numbers.fill(1, at / 4, at / 4 + 4 * sums);
    numbers.fill(0.5, at / 4 + 4 * sums, at / 4 + 4 * (sums + 2));
    numbers.fill(0.5, at / 4 + 4 * (sums + 2), at / 4 + 4 * (sums + 4));
    return at;
  };
  // state: number of the run (negative: leave), threads done with it, then who listens
  const state = new Int32Array(new SharedArrayBuffer(4 * (2 + threads)));
  const others = Array.from({ length: threads - 1 }, (_, i) => new Worker(worker, { eval: true, execArgv: [], workerData: { bytes, memory, state, iterations, address: start(i + 1), thread: i + 1 } }));
  others.forEach((w) => { w.unref(); });
  for (let t = 1; t < threads; t++) while (Atomics.load(state, 2 + t) === 0) await new Promise((r) => setTimeout(r, 1));
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { e: { m: memory } });
  const mine = exports.run, address = start(0);
  if (!isLoop(mine)) throw new Error("the loop exports no function");
  const run = (): void => {
    Atomics.store(state, 1, 0);
    Atomics.add(state, 0, 1);
    Atomics.notify(state, 0);
    mine(iterations, address);
    while (Atomics.load(state, 1) < threads - 1);
  };
  for (let i = 0; i < 5; i++) run();
  return {
    flops: threads * iterations * sums * 4 * 2, run,
    end: async () => {
      Atomics.store(state, 0, -1);
      Atomics.notify(state, 0);
      await Promise.all(others.map((w) => w.terminate()));
    },
  };
}
