/** Schedules that fall along a cosine: once, with restarts, to a floor, in torch's two forms, and ReLoRA's jagged ones. */
import { ConfigError } from "@adjoint/tensor";
import { finite, knownKeys, notNegative, whole } from "./check.ts";
import { type Schedule, type ScheduleOptions, progress, readSchedule, rise, scheduleKeys } from "./schedules.ts";

/** Options of `cosine` and `cosineWithRestarts`. */
export interface CosineOptions extends ScheduleOptions {
  /** cosine: periods, 0.5 falls from the peak to 0 once; with restarts: how often it falls, 1 by default */
  readonly numCycles?: number;
}
/** Options of `cosineWithMinLr`: exactly one of the two floors. */
export interface CosineFloorOptions extends CosineOptions {
  /** the lowest rate */
  readonly minLr?: number;
  /** the same as a share of the peak */
  readonly minLrRate?: number;
}
/** Options of `cosineWarmupWithMinLr`. */
export interface CosineWarmupFloorOptions extends CosineFloorOptions {
  /** share of the peak at the first step; by default the warm-up is (t + 1) / W */
  readonly warmupLrRate?: number;
}
/** Options of `cosineAnnealing`. */
export interface AnnealingOptions extends ScheduleOptions {
  /** steps from the peak to the lowest rate; by default all that follow the warm-up */
  readonly tMax?: number;
  /** the lowest rate */
  readonly etaMin?: number;
}
/** Options of `cosineAnnealingWarmRestarts`. */
export interface WarmRestartsOptions extends ScheduleOptions {
  /** steps of the first period */
  readonly t0?: number;
  /** each period is so many times as long as the one before */
  readonly tMult?: number;
  readonly etaMin?: number;
}
/** Options of `jaggedCosine`. */
export interface JaggedOptions extends ScheduleOptions {
  /** steps between restarts (ReLoRA's merges) */
  readonly restartEvery?: number;
  /** steps of linear growth after each restart */
  readonly restartWarmup?: number;
  /** share of the peak at the end, in (0, 1] */
  readonly minLrRatio?: number;
  /** steps by which restarts come earlier */
  readonly adjustStep?: number;
}
/** Options of `cyclicalCosine`. */
export interface CyclicalOptions extends ScheduleOptions {
  /** steps of one cycle; `steps` must be a multiple; default: all */
  readonly cycleLength?: number;
  readonly minLrRatio?: number;
}

/** ½(1 + cos πp): 1 at p = 0, 0 at p = 1. */
const half = (p: number): number => 0.5 * (1 + Math.cos(Math.PI * p));

/** An option without which a schedule cannot be. */
export function required(op: string, key: string, value: number | undefined, what: string): number {
  if (value === undefined) throw new ConfigError(`${op}: ${key} is missing`, { op, key, fix: `give ${what}` });
  return value;
}
/** A whole number above 0. */
export function positive(op: string, key: string, value: number): number {
  if (whole(op, key, value) === 0) throw new ConfigError(`${op}: ${key} must be above 0`, { op, key, value, fix: "give at least 1" });
  return value;
}

/** peak · (t < W ? t / W : max(0, ½(1 + cos(2π c p)))) with p = (t - W) / (T - W). @example cosine({ peak: 2e-3, warmup: 15, steps: 170 }) */
export function cosine(options: CosineOptions): Schedule {
  knownKeys("cosine", options, [...scheduleKeys, "numCycles"]);
  const { peak, W, T } = readSchedule("cosine", options, true), c = finite("cosine", "numCycles", options.numCycles ?? 0.5);
  return (t) => peak * (t < W ? rise(t, W) : Math.max(0, half(2 * c * progress(t, W, T))));
}

/** peak · (t < W ? t / W : p ≥ 1 ? 0 : ½(1 + cos(π (c p mod 1)))): back to the peak c - 1 times. @example cosineWithRestarts({ peak: 1e-3, steps: 100, numCycles: 4 }) */
export function cosineWithRestarts(options: CosineOptions): Schedule {
  const op = "cosine_with_restarts";
  knownKeys(op, options, [...scheduleKeys, "numCycles"]);
  const { peak, W, T } = readSchedule(op, options, true), c = notNegative(op, "numCycles", options.numCycles ?? 1);
  return (t) => {
    const p = progress(t, W, T);
    return peak * (t < W ? rise(t, W) : p >= 1 ? 0 : Math.max(0, half((c * p) % 1)));
  };
}

