/** The output head and its loss a piece of rows at a time, so that the logits of a large vocabulary never lie in memory at once. */
import { adapted, type Context, type Linear, linearCrossEntropy, rowsPerChunk, shiftLabels, within } from "@adjoint/nn";
import { type Tensor, concat, crossEntropySum } from "@adjoint/tensor";

/** Logits in one piece: 64 MiB of f32. */
const LIMIT = 2 ** 24;

/**
 * Σ -log softmax(head(h[t]))[labels[t + 1]] and the number of predicted tokens, for h [batch, T, hidden] and labels [batch, T].
 * Logits that fit one piece are one; beyond that a bare product (no bias, no adapter that adds to it) takes its gradient chunk by
 * chunk in the forward pass. Any other head is cut into pieces of equal rows, as far as they go; with `context.checkpoint` the
 * backward pass computes each piece's logits again.
 */
export function chunkedLossSum(h: Tensor, labels: Tensor, vocabulary: number, head: (h: Tensor, context: Context) => Tensor, context: Context, limit: number = LIMIT, bare: Linear | null = null): { total: Tensor; count: Tensor } {
  const [B, T, D] = h.shape, rows = B * T, pieces = Math.ceil((rows * vocabulary) / limit), step = Math.ceil(rows / pieces), x = h.reshape([rows, D]), next = shiftLabels(labels).reshape([rows]);
  if (pieces > 1 && bare && isBare(bare, x.slice(0, 0, 1), { ...context, flattened: { from: 0, per: T } })) return linearCrossEntropy(x, bare.weight, next, { chunk: rowsPerChunk(rows, vocabulary, limit) });
  const totals: Tensor[] = [], counts: Tensor[] = [];
  for (let from = 0; from < rows; from += step) {
    const to = Math.min(rows, from + step), y = next.slice(0, from, to), own: Context = { ...(from === 0 ? context : within(context, `rows ${from}`)), flattened: { from, per: T } };
    const piece = (part: Tensor): Tensor => crossEntropySum(head(part, own), y).total;
    totals.push((pieces > 1 && context.checkpoint ? context.checkpoint(piece) : piece)(x.slice(0, from, to)).reshape([1]));
    counts.push(y.ge(0).where(y.lt(vocabulary).cast("f32"), 0).sum().reshape([1]));
  }
  return { total: concat(totals).sum(), count: concat(counts).sum() };
}
/** Whether the layer is x Wᵀ and nothing else in this context; what is recorded to find out is never computed. */
function isBare(layer: Linear, x: Tensor, context: Context): boolean {
  if (layer.bias) return false;
  const y = x.matmul(layer.weight.T);
  return adapted(layer, x, y, context) === y;
}
