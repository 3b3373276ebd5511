/** Optimizers that see both factors of an adapter: LoRA-FA and Riemannian preconditioning. */
import { ConfigError, type Tensor } from "@adjoint/tensor";
import { checkedBetas, scaleByAdam } from "./adam.ts";
import { finite, knownKeys, notNegative, oneOf } from "./check.ts";
import { type CommonOptions, built, commonKeys } from "./common.ts";
import { rulesOf } from "./groups.ts";
import type { Optimizer } from "./optimizer.ts";
import { type Pair, checkedScaling, gramOf, isFactor, needPairs, pairsOf, partnerOf } from "./pairs.ts";
import { inverses } from "./solve.ts";
import { type Leaves, type Transform, filterLeaves, stateless } from "./transform.ts";
import { type ByPath, addDecayedWeights, decayAfter, decayWeights, scaleByLearningRate, trace } from "./transforms.ts";

/** The factor that stays as it is: A; of an embedding B, for there A is the one that starts at 0. */
const isFrozen = (path: string): boolean => {
  const p = partnerOf(path);
  return p !== null && (p.role === "A") !== p.embedding;
};

/** Frozen factors have no gradient and no state; dropped before anything else looks, so that clipping sees the moving ones, as in PEFT. */
const withoutFrozen = (op: string) => (inner: Transform): Transform => {
  const moving = (leaves: Leaves): Leaves => filterLeaves(leaves, (path) => !isFrozen(path));
  return {
    ...inner, ignores: isFrozen,
    init(params) {
      if (!Object.keys(params).some((path) => isFactor(path) && !isFrozen(path))) needPairs(op, {});
      return inner.init(moving(params));
    },
    update: (updates, state, params, context) => inner.update(moving(updates), state, params, context),
  };
};

/** g_B ← g_B (AAᵀ + δI)⁻¹ / s²; of an embedding g_A ← (BᵀB + δI)⁻¹ g_A / s². */
function projectMoving(scaling: (path: string) => number, damping: number): Transform {
  return stateless((updates, _, { leaves }) => {
    const alone = Object.keys(updates).find((path) => isFactor(path) && !(partnerOf(path)!.partner in leaves));
    if (alone !== undefined) throw new ConfigError(`loraFa: ${alone} has no partner in the tree, and its gradient is projected with it`, { op: "loraFa", key: alone, fix: "give the whole adapter; the frozen factor may be a plain tensor" });
    const pairs = pairsOf(leaves).filter(({ a, b, embedding }) => (embedding ? a : b) in updates);
    if (pairs.length === 0) return updates;
    const inverse = inverses(pairs.map((p) => (p.embedding ? gramOf(p, leaves).ofB : gramOf(p, leaves).ofA)), damping);
    const next: Record<string, Tensor> = { ...updates };
    pairs.forEach(({ a, b, embedding }, i) => {
      const s = 1 / scaling(b) ** 2;
      if (embedding) next[a] = inverse[i].matmul(updates[a]).mul(s);
      else next[b] = updates[b].matmul(inverse[i]).mul(s);
    });
    return next;
  });
}

/** Options of `loraFa`. */
export interface LoraFaOptions extends CommonOptions {
  /** the adapters' scale, or a function of the path of lora_B; there is no default */
  readonly scaling?: ByPath;
  readonly betas?: readonly [number, number];
  readonly eps?: number;
}

/**
 * LoRA-FA (Zhang et al. 2023, PEFT's LoraFAOptimizer): A never moves; g_B ← g_B (AAᵀ + 1e-8 I)⁻¹ / s², then `adamwHf`. All other leaves:
 * `adamwHf`. The frozen factor needs no gradient (null) and has no state. On an embedding, where A starts at 0, B is the frozen one: PEFT
 * freezes A there too, and learns nothing. Defaults: learningRate 1e-3, betas 0.9, 0.999, eps 1e-6, weightDecay 0.
 * Errors: ConfigError without `scaling`, or for a tree without pairs.
 */
