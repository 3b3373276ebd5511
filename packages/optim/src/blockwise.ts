/** 8-bit states: any transform whose memory is kept as codes of the dynamic map, with one scale a block of 256. */
import { type Tensor, concat, div, zeros } from "@adjoint/tensor";
import { scaleByAdam, checkedBetas } from "./adam.ts";
import { fraction, knownKeys, notNegative, whole } from "./check.ts";
import { type CommonOptions, built, commonKeys } from "./common.ts";
import { type Map8, decodeDynamic, dynamicMap, encodeDynamic } from "./dynamic-map.ts";
import { type Match, checkMatch, matches, rulesOf } from "./groups.ts";
import { scaleByLion } from "./lion.ts";
import type { Optimizer } from "./optimizer.ts";
import { scaleByRms } from "./rmsprop.ts";
import { type Leaves, type State, type Transform, filled, filterLeaves, mapLeaves } from "./transform.ts";
import { addDecayedWeights, decayWeights, scaleByLearningRate } from "./transforms.ts";

/** Numbers that share a scale. */
export const BLOCK = 256;
const blocksOf = (x: Tensor): number => Math.ceil(x.size / BLOCK);

/** Numbers in rows of a block; the last is filled up with zeros. */
function rowsOf(x: Tensor): Tensor {
  const short = x.size % BLOCK, flat = short === 0 ? x : concat([x.reshape([x.size]), zeros([BLOCK - short], x.dtype)]);
  return flat.reshape([blocksOf(x), BLOCK]);
}
/** The inverse of `rowsOf`. */
function fromRows(rows: Tensor, like: Tensor): Tensor {
  const short = like.size % BLOCK;
  return (short === 0 ? rows : rows.reshape([rows.size]).slice(0, 0, like.size)).reshape(like.shape);
}
/** What codes and scales stand for, in rows. */
const decoded = (codes: Tensor, scales: Tensor, map: Map8, dtype: "f32" | "f64"): Tensor => decodeDynamic(rowsOf(codes), map, dtype).mul(scales.cast(dtype).reshape([blocksOf(codes), 1]));

/** Whether a leaf's memory is codes: not where it is small or was left out. */
const inCodes = (minSize: number, keep32bit?: Match) => (x: Tensor, path: string): boolean => x.size >= minSize && !(keep32bit !== undefined && matches(keep32bit, path));

/** A state of the inner transform: which map it uses; its codes are saved as `state<i>`, its scales as `absmax<i>`, as in bitsandbytes. */
export type Maps = Readonly<Record<string, Map8>>;

/**
 * `inner` with its memory in 8 bits: decode, update, take each block's largest magnitude, encode. Leaves of fewer than `minSize` numbers
 * keep theirs in f32. Dettmers et al. 2022; bitsandbytes's blockwise optimizers.
 */
export function blockwise8bit(inner: Transform, maps: Maps, minSize = 4096, keep32bit?: Match): Transform {
  if (keep32bit !== undefined) checkMatch("blockwise8bit", "keep32bit", keep32bit);
  const entries = Object.entries(maps).map(([name, map], i) => ({ name, map, code: `state${i + 1}`, scale: `absmax${i + 1}` }));
  const coded = inCodes(minSize, keep32bit), small = (x: Tensor, path: string): boolean => !coded(x, path);
  return {
    constants: Object.fromEntries(entries.map(({ map, scale }, i) => [`qmap${i + 1}`, { beside: scale, value: { dtype: "f32", shape: [256], data: dynamicMap(map) } }])),
    init(params) {
      const first = inner.init(params), big = filterLeaves(params, (path, p) => !small(p, path));
      return Object.fromEntries(entries.flatMap(({ name, code, scale }): [string, Leaves][] => [
        [code, mapLeaves(params, (p, path) => (small(p, path) ? first[name][path] : filled(p.shape, "u8")))], [scale, mapLeaves(big, (p) => filled([blocksOf(p)], "f32"))],
      ]));
    },
    update(updates, state, params, context) {
      const inRows = (leaves: Leaves): Leaves => mapLeaves(leaves, (x, path) => (small(x, path) ? x : rowsOf(x)));
      const wide: State = Object.fromEntries(entries.map(({ name, map, code, scale }): [string, Leaves] => [name, mapLeaves(updates, (g, path) =>
        (small(g, path) ? state[code][path] : decoded(state[code][path], state[scale][path], map, g.dtype === "f64" ? "f64" : "f32")))]));
      const done = inner.update(inRows(updates), wide, inRows(params), { ...context, keep: (next) => next }), next: Record<string, Record<string, Tensor>> = {};
      for (const { name, map, code, scale } of entries) {
        next[code] = {}; next[scale] = {};
        for (const [path, x] of Object.entries(done.state[name])) {
          const codes = state[code][path], scales = state[scale][path];
          if (small(updates[path], path)) { next[code][path] = context.keep(x, codes); continue; }
          const largest = x.abs().amax(-1), made = encodeDynamic(x.mul(div(1, largest.maximum(1e-30))), map);
          next[code][path] = context.keep(codes.size % BLOCK === 0 ? made : fromRows(made, codes), codes);
          next[scale][path] = context.keep(largest.cast("f32"), scales);
        }
      }
      return { updates: mapLeaves(done.updates, (u, path) => (small(updates[path], path) ? u : fromRows(u, updates[path]))), state: next };
    },
  };
}

