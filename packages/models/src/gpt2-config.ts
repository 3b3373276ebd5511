/** config.json of GPT-2. */
import { ConfigError } from "@adjoint/tensor";
import type { SharedConfig } from "./config.ts";
import type { Reader } from "./config-reader.ts";

const activations = ["gelu_new", "gelu_pytorch_tanh", "gelu", "relu", "silu", "swish"] as const;

/** What GPT-2 is built from. */
export interface Gpt2Config extends SharedConfig {
  readonly modelType: "gpt2";
  readonly layerNormEpsilon: number;
  readonly activationFunction: (typeof activations)[number];
  readonly embdPdrop: number;
  readonly residPdrop: number;
  readonly attnPdrop: number;
  /** scores are divided by √headDim */
  readonly scaleAttnWeights: boolean;
  /** scores of layer i are divided by i + 1 */
  readonly scaleAttnByInverseLayerIdx: boolean;
}

/** `reorder_and_upcast_attn` changes nothing here: attention is in f32 anyway. @throws ConfigError */
export function readGpt2(r: Reader): Gpt2Config {
  r.only("add_cross_attention", [false], "attention to an encoder");
  r.flag("reorder_and_upcast_attn", false);
  if (r.json["quantization_config"] !== undefined && r.json["quantization_config"] !== null) throw r.bad("quantization_config", "codes of Conv1D layers are not implemented", "use the unquantized model");
  const hiddenSize = size(r, "n_embd", "hidden_size", 768), heads = size(r, "n_head", "num_attention_heads", 12), vocabSize = r.size("vocab_size", 50257), end = vocabSize > 50256 ? [50256] : [];
  if (hiddenSize % heads !== 0) throw r.bad("n_head", `a width of ${hiddenSize} cannot be shared evenly`, "choose a divisor of n_embd");
  const ids = (key: string): number[] => (r.json[key] === undefined ? end : r.ids(key)), [bosTokenId = null] = ids("bos_token_id"), [padTokenId = null] = r.ids("pad_token_id");
  return {
    modelType: "gpt2", vocabSize, hiddenSize, intermediateSize: r.json["n_inner"] === undefined || r.json["n_inner"] === null ? 4 * hiddenSize : r.size("n_inner"),
    numHiddenLayers: size(r, "n_layer", "num_hidden_layers", 12), numAttentionHeads: heads, numKeyValueHeads: heads, headDim: hiddenSize / heads,
    maxPositionEmbeddings: size(r, "n_positions", "max_position_embeddings", 1024), layerNormEpsilon: r.number("layer_norm_epsilon", 1e-5),
    activationFunction: r.choice("activation_function", activations, "gelu_new", "this activation"),
    embdPdrop: r.dropout("embd_pdrop", 0.1), residPdrop: r.dropout("resid_pdrop", 0.1), attnPdrop: r.dropout("attn_pdrop", 0.1),
    scaleAttnWeights: r.flag("scale_attn_weights", true), scaleAttnByInverseLayerIdx: r.flag("scale_attn_by_inverse_layer_idx", false),
    tieWordEmbeddings: r.flag("tie_word_embeddings", true), initializerRange: r.number("initializer_range", 0.02), bosTokenId, eosTokenIds: ids("eos_token_id"), padTokenId, json: r.json,
  };
}

/** A size under GPT-2's own key or the usual one. */
function size(r: Reader, key: string, usual: string, fallback: number): number {
  const own = r.json[key] ?? null, other = r.json[usual] ?? null;
  if (own !== null && other !== null && own !== other) throw new ConfigError(`${r.file}: ${key} is ${JSON.stringify(own)} and ${usual} is ${JSON.stringify(other)}`, { file: r.file, key: usual, value: other, fix: `GPT-2's key is ${key}: leave ${usual} out` });
  return r.size(own === null && other !== null ? usual : key, fallback);
}
