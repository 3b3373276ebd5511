/** Scalar functions that JavaScript lacks, in f64. */

/**
 * erf(x) = 2/√π ∫₀ˣ exp(-t²) dt, to about 1e-15.
 *
 * Below 2 the series 2x/√π·exp(-x²)·Σ (2x²)ⁿ/(2n+1)!! (all terms of one sign, so nothing cancels); above, 1 - erfc by
 * the continued fraction of Abramowitz & Stegun 7.1.14.
 */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (!(a < 6)) return Number.isNaN(x) ? NaN : Math.sign(x);
  if (a < 2) {
    let term = 1, sum = 1;
    for (let n = 1; term > 1e-17 * sum; n++) { term *= 2 * a * a / (2 * n + 1); sum += term; }
    return 2 * x / Math.sqrt(Math.PI) * Math.exp(-a * a) * sum;
  }
  let tail = a;
  for (let n = 60; n > 0; n--) tail = a + n / 2 / tail;
  return Math.sign(x) * (1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * tail));
}

/** Float to i32: truncates, saturates, NaN becomes 0. */
export const floatToI32 = (x: number): number => (x >= 2147483647 ? 2147483647 : x <= -2147483648 ? -2147483648 : x | 0);

/** Float to u32: truncates, saturates, NaN becomes 0. */
export const floatToU32 = (x: number): number => (x >= 4294967295 ? 4294967295 : x <= 0 ? 0 : x >>> 0);
