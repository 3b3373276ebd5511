/** Forgetting an optimizer's moments, all or in part: what ReLoRA does when it starts a cycle. */
import { ConfigError, type Store, hostUniform, quantile } from "@adjoint/tensor";
import { decodedState } from "./blockwise.ts";
import { fraction, knownKeys, oneOf } from "./check.ts";
import { zeroCode } from "./dynamic-map.ts";
import { type Match, checkMatch, matches } from "./groups.ts";
import type { BoundOptimizer } from "./optimizer.ts";
import { isFactor } from "./pairs.ts";

/** Options of `resetState`. */
export interface ResetOptions {
  /** zero: all; random: each number with probability `ratio`; magnitude: the numbers up to the `ratio`-quantile of |x| of their tensor */
  readonly mode: "zero" | "random" | "magnitude";
  /** share in [0, 1) that is forgotten; needed unless the mode is "zero" */
  readonly ratio?: number;
  /** leaves; default: the factors of adapters (lora_A, lora_B) */
  readonly match?: Match;
  /** of mode "random"; default 0. Each call at another step draws other numbers */
  readonly seed?: number;
}
/** What never is forgotten: copies of parameters, the scales of codes, and the step of a halt. */
const lasting = (name: string): boolean => name === "master" || name === "halted" || name.startsWith("absmax");

/**
 * Sets moments to zero; counts of updates stay, and so do parameters (ReLoRA's reset: Lialin et al. 2023). Take it between steps.
 * 8-bit states are judged by what they decode to. Errors: ConfigError for a ratio outside [0, 1), one beside mode "zero", or a match that takes no parameter.
 * @example await resetState(optimizer, { mode: "magnitude", ratio: 0.9 })
 */
export async function resetState<T>(optimizer: BoundOptimizer<T>, options: ResetOptions): Promise<void> {
  const op = "resetState";
  knownKeys(op, options, ["mode", "ratio", "match", "seed"]);
  const { mode, match = isFactor, seed = 0 } = options, ratio = oneOf(op, "mode", mode, ["zero", "random", "magnitude"]) === "zero" ? 1 : fraction(op, "ratio", options.ratio ?? NaN);
  if (mode === "zero" && options.ratio !== undefined) throw new ConfigError(`${op}: mode "zero" forgets all, and ratio is ${options.ratio}`, { op, key: "ratio", value: options.ratio, fix: 'remove it, or use mode "random" or "magnitude"' });
  checkMatch(op, "match", match);
  const paths = Object.keys(optimizer.params);
  if (!paths.some((path) => matches(match, path))) throw new ConfigError(`${op}: ${options.match === undefined ? "there are no factors of an adapter (lora_A, lora_B)" : "match takes no parameter"}`, { op, key: "match", value: options.match, fix: `parameters are named like ${paths.slice(0, 3).join(", ")}` });
  for (const [name, leaves] of Object.entries(optimizer.states)) {
    if (lasting(name)) continue;
    for (const [path, s] of Object.entries(leaves)) if (matches(match, path)) await forget(s, await decodedState(optimizer.states, name, path), name);
  }
  async function forget(s: Store, x: ArrayLike<number>, name: string): Promise<void> {
    const host = await s.host(), data = host.data.slice(), zero = s.dtype === "u8" ? zeroCode(name === "state2" ? "unsigned" : "signed") : 0;
    const limit = mode === "magnitude" ? quantile(Float64Array.from(x, Math.abs), ratio) : 0;
    const chance = mode === "random" ? hostUniform(seed, `pruning/${s.name}`, s.shape, { step: optimizer.counter.value }).data : null;
    for (let i = 0; i < data.length; i++) if (chance !== null ? chance[i] <= ratio : mode === "zero" || Math.abs(x[i]) <= limit) data[i] = zero;
    s.set({ dtype: s.dtype, shape: s.shape, data });
  }
}
