/** Where a step's time goes on a GPU: measured times of kernels beside the device's measured limits. */
import { assign, compile, fromHost, matmul, pace, type Store, store } from "@adjoint/tensor";
import type { ProfileRow, WebGpuBackend } from "@adjoint/webgpu";
import { padStart } from "./terminal.ts";

/** What the device reaches on the simplest kernels: 10^9 bytes a second of a copy, 10^9 operations a second of a large matmul. */
export interface Limits { readonly gbytes: number; readonly gflops: number }
export interface KernelTime extends ProfileRow {
  /** of the time, in a step */
  readonly share: number;
  /** least possible time by the limits over the time taken; 1 is the roofline */
  readonly roofline: number;
}

const ones = (name: string, shape: readonly number[]): Store => store(fromHost({ dtype: "f32", shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1) }), name);

/** The rates of a copy and of a matmul on this device. */
export async function measureLimits(device: WebGpuBackend): Promise<Limits> {
  const { software } = device.adapter, n = software ? 1 << 18 : 1 << 26, m = software ? 128 : 4096;
  const x = ones("x", [n]), y = ones("y", [n]), a = ones("a", [m, m]), b = ones("b", [m, m]), c = ones("c", [m, m]);
  const steps = [compile(() => { assign([y], [x.add(1)]); }), compile(() => { assign([c], [matmul(a, b)]); })];
  const best: number[] = [];
  for (const step of steps) {
    step(); step();
    await device.profile();
    let least = Infinity;
    for (let i = 0; i < 5; i++) { step(); const rows = await device.profile(); least = Math.min(least, rows.reduce((t, r) => t + r.ms, 0)); }
    best.push(least);
  }
  return { gbytes: (8 * n) / best[0] / 1e6, gflops: (2 * m ** 3) / best[1] / 1e6 };
}

/** Times of the kernels of `step`, the mean over `runs` runs. */
export async function profileStep(device: WebGpuBackend, step: () => void, limits: Limits, runs = 3): Promise<readonly KernelTime[]> {
  for (let i = 0; i < 2; i++) { step(); await pace(0); }
  await device.profile();
  for (let i = 0; i < runs; i++) { step(); await pace(0); }
  const rows = await device.profile(), total = rows.reduce((t, r) => t + r.ms, 0);
  return rows.map((r) => ({ ...r, ms: r.ms / runs, count: r.count / runs, share: r.ms / total, roofline: Math.max(r.gflops / limits.gflops, r.gbytes / limits.gbytes) }));
}

/** A table, the slowest first. */
export function showTimes(times: readonly KernelTime[], limits: Limits, most = 25): string {
  const total = times.reduce((t, r) => t + r.ms, 0), rate = (x: number): string => (x < 10 ? x.toFixed(2) : x.toFixed(0));
  const line = (...cells: string[]): string => `  ${cells.slice(0, -1).map((c, i) => padStart(c, [9, 6, 6, 9, 8, 9][i])).join(" ")}  ${cells[cells.length - 1]}`;
  const rest = times.slice(most);
  return [
    `times of one step: ${total.toFixed(3)} ms on the device; roofline: ${rate(limits.gflops)} GFLOP/s (matmul) and ${rate(limits.gbytes)} GB/s (copy), measured here`,
    line("ms", "share", "calls", "GFLOP/s", "GB/s", "roofline", "kernel"),
    ...times.slice(0, most).map((r) => line(r.ms.toFixed(3), `${(100 * r.share).toFixed(1)}%`, String(r.count), rate(r.gflops), rate(r.gbytes), `${(100 * r.roofline).toFixed(0)}%`, r.label.length > 70 ? `${r.label.slice(0, 67)}...` : r.label)),
    ...(rest.length > 0 ? [line(rest.reduce((t, r) => t + r.ms, 0).toFixed(3), `${(100 * rest.reduce((t, r) => t + r.share, 0)).toFixed(1)}%`, String(rest.reduce((t, r) => t + r.count, 0)), "", "", "", `${rest.length} more kernels`)] : []),
  ].join("\n");
}
