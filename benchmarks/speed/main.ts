/** `npm run benchmark -- speed`: us, jax-js and tfjs-wasm on the same work in the same minutes, printed as a table and as JSON. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { cpus, loadavg, totalmem, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { hostInteger } from "@adjoint/tensor";
import { type Sizes, products } from "../rivals/dump.mjs";
import { type Said, type Info, System, interleave, median } from "./harness.ts";
import { gpt, small } from "./gpt.ts";

const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" }, seconds: { type: "string", default: "2.5" }, threads: { type: "string", default: "2" },
    systems: { type: "string", default: "adjoint,jax-js,tfjs-wasm" }, tasks: { type: "string", default: "gpt,gpt-lora,gemm-1024,lora-down,lora-up,peak" },
    "at-least": { type: "string", default: "" }, wide: { type: "boolean", default: false }, smoke: { type: "boolean", default: false }, json: { type: "string" },
    children: { type: "string", default: "" }, rivals: { type: "string", default: "" },
  },
});
const smoke = flags.smoke, rounds = smoke ? 1 : whole("rounds", flags.rounds), seconds = smoke ? 0.05 : Number(flags.seconds), threads = whole("threads", flags.threads);
const tiny: Sizes = { layers: 2, width: 32, heads: 2, length: 16, batch: 2, vocabulary: 64 };
const sizes = smoke ? tiny : small;
const tokens = sizes.batch * sizes.length, rate = 1e-3, decay = 0.01;

function whole(name: string, text: string): number {
  const n = Number(text);
  if (!Number.isInteger(n) || n < 1) throw new Error(`--${name} ${text}: a whole number from 1 is wanted`);
  return n;
}
function chosen(name: "systems" | "tasks", known: readonly string[]): string[] {
  const asked = flags[name].split(",").filter((x) => x !== "");
  for (const x of asked) if (!known.includes(x)) throw new Error(`--${name} ${x}: known are ${known.join(", ")}`);
  return known.filter((x) => asked.includes(x));
}
const ours = ["gpt-lora", "peak"], systems = chosen("systems", ["adjoint", "jax-js", "tfjs-wasm"]), tasks = chosen("tasks", ["gpt", "gpt-lora", ...Object.keys(products), "peak"]);

/** Writes initial weights (our counter-based generator) and one batch for all systems. */
function dump(folder: string): void {
  const { parameters } = gpt(sizes), parts: Float32Array[] = [];
  let offset = 0;
  const weights = Object.entries(parameters).map(([name, s]) => {
    const data = s.dataSync();
    if (!(data instanceof Float32Array)) throw new Error(`${name} is not f32`);
    parts.push(data);
    const at = offset;
    offset += data.length;
    return { name, shape: s.shape, offset: at };
  });
  const draw = (stream: string): number[] => Array.from({ length: tokens }, (_, i) => hostInteger(1, stream, i, sizes.vocabulary));
  const all = new Float32Array(offset);
  parts.forEach((p, i) => { all.set(p, weights[i].offset); });
  writeFileSync(join(folder, "weights.f32"), new Uint8Array(all.buffer));
  writeFileSync(join(folder, "dump.json"), JSON.stringify({ sizes, rate, decay, weights, ids: draw("ids"), labels: draw("labels") }));
}

/** All systems must compute the same thing before their times mean anything. */
function agree(task: string, infos: ReadonlyMap<string, Info>): string {
  const keys = task === "gpt" ? ["losses"] : ["first", "last"];
  const of = (info: Info): number[] => keys.flatMap((k) => { const x = info[k]; return typeof x === "number" ? [x] : Array.isArray(x) ? x.map(Number) : []; });
  const [[first, one], ...rest] = [...infos].map(([name, info]): [string, number[]] => [name, of(info)]);
  let worst = 0;
  for (const [name, two] of rest) {
    for (let i = 0; i < Math.min(one.length, two.length); i++) {
      const gap = Math.abs(one[i] - two[i]), limit = task === "gpt" && i > 0 ? 1e-2 : 1e-3;
      if (!(gap <= limit)) throw new Error(`${task}: ${first} and ${name} disagree on number ${i + 1}: ${one[i]} and ${two[i]} (limit ${limit}); the times would not be comparable`);
      worst = Math.max(worst, gap);
    }
  }
  return rest.length === 0 ? "" : `${task === "gpt" ? "losses of steps 1, 2, ..." : "corners of the product"}: ${one.map((x) => x.toFixed(4)).join(", ")}; largest difference between systems ${worst.toExponential(1)}`;
}

