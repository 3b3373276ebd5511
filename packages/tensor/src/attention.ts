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
  /** query heads of one tensor [B, T, heads + 2 kvHeads, d] that holds q, k and v side by side; 0: they come apart */
  readonly packed: number;
};

/** Sizes of one attention: q [batch, queries, heads, size], k and v with `kvHeads` heads and `keys` positions. */
export interface AttentionSizes { readonly batch: number; readonly queries: number; readonly keys: number; readonly heads: number; readonly kvHeads: number; readonly size: number }
/** Sizes by the shapes of q and k; of q alone where it holds all three. */
export const attentionSizes = (q: readonly number[], k: readonly number[], { keys, packed = 0 }: Pick<AttentionAttrs, "keys"> & Partial<AttentionAttrs>): AttentionSizes =>
  (packed > 0 ? { batch: q[0], queries: q[1], heads: packed, size: q[3], keys: q[1], kvHeads: (q[2] - packed) / 2 }
    : { batch: q[0], queries: q[1], heads: q[2], size: q[3], keys: keys === "tokens" ? k[1] : k[2], kvHeads: keys === "tokens" ? k[2] : k[1] });
/** q, k, v and what follows them among the inputs of a composite. */
function unpack(inputs: readonly Tensor[], { packed }: AttentionAttrs): { qkv: Tensor[]; rest: readonly Tensor[] } {
  if (packed === 0) return { qkv: inputs.slice(0, 3), rest: inputs.slice(3) };
  const [all, ...rest] = inputs, n = all.shape[2], kv = (n - packed) / 2;
  return { qkv: [all.slice(2, 0, packed), all.slice(2, packed, packed + kv), all.slice(2, packed + kv, n)], rest };
}

/** Stands for a score that does not exist: its exponential is 0 and stays finite in every derivative. */
const HIDDEN = -1e30;

