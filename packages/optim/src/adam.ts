/** Adam and its kin: AdamW, AMSGrad, Transformers' former AdamW, NAdam. */
import type { Tensor } from "@adjoint/tensor";
import { checkedSteps, flag, fraction, knownKeys, notNegative, oneOf, tuple } from "./check.ts";
import { type CommonOptions, built, commonKeys } from "./common.ts";
import { rulesOf } from "./groups.ts";
import type { Optimizer } from "./optimizer.ts";
import type { Schedule } from "./schedules.ts";
import { type Context, type Leaves, type Transform, mapLeaves, zerosLike } from "./transform.ts";
import { addDecayedWeights, decayAfter, decayWeights, lerp, scaleByLearningRate } from "./transforms.ts";

/** Options of `scaleByAdam`. */
export interface AdamScaling {
  /** decays of the two moments, each in [0, 1); the first may be a function of the step (`oneCycleMomentum`) */
  readonly betas?: readonly [number | Schedule, number];
  readonly eps?: number;
  readonly amsgrad?: boolean;
  /** where eps stands: torch: √v/√(1 - β₂ᵗ) + eps; hf: √v + eps, before the correction */
  readonly epsMode?: "torch" | "hf";
  /** how the first moment is added up: lerp(m, g, 1 - β₁) as torch does, or β₁m + (1 - β₁)g, the same but for rounding */
  readonly average?: "lerp" | "sum";
}
/** Options of `adam`, `adamw` and `adamwHf`. */
export interface AdamOptions extends CommonOptions {
  /** decays of the two moments, each in [0, 1); the first may be a function of the step (`oneCycleMomentum`) */
  readonly betas?: readonly [number | Schedule, number];
  readonly eps?: number;
  readonly amsgrad?: boolean;
}

interface Moments { readonly m: Leaves; readonly v: Leaves }
/** m ← lerp(m, g, 1 - β₁), v ← β₂v + (1 - β₂)g². */
function moments(updates: Leaves, state: { readonly exp_avg: Leaves; readonly exp_avg_sq: Leaves }, [b1, b2]: readonly [number | Schedule, number], { keep, ofStep }: Context, average: "lerp" | "sum" = "lerp"): Moments {
  const first = (m: Tensor, g: Tensor): Tensor => {
    if (typeof b1 === "function") return m.add(g.sub(m).mul(ofStep((t) => 1 - b1(t), g.dtype)));
    return average === "lerp" ? lerp(m, g, 1 - b1) : m.mul(b1).add(g.mul(1 - b1));
  };
  return {
    m: mapLeaves(updates, (g, path) => keep(first(state.exp_avg[path], g), state.exp_avg[path])),
    v: mapLeaves(updates, (g, path) => keep(state.exp_avg_sq[path].mul(b2).add(g.mul(g).mul(1 - b2)), state.exp_avg_sq[path])),
  };
}
/** Two numbers in [0, 1). */
export function checkedBetas(op: string, betas: readonly [number, number]): readonly [number, number] {
  tuple(op, "betas", betas, 2).forEach((b, i) => fraction(op, `betas[${i}]`, b));
  return betas;
}
/** The same where the first may be a function of the step: its values are then checked step by step. */
function scheduledBetas(op: string, betas: readonly [number | Schedule, number]): readonly [number | Schedule, number] {
  const [b1, b2] = tuple(op, "betas", betas, 2);
  if (typeof b1 !== "function") return checkedBetas(op, [b1, b2]);
  return [checkedSteps(op, "betas[0]", b1, 1), fraction(op, "betas[1]", b2)];
}

/**
 * u = m̂ / (√v̂ + eps) with m ← lerp(m, g, 1 - β₁), v ← β₂v + (1 - β₂)g², m̂ = m / (1 - β₁ᵗ), √v̂ = √v / √(1 - β₂ᵗ)
 * (Kingma and Ba 2015; amsgrad: the largest v so far, Reddi et al. 2018). t counts the updates of the leaf.
 */
