/**
 * Attention as two composites, forward and backward, that a device may run as one pass over tiles (FlashAttention, Dao 2023).
 *
 * A query t of row b stands at position t + offset and may look at key s if all of these hold: s ≤ t + offset (causal),
 * t + offset - s < window, and its mark equals the key's (rows of padding and packed segments are marks). Scores of
 * other keys do not exist; a query that may look nowhere gets 0. Offset and marks are data, the rest is structure.
 */
import { DTypeError, ShapeError } from "./errors.ts";
import { isFloat, isHalf } from "./dtype.ts";
import { internal } from "./engine.ts";
import { composite } from "./op.ts";
import { show, sizeOf } from "./shape.ts";
import { type Tensor, current } from "./tensor.ts";
import { concat } from "./ops/concat.ts";
import { bitAnd, cast, where } from "./ops/pointwise.ts";
import { iota } from "./ops/indexing.ts";
import { amax, sum } from "./ops/reduce.ts";
import { stopGradient } from "./ops/views.ts";
import { withGradient } from "./custom.ts";

/** Structure of one attention; a type, so that it is a plan's key. */
export type AttentionAttrs = {
  /** factor of the scores */
  readonly scale: number;
  readonly causal: boolean;
  /** how many positions back a query sees, itself included; 0: all */
  readonly window: number;
  /** inputs end with queryMarks [B, T] and keyMarks [B, S], i32 */
  readonly marks: boolean;
  /** the last input is the first query's position, a scalar of i32 */
  readonly offset: boolean;
  /** k and v are [B, S, heads, d] ("tokens", as projections make them) or [B, heads, S, d] ("heads", as caches keep them) */
  readonly keys: "tokens" | "heads";
};

/** Sizes of one attention: q [batch, queries, heads, size], k and v with `kvHeads` heads and `keys` positions. */
export interface AttentionSizes { readonly batch: number; readonly queries: number; readonly keys: number; readonly heads: number; readonly kvHeads: number; readonly size: number }
/** Sizes by the shapes of q and k. */
export const attentionSizes = (q: readonly number[], k: readonly number[], { keys }: Pick<AttentionAttrs, "keys">): AttentionSizes =>
  ({ batch: q[0], queries: q[1], heads: q[2], size: q[3], keys: keys === "tokens" ? k[1] : k[2], kvHeads: keys === "tokens" ? k[2] : k[1] });

/** Stands for a score that does not exist: its exponential is 0 and stays finite in every derivative. */
const HIDDEN = -1e30;

/** scale · q kᵀ, and where a query may look (null: everywhere); q as [B, kvHeads, groups, T, d], k and v as [B, kvHeads, 1, S, d]. */
function formula([q, k, v]: readonly Tensor[], rest: readonly Tensor[], attrs: AttentionAttrs): { q5: Tensor; k5: Tensor; v5: Tensor; scores: Tensor; visible: Tensor | null } {
  const { batch: B, queries: T, keys: S, heads: H, kvHeads: KV, size: d } = attentionSizes(q.shape, k.shape, attrs);
  const q5 = q.reshape([B, T, KV, H / KV, d]).permute([0, 2, 3, 1, 4]), byHead = (x: Tensor): Tensor => (attrs.keys === "tokens" ? x.permute([0, 2, 1, 3]) : x).unsqueeze(2), k5 = byHead(k);
  const scores = q5.matmul(k5.T).mul(attrs.scale), here = iota([1, 1, 1, T, 1], 3), key = iota([1, 1, 1, 1, S], 4), at = attrs.offset ? here.add(rest[rest.length - 1]) : here;
  let visible = attrs.causal ? key.le(at) : null;
  const and = (mask: Tensor): void => { visible = visible ? bitAnd(visible, mask) : mask; };
  if (attrs.window > 0) and(at.sub(key).lt(attrs.window));
  if (attrs.marks) and(rest[0].reshape([B, 1, 1, T, 1]).eq(rest[1].reshape([B, 1, 1, 1, S])));
  return { q5, k5, v5: byHead(v), scores, visible };
}
const shown = (visible: Tensor | null, x: Tensor): Tensor => (visible ? where(visible, x, HIDDEN) : x);
const flat = (xs: readonly Tensor[]): Tensor => concat(xs.map((x) => x.reshape([-1])));
/** From [B, kvHeads, groups, T, d] to [B, T, heads, d]. */
const byToken = (x: Tensor): Tensor => x.permute([0, 3, 1, 2, 4]);

/**
 * Inputs q, k, v, then marks and offset as the attributes say. One flat result: o [B, T, heads, d], then the log of each
 * query's Σ e^score, [B, heads, T] (0 for a query that sees nothing).
 */
const forward = composite("attentionForward", {
  define: ([q, k, v, ...rest], attrs: AttentionAttrs) => {
    const { v5, scores, visible } = formula([q, k, v], rest, attrs), m = stopGradient(amax(shown(visible, scores), -1));
    const e = shown(visible, scores.sub(m)).exp(), l = sum(e, -1), seen = l.gt(0), some = where(seen, l, 1);
    return flat([byToken(e.matmul(v5).div(some)), where(seen, m.add(some.log()), 0)]);
  },
  doc: "o = softmax(scale q kᵀ) v over the keys that a query may see, and log Σ e^score",
});

/**
 * Inputs q, k, v, the flat forward result, the gradient of o, then marks and offset. One flat result: dq, dk, dv, each as its input.
 *
 * P = e^(scale q kᵀ - lse), dV = Pᵀ dO, dP = dO Vᵀ, D = rowsum(dO ∘ O), dS = P ∘ (dP - D), dQ = scale dS K, dK = scale dSᵀ Q.
 */
