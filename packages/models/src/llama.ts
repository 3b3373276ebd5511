/** The Llama family (Llama, Mistral, Qwen2, Qwen3, Gemma): fields are the paths in Hugging Face's files. */
import { adapted, type CausalMask, type Context, Embedding, Linear, RMSNorm, type RopeTables, attention, rope, ropeFrequencies, ropeTables, wide } from "@adjoint/nn";
import { type Store, type Tensor, gather, geluTanh, rmsNorm, roundTo, silu } from "@adjoint/tensor";
import type { Pass } from "./causal-lm.ts";
import { DecoderModel, throughLayers } from "./decoder-model.ts";
import { attentionDropout, type Layout, layoutFor } from "./decoder.ts";
import { cell, embeddingShape, headShape, linearShape, type ModuleShape, normShape, type Take } from "./layout.ts";
import type { LlamaConfig } from "./llama-config.ts";
import type { Tokenizer } from "./tokenizer/index.ts";

/** The modules of a model of the family, in the order of the forward pass. */
export function llamaModules(c: LlamaConfig): readonly ModuleShape[] {
  const q = c.numAttentionHeads * c.headDim, kv = c.numKeyValueHeads * c.headDim;
  const layer = (at: string): readonly ModuleShape[] => [
    normShape(`${at}.input_layernorm`, c.hiddenSize),
    linearShape(`${at}.self_attn.q_proj`, q, c.hiddenSize, c.qkvBias), linearShape(`${at}.self_attn.k_proj`, kv, c.hiddenSize, c.qkvBias), linearShape(`${at}.self_attn.v_proj`, kv, c.hiddenSize, c.qkvBias),
    linearShape(`${at}.self_attn.o_proj`, c.hiddenSize, q, c.outputBias),
    ...(c.qkNorm ? [normShape(`${at}.self_attn.q_norm`, c.headDim), normShape(`${at}.self_attn.k_norm`, c.headDim)] : []),
    normShape(`${at}.post_attention_layernorm`, c.hiddenSize),
    linearShape(`${at}.mlp.gate_proj`, c.intermediateSize, c.hiddenSize, c.mlpBias), linearShape(`${at}.mlp.up_proj`, c.intermediateSize, c.hiddenSize, c.mlpBias), linearShape(`${at}.mlp.down_proj`, c.hiddenSize, c.intermediateSize, c.mlpBias),
  ];
  return [
    embeddingShape("model.embed_tokens", c.vocabSize, c.hiddenSize), ...Array.from({ length: c.numHiddenLayers }, (_, i) => layer(`model.layers.${i}`)).flat(),
    normShape("model.norm", c.hiddenSize), headShape("lm_head", c.vocabSize, c.hiddenSize, c.tieWordEmbeddings),
  ];
}

/** y = x / √(mean x² + eps) · (1 + weight): Gemma's weights are differences from one. */
export class OffsetRMSNorm extends RMSNorm {
  override forward(x: Tensor, context: Context = {}): Tensor { return adapted(this, x, rmsNorm(wide(x), wide(this.weight).add(1), this.eps), context); }
}
const normOver = (c: LlamaConfig, weight: Store): RMSNorm => new (c.normUnitOffset ? OffsetRMSNorm : RMSNorm)(weight, c.rmsNormEps);

/** What all layers of one pass share. */
interface Frame { readonly pass: Pass; readonly cos: Tensor; readonly sin: Tensor; readonly mask: CausalMask }

const linear = (take: Take, path: string, bias: boolean): Linear => new Linear(take(`${path}.weight`), bias ? cell(take, `${path}.bias`) : null);

/** Grouped-query attention over rotated queries and keys. */
export class LlamaAttention {
  readonly q_proj: Linear;
  readonly k_proj: Linear;
  readonly v_proj: Linear;
  readonly o_proj: Linear;
  readonly q_norm: RMSNorm | null;
  readonly k_norm: RMSNorm | null;
  readonly layer: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly dropout: number;
  constructor(c: LlamaConfig, layer: number, take: Take) {
    const at = `model.layers.${layer}.self_attn`, norm = (name: string): RMSNorm | null => (c.qkNorm ? normOver(c, cell(take, `${at}.${name}.weight`)) : null);
    this.q_proj = linear(take, `${at}.q_proj`, c.qkvBias);
    this.k_proj = linear(take, `${at}.k_proj`, c.qkvBias);
    this.v_proj = linear(take, `${at}.v_proj`, c.qkvBias);
    this.o_proj = linear(take, `${at}.o_proj`, c.outputBias);
    this.q_norm = norm("q_norm");
    this.k_norm = norm("k_norm");
    this.layer = layer;
    this.kvHeads = c.numKeyValueHeads;
    this.headDim = c.headDim;
    this.dropout = c.attentionDropout;
  }
  /** x [B, T, hidden] to the same. */
  forward(x: Tensor, { pass, cos, sin, mask }: Frame): Tensor {
    const [B, T] = x.shape, { kvHeads: KV, headDim: d } = this;
    const heads = (y: Tensor): Tensor => y.reshape([B, T, -1, d]), turned = (y: Tensor, norm: RMSNorm | null): Tensor => rope(norm ? norm.forward(heads(y), pass) : heads(y), cos, sin);
    const q = turned(this.q_proj.forward(x, pass), this.q_norm).reshape([B, T, KV, -1, d]).permute([0, 2, 3, 1, 4]);
    let k = turned(this.k_proj.forward(x, pass), this.k_norm).permute([0, 2, 1, 3]), v = heads(this.v_proj.forward(x, pass)).permute([0, 2, 1, 3]);
    if (pass.cache && pass.position) [k, v] = pass.cache.extend(this.layer, k, v, pass.position);
    const y = attention(q, k, v, { mask, dropout: attentionDropout(pass, this.dropout, `model.layers.${this.layer}.self_attn`, "attention_dropout") });
    return this.o_proj.forward(y.permute([0, 3, 1, 2, 4]).reshape([B, T, -1]), pass);
  }
}

