/** How much of held-out text occurs word for word in training text, and where. */
import { Windows } from "./windows.ts";

/** Result of `overlap`. */
export interface Overlap {
  /** windows of the held-out texts, all positions counted */
  readonly windows: number;
  /** those that occur somewhere in the training texts */
  readonly shared: number;
  /** shared / windows, 0 if there are none */
  readonly share: number;
  /** characters of the longest stretch of one held-out text whose every window is shared, and that stretch */
  readonly longest: number;
  readonly longestText: string;
}

/**
 * The share of the held-out texts' windows of `length` characters (UTF-16 units, white space folded to one space) that occur in the
 * training texts: |{i : h[i, i + length) in train}| / |{i}|. Windows do not reach across texts; the result is exact.
 */
export function overlap(heldOut: readonly string[], train: readonly string[], length = 50): Overlap {
  const texts = heldOut.map(fold);
  const table = new Windows(texts, length);
  const found = new Uint8Array(table.all.length);
  for (const text of train) table.search(fold(text), (_, position) => (found[position] = 1));

  let windows = 0, shared = 0, longestRun = 0, longestEnd = 0;
  texts.forEach((text, t) => {
    let run = 0;
    for (let at = 0; at + length <= text.length; at++) {
      const position = table.starts[t] + at;
      windows++;
      run = found[table.first[position]] === 1 ? run + 1 : 0;
      if (run > 0) shared++;
      if (run > longestRun) [longestRun, longestEnd] = [run, position + length];
    }
  });
  const longest = longestRun === 0 ? 0 : longestRun + length - 1;
  return { windows, shared, share: windows === 0 ? 0 : shared / windows, longest, longestText: table.all.slice(longestEnd - longest, longestEnd) };
}

const fold = (text: string): string => text.replace(/\s+/g, " ").trim();

/** A stretch of a text: start and length in UTF-16 units. */
export type Passage = readonly [start: number, length: number];

/** For each training text, its stretches made of windows of `length` characters that occur in a held-out text (nothing folded). */
export function sharedPassages(heldOut: readonly string[], train: readonly string[], length: number): Passage[][] {
  const table = new Windows(heldOut, length);
  return train.map((text) => {
    const passages: [number, number][] = [];
    table.search(text, (at) => {
      const last = passages[passages.length - 1];
      if (last !== undefined && at <= last[0] + last[1]) last[1] = at + length - last[0];
      else passages.push([at, length]);
    });
    return passages;
  });
}

/** The text without these passages (sorted, not overlapping). */
export function without(text: string, passages: readonly Passage[]): string {
  const ends = [0, ...passages.map(([start, length]) => start + length)];
  return ends.map((end, i) => text.slice(end, passages[i]?.[0])).join("");
}
