/** Configs of well-known models by name: sizes for planning, without a file or a network. */
import { ConfigError } from "@adjoint/tensor";
import type { ConfigJson } from "./config.ts";

/** layers, width, mlp, heads, key-value heads, vocabulary; then what differs from the family */
type Row = readonly [layers: number, width: number, mlp: number, heads: number, kvHeads: number, vocabulary: number, more?: ConfigJson];
type Family = Readonly<Record<string, Row>>;

const tied: ConfigJson = { tie_word_embeddings: true };
const llama: Family = {
  "Llama-2-7b": [32, 4096, 11008, 32, 32, 32000, { torch_dtype: "float16" }],
  "Llama-2-13b": [40, 5120, 13824, 40, 40, 32000, { torch_dtype: "float16" }],
  "Llama-2-70b": [80, 8192, 28672, 64, 8, 32000, { torch_dtype: "float16" }],
  "Llama-3-8B": [32, 4096, 14336, 32, 8, 128256], "Llama-3-70B": [80, 8192, 28672, 64, 8, 128256],
  "Llama-3.1-8B": [32, 4096, 14336, 32, 8, 128256], "Llama-3.1-70B": [80, 8192, 28672, 64, 8, 128256], "Llama-3.3-70B": [80, 8192, 28672, 64, 8, 128256],
  "Llama-3.2-1B": [16, 2048, 8192, 32, 8, 128256, tied], "Llama-3.2-3B": [28, 3072, 8192, 24, 8, 128256, tied],
  "TinyLlama-1.1B": [22, 2048, 5632, 32, 4, 32000],
  "SmolLM2-135M": [30, 576, 1536, 9, 3, 49152, tied], "SmolLM2-360M": [32, 960, 2560, 15, 5, 49152, tied], "SmolLM2-1.7B": [24, 2048, 8192, 32, 32, 49152, tied],
};
const mistral: Family = { "Mistral-7B-v0.1": [32, 4096, 14336, 32, 8, 32000], "Mistral-7B-v0.3": [32, 4096, 14336, 32, 8, 32768, { sliding_window: null }], "openchat_3.5": [32, 4096, 14336, 32, 8, 32002] };
const qwen2: Family = {
  "Qwen2-0.5B": [24, 896, 4864, 14, 2, 151936, tied], "Qwen2-1.5B": [28, 1536, 8960, 12, 2, 151936, tied], "Qwen2-7B": [28, 3584, 18944, 28, 4, 152064], "Qwen2-72B": [80, 8192, 29568, 64, 8, 152064],
  "Qwen2.5-0.5B": [24, 896, 4864, 14, 2, 151936, tied], "Qwen2.5-1.5B": [28, 1536, 8960, 12, 2, 151936, tied], "Qwen2.5-3B": [36, 2048, 11008, 16, 2, 151936, tied],
  "Qwen2.5-7B": [28, 3584, 18944, 28, 4, 152064], "Qwen2.5-14B": [48, 5120, 13824, 40, 8, 152064], "Qwen2.5-32B": [64, 5120, 27648, 40, 8, 152064], "Qwen2.5-72B": [80, 8192, 29568, 64, 8, 152064],
};
const head128: ConfigJson = { head_dim: 128 };
const qwen3: Family = {
  "Qwen3-0.6B": [28, 1024, 3072, 16, 8, 151936, { ...tied, ...head128 }], "Qwen3-1.7B": [28, 2048, 6144, 16, 8, 151936, { ...tied, ...head128 }], "Qwen3-4B": [36, 2560, 9728, 32, 8, 151936, { ...tied, ...head128 }],
  "Qwen3-8B": [36, 4096, 12288, 32, 8, 151936, head128], "Qwen3-14B": [40, 5120, 17408, 40, 8, 151936, head128], "Qwen3-32B": [64, 5120, 25600, 64, 8, 151936, head128],
};

const gemma: Family = { "gemma-2b": [18, 2048, 16384, 8, 1, 256000, { head_dim: 256 }], "gemma-7b": [28, 3072, 24576, 16, 16, 256000, { head_dim: 256 }] };
const gpt2: Readonly<Record<string, readonly [layers: number, width: number, heads: number]>> = { "gpt2": [12, 768, 12], "gpt2-medium": [24, 1024, 16], "gpt2-large": [36, 1280, 20], "gpt2-xl": [48, 1600, 25] };

const configs: ReadonlyMap<string, ConfigJson> = new Map<string, ConfigJson>([...Object.entries({ llama, mistral, qwen2, qwen3, gemma }).flatMap(([model_type, family]) => Object.entries(family).map(([name, [layers, width, mlp, heads, kvHeads, vocabulary, more]]) => [name, {
  model_type, vocab_size: vocabulary, hidden_size: width, intermediate_size: mlp, num_hidden_layers: layers, num_attention_heads: heads, num_key_value_heads: kvHeads, torch_dtype: "bfloat16", ...more,
}] as const)), ...Object.entries(gpt2).map(([name, [n_layer, n_embd, n_head]]) => [name, { model_type: "gpt2", vocab_size: 50257, n_positions: 1024, n_embd, n_layer, n_head }] as const)]);

/** Names that `knownConfig` takes. */
export const knownModels: readonly string[] = [...configs.keys()];

/** What people write around a name: the organisation before it, the tuning and the format after it. */
const bare = (name: string): string => name.replace(/^.*\//, "").replace(/^Meta-/i, "").replace(/(-(hf|chat|instruct|base|it|v1\.0|v0\.[12]-instruct|intermediate-.*|step-.*))+$/i, "").toLowerCase();

/**
 * The sizes of a well-known model by name; an organisation before it and -Instruct, -chat, -hf after it change nothing.
 * These are what memory and time follow from, not the whole config.json: rope and token ids are left out.
 * @throws ConfigError naming the known ones
 */
export function knownConfig(name: string): ConfigJson {
  const want = bare(name), found = [...configs].find(([known]) => known.toLowerCase() === want) ?? [...configs].find(([known]) => bare(known) === want);
  if (found !== undefined) return found[1];
  throw new ConfigError(`the sizes of ${name} are not known`, { key: "model", value: name, fix: `give a folder with config.json, or one of ${knownModels.join(", ")}` });
}
