/** The shapes of product kernels as values, and which one a problem gets: by a table measured on the device, else by a model of its cost. */
import { matrixBytes, matrixThreads, subgroupSize } from "./matrix.ts";
import type { MatrixConfig, Target } from "./program.ts";
import { type Problem, product } from "./gemm-problem.ts";

/** BM x BN results a workgroup, TM x TN (multiples of 4) a thread, BK (a multiple of 4) of k staged at once; `prefetch` reads the next tile early. */
export interface TileVariant { readonly kind: "tile"; readonly BM: number; readonly BN: number; readonly BK: number; readonly TM: number; readonly TN: number; readonly prefetch: boolean }
/** At most four rows: `lanes` (a power of two) of a workgroup's `threads` share four columns. */
export interface VecVariant { readonly kind: "vec"; readonly lanes: number; readonly threads: number }
/** Matrix units: SM x SN subgroups, each WM x WN result matrices of `config`. */
export interface MatrixVariant { readonly kind: "matrix"; readonly config: MatrixConfig; readonly SM: number; readonly SN: number; readonly WM: number; readonly WN: number; readonly BK: number; readonly prefetch: boolean; /** tests only: printed without matrix units */ readonly emulate?: boolean }
export type Variant = TileVariant | VecVariant | MatrixVariant;

/** A variant, and into how many parts k is cut (1: none). */
export interface Choice { readonly variant: Variant; readonly splits: number }

export const threadsOf = (v: TileVariant): number => (v.BM / v.TM) * (v.BN / v.TN);
/** Bytes of workgroup memory; rows are padded by 16 bytes against bank conflicts of transposed stores. */
export const tileBytes = (v: TileVariant): number => 16 * v.BK * (v.BM / 4 + 1 + v.BN / 4 + 1);
export const vecBytes = (v: VecVariant, rows: number): number => 16 * rows * v.threads;
/** Rows that a vec variant takes. */
export const MOST_ROWS = 4;

const tile = (BM: number, BN: number, BK: number, TM: number, TN: number, prefetch = false): TileVariant => ({ kind: "tile", BM, BN, BK, TM, TN, prefetch });

/** Register tiles, each with the share of its arithmetic that a device with enough of them reaches (an estimate; tables replace it). */
export const tiles: readonly { readonly variant: TileVariant; readonly rate: number }[] = [
  { variant: tile(128, 128, 16, 8, 8), rate: 1 },
  { variant: tile(128, 64, 16, 8, 8), rate: 0.93 }, { variant: tile(64, 128, 16, 8, 8), rate: 0.93 },
  { variant: tile(64, 64, 16, 8, 8), rate: 0.85 }, { variant: tile(64, 64, 16, 4, 4), rate: 0.65 },
  { variant: tile(64, 32, 16, 8, 4), rate: 0.65 }, { variant: tile(32, 64, 16, 4, 8), rate: 0.65 },
  { variant: tile(32, 32, 16, 4, 4), rate: 0.5 },
  // few columns or few rows: products with low-rank factors
  { variant: tile(128, 16, 32, 8, 4), rate: 0.4 }, { variant: tile(16, 128, 32, 4, 8), rate: 0.4 },
  { variant: tile(128, 8, 32, 4, 4), rate: 0.3 }, { variant: tile(8, 128, 32, 4, 4), rate: 0.3 },
  { variant: tile(16, 16, 32, 4, 4), rate: 0.25 },
];

export const fits = (v: Variant, p: Problem, target: Target): boolean => {
  const { limits } = target;
  switch (v.kind) {
    case "tile": return threadsOf(v) <= limits.invocations && tileBytes(v) <= limits.workgroupBytes;
    case "vec": return p.m <= MOST_ROWS && v.threads <= limits.invocations && vecBytes(v, p.m) <= limits.workgroupBytes;
    case "matrix": return (v.emulate === true || subgroupSize(target) !== null) && matrixThreads(v, target) <= limits.invocations && matrixBytes(v) <= limits.workgroupBytes;
    default: return v satisfies never;
  }
};

/** Threads that keep one compute unit busy. */
const BUSY = 256;
/** What a dispatch more, and a byte of scratch, cost in operations of one compute unit. */
const DISPATCH = 5e5, BYTE = 12;
const SPLITS: readonly number[] = [1, 2, 4, 8, 16, 32, 64];

