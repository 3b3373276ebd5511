/**
 * `npm run benchmark -- memory`: a training loop must not grow. Compares resident memory after step 1,000 with step 100,
 * compiled and plain, and counters from step 3 on; then 10,000 rounds of `x = x.add(1); await x.data()`.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type MemoryReport, type Tensor, assign, compile, memory, setDevice, store, tensor, fromHost, hostNormal } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";
import { gpt, trainStep } from "../speed/gpt.ts";

const { values: flags } = parseArgs({ options: { steps: { type: "string", default: "1000" }, rounds: { type: "string", default: "10000" }, threads: { type: "string", default: "2" }, smoke: { type: "boolean", default: false }, case: { type: "string" } } });
const last = flags.smoke ? 60 : Number(flags.steps), first = last / 10, rounds = flags.smoke ? 500 : Number(flags.rounds), threads = Number(flags.threads);
const LIMIT = 2 * 2 ** 20;
const sizes = { layers: 2, width: 32, heads: 2, length: 16, batch: 4, vocabulary: 64 };

/** The counters that a steady step may not move. */
const steady = ({ plans, plansMade, arenaBytes, bufferBytes, buffers, pages, modules, messages }: MemoryReport): Record<string, number> => ({ plans, plansMade, arenaBytes, bufferBytes, buffers, pages, modules, messages });

interface Look { readonly resident: number; readonly heap: number }
/** What is held, not what waits to be collected: the least of a few looks, each after a collection (compilers borrow and return memory). */
async function look(): Promise<Look> {
  const looks: Look[] = [];
  for (let i = 0; i < 6; i++) {
    globalThis.gc?.();
    await new Promise((r) => setTimeout(r, 30));
    const { rss, heapUsed } = process.memoryUsage();
    looks.push({ resident: rss, heap: heapUsed });
  }
  return { resident: Math.min(...looks.map((l) => l.resident)), heap: Math.min(...looks.map((l) => l.heap)) };
}
const mb = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(2)} MiB`;

/** A loop: what it does in round i, and a check of its result at the end. */
interface Loop { readonly step: (i: number) => Promise<void>; readonly check?: (rounds: number) => Promise<void> }
/** Loops that stay alive, so that nothing of the first is freed while the second is judged. */
const alive: Loop[] = [];

/**
 * Runs one loop of a kind to warm the engine up (compilers borrow memory for a while), then a fresh one to `to`, and fails where a
 * counter moves after round `settle` or memory grows between `from` and `to`.
 */
async function judge(from: number, to: number, settle: number, make: () => Promise<Loop> | Loop): Promise<void> {
  for (const judged of [false, true]) {
    const loop = await make();
    alive.push(loop);
    let before: Record<string, number> = {}, early: Look = { resident: 0, heap: 0 };
    for (let i = 1; i <= to; i++) {
      await loop.step(i);
      if (judged && i === settle) before = steady(memory());
      if (judged && i === from) early = await look();
    }
    if (judged) {
      const late = await look(), after = steady(memory()), grown = late.resident - early.resident;
      const moved = Object.keys(after).filter((k) => after[k] !== before[k]).map((k) => `${k} ${before[k]} -> ${after[k]}`);
      const ok = (flags.smoke || grown <= LIMIT) && moved.length === 0;
      console.log(`${ok ? "ok    " : "FAILED"}  ${(flags.case ?? "").padEnd(22)}  resident after ${from}: ${mb(early.resident)}, after ${to}: ${mb(late.resident)}, difference ${mb(grown)} (limit ${mb(LIMIT)})`);
      console.log(`        JavaScript heap in use: ${mb(early.heap)}, then ${mb(late.heap)}; counters since ${settle}: ${moved.length === 0 ? "unmoved" : moved.join(", ")}`);
      if (!ok) process.exitCode = 1;
    }
    await loop.check?.(to);
  }
}

/** A fresh batch each step: only structure may be kept. */
const batch = (i: number): [Tensor, Tensor] => {
  const count = sizes.batch * sizes.length, draw = (salt: number): Int32Array => Int32Array.from({ length: count }, (_, j) => (i * 31 + j * 7 + salt) % sizes.vocabulary);
  const shape = [sizes.batch, sizes.length];
  return [tensor(draw(0), { shape }), tensor(draw(1), { shape })];
};

const trainer = (wrap: (step: ReturnType<typeof trainStep>) => ReturnType<typeof trainStep>, every: number) => (): Loop => {
  const step = wrap(trainStep(gpt(sizes)));
  return { step: async (i) => { const loss = step(...batch(i)); if (i % every === 0) await loss.item(); } };
};
/** Each case in a process of its own, so that nothing that one leaves behind is counted by the next. */
const cases: Readonly<Record<string, () => Promise<void>>> = {
  "compiled training": () => judge(first, last, 3, trainer(compile, 1)),
  "plain training": () => judge(first, last, 3, trainer((step) => step, 1)),
  "plain, each 10th read": () => judge(first, last, 20, trainer((step) => step, 10)),
  "x = x.add(1), read": () => judge(rounds / 10, rounds, 3, async () => {
    let x: Tensor = fromHost(hostNormal(1, "x", [1000]));
    const [start] = await x.data();
    return {
      step: async () => { x = x.add(1); await x.data(); },
      check: async (n) => { const [end] = await x.data(); if (Math.abs(end - start - n) > 0.01 * n) throw new Error(`x grew by ${end - start}, not ${n}`); },
    };
  }),
  "w = w.add(1), assigned": () => judge(rounds / 10, rounds, 5, () => {
    const w = store(tensor([0]));
    return {
      step: async () => { assign([w], [w.add(1)]); await Promise.resolve(); },
      check: async (n) => { const [total] = await w.data(); if (total !== n) throw new Error(`w is ${total}, not ${n}`); },
    };
  }),
};

if (flags.case !== undefined) {
  const device = setDevice(await wasm({ threads }));
  await cases[flags.case]();
  await device.close?.();
} else {
  console.log(`Node ${process.version}, ${threads} threads, training steps ${last}, rounds ${rounds}${flags.smoke ? "; a smoke run: resident memory is printed, not judged" : ""}`);
  const names = Object.keys(cases);
  const failed = names.filter((name) => spawnSync(process.execPath, [...process.execArgv, fileURLToPath(import.meta.url), ...process.argv.slice(2), "--case", name], { stdio: "inherit" }).status !== 0);
  console.log(failed.length === 0 ? `memory: flat in ${names.length} of ${names.length} loops` : `memory: not flat: ${failed.join("; ")}`);
  process.exitCode = failed.length === 0 ? 0 : 1;
}
