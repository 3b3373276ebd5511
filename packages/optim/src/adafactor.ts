/** Adafactor: second moments as a row and a column a matrix; Transformers' version and torch's. */
import { ConfigError, type Tensor } from "@adjoint/tensor";
import { finite, flag, fraction, knownKeys, notNegative, tuple, withDefaults } from "./check.ts";
import { rms } from "./clip.ts";
import { type CommonOptions, built, commonKeys } from "./common.ts";
import { type Rules, checkGroups, rulesOf } from "./groups.ts";
import type { Optimizer } from "./optimizer.ts";
import type { Schedule } from "./schedules.ts";
import { type Context, type Leaves, type State, type Transform, filled, filterLeaves, mapLeaves, stateless, zerosLike } from "./transform.ts";
import { decayWeights, numberAt } from "./transforms.ts";

/** Options of `adafactor`. */
export interface AdafactorOptions extends CommonOptions {
  /** added to g², and the smallest scale of a parameter; default 1e-30, 1e-3 */
  readonly eps?: readonly [number, number];
  /** largest root mean square of an update; default 1 */
  readonly clipThreshold?: number;
  /** β₂ at step t is 1 - t^decayRate; default -0.8 */
  readonly decayRate?: number;
  /** decay of a first moment; null (default): none */
  readonly beta1?: number | null;
  /** times max(eps[1], RMS(p)); default true */
  readonly scaleParameter?: boolean;
  /** lr = min(1e-2, 1/√t) instead of learningRate; default true */
  readonly relativeStep?: boolean;
  /** with relativeStep: min(1e-6 t, 1/√t); default false */
  readonly warmupInit?: boolean;
}

const isMatrix = (x: Tensor): boolean => x.rank >= 2;
/** Shapes of the two factors: without the last axis, without the one before it. */
const rowShape = ({ shape }: Tensor): number[] => shape.slice(0, -1);
const colShape = ({ shape }: Tensor): number[] => [...shape.slice(0, -2), shape[shape.length - 1]];

/**
 * u = g / √V with V ≈ row · col / mean(row): row ← β row + (1 - β) mean(g² + eps, last axis), col the same over the axis before it,
 * β = 1 - t^decayRate; vectors keep all of V (Shazeer and Stern 2018, Transformers' form).
 */
export function scaleByFactoredRms(options: { readonly eps?: number; readonly decayRate?: number } = {}): Transform {
  knownKeys("scaleByFactoredRms", options, ["eps", "decayRate"]);
  const { eps = 1e-30, decayRate = -0.8 } = options;
  notNegative("scaleByFactoredRms", "eps", eps); finite("scaleByFactoredRms", "decayRate", decayRate);
  return {
    init(params) {
      const matrices = filterLeaves(params, (_, p) => isMatrix(p)), vectors = filterLeaves(params, (_, p) => !isMatrix(p));
      return { exp_avg_sq_row: mapLeaves(matrices, (p) => filled(rowShape(p), p.dtype)), exp_avg_sq_col: mapLeaves(matrices, (p) => filled(colShape(p), p.dtype)), exp_avg_sq: zerosLike(vectors) };
    },
    update(updates, state, _, context) {
      const next: Record<string, Record<string, Tensor>> = { exp_avg_sq_row: {}, exp_avg_sq_col: {}, exp_avg_sq: {} };
      const average = (name: string, path: string, x: Tensor): Tensor => {
        const old = state[name][path], fresh = context.ofUpdates(path, (t) => t ** decayRate, x.dtype);
        return (next[name][path] = context.keep(old.mul(context.ofUpdates(path, (t) => 1 - t ** decayRate, x.dtype)).add(x.mul(fresh)), old));
      };
      const u = mapLeaves(updates, (g, path) => {
        const square = g.mul(g).add(eps);
        if (!isMatrix(g)) return g.mul(average("exp_avg_sq", path, square).rsqrt());
        const row = average("exp_avg_sq_row", path, square.mean(-1).reshape(rowShape(g))), col = average("exp_avg_sq_col", path, square.mean(-2).reshape(colShape(g)));
        const byRow = row.div(row.mean(-1)).rsqrt().reshape([...rowShape(g), 1]);
        return g.mul(byRow).mul(col.rsqrt().reshape([...g.shape.slice(0, -2), 1, g.shape[g.rank - 1]]));
      });
      return { updates: u, state: next };
    },
  };
}

/** u / max(1, RMS(u) / threshold). */
export const clipByRms = (threshold: number): Transform => stateless((updates) => mapLeaves(updates, (u) => u.div(rms(u).div(threshold).maximum(1))));

