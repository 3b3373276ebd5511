/** What every named optimizer has: clipping, climbing, and how half-precision parameters and bad gradients are treated. */
import { ConfigError } from "@adjoint/tensor";
import { finite, flag, notNegative, oneOf, whole } from "./check.ts";
import { type AdaptiveClip, clipAdaptively, clipByGlobalNorm, clipByNorm, clipByValue } from "./clip.ts";
import type { RateOptions, Rules } from "./groups.ts";
import { type Hyper, type Optimizer, type Policy, optimizerOf } from "./optimizer.ts";
import { type Transform, chain } from "./transform.ts";
import { negate } from "./transforms.ts";

/** Options of every optimizer. Clipping goes in this order: values, leaves, adaptive, all together. */
export interface CommonOptions extends RateOptions {
  /** clips every number of a gradient to [-x, x] */
  readonly maxGradValue?: number;
  /** clips the norm of each leaf's gradient */
  readonly maxLeafNorm?: number;
  /** clips each row's gradient to a share of the row's norm */
  readonly adaptiveClip?: number | AdaptiveClip;
  /** clips the gradients' global norm to this; absent, 0 or less: no clipping */
  readonly maxGradNorm?: number;
  /** climb instead of descend */
  readonly maximize?: boolean;
  /** half-precision parameters train as f32 copies that the optimizer keeps (4 more bytes a parameter) */
  readonly masterWeights?: boolean;
  /** half-precision parameters are rounded up or down by chance, so that small updates are kept on average */
  readonly stochasticRounding?: boolean;
  /** seed of stochastic rounding; default 0 */
  readonly seed?: number;
  /** a step whose gradients hold NaN or infinity: "skip" it (default), or "stop": nothing changes from then on, and `check` throws */
  readonly nonFinite?: "skip" | "stop";
}
export const commonKeys: readonly string[] = [
  "learningRate", "schedule", "weightDecay", "groups", "noDecay", "maxGradValue", "maxLeafNorm", "adaptiveClip", "maxGradNorm", "maximize", "masterWeights", "stochasticRounding", "seed", "nonFinite",
];

function clipping(op: string, { maxGradNorm, maxGradValue, maxLeafNorm, adaptiveClip }: CommonOptions): Transform[] {
  return [
    ...(maxGradValue === undefined ? [] : [clipByValue(notNegative(op, "maxGradValue", maxGradValue))]),
    ...(maxLeafNorm === undefined ? [] : [clipByNorm(notNegative(op, "maxLeafNorm", maxLeafNorm))]),
    ...(adaptiveClip === undefined ? [] : [clipAdaptively(typeof adaptiveClip === "number" ? { clipFactor: adaptiveClip } : adaptiveClip)]),
    ...(maxGradNorm === undefined || finite(op, "maxGradNorm", maxGradNorm) <= 0 ? [] : [clipByGlobalNorm(maxGradNorm)]),
  ];
}
function policy(op: string, { masterWeights = false, stochasticRounding = false, seed = 0, nonFinite = "skip" }: CommonOptions): Policy {
  if (flag(op, "masterWeights", masterWeights) && flag(op, "stochasticRounding", stochasticRounding)) throw new ConfigError(`${op}: masterWeights and stochasticRounding are two cures of the same ill`, { op, key: "stochasticRounding", value: true, fix: "choose one: masterWeights is exact, stochasticRounding needs no memory" });
  return { masterWeights, stochasticRounding, seed: whole(op, "seed", seed), nonFinite: oneOf(op, "nonFinite", nonFinite, ["skip", "stop"]) };
}

/** Clipping and maximize, then the optimizer's own links; `around` wraps them all. */
export function built(op: string, options: CommonOptions, links: readonly Transform[], rules: Rules, hyper: Hyper, around: (t: Transform) => Transform = (t) => t): Optimizer {
  const maximize = flag(op, "maximize", options.maximize ?? false);
  return optimizerOf(op, around(chain(...clipping(op, options), ...(maximize ? [negate] : []), ...links)), rules, typeof hyper === "function" ? (t) => ({ ...hyper(t), maximize }) : { ...hyper, maximize }, policy(op, options));
}