/** Aims as `gpt:jax-js=3` (their time over ours) or `share=0.7` (GEMM's share of the peak). */
function aims(): readonly { readonly name: string; readonly least: number }[] {
  return flags["at-least"].split(",").filter((x) => x !== "").map((text) => {
    const [, name, number] = /^([\w:-]+)=([\d.]+)$/.exec(text) ?? [];
    if (name === undefined || !(name === "share" || /^[\w-]+:[\w-]+$/.test(name))) throw new Error(`--at-least ${text}: write gpt:jax-js=3 or share=0.7`);
    return { name, least: Number(number) };
  });
}
const wanted = aims();

interface Row { readonly task: string; readonly system: string; readonly milliseconds: number; readonly rounds: readonly number[]; readonly ratio: number; readonly rate: string }

async function main(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "adjoint-speed-")), started: System[] = [];
  try {
    dump(folder);
    const say = new Map<string, Said>(), processes = new Map<string, System>();
    for (const name of systems) {
      const file = name === "adjoint" ? join(flags.children, "adjoint.js") : join(flags.rivals, name === "jax-js" ? "jax.mjs" : "tfjs.mjs");
      const [system, said] = await System.start({ name, file, args: name === "adjoint" ? [String(threads), flags.wide ? "wide" : "plain"] : [] });
      started.push(system);
      processes.set(name, system);
      say.set(name, said);
      log(`${name} ${said.version}: ${said.note}`);
    }
    const rows: Row[] = [], notes: string[] = [], loads: number[] = [], facts: Record<string, Info> = {};
    const run = async (group: readonly string[]): Promise<void> => {
      const turns: { label: string; system: System; task: string }[] = [], flops = new Map<string, number>();
      for (const task of group) {
        const infos = new Map<string, Info>();
        for (const [name, system] of processes) {
          if (ours.includes(task) && name !== "adjoint") continue;
          log(`  ${task}: ${name} warms up`);
          const info = await system.prepare(task, folder);
          if (typeof info.flops === "number") flops.set(task, info.flops);
          infos.set(name, info);
          facts[`${task} ${name}`] = info;
          turns.push({ label: `${task}\n${name}`, system, task });
        }
        if (infos.size > 0 && !ours.includes(task)) notes.push(agree(task, infos));
      }
      log(`  ${group.join(", ")}: ${rounds} round${rounds === 1 ? "" : "s"}`);
      const { rounds: found, load } = await interleave(turns, rounds, seconds, 1);
      loads.push(...load);
      for (const [label, ms] of found) {
        const [task, system] = label.split("\n"), mine = found.get(`${task}\nadjoint`), shape = task in products ? products[task as keyof typeof products] : null;
        const work = flops.get(task) ?? (shape === null ? 0 : 2 * shape[0] * shape[1] * shape[2]), mid = median(ms);
        rows.push({
          task, system: task === "peak" ? "register-only loop" : system, milliseconds: mid, rounds: ms,
          ratio: mine === undefined ? NaN : median(ms.map((x, i) => x / mine[i])),
          rate: work > 0 ? `${(work / mid / 1e6).toFixed(1)} GFLOP/s` : `${Math.round((1000 * tokens) / mid)} tokens/s`,
        });
      }
      for (const { system, task } of turns) await system.end(task);
    };
    // what is compared with what runs in the same rounds: products and the peak, then the training steps
    const steps = tasks.filter((t) => t.startsWith("gpt")), rest = tasks.filter((t) => !t.startsWith("gpt"));
    if (rest.length > 0) await run(rest);
    if (steps.length > 0) await run(steps);
    const peaks = new Map<string, number>();
    for (const [name, system] of processes) peaks.set(name, await system.peak());
    report(rows, notes.filter((n) => n !== ""), peaks, say, loads, facts);
  } finally {
    await Promise.all(started.map((s) => s.leave()));
    rmSync(folder, { recursive: true, force: true });
  }
}

