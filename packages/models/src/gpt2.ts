/** GPT-2 (Radford et al. 2019): fields are the paths in Hugging Face's files. */
import { type CausalMask, type Context, Conv1D, Dropout, Embedding, LayerNorm, Linear, attention } from "@adjoint/nn";
import { ConfigError, type Tensor, gelu, geluTanh, iota, relu, silu } from "@adjoint/tensor";
import type { Pass } from "./causal-lm.ts";
import { DecoderModel, throughLayers } from "./decoder-model.ts";
import { attentionDropout, layoutFor, longest } from "./decoder.ts";
import type { Gpt2Config } from "./gpt2-config.ts";
import { cell, conv1dShape, embeddingShape, headShape, type ModuleShape, normShape, type Take } from "./layout.ts";
import type { Tokenizer } from "./tokenizer/index.ts";

/** The modules of a GPT-2, in the order of the forward pass. */
export function gpt2Modules(c: Gpt2Config): readonly ModuleShape[] {
  const d = c.hiddenSize, inner = c.intermediateSize;
  const layer = (at: string): readonly ModuleShape[] => [
    normShape(`${at}.ln_1`, d, true), conv1dShape(`${at}.attn.c_attn`, d, 3 * d), conv1dShape(`${at}.attn.c_proj`, d, d),
    normShape(`${at}.ln_2`, d, true), conv1dShape(`${at}.mlp.c_fc`, d, inner), conv1dShape(`${at}.mlp.c_proj`, inner, d),
  ];
  return [
    embeddingShape("transformer.wte", c.vocabSize, d), embeddingShape("transformer.wpe", c.maxPositionEmbeddings, d),
    ...Array.from({ length: c.numHiddenLayers }, (_, i) => layer(`transformer.h.${i}`)).flat(), normShape("transformer.ln_f", d, true), headShape("lm_head", c.vocabSize, d, c.tieWordEmbeddings),
  ];
}

/** Our name of a tensor of GPT-2's file: published files leave out the first part. */
export const gpt2Name = (name: string): string => (/^(transformer|lm_head)\./.test(name) ? name : `transformer.${name}`);

const activations: Readonly<Record<Gpt2Config["activationFunction"], (x: Tensor) => Tensor>> = { gelu_new: geluTanh, gelu_pytorch_tanh: geluTanh, gelu, relu, silu, swish: silu };

const conv = (take: Take, path: string): Conv1D => new Conv1D(cell(take, `${path}.weight`), cell(take, `${path}.bias`));
const norm = (c: Gpt2Config, take: Take, path: string): LayerNorm => new LayerNorm(cell(take, `${path}.weight`), cell(take, `${path}.bias`), c.layerNormEpsilon);

/** Attention of every head over all positions so far; one projection makes queries, keys and values side by side. */
export class GPT2Attention {
  readonly c_attn: Conv1D;
  readonly c_proj: Conv1D;
  readonly resid_dropout: Dropout;
  readonly layer: number;
  readonly headDim: number;
  readonly dropout: number;
  /** factor of the scores */
  readonly scale: number;
  constructor(c: Gpt2Config, layer: number, take: Take) {
    const at = `transformer.h.${layer}.attn`;
    this.c_attn = conv(take, `${at}.c_attn`);
    this.c_proj = conv(take, `${at}.c_proj`);
    this.resid_dropout = new Dropout(c.residPdrop, `${at}.resid_dropout`);
    this.layer = layer;
    this.headDim = c.headDim;
    this.dropout = c.attnPdrop;
    this.scale = (c.scaleAttnWeights ? 1 / Math.sqrt(c.headDim) : 1) / (c.scaleAttnByInverseLayerIdx ? layer + 1 : 1);
  }
  /** x [B, T, hidden] to the same. */
  forward(x: Tensor, pass: Pass, mask: CausalMask): Tensor {
    const [B, T, D] = x.shape, { headDim: d, scale } = this, qkv = this.c_attn.forward(x, pass);
    const heads = (i: number): Tensor => qkv.slice(2, i * D, (i + 1) * D).reshape([B, T, -1, d]).permute([0, 2, 1, 3]);
    const q = heads(0).unsqueeze(2);
    let k = heads(1), v = heads(2);
    if (pass.cache && pass.position) [k, v] = pass.cache.extend(this.layer, k, v, pass.position);
    const y = attention(q, k, v, { mask, scale, dropout: attentionDropout(pass, this.dropout, `transformer.h.${this.layer}.attn.attn_dropout`, "attn_pdrop") });
    return this.resid_dropout.forward(this.c_proj.forward(y.squeeze(2).permute([0, 2, 1, 3]).reshape([B, T, D]), pass), pass);
  }
}