/** The floor as a share of the peak. */
function floorOf(op: string, { peak, minLr, minLrRate }: CosineFloorOptions): number {
  if ((minLr === undefined) === (minLrRate === undefined)) throw new ConfigError(`${op}: ${minLr === undefined ? "one of minLr and minLrRate is needed" : "minLr and minLrRate are both given"}`, { op, key: "minLrRate", fix: "give one of minLr (min_lr) and minLrRate (min_lr_rate)" });
  const m = minLrRate === undefined ? notNegative(op, "minLr", minLr ?? 0) / peak : notNegative(op, "minLrRate", minLrRate);
  if (!(m <= 1)) throw new ConfigError(`${op}: the lowest rate is above the peak of ${peak}`, { op, key: minLrRate === undefined ? "minLr" : "minLrRate", value: minLr ?? minLrRate, fix: "give a floor below the peak" });
  return m;
}

/** peak · (t < W ? t / W : (1 - m) ½(1 + cos(2π c p)) + m). @example cosineWithMinLr({ peak: 1e-3, steps: 100, minLrRate: 0.1 }) */
export function cosineWithMinLr(options: CosineFloorOptions): Schedule {
  const op = "cosine_with_min_lr";
  knownKeys(op, options, [...scheduleKeys, "numCycles", "minLr", "minLrRate"]);
  const { peak, W, T } = readSchedule(op, options, true), c = finite(op, "numCycles", options.numCycles ?? 0.5), m = floorOf(op, options);
  return (t) => peak * (t < W ? rise(t, W) : Math.max(0, half(2 * c * progress(t, W, T)) * (1 - m) + m));
}

/**
 * As `cosineWithMinLr`, one step ahead: t < W: (t + 1) / W, or r + (1 - r) t / (W - 1) with warmupLrRate r; p = (t - W + 1) / (T - W).
 * @example cosineWarmupWithMinLr({ peak: 1e-3, warmup: 10, steps: 100, minLrRate: 0.1 })
 */
export function cosineWarmupWithMinLr(options: CosineWarmupFloorOptions): Schedule {
  const op = "cosine_warmup_with_min_lr";
  knownKeys(op, options, [...scheduleKeys, "numCycles", "minLr", "minLrRate", "warmupLrRate"]);
  const { peak, W, T } = readSchedule(op, options, true), c = finite(op, "numCycles", options.numCycles ?? 0.5), m = floorOf(op, options), r = options.warmupLrRate;
  if (r !== undefined) notNegative(op, "warmupLrRate", r);
  const up = (t: number): number => (r === undefined ? (t + 1) / Math.max(1, W) : r + ((1 - r) * t) / Math.max(1, W - 1));
  return (t) => peak * (t < W ? up(t) : Math.max(0, half(2 * c * progress(t + 1, W, T)) * (1 - m) + m));
}

/** η + (peak - η) ½(1 + cos(π (t - W) / tMax)) after the warm-up: falls, and rises again (torch's CosineAnnealingLR in closed form). @example cosineAnnealing({ peak: 0.1, steps: 50, etaMin: 1e-3 }) */
export function cosineAnnealing(options: AnnealingOptions): Schedule {
  const op = "cosine_annealing";
  knownKeys(op, options, [...scheduleKeys, "tMax", "etaMin"]);
  const { peak, W, T } = readSchedule(op, options, options.tMax === undefined), low = notNegative(op, "etaMin", options.etaMin ?? 0), length = positive(op, "tMax", options.tMax ?? Math.max(1, T - W));
  return (t) => (t < W ? peak * rise(t, W) : low + (peak - low) * half((t - W) / length));
}

/** The same with t counted from the last restart: periods of t0, t0 · tMult, t0 · tMult², ... steps (torch's CosineAnnealingWarmRestarts). @example cosineAnnealingWarmRestarts({ peak: 0.1, t0: 10, tMult: 2 }) */
export function cosineAnnealingWarmRestarts(options: WarmRestartsOptions): Schedule {
  const op = "cosine_annealing_warm_restarts";
  knownKeys(op, options, [...scheduleKeys, "t0", "tMult", "etaMin"]);
  const { peak, W } = readSchedule(op, options, false), low = notNegative(op, "etaMin", options.etaMin ?? 0);
  const first = positive(op, "t0", required(op, "t0", options.t0, "the steps of the first period (T_0)")), factor = positive(op, "tMult", options.tMult ?? 1);
  return (t) => {
    if (t < W) return peak * rise(t, W);
    let since = t - W, length = first;
    if (factor === 1) since %= first;
    else while (since >= length) { since -= length; length *= factor; }
    return low + (peak - low) * half(since / length);
  };
}

