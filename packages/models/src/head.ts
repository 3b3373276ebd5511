/** The output head of a model whose config says that it is tied: it is, unless the file holds another one. */
import { convertArray, sameShape } from "@adjoint/tensor";
import type { ModelConfig } from "./config.ts";
import { embeddingName } from "./family.ts";
import { isCodes, type Weight, type WeightFile } from "./weights.ts";

export const HEAD = "lm_head.weight";

/**
 * The config as the tensors make it: where `tie_word_embeddings` is true and a head of other numbers lies beside the embedding, the model
 * has both, and is saved with `tie_word_embeddings: false` (transformers 5 computes with both too, and keeps the key as it was).
 */
export function withHead<C extends ModelConfig>(config: C, embedding: Weight, head: Weight): C {
  return sameNumbers(embedding, head) ? config : { ...config, tieWordEmbeddings: false, json: { ...config.json, tie_word_embeddings: false } };
}

/** The same for a file, whose two tensors are read only where both are there. */
export async function settledHead(config: ModelConfig, file: WeightFile): Promise<ModelConfig> {
  const embedding = embeddingName(config);
  return config.tieWordEmbeddings && file.shapes.has(HEAD) && file.shapes.has(embedding) ? withHead(config, await file.read(embedding), await file.read(HEAD)) : config;
}

/** Equal in f32 where their types differ; codes are no tied head. */
function sameNumbers(a: Weight, b: Weight): boolean {
  if (isCodes(a) || isCodes(b) || !sameShape(a.shape, b.shape)) return false;
  const [x, y] = a.dtype === b.dtype ? [a.data, b.data] : [convertArray(a.data, a.dtype, "f32"), convertArray(b.data, b.dtype, "f32")];
  for (let i = 0; i < x.length; i++) if (x[i] !== y[i]) return false;
  return true;
}
