/** Scaled dot-product attention with grouped queries, by composition; masks are formulas of positions. */
import { ShapeError, type Key, type Tensor, bitAnd, dropout, iota, show, softmax } from "@adjoint/tensor";

/** Stands for -∞ where a query may not look; finite, so that a row that sees nothing stays a number. */
const HIDDEN = -1e30;

export interface AttentionOptions {
  /** bool, broadcasts to [batch, 1, 1, queries, keys]; true where a query may look; null: everywhere */
  readonly mask?: Tensor | null;
  /** factor of the scores (1/√d by default) */
  readonly scale?: number;
  /** dropout of the probabilities, with the key of its mask */
  readonly dropout?: { readonly p: number; readonly key: Key } | null;
}

/**
 * y = softmax(scale · q kᵀ + mask) v for every group of query heads that shares a key-value head.
 *
 * Shapes: q [batch, kvHeads, groups, T, d], k and v [batch, kvHeads, S, d]; y as q. k and v are read through an
 * expanded view, never copied. A query that may look nowhere gets the mean of all values.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const [B, KV, , T, d] = q.shape, S = k.shape[2];
  if (q.rank !== 5 || k.rank !== 4 || k.shape[0] !== B || k.shape[1] !== KV || k.shape[3] !== d || v.rank !== 4 || v.shape.some((n, i) => i < 3 && n !== k.shape[i])) {
    throw new ShapeError(`attention: shapes do not fit\n  q  ${show(q.shape)}\n  k  ${show(k.shape)}\n  v  ${show(v.shape)}`, { op: "attention", shapes: [q.shape, k.shape, v.shape], fix: "q [batch, kvHeads, groups, T, d], k and v [batch, kvHeads, S, d]" });
  }
  const { mask = null, scale = 1 / Math.sqrt(d), dropout: drop = null } = options;
  if (mask && (mask.rank !== 5 || mask.shape[3] !== T || mask.shape[4] !== S)) {
    if (mask.rank !== 5 || mask.shape[4] !== S || mask.shape[3] !== 1) throw new ShapeError(`attention: mask ${show(mask.shape)} does not fit ${T} queries and ${S} keys`, { op: "attention", shapes: [mask.shape, q.shape, k.shape] });
  }
  const scores = q.matmul(k.unsqueeze(2).T).mul(scale), p = softmax(mask ? mask.where(scores, HIDDEN) : scores);
  return (drop ? dropout(p, drop.p, drop.key) : p).matmul(v.unsqueeze(2));
}

/** True where a key's position is not after the query's: query t stands at `offset` + t (a number that is data; 0 by default). [1, 1, 1, T, S] */
export function causalMask(T: number, S: number = T, options: { readonly offset?: Tensor; readonly window?: number } = {}): Tensor {
  const query = iota([1, 1, 1, T, 1], 3), at = options.offset ? query.add(options.offset) : query, key = iota([1, 1, 1, 1, S], 4);
  const past = key.le(at);
  return options.window === undefined ? past : bitAnd(past, at.sub(key).lt(options.window));
}
/** From [batch, S] (true or nonzero: a real token) to [batch, 1, 1, 1, S]. */
export const paddingMask = (real: Tensor): Tensor => (real.dtype === "bool" ? real : real.ne(0)).reshape([real.shape[0], 1, 1, 1, real.shape[1]]);
/** True where query and key carry the same number of segment (block-diagonal, for packed rows): [batch, T] to [batch, 1, 1, T, T]. */
export function segmentMask(segments: Tensor): Tensor {
  const [B, T] = segments.shape;
  return segments.reshape([B, 1, 1, T, 1]).eq(segments.reshape([B, 1, 1, 1, T]));
}
/** True where all masks are; null for none. */
export const allOf = (masks: readonly (Tensor | null)[]): Tensor | null => masks.reduce((a, b) => (a && b ? bitAnd(a, b) : (a ?? b)), null);
