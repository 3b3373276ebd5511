/** Times of kernels on the GPU, by timestamps around every dispatch. */
import { DeviceError } from "@adjoint/tensor";
import type { Device } from "./device.ts";
import { USAGE } from "./gpu.ts";
import type { Landing, Staging } from "./staging.ts";

/** What one kernel took, over all its dispatches since the last look. */
export interface ProfileRow {
  readonly label: string;
  /** dispatches */
  readonly count: number;
  /** all together */
  readonly ms: number;
  /** 10^9 floating-point operations a second, and 10^9 bytes a second, each byte counted once a dispatch */
  readonly gflops: number;
  readonly gbytes: number;
}
interface Timed { readonly label: string; readonly flops: number; readonly bytes: number }

/** A query set holds so many timestamps, two a dispatch. */
const MOST = 4096;

export class Profiler {
  readonly #rows = new Map<string, { count: number; ns: number; flops: number; bytes: number }>();
  readonly #sets = new WeakMap<Device, { readonly set: GPUQuerySet; readonly resolved: GPUBuffer }>();

  /** Dispatches that fit into one encoder. */
  readonly most: number = MOST / 2;
  /** Ends the encoding of these dispatches: their timestamps go to a read-back buffer. */
  resolve(device: Device, staging: Staging, encoder: GPUCommandEncoder, count: number): Landing {
    const { set, resolved } = this.queries(device), landing = staging.take(count * 16);
    encoder.resolveQuerySet(set, 0, count * 2, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, landing.buffer, 0, count * 16);
    return landing;
  }
  queries(device: Device): { readonly set: GPUQuerySet; readonly resolved: GPUBuffer } {
    let q = this.#sets.get(device);
    if (q === undefined) {
      if (!device.gpu.features.has("timestamp-query")) throw new DeviceError("webgpu: this adapter has no timestamps", { key: "profile", fix: "open it without profile: true" });
      q = { set: device.gpu.createQuerySet({ type: "timestamp", count: MOST }), resolved: device.create(MOST * 8, USAGE.queryResolve | USAGE.copySource, "adjoint timestamps") };
      this.#sets.set(device, q);
    }
    return q;
  }
  /** Takes the times of dispatches in, once they are there. */
  async take(staging: Staging, landing: Landing, timed: readonly Timed[]): Promise<void> {
    const stamps = new BigUint64Array(await staging.land(landing, timed.length * 16));
    timed.forEach(({ label, flops, bytes }, i) => {
      const ns = Number(stamps[2 * i + 1] - stamps[2 * i]), row = this.#rows.get(label) ?? { count: 0, ns: 0, flops: 0, bytes: 0 };
      row.count++;
      row.ns += ns > 0 ? ns : 0;                            // a clock that was set back between two stamps says nothing
      row.flops += flops;
      row.bytes += bytes;
      this.#rows.set(label, row);
    });
  }
  /** The rows since the last look, the slowest first. */
  rows(): ProfileRow[] {
    const rate = (n: number, ns: number): number => (ns > 0 ? n / ns : 0);
    const out = [...this.#rows].map(([label, r]): ProfileRow => ({ label, count: r.count, ms: r.ns / 1e6, gflops: rate(r.flops, r.ns), gbytes: rate(r.bytes, r.ns) }));
    this.#rows.clear();
    return out.sort((a, b) => b.ms - a.ms);
  }
}

/** A table for people. */
export function showProfile(rows: readonly ProfileRow[]): string {
  const total = rows.reduce((n, r) => n + r.ms, 0);
  return [
    `${"ms".padStart(10)} ${"share".padStart(6)} ${"calls".padStart(6)} ${"GFLOP/s".padStart(9)} ${"GB/s".padStart(8)}  kernel`,
    ...rows.map((r) => `${r.ms.toFixed(3).padStart(10)} ${`${(100 * r.ms / (total || 1)).toFixed(1)}%`.padStart(6)} ${String(r.count).padStart(6)} ${r.gflops.toFixed(1).padStart(9)} ${r.gbytes.toFixed(1).padStart(8)}  ${r.label}`),
  ].join("\n");
}
