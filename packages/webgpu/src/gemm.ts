/** The frame of a product kernel: which tile of which batch a workgroup computes, over which part of k, and where the sums go. */
import type { ContractKernel, PlanSpec } from "@adjoint/tensor";
import { bytesOf } from "@adjoint/tensor";
import { codeBytes, Tables } from "./codes.ts";
import { epilogue, loadsOf, type Sink, toScratch } from "./gemm-epilogue.ts";
import { source } from "./gemm-operand.ts";
import { type Factors, type Operand, type Problem, product } from "./gemm-problem.ts";
import { type Emit, type Pair, type Place, tileBody } from "./gemm-tile.ts";
import { matrixBody, matrixThreads, subgroupOf } from "./matrix.ts";
import { vecBody, vecColumns, vecNeedsScalarA, vecStep } from "./matvec.ts";
import type { Dispatch, Target } from "./program.ts";
import { Shader, spread } from "./shader.ts";
import { type Choice, threadsOf, type Variant } from "./tiles.ts";

/** Rows of tiles that are walked together, so that their columns of b stay in the cache. */
const GROUP = 8;

export const flopsOf = (p: Problem): number => p.products.reduce((t, { k }) => t + 2 * p.m * p.n * k * product(p.batch), 0);
/** Words of scratch for the sums of all parts: [part, batch, m, n rounded up to 4]. */
export const scratchWords = (p: Problem, splits: number): number => splits * product(p.batch) * p.m * Math.ceil(p.n / 4) * 4;
/** Each operand once, where it is not repeated over a batch. */
function operandBytes(p: Problem): number {
  let bytes = 0;
  for (const { k, a, b } of p.products) for (const [x, extent] of [[a, p.m], [b, p.n]] as const) bytes += (x.view.decode === undefined ? bytesOf(x.view.dtype) : codeBytes(x.view.decode)) * k * extent * product(p.batch.filter((_, i) => x.batch[i] !== 0));
  return bytes;
}
function epilogueBytes(kernel: ContractKernel): number {
  const views = [...kernel.stores.map((s) => s.view), ...[...loadsOf(kernel)].map((i) => kernel.loads[i])];
  return views.reduce((t, v) => t + bytesOf(v.dtype) * product(kernel.shape.filter((_, i) => v.strides[i] !== 0)), 0);
}

/** A kernel on its way to text. */
export interface Job { readonly kernel: ContractKernel; readonly plan: PlanSpec; readonly target: Target; readonly problem: Problem; readonly choice: Choice }

/** Batch coordinates `z0`... of the linear batch number. */
function unravel(shader: Shader, batch: readonly number[], z: string): string[] {
  const lines: string[] = [];
  let rest = z;
  for (let i = batch.length - 1; i > 0; i--) {
    const size = shader.param(batch[i]);
    lines.push(`let z${i} = ${rest} % ${size}; let rest${i} = ${rest} / ${size};`);
    rest = `rest${i}`;
  }
  if (batch.length > 0) lines.push(`let z0 = ${rest};`);
  return lines;
}

/** What the frame must know of a variant: results a workgroup, threads, the step to which parts of k are rounded. */
interface Extent { readonly BM: number; readonly BN: number; readonly BK: number; readonly threads: number }
function extentOf(v: Variant, p: Problem, target: Target): Extent {
  switch (v.kind) {
    case "tile": return { BM: v.BM, BN: v.BN, BK: v.BK, threads: threadsOf(v) };
    case "vec": return { BM: p.m, BN: vecColumns(v), BK: v.step ?? 4, threads: v.threads };
    case "matrix": return { BM: v.SM * v.WM * v.config.m, BN: v.SN * v.WN * v.config.n, BK: v.BK, threads: matrixThreads(v, target) };
    default: return v satisfies never;
  }
}
function body(shader: Shader, v: Variant, pairs: readonly Pair[], p: Problem, place: Place, emit: Emit): string {
  switch (v.kind) {
    case "tile": return tileBody(shader, pairs, v, place, emit);
    case "vec": return vecBody(shader, pairs, v, p.m, place, emit);
    case "matrix": return matrixBody(shader, pairs, v, place, emit);
    default: return v satisfies never;
  }
}

/** Binds the operands. A buffer has one cell type, so that it is read as its most demanding reader must. */
function bindOperands(shader: Shader, p: Problem, v: Variant, uniforms: readonly number[], tables: Tables): Pair[] {
  const limit = (f: Factors, x: Operand): 1 | 4 | 8 => {
    if (v.kind === "vec") return x === f.a ? (vecNeedsScalarA(f) ? 1 : 4) : x.view.decode !== undefined && vecStep(v, f) === 8 ? 8 : 4;
    return v.kind === "matrix" && v.config.component === "f16" ? 8 : 4;
  };
  const readers = p.products.flatMap((f) => [f.a, f.b].map((x) => ({ x, most: Math.min(x.width, limit(f, x)) })));
  const most = (x: Operand): 1 | 4 | 8 => { const least = Math.min(...readers.filter((r) => r.x.view.buffer === x.view.buffer).map((r) => r.most)); return least === 8 ? 8 : least === 4 ? 4 : 1; };
  const bits = v.kind === "matrix" && v.config.component === "f16";
  return p.products.map(({ k, a, b }, i) => ({ k, a: source(shader, a, `a${i}_`, uniforms, { most: most(a), bits, tables }), b: source(shader, b, `b${i}_`, uniforms, { most: most(b), bits, tables }) }));
}

