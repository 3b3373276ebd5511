/** What a causal language model of decoder layers has once it says what its layers compute: logits, losses, and its weights by name. */
import type { Context, Linear } from "@adjoint/nn";
import type { Store, Tensor } from "@adjoint/tensor";
import type { Batch, CausalLM, ModuleEntry, Pass } from "./causal-lm.ts";
import { lossSumOf } from "./decoder.ts";
import { type ModuleShape, modulesAt, storesOf, weightsOf } from "./layout.ts";
import type { Tokenizer } from "./tokenizer/index.ts";

/** Methods alone: the fields of a model are its own. */
export abstract class DecoderModel implements CausalLM {
  abstract readonly config: CausalLM["config"];
  abstract readonly tokenizer: Tokenizer | null;
  /** with tied embeddings, a layer over the same store as these */
  abstract readonly lm_head: Linear;
  abstract hidden(inputIds: Tensor, pass?: Pass): Tensor;
  /** The modules of this config, in the order of the forward pass. */
  protected abstract layout(): readonly ModuleShape[];

  head(hidden: Tensor, context: Context = {}): Tensor { return this.lm_head.forward(hidden, context); }
  logits(inputIds: Tensor, pass: Pass = {}): Tensor { return this.head(this.hidden(inputIds, pass), pass); }
  forward(inputIds: Tensor, pass: Pass = {}): Tensor { return this.logits(inputIds, pass); }
  lossSum(batch: Batch, context: Context = {}): { total: Tensor; count: Tensor } { return lossSumOf(this, batch, context); }
  loss(batch: Batch, context: Context = {}): Tensor {
    const { total, count } = this.lossSum(batch, context);
    return total.div(count.maximum(1));
  }
  modules(): readonly ModuleEntry[] { return modulesAt(this, this.layout()); }
  weights(): Readonly<Record<string, Tensor>> { return weightsOf(this); }
  parameters(): Readonly<Record<string, Store>> { return storesOf(this.weights()); }
}

/** One layer after the other; each gives up what it computed, and computes it again, where the pass says so. */
export function throughLayers<L>(layers: readonly L[], h: Tensor, { checkpoint }: Pass, step: (layer: L, x: Tensor) => Tensor): Tensor {
  return layers.reduce((x, layer) => {
    const block = (y: Tensor): Tensor => step(layer, y);
    return checkpoint ? checkpoint(block)(x) : block(x);
  }, h);
}
