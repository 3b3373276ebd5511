/**
 * `npm run benchmark -- gpu`: adjoint on WebGPU beside PyTorch on the same GPU, task by task and round by round in turn.
 * Options: --tasks a,b  --rounds 3  --seconds 1  --scale 1 (batch)  --smoke (tiny sizes, for software adapters)  --systems adjoint,adjoint-f16,torch,torch-bf16
 * --profile (which kernels take the time)  --json FILE. `-- gpu --pack DIR` makes a folder that runs on a bare NVIDIA machine.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { tasks } from "./tasks.ts";

const { values: o } = parseArgs({
  options: {
    tasks: { type: "string" }, rounds: { type: "string", default: "3" }, seconds: { type: "string", default: "1" }, scale: { type: "string", default: "1" }, smoke: { type: "boolean", default: false },
    systems: { type: "string", default: "adjoint,adjoint-f16,torch,torch-bf16" }, profile: { type: "boolean", default: false }, json: { type: "string" }, children: { type: "string", default: "." }, python: { type: "string", default: "python3" },
  },
});

interface Hello { readonly system: string; readonly adapter: string; readonly software: boolean; readonly error?: string }
interface ProfileRow { readonly label: string; readonly ms: number; readonly gflops: number; readonly gbytes: number; readonly count: number }
interface Result { readonly task: string; readonly ms?: number; readonly work: number; readonly unit: string; readonly bytes: number; readonly error?: string; readonly profile?: readonly ProfileRow[] }

/** One system: a process that answers line by line. */
class System {
  readonly key: string;
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #ended: Promise<never>;
  hello: Hello | null = null;
  constructor(key: string, command: string, args: readonly string[]) {
    this.key = key;
    this.#child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
    this.#ended = new Promise((_, fail) => { this.#child.once("error", fail); this.#child.once("exit", (code) => { fail(new Error(`ended with exit code ${code}`)); }); });
    this.#ended.catch(() => undefined);
  }
  async #next(): Promise<unknown> {
    for (;;) {
      const line = await Promise.race([this.#lines.next(), this.#ended]);
      if (line.done === true) throw new Error("ended");
      if (line.value.startsWith("{")) return JSON.parse(line.value);
    }
  }
  async start(): Promise<Hello> { return (this.hello = await this.#next() as Hello); }
  async ask(q: object): Promise<Result> {
    this.#child.stdin!.write(`${JSON.stringify(q)}\n`);
    return await this.#next() as Result;
  }
  end(): void { this.#child.stdin!.end(); }
}

const commands: Readonly<Record<string, readonly [string, readonly string[]]>> = {
  adjoint: [process.execPath, [`${o.children}/adjoint.js`, "f32", ...(o.profile ? ["profile"] : [])]],
  "adjoint-f16": [process.execPath, [`${o.children}/adjoint.js`, "f16", ...(o.profile ? ["profile"] : [])]],
  torch: [o.python, [`${o.children}/torch_child.py`]],
  "torch-bf16": [o.python, [`${o.children}/torch_child.py`, "bf16"]],
};
const names = o.tasks === undefined ? Object.keys(tasks) : o.tasks.split(",");
for (const name of names) if (!(name in tasks)) throw new Error(`there is no task ${name}; tasks: ${Object.keys(tasks).join(", ")}`);

const systems: System[] = [];
for (const key of o.systems.split(",")) {
  if (!(key in commands)) throw new Error(`there is no system ${key}; systems: ${Object.keys(commands).join(", ")}`);
  const system = new System(key, ...commands[key]);
  try {
    const hello = await system.start();
    if (hello.error !== undefined) throw new Error(hello.error);
    console.log(`${key.padEnd(12)} ${hello.system} on ${hello.adapter}${hello.software ? " (software: for trying the benchmark, not a measurement)" : ""}`);
    systems.push(system);
  } catch (error) {
    console.log(`${key.padEnd(12)} not run: ${error instanceof Error ? error.message : String(error)}`);
  }
}

const median = (xs: readonly number[]): number => [...xs].sort((a, b) => a - b)[xs.length >> 1];
const rate = (work: number, ms: number, unit: string): string => {
  const per = work / (ms / 1000);
  const scaled = (what: string): string => (per >= 1e11 && what === "FLOP/s" ? `${(per / 1e12).toFixed(2)} T${what}` : per >= 1e9 ? `${(per / 1e9).toFixed(1)} G${what}` : `${(per / 1e6).toFixed(2)} M${what}`);
  return unit === "bytes" ? scaled("B/s") : unit === "flops" ? scaled("FLOP/s") : `${per.toFixed(0)} tok/s`;
};
const all: { task: string; system: string; ms: number; work: number; unit: string; bytes: number }[] = [];
console.log(`\n${"task".padEnd(14)}${systems.map((s) => s.key.padStart(24)).join("")}    adjoint over torch`);
for (const task of names) {
  const found = new Map<string, { ms: number[]; last: Result }>();
  for (let round = 0; round < Number(o.rounds); round++) for (const s of systems) {
    const r = await s.ask({ task, seconds: Number(o.seconds), smoke: o.smoke, scale: Number(o.scale) }).catch((e: unknown): Result => ({ task, work: 0, unit: "", bytes: 0, error: String(e) }));
    const f = found.get(s.key) ?? { ms: [], last: r };
    if (r.ms !== undefined) f.ms.push(r.ms);
    found.set(s.key, { ms: f.ms, last: r });
  }
  const cells = systems.map((s) => {
    const { ms, last } = found.get(s.key)!;
    if (ms.length === 0) return `not run`;
    all.push({ task, system: s.key, ms: median(ms), work: last.work, unit: last.unit, bytes: last.bytes });
    return rate(last.work, median(ms), last.unit);
  });
  const of = (key: string): number | undefined => all.find((r) => r.task === task && r.system === key)?.ms;
  const pair = (a: string, b: string): string => { const x = of(a), y = of(b); return x === undefined || y === undefined ? "" : `${(y / x).toFixed(2)}`; };
  console.log(`${task.padEnd(14)}${cells.map((c) => c.padStart(24)).join("")}    ${[pair("adjoint", "torch"), pair("adjoint-f16", "torch-bf16")].filter((t) => t !== "").join(" / ")}`);
  for (const [key, { last }] of found) {
    if (last.error !== undefined) console.log(`  ${key}: ${last.error.split("\n")[0]}`);
    if (last.profile) for (const p of [...last.profile].sort((a, b) => b.ms - a.ms).slice(0, 15)) console.log(`  ${key}  ${p.ms.toFixed(3).padStart(9)} ms  ${String(p.count).padStart(4)} x  ${p.gflops.toFixed(0).padStart(7)} GFLOP/s  ${p.gbytes.toFixed(0).padStart(6)} GB/s  ${p.label}`);
  }
}
const copy = all.find((r) => r.task === "copy" && r.system === "adjoint");
if (copy) {
  console.log("");
  for (const r of all) if (r.unit === "bytes" && r.system === "adjoint" && r.task !== "copy") console.log(`${r.task.padEnd(14)} ${((100 * (r.work / r.ms)) / (copy.work / copy.ms)).toFixed(0)} % of the copy bandwidth`);
}
for (const r of all) if (r.unit === "tokens") console.log(`${r.task.padEnd(14)} ${r.system.padEnd(12)} memory ${r.bytes >= 2 ** 30 ? `${(r.bytes / 2 ** 30).toFixed(2)} GiB` : `${(r.bytes / 2 ** 20).toFixed(1)} MiB`}`);
if (o.json !== undefined) writeFileSync(o.json, `${JSON.stringify({ systems: systems.map((s) => s.hello), results: all }, null, 1)}\n`);
for (const s of systems) s.end();
