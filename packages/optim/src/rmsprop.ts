/** Optimizers that divide by the root of a running mean or sum of squares: RMSprop and Adagrad. */
import { flag, fraction, knownKeys, notNegative } from "./check.ts";
import { type CommonOptions, built, commonKeys } from "./common.ts";
import { rulesOf } from "./groups.ts";
import type { Optimizer } from "./optimizer.ts";
import { type Transform, filled, mapLeaves, zerosLike } from "./transform.ts";
import { addDecayedWeights, lerp, scaleByLearningRate, trace } from "./transforms.ts";

/** Options of `rmsprop`. */
export interface RmspropOptions extends CommonOptions {
  /** decay of the mean square, in [0, 1); default 0.99 */
  readonly alpha?: number;
  readonly eps?: number;
  /** divide by the standard deviation instead of the root mean square */
  readonly centered?: boolean;
  readonly momentum?: number;
}

/** u = g / (√s + eps) with s ← αs + (1 - α)g²; centered: √(s - ḡ²) with ḡ ← lerp(ḡ, g, 1 - α) (Hinton 2012; Graves 2013). */
export function scaleByRms(options: { readonly alpha?: number; readonly eps?: number; readonly centered?: boolean } = {}): Transform {
  knownKeys("scaleByRms", options, ["alpha", "eps", "centered"]);
  const { alpha = 0.99, eps = 1e-8, centered = false } = options;
  fraction("scaleByRms", "alpha", alpha);
  notNegative("scaleByRms", "eps", eps);
  return {
    init: (params) => ({ square_avg: zerosLike(params), ...(centered ? { grad_avg: zerosLike(params) } : {}) }),
    update(updates, state, _, context) {
      const s = mapLeaves(updates, (g, path) => context.keep(state.square_avg[path].mul(alpha).add(g.mul(g).mul(1 - alpha)), state.square_avg[path]));
      const mean = centered ? mapLeaves(updates, (g, path) => context.keep(lerp(state.grad_avg[path], g, 1 - alpha), state.grad_avg[path])) : null;
      const u = mapLeaves(updates, (g, path) => {
        const square = mean === null ? s[path] : s[path].sub(mean[path].mul(mean[path])).maximum(0);       // rounding may leave a little less than 0
        return g.div(square.sqrt().add(eps));
      });
      return { updates: u, state: { square_avg: s, ...(mean === null ? {} : { grad_avg: mean }) } };
    },
  };
}

/**
 * RMSprop (torch.optim.RMSprop): g ← g + λp; s ← αs + (1 - α)g²; u = g / (√s + eps) (centered: √(s - ḡ²)); with momentum
 * buf ← μ buf + u, u = buf; p ← p - lr u. Defaults: learningRate 1e-2, alpha 0.99, eps 1e-8.
 */
export function rmsprop(options: RmspropOptions = {}): Optimizer {
  const op = "rmsprop";
  knownKeys(op, options, [...commonKeys, "alpha", "eps", "centered", "momentum"]);
  const { learningRate = 1e-2, alpha = 0.99, eps = 1e-8, weightDecay = 0, centered = false, momentum = 0 } = options;
  const rules = rulesOf(op, { ...options, learningRate, weightDecay });
  fraction(op, "alpha", alpha);
  notNegative(op, "eps", eps);
  notNegative(op, "momentum", momentum);
  flag(op, "centered", centered);
  return built(op, options, [addDecayedWeights(rules.decay), scaleByRms({ alpha, eps, centered }), ...(momentum === 0 ? [] : [trace({ momentum })]), scaleByLearningRate(rules)], rules, { alpha, eps, centered, momentum });
}

/** Options of `adagrad`. */
export interface AdagradOptions extends CommonOptions {
  /** lr / (1 + (t - 1) lrDecay); default 0 */
  readonly lrDecay?: number;
  readonly initialAccumulatorValue?: number;
  readonly eps?: number;
}

/** u = g / (√s + eps) / (1 + (t - 1) lrDecay) with s ← s + g² (Duchi et al. 2011, torch's form). */
export function scaleByAdagrad(options: { readonly lrDecay?: number; readonly initialAccumulatorValue?: number; readonly eps?: number } = {}): Transform {
  knownKeys("scaleByAdagrad", options, ["lrDecay", "initialAccumulatorValue", "eps"]);
  const { lrDecay = 0, initialAccumulatorValue = 0, eps = 1e-10 } = options;
  for (const [key, value] of Object.entries({ lrDecay, initialAccumulatorValue, eps })) notNegative("scaleByAdagrad", key, value);
  return {
    fromStart: true,
    init: (params) => ({ sum: mapLeaves(params, (p) => filled(p.shape, p.dtype, initialAccumulatorValue)) }),
    update(updates, state, _, context) {
      const s = mapLeaves(updates, (g, path) => context.keep(state.sum[path].add(g.mul(g)), state.sum[path]));
      const u = mapLeaves(updates, (g, path) => {
        const x = g.div(s[path].sqrt().add(eps));
        return lrDecay === 0 ? x : x.mul(context.ofUpdates(path, (t) => 1 / (1 + (t - 1) * lrDecay), g.dtype));
      });
      return { updates: u, state: { sum: s } };
    },
  };
}

/** Adagrad (torch.optim.Adagrad): g ← g + λp, then `scaleByAdagrad`. Defaults: learningRate 1e-2, eps 1e-10. */
export function adagrad(options: AdagradOptions = {}): Optimizer {
  const op = "adagrad";
  knownKeys(op, options, [...commonKeys, "lrDecay", "initialAccumulatorValue", "eps"]);
  const { learningRate = 1e-2, lrDecay = 0, weightDecay = 0, initialAccumulatorValue = 0, eps = 1e-10 } = options;
  const rules = rulesOf(op, { ...options, learningRate, weightDecay });
  notNegative(op, "lrDecay", lrDecay);
  notNegative(op, "initialAccumulatorValue", initialAccumulatorValue);
  notNegative(op, "eps", eps);
  return built(op, options, [addDecayedWeights(rules.decay), scaleByAdagrad({ lrDecay, initialAccumulatorValue, eps }), scaleByLearningRate(rules)], rules, { lr_decay: lrDecay, initial_accumulator_value: initialAccumulatorValue, eps });
}
