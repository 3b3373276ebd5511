/** Ranks of single modules, as a config says them: the most frequent one, and the others by path. */
import type { LoraConfig } from "./config.ts";

/** An expression that matches this path alone. */
export const exactly = (path: string): string => `^${path.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&")}`;

/** The most frequent value, `otherwise` for none, and entries of a pattern for the others. */
export function commonAnd(values: ReadonlyMap<string, number>, otherwise: number): { readonly common: number; readonly pattern: Readonly<Record<string, number>> } {
  const counts = new Map<number, number>();
  for (const v of values.values()) counts.set(v, (counts.get(v) ?? 0) + 1);
  const [common] = [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best), [otherwise, 0]);
  return { common, pattern: Object.fromEntries([...values].flatMap(([path, v]) => (v === common ? [] : [[exactly(path), v]]))) };
}

/** These ranks by path, with alpha = r everywhere, hence scale 1. */
export function unitScale(ranks: ReadonlyMap<string, number>): Pick<LoraConfig, "r" | "loraAlpha" | "rankPattern" | "alphaPattern"> {
  const { common, pattern } = commonAnd(ranks, 1);
  return { r: common, loraAlpha: common, rankPattern: pattern, alphaPattern: pattern };
}
