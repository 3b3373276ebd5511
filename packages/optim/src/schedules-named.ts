/** Schedules by the names that recipes use (`lr_scheduler_type`), with their further options (`lr_scheduler_kwargs`) and what explains them. */
import { ConfigError } from "@adjoint/tensor";
import {
  type AnnealingOptions, type CosineFloorOptions, type CosineWarmupFloorOptions, type CyclicalOptions, type JaggedOptions, type WarmRestartsOptions,
  cosine, cosineAnnealing, cosineAnnealingWarmRestarts, cosineWarmupWithMinLr, cosineWithMinLr, cosineWithRestarts, cyclicalCosine, jaggedCosine,
} from "./schedules-cosine.ts";
import { type OneCycleMomentumOptions, type OneCycleOptions, type WarmupStableDecayOptions, oneCycle, warmupStableDecay } from "./schedules-phases.ts";
import { type PlateauOptions, isPlateau, reduceOnPlateau } from "./schedules-plateau.ts";
import { type InverseSqrtOptions, type PolynomialOptions, type Schedule, type ScheduleOptions, constant, constantWithWarmup, inverseSqrt, linear, polynomial } from "./schedules.ts";

/** All options of all schedules; a schedule refuses those that are not its own. */
export interface AnyScheduleOptions extends ScheduleOptions, PolynomialOptions, InverseSqrtOptions, CosineFloorOptions, CosineWarmupFloorOptions, AnnealingOptions, WarmRestartsOptions, JaggedOptions, CyclicalOptions,
  WarmupStableDecayOptions, OneCycleOptions, OneCycleMomentumOptions, PlateauOptions {
  /** recipes: whether SGD's momentum or Adam's β₁ follows one_cycle (`oneCycleMomentum`) */
  readonly cycleMomentum?: boolean;
}

/** A further option as recipes spell it. */
export interface ScheduleKey {
  readonly option: keyof AnyScheduleOptions;
  readonly kind: "number" | "flag" | "text";
  /** what it is, with its default */
  readonly help: string;
}
/** What is known of a schedule. */
export interface ScheduleAbout {
  readonly title: string;
  /** the multiplier of the peak */
  readonly equation: readonly string[];
  readonly use: string;
  readonly source: string;
  readonly keys: Readonly<Record<string, ScheduleKey>>;
  /** options of a picture of 100 steps, besides peak 1 */
  readonly example: Omit<AnyScheduleOptions, "peak">;
}
interface Entry extends ScheduleAbout { readonly make: (options: AnyScheduleOptions) => Schedule }

const number = (option: keyof AnyScheduleOptions, help: string): ScheduleKey => ({ option, kind: "number", help });
const text = (option: keyof AnyScheduleOptions, help: string): ScheduleKey => ({ option, kind: "text", help });
const transformers = "transformers/optimization.py", torch = "torch/optim/lr_scheduler.py";
const W = "t < W: t / W", P = "p = (t - W) / (T - W)";
const numCycles = number("numCycles", "periods c (0.5)"), minLr = number("minLr", "lowest rate"), minLrRate = number("minLrRate", "the same as a share of the peak; give one of the two");
const etaMin = number("etaMin", "lowest rate (0)"), minLrRatio = number("minLrRatio", "share m of the peak at the end (0.1)");
const warm = { warmup: 10, steps: 100 };

