/**
 * Which neighbouring kernels need no meeting of the threads between them.
 *
 * Kernels that do not touch each other's results may overlap in time, so the threads walk a run of them and meet once
 * at its end: the updates of all parameters of an optimizer are one such run. Runs follow from the plan alone, and what
 * a kernel computes does not depend on the cut, so results stay bit-equal for any number of threads.
 */
import { bytesOf, type Kernel, type PlanSpec, type View } from "@adjoint/tensor";

/** Bytes of the arena, or a store as a whole. */
interface Place { readonly store: number; readonly from: number; readonly to: number }
interface Touched { readonly reads: readonly Place[]; readonly writes: readonly Place[] }

/** A run longer than this gains nothing more, and looking for what it touches would cost. */
export const LONGEST = 256;

/** Kernels that write maps of formulas; the others have work space or phases of their own, or come alone. */
function touched(plan: PlanSpec, kernel: Kernel): Touched | null {
  if (kernel.kind !== "map") return null;
  const place = ({ buffer }: View): Place => {
    const { kind, position, offset, dtype, length } = plan.buffers[buffer];
    return kind === "store" ? { store: position, from: 0, to: 1 } : { store: -1, from: offset, to: offset + length * bytesOf(dtype) };
  };
  return { reads: kernel.loads.map(place), writes: kernel.stores.map(({ view }) => place(view)) };
}
const overlap = (a: readonly Place[], b: readonly Place[]): boolean => a.some((x) => b.some((y) => x.store === y.store && x.from < y.to && y.from < x.to));

/** For each kernel the first kernel of its run; itself where it stands alone. */
export function runsOf(plan: PlanSpec): readonly number[] {
  const all = plan.kernels.map((k) => touched(plan, k)), runs: number[] = [];
  all.forEach((own, i) => {
    const first = i === 0 ? 0 : runs[i - 1], before = all.slice(first, i);
    const joins = own !== null && i > 0 && i - first < LONGEST
      && before.every((b) => b !== null && !overlap(b.writes, own.reads) && !overlap(b.writes, own.writes) && !overlap(b.reads, own.writes));
    runs.push(joins ? first : i);
  });
  return runs;
}
