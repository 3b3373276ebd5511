/**
 * Which neighbouring kernels need no meeting of the threads between them.
 *
 * Kernels that do not touch each other's results may overlap in time, so the threads walk a run of them and meet once
 * at its end: the updates of all parameters of an optimizer are one such run, the norms of their gradients another. Runs follow from the plan alone, and what
 * a kernel computes does not depend on the cut, so results stay bit-equal for any number of threads.
 */
import { bytesOf, type Kernel, type PlanSpec, type View } from "@adjoint/tensor";
import type { Recipe } from "./recipe.ts";

/** Bytes of the arena or of a store. */
interface Place { readonly store: number; readonly from: number; readonly to: number }
interface Touched { readonly reads: readonly Place[]; readonly writes: readonly Place[]; /** bytes of a thread's own workspace */ readonly share: number }

/** A run longer than this gains nothing more, and looking for what it touches would cost. */
export const LONGEST = 256;

/** Maps of formulas, and rows whose threads need nothing of one another; the others come alone. */
function touched(plan: PlanSpec, kernel: Kernel, { phases, share = 0 }: Recipe): Touched | null {
  if (kernel.kind !== "map" && (kernel.kind !== "rows" || phases > 1)) return null;
  const place = (view: View): Place => {
    const { kind, position, offset } = plan.buffers[view.buffer], start = kind === "store" ? 0 : offset, size = bytesOf(view.dtype);
    let from = view.offset, to = view.offset + 1;
    view.strides.forEach((s, a) => { const far = s * (kernel.shape[a] - 1); from += Math.min(0, far); to += Math.max(0, far); });
    return { store: kind === "store" ? position : -1, from: start + from * size, to: start + to * size };
  };
  return { reads: kernel.loads.map(place), writes: kernel.stores.map(({ view }) => place(view)), share };
}
const overlap = (a: readonly Place[], b: readonly Place[]): boolean => a.some((x) => b.some((y) => x.store === y.store && x.from < y.to && y.from < x.to));

/** For each kernel the first kernel of its run; itself where it stands alone. */
export function runsOf(plan: PlanSpec, recipes: readonly Recipe[]): readonly number[] {
  const all = plan.kernels.map((k, i) => touched(plan, k, recipes[i])), runs: number[] = [];
  all.forEach((own, i) => {
    const first = i === 0 ? 0 : runs[i - 1], before = all.slice(first, i);
    const joins = own !== null && i > 0 && i - first < LONGEST && before.every((b) => b === null || own.share === 0 || b.share === 0 || b.share === own.share)      // equal shares, else one thread's begins in another's
      && before.every((b) => b !== null && !overlap(b.writes, own.reads) && !overlap(b.writes, own.writes) && !overlap(b.reads, own.writes));
    runs.push(joins ? first : i);
  });
  return runs;
}
