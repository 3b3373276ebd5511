/** Which variant a product gets. */
import type { Problem } from "./gemm-problem.ts";
import type { Target } from "./program.ts";
import { lookUp } from "./tile-table.ts";
import { candidates, type Choice } from "./tiles.ts";

/** What the device's table says of such problems, else the candidate of least modelled cost. Depends on sizes, never on values. */
export function choose(p: Problem, target: Target): Choice {
  const measured = target.tiles === undefined ? undefined : lookUp(target.tiles, p, target);
  return measured ?? candidates(p, target)[0] ?? { variant: { kind: "tile", BM: 16, BN: 16, BK: 16, TM: 4, TN: 4, KG: 1, prefetch: false }, splits: 1 };
}
