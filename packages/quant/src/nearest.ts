/** The nearest entry of a codebook, by a table of the number's upper 16 bits and one comparison. */

const f = Math.fround;

/**
 * A codebook to be searched: codes in ascending order of value, and between neighbours the threshold above which the upper one is nearer.
 *
 * `rank(s) = start[bits(s) >>> 16] + (s > above[start[bits(s) >>> 16]])`: between two floats that share their upper half lies at most one threshold.
 */
export interface Nearest {
  /** code of each rank, ascending by value */
  readonly codes: Uint8Array;
  /** the midpoint between rank r and r + 1: `s > above[r]` picks the upper, a tie the lower one; infinite at the end */
  readonly above: Float32Array;
  /** rank of the least float that has these upper 16 bits */
  readonly start: Uint8Array;
}

/** Midpoints `(a + b) / 2` of neighbours of an ascending codebook, rounded to f32 as bitsandbytes rounds them. */
export function midpoints(ascending: Float32Array): Float32Array {
  return Float32Array.from({ length: ascending.length }, (_, r) => (r + 1 < ascending.length ? f(ascending[r] + ascending[r + 1]) / 2 : Infinity));
}

/** Builds the search of a codebook. `order` lists the codes that may be chosen, ascending by value; `above` their thresholds. */
export function nearest(order: readonly number[], above: Float32Array): Nearest {
  const start = new Uint8Array(65536), bits = new Uint32Array(1), least = new Float32Array(bits.buffer), codes = Uint8Array.from(order);
  let rank = 0;
  const place = (key: number, low: number, high: number): void => {
    bits[0] = low;
    while (least[0] > above[rank]) rank++;
    start[key] = rank;
    bits[0] = high;
    if (rank + 1 < above.length && least[0] > above[rank + 1]) throw new Error(`codebook: two thresholds between ${least[0]} and its neighbours`);
  };
  for (let key = 0xff7f; key >= 0x8000; key--) place(key, key * 65536 + 65535, key * 65536); // from the most negative up to -0
  for (let key = 0; key <= 0x7f7f; key++) place(key, key * 65536, key * 65536 + 65535);
  return { codes, above, start };
}

/** Codes in ascending order of their value; of two that mean the same (0 and -0 of FP4) only the first. */
export function ascending(table: Float32Array): number[] {
  const order = [...table.keys()].sort((a, b) => table[a] - table[b] || a - b);
  return order.filter((code, i) => i === 0 || table[code] !== table[order[i - 1]]);
}
