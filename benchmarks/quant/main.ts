/**
 * `npm run benchmark -- quant`: a product that decodes its weight beside the same product over f32, in turns within each round.
 * Shapes are those of training (many rows: forward x Wᵀ and input gradient g W) and of decoding (one row).
 */
import { parseArgs } from "node:util";
import { type Store, type Tensor, assign, compile, fromHost, hostNormal, setDevice, store, zeroStore } from "@adjoint/tensor";
import { type FormatName, quantize, quantizedWeight } from "@adjoint/quant";
import { wasm } from "@adjoint/wasm";

const { values: flags } = parseArgs({ options: { rounds: { type: "string", default: "7" }, seconds: { type: "string", default: "0.3" }, threads: { type: "string", default: "2" }, smoke: { type: "boolean", default: false }, "at-least": { type: "string" } } });
const rounds = flags.smoke ? 1 : Number(flags.rounds), seconds = flags.smoke ? 0.01 : Number(flags.seconds);
const formats: readonly (readonly [label: string, FormatName, doubleQuant: boolean])[] = [["nf4", "nf4", false], ["nf4, double", "nf4", true], ["int8", "int8", false], ["q4_0", "q4_0", false]];
/** rows, in, out */
const shapes: readonly (readonly [number, number, number])[] = flags.smoke ? [[8, 64, 64], [1, 64, 64]] : [[256, 768, 768], [1024, 768, 768], [512, 768, 3072], [512, 2048, 2048], [1, 2048, 2048]];

const median = (xs: readonly number[]): number => { const s = [...xs].sort((a, b) => a - b), h = s.length >> 1; return s.length % 2 ? s[h] : (s[h - 1] + s[h]) / 2; };
/** Median milliseconds of a run. */
function time(run: () => void): number {
  const samples: number[] = [], until = performance.now() + 1000 * seconds;
  do { const begun = performance.now(); run(); samples.push(performance.now() - begun); } while (performance.now() < until);
  return median(samples);
}

const device = setDevice(await wasm({ threads: Number(flags.threads) })), least = flags["at-least"] === undefined ? 0 : Number(flags["at-least"]), failed: string[] = [];
console.log(`${device.threads} threads, ${rounds} rounds; share: f32's time over ours, the median over rounds of the quotient within a round`);
for (const [m, k, n] of shapes) {
  const W = hostNormal(1, "W", [n, k]), data = W.data as Float32Array;
  const weights: readonly (readonly [string, Tensor])[] = [["f32", store(W, "W")], ...formats.map(([label, format, doubleQuant]) => [label, quantizedWeight(quantize(data, [n, k], { format, doubleQuant }), label)] as const)];
  for (const [direction, inner, outer] of [["x Wᵀ", k, n], ["g W", n, k]] as const) {
    if (m === 1 && direction === "g W") continue;
    const x = store(fromHost(hostNormal(2, "x", [m, inner]))), out: Store = zeroStore([m, outer]);
    const steps = weights.map(([label, w]) => ({ label, run: compile(() => { assign([out], [x.matmul(direction === "g W" ? w : w.T)]); }), times: [] as number[] }));
    for (const { run } of steps) for (let i = 0; i < 3; i++) run();
    for (let r = 0; r < rounds; r++) for (let i = 0; i < steps.length; i++) { const s = steps[(i + r) % steps.length]; s.times.push(time(s.run)); }
    console.log(`${direction}  m ${m}, k ${inner}, n ${outer}`);
    for (const { label, times } of steps) {
      const share = median(times.map((t, r) => steps[0].times[r] / t));
      console.log(`  ${label.padEnd(12)} ${median(times).toFixed(3).padStart(9)} ms ${((2 * m * k * n) / median(times) / 1e6).toFixed(1).padStart(7)} GFLOP/s  share ${share.toFixed(3)}`);
      if (m > 1 && share < least) failed.push(`${label} ${direction} ${[m, k, n].join("x")}: ${share.toFixed(3)}`);
    }
  }
}
if (failed.length > 0) { console.log(`below ${least}: ${failed.join("; ")}`); process.exitCode = 1; }
await device.close?.();