/**
 * Leaves in codes pass through `inner` as rows of a block, and stay rows on the way out, where they are whole blocks. A step of number-by-number links around `blockwise8bit`
 * is then one kernel a leaf, whose rows have their largest magnitude at hand whatever the leaf's own shape. Not with adaptive clipping, which looks at a leaf's own rows.
 */
const onBlocks = (op: string, { adaptiveClip, keep32bit, ...options }: EightBit) => (inner: Transform): Transform => {
  if (adaptiveClip !== undefined) return inner;
  const coded = inCodes(size(op, options), keep32bit), inRows = (leaves: Leaves): Leaves => mapLeaves(leaves, (x, path) => (x.size % BLOCK === 0 && coded(x, path) ? rowsOf(x) : x));
  return { ...inner, update: (updates, state, params, context) => inner.update(inRows(updates), state, inRows(params), context) };
};

interface EightBit extends CommonOptions {
  /** leaves of fewer numbers keep f32 states; default 4096 */
  readonly min8bitSize?: number;
  /** leaves that keep f32 states whatever their size (bitsandbytes: GlobalOptimManager, optim_bits 32) */
  readonly keep32bit?: Match;
}
/** Options of `adam8bit` and `adamw8bit`. */
export interface Adam8bitOptions extends EightBit { readonly betas?: readonly [number, number]; readonly eps?: number }
/** Options of `lion8bit`. */
export interface Lion8bitOptions extends EightBit { readonly betas?: readonly [number, number] }
/** Options of `rmsprop8bit`. */
export interface Rmsprop8bitOptions extends EightBit { readonly alpha?: number; readonly eps?: number }

const size = (op: string, { min8bitSize = 4096 }: EightBit): number => whole(op, "min8bitSize", min8bitSize);

function adamOf8bit(op: "adam8bit" | "adamw8bit", options: Adam8bitOptions, decay: number): Optimizer {
  knownKeys(op, options, [...commonKeys, "betas", "eps", "min8bitSize", "keep32bit"]);
  const { learningRate = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = decay } = options, rules = rulesOf(op, { ...options, learningRate, weightDecay });
  checkedBetas(op, betas);
  notNegative(op, "eps", eps);
  const scaled = blockwise8bit(scaleByAdam({ betas, eps, average: "sum" }), { exp_avg: "signed", exp_avg_sq: "unsigned" }, size(op, options), options.keep32bit);
  return built(op, options, [decayWeights(rules.decay, rules), scaled, scaleByLearningRate(rules)], rules, { betas, eps }, onBlocks(op, options));
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
  knownKeys(op, options, [...commonKeys, "betas", "min8bitSize", "keep32bit"]);
  const { learningRate = 1e-4, betas = [0.9, 0.99], weightDecay = 0 } = options, rules = rulesOf(op, { ...options, learningRate, weightDecay });
  checkedBetas(op, betas);
  return built(op, options, [decayWeights(rules.decay, rules), blockwise8bit(scaleByLion({ betas }), { exp_avg: "signed" }, size(op, options), options.keep32bit), scaleByLearningRate(rules)], rules, { betas, eps: 0 }, onBlocks(op, options));   // bitsandbytes asks for an eps that Lion does not have
}

/** RMSprop with its mean square in 8 bits (bitsandbytes.optim.RMSprop8bit, signed map as there). Defaults: learningRate 1e-2, alpha 0.99. */
export function rmsprop8bit(options: Rmsprop8bitOptions = {}): Optimizer {
  const op = "rmsprop8bit";
  knownKeys(op, options, [...commonKeys, "alpha", "eps", "min8bitSize", "keep32bit"]);
  const { learningRate = 1e-2, alpha = 0.99, eps = 1e-8, weightDecay = 0 } = options, rules = rulesOf(op, { ...options, learningRate, weightDecay });
  fraction(op, "alpha", alpha);
  notNegative(op, "eps", eps);
  return built(op, options, [addDecayedWeights(rules.decay), blockwise8bit(scaleByRms({ alpha, eps }), { square_avg: "signed" }, size(op, options), options.keep32bit), scaleByLearningRate(rules)], rules, { alpha, betas: [alpha, 0], eps }, onBlocks(op, options));     // betas: alpha and the momentum, in bitsandbytes's groups
}

/** What a state holds as numbers: decoded where it is codes. */
export async function decodedState(states: Readonly<Record<string, Readonly<Record<string, Tensor>>>>, name: string, path: string): Promise<ArrayLike<number>> {
  const s = states[name][path];
  if (s.dtype !== "u8") return s.data();
  return fromRows(decoded(s, states[name.replace("state", "absmax")][path], name === "state2" ? "unsigned" : "signed", "f32"), s).data();
}
