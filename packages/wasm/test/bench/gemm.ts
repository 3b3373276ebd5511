/** GEMM against the engine's own SIMD peak: a register-only loop with the same threads, in the same run, rounds interleaved. Prints GFLOP/s and share. */
import { type DeviceBuffer, leaf, type PlanSpec, type View } from "@adjoint/tensor";
import { wasm, type WasmBackend } from "../../src/index.ts";
import { assemble, Func, op, v } from "../../src/assembler.ts";

/** Twelve independent chains t = t·a + b in registers: as dense as the engine issues multiplies and adds. */
function peakBytes(fma: boolean): Uint8Array<ArrayBuffer> {
  const f = new Func("peak", 1), acc = Array.from({ length: 12 }, () => f.v128()), a = f.v128(), b = f.v128();
  f.f32x4(0.999).set(a).f32x4(1e-3).set(b);
  acc.forEach((t, i) => f.f32x4(i + 1).set(t));
  f.loop(() => {
    for (const t of acc) { if (fma) f.get(t).get(a).get(b).simd(v.madd).set(t); else f.get(t).get(a).simd(v.mulF).get(b).simd(v.addF).set(t); }
    f.get(0).const(1).i(op.sub).tee(0).brIf(0);
  });
  f.const(0);
  acc.forEach((t, i) => { if (i > 0) f.get(acc[0]).get(t).simd(v.addF).set(acc[0]); });
  f.get(acc[0]).vstore(0);
  return assemble([f], { maximum: 1, shared: false });
}
const peakSource = `
const { workerData, parentPort } = require("node:worker_threads");
const m = new WebAssembly.Memory({ initial: 1, maximum: 1 });
const { peak } = new WebAssembly.Instance(new WebAssembly.Module(workerData), { e: { m } }).exports;
for (let i = 0; i < 2000; i++) peak(1000);
parentPort.on("message", (n) => { for (let i = 0; i < n; i += 10000) peak(10000); parentPort.postMessage(0); });`;

const median = (xs: number[]): number => [...xs].sort((p, q) => p - q)[xs.length >> 1];

export interface Shape { readonly m: number; readonly k: number; readonly n: number; readonly nt?: boolean; readonly tn?: boolean; readonly epilogue?: boolean; readonly half?: boolean }
/** milliseconds: of the clock, or with `cpu` on the command line, of processor time a thread (for a machine that others use) */
const byCpu = process.argv.includes("cpu");
const clock = (threads: number): number => { if (!byCpu) return performance.now(); const c = process.cpuUsage(); return (c.user + c.system) / 1000 / threads; };
function bench(b: WasmBackend, s: Shape): () => number {
  const { m, k, n } = s, dtype = s.half ? "bf16" as const : "f32" as const;
  const view = (buffer: number, strides: number[], d: View["dtype"] = "f32"): View => ({ buffer, dtype: d, offset: 0, strides });
  const acc = leaf("acc", 0, "float");
  const plan: PlanSpec = {
    uniforms: [], arenaBytes: 0, inputs: 0, outputs: 0,
    buffers: [[m * k, "f32"], [k * n, dtype], [m * n, "f32"], [n, "f32"]].map(([length, d], position) => ({ kind: "store", dtype: d as "f32", length: length as number, offset: 0, position })),
    kernels: [{ kind: "contract", label: "gemm", shape: [m, n], k, a: view(0, s.tn ? [1, m] : [k, 1]), b: view(1, s.nt ? [1, k] : [n, 1], dtype), loads: s.epilogue ? [view(3, [0, 1])] : [], affines: [], uniforms: [], stores: [{ view: view(2, [n, 1]), value: s.epilogue ? acc.add(leaf("load", 0, "float")) : acc }] }],
  };
  const stores = plan.buffers.map((x): DeviceBuffer => b.alloc(x.dtype, x.length));
  for (const [i, x] of stores.entries()) if (x.dtype === "f32") b.write(x, Float32Array.from({ length: x.length }, (_, j) => ((j * 7919 + i) % 257 - 128) / 128));
  const ready = b.prepare(plan), times = Math.max(1, Math.round(4e8 / (2 * m * n * k)));
  return () => {
    const t = clock(b.threads);
    for (let i = 0; i < times; i++) b.run(ready, { stores, inputs: [], uniforms: [] });
    return (2 * m * n * k * times) / (clock(b.threads) - t) / 1e6;
  };
}
const shapes: Shape[] = [
  { m: 256, k: 256, n: 256 }, { m: 512, k: 512, n: 512 }, { m: 1024, k: 1024, n: 1024 }, { m: 1024, k: 1024, n: 1024, nt: true }, { m: 1024, k: 1024, n: 1024, tn: true }, { m: 1024, k: 1024, n: 1024, epilogue: true },
  { m: 512, k: 1024, n: 8, nt: true }, { m: 512, k: 8, n: 1024, nt: true }, { m: 8, k: 1024, n: 512, tn: true }, { m: 1024, k: 256, n: 256, nt: true, epilogue: true }, { m: 1024, k: 256, n: 1024, nt: true, half: true },
  { m: 1, k: 1024, n: 1024, nt: true }, { m: 1, k: 1024, n: 1024 },
];
const { Worker } = process.getBuiltinModule("node:worker_threads");
for (const threads of Number(process.argv[2]) > 0 ? [Number(process.argv[2])] : [1, 2]) {
  const wide = process.argv.includes("wide");
  if (wide) process.getBuiltinModule("node:v8").setFlagsFromString("--experimental-wasm-revectorize");
  const b = await wasm({ threads, wide, ...(process.argv.includes("nofma") ? { fma: false } : {}) });
  const bytes = peakBytes(b.tile.fma), flops = 96;
  const peakers = Array.from({ length: threads }, () => new Worker(peakSource, { eval: true, workerData: bytes }));
  const peak = async (): Promise<number> => {
    const n = 2_000_000;
    const t = clock(threads);
    await Promise.all(peakers.map((w) => new Promise((f) => { w.once("message", f); w.postMessage(n); })));
    return (threads * n * flops) / (clock(threads) - t) / 1e6;
  };
  const runs = shapes.map((s) => bench(b, s)), got = shapes.map((): number[] => []), peaks: number[] = [];
  for (let i = 0; i < 3; i++) for (const r of runs) r();
  for (let round = 0; round < 5; round++) { peaks.push(await peak()); runs.forEach((r, i) => got[i].push(r())); }
  const top = median(peaks);
  console.log(`threads ${threads}  tile ${JSON.stringify(b.tile)}  register-only peak ${top.toFixed(1)} GFLOP/s`);
  shapes.forEach((s, i) => console.log(`  ${`${s.m}x${s.k}x${s.n}${s.nt ? " NT" : s.tn ? " TN" : ""}${s.epilogue ? " +bias" : ""}${s.half ? " bf16" : ""}`.padEnd(28)} ${median(got[i]).toFixed(1).padStart(7)}  ${((100 * median(got[i])) / top).toFixed(0).padStart(4)} %`));
  await Promise.all(peakers.map((w) => w.terminate()));
  await b.close();
}
