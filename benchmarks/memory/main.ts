/**
 * `npm run benchmark -- memory`: a training loop must not grow. Compares resident memory after step 1,000 with step 100,
 * compiled and plain, and counters from step 3 on; then 10,000 rounds of `x = x.add(1); await x.data()`. Each loop runs twice: warm, with
 * V8 held still, to see what is held; and cold, with a process as anyone starts it, where resident memory is split into V8's heap and the rest.
 */
import { spawnSync } from "node:child_process";
import v8 from "node:v8";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type MemoryReport, type Tensor, assign, compile, memory, setDevice, store, tensor, fromHost, hostNormal } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";
import { gpt, trainStep } from "../speed/gpt.ts";

const { values: flags } = parseArgs({ options: { steps: { type: "string", default: "1000" }, rounds: { type: "string", default: "10000" }, threads: { type: "string", default: "2" }, smoke: { type: "boolean", default: false }, case: { type: "string" }, cold: { type: "boolean", default: false } } });
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

interface Cold { readonly resident: number; readonly v8: number }
/** Resident bytes as they are, and the pages of V8's heap among them: nothing is collected, no least of several is taken. */
const coldLook = (): Cold => ({ resident: process.memoryUsage.rss(), v8: v8.getHeapSpaceStatistics().reduce((n, s) => n + s.physical_space_size, 0) });

/**
 * Runs one loop in this fresh process with V8's own settings. What a compiled step holds outside V8's heap is judged; the heap is V8's to size (it
 * doubles its nursery once, by up to 8 MiB, after so much garbage), and its compilers borrow memory while a plain loop gets warm.
 */
async function watch(from: number, to: number, settle: number, make: () => Promise<Loop> | Loop, judged: boolean): Promise<void> {
  const loop = await make();
  let before: Record<string, number> = {}, early: Cold = { resident: 0, v8: 0 };
  for (let i = 1; i <= to; i++) {
    await loop.step(i);
    if (i === settle) before = steady(memory());
    if (i === from) early = coldLook();
  }
  const late = coldLook(), after = steady(memory()), grown = late.resident - early.resident, heap = late.v8 - early.v8;
  const moved = Object.keys(after).filter((k) => after[k] !== before[k]), ok = moved.length === 0 && (!judged || flags.smoke || grown - heap <= LIMIT);
  console.log(`${ok ? "ok    " : "FAILED"}  ${`cold: ${flags.case ?? ""}`.padEnd(24)}  resident after ${from}: ${mb(early.resident)}, after ${to}: ${mb(late.resident)}, difference ${mb(grown)}`);
  console.log(`        of it V8's heap ${mb(heap)}, everything else ${mb(grown - heap)} (${judged ? `limit ${mb(LIMIT)}` : "shown, not judged"}); counters since ${settle}: ${moved.length === 0 ? "unmoved" : moved.join(", ")}`);
  if (!ok) process.exitCode = 1;
  await loop.check?.(to);
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
/** Between which rounds memory is compared, and from which one counters stand still. `cold`: how the loop is looked at in a fresh process. */
interface Case { readonly from: number; readonly to: number; readonly settle: number; readonly make: () => Promise<Loop> | Loop; readonly cold?: "judged" | "shown" }
/** Each case in a process of its own, so that nothing that one leaves behind is counted by the next. */
const cases: Readonly<Record<string, Case>> = {
  "compiled training": { from: first, to: last, settle: 3, make: trainer(compile, 1), cold: "judged" },
  "plain training": { from: first, to: last, settle: 3, make: trainer((step) => step, 1), cold: "shown" },
  "plain, each 10th read": { from: first, to: last, settle: 20, make: trainer((step) => step, 10) },
  "x = x.add(1), read": { from: rounds / 10, to: rounds, settle: 3, cold: "shown", make: async () => {
    let x: Tensor = fromHost(hostNormal(1, "x", [1000]));
    const [start] = await x.data();
    return {
      step: async () => { x = x.add(1); await x.data(); },
      check: async (n) => { const [end] = await x.data(); if (Math.abs(end - start - n) > 0.01 * n) throw new Error(`x grew by ${end - start}, not ${n}`); },
    };
  } },
  "w = w.add(1), assigned": { from: rounds / 10, to: rounds, settle: 5, make: () => {
    const w = store(tensor([0]));
    return {
      step: async () => { assign([w], [w.add(1)]); await Promise.resolve(); },
      check: async (n) => { const [total] = await w.data(); if (total !== n) throw new Error(`w is ${total}, not ${n}`); },
    };
  } },
};

if (flags.case !== undefined) {
  const device = setDevice(await wasm({ threads }));
  const { from, to, settle, make, cold } = cases[flags.case];
  await (flags.cold ? watch(from, to, settle, make, cold === "judged") : judge(from, to, settle, make));
  await device.close?.();
} else {
  console.log(`Node ${process.version}, ${threads} threads, training steps ${last}, rounds ${rounds}${flags.smoke ? "; a smoke run: resident memory is printed, not judged" : ""}`);
  const runs = [...Object.keys(cases).map((name) => ({ name, cold: false })), ...Object.keys(cases).filter((name) => cases[name].cold !== undefined).map((name) => ({ name, cold: true }))];
  // a cold process has V8's and the C library's own settings
  const { MALLOC_ARENA_MAX: _, ...env } = process.env, own = process.execArgv.filter((flag) => !/^--(expose-gc|max-semi-space-size)/.test(flag));
  const failed = runs.filter(({ name, cold }) => spawnSync(process.execPath, [...(cold ? own : process.execArgv), fileURLToPath(import.meta.url), ...process.argv.slice(2), ...(cold ? ["--cold"] : []), "--case", name], { stdio: "inherit", ...(cold ? { env } : {}) }).status !== 0);
  console.log(failed.length === 0 ? `memory: flat in ${runs.length} of ${runs.length} loops` : `memory: not flat: ${failed.map(({ name, cold }) => (cold ? `cold ${name}` : name)).join("; ")}`);
  process.exitCode = failed.length === 0 ? 0 : 1;
}
