/** Roles of parameters, read from their names: what a group may ask for. */

/**
 * What a parameter is for:
 * adapterA and adapterB, the factors of a low-rank update; magnitude, DoRA's lengths; embedding, an embedding's weights or the factors
 * of an adapter on one; norm and bias; saved, a whole matrix that trains beside an adapter (PEFT's modules_to_save); weight, any other.
 */
export type Role = "adapterA" | "adapterB" | "magnitude" | "embedding" | "norm" | "bias" | "saved" | "weight";
export const roles: readonly Role[] = ["adapterA", "adapterB", "magnitude", "embedding", "norm", "bias", "saved", "weight"];

const embeddings: ReadonlySet<string> = new Set(["embed_tokens", "embed_positions", "wte", "wpe", "tok_embeddings", "word_embeddings", "position_embeddings", "token_type_embeddings", "embed_in", "embeddings"]);
/** The name of the module whose own weight a path is, or that of its copy; "" for everything else. */
const ownerOf = (path: string): string => /([^.]+)(?:\.modules_to_save(?:\.[^.]+)?)?\.weight$/.exec(path)?.[1] ?? "";
/** Whether a path is that of an embedding's table itself (or of its copy that trains beside an adapter), not of factors on it. */
export const isEmbeddingTable = (path: string): boolean => embeddings.has(ownerOf(path));
const heads: ReadonlySet<string> = new Set(["lm_head", "embed_out", "score", "classifier"]);
/** Whether a path is that of the matrix that makes logits (or of its copy that trains beside an adapter). */
export const isOutputHead = (path: string): boolean => heads.has(ownerOf(path));
const isNorm = (part: string): boolean => /norm/i.test(part) || /^ln_?(?:\d+|f|attn|mlp)$/.test(part);

/**
 * The role of a parameter by its path, in PEFT's and in Transformers' names; an adapter's name in the path does not matter.
 * @example roleOf("base_model.model.layers.0.q_proj.lora_B.weight")   // "adapterB"
 */
export function roleOf(path: string): Role {
  const parts = path.split("."), has = (name: string): boolean => parts.includes(name);
  if (has("lora_A") || has("lora_E")) return "adapterA";              // E of AdaLoRA, a column
  if (has("lora_B")) return parts[parts.length - 1] === "bias" ? "bias" : "adapterB";
  if (has("lora_magnitude_vector") || has("vera_lambda_b") || has("vera_lambda_d")) return "magnitude";
  if (has("lora_embedding_A") || has("lora_embedding_B")) return "embedding";
  const saved = has("modules_to_save"), own = saved ? parts.slice(0, parts.indexOf("modules_to_save")) : parts;
  if (parts[parts.length - 1] === "bias") return "bias";
  if (isNorm(own[own.length - 1]) || (own.length > 1 && isNorm(own[own.length - 2]))) return "norm";
  if (saved || (parts[0] === "base_model" && parts[1] === "model")) return "saved";
  return own.slice(-2).some((part) => embeddings.has(part)) ? "embedding" : "weight";
}
