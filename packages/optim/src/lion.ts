/** Lion: the sign of an interpolated momentum. */
import type { Tensor } from "@adjoint/tensor";
import { checkedBetas } from "./adam.ts";
import { knownKeys } from "./check.ts";
import { type CommonOptions, built, commonKeys } from "./common.ts";
import { rulesOf } from "./groups.ts";
import type { Optimizer } from "./optimizer.ts";
import { type Transform, mapLeaves, zerosLike } from "./transform.ts";
import { decayWeights, scaleByLearningRate } from "./transforms.ts";

/** Options of `lion`. */
export interface LionOptions extends CommonOptions {
  /** β₁ of the update, β₂ of the momentum; default 0.9, 0.99 */
  readonly betas?: readonly [number, number];
}

/** 1, 0 or -1; sign(0) = 0. */
export const sign = (x: Tensor): Tensor => x.gt(0).cast(x.dtype).sub(x.lt(0).cast(x.dtype));

/** u = sign(β₁m + (1 - β₁)g); then m ← β₂m + (1 - β₂)g (Chen et al. 2023). */
export function scaleByLion(options: { readonly betas?: readonly [number, number] } = {}): Transform {
  knownKeys("scaleByLion", options, ["betas"]);
  const [b1, b2] = checkedBetas("scaleByLion", options.betas ?? [0.9, 0.99]);
  return {
    init: (params) => ({ exp_avg: zerosLike(params) }),
    update(updates, { exp_avg }, _, context) {
      const m = mapLeaves(updates, (g, path) => context.keep(exp_avg[path].mul(b2).add(g.mul(1 - b2)), exp_avg[path]));
      return { updates: mapLeaves(updates, (g, path) => sign(exp_avg[path].mul(b1).add(g.mul(1 - b1)))), state: { exp_avg: m } };
    },
  };
}

/** Lion: p ← p(1 - lr λ); p ← p - lr sign(β₁m + (1 - β₁)g); m ← β₂m + (1 - β₂)g. Defaults: learningRate 1e-4, betas 0.9, 0.99, weightDecay 0. */
export function lion(options: LionOptions = {}): Optimizer {
  const op = "lion";
  knownKeys(op, options, [...commonKeys, "betas"]);
  const { learningRate = 1e-4, betas = [0.9, 0.99], weightDecay = 0 } = options, rules = rulesOf(op, { ...options, learningRate, weightDecay });
  checkedBetas(op, betas);
  return built(op, options, [decayWeights(rules.decay, rules), scaleByLion({ betas }), scaleByLearningRate(rules)], rules, { betas });
}
