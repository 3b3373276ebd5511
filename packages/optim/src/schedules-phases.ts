/** Schedules of several phases: warm-up, stable, decay; and one cycle, with the momentum that belongs to it. */
import { ConfigError } from "@adjoint/tensor";
import { finite, fraction, knownKeys, notNegative, whole } from "./check.ts";
import { required } from "./schedules-cosine.ts";
import { type Schedule, type ScheduleOptions, readSchedule, rise, scheduleKeys } from "./schedules.ts";

const shapes = ["linear", "cosine", "1-sqrt"] as const;
/** The course of a phase. */
export type PhaseShape = (typeof shapes)[number];

/** Options of `warmupStableDecay`: `steps`, or numStableSteps. */
export interface WarmupStableDecayOptions extends ScheduleOptions {
  /** steps at the peak; by default all that the two other phases leave */
  readonly numStableSteps?: number;
  /** steps of the decay at the end */
  readonly numDecaySteps?: number;
  readonly warmupType?: PhaseShape;
  readonly decayType?: PhaseShape;
  /** share of the peak where the warm-up starts and the decay ends */
  readonly minLrRatio?: number;
  /** periods of a cosine decay */
  readonly numCycles?: number;
}
/** Options of `oneCycle`. */
export interface OneCycleOptions extends ScheduleOptions {
  /** share of the steps on which the rate rises */
  readonly pctStart?: number;
  readonly annealStrategy?: "cos" | "linear";
  /** the first rate is peak / divFactor */
  readonly divFactor?: number;
  /** the last rate is the first / finalDivFactor */
  readonly finalDivFactor?: number;
  /** back to the first rate as fast as it rose, then to the last */
  readonly threePhase?: boolean;
}
/** Options of `oneCycleMomentum`. */
export interface OneCycleMomentumOptions extends Pick<OneCycleOptions, "steps" | "pctStart" | "annealStrategy" | "threePhase"> {
  /** momentum (β₁) at the peak of the rate */
  readonly baseMomentum?: number;
  /** momentum at the first and the last step */
  readonly maxMomentum?: number;
}

function shapeOf(op: string, key: string, value: PhaseShape): PhaseShape {
  if (!shapes.includes(value)) throw new ConfigError(`${op}: ${key} cannot be ${String(value)}`, { op, key, value, fix: `one of ${shapes.join(", ")}` });
  return value;
}

/**
 * Up, flat, down: a warm-up from m · peak over W steps, the peak for S, a decay to m · peak over D, then m · peak. With p the share of
 * the phase done, up: p, ½(1 - cos πp) or 1 - √(1 - p); down: 1 - p, ½(1 + cos 2πcp) or 1 - √p (Hu et al. 2024, MiniCPM).
 * Errors: ConfigError where the phases are longer than `steps`.
 * @example warmupStableDecay({ peak: 1e-3, warmup: 10, steps: 100, numDecaySteps: 20 })
 */
export function warmupStableDecay(options: WarmupStableDecayOptions): Schedule {
  const op = "warmup_stable_decay";
  knownKeys(op, options, [...scheduleKeys, "numStableSteps", "numDecaySteps", "warmupType", "decayType", "minLrRatio", "numCycles"]);
  const { peak, W, T } = readSchedule(op, options, options.numStableSteps === undefined), c = finite(op, "numCycles", options.numCycles ?? 0.5), m = notNegative(op, "minLrRatio", options.minLrRatio ?? 0);
  const D = whole(op, "numDecaySteps", required(op, "numDecaySteps", options.numDecaySteps, "the steps of the decay (num_decay_steps)"));
  const S = options.numStableSteps === undefined ? T - W - D : whole(op, "numStableSteps", options.numStableSteps);
  if (S < 0 || W + S + D > T) throw new ConfigError(`${op}: a warm-up of ${W}, ${S < 0 ? "" : `${S} stable `}and ${D} decaying steps are longer than the schedule of ${T}`, { op, key: "numDecaySteps", value: D, fix: "shorten a phase (num_decay_steps, num_stable_steps, warm-up) or add steps" });
  const up = shapeOf(op, "warmupType", options.warmupType ?? "linear"), down = shapeOf(op, "decayType", options.decayType ?? "cosine");
  const rising = (p: number): number => (up === "linear" ? p : up === "cosine" ? 0.5 * (1 - Math.cos(Math.PI * p)) : 1 - Math.sqrt(1 - p));
  const falling = (p: number): number => (down === "linear" ? 1 - p : down === "cosine" ? 0.5 * (1 + Math.cos(Math.PI * c * 2 * p)) : 1 - Math.sqrt(p));
  const floored = (x: number): number => Math.max(0, x * (1 - m) + m);
  return (t) => peak * (t < W ? floored(rising(rise(t, W))) : t < W + S ? 1 : t < W + S + D ? floored(falling((t - W - S) / D)) : m);
}