export function scaleByAdam(options: AdamScaling = {}): Transform {
  knownKeys("scaleByAdam", options, ["betas", "eps", "amsgrad", "epsMode", "average"]);
  const { betas = [0.9, 0.999], eps = 1e-8, amsgrad = false, epsMode = "torch", average = "lerp" } = options;
  const checked = scheduledBetas("scaleByAdam", betas), [b1, b2] = checked, left = (t: number): number => 1 - (typeof b1 === "function" ? b1(t - 1) : b1) ** t;
  notNegative("scaleByAdam", "eps", eps);
  flag("scaleByAdam", "amsgrad", amsgrad); oneOf("scaleByAdam", "epsMode", epsMode, ["torch", "hf"]); oneOf("scaleByAdam", "average", average, ["lerp", "sum"]);
  return {
    init: (params) => ({ exp_avg: zerosLike(params), exp_avg_sq: zerosLike(params), ...(amsgrad ? { max_exp_avg_sq: zerosLike(params) } : {}) }),
    update(updates, state, _, context) {
      const { m, v } = moments(updates, { exp_avg: state.exp_avg, exp_avg_sq: state.exp_avg_sq }, checked, context, average);
      const largest = amsgrad ? mapLeaves(v, (x, path) => context.keep(state.max_exp_avg_sq[path].maximum(x), state.max_exp_avg_sq[path])) : v;
      const u = mapLeaves(m, (x, path) => {
        const root = largest[path].sqrt();
        if (epsMode === "hf") return x.mul(context.ofUpdates(path, (t) => Math.sqrt(1 - b2 ** t) / left(t), x.dtype)).div(root.add(eps));
        return x.mul(context.ofUpdates(path, (t) => 1 / left(t), x.dtype)).div(root.div(context.ofUpdates(path, (t) => Math.sqrt(1 - b2 ** t), x.dtype)).add(eps));
      });
      return { updates: u, state: { exp_avg: m, exp_avg_sq: v, ...(amsgrad ? { max_exp_avg_sq: largest } : {}) } };
    },
  };
}

function adamLike(op: "adam" | "adamw" | "adamwHf", options: AdamOptions): Optimizer {
  knownKeys(op, options, [...commonKeys, "betas", "eps", ...(op === "adamwHf" ? [] : ["amsgrad"])]);
  const hf = op === "adamwHf", { learningRate = 1e-3, betas = [0.9, 0.999], eps = hf ? 1e-6 : 1e-8, weightDecay = op === "adamw" ? 1e-2 : 0, amsgrad = false } = options;
  const rules = rulesOf(op, { ...options, learningRate, weightDecay });
  const [b1, b2] = scheduledBetas(op, betas);
  notNegative(op, "eps", eps);
  flag(op, "amsgrad", amsgrad);
  const scaled = [scaleByAdam({ betas: [b1, b2], eps, amsgrad, epsMode: hf ? "hf" : "torch" }), scaleByLearningRate(rules)];
  const links = hf ? [...scaled, decayAfter(rules.decay, rules)] : [op === "adamw" ? decayWeights(rules.decay, rules) : addDecayedWeights(rules.decay), ...scaled];
  return typeof b1 === "function" ? built(op, options, links, { ...rules, constant: false }, (t) => ({ betas: [b1(t), b2], eps, amsgrad })) : built(op, options, links, rules, { betas: [b1, b2], eps, amsgrad });
}

/** Adam with L2 regularisation (torch.optim.Adam): g ← g + λp, then as `adamw` without its decay; weightDecay is 0 by default. */
export const adam = (options: AdamOptions = {}): Optimizer => adamLike("adam", options);

/**
 * Adam with decoupled weight decay (torch.optim.AdamW; Loshchilov and Hutter 2019): p ← p(1 - lr λ); m ← lerp(m, g, 1 - β₁);
 * v ← β₂v + (1 - β₂)g²; p ← p - lr/(1 - β₁ᵗ) · m / (√v/√(1 - β₂ᵗ) + eps). Norms and biases do not decay (`noDecay`).
 * Errors: ConfigError for a negative rate, decay or eps, or betas outside [0, 1).
 * @example const optimizer = adamw({ learningRate: cosine({ peak: 2e-3, warmup: 15, steps: 170 }), maxGradNorm: 1 }).for(tuned.adapter);
 */
export const adamw = (options: AdamOptions = {}): Optimizer => adamLike("adamw", options);

