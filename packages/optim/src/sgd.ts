/** Stochastic gradient descent. */
import { ConfigError } from "@adjoint/tensor";
import { checkedSteps, finite, flag, knownKeys, notNegative, shown } from "./check.ts";
import { type CommonOptions, built, commonKeys } from "./common.ts";
import { rulesOf } from "./groups.ts";
import type { Optimizer } from "./optimizer.ts";
import type { Schedule } from "./schedules.ts";
import { addDecayedWeights, scaleByLearningRate, trace } from "./transforms.ts";

/** Options of `sgd`. */
export interface SgdOptions extends CommonOptions {
  /** a number, or a function of the step (`oneCycleMomentum`) */
  readonly momentum?: number | Schedule;
  /** share of the gradient that does not enter the momentum, from the second update on */
  readonly dampening?: number;
  readonly nesterov?: boolean;
}

/**
 * Stochastic gradient descent with momentum (torch.optim.SGD): g ← g + λp; buf ← μ buf + (1 - dampening) g, the first time
 * buf ← g; p ← p - lr · (nesterov ? g + μ buf : buf).
 * Errors: ConfigError for a negative rate, decay or momentum, or nesterov without momentum or with dampening.
 * @example const optimizer = sgd({ learningRate: 0.1, momentum: 0.9 }).for(model);
 */
export function sgd(options: SgdOptions = {}): Optimizer {
  const op = "sgd";
  knownKeys(op, options, [...commonKeys, "momentum", "dampening", "nesterov"]);
  const { learningRate = 1e-3, momentum: given = 0, dampening = 0, weightDecay = 0, nesterov = false } = options;
  const rules = rulesOf(op, { ...options, learningRate, weightDecay });
  const momentum = typeof given === "function" ? checkedSteps(op, "momentum", given) : notNegative(op, "momentum", given);
  finite(op, "dampening", dampening);
  if (flag(op, "nesterov", nesterov) && (momentum === 0 || dampening !== 0)) throw new ConfigError(`sgd: nesterov needs a momentum above 0 and no dampening, got momentum ${shown(momentum)}, dampening ${dampening}`, { op, key: "nesterov", value: nesterov, fix: "set momentum: 0.9, dampening: 0" });
  const links = [addDecayedWeights(rules.decay), ...(momentum === 0 ? [] : [trace({ momentum, dampening, nesterov })]), scaleByLearningRate(rules)];
  return typeof momentum === "function" ? built(op, options, links, { ...rules, constant: false }, (t) => ({ momentum: momentum(t), dampening, nesterov })) : built(op, options, links, rules, { momentum, dampening, nesterov });
}
