/** The frame of a product kernel: which tile of which batch a workgroup computes, over which part of k, and where the sums go. */
import type { ContractKernel, PlanSpec } from "@adjoint/tensor";
import { bytesOf } from "@adjoint/tensor";
import { type Problem, product } from "./gemm-problem.ts";
import { type Emit, type Place, threadsOf, tileBody } from "./gemm-tile.ts";
import type { Dispatch, Target } from "./program.ts";
import { Shader, spread } from "./shader.ts";
import type { Choice, TileVariant } from "./tiles.ts";

/** Rows of tiles that are walked together, so that their columns of b stay in the cache. */
const GROUP = 8;

/** Sums of one part of k go to scratch as [part, batch, m, n rounded up to 4]. */
export interface Partial4 { readonly columns: number; readonly words: number }
export const partial = (p: Problem, splits: number): Partial4 => {
  const columns = Math.ceil(p.n / 4);
  return { columns, words: splits * product(p.batch) * p.m * columns * 4 };
};

export const flopsOf = (p: Problem): number => p.products.reduce((t, { k }) => t + 2 * p.m * p.n * k * product(p.batch), 0);
/** Each operand once, where it is not repeated over a batch. */
export function operandBytes(p: Problem): number {
  let bytes = 0;
  for (const { k, a, b } of p.products) for (const [x, extent] of [[a, p.m], [b, p.n]] as const) bytes += bytesOf(x.view.dtype) * k * extent * product(p.batch.filter((_, i) => x.batch[i] !== 0));
  return bytes;
}

/** Text that writes the sums, printed into a shader; `emit` is one call of it. */
export interface Sink { readonly lines: readonly string[]; readonly emit: Emit }

export interface Frame {
  readonly kernel: ContractKernel; readonly plan: PlanSpec; readonly target: Target; readonly problem: Problem; readonly choice: Choice;
  /** buffers that must be read by elements */
  readonly scalar: (buffer: number) => boolean;
  readonly writes: ReadonlySet<number>;
  readonly sink: (shader: Shader, place: Place, zz: string) => Sink;
  readonly bytes: number;
}

export function tileDispatch(f: Frame, v: TileVariant): Dispatch {
  const { problem: p, target, choice } = f, shader = new Shader(f.plan, target, { writes: f.writes });
  const tilesM = Math.ceil(p.m / v.BM), tilesN = Math.ceil(p.n / v.BN), batches = product(p.batch), per = tilesM * tilesN, total = per * batches * choice.splits;
  const lines: string[] = [];
  const num = (name: string, value: number): string => { lines.push(`let ${name} = ${shader.param(value)};`); return name; };
  const per_ = num("per", per), tm = num("tilesM", tilesM), tn = num("tilesN", tilesN);
  lines.push(`let g = wg.y * nwg.x + wg.x;`, `if (g >= ${shader.param(total)}) { return; }`, `let zz = g / ${per_}; let t = g % ${per_};`);
  // tiles in groups of rows
  lines.push(`let band = t / (${GROUP}u * ${tn}); let bandM = band * ${GROUP}u; let bandRows = min(${tm} - bandM, ${GROUP}u); let inBand = t - bandM * ${tn};`);
  const place: Place = {
    M: num("M", p.m), N: num("N", p.n), m0: "m0", n0: "n0",
    range: (i) => {
      const { k } = p.products[i];
      if (choice.splits === 1) return [`let kb = 0u; let ke = ${shader.param(k)};`];
      const chunk = Math.ceil(k / choice.splits / v.BK) * v.BK;
      return [`let kb = part * ${shader.param(chunk)}; let ke = min(${shader.param(k)}, kb + ${shader.param(chunk)});`];
    },
  };
  lines.push(`let m0 = (bandM + inBand % bandRows) * ${v.BM}u; let n0 = (inBand / bandRows) * ${v.BN}u;`);
  let z = "zz";
  if (choice.splits > 1) { lines.push(`let part = zz / ${shader.param(batches)}; let z = zz % ${shader.param(batches)};`); z = "z"; }
  for (let i = p.batch.length - 1, rest = z; i >= 0; i--) {
    if (i === 0) lines.push(`let z0 = ${rest};`);
    else { const size = shader.param(p.batch[i]); lines.push(`let z${i} = ${rest} % ${size}; let rest${i} = ${rest} / ${size};`); rest = `rest${i}`; }
  }
  const sink = f.sink(shader, place, "zz");
  lines.push(...sink.lines, tileBody(shader, p, v, place, f.kernel.uniforms, f.scalar, sink.emit));
  return shader.dispatch(lines.join("\n"), { size: [threadsOf(v), 1, 1], workgroups: spread(total, target).workgroups, label: f.kernel.label, flops: flopsOf(p), bytes: f.bytes });
}
