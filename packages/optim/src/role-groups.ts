/** Groups made of roles: one a role, and LoRA+. */
import { ConfigError } from "@adjoint/tensor";
import { callable, finite, knownKeys, notNegative, objectOf } from "./check.ts";
import type { Group, RateOptions, RoleMatch } from "./groups.ts";
import { type Role, roleOf, roles } from "./roles.ts";
import type { Schedule } from "./schedules.ts";

/** What one role learns at; what it leaves out is the optimizer's own. */
export type RoleRates = Pick<Group, "learningRate" | "weightDecay" | "schedule">;

/**
 * One group a role; roles that the model does not have are left out without a word.
 * @example adamw({ learningRate: 1e-4, groups: byRole({ adapterB: { learningRate: 1.6e-3 }, norm: { weightDecay: 0 } }) })
 */
export function byRole(rates: Readonly<Partial<Record<Role, RoleRates>>>): readonly Group[] {
  objectOf("byRole", "rates", rates, "an object of roles ({ adapterB: { learningRate } })");
  return Object.entries(rates).map(([role, rate]) => {
    const match = roleMatch("byRole", role);
    knownKeys("byRole", rate, ["learningRate", "weightDecay", "schedule"], `${role}.`);
    return { match, optional: true, ...rate };
  });
}

function roleMatch(op: string, role: string): RoleMatch {
  const known = roles.find((r) => r === role);
  if (known === undefined) throw new ConfigError(`${op}: there is no role ${role}`, { op, key: "role", value: role, fix: `roles: ${roles.join(", ")}` });
  return { role: known };
}

/** Options of `loraPlus`. */
export interface LoraPlusOptions {
  /** the rate of A, η_A: a number */
  readonly learningRate: number;
  /** λ = η_B / η_A, at least 1; the authors start at 16 */
  readonly ratio: number;
  /** the rate of adapters on embeddings; default 1e-6 */
  readonly embeddingLearningRate?: number;
  /** default 0 */
  readonly weightDecay?: number;
  /** fast parameters without decay; default: biases, and the weights of torch's LayerNorm by GPT-2's names (PEFT lets those of an RMSNorm decay) */
  readonly noDecay?: (path: string) => boolean;
  /** a multiplier of all rates */
  readonly schedule?: Schedule;
}
/** Options of an optimizer, ready to be spread into its own. */
export interface LoraPlus extends Pick<RateOptions, "learningRate" | "weightDecay" | "groups" | "schedule" | "noDecay"> { readonly learningRate: number; readonly groups: readonly Group[] }

/**
 * LoRA+ (Hayou et al. 2024): B, and all vectors, at ratio times the rate of A; embeddings at a rate of their own. The groups and their
 * order are those of PEFT's `create_loraplus_optimizer`, and so is which of them decay.
 * Errors: ConfigError for a ratio below 1 or a negative rate.
 * @example adamw({ ...loraPlus({ learningRate: 1e-4, ratio: 16 }), maxGradNorm: 1 })
 */
export function loraPlus(options: LoraPlusOptions): LoraPlus {
  const op = "loraPlus";
  knownKeys(op, options, ["learningRate", "ratio", "embeddingLearningRate", "weightDecay", "noDecay", "schedule"]);
  const { learningRate, ratio, embeddingLearningRate = 1e-6, weightDecay = 0, noDecay = isBiasOrLayerNorm, schedule } = options;
  callable(op, "noDecay", noDecay, "a function of the path");
  notNegative(op, "learningRate", learningRate); notNegative(op, "embeddingLearningRate", embeddingLearningRate); notNegative(op, "weightDecay", weightDecay);
  if (!(finite(op, "ratio", ratio) >= 1)) throw new ConfigError(`${op}: the ratio of the rates of B and A must be at least 1, got ${ratio}`, { op, key: "ratio", value: ratio, fix: "start at 16 (loraplus_lr_ratio)" });
  const fast = learningRate * ratio;
  const groups: readonly Group[] = [
    { match: (path) => isLoraEmbedding(path), learningRate: embeddingLearningRate, weightDecay, optional: true },
    { match: (path) => fastRoles.has(roleOf(path)) && noDecay(path), learningRate: fast, weightDecay: 0, optional: true },
    { match: { role: [...fastRoles] }, learningRate: fast, weightDecay, optional: true },
  ];
  return { learningRate, weightDecay, groups, noDecay: null, ...(schedule === undefined ? {} : { schedule }) };
}
const fastRoles: ReadonlySet<Role> = new Set<Role>(["adapterB", "magnitude", "bias", "norm"]);
const isBiasOrLayerNorm = (path: string): boolean => path.endsWith("bias") || /(?:^|\.)ln_(?:\d+|f)\./.test(path);
const isLoraEmbedding = (path: string): boolean => path.split(".").some((part) => part === "lora_embedding_A" || part === "lora_embedding_B");
