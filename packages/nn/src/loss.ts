/** Losses of language models. */
import { ConfigError, ShapeError, type Tensor, concat, crossEntropySum, full, logSumExp, show } from "@adjoint/tensor";

/** Labels with this number (or outside the vocabulary) do not count. */
export const IGNORED = -100;

/** labels[t] becomes labels[t + 1], the last one -100: what position t has to predict. Shapes [batch, T]. */
export const shiftLabels = (labels: Tensor): Tensor => {
  const ignored = full([labels.shape[0], 1], IGNORED, "i32");
  return labels.shape[1] === 1 ? ignored : concat([labels.slice(1, 1), ignored], 1);
};

export interface LossOptions {
  /** ε of label smoothing (Szegedy et al. 2016): the target is 1-ε on the label plus ε spread evenly over the vocabulary; 0 by default */
  readonly labelSmoothing?: number;
}

/**
 * Σ over predicted tokens of -log softmax(logits[t])[labels[t + 1]], and their number.
 * Shapes: logits [batch, T, vocabulary], labels [batch, T] i32, not shifted, -100 where nothing is predicted.
 */
export function nextTokenLossSum(logits: Tensor, labels: Tensor, { labelSmoothing = 0 }: LossOptions = {}): { total: Tensor; count: Tensor } {
  if (logits.rank !== 3 || labels.rank !== 2 || labels.shape[0] !== logits.shape[0] || labels.shape[1] !== logits.shape[1]) {
    throw new ShapeError(`nextTokenLossSum: labels ${show(labels.shape)} do not fit logits ${show(logits.shape)}`, { op: "nextTokenLossSum", shapes: [logits.shape, labels.shape] });
  }
  if (!(labelSmoothing >= 0 && labelSmoothing < 1)) throw new ConfigError(`labelSmoothing is ${labelSmoothing}; it must lie in [0, 1)`, { key: "labelSmoothing", value: labelSmoothing, fix: "use a number such as 0.1" });
  const next = shiftLabels(labels), { total, count } = crossEntropySum(logits, next);
  if (labelSmoothing === 0) return { total, count };
  const counts = next.ge(0).where(next.lt(logits.shape[2]).cast(logits.dtype), 0).unsqueeze(-1), even = logSumExp(logits).sub(logits.mean(-1)).mul(counts).sum();
  return { total: total.mul(1 - labelSmoothing).add(even.mul(labelSmoothing)), count };
}
/** Mean over predicted tokens; 0 when there are none. */
export function nextTokenLoss(logits: Tensor, labels: Tensor, options: LossOptions = {}): Tensor {
  const { total, count } = nextTokenLossSum(logits, labels, options);
  return total.div(count.maximum(1));
}
