/** Packing against TRL's `pack_dataset`, and its laws. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError } from "@adjoint/tensor";
import { golden as goldenOf } from "@adjoint/testing/fixtures";
import { IGNORED, pack, packingStrategies, type PackingStrategy, type Sample } from "../src/data/index.ts";

interface Golden {
  cases: { lengths: number[]; max_length: number; strategy: PackingStrategy; rows: [number, number, number][][]; seq_lengths?: number[][] }[];
}
const golden: Golden = goldenOf("packing");

/** Sample i holds 1000 i, 1000 i + 1, ...: every token says where it comes from. */
const numbered = (lengths: readonly number[]): Sample[] => lengths.map((length, i) => {
  const ids = Array.from({ length }, (_, j) => 1000 * i + j);
  return { ids, labels: ids };
});

describe("equals TRL", () => {
  test.each(golden.cases.map((c, i) => [`${i}: ${c.strategy} ${c.max_length}`, c] as const))("%s", (_, c) => {
    const rows = pack(numbered(c.lengths), c.max_length, c.strategy);
    expect(rows.map(({ ids }) => ids)).toEqual(c.rows.map((row) => row.flatMap(([i, from, count]) => Array.from({ length: count }, (_, j) => 1000 * i + from + j))));
    if (c.seq_lengths !== undefined) expect(rows.map(({ pieces }) => pieces)).toEqual(c.seq_lengths);
  });
});

const lengths = fc.array(fc.integer({ min: 0, max: 20 }), { maxLength: 30 });
const maxLength = fc.integer({ min: 1, max: 12 });

describe("laws", () => {
  test("no row is longer than max_length, and no token is invented, lost or doubled", () => {
    fc.assert(fc.property(lengths, maxLength, fc.constantFrom(...packingStrategies), (sizes, limit, strategy) => {
      const rows = pack(numbered(sizes), limit, strategy);
      const kept = numbered(sizes).flatMap(({ ids }) => (strategy === "bfd" ? ids.slice(0, limit) : ids));
      expect(rows.every(({ ids, labels }) => ids.length > 0 && ids.length <= limit && labels.length === ids.length)).toBe(true);
      expect(rows.flatMap(({ ids }) => ids).sort((a, b) => a - b)).toEqual(kept);
    }));
  });

  test("documents stay in one piece, and no first token is predicted from another document", () => {
    fc.assert(fc.property(lengths, maxLength, (sizes, limit) => {
      for (const { ids, labels, pieces = [] } of pack(numbered(sizes), limit, "bfd")) {
        expect(pieces.reduce((sum, size) => sum + size, 0)).toBe(ids.length);
        let at = 0;
        for (const size of pieces) {
          expect(ids.slice(at, at + size)).toEqual(Array.from({ length: size }, (_, j) => ids[at] + j));
          expect(ids[at] % 1000).toBe(0);
          expect(labels.slice(at, at + size)).toEqual([IGNORED, ...ids.slice(at + 1, at + size)]);
          at += size;
        }
      }
    }));
  });

  test("best fit leaves no two rows that would fit into one", () => {
    fc.assert(fc.property(lengths, maxLength, (sizes, limit) => {
      const used = pack(numbered(sizes), limit, "bfd").map(({ ids }) => ids.length).sort((a, b) => a - b);
      if (used.length > 1) expect(used[0] + used[1]).toBeGreaterThan(limit);
    }));
  });

  test("wrapped fills every row but the last and keeps the order", () => {
    fc.assert(fc.property(lengths, maxLength, (sizes, limit) => {
      const rows = pack(numbered(sizes), limit, "wrapped");
      expect(rows.flatMap(({ ids }) => ids)).toEqual(numbered(sizes).flatMap(({ ids }) => ids));
      expect(rows.slice(0, -1).every(({ ids }) => ids.length === limit)).toBe(true);
      expect(rows.every(({ pieces }) => pieces === undefined)).toBe(true);
    }));
  });
});

test("a row of no tokens is refused", () => {
  expect(() => pack([], 0, "bfd")).toThrow(ConfigError);
});
