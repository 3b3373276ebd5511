/** The transforms that SGD, Adam and AdamW are made of, in torch's order of operations. */
import { type Tensor, div } from "@adjoint/tensor";
import { finite, fraction, notNegative } from "./check.ts";
import type { Schedule } from "./schedules.ts";
import { type Leaves, type Transform, mapLeaves, stateless, zerosLike } from "./transform.ts";

/** One number for all leaves, or a number a path. */
export type ByPath = number | ((path: string) => number);
/** One rate for all leaves, a number or a schedule; or a schedule a path. */
export type Rates = number | Schedule | { readonly of: (path: string) => Schedule };

const numberAt = (x: ByPath, path: string): number => (typeof x === "number" ? x : x(path));
const always = (x: number): Schedule => () => x;
const rateAt = (rates: Rates, path: string): Schedule => (typeof rates === "number" ? always(rates) : typeof rates === "function" ? rates : rates.of(path));

/** Σ of tensors of shape [], in an order that only their number decides. */
function pairwise(xs: readonly Tensor[]): Tensor {
  if (xs.length === 1) return xs[0];
  const half = Math.ceil(xs.length / 2);
  return pairwise(xs.slice(0, half)).add(pairwise(xs.slice(half)));
}
/** Σ over all leaves and elements of g²; f64 where any leaf is. */
export function squaredNorm(gradients: Leaves): Tensor {
  const all = Object.values(gradients), dtype = all.some((g) => g.dtype === "f64") ? "f64" : "f32";
  return pairwise(all.map((g) => g.mul(g).sum().cast(dtype)));
}
/** ‖g‖₂ over all leaves together. */
export const globalNorm = (gradients: Leaves): Tensor => squaredNorm(gradients).sqrt();

/** g · min(1, maxNorm / (‖g‖ + 1e-6)) with the norm over all leaves (torch's `clip_grad_norm_`); maxNorm ≤ 0 clips nothing. */
export function clipByGlobalNorm(maxNorm: number): Transform {
  finite("clipByGlobalNorm", "maxNorm", maxNorm);
  if (maxNorm <= 0) return stateless((updates) => updates);
  return stateless((updates) => {
    const c = div(maxNorm, globalNorm(updates).add(1e-6)).minimum(1);
    return mapLeaves(updates, (g) => g.mul(c.cast(g.dtype)));
  });
}

/** g + λp: decay that passes through the moments (L2 regularisation). */
export const addDecayedWeights = (weightDecay: ByPath): Transform => {
  if (typeof weightDecay === "number") notNegative("addDecayedWeights", "weightDecay", weightDecay);
  return stateless((updates, params) => mapLeaves(updates, (g, path) => {
    const wd = numberAt(weightDecay, path);
    return wd === 0 ? g : g.add(params[path].mul(wd));
  }));
};

/** p · (1 - lr λ) before the update: decoupled decay (Loshchilov and Hutter 2019). */
export function decayWeights(weightDecay: ByPath, learningRate: Rates): Transform {
  if (typeof weightDecay === "number") notNegative("decayWeights", "weightDecay", weightDecay);
  return {
    init: () => ({}),
    update: (updates, state, params, context) => ({
      updates, state,
      params: mapLeaves(params, (p, path) => {
        const wd = numberAt(weightDecay, path), rate = rateAt(learningRate, path);
        return wd === 0 || !(path in updates) ? p : p.mul(context.ofStep((t) => 1 - rate(t) * wd, p.dtype));
      }),
    }),
  };
}

export interface TraceOptions { readonly momentum: number; readonly dampening?: number; readonly nesterov?: boolean }

/** buf ← μ buf + (1 - dampening) g (the first time buf ← g); u = nesterov ? g + μ buf : buf. */
export function trace({ momentum: mu, dampening = 0, nesterov = false }: TraceOptions): Transform {
  notNegative("trace", "momentum", mu);
  finite("trace", "dampening", dampening);
  return {
    init: (params) => ({ momentum_buffer: zerosLike(params) }),
    update(updates, state, _, context) {
      const buf = mapLeaves(updates, (g, path) => {
        const old = state.momentum_buffer[path], fresh = dampening === 0 ? g : g.mul(context.ofUpdates(path, (t) => (t === 1 ? 1 : 1 - dampening), g.dtype));
        return context.keep(old.mul(mu).add(fresh), old);
      });
      return { updates: nesterov ? mapLeaves(updates, (g, path) => g.add(buf[path].mul(mu))) : buf, state: { momentum_buffer: buf } };
    },
  };
}

export interface AdamScaling { readonly betas?: readonly [number, number]; readonly eps?: number; readonly amsgrad?: boolean }

/** m + w(g - m), from the nearer end as torch does. */
const lerp = (m: Tensor, g: Tensor, w: number): Tensor => (w < 0.5 ? m.add(g.sub(m).mul(w)) : g.sub(g.sub(m).mul(1 - w)));

/**
 * u = m̂ / (√v̂ + eps) with m ← lerp(m, g, 1 - β₁), v ← β₂v + (1 - β₂)g², m̂ = m / (1 - β₁ᵗ), √v̂ = √v / √(1 - β₂ᵗ)
 * (Kingma and Ba 2015; amsgrad: the largest v so far, Reddi et al. 2018). t counts the updates of the leaf.
 */
export function scaleByAdam({ betas: [b1, b2] = [0.9, 0.999], eps = 1e-8, amsgrad = false }: AdamScaling = {}): Transform {
  fraction("scaleByAdam", "betas", b1);
  fraction("scaleByAdam", "betas", b2);
  notNegative("scaleByAdam", "eps", eps);
  return {
    init: (params) => ({ exp_avg: zerosLike(params), exp_avg_sq: zerosLike(params), ...(amsgrad ? { max_exp_avg_sq: zerosLike(params) } : {}) }),
    update(updates, state, _, context) {
      const m = mapLeaves(updates, (g, path) => context.keep(lerp(state.exp_avg[path], g, 1 - b1), state.exp_avg[path]));
      const v = mapLeaves(updates, (g, path) => context.keep(state.exp_avg_sq[path].mul(b2).add(g.mul(g).mul(1 - b2)), state.exp_avg_sq[path]));
      const largest = amsgrad ? mapLeaves(v, (x, path) => context.keep(state.max_exp_avg_sq[path].maximum(x), state.max_exp_avg_sq[path])) : v;
      const u = mapLeaves(m, (x, path) => {
        const denominator = largest[path].sqrt().div(context.ofUpdates(path, (t) => Math.sqrt(1 - b2 ** t), x.dtype)).add(eps);
        return x.mul(context.ofUpdates(path, (t) => 1 / (1 - b1 ** t), x.dtype)).div(denominator);
      });
      return { updates: u, state: { exp_avg: m, exp_avg_sq: v, ...(amsgrad ? { max_exp_avg_sq: largest } : {}) } };
    },
  };
}

/** lr(t) · u. */
export const scaleByLearningRate = (learningRate: Rates): Transform => {
  if (typeof learningRate === "number") notNegative("scaleByLearningRate", "learningRate", learningRate);
  return stateless((updates, _, context) => mapLeaves(updates, (u, path) => u.mul(context.ofStep(rateAt(learningRate, path), u.dtype))));
};

/** -g: climb instead of descend. */
export const negate: Transform = stateless((updates) => mapLeaves(updates, (g) => g.neg()));
