/** What models of decoder layers share: checks of their inputs, positions and mask of one pass, random numbers, the loss. */
import { CausalMask, type Context, type Linear, within } from "@adjoint/nn";
import { ConfigError, DTypeError, ShapeError, type Tensor, iota, show } from "@adjoint/tensor";
import type { Batch, CausalLM, Pass } from "./causal-lm.ts";
import { chunkedLossSum } from "./chunked-loss.ts";

/** Where the tokens of one pass stand. */
export interface Layout {
  readonly mask: CausalMask;
  /** positions [batch or 1, T] of i32; null: 0, 1, 2, ... */
  readonly ids: Tensor | null;
  /** at least one more than the largest position, as far as it is known */
  readonly span: number;
}

/** Checks ids and what comes with them; gives positions and mask. */
export function layoutFor(inputIds: Tensor, pass: Pass, window: number | null): Layout {
  checkIds(inputIds, pass);
  const [B, T] = inputIds.shape, { positionIds, position, cache, attentionMask, segmentIds } = pass;
  if ((cache === undefined || cache === null) !== (position === undefined)) throw new ConfigError("a cache and a position go together", { op: "logits", key: cache ? "position" : "cache", fix: 'pass both: { cache, position: scalar(n, "i32") }' });
  if (cache && (attentionMask || segmentIds || positionIds)) throw new ConfigError("attentionMask, segmentIds and positionIds are not implemented beside a cache", { op: "logits", key: "cache", fix: "decode rows without padding, one by one" });
  if (cache && (cache.batch !== B || T > cache.capacity)) throw new ShapeError(`the cache holds [${cache.batch}, ${cache.capacity}] positions, the ids are ${show([B, T])}`, { op: "logits", shapes: [[B, T], [cache.batch, cache.capacity]] });
  const S = cache ? cache.capacity : T;
  const mask = new CausalMask({ queries: T, keys: S, offset: position ?? null, window: window === null || window >= S ? null : window, segments: segmentIds ?? null, padding: attentionMask ?? null });
  return { mask, ids: positionIds ?? (position ? iota([1, T]).add(position) : null), span: Math.max(S, longest(positionIds)) };
}

/** One more than the largest explicit position, as far as it is known. */
export const longest = (ids: Tensor | undefined): number => {
  let most = -1;
  for (const id of ids?.value?.data ?? []) most = Math.max(most, id);
  return most + 1;
};

/** Dropout of a layer's attention; `name` is its path and stream, `option` the config's key. */
export function attentionDropout(context: Context, p: number, name: string, option: string): { p: number; key: NonNullable<Context["key"]> } | null {
  if (!context.train || p === 0) return null;
  const { key } = within(context, name);
  if (!key) throw new ConfigError(`${option} = ${p} needs random numbers while training`, { op: "attention", key: "key", value: p, fix: 'pass { train: true, key: { seed, stream: "dropout", step } }' });
  return { p, key };
}

/** Σ -log p(token) over predicted tokens, a chunk of logits at a time. */
export function lossSumOf(model: Pick<CausalLM, "hidden" | "head" | "config"> & { readonly lm_head: Linear }, { inputIds, labels, ...rest }: Batch, context: Context): { total: Tensor; count: Tensor } {
  checkLabels(labels, inputIds);
  const h = model.hidden(inputIds, { ...context, ...layoutOf(rest) });
  return chunkedLossSum(h, labels, model.config.vocabSize, (part, own) => model.head(part, own), context, undefined, model.lm_head);
}

const layoutOf = ({ attentionMask, positionIds, segmentIds }: Omit<Batch, "inputIds" | "labels">): Pass =>
  ({ ...(attentionMask ? { attentionMask } : {}), ...(positionIds ? { positionIds } : {}), ...(segmentIds ? { segmentIds } : {}) });

function checkIds(inputIds: Tensor, { attentionMask, positionIds, segmentIds }: Pass): void {
  if (inputIds.rank !== 2) throw new ShapeError(`token ids must be [batch, T], got ${show(inputIds.shape)}`, { op: "logits", shapes: [inputIds.shape], fix: "add the batch axis: ids.unsqueeze(0)" });
  for (const [key, t] of Object.entries({ attentionMask, positionIds, segmentIds })) {
    if (!t) continue;
    if (t.rank !== 2 || t.shape[0] !== inputIds.shape[0] || t.shape[1] !== inputIds.shape[1]) throw new ShapeError(`${key} ${show(t.shape)} does not fit the ids ${show(inputIds.shape)}`, { op: "logits", key, shapes: [t.shape, inputIds.shape] });
    if (key !== "attentionMask" && t.dtype !== "i32") throw new DTypeError(`${key} must be i32, got ${t.dtype}`, { op: "logits", key, fix: 'cast it: t.cast("i32")' });
  }
}
function checkLabels(labels: Tensor, ids: Tensor): void {
  if (labels.rank !== 2 || labels.shape.some((d, i) => d !== ids.shape[i])) throw new ShapeError(`labels ${show(labels.shape)} do not fit the ids ${show(ids.shape)}`, { op: "loss", key: "labels", shapes: [labels.shape, ids.shape], fix: "labels are not shifted: one for each id, -100 where nothing is predicted" });
  if (labels.dtype !== "i32") throw new DTypeError(`labels must be i32, got ${labels.dtype}`, { op: "loss", key: "labels", fix: 'cast them: labels.cast("i32")' });
}
