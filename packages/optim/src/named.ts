/** Optimizers by their common names: chains of small transforms with torch's defaults. */
import { ConfigError } from "@adjoint/tensor";
import { finite, fraction, knownKeys, notNegative } from "./check.ts";
import { type RateOptions, rulesOf } from "./groups.ts";
import { type Optimizer, optimizerOf } from "./optimizer.ts";
import { type Transform, chain } from "./transform.ts";
import { addDecayedWeights, clipByGlobalNorm, decayWeights, negate, scaleByAdam, scaleByLearningRate, trace } from "./transforms.ts";

interface Common extends RateOptions {
  /** clips the gradients' global norm to this; absent, 0 or less: no clipping */
  readonly maxGradNorm?: number;
  /** climb instead of descend */
  readonly maximize?: boolean;
}
/** Options of `sgd`. */
export interface SgdOptions extends Common {
  readonly momentum?: number;
  /** share of the gradient that does not enter the momentum, from the second update on */
  readonly dampening?: number;
  readonly nesterov?: boolean;
}
/** Options of `adam` and `adamw`. */
export interface AdamOptions extends Common {
  /** decays of the two moments, each in [0, 1) */
  readonly betas?: readonly [number, number];
  readonly eps?: number;
  readonly amsgrad?: boolean;
}

const commonKeys: readonly string[] = ["learningRate", "schedule", "weightDecay", "groups", "noDecay", "maxGradNorm", "maximize"];
const first = (op: string, { maxGradNorm, maximize = false }: Common): Transform[] =>
  [...(maxGradNorm === undefined || finite(op, "maxGradNorm", maxGradNorm) <= 0 ? [] : [clipByGlobalNorm(maxGradNorm)]), ...(maximize ? [negate] : [])];

/**
 * Stochastic gradient descent with momentum (torch.optim.SGD): g ← g + λp; buf ← μ buf + (1 - dampening) g, the first time
 * buf ← g; p ← p - lr · (nesterov ? g + μ buf : buf).
 * Errors: ConfigError for a negative rate, decay or momentum, or nesterov without momentum or with dampening.
 * @example const optimizer = sgd({ learningRate: 0.1, momentum: 0.9 }).for(model);
 */
export function sgd(options: SgdOptions = {}): Optimizer {
  knownKeys("sgd", options, [...commonKeys, "momentum", "dampening", "nesterov"]);
  const { learningRate = 1e-3, momentum = 0, dampening = 0, weightDecay = 0, nesterov = false } = options;
  const rules = rulesOf("sgd", { ...options, learningRate, weightDecay });
  notNegative("sgd", "momentum", momentum);
  finite("sgd", "dampening", dampening);
  if (nesterov && (momentum === 0 || dampening !== 0)) throw new ConfigError(`sgd: nesterov needs a momentum above 0 and no dampening, got momentum ${momentum}, dampening ${dampening}`, { op: "sgd", key: "nesterov", value: nesterov, fix: "set momentum: 0.9, dampening: 0" });
  return optimizerOf("sgd", chain(
    ...first("sgd", options), addDecayedWeights(rules.decay), ...(momentum === 0 ? [] : [trace({ momentum, dampening, nesterov })]), scaleByLearningRate(rules),
  ), rules, { momentum, dampening, nesterov, maximize: options.maximize ?? false });
}

function adamLike(op: "adam" | "adamw", options: AdamOptions, decoupled: boolean): Optimizer {
  knownKeys(op, options, [...commonKeys, "betas", "eps", "amsgrad"]);
  const { learningRate = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = decoupled ? 1e-2 : 0, amsgrad = false } = options;
  const rules = rulesOf(op, { ...options, learningRate, weightDecay });
  betas.forEach((b, i) => fraction(op, `betas[${i}]`, b));
  notNegative(op, "eps", eps);
  return optimizerOf(op, chain(
    ...first(op, options), decoupled ? decayWeights(rules.decay, rules) : addDecayedWeights(rules.decay), scaleByAdam({ betas, eps, amsgrad }), scaleByLearningRate(rules),
  ), rules, { betas, eps, amsgrad, maximize: options.maximize ?? false });
}

/** Adam with L2 regularisation (torch.optim.Adam): g ← g + λp, then as `adamw` without its decay; weightDecay is 0 by default. */
export const adam = (options: AdamOptions = {}): Optimizer => adamLike("adam", options, false);

/**
 * Adam with decoupled weight decay (torch.optim.AdamW; Loshchilov and Hutter 2019): p ← p(1 - lr λ); m ← lerp(m, g, 1 - β₁);
 * v ← β₂v + (1 - β₂)g²; p ← p - lr/(1 - β₁ᵗ) · m / (√v/√(1 - β₂ᵗ) + eps). Norms and biases do not decay (`noDecay`).
 * Errors: ConfigError for a negative rate, decay or eps, or betas outside [0, 1).
 * @example const optimizer = adamw({ learningRate: cosine({ peak: 2e-3, warmup: 15, steps: 170 }), maxGradNorm: 1 }).for(tuned.adapter);
 */
export const adamw = (options: AdamOptions = {}): Optimizer => adamLike("adamw", options, true);

const named: ReadonlyMap<string, (options: AdamOptions & SgdOptions) => Optimizer> = new Map([["adamw_torch", adamw], ["adamw_torch_fused", adamw], ["adamw", adamw], ["adam", adam], ["sgd", sgd]]);
/** Names that `optimizer` knows: those of `optim` in recipes, and the short ones. */
export const optimizerNames: readonly string[] = [...named.keys()];

/** An optimizer by the name that recipes use. Errors: ConfigError for an unknown name (lists the known ones) or an option that it does not have. */
export function optimizer(name: string, options: AdamOptions & SgdOptions = {}): Optimizer {
  const make = named.get(name);
  if (!make) throw new ConfigError(`optimizer: there is no ${name}`, { op: "optimizer", key: "optim", value: name, fix: `known optimizers: ${optimizerNames.join(", ")}` });
  return make(options);
}
