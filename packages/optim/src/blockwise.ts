/** 8-bit states: any transform whose memory is kept as codes of the dynamic map, with one scale a block of 256. */
import { type Tensor, concat, reciprocal, zeros } from "@adjoint/tensor";
import { scaleByAdam, checkedBetas } from "./adam.ts";
import { fraction, knownKeys, notNegative, whole } from "./check.ts";
import { type CommonOptions, built, commonKeys } from "./common.ts";
import { type Map8, decodeDynamic, encodeDynamic } from "./dynamic-map.ts";
import { rulesOf } from "./groups.ts";
import { scaleByLion } from "./lion.ts";
import type { Optimizer } from "./optimizer.ts";
import { scaleByRms } from "./rmsprop.ts";
import { type Leaves, type State, type Transform, filled, filterLeaves, mapLeaves } from "./transform.ts";
import { addDecayedWeights, decayWeights, scaleByLearningRate } from "./transforms.ts";

/** Numbers that share a scale. */
export const BLOCK = 256;
const blocksOf = (x: Tensor): number => Math.ceil(x.size / BLOCK);

/** One scale a block, spread over the numbers of a shape. */
function spread(scales: Tensor, like: Tensor): Tensor {
  const rows = scales.reshape([blocksOf(like), 1]).expand([blocksOf(like), BLOCK]).reshape([blocksOf(like) * BLOCK]);
  return (like.size % BLOCK === 0 ? rows : rows.slice(0, 0, like.size)).reshape(like.shape);
}
/** max |x| of each block; the last may be short. */
function blockMaxima(x: Tensor): Tensor {
  const flat = x.abs().reshape([x.size]), short = x.size % BLOCK;
  const full = short === 0 ? flat : concat([flat, zeros([BLOCK - short], x.dtype)]);
  return full.reshape([blocksOf(x), BLOCK]).amax(-1).reshape([blocksOf(x)]);
}
/** A state of the inner transform: which map it uses; its codes are saved as `state<i>`, its scales as `absmax<i>`, as in bitsandbytes. */
export type Maps = Readonly<Record<string, Map8>>;

/**
 * `inner` with its memory in 8 bits: decode, update, take each block's largest magnitude, encode. Leaves of fewer than `minSize` numbers
 * keep theirs in f32. Dettmers et al. 2022; bitsandbytes's blockwise optimizers.
 */
export function blockwise8bit(inner: Transform, maps: Maps, minSize = 4096): Transform {
  const entries = Object.entries(maps).map(([name, map], i) => ({ name, map, code: `state${i + 1}`, scale: `absmax${i + 1}` }));
  const small = (x: Tensor): boolean => x.size < minSize;
  return {
    init(params) {
      const first = inner.init(params), big = filterLeaves(params, (_, p) => !small(p));
      return Object.fromEntries(entries.flatMap(({ name, code, scale }): [string, Leaves][] => [
        [code, mapLeaves(params, (p, path) => (small(p) ? first[name][path] : filled(p.shape, "u8")))], [scale, mapLeaves(big, (p) => filled([blocksOf(p)], "f32"))],
      ]));
    },
    update(updates, state, params, context) {
      const wide: State = Object.fromEntries(entries.map(({ name, map, code, scale }): [string, Leaves] => [name, mapLeaves(updates, (g, path) =>
        (small(g) ? state[code][path] : decodeDynamic(state[code][path], map, g.dtype === "f64" ? "f64" : "f32").mul(spread(state[scale][path].cast(g.dtype), g))))]));
      const done = inner.update(updates, wide, params, { ...context, keep: (next) => next }), next: Record<string, Record<string, Tensor>> = {};
      for (const { name, map, code, scale } of entries) {
        next[code] = {}; next[scale] = {};
        for (const [path, x] of Object.entries(done.state[name])) {
          if (small(x)) { next[code][path] = context.keep(x, state[code][path]); continue; }
          const largest = blockMaxima(x), some = largest.gt(0), inverse = some.where(reciprocal(some.where(largest, 1)), 0);
          next[code][path] = context.keep(encodeDynamic(x.mul(spread(inverse, x)), map), state[code][path]);
          next[scale][path] = context.keep(largest.cast("f32"), state[scale][path]);
        }
      }
      return { updates: done.updates, state: next };
    },
  };
}