/** The tiles of all batches and parts of k; results go through the formulas, or to `scratch` as they are, from part `first` on. */
export function productDispatch({ kernel, plan, target, problem: p, choice }: Job, scratch: number | null, first = 0): Dispatch {
  const v = choice.variant, { BM, BN, BK, threads } = extentOf(v, p, target), shader = new Shader(plan, target, { writes: new Set(scratch === null ? kernel.stores.map((s) => s.view.buffer) : [scratch]) });
  const tilesM = Math.ceil(p.m / BM), tilesN = Math.ceil(p.n / BN), batches = product(p.batch), total = tilesM * tilesN * batches * choice.splits;
  const tables = new Tables(shader, plan), pairs = bindOperands(shader, p, v, kernel.uniforms, tables);
  const per = shader.param(tilesM * tilesN), tm = shader.param(tilesM), tn = shader.param(tilesN), parts = choice.splits > 1;
  const place: Place = {
    M: shader.param(p.m), N: shader.param(p.n), m0: "m0", n0: "n0",
    range: (i) => {
      const { k } = p.products[i], K = shader.param(k);
      if (!parts) return [`let kb = 0u; let ke = ${K};`];
      const chunk = shader.param(Math.ceil(k / choice.splits / BK) * BK);
      return [`let kb = part * ${chunk}; let ke = min(${K}, kb + ${chunk});`];
    },
  };
  const lines = [
    "let g = wg.y * nwg.x + wg.x;", `if (g >= ${shader.param(total)}) { return; }`, `let zz = g / ${per}; let t = g % ${per};`,
    // tiles in bands of rows, columns after columns
    `let band = (t / (${GROUP}u * ${tn})) * ${GROUP}u; let rows = min(${tm} - band, ${GROUP}u); let i = t - band * ${tn};`,
    `let m0 = (band + i % rows) * ${BM}u; let n0 = (i / rows) * ${BN}u;`,
    ...(parts ? [`let part = zz / ${shader.param(batches)}; let z = zz % ${shader.param(batches)};`] : []),
    ...unravel(shader, p.batch, parts ? "z" : "zz"),
  ];
  const sink: Sink = scratch === null ? epilogue(shader, kernel, plan, p) : toScratch(shader, scratch, p, "zz", first);
  lines.push(...sink.lines, ...tables.fill(threads), body(shader, v, pairs, p, place, sink.emit));
  const bytes = operandBytes(p) + (scratch === null ? epilogueBytes(kernel) : scratchWords(p, choice.splits) * 4);
  return shader.dispatch(lines.join("\n"), { size: [threads, 1, 1], workgroups: spread(total, target).workgroups, label: kernel.label, flops: flopsOf(p), bytes, ...(v.kind === "matrix" ? subgroupOf(v, target) : {}) });
}

const REDUCE = 64;
/** Adds the parts in their order and applies the formulas, four neighbours a thread. */
export function reduceDispatch({ kernel, plan, target, problem: p, choice }: Job, scratch: number): Dispatch {
  const shader = new Shader(plan, target, { writes: new Set(kernel.stores.map((s) => s.view.buffer)) });
  const columns = Math.ceil(p.n / 4), count = product(p.batch) * p.m * columns, from = shader.bind(scratch, "vec4f"), { workgroups } = spread(Math.ceil(count / REDUCE), target);
  const C = shader.param(columns), n = shader.param(count);
  const lines = [
    `let i = (wg.y * nwg.x + wg.x) * ${REDUCE}u + li;`, `if (i >= ${n}) { return; }`,
    `let row = i / ${C}; let zz = row / ${shader.param(p.m)};`, ...unravel(shader, p.batch, "zz"),
    `var sum = ${from}[i];`, `for (var s = 1u; s < ${shader.param(choice.splits)}; s++) { sum += ${from}[s * ${n} + i]; }`,
  ];
  const sink = epilogue(shader, kernel, plan, p);
  lines.push(...sink.lines, sink.emit(`row % ${shader.param(p.m)}`, `(i % ${C}) * 4u`, "sum"));
  return shader.dispatch(lines.join("\n"), { size: [REDUCE, 1, 1], workgroups, label: `${kernel.label} (parts)`, flops: count * 4 * choice.splits, bytes: scratchWords(p, choice.splits) * 4 + epilogueBytes(kernel) });
}
