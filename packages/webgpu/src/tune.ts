/** Measures product kernels on this device and keeps the fastest of each class of problems as a table. */
import { bytesOf, ConfigError, type DType } from "@adjoint/tensor";
import { nameOf } from "./adapter.ts";
import { Bench, caseOf, differs, type ProductShape } from "./bench.ts";
import { contractWith } from "./contract.ts";
import { Device, newStats } from "./device.ts";
import { flopsOf } from "./gemm.ts";
import { problemOf } from "./gemm-problem.ts";
import type { WebGpuOptions } from "./gpu.ts";
import { classOf, type TileTable } from "./tile-table.ts";
import { candidates, type Choice } from "./tiles.ts";

export type TuneShape = ProductShape;
/** One candidate's result; `gflops` 0 where it was wrong or refused, with the reason in `error`. */
export interface TuneProgress { readonly shape: TuneShape; readonly done: number; readonly of: number; readonly choice: Choice; readonly gflops: number; readonly error?: string }
export interface TuneOptions {
  /** default: products of fine-tuning and decoding with models of 768 to 4096 features */
  readonly shapes?: readonly TuneShape[];
  /** candidates of a shape, by modelled cost; default 12 */
  readonly most?: number;
  /** no new candidate after so many seconds; default 180 */
  readonly seconds?: number;
  readonly onProgress?: (progress: TuneProgress) => void;
  readonly signal?: AbortSignal;
}

/** x Wᵀ, g W and gᵀ x of dense layers; x Aᵀ and the gradients of low-rank factors; scores and values of attention; one row of decoding; x Wᵀ, g W and one row with codes of 4 bits. */
export function standardShapes(types: readonly [DType, DType] = ["f32", "f32"]): readonly TuneShape[] {
  const shapes: TuneShape[] = [];
  for (const f of [768, 2048, 4096]) for (const t of [512, 2048]) {
    shapes.push({ m: t, n: f, k: f, b: "column" }, { m: t, n: f, k: f }, { m: f, n: f, k: t, a: "column" });
    for (const r of [8, 64]) shapes.push({ m: t, n: r, k: f, b: "column" }, { m: t, n: f, k: r, b: "column" }, { m: f, n: r, k: t, a: "column" }, { m: r, n: f, k: t, a: "column" });
  }
  shapes.push({ m: 512, n: 512, k: 64, batch: 48, b: "column" }, { m: 512, n: 64, k: 512, batch: 48 }, { m: 512, n: 50257, k: 768, b: "column" });
  for (const f of [768, 2048, 4096]) shapes.push({ m: 1, n: f, k: f, b: "column" }, { m: 1, n: 4 * f, k: f, b: "column" });
  if (types[0] === "f32") for (const f of [2048, 4096]) shapes.push({ m: 2048, n: f, k: f, b: "column", codes: 4 }, { m: 2048, n: f, k: f, codes: 4 }, { m: 1, n: f, k: f, b: "column", codes: 4 });
  return shapes.map((s) => ({ ...s, types }));
}
const softwareShapes: readonly TuneShape[] = [{ m: 64, n: 64, k: 64, b: "column" }, { m: 64, n: 8, k: 64, b: "column" }, { m: 1, n: 64, k: 64, b: "column" }, { m: 64, n: 64, k: 64, b: "column", codes: 4 }];

/**
 * Measures 6 to 20 candidates a shape on the device that `webgpu(device)` would open, and gives the table of the fastest
 * right ones: save it as JSON, give it back by `webgpu({ tiles })`. A candidate whose result differs from the plain register
 * tile's is reported and never chosen.
 * @throws ConfigError for impossible options, DeviceError without an adapter, the signal's reason when it is aborted
 */
export async function tune(device: WebGpuOptions = {}, options: TuneOptions = {}): Promise<TileTable> {
  const { most = 12, seconds = 180, onProgress, signal } = options;
  if (!(most >= 1)) throw new ConfigError("tune: most must be at least 1", { key: "most", value: most });
  const gpu = await Device.open(device, newStats(), 1), { target, report } = gpu, entries: Record<string, Choice> = {}, until = performance.now() + 1e3 * seconds;
  const shapes = options.shapes ?? (report.software ? softwareShapes : [...standardShapes(), ...(target.f16 ? standardShapes(["f16", "f16"]) : [])]);
  try {
    for (const shape of shapes) {
      const { kernel, plan } = caseOf(shape), problem = problemOf(kernel), all = candidates(problem, target), tested = all.slice(0, most);
      if (plan.buffers.some((b) => b.length * bytesOf(b.dtype) > target.limits.bindingBytes) || performance.now() > until) continue;
      // the register tile is the judge of all others
      const judge = tested.findIndex((c) => c.variant.kind === "tile"), plain = judge >= 0 ? tested[judge] : all.find((c) => c.variant.kind === "tile");
      const order = plain === undefined ? tested : [plain, ...tested.filter((c) => c !== plain)], bench = new Bench(gpu.gpu, plan);
      let best = Infinity, truth: Float32Array | undefined;
      try {
        for (const [i, choice] of order.entries()) {
          signal?.throwIfAborted();
          if (i > 0 && performance.now() > until) break;
          const tell = (gflops: number, error?: string): void => { onProgress?.({ shape, done: i + 1, of: order.length, choice, gflops, ...(error === undefined ? {} : { error }) }); };
          let ms: number, sample: Float32Array;
          try { ({ ms, sample } = await bench.time(contractWith(kernel, plan, target, problem, choice), best)); } catch (e) {
            if (gpu.gone !== null) throw gpu.gone;
            tell(0, e instanceof Error ? e.message : String(e));
            continue;
          }
          truth ??= sample;
          const wrong = differs(sample, truth, shape.k);
          if (wrong !== null) { tell(0, wrong); continue; }
          tell(flopsOf(problem) / ms / 1e6);
          if (ms < best) { best = ms; entries[classOf(problem, target)] = choice; }
        }
      } finally { bench.destroy(); }
    }
  } finally { gpu.gpu.destroy(); }
  return { version: 1, device: nameOf(report), entries };
}