const entries: Readonly<Record<string, Entry>> = {
  constant: { make: constant, title: "Constant", equation: ["1"], use: "short runs, and a first look at a new rate", source: transformers, keys: {}, example: { steps: 100 } },
  constant_with_warmup: { make: constantWithWarmup, title: "Constant after a warm-up", equation: [W, "else: 1"], use: "runs whose length is not known yet", source: transformers, keys: {}, example: warm },
  linear: { make: linear, title: "Linear", equation: [W, "else: max(0, (T - t) / (T - W))"], use: "the default of Transformers; as good as a cosine for most fine-tuning", source: transformers, keys: {}, example: warm },
  cosine: { make: cosine, title: "Cosine", equation: [W, "else: ½(1 + cos(2πcp))", P], use: "the common choice for fine-tuning and pretraining of known length", source: `Loshchilov and Hutter 2017 (SGDR), without restarts; ${transformers}`, keys: { num_cycles: numCycles }, example: warm },
  cosine_with_restarts: { make: cosineWithRestarts, title: "Cosine with hard restarts", equation: [W, "p ≥ 1: 0", "else: ½(1 + cos(π(cp mod 1)))", P], use: "several annealed models out of one run", source: `Loshchilov and Hutter 2017 (SGDR); ${transformers}`, keys: { num_cycles: number("numCycles", "falls c (1)") }, example: { ...warm, numCycles: 3 } },
  cosine_with_min_lr: { make: cosineWithMinLr, title: "Cosine to a floor", equation: [W, "else: (1 - m)·½(1 + cos(2πcp)) + m", P], use: "pretraining, where the last steps should still move", source: transformers, keys: { num_cycles: numCycles, min_lr: minLr, min_lr_rate: minLrRate }, example: { ...warm, minLrRate: 0.1 } },
  cosine_warmup_with_min_lr: {
    make: cosineWarmupWithMinLr, title: "Cosine to a floor, whose first step already moves", equation: ["t < W: (t + 1) / W, or r + (1 - r)·t / (W - 1)", "else: (1 - m)·½(1 + cos(2πcp)) + m", "p = (t - W + 1) / (T - W)"],
    use: "as cosine_with_min_lr; no step is lost to a rate of 0", source: transformers, keys: { num_cycles: numCycles, min_lr: minLr, min_lr_rate: minLrRate, warmup_lr_rate: number("warmupLrRate", "share r of the peak at the first step (1 / W)") }, example: { ...warm, minLrRate: 0.1 },
  },
  polynomial: { make: polynomial, title: "Polynomial", equation: [W, "t > T: end / peak", "else: ((peak - end)(1 - p)^power + end) / peak", P], use: "BERT-style fine-tuning; power above 1 spends more steps at small rates", source: transformers, keys: { lr_end: number("lrEnd", "rate at the end (1e-7)"), power: number("power", "1 is a line (1)") }, example: { ...warm, power: 2 } },
  inverse_sqrt: { make: inverseSqrt, title: "Inverse square root", equation: [W, "else: 1 / √((t - W + τ) / τ)"], use: "runs without an end: the rate falls ever more slowly", source: `Vaswani et al. 2017; ${transformers}`, keys: { timescale: number("timescale", "τ in steps (W, or 10000)") }, example: warm },
  warmup_stable_decay: {
    make: warmupStableDecay, title: "Warm-up, stable, decay", equation: ["t < W: up(t / W)·(1 - m) + m", "t < W + S: 1", "t < W + S + D: down((t - W - S) / D)·(1 - m) + m", "else: m", "up: p | ½(1 - cos πp) | 1 - √(1 - p);  down: 1 - p | ½(1 + cos 2πcp) | 1 - √p"],
    use: "one long run from whose stable part any number of shorter ones can be finished", source: `Hu et al. 2024 (MiniCPM); ${transformers}`, example: { ...warm, numDecaySteps: 20 },
    keys: {
      num_decay_steps: number("numDecaySteps", "steps D of the decay (required)"), num_stable_steps: number("numStableSteps", "steps S at the peak (the rest)"), warmup_type: text("warmupType", "linear, cosine or 1-sqrt (linear)"),
      decay_type: text("decayType", "linear, cosine or 1-sqrt (cosine)"), min_lr_ratio: number("minLrRatio", "share m of the peak at both ends (0)"), num_cycles: numCycles,
    },
  },
  reduce_lr_on_plateau: {
    make: reduceOnPlateau, title: "Reduce on plateau", equation: ["start: 1", "after more than `patience` evaluations without a better metric: λ ← max(λ·factor, min)"], use: "when an evaluation says more than a plan; needs eval_steps", source: torch, example: { patience: 2, factor: 0.5 },
    keys: {
      mode: text("mode", "min or max (min)"), factor: number("factor", "multiplier of a fall (0.1)"), patience: number("patience", "evaluations that are borne (10)"), threshold: number("threshold", "how much better is better (1e-4)"),
      threshold_mode: text("thresholdMode", "rel or abs (rel)"), cooldown: number("cooldown", "evaluations after a fall that do not count (0)"), min_lr: number("minLr", "lowest rate (0)"), eps: number("eps", "smaller falls do not happen (1e-8)"),
    },
  },
  one_cycle: {
    make: oneCycle, title: "One cycle", equation: ["t ≤ T₁ = pct·T - 1: from 1 / div to 1", "else: from 1 to 1 / div / final_div at T - 1", "from a to b: b + ½(a - b)(1 + cos πp), or a line"], use: "high rates on few steps (super-convergence); the momentum goes the other way", source: `Smith and Topin 2018; ${torch}`, example: { steps: 100 },
    keys: {
      pct_start: number("pctStart", "share of the steps that rise (0.3)"), anneal_strategy: text("annealStrategy", "cos or linear (cos)"), div_factor: number("divFactor", "peak over first rate (25)"),
      final_div_factor: number("finalDivFactor", "first over last rate (1e4)"), three_phase: { option: "threePhase", kind: "flag", help: "rise, fall back, then to the end (false)" },
      cycle_momentum: { option: "cycleMomentum", kind: "flag", help: "SGD's momentum, or Adam's β₁, goes the other way (false)" }, base_momentum: number("baseMomentum", "momentum at the peak (0.85)"), max_momentum: number("maxMomentum", "momentum at both ends (0.95)"),
    },
  },
  cosine_annealing: { make: cosineAnnealing, title: "Cosine annealing", equation: [W, "else: η + (1 - η)·½(1 + cos(π(t - W) / T_max))"], use: "torch's cosine: beyond T_max it rises again", source: `Loshchilov and Hutter 2017; ${torch}`, keys: { T_max: number("tMax", "steps of one fall (all after the warm-up)"), eta_min: etaMin }, example: { steps: 100, tMax: 50 } },
  cosine_annealing_warm_restarts: {
    make: cosineAnnealingWarmRestarts, title: "Cosine annealing with warm restarts", equation: [W, "else: η + (1 - η)·½(1 + cos(πs / Tᵢ)), s steps after the last restart", "T₀, T₀·mult, T₀·mult², ..."], use: "periods that grow, each ending in an annealed model", source: `Loshchilov and Hutter 2017 (SGDR); ${torch}`,
    keys: { T_0: number("t0", "steps of the first period (required)"), T_mult: number("tMult", "growth of periods (1)"), eta_min: etaMin }, example: { steps: 100, t0: 15, tMult: 2 },
  },
  relora_cosine_restarts: {
    make: jaggedCosine, title: "ReLoRA's jagged cosine", equation: [W, "ρ = (t + a) mod R < w and t ≥ R: (ρ / w)·κ(t + a - ρ + w)", "else: κ(t + a)", "κ(s) = m + (1 - m)·½(1 + cos(π(s - W) / (T - W)))"], use: "ReLoRA: the rate starts anew at 0 after each merge and reset", source: "Lialin et al. 2023 (ReLoRA)",
    keys: { restart_every: number("restartEvery", "steps R between restarts (required)"), restart_warmup_steps: number("restartWarmup", "steps w of growth after a restart (required)"), min_lr_ratio: minLrRatio, adjust_step: number("adjustStep", "restarts come so many steps earlier (0)") },
    example: { ...warm, restartEvery: 25, restartWarmup: 4 },
  },
  relora_cosine: { make: cyclicalCosine, title: "ReLoRA's cyclical cosine", equation: ["s = t mod L", "s < W: s / W (1e-7 on the first two steps of later cycles)", "else: m + (1 - m)·½(1 + cos(π(s - W) / (L - W)))"], use: "whole warm-ups and falls in a row", source: "Lialin et al. 2023 (ReLoRA)", keys: { cycle_length: number("cycleLength", "steps L of a cycle (all)"), min_lr_ratio: minLrRatio }, example: { steps: 100, warmup: 5, cycleLength: 50 } },
};

