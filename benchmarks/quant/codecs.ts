/**
 * `npm run benchmark -- codecs`: quantizing and decoding a weight on the host beside a copy of its bytes, in turns within each round.
 * GB/s counts the bytes of the f32 weight, read by quantize and written by dequantize; the share is the copy's time over ours.
 */
import { parseArgs } from "node:util";
import { hostNormal } from "@adjoint/tensor";
import { type FormatName, dequantize, quantize } from "@adjoint/quant";

const { values: flags } = parseArgs({ options: { rounds: { type: "string", default: "7" }, rows: { type: "string", default: "4096" }, columns: { type: "string", default: "4096" } } });
const shape = [Number(flags.rows), Number(flags.columns)], x = Float32Array.from(hostNormal(1, "W", shape, { std: 0.02 }).data), copy = new Float32Array(x.length);
const median = (xs: readonly number[]): number => xs.toSorted((a, b) => a - b)[xs.length >> 1];
const names: readonly (readonly [label: string, FormatName, doubleQuant: boolean])[] = [["nf4", "nf4", false], ["nf4, double", "nf4", true], ["fp4", "fp4", false], ["int4", "int4", false], ["int8", "int8", false], ["dynamic8", "dynamic8", false], ["q8_0", "q8_0", false], ["q4_0", "q4_0", false], ["mxfp4", "mxfp4", false]];
const tasks = [{ label: "copy", run: (): unknown => copy.set(x), times: [] as number[] }, ...names.flatMap(([label, format, doubleQuant]) => {
  const q = quantize(x, shape, { format, doubleQuant });
  return [{ label: `${label}: quantize`, run: (): unknown => quantize(x, shape, { format, doubleQuant }), times: [] as number[] }, { label: `${label}: dequantize`, run: (): unknown => dequantize(q), times: [] as number[] }];
})];
for (const { run } of tasks) run();
for (let round = 0; round < Number(flags.rounds); round++) {
  for (let i = 0; i < tasks.length; i++) {
    const { run, times } = tasks[(i + round) % tasks.length], begun = performance.now();
    run();
    times.push(performance.now() - begun);
  }
}
console.log(`[${shape.join(", ")}] f32, one thread, ${flags.rounds} rounds`);
for (const { label, times } of tasks) {
  console.log(`${label.padEnd(24)} ${median(times).toFixed(1).padStart(8)} ms ${(x.byteLength / median(times) / 1e6).toFixed(2).padStart(7)} GB/s  share ${median(times.map((t, r) => tasks[0].times[r] / t)).toFixed(3)}`);
}
