/** config.json of the Llama family: what is understood is read and checked, what would change numbers and is not implemented is refused by name. */
import { isRecord } from "@adjoint/io";
import type { RopeScaling } from "@adjoint/nn";
import { ConfigError } from "@adjoint/tensor";

/** A parsed config.json, keys as Hugging Face writes them. */
export type ConfigJson = Readonly<Record<string, unknown>>;

export const modelTypes = ["llama", "mistral", "qwen2", "qwen3"] as const;
export type ModelType = (typeof modelTypes)[number];

/** What a model of the Llama family is built from. */
export interface ModelConfig {
  readonly modelType: ModelType;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly maxPositionEmbeddings: number;
  readonly rmsNormEps: number;
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling;
  readonly tieWordEmbeddings: boolean;
  /** biases of q, k, v; of the attention's output; of the MLP */
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
  /** RMSNorm of every query and key head */
  readonly qkNorm: boolean;
  /** how many positions a query looks back, itself included; null: all */
  readonly slidingWindow: number | null;
  readonly attentionDropout: number;
  readonly initializerRange: number;
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | null;
  /** the file as it was, for saving */
  readonly json: ConfigJson;
}

const isModelType = (x: unknown): x is ModelType => modelTypes.some((t) => t === x);

/** Typed access to a JSON object with errors that name file, key and value. */
class Reader {
  readonly json: ConfigJson;
  readonly file: string;
  readonly prefix: string;
  constructor(json: ConfigJson, file: string, prefix = "") { this.json = json; this.file = file; this.prefix = prefix; }
  bad(key: string, problem: string, fix: string): ConfigError {
    const value = this.json[key];
    return new ConfigError(`${this.file}: ${this.prefix}${key} is ${JSON.stringify(value) ?? "missing"}: ${problem}`, { file: this.file, key: `${this.prefix}${key}`, value, fix });
  }
  number(key: string, fallback?: number, ok: (x: number) => boolean = (x) => x > 0): number {
    const value = this.json[key] ?? fallback;
    if (typeof value === "number" && Number.isFinite(value) && ok(value)) return value;
    throw this.bad(key, "a positive number is needed", "take the config.json that came with the model");
  }
  size(key: string, fallback?: number): number {
    const n = this.number(key, fallback);
    if (!Number.isInteger(n)) throw this.bad(key, "a whole number is needed", "take the config.json that came with the model");
    return n;
  }
  flag(key: string, fallback: boolean): boolean {
    const value = this.json[key] ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.bad(key, "true or false is needed", "take the config.json that came with the model");
  }
  /** Token ids: one, several or none. */
  ids(key: string): number[] {
    const value = this.json[key] ?? [], list: unknown[] = Array.isArray(value) ? value : [value];
    if (list.every((x): x is number => typeof x === "number" && Number.isInteger(x))) return list;
    throw this.bad(key, "token ids are whole numbers", "take the config.json that came with the model");
  }
  /** Refuses a value under which the numbers would differ from ours. */
  only(key: string, allowed: readonly unknown[], what: string): void {
    const value = this.json[key];
    if (value !== undefined && value !== null && !allowed.includes(value)) throw this.bad(key, `${what} is not implemented`, `use a model with ${key} = ${allowed.map((x) => JSON.stringify(x)).join(" or ")}`);
  }
}

/**
 * Reads a config.json of model_type llama, mistral, qwen2 or qwen3.
 * @throws ConfigError naming file, key, value and fix for another model_type, a bad value, or a feature that is not implemented
 */
