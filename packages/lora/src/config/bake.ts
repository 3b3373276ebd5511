/** Writes any scale rule as plain LoRA's alpha / r, for files and for servers that ignore use_rslora. */
import { type LoraConfig, loraConfig } from "./config.ts";
import type { Target } from "../targets/targets.ts";

const escape = (path: string): string => path.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");

/**
 * The config with scaling `lora` and alpha = s r, so that every module keeps its scale s (to the last bit of alpha / r).
 * Modules whose alpha differs from the most frequent one get an entry of alphaPattern that matches their whole path.
 */
export function bakeScale(config: LoraConfig, targets: readonly Target[]): LoraConfig {
  const alphas = targets.map((t) => t.scale * t.r);
  const counts = new Map<number, number>();
  for (const a of alphas) counts.set(a, (counts.get(a) ?? 0) + 1);
  const [common] = [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best), [config.loraAlpha, 0]);
  const alphaPattern = Object.fromEntries(targets.flatMap((t, i) => (alphas[i] === common ? [] : [[`^${escape(t.path)}`, alphas[i]]])));
  return loraConfig({ ...config, scaling: "lora", useRslora: false, loraAlpha: common, alphaPattern });
}