const backward = composite("attentionBackward", {
  define: ([q, k, v, done, g, ...rest], attrs: AttentionAttrs) => {
    const { batch: B, queries: T, heads: H, kvHeads: KV, size: d } = attentionSizes(q.shape, k.shape, attrs), n = sizeOf(q.shape);
    const { q5, k5, v5, scores, visible } = formula([q, k, v], rest, attrs), five = (x: Tensor): Tensor => x.reshape([B, T, KV, H / KV, d]).permute([0, 2, 3, 1, 4]);
    const o5 = five(done.slice(0, 0, n)), g5 = five(g), lse = done.slice(0, n).reshape([B, KV, H / KV, T, 1]);
    const p = shown(visible, scores.sub(lse)).exp(), dS = p.mul(g5.matmul(v5.T).sub(sum(g5.mul(o5), -1)));
    const grouped = (x: Tensor): Tensor => { const y = sum(x, 2).squeeze(2); return attrs.keys === "tokens" ? y.permute([0, 2, 1, 3]) : y; };
    return flat([byToken(dS.matmul(k5).mul(attrs.scale)), grouped(dS.T.matmul(q5).mul(attrs.scale)), grouped(p.T.matmul(g5))]);
  },
  doc: "gradients of attentionForward's o with respect to q, k and v",
});

/** Names of the two composites, as `Backend.composites` has them. */
export const attentionKernels: readonly string[] = ["attentionForward", "attentionBackward"];

export interface ComposedAttention extends Partial<Pick<AttentionAttrs, "scale" | "causal" | "window" | "keys">> {
  /** numbers of queries [B, T] and keys [B, S], i32: a query sees keys of its own number */
  readonly marks?: { readonly queries: Tensor; readonly keys: Tensor } | null;
  /** position of the first query, a scalar of i32; 0 by default */
  readonly offset?: Tensor | null;
}

/**
 * y = softmax(scale · q kᵀ) v over the keys that each query may see, as composites whose backward pass recomputes the scores.
 *
 * Shapes: q [B, T, heads, d]; k and v [B, S, kvHeads, d] (or [B, kvHeads, S, d] with `keys: "heads"`), heads a multiple of kvHeads; y as q.
 * Half precision is computed in f32. A query that may look nowhere gets 0. Devices without kernels for it run the formula itself, with
 * all scores in memory.
 * @throws ShapeError, DTypeError where inputs do not fit together
 */
export function composedAttention(q: Tensor, k: Tensor, v: Tensor, options: ComposedAttention = {}): Tensor {
  const { scale, causal = false, window = 0, keys = "tokens", marks = null, offset = null } = options;
  check(q, k, v, keys, marks, offset);
  if (isHalf(q.dtype)) return cast(composedAttention(cast(q, "f32"), cast(k, "f32"), cast(v, "f32"), options), q.dtype);
  const attrs: AttentionAttrs = { scale: scale ?? 1 / Math.sqrt(q.shape[3]), causal, window, marks: marks !== null, offset: offset !== null, keys };
  const xs = [q, k, v].map(current), rest = [...(marks ? [marks.queries, marks.keys] : []), ...(offset ? [offset] : [])], n = sizeOf(q.shape);
  const done = internal(() => forward([...xs, ...rest], attrs));
  return withGradient(internal(() => done.slice(0, 0, n)), xs, (g) => {
    const all = backward([...xs, done, g.reshape(q.shape), ...rest], attrs);
    let at = 0;
    return xs.map((x) => all.slice(0, at, (at += sizeOf(x.shape))).reshape(x.shape));
  }).reshape(q.shape);                                    // the reshape comes last: further ones fold into it
}

function check(q: Tensor, k: Tensor, v: Tensor, keys: AttentionAttrs["keys"], marks: ComposedAttention["marks"], offset: Tensor | null): void {
  const fits = q.rank === 4 && k.rank === 4 && v.rank === 4 && k.shape.every((d, i) => d === v.shape[i]), s = attentionSizes(q.shape, k.shape, { keys });
  if (!fits || k.shape[0] !== s.batch || k.shape[3] !== s.size || s.heads % s.kvHeads !== 0) {
    throw new ShapeError(`attention: shapes do not fit\n  q  ${show(q.shape)}\n  k  ${show(k.shape)}\n  v  ${show(v.shape)}`, { op: "attention", shapes: [q.shape, k.shape, v.shape], fix: `q [batch, T, heads, d], k and v ${keys === "tokens" ? "[batch, S, kvHeads, d]" : "[batch, kvHeads, S, d]"}, heads a multiple of kvHeads` });
  }
  if (!isFloat(q.dtype) || k.dtype !== q.dtype || v.dtype !== q.dtype) throw new DTypeError(`attention: dtypes differ or are no floats: ${q.dtype}, ${k.dtype}, ${v.dtype}`, { op: "attention", fix: 'cast them: x.cast("f32")' });
  for (const [name, t, length] of [["marks of queries", marks?.queries, s.queries], ["marks of keys", marks?.keys, s.keys]] as const) {
    if (t && (t.dtype !== "i32" || t.rank !== 2 || t.shape[0] !== s.batch || t.shape[1] !== length)) throw new ShapeError(`attention: ${name} must be i32 ${show([s.batch, length])}, got ${t.dtype} ${show(t.shape)}`, { op: "attention", shapes: [t.shape] });
  }
  if (offset && (offset.dtype !== "i32" || offset.op.kind !== "scalar")) throw new DTypeError("attention: the offset must be a scalar of i32", { op: "attention", fix: 'scalar(position, "i32")' });
}
