/**
 * `npm run benchmark -- codecs [--rounds 15 --rows 4096 --columns 4096]`: quantizing and decoding a weight on the host beside copies of it, in turns within each round.
 * A copy moves 8 bytes an element (4 read, 4 written); quantizing 4 (of bf16 or f16: 2) and those of codes and scales; decoding those and 4. GB/s is bytes moved over time, the least of all rounds.
 * Shares of a copy into memory in use, which is the most that one thread of this machine does: of time (the copy's over ours), and of bandwidth (our GB/s over the copy's), from the least
 * times and as medians over rounds. "in use": into arrays that are there already, as the copy. "two threads": beside a `quantizeThread`. Else results are new arrays, and the last column is the share of bandwidth of a
 * copy into memory just asked for: there the system's pages cost more than the bytes.
 */
import { parseArgs } from "node:util";
import { convertArray, hostNormal } from "@adjoint/tensor";
import { type FormatName, bytesOfQuantized, dequantize, quantize, quantizeArray, quantizeThread } from "@adjoint/quant";

const { values: flags } = parseArgs({ options: { rounds: { type: "string", default: "15" }, rows: { type: "string", default: "4096" }, columns: { type: "string", default: "4096" } } });
const shape = [Number(flags.rows), Number(flags.columns)], x = Float32Array.from(hostNormal(1, "W", shape, { std: 0.02 }).data), copy = new Float32Array(x.length);
const median = (xs: readonly number[]): number => xs.toSorted((a, b) => a - b)[xs.length >> 1];
const names: readonly (readonly [label: string, FormatName, doubleQuant: boolean])[] = [["nf4", "nf4", false], ["nf4, double", "nf4", true], ["fp4", "fp4", false], ["int4", "int4", false], ["int8", "int8", false], ["dynamic8", "dynamic8", false], ["q8_0", "q8_0", false], ["q4_0", "q4_0", false], ["mxfp4", "mxfp4", false]];
interface Task { readonly label: string; readonly bytes: number; readonly run: () => unknown; readonly times: number[] }
const task = (label: string, bytes: number, run: () => unknown): Task => ({ label, bytes, run, times: [] });
const NEW = "copy, new memory", ours = (): Task => task("copy", 2 * x.byteLength, () => { copy.set(x); }), copies = (): Task[] => [ours(), task(NEW, 2 * x.byteLength, () => x.slice())];

function measure(what: string, tasks: readonly Task[]): void {
  for (let i = 0; i < 3; i++) for (const { run } of tasks) run(); // until V8's optimizing compiler was there
  for (let round = 0; round < Number(flags.rounds); round++) {
    for (let i = 0; i < tasks.length; i++) {
      const { run, times } = tasks[(i + round) % tasks.length], begun = performance.now();
      run();
      times.push(performance.now() - begun);
    }
  }
  console.log(`${what.padEnd(18)}  least  median ms    GB/s | time, bandwidth: least | median        |${tasks.some(({ label }) => label === NEW) ? " of new memory" : ""}`);
  const fresh = tasks.find(({ label }) => label === NEW), least = (xs: readonly number[]): number => Math.min(...xs), number = (v: number, width = 7, digits = 3): string => v.toFixed(digits).padStart(width);
  for (const { label, bytes, times } of tasks) {
    const moved = bytes / tasks[0].bytes, atBest = least(tasks[0].times) / least(times), share = (of: Task): number => median(times.map((t, r) => of.times[r] / t)), inUse = share(tasks[0]);
    console.log(`${label.padEnd(18)} ${number(least(times), 6, 2)} ${number(median(times), 10, 2)} ${number(bytes / least(times) / 1e6, 7, 2)} | ${number(atBest, 10)} ${number(atBest * moved, 12)} | ${number(inUse)} ${number(inUse * moved)} | ${fresh === undefined ? "" : number(share(fresh) * moved)}`);
  }
}

const moved = new Map(names.map(([label, format, doubleQuant]) => [label, x.byteLength + bytesOfQuantized(quantize(x, shape, { format, doubleQuant }))]));
const bytes = (label: string): number => moved.get(label) ?? 0;
console.log(`[${shape.join(", ")}] f32, one thread but where two are named, ${flags.rounds} rounds`);
measure("quantize", [...copies(), ...names.map(([label, format, doubleQuant]) => task(label, bytes(label), () => quantize(x, shape, { format, doubleQuant })))]);
const inUse = (what: string): void => {
  const made = new Map(names.map(([label, format, doubleQuant]) => [label, quantize(x, shape, { format, doubleQuant })]));
  measure(what, [ours(), ...names.map(([label, format, doubleQuant]) => task(label, bytes(label), () => quantize(x, shape, { format, doubleQuant, into: made.get(label) })))]);
};
inUse("quantize, in use");
const thread = await quantizeThread();
if (thread === null) console.log("no second thread here");
else inUse("two threads");
thread?.end();
for (const dtype of ["bf16", "f16"] as const) {
  const half = { dtype, shape, data: convertArray(x, "f32", dtype) };
  measure(`quantize ${dtype}`, [...copies(), ...names.map(([label, format, doubleQuant]) => task(label, bytes(label) - 2 * x.length, () => quantizeArray(half, { format, doubleQuant })))]);
}
const decoded = names.map(([label, format, doubleQuant]) => ({ label, q: quantize(x, shape, { format, doubleQuant }) }));
measure("dequantize", [...copies(), ...decoded.map(({ label, q }) => task(label, bytes(label), () => dequantize(q)))]);
measure("dequantize, in use", [ours(), ...decoded.map(({ label, q }) => task(label, bytes(label), () => dequantize(q, copy)))]);