/** Parts of k: at least 64 steps each, and scratch within a binding. */
function splitsOf(p: Problem, BK: number, target: Target): readonly number[] {
  const longest = Math.max(...p.products.map((x) => x.k)), words = product(p.batch) * p.m * Math.ceil(p.n / 4) * 4;
  return SPLITS.filter((s) => s === 1 || (longest / s >= Math.max(64, 2 * BK) && s * words * 4 <= Math.min(target.limits.bindingBytes, 2 ** 28)));
}

/**
 * Time in operations of one compute unit. A unit holds groups of up to 2 BUSY threads at once and needs BUSY for its full rate;
 * groups come in rounds, the last of which may be thin. Splitting adds a dispatch and the traffic of the parts.
 */
function cost(p: Problem, BM: number, BN: number, threads: number, rate: number, splits: number, { units }: Target): number {
  const k = p.products.reduce((t, x) => t + x.k, 0), groups = Math.ceil(p.m / BM) * Math.ceil(p.n / BN) * product(p.batch) * splits;
  const work = (2 * BM * BN * (k / splits + 32)) / rate, held = Math.max(1, Math.floor((2 * BUSY) / threads));
  const full = Math.floor(groups / (units * held)), thin = Math.ceil((groups - full * units * held) / units);
  const time = full * held * work + (thin > 0 ? Math.max(thin * work, (work * BUSY) / threads) : 0);
  return time + (splits > 1 ? DISPATCH + (splits * product(p.batch) * p.m * p.n * 8 * BYTE) / units : 0);
}

/** The rule without a table: depends on sizes, never on values. */
export function choose(p: Problem, target: Target): Choice {
  if (p.m <= MOST_ROWS && product(p.batch) * p.n >= 16) return vec(p, target);
  let best: Choice | undefined, least = Infinity;
  for (const { variant, rate } of tiles) {
    if (!fits(variant, p, target)) continue;
    for (const splits of splitsOf(p, variant.BK, target)) {
      const c = cost(p, variant.BM, variant.BN, threadsOf(variant), rate, splits, target);
      if (c < least) { least = c; best = { variant, splits }; }
    }
  }
  return best ?? { variant: tile(16, 16, 16, 4, 4), splits: 1 };
}

function vec(p: Problem, target: Target): Choice {
  const k = Math.max(...p.products.map((x) => x.k)), alongK = p.products.every(({ b }) => b.order === "along"), threads = Math.min(128, target.limits.invocations);
  let lanes = alongK ? 32 : 8;
  while (lanes > 4 && lanes * 4 > k) lanes /= 2;
  const groups = Math.ceil(p.n / ((threads / lanes) * 4)) * product(p.batch), wanted = (2 * target.units * BUSY) / threads;
  const splits = splitsOf(p, 4 * lanes, target).findLast((s) => s === 1 || (groups * s <= wanted && k / s >= 16 * lanes)) ?? 1;
  return { variant: { kind: "vec", lanes, threads }, splits };
}

/** Shapes for matrix units: workgroups of 32 x 32 to 128 x 256 results, 16 x 16 to 64 x 64 a subgroup. */
export function matrixVariants(config: MatrixConfig): readonly MatrixVariant[] {
  const shape = (SM: number, SN: number, rows: number, columns: number, BK: number, prefetch: boolean): MatrixVariant => ({ kind: "matrix", config, SM, SN, WM: Math.max(1, rows / config.m), WN: Math.max(1, columns / config.n), BK: Math.max(BK, config.k), prefetch });
  return [
    shape(2, 4, 64, 32, 32, true), shape(2, 2, 64, 64, 32, true), shape(2, 4, 64, 64, 32, true), shape(4, 2, 64, 64, 32, true),
    shape(2, 2, 32, 32, 32, true), shape(2, 2, 32, 32, 64, true), shape(2, 4, 32, 32, 32, true), shape(4, 2, 32, 32, 32, true), shape(2, 2, 16, 16, 32, true), shape(4, 1, 32, 16, 32, true), shape(1, 4, 16, 32, 32, true),
  ];
}
