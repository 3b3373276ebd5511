/** Names of factors in PEFT's `adapter_model.safetensors`, written in one way and read in all ways that PEFT ever wrote. */
import type { Role } from "./adapter.ts";
import type { ModuleInfo } from "./targets.ts";

export const PREFIX = "base_model.model.";

/** Roles that PEFT does not call lora_<role>.weight. */
const named: Readonly<Record<Role, string>> = { magnitude: "lora_magnitude_vector", biasB: "lora_B.bias" };

/** The name of one factor: `base_model.model.M.lora_A.weight`, for embeddings `base_model.model.M.lora_embedding_A`; magnitudes and biases of B by PEFT's own names. */
export const factorKey = (path: string, role: Role, kind: ModuleInfo["kind"]): string =>
  `${PREFIX}${path}.${named[role] ?? (kind === "embedding" ? `lora_embedding_${role}` : `lora_${role}.weight`)}`;

/** What a name in a file stands for. */
export type ParsedKey =
  | { readonly kind: "factor"; readonly canonical: string; readonly adapterName: string | null }
  /** the frozen weight of an adapted embedding or head, which PEFT saves along */
  | { readonly kind: "base"; readonly path: string }
  | { readonly kind: "unknown" };

/**
 * Reads a name by its parts, never by substring: wrappers of torch.compile and DataParallel, a missing or repeated prefix,
 * and an adapter's name between `lora_A` and `weight` are all understood.
 */
export function parseKey(key: string): ParsedKey {
  let parts = key.split(".").filter((p) => p !== "_orig_mod");
  while (parts[0] === "module") parts = parts.slice(1);
  while (parts[0] === "base_model" && parts[1] === "model") parts = parts.slice(2);
  const factor = (end: number, adapterName: string | null): ParsedKey => {
    const path = parts.slice(0, end).join(".");
    const last = parts[end];
    if (path === "") return { kind: "unknown" };
    return { kind: "factor", canonical: `${PREFIX}${path}.${last}${last.startsWith("lora_embedding") ? "" : ".weight"}`, adapterName };
  };
  const n = parts.length;
  const at = (i: number): string => parts[n + i] ?? "";
  const isFactor = (name: string): boolean => name === "lora_A" || name === "lora_B";
  const isEmbedding = (name: string): boolean => name === "lora_embedding_A" || name === "lora_embedding_B";
  if (at(-1) === "weight" && isFactor(at(-2))) return factor(n - 2, null);
  if (at(-1) === "weight" && isFactor(at(-3))) return factor(n - 3, at(-2));
  const whole = (end: number, name: string, adapterName: string | null): ParsedKey => (end > 0 ? { kind: "factor", canonical: `${PREFIX}${parts.slice(0, end).join(".")}.${name}`, adapterName } : { kind: "unknown" });
  for (const [i, name] of [[-1, null], [-2, at(-1)], [-3, at(-2)]] as const) {
    if (at(i) === named.magnitude && (i > -3 || at(-1) === "weight")) return whole(n + i, named.magnitude, name === "weight" ? null : name);
  }
  if (at(-1) === "bias" && at(-2) === "lora_B") return whole(n - 2, named.biasB, null);
  if (at(-1) === "bias" && at(-3) === "lora_B") return whole(n - 3, named.biasB, at(-2));
  if (isEmbedding(at(-1))) return factor(n - 1, null);
  if (isEmbedding(at(-2))) return factor(n - 2, at(-1));
  if (at(-1) === "weight" && at(-2) === "base_layer" && n > 2) return { kind: "base", path: parts.slice(0, -2).join(".") };
  return { kind: "unknown" };
}
