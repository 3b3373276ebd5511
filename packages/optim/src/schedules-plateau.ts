/** The schedule that looks at a metric: the rate falls when the metric has stopped improving (torch's ReduceLROnPlateau). */
import { ConfigError, FormatError } from "@adjoint/tensor";
import { knownKeys, notNegative, whole } from "./check.ts";
import type { Schedule } from "./schedules.ts";

/** Options of `reduceOnPlateau`, with torch's names. */
export interface PlateauOptions {
  /** the first rate */
  readonly peak: number;
  /** whether a smaller or a larger metric is better */
  readonly mode?: "min" | "max";
  /** the rate is multiplied by this; below 1 */
  readonly factor?: number;
  /** evaluations without improvement that are borne */
  readonly patience?: number;
  /** how much better is better */
  readonly threshold?: number;
  /** threshold as a share of the best metric, or in its units */
  readonly thresholdMode?: "rel" | "abs";
  /** evaluations after a fall that do not count */
  readonly cooldown?: number;
  /** the lowest rate */
  readonly minLr?: number;
  /** a fall smaller than this does not happen */
  readonly eps?: number;
}

/** Everything that the schedule remembers; `best` is null before the first metric. Plain JSON. */
export interface PlateauState {
  readonly learningRate: number;
  readonly best: number | null;
  readonly badEvaluations: number;
  readonly cooldown: number;
  readonly evaluations: number;
}

/** A schedule whose rate changes only when a metric is observed. */
export interface Plateau extends Schedule {
  /** takes the metric of an evaluation and returns the rate from now on */
  observe(metric: number): number;
  /** everything that it remembers, to be saved */
  state(): PlateauState;
  /** Errors: FormatError for what is no such state */
  load(state: unknown): void;
}

const op = "reduce_lr_on_plateau";
const keys: readonly string[] = ["peak", "mode", "factor", "patience", "threshold", "thresholdMode", "cooldown", "minLr", "eps"];

/**
 * The rule as a pure function of state and metric: the metric is better when it beats the best one by the threshold; after more than
 * `patience` evaluations that are not, the rate becomes max(rate · factor, minLr) and `cooldown` evaluations do not count.
 */
export function plateauRule(options: PlateauOptions): { readonly start: PlateauState; readonly next: (state: PlateauState, metric: number) => PlateauState } {
  knownKeys(op, options, keys);
  const { peak, mode = "min", factor = 0.1, patience = 10, threshold = 1e-4, thresholdMode = "rel", cooldown = 0, minLr = 0, eps = 1e-8 } = options;
  notNegative(op, "peak", peak);
  if (!(factor >= 0 && factor < 1)) throw new ConfigError(`${op}: factor must lie in [0, 1), got ${factor}`, { op, key: "factor", value: factor, fix: "give a share such as 0.1" });
  if (!["min", "max"].includes(mode)) throw new ConfigError(`${op}: mode cannot be ${String(mode)}`, { op, key: "mode", value: mode, fix: "one of min, max" });
  if (!["rel", "abs"].includes(thresholdMode)) throw new ConfigError(`${op}: thresholdMode cannot be ${String(thresholdMode)}`, { op, key: "thresholdMode", value: thresholdMode, fix: "one of rel, abs" });
  whole(op, "patience", patience); whole(op, "cooldown", cooldown); notNegative(op, "threshold", threshold); notNegative(op, "minLr", minLr); notNegative(op, "eps", eps);
  const better = (a: number, best: number | null): boolean => {
    if (best === null) return mode === "min" ? a < Infinity : a > -Infinity;
    if (thresholdMode === "rel") return mode === "min" ? a < best * (1 - threshold) : a > best * (threshold + 1);
    return mode === "min" ? a < best - threshold : a > best + threshold;
  };
  return {
    start: { learningRate: peak, best: null, badEvaluations: 0, cooldown: 0, evaluations: 0 },
    next(state, metric) {
      const improved = better(metric, state.best), evaluations = state.evaluations + 1, best = improved ? metric : state.best;
      const cooling = state.cooldown > 0, bad = improved || cooling ? 0 : state.badEvaluations + 1, left = cooling ? state.cooldown - 1 : state.cooldown;
      if (bad <= patience) return { ...state, best, badEvaluations: bad, cooldown: left, evaluations };
      const lower = Math.max(state.learningRate * factor, minLr), learningRate = state.learningRate - lower > eps ? lower : state.learningRate;
      return { learningRate, best, badEvaluations: 0, cooldown, evaluations };
    },
  };
}

/** `plateauRule` with its state: give it to an optimizer as its learning rate and tell it each evaluation's metric. @example const rate = reduceOnPlateau({ peak: 1e-3, patience: 2 }); rate.observe(evalLoss) */
export function reduceOnPlateau(options: PlateauOptions): Plateau {
  const { start, next } = plateauRule(options);
  let state = start;
  return Object.assign((): number => state.learningRate, {
    observe: (metric: number): number => {
      if (typeof metric !== "number") throw new ConfigError(`${op}: a metric is a number, got ${String(metric)}`, { op, key: "metric", value: metric, fix: "give the loss of an evaluation" });
      return (state = next(state, metric)).learningRate;
    },
    state: (): PlateauState => state,
    load: (given: unknown): void => { state = readState(given); },
  });
}

/** Whether a schedule wants metrics. */
export const isPlateau = (schedule: Schedule): schedule is Plateau => "observe" in schedule && typeof schedule.observe === "function";

function readState(given: unknown): PlateauState {
  const s = (typeof given === "object" && given !== null ? given : {}) as Record<string, unknown>;
  const number = (key: keyof PlateauState, check: (x: number) => boolean): number => {
    const value = s[key];
    if (typeof value === "number" && check(value)) return value;
    throw new FormatError(`${op}: the saved state has no valid ${key}`, { op, key, value, fix: "load what `state` gave" });
  };
  const count = (x: number): boolean => Number.isInteger(x) && x >= 0;
  return {
    learningRate: number("learningRate", (x) => Number.isFinite(x) && x >= 0), best: s["best"] === null ? null : number("best", (x) => !Number.isNaN(x)),
    badEvaluations: number("badEvaluations", count), cooldown: number("cooldown", count), evaluations: number("evaluations", count),
  };
}
