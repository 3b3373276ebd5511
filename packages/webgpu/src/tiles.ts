/** The shapes of product kernels as values, and which one a problem gets: a table measured on the device, else a rule of occupancy. */
import type { MatrixConfig, Target } from "./program.ts";
import { type Problem, product } from "./gemm-problem.ts";

/** BM x BN results a workgroup, TM x TN (multiples of 4) a thread, BK (a multiple of 4) of k staged at once; `prefetch` reads the next tile early. */
export interface TileVariant { readonly kind: "tile"; readonly BM: number; readonly BN: number; readonly BK: number; readonly TM: number; readonly TN: number; readonly prefetch: boolean }
/** Few rows: `lanes` threads share one column group of `columns` results, `threads` in a workgroup. */
export interface VecVariant { readonly kind: "vec"; readonly lanes: number; readonly columns: number; readonly threads: number }
/** Matrix units: SM x SN subgroups, each WM x WN result matrices of `config`. */
export interface MatrixVariant { readonly kind: "matrix"; readonly config: MatrixConfig; readonly SM: number; readonly SN: number; readonly WM: number; readonly WN: number; readonly BK: number; readonly prefetch: boolean }
export type Variant = TileVariant | VecVariant | MatrixVariant;

/** A variant, and into how many parts k is cut (1: none). */
export interface Choice { readonly variant: Variant; readonly splits: number }

const tile = (BM: number, BN: number, BK: number, TM: number, TN: number, prefetch = false): TileVariant => ({ kind: "tile", BM, BN, BK, TM, TN, prefetch });

/** Every register tile that a table may name. */
export const tiles: readonly TileVariant[] = [
  tile(128, 128, 16, 8, 8), tile(128, 64, 16, 8, 8), tile(64, 128, 16, 8, 8), tile(64, 64, 16, 8, 8), tile(64, 64, 16, 4, 8), tile(64, 32, 16, 4, 4), tile(32, 64, 16, 4, 4), tile(32, 32, 16, 4, 4), tile(16, 16, 16, 4, 4),
];

/** The rule without a table. */
export function choose(problem: Problem, target: Target): Choice {
  return { variant: tile(32, 32, 16, 4, 4), splits: 1 };
}