/** down(act(gate(x)) · up(x)), act being silu or, in Gemma, the tanh form of gelu. */
export class LlamaMLP {
  readonly gate_proj: Linear;
  readonly up_proj: Linear;
  readonly down_proj: Linear;
  readonly hiddenAct: LlamaConfig["hiddenAct"];
  constructor(c: LlamaConfig, layer: number, take: Take) {
    const at = `model.layers.${layer}.mlp`;
    this.gate_proj = linear(take, `${at}.gate_proj`, c.mlpBias);
    this.up_proj = linear(take, `${at}.up_proj`, c.mlpBias);
    this.down_proj = linear(take, `${at}.down_proj`, c.mlpBias);
    this.hiddenAct = c.hiddenAct;
  }
  forward(x: Tensor, context: Context): Tensor {
    const act = this.hiddenAct === "silu" ? silu : geluTanh;
    return this.down_proj.forward(act(this.gate_proj.forward(x, context)).mul(this.up_proj.forward(x, context)), context);
  }
}

/** One block: h + attention(norm(h)), then h + mlp(norm(h)). */
export class LlamaLayer {
  readonly input_layernorm: RMSNorm;
  readonly self_attn: LlamaAttention;
  readonly post_attention_layernorm: RMSNorm;
  readonly mlp: LlamaMLP;
  constructor(c: LlamaConfig, layer: number, take: Take) {
    this.input_layernorm = normOver(c, cell(take, `model.layers.${layer}.input_layernorm.weight`));
    this.self_attn = new LlamaAttention(c, layer, take);
    this.post_attention_layernorm = normOver(c, cell(take, `model.layers.${layer}.post_attention_layernorm.weight`));
    this.mlp = new LlamaMLP(c, layer, take);
  }
  forward(x: Tensor, frame: Frame): Tensor {
    const h = x.add(this.self_attn.forward(this.input_layernorm.forward(x, frame.pass), frame));
    return h.add(this.mlp.forward(this.post_attention_layernorm.forward(h, frame.pass), frame.pass));
  }
}

/** A model of the Llama family. */
export class LlamaForCausalLM extends DecoderModel {
  readonly model: { readonly embed_tokens: Embedding; readonly layers: readonly LlamaLayer[]; readonly norm: RMSNorm };
  /** with tied embeddings, a layer over the same store as embed_tokens */
  readonly lm_head: Linear;
  readonly config: LlamaConfig;
  // not fields of the tree: they hold no parameters
  declare readonly tokenizer: Tokenizer | null;
  declare private readonly tables: RopeTables[];

  constructor(config: LlamaConfig, take: Take, tokenizer: Tokenizer | null = null) {
    super();
    this.model = {
      embed_tokens: new Embedding(cell(take, "model.embed_tokens.weight")),
      layers: Array.from({ length: config.numHiddenLayers }, (_, i) => new LlamaLayer(config, i, take)),
      norm: normOver(config, cell(take, "model.norm.weight")),
    };
    this.lm_head = new Linear(config.tieWordEmbeddings ? this.model.embed_tokens.weight : take("lm_head.weight"));
    this.config = config;
    Object.defineProperty(this, "tokenizer", { value: tokenizer, enumerable: false, configurable: true });
    Object.defineProperty(this, "tables", { value: [], enumerable: false });
  }

  hidden(inputIds: Tensor, pass: Pass = {}): Tensor {
    const frame = this.frame(inputIds, pass);
    return this.model.norm.forward(throughLayers(this.model.layers, this.embedded(inputIds, pass), pass, (layer, x) => layer.forward(x, frame)), pass);
  }
  protected layout(): readonly ModuleShape[] { return llamaModules(this.config); }

  /** Vectors of the ids; Gemma's times √hidden, that number rounded as the table is. */
  private embedded(inputIds: Tensor, pass: Pass): Tensor {
    const { config: { scaleEmbeddings, hiddenSize }, model: { embed_tokens } } = this, h = embed_tokens.forward(inputIds, pass);
    return scaleEmbeddings ? h.mul(roundTo(embed_tokens.weight.dtype, Math.fround(Math.sqrt(hiddenSize)))) : h;
  }
  /** Angles and mask of one pass. */
  private frame(inputIds: Tensor, pass: Pass): Frame {
    const { mask, ids, span }: Layout = layoutFor(inputIds, pass, this.config.slidingWindow), table = this.table(span), T = inputIds.shape[1];
    const rows = (t: Tensor): Tensor => (ids ? gather(t, ids) : t.slice(0, 0, T).unsqueeze(0));
    return { pass, cos: rows(table.cos), sin: rows(table.sin), mask };
  }
  /** cos and sin for at least this many positions: one table a power of two. */
  private table(length: number): RopeTables {
    const { tables, config: { headDim, ropeTheta, ropeScaling } } = this;
    let found = tables.find((t) => t.length >= length);
    if (!found) {
      found = ropeTables(2 ** Math.ceil(Math.log2(Math.max(256, length))), ropeFrequencies(headDim, ropeTheta, ropeScaling));
      tables.push(found);
    }
    return found;
  }
}
