/** The parts of an adapter with some of them exchanged, its tensors shared. */
import { flatten, Tensor } from "@adjoint/tensor";
import type { Tuned, TunedParts } from "../tuned.ts";

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;

/** What a new `Tuned` (or a class of it) over the same base takes. */
export function rebuilt<M>(tuned: Tuned<M>, changed: Partial<Pick<TunedParts<M>, "config" | "table" | "attachments">> = {}): TunedParts<M> {
  const { paths, leaves } = flatten(tuned.base, isTensor);
  return { base: tuned.base, config: tuned.loraConfig, table: tuned.targets, attachments: tuned.attachments, ground: tuned.ground, source: tuned.source, ...changed, weights: paths.map((path, i) => ({ path, store: leaves[i] })) };
}
