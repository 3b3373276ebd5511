/** Choosing the next token on the host, in f64, with random numbers that depend on seed and position alone. */
import { hostUniform } from "@adjoint/tensor";

export interface SampleOptions {
  /** 0: always the most likely token */
  readonly temperature: number;
  /** only the k most likely; Infinity: all */
  readonly topK: number;
  /** only the fewest most likely tokens whose probabilities sum to at least this (Holtzman et al. 2020); 1: all */
  readonly topP: number;
}

/** Tokens that may follow with their probabilities, most likely first: softmax(logits / temperature), then top-k, then top-p, renormalised. */
export function distribution(logits: ArrayLike<number>, { temperature, topK, topP }: SampleOptions): { readonly ids: readonly number[]; readonly probabilities: Float64Array } {
  const order = Array.from({ length: logits.length }, (_, i) => i).sort((a, b) => logits[b] - logits[a] || a - b);
  if (temperature === 0) return { ids: [order[0]], probabilities: Float64Array.of(1) };
  const kept = order.slice(0, Math.min(topK, order.length)), top = logits[order[0]];
  const weights = Float64Array.from(kept, (i) => Math.exp((logits[i] - top) / temperature)), total = weights.reduce((a, b) => a + b, 0);
  let n = 0, sum = 0;
  while (n < kept.length && (n === 0 || sum < topP)) sum += weights[n++] / total;
  return { ids: kept.slice(0, n), probabilities: weights.slice(0, n).map((w) => w / total / sum) };
}

/** One token of the distribution: number `index` of the stream "generation" under `seed`. */
export function sample(logits: ArrayLike<number>, options: SampleOptions, seed: number, index: number): number {
  const { ids, probabilities } = distribution(logits, options), [u] = hostUniform(seed, "generation", [1], { step: index }).data;
  let below = 0;
  for (let i = 0; i < ids.length; i++) if (u < (below += probabilities[i])) return ids[i];
  return ids[ids.length - 1];
}
