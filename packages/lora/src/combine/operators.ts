/** How lists of numbers of several adapters become one: pruning, weighted sums, and means over those that agree on a sign. */
import { hostUniform, kthvalue } from "@adjoint/tensor";

type Numbers = Float64Array;

/** The density·n numbers of the largest magnitude (rounded down; of equal ones the first), 0 elsewhere. Trim of TIES (Yadav et al. 2023, arXiv 2306.01708). */
export function keepLargest(x: Numbers, density: number): Numbers {
  const k = Math.floor(density * x.length), out = new Float64Array(x.length);
  if (k === 0) return out;
  const size = x.map(Math.abs), limit = kthvalue(size, x.length - k + 1);
  let ties = k - size.reduce((n, v) => n + (v > limit ? 1 : 0), 0);
  for (let i = 0; i < x.length; i++) if (size[i] > limit || (size[i] === limit && ties-- > 0)) out[i] = x[i];
  return out;
}

/** Each number with probability `density`, divided by it, so that the mean stays. DARE (Yu et al. 2024, arXiv 2311.03099). */
export function keepRandom(x: Numbers, density: number, seed: number, stream: string): Numbers {
  const { data } = hostUniform(seed, stream, [x.length]);
  return x.map((v, i) => (data[i] < density ? v / density : 0));
}

/** Σ w x. */
export const weightedSum = (xs: readonly Numbers[], w: readonly number[]): Numbers => xs[0].map((_, i) => xs.reduce((sum, x, a) => sum + w[a] * x[i], 0));

/** How the sign of an entry is chosen: that of the sum, or the more frequent one; 0 counts as plus. */
export type SignRule = "total" | "frequency";

/**
 * Σ w x / count over the adapters whose sign at an entry is the chosen one, 0 where none is. The sign is that of the terms w x themselves;
 * `unweighted` takes it from x alone, as PEFT does (the same where all weights are equal and positive).
 */
export function electedMean(xs: readonly Numbers[], w: readonly number[], rule: SignRule, unweighted: boolean): Numbers {
  return xs[0].map((_, i) => {
    const votes = xs.map((x, a) => (unweighted ? x[i] : w[a] * x[i]));
    const chosen = votes.reduce((sum, v) => sum + (rule === "total" ? v : Math.sign(v)), 0) >= 0 ? 1 : -1;
    let sum = 0, count = 0;
    votes.forEach((v, a) => {
      if (Math.sign(v) !== chosen) return;
      sum += w[a] * xs[a][i];
      count++;
    });
    return sum / Math.max(1, count);
  });
}
