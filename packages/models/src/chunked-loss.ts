/** The output head and its loss a piece of rows at a time, so that the logits of a large vocabulary never lie in memory at once. */
import { type Context, shiftLabels, within } from "@adjoint/nn";
import { type Tensor, concat, crossEntropySum } from "@adjoint/tensor";

/** Logits in one piece: 64 MiB of f32. */
const LIMIT = 2 ** 24;

/**
 * Σ -log softmax(head(h[t]))[labels[t + 1]] and the number of predicted tokens, for h [batch, T, hidden] and labels [batch, T].
 * Pieces hold the same number of rows each, as far as they go; with `context.checkpoint` the backward pass computes each piece's logits again.
 */
export function chunkedLossSum(h: Tensor, labels: Tensor, vocabulary: number, head: (h: Tensor, context: Context) => Tensor, context: Context, limit: number = LIMIT): { total: Tensor; count: Tensor } {
  const [B, T, D] = h.shape, rows = B * T, pieces = Math.ceil((rows * vocabulary) / limit), step = Math.ceil(rows / pieces), x = h.reshape([rows, D]), next = shiftLabels(labels).reshape([rows]);
  const totals: Tensor[] = [], counts: Tensor[] = [];
  for (let from = 0; from < rows; from += step) {
    const to = Math.min(rows, from + step), y = next.slice(0, from, to), own = from === 0 ? context : within(context, `rows ${from}`);
    const piece = (part: Tensor): Tensor => crossEntropySum(head(part, own), y).total;
    totals.push((pieces > 1 && context.checkpoint ? context.checkpoint(piece) : piece)(x.slice(0, from, to)).reshape([1]));
    counts.push(y.ge(0).where(y.lt(vocabulary).cast("f32"), 0).sum().reshape([1]));
  }
  return { total: concat(totals).sum(), count: concat(counts).sum() };
}