/**
 * AdamW as Transformers had it (`adamw_hf`): p ← p - lr √(1 - β₂ᵗ)/(1 - β₁ᵗ) · m / (√v + eps); then p ← p(1 - lr λ).
 * Defaults: eps 1e-6, weightDecay 0.
 */
export const adamwHf = (options: AdamOptions = {}): Optimizer => adamLike("adamwHf", options);

/** Options of `nadam`. */
export interface NadamOptions extends CommonOptions {
  readonly betas?: readonly [number, number];
  readonly eps?: number;
  /** ψ: how slowly the momentum grows to β₁; default 0.004 */
  readonly momentumDecay?: number;
  /** decay as in AdamW instead of λp in the gradient */
  readonly decoupledWeightDecay?: boolean;
}

/** μ_t = β₁(1 - ½·0.96^(tψ)), and Π_t = μ_1 ⋯ μ_t, remembered. */
function nesterovMomentum(b1: number, psi: number): { readonly mu: (t: number) => number; readonly product: (t: number) => number } {
  const mu = (t: number): number => b1 * (1 - 0.5 * 0.96 ** (t * psi)), products = [1];
  return { mu, product: (t) => { while (products.length <= t) products.push(products[products.length - 1] * mu(products.length)); return products[t]; } };
}

/** u = ((1 - μ_t)/(1 - Π_t) · g + μ_{t+1}/(1 - Π_{t+1}) · m) / (√(v/(1 - β₂ᵗ)) + eps) (Dozat 2016, torch's form). */
export function scaleByNadam(options: { readonly betas?: readonly [number, number]; readonly eps?: number; readonly momentumDecay?: number } = {}): Transform {
  knownKeys("scaleByNadam", options, ["betas", "eps", "momentumDecay"]);
  const { betas = [0.9, 0.999], eps = 1e-8, momentumDecay = 4e-3 } = options;
  notNegative("scaleByNadam", "eps", eps); notNegative("scaleByNadam", "momentumDecay", momentumDecay);
  const [b1, b2] = checkedBetas("scaleByNadam", betas), { mu, product } = nesterovMomentum(b1, momentumDecay);
  return {
    derived: { mu_product: product },
    init: (params) => ({ exp_avg: zerosLike(params), exp_avg_sq: zerosLike(params) }),
    update(updates, state, _, context) {
      const { m, v } = moments(updates, { exp_avg: state.exp_avg, exp_avg_sq: state.exp_avg_sq }, betas, context);
      const u = mapLeaves(updates, (g, path) => {
        const denominator = v[path].div(context.ofUpdates(path, (t) => 1 - b2 ** t, g.dtype)).sqrt().add(eps);
        const now = g.mul(context.ofUpdates(path, (t) => (1 - mu(t)) / (1 - product(t)), g.dtype));
        return now.add(m[path].mul(context.ofUpdates(path, (t) => mu(t + 1) / (1 - product(t + 1)), g.dtype))).div(denominator);
      });
      return { updates: u, state: { exp_avg: m, exp_avg_sq: v } };
    },
  };
}

/**
 * Adam with Nesterov's momentum (torch.optim.NAdam): see `scaleByNadam`; g ← g + λp before, or decoupled decay.
 * Defaults: learningRate 2e-3, momentumDecay 4e-3, weightDecay 0.
 */
export function nadam(options: NadamOptions = {}): Optimizer {
  const op = "nadam";
  knownKeys(op, options, [...commonKeys, "betas", "eps", "momentumDecay", "decoupledWeightDecay"]);
  const { learningRate = 2e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0, momentumDecay = 4e-3, decoupledWeightDecay = false } = options;
  const rules = rulesOf(op, { ...options, learningRate, weightDecay });
  checkedBetas(op, betas);
  notNegative(op, "eps", eps);
  notNegative(op, "momentumDecay", momentumDecay);
  const decay = flag(op, "decoupledWeightDecay", decoupledWeightDecay) ? decayWeights(rules.decay, rules) : addDecayedWeights(rules.decay);
  return built(op, options, [decay, scaleByNadam({ betas, eps, momentumDecay }), scaleByLearningRate(rules)], rules, { betas, eps, momentum_decay: momentumDecay, decoupled_weight_decay: decoupledWeightDecay });
}
