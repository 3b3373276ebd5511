/** Scaled dot-product attention with grouped queries: by composition, or by the device's own kernels where it has them. */
import { ShapeError, type Key, type Tensor, composedAttention, dropout, permuteOp, show, softmax } from "@adjoint/tensor";
import { CausalMask, fusedAttention } from "./mask.ts";

/** Stands for -∞ where a query may not look; finite, so that a row that sees nothing stays a number. */
const HIDDEN = -1e30;

export interface AttentionOptions {
  /** bool, broadcasts to [batch, 1, 1, queries, keys], true where a query may look; or a mask with its structure; null: everywhere */
  readonly mask?: Tensor | CausalMask | null;
  /** factor of the scores (1/√d by default) */
  readonly scale?: number;
  /** dropout of the probabilities, with the key of its mask */
  readonly dropout?: { readonly p: number; readonly key: Key } | null;
}

/**
 * y = softmax(scale · q kᵀ + mask) v for every group of query heads that shares a key-value head.
 *
 * Shapes: q [batch, kvHeads, groups, T, d], k and v [batch, kvHeads, S, d]; y as q. k and v are read through an
 * expanded view, never copied. A query that may look nowhere gets the mean of all values, or 0 from a device with kernels
 * for attention; they serve masks with structure, f32, no dropout.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const [B, KV, , T, d] = q.shape, S = k.shape[2];
  if (q.rank !== 5 || k.rank !== 4 || k.shape[0] !== B || k.shape[1] !== KV || k.shape[3] !== d || v.rank !== 4 || v.shape.some((n, i) => i < 3 && n !== k.shape[i])) {
    throw new ShapeError(`attention: shapes do not fit\n  q  ${show(q.shape)}\n  k  ${show(k.shape)}\n  v  ${show(v.shape)}`, { op: "attention", shapes: [q.shape, k.shape, v.shape], fix: "q [batch, kvHeads, groups, T, d], k and v [batch, kvHeads, S, d]" });
  }
  const { mask = null, scale = 1 / Math.sqrt(d), dropout: drop = null } = options, structured = mask instanceof CausalMask;
  if (structured) {
    const { queries, keys = queries } = mask.visibility;
    if (queries !== T || keys !== S) throw new ShapeError(`attention: a mask of ${queries} queries and ${keys} keys does not fit ${T} queries and ${S} keys`, { op: "attention", shapes: [[queries, keys], q.shape, k.shape] });
  } else if (mask && (mask.rank !== 5 || mask.shape[4] !== S || (mask.shape[3] !== T && mask.shape[3] !== 1))) {
    throw new ShapeError(`attention: mask ${show(mask.shape)} does not fit ${T} queries and ${S} keys`, { op: "attention", shapes: [mask.shape, q.shape, k.shape] });
  }
  if ((structured || !mask) && !drop && v.shape[3] === d && [q, k, v].every((x) => x.dtype === "f32") && fusedAttention()) return byKernel(q, k, v, scale, mask);
  const visible = structured ? mask.dense : mask;
  const scores = q.matmul(k.unsqueeze(2).T).mul(scale), p = softmax(visible ? visible.where(scores, HIDDEN) : scores);
  return (drop ? dropout(p, drop.p, drop.key) : p).matmul(v.unsqueeze(2));
}

/** Hands tensors over as projections made them, so that no permutation is copied; keys and values of a cache as they lie there. */
function byKernel(q: Tensor, k: Tensor, v: Tensor, scale: number, mask: CausalMask | null): Tensor {
  const [B, KV, G, T, d] = q.shape, keys = k.op === permuteOp || v.op === permuteOp ? "tokens" : "heads", cells = (x: Tensor): Tensor => (keys === "tokens" ? x.permute([0, 2, 1, 3]) : x);
  const { offset = null, window = null } = mask?.visibility ?? {};
  const y = composedAttention(q.permute([0, 3, 1, 2, 4]).reshape([B, T, KV * G, d]), cells(k), cells(v), { scale, keys, causal: mask !== null, window: window ?? 0, offset, marks: mask?.marks ?? null });
  return y.reshape([B, T, KV, G, d]).permute([0, 2, 3, 1, 4]);
}
