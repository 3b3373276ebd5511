/** Order statistics without a sort: the k-th smallest number, and quantiles between two of them. */
import { ConfigError, ShapeError } from "../errors.ts";

/**
 * Moves numbers so that x[k] is the k-th smallest (from 0), none before it is larger and none after it smaller. O(n) on average; the
 * pivot is the median of the first, middle and last number (Hoare 1961).
 */
function select(x: Float64Array, k: number): number {
  for (let low = 0, high = x.length - 1; low < high;) {
    const a = x[low], b = x[(low + high) >> 1], c = x[high], pivot = Math.max(Math.min(a, b), Math.min(Math.max(a, b), c));
    let i = low, j = high;
    while (i <= j) {
      while (x[i] < pivot) i++;
      while (x[j] > pivot) j--;
      if (i > j) break;
      const t = x[i];
      x[i++] = x[j];
      x[j--] = t;
    }
    if (k <= j) high = j;
    else if (k >= i) low = i;
    else break;
  }
  return x[k];
}

/** A copy to reorder, or null where a NaN makes every order statistic NaN, as torch says. */
function numbers(op: string, x: ArrayLike<number>): Float64Array | null {
  if (x.length === 0) throw new ShapeError(`${op}: no numbers`, { op, shapes: [[0]], fix: "pass at least one" });
  const out = new Float64Array(x);
  return out.some(Number.isNaN) ? null : out;
}

/**
 * The k-th smallest number, k from 1 (torch.kthvalue's value; NaN counts as larger than all).
 * @throws ShapeError for no numbers; ConfigError for a k outside 1 ... x.length
 */
export function kthvalue(x: ArrayLike<number>, k: number): number {
  const all = new Float64Array(x);
  if (all.length === 0) throw new ShapeError("kthvalue: no numbers", { op: "kthvalue", shapes: [[0]], fix: "pass at least one" });
  if (!Number.isInteger(k) || k < 1 || k > all.length) throw new ConfigError(`kthvalue: k is ${k}, there are ${all.length} numbers`, { op: "kthvalue", key: "k", value: k, fix: `pass an integer from 1 to ${all.length}` });
  const ordered = all.filter((v) => !Number.isNaN(v));
  return k > ordered.length ? NaN : select(ordered, k - 1);
}

/**
 * The q-quantile: with t = q·(n - 1), the number at rank ⌊t⌋ of the sorted x plus (t - ⌊t⌋) of the way to the next (torch.quantile,
 * interpolation "linear", in f64). A NaN among the numbers makes the answer NaN.
 * @throws ShapeError for no numbers; ConfigError for a q outside [0, 1]
 * @example quantile([3, 1, 2], 0.25) // 1.5
 */
export function quantile(x: ArrayLike<number>, q: number): number {
  if (!(q >= 0 && q <= 1)) throw new ConfigError(`quantile: q is ${q}`, { op: "quantile", key: "q", value: q, fix: "pass a number from 0 to 1" });
  const all = numbers("quantile", x);
  if (all === null) return NaN;
  const at = q * (all.length - 1), low = Math.floor(at), part = at - low, a = select(all, low);
  if (part === 0) return a;
  let b = Infinity;
  for (let i = low + 1; i < all.length; i++) b = Math.min(b, all[i]);
  return a === b ? a : part < 0.5 ? a + part * (b - a) : b - (1 - part) * (b - a);
}