/** scale · q kᵀ, and where a query may look (null: everywhere); q as [B, kvHeads, groups, T, d], k and v as [B, kvHeads, 1, S, d]. */
function formula([q, k, v]: readonly Tensor[], rest: readonly Tensor[], attrs: AttentionAttrs): { q5: Tensor; k5: Tensor; v5: Tensor; scores: Tensor; visible: Tensor | null } {
  const { batch: B, queries: T, keys: S, heads: H, kvHeads: KV, size: d } = attentionSizes(q.shape, k.shape, { keys: attrs.keys });
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
 * Inputs q, k, v (or the tensor that holds them), then marks and offset as the attributes say. One flat result: o [B, T, heads, d], then the log of each
 * query's Σ e^score, [B, heads, T] (0 for a query that sees nothing).
 */
const forward = composite("attentionForward", {
  define: (inputs, attrs: AttentionAttrs) => {
    const { qkv: [q, k, v], rest } = unpack(inputs, attrs);
    const { v5, scores, visible } = formula([q, k, v], rest, attrs), m = stopGradient(amax(shown(visible, scores), -1));
    const e = shown(visible, scores.sub(m)).exp(), l = sum(e, -1), seen = l.gt(0), some = where(seen, l, 1);
    return flat([byToken(e.matmul(v5).div(some)), where(seen, m.add(some.log()), 0)]);
  },
  doc: "o = softmax(scale q kᵀ) v over the keys that a query may see, and log Σ e^score",
});

/**
 * Inputs q, k, v, the flat forward result, the gradient of o, then marks and offset. One flat result: dq, dk, dv, each as its input (or as the tensor that holds all three).
 *
 * P = e^(scale q kᵀ - lse), dV = Pᵀ dO, dP = dO Vᵀ, D = rowsum(dO ∘ O), dS = P ∘ (dP - D), dQ = scale dS K, dK = scale dSᵀ Q.
 */
const backward = composite("attentionBackward", {
  define: (inputs, attrs: AttentionAttrs) => {
    const { qkv: [q, k, v], rest: [done, g, ...rest] } = unpack(inputs, attrs);
    const { batch: B, queries: T, heads: H, kvHeads: KV, size: d } = attentionSizes(q.shape, k.shape, { keys: attrs.keys }), n = sizeOf(q.shape);
    const { q5, k5, v5, scores, visible } = formula([q, k, v], rest, attrs), five = (x: Tensor): Tensor => x.reshape([B, T, KV, H / KV, d]).permute([0, 2, 3, 1, 4]);
    const o5 = five(done.slice(0, 0, n)), g5 = five(g), lse = done.slice(0, n).reshape([B, KV, H / KV, T, 1]);
    const p = shown(visible, scores.sub(lse)).exp(), dS = p.mul(g5.matmul(v5.T).sub(sum(g5.mul(o5), -1)));
    const grouped = (x: Tensor): Tensor => { const y = sum(x, 2).squeeze(2); return attrs.keys === "tokens" ? y.permute([0, 2, 1, 3]) : y; };
    const found = [byToken(dS.matmul(k5).mul(attrs.scale)).reshape(q.shape), grouped(dS.T.matmul(q5).mul(attrs.scale)), grouped(p.T.matmul(g5))];
    return attrs.packed > 0 ? concat(found, 2).reshape([-1]) : flat(found);
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
  const attrs: AttentionAttrs = { scale: scale ?? 1 / Math.sqrt(q.shape[3]), causal, window, marks: marks !== null, offset: offset !== null, keys, packed: 0 };
  const xs = [q, k, v].map(current), rest = [...(marks ? [marks.queries, marks.keys] : []), ...(offset ? [offset] : [])], n = sizeOf(q.shape);
  const done = internal(() => forward([...xs, ...rest], attrs));
  return withGradient(internal(() => done.slice(0, 0, n)), xs, (g) => {
    const all = backward([...xs, done, g.reshape(q.shape), ...rest], attrs);
    let at = 0;
    return xs.map((x) => all.slice(0, at, (at += sizeOf(x.shape))).reshape(x.shape));
  }).reshape(q.shape);                                    // the reshape comes last: further ones fold into it
}

/**
 * The same over one tensor qkv [B, T, heads + 2 kvHeads, d] that holds queries, keys and values side by side, as one projection
 * makes them (GPT-2's c_attn): neither they nor their gradients are ever copied apart. y is [B, T, heads, d].
 * @throws ShapeError, DTypeError where inputs do not fit together
 */
export function packedAttention(qkv: Tensor, heads: number, { scale, causal = false, window = 0, marks = null }: Omit<ComposedAttention, "keys" | "offset"> = {}): Tensor {
  const n = qkv.shape[2], kv = (n - heads) / 2;
  if (qkv.rank !== 4 || !Number.isInteger(kv) || kv < 1 || heads % kv !== 0) throw new ShapeError(`attention: ${show(qkv.shape)} does not hold ${heads} query heads, keys and values`, { op: "attention", shapes: [qkv.shape], value: heads, fix: "qkv [batch, T, heads + 2 kvHeads, d], heads a multiple of kvHeads" });
  const x = current(qkv), attrs: AttentionAttrs = { scale: scale ?? 1 / Math.sqrt(qkv.shape[3]), causal, window, marks: marks !== null, offset: false, keys: "tokens", packed: heads };
  const part = (from: number, to: number): Tensor => x.slice(2, from, to);
  check(part(0, heads), part(heads, heads + kv), part(heads + kv, n), "tokens", marks, null);
  const rest = marks ? [marks.queries, marks.keys] : [], [B, T, , d] = x.shape, size = B * T * heads * d;
  const done = internal(() => forward([x, ...rest], attrs));
  return withGradient(internal(() => done.slice(0, 0, size).reshape([B, T, heads, d])), [x], (g) => [backward([x, done, g, ...rest], attrs).reshape(x.shape)]);
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
