/** Sophia's samples of the curvature: gradients of the loss under labels that the model itself draws (Gauss-Newton-Bartlett). */
import { gradients } from "@adjoint/autograd";
import { type BoundOptimizer, estimateCurvature, gaussNewtonBartlett, sampleLabels } from "@adjoint/optim";
import { concat, type Key, type Store, type Tensor } from "@adjoint/tensor";
import type { Context } from "@adjoint/nn";
import type { Batch } from "./data/tensors.ts";
import type { Trainee } from "./trainee.ts";

/** Steps between two samples, as in the paper. */
export const CURVATURE_EVERY = 10;

/** The batch with labels drawn from the model, where there were labels: what stands at t is drawn from the logits at t - 1. */
export function withDrawnLabels(batch: Batch, logits: Tensor, key: Key): Batch {
  const drawn = sampleLabels(logits, key), last = batch.length - 1;
  const shifted = concat([batch.labels.slice(1, 0, 1), drawn.slice(1, 0, last)], 1);
  const labels = batch.labels.lt(0).where(batch.labels, shifted);
  return { ...batch, labels };
}

/**
 * Records h ← β₂h + (1 - β₂)ĝ² n / bs with ĝ the gradient of the mean loss of `batch` under drawn labels and n its predicted tokens: the optimizer multiplies h by
 * `bs`, and the curvature is n ĝ², however many tokens a batch predicts. `bs` null: h ← β₂h + (1 - β₂)ĝ².
 */
export function sampleCurvature(optimizer: BoundOptimizer<Readonly<Record<string, Store>>>, trainee: Trainee, batch: Batch, context: Context, key: Key, beta2: number, bs: number | null = null): void {
  const { total, count } = trainee.lossSum(withDrawnLabels(batch, trainee.logits(batch, context), key), context), n = count.maximum(1);
  const square = gaussNewtonBartlett(gradients(total.div(n), trainee.trainable));
  estimateCurvature(optimizer, bs === null ? square : () => Object.fromEntries(Object.entries(square()).map(([path, x]) => [path, x === null ? null : x.mul(n.div(bs).cast(x.dtype))])), beta2);
}