type Pace = (path: string, p: Tensor, context: Context) => Tensor;
/** u · pace, and p · (1 - λ pace) with the p that the step began with. */
const scaleByPace = (pace: Pace): Transform => stateless((updates, params, context) => mapLeaves(updates, (u, path) => u.mul(pace(path, params[path], context))));
const decayByPace = (rules: Rules, pace: Pace): Transform => ({
  init: () => ({}),
  update: (updates, state, params, context) => ({
    updates, state,
    params: mapLeaves(params, (p, path) => {
      const wd = numberAt(rules.decay, path);
      return wd === 0 || !(path in updates) ? p : p.sub(p.mul(pace(path, p, context)).mul(wd));
    }),
  }),
});
/** m ← β m + (1 - β)u; u = m. */
const firstMoment = (beta: number): Transform => ({
  init: (params) => ({ exp_avg: zerosLike(params) }),
  update(updates, { exp_avg }, _, context) {
    const m = mapLeaves(updates, (u, path) => context.keep(exp_avg[path].mul(beta).add(u.mul(1 - beta)), exp_avg[path]));
    return { updates: m, state: { exp_avg: m } };
  },
});

/** The rate that relativeStep makes: min(warmupInit ? 1e-6 (t + 1) : 1e-2, 1/√(t + 1)) at step t = 0, 1, ... */
export const relativeRate = (warmupInit: boolean): Schedule => (t) => Math.min(warmupInit ? 1e-6 * (t + 1) : 1e-2, 1 / Math.sqrt(t + 1));

/**
 * Adafactor (transformers.Adafactor): u = g / √(row · col / mean(row)); u ← u / max(1, RMS(u) / clipThreshold) · lr_t with
 * lr_t = (relativeStep ? min(warmupInit ? 1e-6 t : 1e-2, 1/√t) : lr) · (scaleParameter ? max(eps[1], RMS(p)) : 1); with beta1
 * u ← m ← β₁m + (1 - β₁)u; p ← p(1 - λ lr_t) - u.
 * Errors: ConfigError for a learning rate (or a schedule) together with relativeStep, or neither; warmupInit without relativeStep.
 * @example adafactor({ learningRate: 1e-3, relativeStep: false, scaleParameter: false })   // what `optim: adafactor` means in a recipe
 */
export function adafactor(options: AdafactorOptions = {}): Optimizer {
  const op = "adafactor";
  knownKeys(op, options, [...commonKeys, "eps", "clipThreshold", "decayRate", "beta1", "scaleParameter", "relativeStep", "warmupInit"]);
  const { eps = [1e-30, 1e-3], clipThreshold = 1, decayRate = -0.8, beta1 = null, scaleParameter = true, relativeStep = true, warmupInit = false, weightDecay = 0 } = options;
  flag(op, "scaleParameter", scaleParameter); flag(op, "relativeStep", relativeStep); flag(op, "warmupInit", warmupInit);
  checkGroups(op, options.groups ?? []);
  checkRates(op, options, relativeStep, warmupInit);
  tuple(op, "eps", eps, 2).forEach((e, i) => notNegative(op, `eps[${i}]`, e));
  if (!(typeof clipThreshold === "number" && clipThreshold > 0)) throw new ConfigError(`${op}: clipThreshold must be above 0, got ${clipThreshold}`, { op, key: "clipThreshold", value: clipThreshold, fix: "1 is usual" });
  if (!(typeof decayRate === "number" && decayRate < 0)) throw new ConfigError(`${op}: decayRate must be below 0, got ${decayRate}`, { op, key: "decayRate", value: decayRate, fix: "-0.8 is usual" });
  if (beta1 !== null) fraction(op, "beta1", beta1);
  const course = relativeRate(warmupInit), relative = (t: number): number => course(t - 1);
  const rules = rulesOf(op, { ...options, weightDecay, learningRate: options.learningRate === undefined ? course : options.learningRate });
  const pace: Pace = (path, p, context) => {
    const lr = relativeStep ? context.ofUpdates(path, relative, p.dtype) : context.ofStep(rules.of(path), p.dtype);
    return scaleParameter ? rms(p).maximum(eps[1]).mul(lr) : lr;
  };
  const links = [scaleByFactoredRms({ eps: eps[0], decayRate }), clipByRms(clipThreshold), scaleByPace(pace), ...(beta1 === null ? [] : [firstMoment(beta1)]), decayByPace(rules, pace)];
  return built(op, options, links, rules, { eps, clip_threshold: clipThreshold, decay_rate: decayRate, beta1, scale_parameter: scaleParameter, relative_step: relativeStep, warmup_init: warmupInit });
}

function checkRates(op: string, { learningRate, schedule, groups }: AdafactorOptions, relativeStep: boolean, warmupInit: boolean): void {
  const own = learningRate !== undefined ? "learningRate" : schedule !== undefined ? "schedule" : null;
  const grouped = (groups ?? []).findIndex((g) => g.learningRate !== undefined || g.schedule !== undefined), key = own ?? (grouped >= 0 ? `groups[${grouped}].learningRate` : null);
  if (relativeStep && key !== null) throw new ConfigError(`${op}: ${key} and relativeStep do not go together: a relative step makes its own rate`, { op, key, value: learningRate, fix: "set relativeStep: false (and mostly scaleParameter: false), or leave the rate out" });
  if (!relativeStep && learningRate === undefined) throw new ConfigError(`${op}: without relativeStep a learningRate is needed`, { op, key: "learningRate", fix: "give one, such as 1e-3" });
  if (warmupInit && !relativeStep) throw new ConfigError(`${op}: warmupInit is a kind of relativeStep, which is off`, { op, key: "warmupInit", value: true, fix: "set relativeStep: true" });
}