interface Phase { readonly end: number; readonly from: number; readonly to: number }
/** The value of step t on phases, each from where the last one ended. */
function along(phases: readonly Phase[], strategy: "cos" | "linear", t: number): number {
  let start = 0;
  for (const [i, { end, from, to }] of phases.entries()) {
    if (t <= end || i === phases.length - 1) {
      const p = end === start ? 1 : Math.min(1, (t - start) / (end - start));
      return strategy === "cos" ? to + ((from - to) / 2) * (Math.cos(Math.PI * p) + 1) : (to - from) * p + from;
    }
    start = end;
  }
  return NaN;
}
/** Last steps of the phases (fractions, as in torch). */
function ends(op: string, { steps, pctStart = 0.3, threePhase = false }: OneCycleMomentumOptions): { rise: number; back: number | null; last: number } {
  const T = readSchedule(op, { peak: 0, ...(steps === undefined ? {} : { steps }) }, true).T;
  if (!(pctStart >= 0 && pctStart <= 1)) throw new ConfigError(`${op}: pctStart must lie in [0, 1], got ${pctStart}`, { op, key: "pctStart", value: pctStart, fix: "give the share of steps on which the rate rises" });
  if (threePhase && 2 * pctStart > 1) throw new ConfigError(`${op}: rising and falling back take ${2 * pctStart} of all steps`, { op, key: "pctStart", value: pctStart, fix: "three phases need a pctStart of at most 0.5" });
  return { rise: pctStart * T - 1, back: threePhase ? 2 * pctStart * T - 2 : null, last: T - 1 };
}
function strategyOf(op: string, value: "cos" | "linear" = "cos"): "cos" | "linear" {
  if (!["cos", "linear"].includes(value)) throw new ConfigError(`${op}: annealStrategy cannot be ${String(value)}`, { op, key: "annealStrategy", value, fix: "one of cos, linear" });
  return value;
}
function above(op: string, key: string, value: number): number {
  if (!(Number.isFinite(value) && value > 0)) throw new ConfigError(`${op}: ${key} must be above 0, got ${value}`, { op, key, value, fix: "give a number above 0" });
  return value;
}

/**
 * One cycle: from peak / divFactor to the peak on the first pctStart of the steps, then down to peak / divFactor / finalDivFactor,
 * each along ½(1 + cos πp) or a line (Smith and Topin 2018; torch's OneCycleLR). @example oneCycle({ peak: 0.1, steps: 100 })
 */
export function oneCycle(options: OneCycleOptions): Schedule {
  const op = "one_cycle";
  knownKeys(op, options, [...scheduleKeys, "pctStart", "annealStrategy", "divFactor", "finalDivFactor", "threePhase"]);
  const { peak, W } = readSchedule(op, options, true);
  if (W > 0) throw new ConfigError(`${op}: a warm-up of ${W} steps has no place in it`, { op, key: "warmup", value: W, fix: "its rise is pctStart (pct_start) of the steps; set the warm-up to 0" });
  const at = ends(op, options), strategy = strategyOf(op, options.annealStrategy), first = peak / above(op, "divFactor", options.divFactor ?? 25), last = first / above(op, "finalDivFactor", options.finalDivFactor ?? 1e4);
  const phases: readonly Phase[] = [{ end: at.rise, from: first, to: peak }, ...(at.back === null ? [{ end: at.last, from: peak, to: last }] : [{ end: at.back, from: peak, to: first }, { end: at.last, from: first, to: last }])];
  return (t) => along(phases, strategy, t);
}

/** The momentum (SGD) or β₁ (Adam) of the same cycle: high where the rate is low. @example sgd({ learningRate: oneCycle({ peak: 0.1, steps: 100 }), momentum: oneCycleMomentum({ steps: 100 }) }) */
export function oneCycleMomentum(options: OneCycleMomentumOptions): Schedule {
  const op = "oneCycleMomentum";
  knownKeys(op, options, ["steps", "pctStart", "annealStrategy", "threePhase", "baseMomentum", "maxMomentum"]);
  const at = ends(op, options), strategy = strategyOf(op, options.annealStrategy), low = fraction(op, "baseMomentum", options.baseMomentum ?? 0.85), high = fraction(op, "maxMomentum", options.maxMomentum ?? 0.95);
  const phases: readonly Phase[] = [{ end: at.rise, from: high, to: low }, ...(at.back === null ? [{ end: at.last, from: low, to: high }] : [{ end: at.back, from: low, to: high }, { end: at.last, from: high, to: high }])];
  return (t) => along(phases, strategy, t);
}
