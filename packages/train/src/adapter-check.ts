/** Refuses a checkpoint whose adapter is not built as the one that would go on. */
import { isRecord, node, parseJsonObject, readText } from "@adjoint/io";
import { isInitLoraWeights, keepsOrigin } from "@adjoint/lora";
import { ConfigError } from "@adjoint/tensor";
import type { Recipe } from "./recipe.ts";

/** Keys of adapter_config.json that say where it came from, or how it began. */
const incidental: ReadonlySet<string> = new Set(["base_model_name_or_path", "revision", "auto_mapping", "task_type", "inference_mode", "peft_version", "eva_config", "corda_config", "lora_ga_config", "loftq_config", "total_step"]);
const CONFIG = "adapter_config.json";
const shown = (value: unknown): string => JSON.stringify(value) ?? "nothing";
const isPlainStart = (rule: unknown): boolean => !(isInitLoraWeights(rule) && keepsOrigin(rule));

/** Compares a checkpoint's adapter_config.json with the text of the one that trains. @throws ConfigError naming the key and both values */
export async function checkAdapter(config: string, folder: string, given: Pick<Recipe, "init_adapter">, now: Pick<Recipe, "init_adapter">): Promise<void> {
  const file = node().path.join(folder, CONFIG), theirs = parseJsonObject(await readText(file), file, "use another checkpoint"), ours = parseJsonObject(config, CONFIG, "");
  for (const [key, value] of Object.entries(ours)) {
    const was = theirs[key];
    // a key that an older version did not write is not compared; AdaLoRA's ranks change while it trains
    if (incidental.has(key) || was === undefined || (key === "rank_pattern" && theirs["peft_type"] === "ADALORA") || same(was, value)) continue;
    if (key === "init_lora_weights" && isPlainStart(was) && isPlainStart(value)) continue;
    const fix = given.init_adapter === now.init_adapter ? "resume with the adapter that the run began with" : given.init_adapter === null ? "leave out --init-adapter" : `add --init-adapter ${given.init_adapter}, as when the run began`;
    throw new ConfigError(`${folder}: the run's adapter has ${key} = ${shown(was)}, now it is ${shown(value)}`, { file, key, value, fix });
  }
}

function same(a: unknown, b: unknown): boolean {
  if (isRecord(a) && isRecord(b)) { const keys = Object.keys(a); return keys.length === Object.keys(b).length && keys.every((k) => same(a[k], b[k])); }
  if (Array.isArray(a) && Array.isArray(b)) return JSON.stringify(a) === JSON.stringify(b);
  return a === b;
}