/** Names that `schedule` knows: those of `lr_scheduler_type` in recipes. */
export const scheduleNames: readonly string[] = Object.keys(entries);

function entry(name: string): Entry {
  if (!Object.hasOwn(entries, name)) throw new ConfigError(`schedule: there is no ${name}`, { op: "schedule", key: "lr_scheduler_type", value: name, fix: `known schedules: ${scheduleNames.join(", ")}` });
  return entries[name];
}

/**
 * A schedule by the name that recipes use; `reduce_lr_on_plateau` gives a Plateau.
 * Errors: ConfigError for an unknown name (lists the known ones), an option of another schedule, a missing number of steps, or a warm-up longer than the schedule.
 * @example schedule("cosine", { peak: 2e-3, warmup: 15, steps: 170 })
 */
export const schedule = (name: string, options: AnyScheduleOptions): Schedule => entry(name).make(options);

/** What is known of a schedule: its equation, options, use and source. Errors: ConfigError for an unknown name. */
export const aboutSchedule = (name: string): ScheduleAbout => entry(name);

/**
 * `lr_scheduler_kwargs` as options, values as a recipe or a command line has them.
 * Errors: ConfigError for a key that this schedule does not have (lists its own), or a value of another kind.
 * @example scheduleOptions("polynomial", { lr_end: "1e-6", power: "2" })   // { lrEnd: 1e-6, power: 2 }
 */
