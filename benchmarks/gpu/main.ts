/**
 * `npm run benchmark -- gpu`: adjoint on WebGPU beside PyTorch and the WebGPU rivals on the same GPU, task by task and round by
 * round in turn. Options: --tasks a,b  --rounds 3  --seconds 1  --scale 1 (batch)  --smoke (tiny sizes, for software adapters)
 * --systems adjoint,adjoint-f16,torch,torch-bf16,jax-js,tfjs-webgpu,torchlette  --profile (which kernels take the time)  --json FILE
 * --at-least gpt2-lora:jax-js=3  --patience 600. `-- gpu --pack DIR` makes a folder that runs on a bare NVIDIA machine.
 */
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { block } from "./block.ts";
import { agree, apart, bytesText, judge, median, pairs, rate, type Row, table, times } from "./report.ts";
import { type Question, type Result, System } from "./system.ts";
import { tasks } from "./tasks.ts";

const { values: o } = parseArgs({
  options: {
    tasks: { type: "string" }, rounds: { type: "string", default: "3" }, seconds: { type: "string", default: "1" }, scale: { type: "string", default: "1" }, smoke: { type: "boolean", default: false },
    systems: { type: "string", default: "adjoint,adjoint-f16,torch,torch-bf16,jax-js,tfjs-webgpu,torchlette" }, profile: { type: "boolean", default: false }, json: { type: "string" },
    children: { type: "string", default: "." }, python: { type: "string", default: "python3" }, "at-least": { type: "string" }, patience: { type: "string", default: "600" }, "no-rivals": { type: "string" },
  },
});
const node = (file: string, ...args: readonly string[]): readonly [string, readonly string[]] => [process.execPath, [join(o.children, file), ...args]];
const commands: Readonly<Record<string, readonly [string, readonly string[]] | string>> = {
  adjoint: node("adjoint.js", "f32", ...(o.profile ? ["profile"] : [])),
  "adjoint-f16": node("adjoint.js", "f16", ...(o.profile ? ["profile"] : [])),
  torch: [o.python, [join(o.children, "torch_child.py")]],
  "torch-bf16": [o.python, [join(o.children, "torch_child.py"), "bf16"]],
  "jax-js": node("jax-rival.js"),
  "tfjs-webgpu": node("tfjs-rival.js"),
  torchlette: "not in the npm registry",
};
const names = o.tasks === undefined ? Object.keys(tasks) : o.tasks.split(","), keys = o.systems.split(",");
for (const name of names) if (!(name in tasks)) throw new Error(`there is no task ${name}; tasks: ${Object.keys(tasks).join(", ")}`);
for (const key of keys) if (!(key in commands)) throw new Error(`there is no system ${key}; systems: ${Object.keys(commands).join(", ")}`);
const reason = (error: unknown): string => (error instanceof Error ? error.message : String(error)).split("\n")[0];

if (keys.some((key) => key.startsWith("torch"))) writeFileSync(join(o.children, "block.f32"), new Uint8Array(block.buffer));
const systems: System[] = [], absent = new Map<string, string>();
for (const key of keys) {
  const command = commands[key], rival = key === "jax-js" || key === "tfjs-webgpu";
  try {
    if (typeof command === "string") throw new Error(command);
    if (rival && !existsSync(command[1][0])) throw new Error(o["no-rivals"] ?? "it was not packed");
    const system = new System(key, command, { rival, patience: Number(o.patience) });
    const { system: name, adapter } = await system.start(rival ? ["checked"] : []);
    console.log(`${key.padEnd(12)} ${name} on ${adapter}`);
    systems.push(system);
  } catch (error) {
    absent.set(key, reason(error));
    console.log(`${key.padEnd(12)} not run: ${reason(error)}`);
  }
}
if (systems.some((s) => s.hello?.software === true)) console.log("A software adapter: this shows that the benchmark runs, and measures nothing.");

/** A rival is first tried with validation: without it, calls that mean nothing are fast. On a software adapter that is all. */
async function admit(s: System, q: Question): Promise<string | undefined> {
  if (!s.rival) return undefined;
  try {
    if (!s.running) await s.start(["checked"]);
  } catch (error) { return reason(error); }
  const { error, lacks } = await s.ask({ ...q, check: true });
  if (error !== undefined || lacks === true) return error ?? "";
  if (s.hello?.software !== true) s.stop();
  return undefined;
}

