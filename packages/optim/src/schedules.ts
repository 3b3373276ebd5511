/**
 * Learning rates as pure functions of the step t = 0, 1, 2, ...: what all of them share, those made of lines and powers, and how
 * schedules are joined. Multipliers are those of Hugging Face Transformers (`transformers/optimization.py`).
 */
import { ConfigError } from "@adjoint/tensor";
import { callable, finite, knownKeys, notNegative, whole } from "./check.ts";

/** The learning rate of step t; the first step is t = 0. */
export type Schedule = (t: number) => number;

export interface ScheduleOptions {
  /** the largest rate, reached at the end of the warm-up */
  readonly peak: number;
  /** steps of linear growth from 0; a number below 1 is a share of `steps`, rounded up; default 0 */
  readonly warmup?: number;
  /** steps in all */
  readonly steps?: number;
}
/** Options of `polynomial`. */
export interface PolynomialOptions extends ScheduleOptions {
  /** the rate at the end, below the peak; default 1e-7 */
  readonly lrEnd?: number;
  /** 1 is a line */
  readonly power?: number;
}
/** Options of `inverseSqrt`. */
export interface InverseSqrtOptions extends ScheduleOptions {
  /** steps after which the rate is a 1/√2 of the peak; default: the warm-up, or 10,000 */
  readonly timescale?: number;
}

/** Options of every schedule. */
export const scheduleKeys: readonly string[] = ["peak", "warmup", "steps"];

/** Checked options: warm-up in steps, W, and all steps, T (Infinity where none were given). */
export function readSchedule(op: string, options: ScheduleOptions, needsSteps: boolean): { peak: number; W: number; T: number } {
  const { warmup = 0, steps } = options, peak = notNegative(op, "peak", options.peak);
  if (steps === undefined && needsSteps) throw new ConfigError(`${op}: steps is missing`, { op, key: "steps", fix: "give the number of optimizer steps" });
  if (steps !== undefined && whole(op, "steps", steps) === 0) throw new ConfigError(`${op}: a schedule of 0 steps`, { op, key: "steps", value: steps, fix: "give at least 1" });
  notNegative(op, "warmup", warmup);
  const share = warmup > 0 && warmup < 1;
  if (share && steps === undefined) throw new ConfigError(`${op}: a warm-up of ${warmup} is a share of steps, and steps is missing`, { op, key: "warmup", value: warmup, fix: "give steps, or the warm-up in steps" });
  const W = share ? Math.ceil((steps ?? 0) * warmup) : whole(op, "warmup", warmup);
  if (steps !== undefined && W > steps) throw new ConfigError(`${op}: a warm-up of ${W} steps is longer than the schedule of ${steps}`, { op, key: "warmup", value: W, fix: "shorten the warm-up or add steps" });
  return { peak, W, T: steps ?? Infinity };
}
/** t / W: the share of the peak on the way up. */
export const rise = (t: number, W: number): number => t / Math.max(1, W);
/** (t - W) / (T - W): 0 at the end of the warm-up, 1 at the end. */
export const progress = (t: number, W: number, T: number): number => (t - W) / Math.max(1, T - W);

/** peak. @example constant({ peak: 1e-3 }) */
export function constant(options: ScheduleOptions): Schedule {
  knownKeys("constant", options, scheduleKeys);
  const { peak, W } = readSchedule("constant", options, false);
  if (W > 0) throw new ConfigError(`constant: a warm-up of ${W} steps has no place in it`, { op: "constant", key: "warmup", value: W, fix: "use constantWithWarmup (constant_with_warmup)" });
  return () => peak;
}

/** peak · (t < W ? t / W : 1). @example constantWithWarmup({ peak: 1e-3, warmup: 10 }) */
export function constantWithWarmup(options: ScheduleOptions): Schedule {
  knownKeys("constant_with_warmup", options, scheduleKeys);
  const { peak, W } = readSchedule("constant_with_warmup", options, false);
  return (t) => peak * (t < W ? rise(t, W) : 1);
}

/** peak · (t < W ? t / W : max(0, (T - t) / (T - W))). @example linear({ peak: 1e-3, warmup: 0.1, steps: 100 }) */
export function linear(options: ScheduleOptions): Schedule {
  knownKeys("linear", options, scheduleKeys);
  const { peak, W, T } = readSchedule("linear", options, true);
  return (t) => peak * (t < W ? rise(t, W) : Math.max(0, (T - t) / Math.max(1, T - W)));
}

