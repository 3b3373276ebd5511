/** A skill that anyone can check: numbers in English words to digits, made here, with held-out combinations. */
import { ConfigError, permutation } from "@adjoint/tensor";

const UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"];
const TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

/** The English words of a whole number from 0 to 999,999: "three hundred forty-two". */
export function numberWords(n: number): string {
  if (!Number.isInteger(n) || n < 0 || n > 999_999) throw new ConfigError(`numberWords: ${n} is not a whole number from 0 to 999999`, { op: "numberWords", value: n, fix: "take another number" });
  if (n < 20) return UNITS[n];
  if (n < 100) return TENS[Math.floor(n / 10)] + (n % 10 === 0 ? "" : `-${UNITS[n % 10]}`);
  const [size, name] = n < 1000 ? [100, "hundred"] : [1000, "thousand"];
  return `${numberWords(Math.floor(n / size))} ${name}${n % size === 0 ? "" : ` ${numberWords(n % size)}`}`;
}

/** Range and split of `numbers`. */
export interface NumbersOptions {
  /** smallest and largest number (default 0 to 999) */
  readonly from?: number;
  readonly to?: number;
  /** rows kept for the test (default 100) */
  readonly heldOut?: number;
  readonly seed?: number;
}

/** One example. */
export interface NumberRow {
  readonly prompt: string;
  readonly completion: string;
}

/**
 * Rows such as `three hundred forty-two ->` with the completion ` 342`, for every number of the range.
 *
 * The held-out numbers are drawn by seed among those of several words whose every word, at its place (what stands before "hundred", the
 * tens, the rest), also occurs in training: each part is known, each combination is new.
 *
 * @throws ConfigError when the range has too few combinations to hold out so many
 */
export function numbers(options: NumbersOptions = {}): { train: NumberRow[]; test: NumberRow[] } {
  const { from = 0, to = 999, heldOut = 100, seed = 42 } = options;
  if (!(Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from <= to && to <= 999_999)) {
    throw new ConfigError(`numbers: the range ${from} to ${to} is none`, { op: "numbers", key: "to", value: to, fix: "take 0 <= from <= to <= 999999" });
  }
  const count = new Map<string, number>();
  const parts = Array.from({ length: to - from + 1 }, (_, i) => places(from + i));
  for (const part of parts.flat()) count.set(part, (count.get(part) ?? 0) + 1);

  const chosen = new Set<number>();
  for (const i of permutation(seed, "numbers", parts.length)) {
    if (chosen.size === heldOut) break;
    if (parts[i].length < 2 || parts[i].some((part) => (count.get(part) ?? 0) < 2)) continue;
    chosen.add(i);
    for (const part of parts[i]) count.set(part, (count.get(part) ?? 0) - 1);
  }
  if (chosen.size < heldOut) throw new ConfigError(`numbers: only ${chosen.size} of the ${heldOut} rows can be held out`, { op: "numbers", key: "heldOut", value: heldOut, fix: "hold out fewer, or widen the range" });
  const row = (i: number): NumberRow => ({ prompt: `${numberWords(from + i)} ->`, completion: ` ${from + i}` });
  const order = [...parts.keys()];
  return { train: order.filter((i) => !chosen.has(i)).map(row), test: [...chosen].sort((a, b) => a - b).map(row) };
}

/** The words of a number with what follows them up to the next scale word: what has to be seen in training. */
function places(n: number): string[] {
  const words = numberWords(n).split(/[ -]/);
  return words.map((word, i) => {
    const scale = words.slice(i + 1).find((next) => next === "hundred" || next === "thousand");
    return `${word} of ${scale ?? "ones"}`;
  });
}