function report(rows: readonly Row[], notes: readonly string[], peaks: ReadonlyMap<string, number>, say: ReadonlyMap<string, Said>, loads: readonly number[], facts: Readonly<Record<string, Info>>): void {
  const machine = { cpu: cpus()[0]?.model.trim() ?? "unknown", cores: cpus().length, memoryGiB: Math.round(totalmem() / 2 ** 30), node: process.version, v8: process.versions.v8, platform: `${process.platform}-${process.arch}`, loadNow: loadavg()[0] };
  const quiet = Math.max(...loads) <= machine.cores + 1;
  console.log(`${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, Node ${machine.node} (V8 ${machine.v8}); ${rounds} rounds of ${seconds} s; load average ${Math.min(...loads).toFixed(1)} to ${Math.max(...loads).toFixed(1)}${quiet ? "" : ": OTHERS USED THE MACHINE, the numbers mean little"}`);
  for (const [name, { version, note }] of say) console.log(`  ${name} ${version}  ${note}`);
  console.log(`\n${"".padEnd(12)}${"".padEnd(20)}${"median".padStart(12)}   ${"rate".padEnd(18)}${"times ours".padStart(10)}   rounds`);
  for (const r of rows) console.log(`${r.task.padEnd(12)}${r.system.padEnd(20)}${`${shown(r.milliseconds)} ms`.padStart(12)}   ${r.rate.padEnd(18)}${(r.system === "adjoint" || Number.isNaN(r.ratio) || r.task === "peak" ? "" : r.ratio.toFixed(2)).padStart(10)}   ${r.rounds.map(shown).join(" ")}`);
  const rateOf = (task: string, system: string): number => Number.parseFloat(rows.find((r) => r.task === task && r.system === system)?.rate ?? "NaN");
  const timeOf = (task: string): number => rows.find((r) => r.task === task && r.system === "adjoint")?.milliseconds ?? NaN;
  const share = rateOf("gemm-1024", "adjoint") / rateOf("peak", "register-only loop"), lora = timeOf("gpt-lora") / timeOf("gpt");
  console.log("");
  if (!Number.isNaN(share)) console.log(`gemm-1024 reaches ${(100 * share).toFixed(0)} % of the peak of the register-only loop`);
  if (!Number.isNaN(lora)) console.log(`the step with adapters takes ${lora.toFixed(2)} of the full step`);
  for (const task of ["gpt", "gpt-lora"]) {
    const i = facts[`${task} adjoint`];
    if (i !== undefined) console.log(`${task}: our step is ${String(i.kernels)} kernels, ${(Number(i.productFlops) / 1e9).toFixed(1)} GFLOP of products, ${(Number(i.bytesMoved) / 1e6).toFixed(0)} MB read and written, ${(Number(i.arenaBytes) / 1e6).toFixed(0)} MB of step values at once`);
  }
  console.log(`peak resident memory: ${[...peaks].map(([name, b]) => `${name} ${Math.round(b / 1e6)} MB`).join(", ")}`);
  for (const n of notes) console.log(n);
  for (const { name, least } of wanted) {
    const [task, system] = name.split(":"), reached = name === "share" ? share : rows.find((r) => r.task === task && r.system === system)?.ratio ?? NaN, ok = reached >= least;
    console.log(`${ok ? "reached" : "MISSED "}  ${name === "share" ? "gemm-1024 over the peak" : `${task}: ${system} over adjoint`}: ${reached.toFixed(2)}, wanted at least ${least}`);
    if (!ok) process.exitCode = 1;
  }
  if (flags.json !== undefined) {
    const path = resolve(process.env.INIT_CWD ?? ".", flags.json);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `${JSON.stringify({ date: new Date().toISOString(), machine, rounds, seconds, threads, sizes, systems: Object.fromEntries(say), load: loads, rows, share: known(share), loraOverFull: known(lora), peakBytes: Object.fromEntries(peaks), facts, notes }, null, 2)}\n`);
    log(`written: ${path}`);
  }
}
const known = (x: number): number | null => (Number.isNaN(x) ? null : x);
const shown = (ms: number): string => (ms >= 100 ? ms.toFixed(0) : ms >= 1 ? ms.toFixed(2) : ms.toFixed(4));
const log = (line: string): void => { process.stderr.write(`${line}\n`); };

await main();