function floorRatio(op: string, value = 0.1): number {
  if (!(value > 0 && value <= 1)) throw new ConfigError(`${op}: minLrRatio must lie in (0, 1], got ${value}`, { op, key: "minLrRatio", value, fix: "give a share such as 0.1" });
  return value;
}

/**
 * ReLoRA's jagged cosine: a cosine to m · peak over all steps, which falls to 0 at each restart and grows back within w steps:
 * with R = restartEvery, ρ = (t + a) mod R, k = ⌊(t + a) / R⌋ and κ(s) = m + (1 - m) ½(1 + cos(π (s - W) / (T - W))):
 * t < W: t / W; ρ < w and t ≥ R: (ρ / w) κ(kR + w); else κ(t + a) (Lialin et al. 2023).
 * Errors: ConfigError where steps are no multiple of R, or the first restart would come before the warm-up is done.
 * @example jaggedCosine({ peak: 1e-3, warmup: 100, steps: 4000, restartEvery: 1000, restartWarmup: 50 })
 */
export function jaggedCosine(options: JaggedOptions): Schedule {
  const op = "relora_cosine_restarts";
  knownKeys(op, options, [...scheduleKeys, "restartEvery", "restartWarmup", "minLrRatio", "adjustStep"]);
  const { peak, W, T } = readSchedule(op, options, true), m = floorRatio(op, options.minLrRatio), a = whole(op, "adjustStep", options.adjustStep ?? 0);
  const R = positive(op, "restartEvery", required(op, "restartEvery", options.restartEvery, "the steps between two restarts (restart_every)"));
  const w = whole(op, "restartWarmup", required(op, "restartWarmup", options.restartWarmup, "the steps of growth after a restart (restart_warmup_steps)"));
  if (T % R !== 0) throw new ConfigError(`${op}: ${T} steps are no multiple of restartEvery ${R}`, { op, key: "restartEvery", value: R, fix: "change restart_every or the number of steps" });
  if (a + W > R) throw new ConfigError(`${op}: the first restart, at step ${R - a}, comes before the warm-up of ${W} steps is done`, { op, key: "restartEvery", value: R, fix: "shorten the warm-up or restart later" });
  if (w > R) throw new ConfigError(`${op}: a growth of ${w} steps is longer than the ${R} steps between restarts`, { op, key: "restartWarmup", value: w, fix: "give fewer steps" });
  const curve = (s: number): number => m + (1 - m) * half(progress(s, W, T));
  return (t) => {
    if (t < W) return peak * rise(t, W);
    const s = t + a, since = s % R;
    return peak * (since < w && t >= R ? (since / Math.max(1, w)) * curve(s - since + w) : curve(s));
  };
}

/**
 * ReLoRA's cyclical cosine: each cycle of L steps is a warm-up of W steps and a cosine to m · peak; the first two steps of a
 * later cycle have 1e-7 of the peak. @example cyclicalCosine({ peak: 1e-3, warmup: 10, steps: 400, cycleLength: 100 })
 */
export function cyclicalCosine(options: CyclicalOptions): Schedule {
  const op = "relora_cosine";
  knownKeys(op, options, [...scheduleKeys, "cycleLength", "minLrRatio"]);
  const { peak, W, T } = readSchedule(op, options, true), m = floorRatio(op, options.minLrRatio), L = positive(op, "cycleLength", options.cycleLength ?? T);
  if (T % L !== 0) throw new ConfigError(`${op}: ${T} steps are no multiple of cycleLength ${L}`, { op, key: "cycleLength", value: L, fix: "change cycle_length or the number of steps" });
  if (W > L) throw new ConfigError(`${op}: a warm-up of ${W} steps is longer than a cycle of ${L}`, { op, key: "warmup", value: W, fix: "shorten the warm-up or lengthen the cycle" });
  return (t) => {
    const s = t % L;
    if (s < W) return peak * (t !== s && s < 2 ? 1e-7 : rise(s, W));
    return peak * (m + (1 - m) * half(progress(s, W, L)));
  };
}
