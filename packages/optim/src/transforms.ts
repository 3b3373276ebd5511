/** The transforms that most optimizers are made of: decay, momentum, the learning rate, in torch's order of operations. */
import type { Tensor } from "@adjoint/tensor";
import { checkedSteps, finite, flag, knownKeys, notNegative } from "./check.ts";
import type { Schedule } from "./schedules.ts";
import { type Transform, mapLeaves, stateless, zerosLike } from "./transform.ts";

/** One number for all leaves, or a number a path. */
export type ByPath = number | ((path: string) => number);
/** One rate for all leaves, a number or a schedule; or a schedule a path. */
export type Rates = number | Schedule | { readonly of: (path: string) => Schedule };

export const numberAt = (x: ByPath, path: string): number => (typeof x === "number" ? x : x(path));
const always = (x: number): Schedule => () => x;
export const rateAt = (rates: Rates, path: string): Schedule => (typeof rates === "number" ? always(rates) : typeof rates === "function" ? rates : rates.of(path));

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

/** Decay after the update, of what it left: p ← (p - u)(1 - lr λ) (the order of Transformers' former AdamW). */
export function decayAfter(weightDecay: ByPath, learningRate: Rates): Transform {
  return stateless((updates, params, context) => mapLeaves(updates, (u, path) => {
    const wd = numberAt(weightDecay, path), rate = rateAt(learningRate, path);
    return wd === 0 ? u : u.add(params[path].sub(u).mul(context.ofStep((t) => rate(t) * wd, u.dtype)));
  }));
}

/** `momentum` may be a schedule (one-cycle) */
export interface TraceOptions { readonly momentum: number | Schedule; readonly dampening?: number; readonly nesterov?: boolean }

/** buf ← μ buf + (1 - dampening) g (the first time buf ← g); u = nesterov ? g + μ buf : buf. */
export function trace(options: TraceOptions): Transform {
  knownKeys("trace", options, ["momentum", "dampening", "nesterov"]);
  const { momentum: given, dampening = 0, nesterov = false } = options, momentum = typeof given === "function" ? checkedSteps("trace", "momentum", given) : notNegative("trace", "momentum", given);
  finite("trace", "dampening", dampening); flag("trace", "nesterov", nesterov);
  return {
    init: (params) => ({ momentum_buffer: zerosLike(params) }),
    update(updates, state, _, context) {
      const timesMu = (x: Tensor): Tensor => x.mul(typeof momentum === "number" ? momentum : context.ofStep(momentum, x.dtype));
      const buf = mapLeaves(updates, (g, path) => {
        const old = state.momentum_buffer[path], fresh = dampening === 0 ? g : g.mul(context.ofUpdates(path, (t) => (t === 1 ? 1 : 1 - dampening), g.dtype));
        return context.keep(timesMu(old).add(fresh), old);
      });
      return { updates: nesterov ? mapLeaves(updates, (g, path) => g.add(timesMu(buf[path]))) : buf, state: { momentum_buffer: buf } };
    },
  };
}

/** m + w(g - m), from the nearer end as torch does. */
export const lerp = (m: Tensor, g: Tensor, w: number): Tensor => (w < 0.5 ? m.add(g.sub(m).mul(w)) : g.sub(g.sub(m).mul(1 - w)));

/** m ← lerp(m, g, 1 - β); u = m. */
export const ema = (beta: number, name = "exp_avg"): Transform => ({
  init: (params) => ({ [name]: zerosLike(params) }),
  update(updates, state, _, context) {
    const m = mapLeaves(updates, (u, path) => context.keep(lerp(state[name][path], u, 1 - beta), state[name][path]));
    return { updates: m, state: { [name]: m } };
  },
});

/** lr(t) · u. */
export const scaleByLearningRate = (learningRate: Rates): Transform => {
  if (typeof learningRate === "number") notNegative("scaleByLearningRate", "learningRate", learningRate);
  return stateless((updates, _, context) => mapLeaves(updates, (u, path) => u.mul(context.ofStep(rateAt(learningRate, path), u.dtype))));
};

/** -g: climb instead of descend. */
export const negate: Transform = stateless((updates) => mapLeaves(updates, (g) => g.neg()));
