/**
 * `trainable_token_indices`: a few rows of an embedding train, and of the output head that shares it.
 *
 * The rows replace the table's, as in PEFT: they hold values, not differences. A table from id to row (-1: not trained) is all that grows with the
 * vocabulary; no copy of the weights is made. Embedding: y = rows[slot[id]] where slot[id] >= 0. Head: the columns of x rowsᵀ at their ids.
 */
import { wide } from "@adjoint/nn";
import { gather, hostArray, type Tensor, tensor, where } from "@adjoint/tensor";
import type { AdapterMethod, Application, Factors, Site } from "../adapter.ts";
import { PREFIX } from "../files/peft-keys.ts";
import { zerosOf } from "../methods/layer.ts";

/** Where each id of the vocabulary lies among the trained rows. */
function slotsOf(ids: readonly number[], vocabulary: number): Tensor {
  const data = hostArray("i32", vocabulary).fill(-1);
  ids.forEach((id, row) => { data[id] = row; });
  return tensor(Int32Array.from(data), { shape: [vocabulary, 1] });
}

const embedded = ({ tokens, slots }: Factors, { x, y }: Application): Tensor => {
  const slot = gather(slots, x); // (..., 1)
  return where(slot.ge(0), gather(tokens, slot.maximum(0).reshape(x.shape)), y);
};
const scored = ({ tokens, slots }: Factors, { x, y, frozen: { bias } }: Application): Tensor => {
  const slot = slots.reshape([slots.shape[0]]), few = x.reshape([-1, tokens.shape[1]]).matmul(tokens.T); // (N, rows)
  const columns = gather(few.T, slot.maximum(0)).T.reshape(y.shape); // (..., vocabulary)
  return where(slot.ge(0), bias === undefined ? columns : columns.add(wide(bias)), y);
};
const merged: AdapterMethod["merged"] = ({ tokens, slots }, _site, { weight }) => ({ weight: where(slots.ge(0), gather(tokens, slots.maximum(0).reshape([slots.shape[0]])), wide(weight)) });
const forward = (p: Factors, { kind }: Site, use: Application): Tensor => (kind === "embedding" ? embedded(p, use) : scored(p, use));

/** These rows of a weight [vocabulary, width]. */
export const trainedRows = (ids: readonly number[], [vocabulary, width]: readonly number[]): AdapterMethod => ({
  name: "tokens",
  shapes: () => ({ tokens: [ids.length, width] }),
  init: () => ({ tokens: zerosOf([ids.length, width]) }),
  key: ({ path }) => `${PREFIX}${path}.token_adapter.trainable_tokens_delta`,
  constants: () => ({ slots: slotsOf(ids, vocabulary) }),
  start: (_p, _site, { weight }) => ({ tokens: gather(weight, tensor(Int32Array.from(ids))) }),
  forward,
  merged,
});

/** The rows of another layer, in a layer that shares its weight. */
export const tiedRows: AdapterMethod = { name: "tokens-tied", shapes: () => ({}), init: () => ({}), forward, merged };
