/** Names of factors in PEFT's `adapter_model.safetensors`, written in one way and read in all ways that PEFT ever wrote. */
import type { Role } from "../adapter.ts";
import type { ModuleInfo } from "../targets/targets.ts";

export const PREFIX = "base_model.model.";

/** Roles that PEFT does not call lora_<role>.weight. */
const named: Readonly<Record<Role, string>> = { magnitude: "lora_magnitude_vector", biasB: "lora_B.bias" };

/** The name of one factor: `base_model.model.M.lora_A.weight`, for embeddings `base_model.model.M.lora_embedding_A`; magnitudes and biases of B by PEFT's own names. */
export const factorKey = (path: string, role: Role, kind: ModuleInfo["kind"]): string =>
  `${PREFIX}${path}.${named[role] ?? (kind === "embedding" ? `lora_embedding_${role}` : `lora_${role}.weight`)}`;

/** What a name in a file stands for. */
export type ParsedKey =
  /** a tensor of an adapter, under the name that PEFT writes today */
  | { readonly kind: "factor"; readonly canonical: string; readonly adapterName: string | null }
  /** a parameter of the frozen base that PEFT saves along, such as the weight of an adapted embedding */
  | { readonly kind: "base"; readonly path: string; readonly parameter: string }
  /** a parameter of a module, trained in full or saved along; likely names first */
  | { readonly kind: "plain"; readonly names: readonly string[] };

/** Tensors of a low-rank layer that have no `.weight` after them today. */
const bare: ReadonlySet<string> = new Set(["lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "lora_E", "vera_lambda_b", "vera_lambda_d", "trainable_tokens_delta"]);
const isField = (part: string): boolean => part === "lora_A" || part === "lora_B" || bare.has(part);

/** What follows the name of a low-rank tensor: `.weight` or `.bias`, with or without an adapter's name before it. Null: something else. */
function leafOf(field: string, rest: readonly string[]): { readonly leaf: string; readonly adapterName: string | null } | null {
  const isLeaf = (part: string): boolean => part === "weight" || part === "bias", last = rest[rest.length - 1];
  if (bare.has(field)) {
    if (rest.length === 0) return { leaf: "", adapterName: null };
    if (rest.length === 1) return { leaf: "", adapterName: last === "weight" && field === "lora_magnitude_vector" ? null : last };
    return rest.length === 2 && last === "weight" ? { leaf: "", adapterName: rest[0] } : null;
  }
  // AdaLoRA's lora_A and lora_B are parameters themselves
  if (rest.length === 0) return { leaf: "", adapterName: null };
  if (rest.length === 1) return isLeaf(last) ? { leaf: `.${last}`, adapterName: null } : { leaf: "", adapterName: last };
  return rest.length === 2 && isLeaf(last) ? { leaf: `.${last}`, adapterName: rest[0] } : null;
}

/**
 * Reads a name by its parts, never by substring: wrappers of torch.compile and DataParallel, a missing or repeated prefix,
 * an adapter's name after `lora_A`, and the `modules_to_save` of old files are all understood.
 */
export function parseKey(key: string): ParsedKey {
  let parts = key.split(".").filter((p) => p !== "_orig_mod");
  while (parts[0] === "module") parts = parts.slice(1);
  while (parts[0] === "base_model" && parts[1] === "model") parts = parts.slice(2);
  const named = (...path: readonly string[]): string => `${PREFIX}${path.join(".")}`;
  for (let i = parts.length - 1; i > 0 && i >= parts.length - 3; i--) {
    const found = isField(parts[i]) ? leafOf(parts[i], parts.slice(i + 1)) : null;
    if (found !== null) return { kind: "factor", canonical: named(...parts.slice(0, i + 1)) + found.leaf, adapterName: found.adapterName };
  }
  const n = parts.length, inner = parts[n - 2] ?? "";
  if (n > 2 && (inner === "base_layer" || inner === "original_module")) return { kind: "base", path: parts.slice(0, -2).join("."), parameter: parts[n - 1] };
  const saved = parts.lastIndexOf("modules_to_save");
  if (saved <= 0) return { kind: "plain", names: [named(...parts)] };
  const [path, rest] = [parts.slice(0, saved), parts.slice(saved + 1)];
  return { kind: "plain", names: [named(...parts), ...(rest.length > 1 ? [named(...path, ...rest.slice(1))] : []), named(...path, ...rest)] };
}
