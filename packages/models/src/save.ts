/** Writes a model as a Hugging Face folder. */
import { type ShardOptions, modelFiles, writeDirectoryAtomic } from "@adjoint/io";
import { ConfigError, type HostArray, type Store } from "@adjoint/tensor";
import type { CausalLM } from "./causal-lm.ts";
import type { ConfigJson } from "./config.ts";

export interface SaveModelOptions extends ShardOptions {
  /** more files of the folder by name, such as tokenizer.json */
  readonly files?: Readonly<Record<string, string | Uint8Array>>;
}

const torch = { f64: "float64", f32: "float32", f16: "float16", bf16: "bfloat16" } as const;
const classes = { llama: "LlamaForCausalLM", mistral: "MistralForCausalLM", qwen2: "Qwen2ForCausalLM", qwen3: "Qwen3ForCausalLM" } as const;

/**
 * Writes config.json and model.safetensors (in shards above `maxShardBytes`); `AutoModelForCausalLM.from_pretrained(dir)` reads them.
 *
 * The folder appears whole or not at all; the parameters are those after the last finished step.
 * @throws FileError naming the file; ConfigError if the folder holds other files
 */
export async function saveModel(model: CausalLM, dir: string, options: SaveModelOptions = {}): Promise<void> {
  const { files = {}, ...shards } = options, arrays = await snapshot(model.parameters());
  await writeDirectoryAtomic(dir, { ...modelFiles(arrays, shards), "config.json": `${JSON.stringify(configOf(model, arrays), null, 2)}\n`, ...files });
}

async function snapshot(parameters: Readonly<Record<string, Store>>): Promise<Map<string, HostArray>> {
  const arrays = new Map<string, HostArray>();
  for (const [name, s] of Object.entries(parameters)) arrays.set(name, await s.host());
  return arrays;
}
/** The config as it came, with the class name and the element type of the weights. */
function configOf({ config }: CausalLM, arrays: ReadonlyMap<string, HostArray>): ConfigJson {
  const dtype = arrays.get("model.embed_tokens.weight")?.dtype;
  if (dtype !== "f32" && dtype !== "f16" && dtype !== "bf16" && dtype !== "f64") throw new ConfigError("the model holds no embedding", { op: "saveModel", key: "model.embed_tokens.weight" });
  const { torch_dtype: _old, ...json } = config.json;
  return { ...json, architectures: json["architectures"] ?? [classes[config.modelType]], dtype: torch[dtype] };
}
