/** The shapes of product kernels as values, and which one a problem gets: by a table measured on the device, else by a model of its cost. */
import { tableWords } from "./codes.ts";
import type { MatrixConfig, Target } from "./program.ts";
import { type Problem, product } from "./gemm-problem.ts";
import { matrixBytes, matrixThreads, subgroupSize } from "./matrix.ts";

/**
 * BM x BN results a workgroup, TM x TN (multiples of 4) a thread, BK (a multiple of 4) of k staged at once; `prefetch` reads the
 * next tile early. KG groups of threads share the tile: each adds up its part of every BK, and the first adds the groups' sums.
 */
export interface TileVariant { readonly kind: "tile"; readonly BM: number; readonly BN: number; readonly BK: number; readonly TM: number; readonly TN: number; readonly KG: number; readonly prefetch: boolean }
/** At most four rows: `lanes` (a power of two) of a workgroup's `threads` share four columns; a thread takes `step` (4) of k at once where b lies along k. */
export interface VecVariant { readonly kind: "vec"; readonly lanes: number; readonly threads: number; readonly step?: 8 }
/** Matrix units: SM x SN subgroups, each WM x WN result matrices of `config`. */
export interface MatrixVariant { readonly kind: "matrix"; readonly config: MatrixConfig; readonly SM: number; readonly SN: number; readonly WM: number; readonly WN: number; readonly BK: number; readonly prefetch: boolean; /** tests only: printed without matrix units */ readonly emulate?: boolean }
export type Variant = TileVariant | VecVariant | MatrixVariant;

/** A variant, and into how many parts k is cut (1: none). */
export interface Choice { readonly variant: Variant; readonly splits: number }

export const threadsOf = (v: TileVariant): number => (v.BM / v.TM) * (v.BN / v.TN) * v.KG;
/** Bytes of workgroup memory; rows are padded by 16 bytes against bank conflicts of transposed stores. */
export const tileBytes = (v: TileVariant): number => 16 * v.BK * (v.BM / 4 + 1 + v.BN / 4 + 1) + (v.KG > 1 ? 4 * v.BM * v.BN : 0);
export const vecBytes = (v: VecVariant, rows: number): number => 16 * rows * v.threads;
/** Rows that a vec variant takes. */
export const MOST_ROWS = 4;

/** A variant with the share of the f32 rate that a device full of it reaches (an estimate; tables replace it). */
export interface Rated { readonly variant: Variant; readonly rate: number }
const tile = (BM: number, BN: number, BK: number, TM: number, TN: number, rate: number, KG = 1, prefetch = false): { variant: TileVariant; rate: number } => ({ variant: { kind: "tile", BM, BN, BK, TM, TN, KG, prefetch }, rate });

export const tiles: readonly { readonly variant: TileVariant; readonly rate: number }[] = [
  tile(128, 128, 16, 8, 8, 1), tile(128, 64, 16, 8, 8, 0.93), tile(64, 128, 16, 8, 8, 0.93), tile(64, 64, 16, 8, 8, 0.85), tile(64, 64, 16, 4, 4, 0.65),
  tile(64, 32, 16, 8, 4, 0.65), tile(32, 64, 16, 4, 8, 0.65), tile(32, 32, 16, 4, 4, 0.5),
  // few columns or few rows: products with low-rank factors
  tile(128, 16, 32, 8, 4, 0.4), tile(16, 128, 32, 4, 8, 0.4), tile(128, 8, 32, 4, 4, 0.3), tile(8, 128, 32, 4, 4, 0.3), tile(16, 16, 32, 4, 4, 0.25),
  // the next tile read early: for the tuner to judge
  tile(128, 128, 16, 8, 8, 0.99, 1, true), tile(128, 64, 16, 8, 8, 0.92, 1, true), tile(64, 128, 16, 8, 8, 0.92, 1, true), tile(64, 64, 16, 8, 8, 0.84, 1, true),
  // few tiles: k is shared inside the workgroup, which needs no second dispatch
  tile(64, 64, 32, 8, 8, 0.8, 4), tile(32, 32, 32, 4, 4, 0.45, 4), tile(64, 32, 32, 8, 4, 0.6, 4), tile(32, 64, 32, 4, 8, 0.6, 4),
  tile(64, 16, 32, 8, 4, 0.35, 8), tile(16, 64, 32, 4, 8, 0.35, 8), tile(32, 16, 64, 4, 4, 0.3, 8), tile(16, 32, 64, 4, 4, 0.3, 8), tile(16, 16, 64, 4, 4, 0.22, 16),
];

/** Shapes for matrix units: workgroups of 32 x 32 to 128 x 256 results, 16 x 16 to 64 x 64 a subgroup. */
export function matrixVariants(config: MatrixConfig): readonly { readonly variant: MatrixVariant; readonly rate: number }[] {
  const gain = config.component === "f16" ? 5 : 2;
  const shape = (SM: number, SN: number, rows: number, columns: number, BK: number, rate: number, prefetch = true): { variant: MatrixVariant; rate: number } => ({
    variant: { kind: "matrix", config, SM, SN, WM: Math.max(1, rows / config.m), WN: Math.max(1, columns / config.n), BK: Math.max(BK, config.k), prefetch }, rate: rate * gain,
  });
  return [
    shape(2, 4, 64, 32, 32, 1), shape(2, 2, 64, 64, 32, 0.95), shape(2, 4, 64, 64, 32, 1), shape(4, 2, 64, 64, 32, 1), shape(2, 4, 64, 32, 64, 0.98), shape(2, 4, 64, 32, 32, 0.9, false),
    shape(2, 2, 32, 32, 32, 0.6), shape(2, 2, 32, 32, 64, 0.6), shape(2, 4, 32, 32, 32, 0.75), shape(4, 2, 32, 32, 32, 0.75), shape(2, 2, 16, 16, 32, 0.25), shape(4, 1, 32, 16, 32, 0.35), shape(1, 4, 16, 32, 32, 0.35),
  ];
}

