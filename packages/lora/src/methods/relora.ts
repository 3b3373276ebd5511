/**
 * ReLoRA: from time to time the update goes into the base and the factors start anew, so that the sum of updates of rank r has a rank above r
 * (Lialin et al. 2023, arXiv 2307.05695).
 *
 *   W ← W + s B A,   A ← new random numbers,   B ← 0
 */
import { assign, ConfigError, convertArray, flushAll, hostInteger } from "@adjoint/tensor";
import { type Attachment, tensorsOf } from "../attachments.ts";
import { parametersOf } from "../targets/modules.ts";
import { inTurn, stepsOf } from "../merged.ts";
import type { RequantizeError } from "../requantize.ts";
import { refreshConstants } from "../settled.ts";
import type { Tuned } from "../tuned.ts";

/** Options of `mergeAndReinit`. */
export interface ReinitOptions {
  readonly seed?: number;
  /** merges so far, this one included: another count draws other numbers */
  readonly count: number;
}

/** The seed of the factors after so many merges. */
export const reinitSeed = (seed: number, count: number): number => hostInteger(seed, "relora-reinit", count, 2 ** 32);

/** Whether an attachment is one of the adapted targets, and not what trains whole beside them. */
export const isTarget = <M>(tuned: Tuned<M>): ((a: Attachment) => boolean) => {
  const sites = new Set<Attachment["site"]>(tuned.targets.targets);
  return (a) => sites.has(a.site);
};

/**
 * Adds the adapter into the base for good and starts it anew as the identity: the model computes what it did, up to one rounding of the weights, and
 * its next updates have rank r again. Weights held as codes are decoded, added to and quantized again; what that lost is returned, a line a weight.
 *
 * New numbers come from a stream of seed and count, so that a run that goes on from a checkpoint draws those of one that was never cut. What follows from
 * the frozen weight (DoRA's magnitude and norms) is computed anew. Moments of an optimizer are the caller's: `resetState` of @adjoint/optim.
 * @throws ConfigError for an initialisation that is bound to the first base, for AdaLoRA and VeRA, for tied weights, and when a sum is not finite; then nothing has changed
 */
export async function mergeAndReinit<M>(tuned: Tuned<M>, { seed = 0, count }: ReinitOptions): Promise<readonly RequantizeError[]> {
  const { loraConfig: config } = tuned, rule = config.initLoraWeights;
  if (!(Number.isInteger(count) && count > 0)) throw new ConfigError(`mergeAndReinit: count is ${count}`, { op: "mergeAndReinit", key: "count", value: count, fix: "give the number of this merge: 1, 2, ..." });
  if (typeof rule !== "boolean" && rule !== "gaussian") throw new ConfigError(`init_lora_weights = ${JSON.stringify(rule)} belongs to the first base, and ReLoRA starts its factors anew`, { op: "mergeAndReinit", key: "init_lora_weights", value: rule, fix: 'use true or "gaussian"' });
  const kind = config.adalora !== null ? "adalora" : config.vera !== null ? "vera" : null;
  if (kind !== null) throw new ConfigError(`mergeAndReinit: ${kind} shares or counts its ranks over the whole run, and cannot start anew in the middle of it`, { op: "mergeAndReinit", key: kind, fix: "use LoRA or DoRA with ReLoRA" });
  return inTurn(tuned.base, () => absorbAndReinit(tuned, rule === "gaussian" ? rule : true, reinitSeed(seed, count)));
}

/** Both steps in one turn: nothing is merged between them. */
async function absorbAndReinit<M>(tuned: Tuned<M>, rule: true | "gaussian", from: number): Promise<readonly RequantizeError[]> {
  const targets = tuned.attachments.filter(isTarget(tuned)), errors = await stepsOf(tuned).absorb((a) => targets.includes(a));
  const draw = { ...tuned.loraConfig, initLoraWeights: rule };
  refreshConstants(targets);
  for (const a of targets) {
    for (const [role, { shape, data, dtype }] of Object.entries(a.method.init(a.site, draw, from))) {
      const s = a.factors[role];
      s.set({ dtype: s.dtype, shape, data: convertArray(data, dtype, s.dtype) });
    }
    for (const [role, value] of Object.entries(a.method.start?.(tensorsOf(a), a.site, parametersOf(a.module)) ?? {})) assign([a.factors[role]], [value]);
  }
  flushAll(); // they read the numbers of now, and a checkpoint may be loaded next
  return errors;
}