interface EightBit extends CommonOptions {
  /** leaves of fewer numbers keep f32 states; default 4096 */
  readonly min8bitSize?: number;
}
/** Options of `adam8bit` and `adamw8bit`. */
export interface Adam8bitOptions extends EightBit { readonly betas?: readonly [number, number]; readonly eps?: number }
/** Options of `lion8bit`. */
export interface Lion8bitOptions extends EightBit { readonly betas?: readonly [number, number] }
/** Options of `rmsprop8bit`. */
export interface Rmsprop8bitOptions extends EightBit { readonly alpha?: number; readonly eps?: number }

const size = (op: string, { min8bitSize = 4096 }: EightBit): number => whole(op, "min8bitSize", min8bitSize);

function adamOf8bit(op: "adam8bit" | "adamw8bit", options: Adam8bitOptions, decay: number): Optimizer {
  knownKeys(op, options, [...commonKeys, "betas", "eps", "min8bitSize"]);
  const { learningRate = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = decay } = options, rules = rulesOf(op, { ...options, learningRate, weightDecay });
  checkedBetas(op, betas);
  notNegative(op, "eps", eps);
  const scaled = blockwise8bit(scaleByAdam({ betas, eps, average: "sum" }), { exp_avg: "signed", exp_avg_sq: "unsigned" }, size(op, options));
  return built(op, options, [decayWeights(rules.decay, rules), scaled, scaleByLearningRate(rules)], rules, { betas, eps });
}
/**
 * AdamW with both moments in 8 bits (bitsandbytes.optim.AdamW8bit): 2 + 8/256 bytes a parameter instead of 8.
 * p ← p(1 - lr λ), then Adam's step from the decoded moments, which are encoded anew. Defaults: as `adamw`.
 */
export const adamw8bit = (options: Adam8bitOptions = {}): Optimizer => adamOf8bit("adamw8bit", options, 1e-2);
/** The same without decay by default (bitsandbytes.optim.Adam8bit; its decay is decoupled too, unlike torch's Adam). */
export const adam8bit = (options: Adam8bitOptions = {}): Optimizer => adamOf8bit("adam8bit", options, 0);

/** Lion with its momentum in 8 bits (bitsandbytes.optim.Lion8bit): 1 + 4/256 bytes a parameter. Defaults: as `lion`. */
export function lion8bit(options: Lion8bitOptions = {}): Optimizer {
  const op = "lion8bit";
  knownKeys(op, options, [...commonKeys, "betas", "min8bitSize"]);
  const { learningRate = 1e-4, betas = [0.9, 0.99], weightDecay = 0 } = options, rules = rulesOf(op, { ...options, learningRate, weightDecay });
  checkedBetas(op, betas);
  return built(op, options, [decayWeights(rules.decay, rules), blockwise8bit(scaleByLion({ betas }), { exp_avg: "signed" }, size(op, options)), scaleByLearningRate(rules)], rules, { betas });
}

/** RMSprop with its mean square in 8 bits (bitsandbytes.optim.RMSprop8bit, signed map as there). Defaults: learningRate 1e-2, alpha 0.99. */
export function rmsprop8bit(options: Rmsprop8bitOptions = {}): Optimizer {
  const op = "rmsprop8bit";
  knownKeys(op, options, [...commonKeys, "alpha", "eps", "min8bitSize"]);
  const { learningRate = 1e-2, alpha = 0.99, eps = 1e-8, weightDecay = 0 } = options, rules = rulesOf(op, { ...options, learningRate, weightDecay });
  fraction(op, "alpha", alpha);
  notNegative(op, "eps", eps);
  return built(op, options, [addDecayedWeights(rules.decay), blockwise8bit(scaleByRms({ alpha, eps }), { square_avg: "signed" }, size(op, options)), scaleByLearningRate(rules)], rules, { alpha, eps });
}

/** What a state holds as numbers: decoded where it is codes. */
export async function decodedState(states: Readonly<Record<string, Readonly<Record<string, Tensor>>>>, name: string, path: string): Promise<ArrayLike<number>> {
  const s = states[name][path];
  if (s.dtype !== "u8") return s.data();
  return decodeDynamic(s, name === "state2" ? "unsigned" : "signed").mul(spread(states[name.replace("state", "absmax")][path], s)).data();
}