/** The configuration that products use: f32 sums of f32 operands, or of f16 ones where operands are f16 already or may be rounded. */
export function matrixConfig(p: Problem, { matrix, matmul, f16 }: Target): MatrixConfig | undefined {
  const halves = matmul === "f16" || p.products.every(({ a, b }) => a.view.dtype === "f16" && b.view.dtype === "f16");
  const fit = (c: MatrixConfig): boolean => c.result === "f32" && (c.component === "f32" || (halves && f16 && c.component === "f16")) && c.m % 8 === 0 && c.n % 8 === 0 && c.k % (c.component === "f16" ? 8 : 4) === 0;
  // f16 before f32; of those the nearest to 16 x 16 x 16
  const distance = (c: MatrixConfig): number => (c.component === "f16" ? 0 : 100) + [c.m, c.n, c.k].reduce((t, x) => t + Math.abs(Math.log2(x / 16)), 0);
  return matrix.filter(fit).sort((a, b) => distance(a) - distance(b))[0];
}

/** Bytes of workgroup memory that tables of codes take. */
const codesBytes = (p: Problem): number => p.products.flatMap(({ a, b }) => [a, b]).reduce((t, { view: { decode } }) => t + (decode === undefined ? 0 : 4 * tableWords(decode)), 0);

export const fits = (v: Variant, p: Problem, target: Target): boolean => {
  const { limits } = target, room = limits.workgroupBytes - codesBytes(p);
  switch (v.kind) {
    case "tile": return threadsOf(v) <= limits.invocations && tileBytes(v) <= room;
    case "vec": return p.m <= MOST_ROWS && v.threads <= limits.invocations && vecBytes(v, p.m) <= room;
    case "matrix": return (v.emulate === true || subgroupSize(target) !== null) && matrixThreads(v, target) <= limits.invocations && matrixBytes(v) <= room;
    default: return v satisfies never;
  }
};

/** Threads that keep one compute unit busy. */
const BUSY = 256;
/** What a dispatch more, and a byte of scratch, cost in operations of one compute unit. */
const DISPATCH = 1.5e6, BYTE = 12;
const SPLITS: readonly number[] = [1, 2, 4, 8, 16, 32, 64];

/** Parts of k: at least 64 steps each, and scratch within a binding. */
export function splitsOf(p: Problem, BK: number, target: Target): readonly number[] {
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

/** Every way to compute a problem on this device, the one of least modelled cost first. */
export function candidates(p: Problem, target: Target): readonly Choice[] {
  const config = matrixConfig(p, target), rated: Rated[] = [...tiles, ...(config === undefined ? [] : matrixVariants(config))].filter(({ variant }) => fits(variant, p, target));
  const all = rated.flatMap(({ variant: v, rate }) => {
    const [BM, BN, BK, threads] = v.kind === "tile" ? [v.BM, v.BN, v.BK, threadsOf(v)] : v.kind === "matrix" ? [v.SM * v.WM * v.config.m, v.SN * v.WN * v.config.n, v.BK, matrixThreads(v, target)] : [p.m, 1, 4, 1];
    return splitsOf(p, BK, target).map((splits) => ({ choice: { variant: v, splits }, time: cost(p, BM, BN, threads, rate, splits, target) }));
  });
  all.sort((a, b) => a.time - b.time);
  return [...(p.m <= MOST_ROWS ? vectors(p, target) : []), ...all.map((x) => x.choice)];
}

function vectors(p: Problem, target: Target): readonly Choice[] {
  const k = Math.max(...p.products.map((x) => x.k)), alongK = p.products.every(({ b }) => b.order === "along"), threads = Math.min(128, target.limits.invocations);
  // eight codes of four bits are one word; it adds up in another order, so that the plain product's kernel comes first
  const eight = alongK && p.products.some(({ k: own, b }) => b.view.decode?.bits === 4 && b.width === 8 && own % 8 === 0);
  let lanes = alongK ? 32 : 8;
  while (lanes > 4 && lanes * 4 > k) lanes /= 2;
  const of = (lanes: number, step: 4 | 8): Choice => {
    const groups = Math.ceil(p.n / ((threads / lanes) * 4)) * product(p.batch), wanted = (2 * target.units * BUSY) / threads;
    return { variant: { kind: "vec", lanes, threads, ...(step === 8 ? { step } : {}) }, splits: splitsOf(p, step * lanes, target).findLast((s) => s === 1 || (groups * s <= wanted && k / s >= 4 * step * lanes)) ?? 1 };
  };
  const some = [lanes, lanes * 2, lanes / 2].filter((l) => l <= threads), all = [...some.map((l) => of(l, 4)), ...(eight ? some.map((l) => of(l, 8)) : [])];
  return all.filter((c) => fits(c.variant, p, target));
}
