/**
 * `npm run benchmark -- codecs [--rounds 15 --rows 4096 --columns 4096]`: quantizing and decoding a weight on the host beside copies of it, in turns within each round.
 * A copy moves 8 bytes an element (4 read, 4 written); quantizing 4 and those of codes and scales; decoding those and 4. GB/s is bytes moved over time, the least of all rounds.
 * Shares are medians over rounds: of time (the copy's over ours), and of bandwidth (our GB/s over the copy's), once of a copy into memory in use, which is the most this machine does,
 * and once of a copy into memory that was just asked for, as the results here are.
 */
import { parseArgs } from "node:util";
import { hostNormal } from "@adjoint/tensor";
import { type FormatName, bytesOfQuantized, dequantize, quantize } from "@adjoint/quant";

const { values: flags } = parseArgs({ options: { rounds: { type: "string", default: "15" }, rows: { type: "string", default: "4096" }, columns: { type: "string", default: "4096" } } });
const shape = [Number(flags.rows), Number(flags.columns)], x = Float32Array.from(hostNormal(1, "W", shape, { std: 0.02 }).data), copy = new Float32Array(x.length);
const median = (xs: readonly number[]): number => xs.toSorted((a, b) => a - b)[xs.length >> 1];
const names: readonly (readonly [label: string, FormatName, doubleQuant: boolean])[] = [["nf4", "nf4", false], ["nf4, double", "nf4", true], ["fp4", "fp4", false], ["int4", "int4", false], ["int8", "int8", false], ["dynamic8", "dynamic8", false], ["q8_0", "q8_0", false], ["q4_0", "q4_0", false], ["mxfp4", "mxfp4", false]];
interface Task { readonly label: string; readonly bytes: number; readonly run: () => unknown; readonly times: number[] }
const task = (label: string, bytes: number, run: () => unknown): Task => ({ label, bytes, run, times: [] });
const copies = (): Task[] => [task("copy", 2 * x.byteLength, () => { copy.set(x); }), task("copy, new memory", 2 * x.byteLength, () => x.slice())];

function measure(what: string, tasks: readonly Task[]): void {
  for (let i = 0; i < 3; i++) for (const { run } of tasks) run(); // until V8's optimizing compiler was there
  for (let round = 0; round < Number(flags.rounds); round++) {
    for (let i = 0; i < tasks.length; i++) {
      const { run, times } = tasks[(i + round) % tasks.length], begun = performance.now();
      run();
      times.push(performance.now() - begun);
    }
  }
  console.log(`${what.padEnd(18)} least ms  median    GB/s | of a copy: time, bandwidth | of one into new memory: time, bandwidth`);
  for (const { label, bytes, times } of tasks) {
    const share = (of: Task): number => median(times.map((t, r) => of.times[r] / t)), both = (of: Task): string => `${share(of).toFixed(3).padStart(10)} ${((share(of) * bytes) / of.bytes).toFixed(3).padStart(10)}`, least = Math.min(...times);
    console.log(`${label.padEnd(18)} ${least.toFixed(2).padStart(8)} ${median(times).toFixed(2).padStart(7)} ${(bytes / least / 1e6).toFixed(2).padStart(7)} | ${both(tasks[0]).padEnd(26)} | ${both(tasks[1])}`);
  }
}

const moved = new Map(names.map(([label, format, doubleQuant]) => [label, x.byteLength + bytesOfQuantized(quantize(x, shape, { format, doubleQuant }))]));
console.log(`[${shape.join(", ")}] f32, one thread, ${flags.rounds} rounds`);
measure("quantize", [...copies(), ...names.map(([label, format, doubleQuant]) => task(label, moved.get(label) ?? 0, () => quantize(x, shape, { format, doubleQuant })))]);
measure("dequantize", [...copies(), ...names.map(([label, format, doubleQuant]) => { const q = quantize(x, shape, { format, doubleQuant }); return task(label, moved.get(label) ?? 0, () => dequantize(q)); })]);