export function loraFa(options: LoraFaOptions): Optimizer {
  const op = "loraFa";
  knownKeys(op, options, [...commonKeys, "scaling", "betas", "eps"]);
  const { learningRate = 1e-3, betas = [0.9, 0.999], eps = 1e-6, weightDecay = 0 } = options, rules = rulesOf(op, { ...options, learningRate, weightDecay });
  checkedBetas(op, betas);
  notNegative(op, "eps", eps);
  const links = [projectMoving(checkedScaling(op, options.scaling), 1e-8), scaleByAdam({ betas, eps, epsMode: "hf" }), scaleByLearningRate(rules), decayAfter(rules.decay, rules)];
  return built(op, options, links, rules, { betas, eps }, withoutFrozen(op));
}

/** g_A ← (BᵀB + reg I)⁻¹ g_A, g_B ← g_B (AAᵀ + reg I)⁻¹ for every pair; other leaves pass (Zhang and Pilanci 2024). */
export function preconditionPairs(reg: number): Transform {
  notNegative("preconditionPairs", "reg", reg);
  return stateless((updates, _, { leaves }) => {
    const pairs = pairsOf(leaves).filter(({ a, b }) => a in updates || b in updates);
    if (pairs.length === 0) return updates;
    const grams = pairs.map((p: Pair) => gramOf(p, leaves));
    const inverse = inverses([...grams.map((g) => g.ofA), ...grams.map((g) => g.ofB)], reg), next: Record<string, Tensor> = { ...updates };
    pairs.forEach(({ a, b }, i) => {
      if (b in updates) next[b] = updates[b].matmul(inverse[i]);
      if (a in updates) next[a] = inverse[pairs.length + i].matmul(updates[a]);
    });
    return next;
  });
}

/** Options of `riemannian`. */
export interface RiemannianOptions extends CommonOptions {
  /** damping of the r x r matrices; default 0.01 */
  readonly reg?: number;
  /** what takes the preconditioned gradients; default "adamw" */
  readonly base?: "adamw" | "sgd";
  readonly betas?: readonly [number, number];
  readonly eps?: number;
  /** of base "sgd"; default 0 */
  readonly momentum?: number;
}

/**
 * Riemannian-preconditioned LoRA (Zhang and Pilanci 2024, PEFT's create_riemannian_optimizer): g_A ← (BᵀB + reg I)⁻¹ g_A,
 * g_B ← g_B (AAᵀ + reg I)⁻¹ with the factors before the step, then AdamW or SGD. Adapters on embeddings too (PEFT leaves them out).
 * Errors: ConfigError for a tree without pairs.
 */
export function riemannian(options: RiemannianOptions = {}): Optimizer {
  const op = "riemannian";
  knownKeys(op, options, [...commonKeys, "reg", "base", "betas", "eps", "momentum"]);
  const sgd = options.base === "sgd";
  oneOf(op, "base", options.base ?? "adamw", ["adamw", "sgd"]);
  const { learningRate = 1e-3, reg = 1e-2, betas = [0.9, 0.999], eps = 1e-8, momentum = 0, weightDecay = sgd ? 0 : 1e-2 } = options;
  if (finite(op, "reg", reg) < 0) throw new ConfigError(`${op}: reg must be at least 0, got ${reg}`, { op, key: "reg", value: reg, fix: "0.01 is usual" });
  const rules = rulesOf(op, { ...options, learningRate, weightDecay });
  checkedBetas(op, betas); notNegative(op, "eps", eps); notNegative(op, "momentum", momentum);
  // options of the other base may be given as they are anyway (a recipe has adam_beta1), not otherwise
  const odd = sgd ? (betas[0] !== 0.9 || betas[1] !== 0.999 ? "betas" : eps !== 1e-8 ? "eps" : null) : momentum === 0 ? null : "momentum";
  if (odd !== null) throw new ConfigError(`${op}: ${odd} is no option of base ${sgd ? "sgd" : "adamw"}`, { op, key: odd, value: options[odd], fix: `remove it, or set base: "${sgd ? "adamw" : "sgd"}"` });
  const first: Transform = { ...preconditionPairs(reg), init: (params) => { needPairs(op, params); return {}; } };
  const rest = sgd ? [addDecayedWeights(rules.decay), ...(momentum === 0 ? [] : [trace({ momentum })])] : [decayWeights(rules.decay, rules), scaleByAdam({ betas, eps })];
  return built(op, options, [first, ...rest, scaleByLearningRate(rules)], rules, { reg, ...(sgd ? { momentum } : { betas, eps }) });
}
