/** What every causal language model of this package can do. */
import type { Context, Conv1D, Embedding, LayerNorm, Linear, RMSNorm } from "@adjoint/nn";
import type { Store, Tensor } from "@adjoint/tensor";
import type { ModelConfig } from "./config.ts";
import type { KVCache } from "./kv-cache.ts";
import type { Tokenizer } from "./tokenizer/index.ts";

/** Rows of tokens [batch, T]. */
export interface Batch {
  /** i32 */
  readonly inputIds: Tensor;
  /** i32, not shifted; -100 where nothing is to be predicted */
  readonly labels: Tensor;
  /** bool (or i32: nonzero), true at real tokens */
  readonly attentionMask?: Tensor;
  /** i32; 0, 1, 2, ... by default */
  readonly positionIds?: Tensor;
  /** i32; tokens of different segments do not see each other (packed rows) */
  readonly segmentIds?: Tensor;
}

/** How one forward pass is done. */
export interface Pass extends Context, Omit<Batch, "inputIds" | "labels"> {
  /** keys and values of earlier positions; the new ones are written at `position` */
  readonly cache?: KVCache | null;
  /** number of positions already in the cache, a scalar of i32 */
  readonly position?: Tensor;
}

/** One module of a model. */
export type ModuleEntry = { readonly path: string; readonly isOutputHead: boolean } & (
  | { readonly kind: "linear"; readonly module: Linear }
  | { readonly kind: "conv1d"; readonly module: Conv1D }
  | { readonly kind: "embedding"; readonly module: Embedding }
  | { readonly kind: "norm"; readonly module: RMSNorm | LayerNorm });

/** A model that predicts the next token. Its fields are the paths in Hugging Face's files. */
export interface CausalLM {
  readonly config: ModelConfig;
  /** null when it was loaded without one */
  readonly tokenizer: Tokenizer | null;
  /** Logits [batch, T, vocabulary] in f32 of ids [batch, T]. */
  logits(inputIds: Tensor, pass?: Pass): Tensor;
  /** The same under the name that adapters use. */
  forward(inputIds: Tensor, pass?: Pass): Tensor;
  /** What the output head reads: [batch, T, hidden]. */
  hidden(inputIds: Tensor, pass?: Pass): Tensor;
  /** The output head: [..., hidden] to logits [..., vocabulary]. */
  head(hidden: Tensor, context?: Context): Tensor;
  /** Sum of -log p(token) over predicted tokens, and how many there are. */
  lossSum(batch: Batch, context?: Context): { total: Tensor; count: Tensor };
  /** Mean of -log p(token) over predicted tokens; 0 when there are none. */
  loss(batch: Batch, context?: Context): Tensor;
  modules(): readonly ModuleEntry[];
  /** Every weight by its name in the file: stores, and tensors of codes where a linear layer is quantized (`quantizedOf`). A tied head is not a second one. */
  weights(): Readonly<Record<string, Tensor>>;
  /** The stores among the weights: what can train. */
  parameters(): Readonly<Record<string, Store>>;
}