/** t < W ? peak t / W : t > T ? end : (peak - end)(1 - p)^power + end, with p = (t - W) / (T - W). @example polynomial({ peak: 1e-3, steps: 100, power: 2 }) */
export function polynomial(options: PolynomialOptions): Schedule {
  const op = "polynomial";
  knownKeys(op, options, [...scheduleKeys, "lrEnd", "power"]);
  const { peak, W, T } = readSchedule(op, options, true), end = notNegative(op, "lrEnd", options.lrEnd ?? 1e-7), power = notNegative(op, "power", options.power ?? 1);
  if (!(peak > end)) throw new ConfigError(`${op}: the rate at the end, ${end}, is not below the peak, ${peak}`, { op, key: "lrEnd", value: end, fix: "give a smaller lrEnd (lr_end) or a larger learning rate" });
  return (t) => (t < W ? peak * rise(t, W) : t > T ? end : (peak - end) * (1 - progress(t, W, T)) ** power + end);
}

/** peak · (t < W ? t / W : 1 / √((t - W + τ) / τ)), the timescale τ = W or 10,000. @example inverseSqrt({ peak: 1e-3, warmup: 100 }) */
export function inverseSqrt(options: InverseSqrtOptions): Schedule {
  const op = "inverse_sqrt";
  knownKeys(op, options, [...scheduleKeys, "timescale"]);
  const { peak, W } = readSchedule(op, options, false), tau = finite(op, "timescale", options.timescale ?? (W || 10_000));
  if (tau <= 0) throw new ConfigError(`${op}: a timescale of ${tau} steps`, { op, key: "timescale", value: tau, fix: "give a number above 0" });
  return (t) => peak * (t < W ? rise(t, W) : 1 / Math.sqrt((t + (tau - W)) / tau));
}

/**
 * One schedule after the other: the i-th holds from boundaries[i - 1] to boundaries[i] and sees its own steps from 0
 * (torch's SequentialLR, optax's join_schedules).
 * Errors: ConfigError unless there is one boundary less than schedules, rising whole numbers above 0.
 * @example joinSchedules([linear({ peak: 1, steps: 10 }), constant({ peak: 0.1 })], [10])
 */
export function joinSchedules(schedules: readonly Schedule[], boundaries: readonly number[]): Schedule {
  const op = "joinSchedules";
  const lists: readonly unknown[] = [schedules, boundaries];
  if (!lists.every(Array.isArray)) throw new ConfigError(`${op}: schedules and boundaries are lists`, { op, key: "schedules", fix: "joinSchedules([first, second], [step at which the second begins])" });
  schedules.forEach((s, i) => callable(op, `schedules[${i}]`, s, "a function of the step"));
  if (schedules.length === 0 || boundaries.length !== schedules.length - 1) throw new ConfigError(`${op}: ${schedules.length} schedules need ${Math.max(0, schedules.length - 1)} boundaries, got ${boundaries.length}`, { op, key: "boundaries", value: boundaries, fix: "give the first step of every schedule but the first" });
  boundaries.forEach((b, i) => {
    if (whole(op, `boundaries[${i}]`, b) <= (i === 0 ? 0 : boundaries[i - 1])) throw new ConfigError(`${op}: boundaries[${i}] = ${b} does not rise`, { op, key: `boundaries[${i}]`, value: b, fix: "give rising steps above 0" });
  });
  return (t) => {
    const i = boundaries.findIndex((b) => t < b), at = i < 0 ? boundaries.length : i;
    return schedules[at](t - (at === 0 ? 0 : boundaries[at - 1]));
  };
}

/** A linear rise over so many steps to where another schedule begins, then that schedule from its start. @example withWarmup(cosine({ peak: 1e-3, steps: 90 }), 10) */
export function withWarmup(schedule: Schedule, warmup: number, from = 0): Schedule {
  callable("withWarmup", "schedule", schedule, "a function of the step");
  const W = whole("withWarmup", "warmup", warmup), low = notNegative("withWarmup", "from", from);
  return W === 0 ? schedule : joinSchedules([(t) => low + (schedule(0) - low) * (t / W), schedule], [W]);
}
