/** LAMB: Adam whose steps are as long, leaf by leaf, as the leaf itself. */
import { bitAnd } from "@adjoint/tensor";
import { checkedBetas, scaleByAdam } from "./adam.ts";
import { knownKeys, notNegative } from "./check.ts";
import { norm } from "./clip.ts";
import { type CommonOptions, built, commonKeys } from "./common.ts";
import { rulesOf } from "./groups.ts";
import type { Optimizer } from "./optimizer.ts";
import { type Transform, mapLeaves, stateless } from "./transform.ts";
import { addDecayedWeights, scaleByLearningRate } from "./transforms.ts";

/** Options of `lamb`. */
export interface LambOptions extends CommonOptions {
  readonly betas?: readonly [number, number];
  readonly eps?: number;
}

/** u · ‖p‖ / ‖u‖, leaf by leaf; unchanged where either norm is 0. */
export const scaleByTrustRatio: Transform = stateless((updates, params) => mapLeaves(updates, (u, path) => {
  const size = norm(params[path]), length = norm(u), both = bitAnd(size.gt(0), length.gt(0));
  return u.mul(both.where(size.div(both.where(length, 1)), 1));
}));

/**
 * LAMB (You et al. 2020): r = m̂ / (√v̂ + eps) + λp; p ← p - lr · ‖p‖/‖r‖ · r. A leaf that is 0 (a fresh lora_B) takes the step r.
 * Defaults: learningRate 1e-3, betas 0.9, 0.999, eps 1e-6, weightDecay 0.01.
 */
export function lamb(options: LambOptions = {}): Optimizer {
  const op = "lamb";
  knownKeys(op, options, [...commonKeys, "betas", "eps"]);
  const { learningRate = 1e-3, betas = [0.9, 0.999], eps = 1e-6, weightDecay = 0.01 } = options, rules = rulesOf(op, { ...options, learningRate, weightDecay });
  checkedBetas(op, betas);
  notNegative(op, "eps", eps);
  return built(op, options, [scaleByAdam({ betas, eps }), addDecayedWeights(rules.decay), scaleByTrustRatio, scaleByLearningRate(rules)], rules, { betas, eps });
}