export function parseConfig(json: ConfigJson, file = "config.json"): ModelConfig {
  const r = new Reader(json, file), type = json["model_type"];
  if (!isModelType(type)) throw r.bad("model_type", `models of this type are not implemented`, `use one of ${modelTypes.join(", ")}`);
  const architectures = json["architectures"];
  if (Array.isArray(architectures) && architectures.length > 0 && !architectures.some((a) => typeof a === "string" && a.endsWith("ForCausalLM"))) throw r.bad("architectures", "not a causal language model", "use a checkpoint saved from a ...ForCausalLM class");
  const quantization = json["quantization_config"], method: unknown = isRecord(quantization) ? quantization["quant_method"] : "bitsandbytes";
  if (method !== "bitsandbytes") throw r.bad("quantization_config", `weights quantized by ${String(method)} are not implemented`, "use the unquantized model, one that bitsandbytes wrote, or a GGUF file");
  r.only("hidden_act", ["silu", "swish"], "this activation");
  r.only("partial_rotary_factor", [1], "partial rotary embedding");
  r.only("use_sliding_window", [false], "a sliding window on some layers");
  refuseLayerTypes(r);
  const heads = r.size("num_attention_heads"), hiddenSize = r.size("hidden_size"), kvHeads = r.size("num_key_value_heads", type === "mistral" ? 8 : heads);
  const headDim = r.size("head_dim", type === "qwen3" ? 128 : hiddenSize / heads);
  if (heads % kvHeads !== 0) throw r.bad("num_key_value_heads", `${heads} query heads cannot share them evenly`, "choose a divisor of num_attention_heads");
  if (headDim % 2 !== 0) throw r.bad("head_dim", "rotary embedding needs an even head size", "choose an even head_dim");
  const attentionBias = type === "qwen2" || r.flag("attention_bias", false), [padTokenId = null] = r.ids("pad_token_id"), [bosTokenId = null] = r.ids("bos_token_id");
  if (type === "mistral" && attentionBias) throw r.bad("attention_bias", "mistral has none", "remove it, or use model_type llama");
  return {
    modelType: type, vocabSize: r.size("vocab_size"), hiddenSize, intermediateSize: r.size("intermediate_size"), numHiddenLayers: r.size("num_hidden_layers"),
    numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim, maxPositionEmbeddings: r.size("max_position_embeddings", 2048),
    rmsNormEps: r.number("rms_norm_eps", 1e-6), ...readRope(r), tieWordEmbeddings: r.flag("tie_word_embeddings", false),
    qkvBias: attentionBias, outputBias: attentionBias && type !== "qwen2", mlpBias: type === "llama" && r.flag("mlp_bias", false), qkNorm: type === "qwen3",
    slidingWindow: type === "mistral" && json["sliding_window"] !== null && json["sliding_window"] !== undefined ? r.size("sliding_window") : null,
    attentionDropout: r.number("attention_dropout", 0, (x) => x >= 0 && x < 1), initializerRange: r.number("initializer_range", 0.02),
    bosTokenId, eosTokenIds: r.ids("eos_token_id"), padTokenId, json,
  };
}

function refuseLayerTypes(r: Reader): void {
  const types = r.json["layer_types"];
  if (Array.isArray(types) && types.some((t) => t !== "full_attention" && !(t === "sliding_attention" && r.json["model_type"] === "mistral"))) throw r.bad("layer_types", "layers other than full_attention are not implemented", "use a model whose layers all have full attention");
}

/** Base and scaling of rotary embedding, from rope_parameters (transformers 5) or rope_theta and rope_scaling (before). */
function readRope(r: Reader): { ropeTheta: number; ropeScaling: RopeScaling } {
  const key = isRecord(r.json["rope_parameters"]) ? "rope_parameters" : "rope_scaling", given = r.json[key];
  const p = new Reader(isRecord(given) ? given : {}, r.file, `${key}.`), ropeTheta = p.number("rope_theta", r.number("rope_theta", 10000));
  p.only("partial_rotary_factor", [1], "partial rotary embedding");
  const typeKey = p.json["rope_type"] === undefined ? "type" : "rope_type", type = p.json[typeKey] ?? "default";
  if (type === "default") return { ropeTheta, ropeScaling: { type } };
  if (type === "linear") return { ropeTheta, ropeScaling: { type, factor: p.number("factor") } };
  if (type === "llama3") {
    return { ropeTheta, ropeScaling: { type, factor: p.number("factor"), lowFreqFactor: p.number("low_freq_factor"), highFreqFactor: p.number("high_freq_factor"), originalMaxPositionEmbeddings: p.size("original_max_position_embeddings") } };
  }
  throw p.bad(typeKey, "this scaling of positions is not implemented", "default, linear and llama3 are");
}