/** What `optim: adafactor` means in a recipe of Transformers' Trainer: the recipe's rate and schedule, no relative step unless asked for, no scaling by RMS(p). */
export const adafactorTrainer = (options: AdafactorOptions = {}): Optimizer => {
  const own = withDefaults("adafactor", options, { scaleParameter: false, relativeStep: false });
  return adafactor(own.relativeStep === true ? own : { learningRate: 1e-3, ...own });
};

/** Options of `adafactorTorch`. */
export interface AdafactorTorchOptions extends CommonOptions {
  /** ω at step t is t^beta2Decay; default -0.8 */
  readonly beta2Decay?: number;
  /** least mean of a row (null: the type's machine epsilon), and the smallest scale of a parameter; default null, 1e-3 */
  readonly eps?: readonly [number | null, number];
  /** largest root mean square of an update; default 1 */
  readonly d?: number;
}
const machine = (p: Tensor): number => (p.dtype === "f64" ? 2 ** -52 : 2 ** -23);

/** u = g / √max(row · col / max(mean(row), eps), eps²), moments by lerp with weight ω = t^beta2Decay (torch's form). */
function scaleByTorchFactors(eps1: number | null, beta2Decay: number): Transform {
  const wide = (p: Tensor): { row: number[]; col: number[] } => ({ row: [...rowShape(p), 1], col: [...p.shape.slice(0, -2), 1, p.shape[p.rank - 1]] });
  return {
    init(params) {
      const matrices = filterLeaves(params, (_, p) => isMatrix(p));
      return { row_var: mapLeaves(matrices, (p) => filled(wide(p).row, p.dtype)), col_var: mapLeaves(matrices, (p) => filled(wide(p).col, p.dtype)), variance: zerosLike(filterLeaves(params, (_, p) => !isMatrix(p))) };
    },
    update(updates, state: State, _, context) {
      const next: Record<string, Record<string, Tensor>> = { row_var: {}, col_var: {}, variance: {} };
      const average = (name: string, path: string, x: Tensor): Tensor => {
        const old = state[name][path];
        return (next[name][path] = context.keep(old.add(x.sub(old).mul(context.ofUpdates(path, (t) => t ** beta2Decay, x.dtype))), old));
      };
      const u: Leaves = mapLeaves(updates, (g, path) => {
        const e = eps1 ?? machine(g), square = g.mul(g);
        if (!isMatrix(g)) return g.mul(average("variance", path, square).maximum(e * e).rsqrt());
        const row = average("row_var", path, square.mean(-1)), col = average("col_var", path, square.mean(-2));
        return g.mul(row.mul(col).div(row.mean(-2).maximum(e)).maximum(e * e).rsqrt());
      });
      return { updates: u, state: next };
    },
  };
}

/**
 * Adafactor (torch.optim.Adafactor): p ← p(1 - lr λ); p ← p - α u / max(1, RMS(u) / d) with α = max(eps[1], RMS(p)) · min(lr, 1/√t) and u
 * as in Transformers' version, with other guards against 0. Defaults: learningRate 1e-2, beta2Decay -0.8, d 1, weightDecay 0.
 */
export function adafactorTorch(options: AdafactorTorchOptions = {}): Optimizer {
  const op = "adafactorTorch";
  knownKeys(op, options, [...commonKeys, "beta2Decay", "eps", "d"]);
  const { learningRate = 1e-2, beta2Decay = -0.8, eps = [null, 1e-3], d = 1, weightDecay = 0 } = options, rules = rulesOf(op, { ...options, learningRate, weightDecay });
  if (!(typeof beta2Decay === "number" && beta2Decay <= 0)) throw new ConfigError(`${op}: beta2Decay must be at most 0, got ${beta2Decay}`, { op, key: "beta2Decay", value: beta2Decay, fix: "-0.8 is usual" });
  tuple(op, "eps", eps, 2).forEach((e, i) => { if (e !== null) notNegative(op, `eps[${i}]`, e); });
  if (!(typeof d === "number" && d >= 1)) throw new ConfigError(`${op}: d must be at least 1, got ${d}`, { op, key: "d", value: d, fix: "1 is usual" });
  const pace: Pace = (path, p, context) => rms(p).maximum(eps[1]).mul(context.ofStep(rules.of(path), p.dtype).minimum(context.ofUpdates(path, (t) => 1 / Math.sqrt(t), p.dtype)));
  return built(op, options, [scaleByTorchFactors(eps[0], beta2Decay), clipByRms(d), scaleByPace(pace), decayWeights(rules.decay, rules)], rules, { beta2_decay: beta2Decay, eps, d });
}