export function scheduleOptions(name: string, kwargs: Readonly<Record<string, string | number | boolean>>): Partial<AnyScheduleOptions> {
  const { keys } = entry(name), found: Record<string, string | number | boolean> = {};
  for (const [key, value] of Object.entries(kwargs)) {
    const refuse = (message: string, fix: string): never => { throw new ConfigError(`${name}: ${message}`, { op: name, key: `lr_scheduler_kwargs.${key}`, value, fix }); };
    if (!Object.hasOwn(keys, key)) return refuse(`there is no option ${key}`, Object.keys(keys).length === 0 ? `${name} has no further options` : `its options: ${Object.keys(keys).join(", ")}`);
    const { kind, option } = keys[key];
    if (kind === "text") found[option] = String(value);
    else if (kind === "number") {
      const x = typeof value === "number" ? value : typeof value === "string" && value.trim() !== "" ? Number(value) : NaN;
      found[option] = Number.isNaN(x) ? refuse(`${key} = ${String(value)} is not a number`, "write a number such as 0.1") : x;
    } else found[option] = /^true$/i.test(String(value)) ? true : /^false$/i.test(String(value)) ? false : refuse(`${key} = ${String(value)} is not true or false`, "write true or false");
  }
  return found;
}

/**
 * The multipliers of `count` steps evenly spread over a schedule of 100 steps: what a small picture of it shows. The metric of a
 * plateau stops improving at a third. @example plotSchedule("cosine", 40)
 */
export function plotSchedule(name: string, count = 64): number[] {
  const { make, example } = entry(name), f = make({ peak: 1, ...example }), values: number[] = [];
  for (let t = 0; t < 100; t++) {
    values.push(f(t));
    if (isPlateau(f) && t % 5 === 4) f.observe(1 / Math.min(t, 33));
  }
  return Array.from({ length: count }, (_, i) => values[Math.round((i * 99) / (count - 1))]);
}
