/** Packing: several documents share a row, so that little of a batch is padding. */
import { ConfigError } from "@adjoint/tensor";
import { IGNORED, type Sample } from "./sample.ts";

/** The ways to pack, as in TRL's `packing_strategy`. */
export type PackingStrategy = "bfd" | "bfd_split" | "wrapped";

/** All strategies, for messages and recipes. */
export const packingStrategies: readonly PackingStrategy[] = ["bfd", "bfd_split", "wrapped"];

/**
 * Packs samples into rows of at most `maxLength` tokens.
 *
 * - `bfd`: best fit, longest first: each sample goes into the fullest row that has room for it (the oldest among equals). Samples longer
 *   than a row are cut at its end.
 * - `bfd_split`: the same, but longer samples are first split into pieces of `maxLength`, and nothing is lost.
 * - `wrapped`: all samples one after another, cut every `maxLength` tokens: documents share rows and see each other.
 *
 * In `bfd` rows documents must not see each other: `pieces` holds their lengths, and no document's first token is predicted from the
 * document before.
 *
 * @throws ConfigError for an unknown strategy or a length below 2
 * Source: TRL `pack_dataset`; Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (arXiv 2404.10830)
 */
export function pack(samples: readonly Sample[], maxLength: number, strategy: PackingStrategy): Sample[] {
  if (!Number.isInteger(maxLength) || maxLength < 1) {
    throw new ConfigError(`pack: max_length is ${maxLength}`, { op: "pack", key: "max_length", value: maxLength, fix: "take a positive integer, such as 256" });
  }
  switch (strategy) {
    case "wrapped": return wrap(samples, maxLength);
    case "bfd": return bestFit(samples.map((sample) => cut(sample, 0, maxLength)), maxLength);
    case "bfd_split": return bestFit(samples.flatMap((sample) => splits(sample, maxLength)), maxLength);
    default: {
      strategy satisfies never;
      throw new ConfigError(`pack: unknown packing_strategy ${JSON.stringify(strategy)}`, { op: "pack", key: "packing_strategy", value: strategy, fix: `take one of ${packingStrategies.join(", ")}` });
    }
  }
}

/** Tokens [start, end) of a sample. */
export const cut = ({ ids, labels }: Sample, start: number, end: number): Sample => ({ ids: ids.slice(start, end), labels: labels.slice(start, end) });

function splits(sample: Sample, maxLength: number): Sample[] {
  return Array.from({ length: Math.ceil(sample.ids.length / maxLength) }, (_, i) => cut(sample, i * maxLength, (i + 1) * maxLength));
}

function wrap(samples: readonly Sample[], maxLength: number): Sample[] {
  const rows: Sample[] = [];
  let ids: number[] = [], labels: number[] = [];
  for (const sample of samples) {
    for (let i = 0; i < sample.ids.length; i++) {
      ids.push(sample.ids[i]);
      labels.push(sample.labels[i]);
      if (ids.length === maxLength) {
        rows.push({ ids, labels });
        [ids, labels] = [[], []];
      }
    }
  }
  if (ids.length > 0) rows.push({ ids, labels });
  return rows;
}

function bestFit(samples: readonly Sample[], maxLength: number): Sample[] {
  const order = samples.filter(({ ids }) => ids.length > 0).sort((a, b) => b.ids.length - a.ids.length);
  const rows: Sample[][] = [];
  const bySpace: Sample[][][] = Array.from({ length: maxLength + 1 }, () => []); // rows with so many free tokens, oldest first
  const spaces = new Spaces(maxLength);
  for (const sample of order) {
    const space = spaces.atLeast(sample.ids.length);
    let row = space === undefined ? undefined : bySpace[space].shift();
    if (row === undefined) rows.push((row = []));
    if (space !== undefined && bySpace[space].length === 0) spaces.remove(space);
    row.push(sample);
    const left = (space ?? maxLength) - sample.ids.length;
    bySpace[left].push(row);
    if (left > 0) spaces.add(left);
  }
  return rows.map((row) => ({
    ids: row.flatMap(({ ids }) => ids),
    labels: row.flatMap(({ labels }) => [IGNORED, ...labels.slice(1)]),
    pieces: row.map(({ ids }) => ids.length),
  }));
}

/** A set of integers 1 ... n that finds its smallest member from a bound on in O(log n): a tree of maxima over 1 ... n. */
class Spaces {
  private readonly leaves: number;
  private readonly tree: Int32Array;

  constructor(n: number) {
    this.leaves = 2 ** Math.ceil(Math.log2(n + 1));
    this.tree = new Int32Array(2 * this.leaves);
  }

  add(value: number): void {
    this.set(value, value);
  }

  remove(value: number): void {
    this.set(value, 0);
  }

  /** The smallest member that is at least `bound`. */
  atLeast(bound: number): number | undefined {
    if (this.tree[1] < bound) return undefined;
    let node = 1;
    while (node < this.leaves) node = 2 * node + (this.tree[2 * node] >= bound ? 0 : 1);
    return this.tree[node];
  }

  private set(index: number, value: number): void {
    let node = this.leaves + index;
    this.tree[node] = value;
    while (node > 1) {
      node >>= 1;
      this.tree[node] = Math.max(this.tree[2 * node], this.tree[2 * node + 1]);
    }
  }
}
