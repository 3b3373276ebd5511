/** config.json: what is understood is read and checked, what would change numbers and is not implemented is refused by name. */
import { isRecord } from "@adjoint/io";
import { type ConfigJson, Reader } from "./config-reader.ts";
import { type Gpt2Config, readGpt2 } from "./gpt2-config.ts";
import { type LlamaConfig, type LlamaType, llamaTypes, readLlama } from "./llama-config.ts";

export type { ConfigJson } from "./config-reader.ts";

/** What the configs of all families have, under one name each. */
export interface SharedConfig {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly maxPositionEmbeddings: number;
  readonly tieWordEmbeddings: boolean;
  readonly initializerRange: number;
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | null;
  /** the file as it was, for saving */
  readonly json: ConfigJson;
}

/** What a model is built from; `modelType` tells which family's keys are there. */
export type ModelConfig = LlamaConfig | Gpt2Config;

export type ModelType = LlamaType | "gpt2";
export const modelTypes: readonly ModelType[] = [...llamaTypes, "gpt2"];
const isModelType = (x: unknown): x is ModelType => modelTypes.some((t) => t === x);

/** The class that transformers reads a model type with. */
export const architectures: Readonly<Record<ModelType, string>> = {
  llama: "LlamaForCausalLM", mistral: "MistralForCausalLM", qwen2: "Qwen2ForCausalLM", qwen3: "Qwen3ForCausalLM", gemma: "GemmaForCausalLM", gpt2: "GPT2LMHeadModel",
};

/**
 * Reads a config.json of one of `modelTypes`.
 * @throws ConfigError naming file, key, value and fix for another model_type, a bad value, or a feature that is not implemented
 */
export function parseConfig(json: ConfigJson, file = "config.json"): ModelConfig {
  const r = new Reader(json, file), type = json["model_type"];
  if (!isModelType(type)) throw r.bad("model_type", "models of this type are not implemented", `use one of ${modelTypes.join(", ")}`);
  const given = json["architectures"], end = type === "gpt2" ? architectures.gpt2 : "ForCausalLM";
  if (Array.isArray(given) && given.length > 0 && !given.some((a) => typeof a === "string" && a.endsWith(end))) throw r.bad("architectures", "not a causal language model", `use a checkpoint saved from ${type === "gpt2" ? end : "a ...ForCausalLM class"}`);
  const quantization = json["quantization_config"], method: unknown = isRecord(quantization) ? quantization["quant_method"] : "bitsandbytes";
  if (method !== "bitsandbytes") throw r.bad("quantization_config", `weights quantized by ${String(method)} are not implemented`, "use the unquantized model, one that bitsandbytes wrote, or a GGUF file");
  return type === "gpt2" ? readGpt2(r) : readLlama(r, type);
}