const rows: Row[] = [], reasons = new Map<string, string>();
const head = ["task", ...systems.map((s) => s.key)], wide = systems.map((s) => Math.max(15, s.key.length + 2));
console.log(`\n${head[0].padEnd(12)}${systems.map((s, i) => s.key.padStart(wide[i])).join("")}`);
for (const task of names) {
  const found = new Map<System, { ms: (number | undefined)[]; last: Result | undefined }>(), q: Question = { task, seconds: Number(o.seconds), smoke: o.smoke, scale: Number(o.scale) };
  for (const s of systems) {
    const refused = await admit(s, q);
    if (refused === undefined) found.set(s, { ms: [], last: undefined });
    else if (refused !== "") reasons.set(`${task} ${s.key}`, refused);
  }
  const turn = [...found.keys()];
  for (let round = 0; round < Number(o.rounds); round++) for (const [i] of turn.entries()) {
    const s = turn[(i + round) % turn.length], f = found.get(s)!, r = f.last?.error === undefined ? await s.ask(q) : f.last;
    f.ms[round] = r.ms;
    f.last = r;
  }
  const reference = turn.map((s) => found.get(s)!.last).find((r) => r?.error === undefined && r?.first !== undefined)?.first;
  const cells = systems.map((s) => {
    const f = found.get(s), last = f?.last, ms = f?.ms.filter((x) => x !== undefined) ?? [];
    if (last?.error !== undefined) reasons.set(`${task} ${s.key}`, last.error.split("\n")[0]);
    if (last === undefined || ms.length === 0) return reasons.has(`${task} ${s.key}`) ? "not run" : "-";
    if (s.rival && (last.first === undefined || reference === undefined || !agree(reference, last.first))) {
      reasons.set(`${task} ${s.key}`, `computes something else: ${last.first?.join(" ") ?? "nothing"} where ${turn[0].key} has ${reference?.join(" ") ?? "nothing"}`);
      return "wrong";
    }
    const row: Row = { task, system: s.key, ms: median(ms), rounds: f!.ms, work: last.work, unit: last.unit, bytes: last.bytes, first: last.first };
    rows.push(row);
    return rate(row);
  });
  console.log(`${task.padEnd(12)}${cells.map((c, i) => c.padStart(wide[i])).join("")}`);
  for (const s of systems) {
    const why = reasons.get(`${task} ${s.key}`);
    if (why !== undefined) console.log(`  ${s.key}: ${why}`);
    for (const p of [...(found.get(s)?.last?.profile ?? [])].sort((a, b) => b.ms - a.ms).slice(0, 15)) console.log(`  ${s.key}  ${p.ms.toFixed(3).padStart(9)} ms  ${String(p.count).padStart(4)} x  ${p.gflops.toFixed(0).padStart(7)} GFLOP/s  ${p.gbytes.toFixed(0).padStart(6)} GB/s  ${p.label}`);
    if (s.rival) s.stop();
  }
}

const quotient = (x: number | undefined): string => (x === undefined ? "-" : x < 0.095 ? x.toPrecision(2) : x.toFixed(2));
const shown = pairs.filter((p) => names.some((task) => times(rows, task, p) !== undefined));
if (shown.length > 0) {
  const lines = names.filter((task) => shown.some((p) => times(rows, task, p) !== undefined));
  console.log(`\nTimes faster (median over rounds of the quotient within a round; below 1: slower)\n${table(["task", ...shown.map(([a, b]) => `${a} / ${b}`)], lines.map((task) => [task, ...shown.map((p) => quotient(times(rows, task, p)))]))}`);
}
const near = (x: number): string => (x === 0 ? "equal" : `within ${x.toExponential(0)}`);
const models = names.filter((task) => rows.some((r) => r.task === task && r.unit === "tokens"));
if (models.length > 0) {
  const of = (task: string, f: (r: Row) => string): string[] => [task, ...systems.map((s) => { const r = rows.find((x) => x.task === task && x.system === s.key); return r === undefined ? "-" : f(r); })];
  console.log(`\nDevice memory\n${table(head, models.map((task) => of(task, (r) => bytesText(r.bytes))))}`);
  const losses = models.map((task) => {
    const [ours, ...others] = rows.filter((r) => r.task === task && r.first !== undefined), own = rows.filter((r) => r.task === task && r.first === undefined).map((r) => r.system);
    return `${task.padEnd(12)}${ours?.first?.map((x) => x.toFixed(5)).join(", ")} (${ours?.system})${others.map((r) => `; ${r.system} ${r.first!.length < ours.first!.length ? `(step ${r.first!.length}) ` : ""}${near(apart(ours.first!, r.first!))}`).join("")}${own.length > 0 ? `; own weights: ${own.join(", ")}` : ""}`;
  });
  console.log(`\nLosses of the first three steps from the same weights: the systems do the same work\n${losses.join("\n")}`);
}
const copy = rows.find((r) => r.task === "copy" && r.system === "adjoint"), mapped = rows.filter((r) => r.unit === "bytes" && r.system === "adjoint" && r.task !== "copy");
if (copy && mapped.length > 0) console.log(`\n${mapped.map((r) => `${r.task.padEnd(14)} ${((100 * (r.work / r.ms)) / (copy.work / copy.ms)).toFixed(0)} % of the copy bandwidth`).join("\n")}`);
const qlora = systems.flatMap(({ key }) => { const [a, b] = ["llama-qlora", "llama-lora"].map((task) => rows.find((r) => r.task === task && r.system === key)); return a && b ? [`${key} ${(a.ms / b.ms).toFixed(2)} times LoRA's step (at most 1.15 wanted), ${(a.bytes / b.bytes).toFixed(2)} of its bytes`] : []; });
if (qlora.length > 0) console.log(`\nQLoRA over nf4: ${qlora.join("; ")}`);
if (o["at-least"] !== undefined) {
  const { lines, reached } = judge(o["at-least"], rows, (task, system) => { const why = reasons.get(`${task} ${system}`) ?? absent.get(system); return why === undefined ? "" : ` (${why})`; });
  console.log(`\n${lines.join("\n")}`);
  if (!reached) process.exitCode = 1;
}
if (o.json !== undefined) writeFileSync(o.json, `${JSON.stringify({ systems: systems.map((s) => ({ key: s.key, ...s.hello })), absent: Object.fromEntries(absent), results: rows, reasons: Object.fromEntries(reasons) }, null, 1)}\n`);
for (const s of systems) s.end();
