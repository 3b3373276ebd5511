/**
 * Learning rates as pure functions of the step t = 0, 1, 2, ...: peak times the multiplier of Hugging Face Transformers'
 * schedule of the same name (`transformers/optimization.py`).
 */
import { ConfigError } from "@adjoint/tensor";
import { finite, knownKeys, notNegative, whole } from "./check.ts";

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
/** Options of `cosine`. */
export interface CosineOptions extends ScheduleOptions {
  /** periods of the cosine; 0.5 falls from the peak to 0 once */
  readonly numCycles?: number;
}

const keys: readonly string[] = ["peak", "warmup", "steps"];

/** Checked options: warm-up in steps, W, and all steps, T (Infinity where none were given). */
function read(op: string, options: ScheduleOptions, needsSteps: boolean): { peak: number; W: number; T: number } {
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
const rise = (t: number, W: number): number => t / Math.max(1, W);

/** peak. @example constant({ peak: 1e-3 }) */
export function constant(options: ScheduleOptions): Schedule {
  knownKeys("constant", options, keys);
  const { peak, W } = read("constant", options, false);
  if (W > 0) throw new ConfigError(`constant: a warm-up of ${W} steps has no place in it`, { op: "constant", key: "warmup", value: W, fix: "use constantWithWarmup (constant_with_warmup)" });
  return () => peak;
}

/** peak · (t < W ? t / W : 1). @example constantWithWarmup({ peak: 1e-3, warmup: 10 }) */
export function constantWithWarmup(options: ScheduleOptions): Schedule {
  knownKeys("constant_with_warmup", options, keys);
  const { peak, W } = read("constant_with_warmup", options, false);
  return (t) => peak * (t < W ? rise(t, W) : 1);
}

/** peak · (t < W ? t / W : max(0, (T - t) / (T - W))). @example linear({ peak: 1e-3, warmup: 0.1, steps: 100 }) */
export function linear(options: ScheduleOptions): Schedule {
  knownKeys("linear", options, keys);
  const { peak, W, T } = read("linear", options, true);
  return (t) => peak * (t < W ? rise(t, W) : Math.max(0, (T - t) / Math.max(1, T - W)));
}

/** peak · (t < W ? t / W : max(0, ½(1 + cos(2π c p)))) with p = (t - W) / (T - W). @example cosine({ peak: 2e-3, warmup: 15, steps: 170 }) */
export function cosine(options: CosineOptions): Schedule {
  knownKeys("cosine", options, [...keys, "numCycles"]);
  const { peak, W, T } = read("cosine", options, true), c = finite("cosine", "numCycles", options.numCycles ?? 0.5);
  return (t) => peak * (t < W ? rise(t, W) : Math.max(0, 0.5 * (1 + Math.cos(2 * Math.PI * c * ((t - W) / Math.max(1, T - W))))));
}

const named: ReadonlyMap<string, (options: CosineOptions) => Schedule> = new Map([["constant", constant], ["constant_with_warmup", constantWithWarmup], ["linear", linear], ["cosine", cosine]]);

/** Names that `schedule` knows: those of `lr_scheduler_type` in recipes. */
export const scheduleNames: readonly string[] = [...named.keys()];

/**
 * A schedule by the name that recipes use.
 * Errors: ConfigError for an unknown name (lists the known ones), a missing number of steps, or a warm-up longer than the schedule.
 */
export function schedule(name: string, options: CosineOptions): Schedule {
  const make = named.get(name);
  if (!make) throw new ConfigError(`schedule: there is no ${name}`, { op: "schedule", key: "lr_scheduler_type", value: name, fix: `known schedules: ${scheduleNames.join(", ")}` });
  return make(options);
}
