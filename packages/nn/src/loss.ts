/** Losses of language models. */
import { ShapeError, type Tensor, concat, crossEntropySum, full, show } from "@adjoint/tensor";

/** Labels with this number (or outside the vocabulary) do not count. */
export const IGNORED = -100;

/** labels[t] becomes labels[t + 1], the last one -100: what position t has to predict. Shapes [batch, T]. */
export const shiftLabels = (labels: Tensor): Tensor => {
  const ignored = full([labels.shape[0], 1], IGNORED, "i32");
  return labels.shape[1] === 1 ? ignored : concat([labels.slice(1, 1), ignored], 1);
};

/**
 * Σ over predicted tokens of -log softmax(logits[t])[labels[t + 1]], and their number.
 * Shapes: logits [batch, T, vocabulary], labels [batch, T] i32, not shifted, -100 where nothing is predicted.
 */
export function nextTokenLossSum(logits: Tensor, labels: Tensor): { total: Tensor; count: Tensor } {
  if (logits.rank !== 3 || labels.rank !== 2 || labels.shape[0] !== logits.shape[0] || labels.shape[1] !== logits.shape[1]) {
    throw new ShapeError(`nextTokenLossSum: labels ${show(labels.shape)} do not fit logits ${show(logits.shape)}`, { op: "nextTokenLossSum", shapes: [logits.shape, labels.shape] });
  }
  return crossEntropySum(logits, shiftLabels(labels));
}
/** Mean over predicted tokens; 0 when there are none. */
export function nextTokenLoss(logits: Tensor, labels: Tensor): Tensor {
  const { total, count } = nextTokenLossSum(logits, labels);
  return total.div(count.maximum(1));
}
