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

/** Records h ← β₂h + (1 - β₂)ĝ² with ĝ the gradient of the mean loss of `batch` under drawn labels. */
export function sampleCurvature(optimizer: BoundOptimizer<Readonly<Record<string, Store>>>, trainee: Trainee, batch: Batch, context: Context, key: Key, beta2: number): void {
  const { total, count } = trainee.lossSum(withDrawnLabels(batch, trainee.logits(batch, context), key), context);
  estimateCurvature(optimizer, gaussNewtonBartlett(gradients(total.div(count.maximum(1)), trainee.trainable)), beta2);
}