/** c_proj(act(c_fc(x))). */
export class GPT2MLP {
  readonly c_fc: Conv1D;
  readonly c_proj: Conv1D;
  readonly dropout: Dropout;
  readonly activationFunction: Gpt2Config["activationFunction"];
  constructor(c: Gpt2Config, layer: number, take: Take) {
    const at = `transformer.h.${layer}.mlp`;
    this.c_fc = conv(take, `${at}.c_fc`);
    this.c_proj = conv(take, `${at}.c_proj`);
    this.dropout = new Dropout(c.residPdrop, `${at}.dropout`);
    this.activationFunction = c.activationFunction;
  }
  forward(x: Tensor, context: Context): Tensor {
    return this.dropout.forward(this.c_proj.forward(activations[this.activationFunction](this.c_fc.forward(x, context)), context), context);
  }
}

/** One block: h + attention(norm(h)), then h + mlp(norm(h)). */
export class GPT2Block {
  readonly ln_1: LayerNorm;
  readonly attn: GPT2Attention;
  readonly ln_2: LayerNorm;
  readonly mlp: GPT2MLP;
  constructor(c: Gpt2Config, layer: number, take: Take) {
    this.ln_1 = norm(c, take, `transformer.h.${layer}.ln_1`);
    this.attn = new GPT2Attention(c, layer, take);
    this.ln_2 = norm(c, take, `transformer.h.${layer}.ln_2`);
    this.mlp = new GPT2MLP(c, layer, take);
  }
  forward(x: Tensor, pass: Pass, mask: CausalMask): Tensor {
    const h = x.add(this.attn.forward(this.ln_1.forward(x, pass), pass, mask));
    return h.add(this.mlp.forward(this.ln_2.forward(h, pass), pass));
  }
}

/** GPT-2 with its output head. */
export class GPT2LMHeadModel extends DecoderModel {
  readonly transformer: { readonly wte: Embedding; readonly wpe: Embedding; readonly drop: Dropout; readonly h: readonly GPT2Block[]; readonly ln_f: LayerNorm };
  /** with tied embeddings, a layer over the same store as wte */
  readonly lm_head: Linear;
  readonly config: Gpt2Config;
  // no field of the tree: it holds no parameters
  declare readonly tokenizer: Tokenizer | null;

  constructor(config: Gpt2Config, take: Take, tokenizer: Tokenizer | null = null) {
    super();
    this.transformer = {
      wte: new Embedding(cell(take, "transformer.wte.weight")),
      wpe: new Embedding(cell(take, "transformer.wpe.weight")),
      drop: new Dropout(config.embdPdrop, "transformer.drop"),
      h: Array.from({ length: config.numHiddenLayers }, (_, i) => new GPT2Block(config, i, take)),
      ln_f: norm(config, take, "transformer.ln_f"),
    };
    this.lm_head = new Linear(config.tieWordEmbeddings ? this.transformer.wte.weight : take("lm_head.weight"));
    this.config = config;
    Object.defineProperty(this, "tokenizer", { value: tokenizer, enumerable: false, configurable: true });
  }

  /** @throws ConfigError for more positions than the model has vectors for */
  hidden(inputIds: Tensor, pass: Pass = {}): Tensor {
    const { mask, ids } = layoutFor(inputIds, pass, null), [B, T] = inputIds.shape, { wte, wpe, drop, h: blocks, ln_f } = this.transformer, most = this.config.maxPositionEmbeddings;
    const needed = pass.cache ? 0 : pass.positionIds ? longest(pass.positionIds) : T;
    if (needed > most) throw new ConfigError(`position ${needed - 1} is beyond the last of the model, ${most - 1}`, { op: "logits", key: "n_positions", value: needed, fix: `use rows of at most ${most} tokens (max_length)` });
    // a prompt in a cache may be padded beyond the last position; nobody sees the padding
    const shared = pass.cache && ids ? ids.minimum(most - 1) : (ids ?? iota([1, T]));
    const at = pass.adapter ? shared.expand([B, T]) : shared; // an adapter may differ from row to row
    const h = drop.forward(wte.forward(inputIds, pass).add(wpe.forward(at, pass)), pass);
    return ln_f.forward(throughLayers(blocks, h, pass, (block, x) => block.forward(x, pass, mask)), pass);
  }
  protected layout(): readonly ModuleShape[] { return gpt2Modules(this.config); }
}
