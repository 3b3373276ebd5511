/** Pointwise and row kernels in GB/s of the least traffic (read + write), by processor time with `cpu` on the command line. */
import { type DeviceBuffer, type Expr, type Kernel, leaf, type PlanSpec, type View } from "@adjoint/tensor";
import { wasm } from "../../src/index.ts";

const byCpu = process.argv.includes("cpu"), threads = Number(process.argv[2]) || 1;
const clock = (): number => { if (!byCpu) return performance.now(); const c = process.cpuUsage(); return (c.user + c.system) / 1000 / threads; };
const view = (buffer: number, strides: number[], dtype: View["dtype"] = "f32"): View => ({ buffer, dtype, offset: 0, strides });
const x = leaf("load", 0, "float"), y = leaf("load", 1, "float");
const base = { affines: [], uniforms: [], label: "bench" };
const m = 512, n = 1024, mn = m * n;
const map = (value: Expr, loads = [view(0, [n, 1])], out = view(1, [n, 1])): Kernel => ({ kind: "map", shape: [m, n], loads, stores: [{ view: out, value }], ...base });
const gelu = (e: Expr): Expr => e.mul(0.5).mul(e.mul(e).mul(0.044715).add(1).mul(e).mul(0.7978845608).tanh().add(1));
const stat = (i: number): Expr => leaf("stat", i, "float");
const centred = x.sub(stat(0).mul(1 / n));
const [p, g, mo, ve] = [0, 1, 2, 3].map((i) => leaf("load", i, "float"));
const mo2 = mo.mul(0.9).add(g.mul(0.1)), ve2 = ve.mul(0.999).add(g.mul(g).mul(0.001));
const kernels: readonly (readonly [string, Kernel, number])[] = [
  ["a*x+b", map(x.mul(2).add(1)), 2],
  ["x+y", map(x.add(y), [view(0, [n, 1]), view(2, [n, 1])]), 3],
  ["x + bias", map(x.add(y), [view(0, [n, 1]), view(2, [0, 1])]), 2],
  ["exp", map(x.exp()), 2],
  ["tanh", map(x.tanh()), 2],
  ["log", map(x.abs().add(1).log()), 2],
  ["sin", map(x.sin()), 2],
  ["erf", map(x.erf()), 2],
  ["gelu (tanh)", map(gelu(x)), 2],
  ["transposed copy", map(x, [view(0, [1, m])]), 2],
  ["f32 to bf16", map(x, [view(0, [n, 1])], view(3, [n, 1], "bf16")), 1.5],
  ["f32 to f16", map(x, [view(0, [n, 1])], view(4, [n, 1], "f16")), 1.5],
  ["f16 to f32", map(x, [view(4, [n, 1], "f16")]), 1.5],
  ["adamw", { kind: "map", shape: [mn], loads: [0, 1, 2, 5].map((b) => view(b, [1])), stores: [{ view: view(2, [1]), value: mo2 }, { view: view(5, [1]), value: ve2 }, { view: view(0, [1]), value: p.mul(0.999).sub(mo2.div(ve2.sqrt().add(1e-8)).mul(1e-5)) }], ...base }, 7],
  ["sum of all", { kind: "rows", rowAxes: 1, shape: [1, mn], loads: [view(0, [0, 1])], stats: [{ op: "sum", value: x }], stores: [{ view: view(1, [0, 0]), value: stat(0), perRow: true }], ...base }, 1],
  ["sum of rows", { kind: "rows", rowAxes: 1, shape: [m, n], loads: [view(0, [n, 1])], stats: [{ op: "sum", value: x }], stores: [{ view: view(1, [1, 0]), value: stat(0), perRow: true }], ...base }, 1],
  ["softmax", { kind: "rows", rowAxes: 1, shape: [m, n], loads: [view(0, [n, 1])], stats: [{ op: "max", value: x }, { op: "sum", value: x.sub(stat(0)).exp() }], stores: [{ view: view(1, [n, 1]), value: x.sub(stat(0)).exp().div(stat(1)), perRow: false }], ...base }, 2],
  ["softmax, rows of 128", { kind: "rows", rowAxes: 1, shape: [mn / 128, 128], loads: [view(0, [128, 1])], stats: [{ op: "max", value: x }, { op: "sum", value: x.sub(stat(0)).exp() }], stores: [{ view: view(1, [128, 1]), value: x.sub(stat(0)).exp().div(stat(1)), perRow: false }], ...base }, 2],
  ["layer norm", { kind: "rows", rowAxes: 1, shape: [m, n], loads: [view(0, [n, 1]), view(2, [0, 1])], stats: [{ op: "sum", value: x }, { op: "sum", value: centred.mul(centred) }], stores: [{ view: view(1, [n, 1]), value: centred.mul(stat(1).mul(1 / n).add(1e-5).rsqrt()).mul(y), perRow: false }], ...base }, 2],
  ["layer norm, rows of 256", { kind: "rows", rowAxes: 1, shape: [mn / 256, 256], loads: [view(0, [256, 1]), view(2, [0, 1])], stats: [{ op: "sum", value: x }, { op: "sum", value: x.sub(stat(0).mul(1 / 256)).mul(x.sub(stat(0).mul(1 / 256))) }], stores: [{ view: view(1, [256, 1]), value: x.sub(stat(0).mul(1 / 256)).mul(stat(1).mul(1 / 256).add(1e-5).rsqrt()).mul(y), perRow: false }], ...base }, 2],
  ["column sums", { kind: "cols", outerAxes: 0, reducedAxes: 1, op: "sum", shape: [m, n], loads: [view(0, [n, 1])], value: x, stores: [{ view: view(1, [0, 1]), value: stat(0) }], ...base }, 1],
  ["column sums x*y", { kind: "cols", outerAxes: 0, reducedAxes: 1, op: "sum", shape: [m, n], loads: [view(0, [n, 1]), view(2, [n, 1])], value: x.mul(y), stores: [{ view: view(1, [0, 1]), value: stat(0) }], ...base }, 2],
];
const b = await wasm({ threads });
const specs: PlanSpec["buffers"] = (["f32", "f32", "f32", "bf16", "f16", "f32"] as const).map((dtype, position) => ({ kind: "store", dtype, length: mn, offset: 0, position }));
const stores = specs.map((s): DeviceBuffer => b.alloc(s.dtype, s.length));
for (const s of stores) if (s.dtype === "f32") b.write(s, Float32Array.from({ length: mn }, (_, j) => ((j * 7919) % 257) / 128));
const plans = kernels.map(([, k]) => b.prepare({ kernels: [k], buffers: specs, uniforms: [], arenaBytes: 0, inputs: 0, outputs: 0 }));
const got = kernels.map((): number[] => []);
const run = (i: number, times: number): number => { const t = clock(); for (let j = 0; j < times; j++) b.run(plans[i], { stores, inputs: [], uniforms: [] }); return (kernels[i][2] * mn * 4 * times) / (clock() - t) / 1e6; };
for (let r = 0; r < 3; r++) plans.forEach((_, i) => run(i, 20));
for (let r = 0; r < 5; r++) plans.forEach((_, i) => got[i].push(run(i, 40)));
kernels.forEach(([name], i) => console.log(`${name.padEnd(26)} ${[...got[i]].sort((s, t) => s - t)[2].toFixed(1).padStart(7)} GB/s`));
await b.close();
