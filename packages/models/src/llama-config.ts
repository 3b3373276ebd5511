/** config.json of the Llama family: Llama, Mistral, Qwen2, Qwen3 and the first Gemma. */
import { isRecord } from "@adjoint/io";
import type { RopeScaling } from "@adjoint/nn";
import type { SharedConfig } from "./config.ts";
import { Reader } from "./config-reader.ts";

export const llamaTypes = ["llama", "mistral", "qwen2", "qwen3", "gemma"] as const;
export type LlamaType = (typeof llamaTypes)[number];

/** What a model of the Llama family is built from. */
export interface LlamaConfig extends SharedConfig {
  readonly modelType: LlamaType;
  readonly rmsNormEps: number;
  /** norms multiply by 1 + weight (Gemma) */
  readonly normUnitOffset: boolean;
  /** embeddings are multiplied by √hiddenSize (Gemma) */
  readonly scaleEmbeddings: boolean;
  readonly hiddenAct: "silu" | "gelu_pytorch_tanh";
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling;
  /** biases of q, k, v; of the attention's output; of the MLP */
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
  /** RMSNorm of every query and key head */
  readonly qkNorm: boolean;
  /** how many positions a query looks back, itself included; null: all */
  readonly slidingWindow: number | null;
  readonly attentionDropout: number;
}

/** transformers' values of max_position_embeddings for a config.json without it. */
const positions: Readonly<Record<LlamaType, number>> = { llama: 2048, mistral: 131072, qwen2: 32768, qwen3: 32768, gemma: 8192 };

/** @throws ConfigError */
export function readLlama(r: Reader, type: LlamaType): LlamaConfig {
  const { json } = r, gemma = type === "gemma";
  // Gemma's first files say "gelu" and mean the tanh form
  r.only("hidden_act", gemma ? ["gelu_pytorch_tanh", "gelu_new", "gelu"] : ["silu", "swish"], "this activation");
  if (gemma) r.only("hidden_activation", ["gelu_pytorch_tanh", "gelu_new"], "this activation");
  r.only("use_bidirectional_attention", [false], "attention to later tokens");
  r.only("partial_rotary_factor", [1], "partial rotary embedding");
  r.only("use_sliding_window", [false], "a sliding window on some layers");
  refuseLayerTypes(r);
  const heads = r.size("num_attention_heads"), hiddenSize = r.size("hidden_size"), kvHeads = r.size("num_key_value_heads", type === "mistral" && json["num_key_value_heads"] === undefined ? 8 : heads);
  const headDim = r.size("head_dim", type === "qwen3" ? 128 : gemma ? 256 : hiddenSize / heads);
  if (heads % kvHeads !== 0) throw r.bad("num_key_value_heads", `${heads} query heads cannot share them evenly`, "choose a divisor of num_attention_heads");
  if (headDim % 2 !== 0) throw r.bad("head_dim", "rotary embedding needs an even head size", "choose an even head_dim");
  const attentionBias = type === "qwen2" || r.flag("attention_bias", false), [padTokenId = null] = r.ids("pad_token_id"), [bosTokenId = null] = r.ids("bos_token_id");
  if (type === "mistral" && attentionBias) throw r.bad("attention_bias", "mistral has none", "remove it, or use model_type llama");
  return {
    modelType: type, vocabSize: r.size("vocab_size"), hiddenSize, intermediateSize: r.size("intermediate_size"), numHiddenLayers: r.size("num_hidden_layers"),
    numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim, maxPositionEmbeddings: r.size("max_position_embeddings", positions[type]),
    rmsNormEps: r.number("rms_norm_eps", 1e-6), normUnitOffset: gemma, scaleEmbeddings: gemma, hiddenAct: gemma ? "gelu_pytorch_tanh" : "silu", ...readRope(r), tieWordEmbeddings: r.flag("tie_word_embeddings", gemma),
    qkvBias: attentionBias, outputBias: attentionBias && type !== "qwen2", mlpBias: type === "llama" && r.flag("mlp_bias", false), qkNorm: type === "qwen3",
    slidingWindow: type === "mistral" && json["sliding_window"] !== null ? r.size("sliding_window", 4096) : null,
    attentionDropout: r.dropout("attention_dropout"), initializerRange: r.number("initializer_range", 0.02),
    bosTokenId, eosTokenIds: r.ids("eos_token_id"), padTokenId, json,
  };
}

function refuseLayerTypes(r: Reader): void {
  const types = r.json["layer_types"];
  if (Array.isArray(types) && types.some((t) => t !== "full_attention" && !(t === "sliding_attention" && r.json["model_type"] === "mistral"))) throw r.bad("layer_types", "layers other than full_attention are not implemented", "use a model whose layers all have full attention");
}

/** Base and scaling of rotary embedding, from rope_parameters (transformers 5) or rope_theta and rope_scaling (before); where both are there transformers takes rope_scaling, and its base, alone. */
function readRope(r: Reader): { ropeTheta: number; ropeScaling: RopeScaling } {
  const [old, now] = ["rope_scaling", "rope_parameters"].map((key) => {
    const value = r.json[key] ?? {};
    if (!isRecord(value)) throw r.bad(key, "an object is needed", 'write { "rope_type": "linear", "factor": 4 }, or leave it out');
    return { key, value };
  });
  const { key, value } = Object.keys(old.value).length > 0 ? old : now;
  const p = new Reader(value, r.file, `${key}.`), ropeTheta = p.number("rope_theta", r.number("rope_theta", 10000));
  for (const layers of ["full_attention", "sliding_attention"]) if (value[layers] !== undefined) throw p.bad(layers, "positions of their own for some layers are not implemented", "use a model whose layers all have the same");
  p.only("partial_rotary_factor", [1], "partial rotary embedding");
  const typeKey = p.json["rope_type"] === undefined ? "type" : "rope_type", type = p.json[typeKey] ?? "default";
  if (type === "default") return { ropeTheta, ropeScaling: { type } };
  if (type === "linear") return { ropeTheta, ropeScaling: { type, factor: p.number("factor") } };
  if (type === "llama3") {
    return { ropeTheta, ropeScaling: { type, factor: p.number("factor"), lowFreqFactor: p.number("low_freq_factor"), highFreqFactor: p.number("high_freq_factor"), originalMaxPositionEmbeddings: p.size("original_max_position_embeddings") } };
  }
  throw p.bad(typeKey, "this scaling of positions is not implemented", "default, linear and llama3 are");
}
