/** Writes any scale rule as plain LoRA's alpha / r, for files and for servers that ignore use_rslora. */
import { type LoraConfig, loraConfig } from "./config.ts";
import { commonAnd } from "./ranks.ts";
import type { Target } from "../targets/targets.ts";

/**
 * The config with scaling `lora` and alpha = s r, so that every module keeps its scale s (to the last bit of alpha / r).
 * Modules whose alpha differs from the most frequent one get an entry of alphaPattern that matches their whole path.
 */
export function bakeScale(config: LoraConfig, targets: readonly Target[]): LoraConfig {
  const { common, pattern } = commonAnd(new Map(targets.map((t) => [t.path, t.scale * t.r])), config.loraAlpha);
  return loraConfig({ ...config, scaling: "lora", useRslora: false, loraAlpha: common, alphaPattern: pattern });
}
