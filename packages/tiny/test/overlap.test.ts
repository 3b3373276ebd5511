/** `overlap` against its definition, by brute force. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { overlap, sharedPassages, without } from "../src/index.ts";

const fold = (text: string): string => text.replace(/\s+/g, " ").trim();

/** Straight from the definition: look each window up in each training text. */
function slow(heldOut: readonly string[], train: readonly string[], length: number): { windows: number; shared: number; longest: number } {
  let windows = 0, shared = 0, longest = 0;
  for (const text of heldOut.map(fold)) {
    let run = 0;
    for (let i = 0; i + length <= text.length; i++) {
      windows++;
      const hit = train.some((other) => fold(other).includes(text.slice(i, i + length)));
      run = hit ? run + 1 : 0;
      if (hit) shared++;
      if (run > 0) longest = Math.max(longest, run + length - 1);
    }
  }
  return { windows, shared, longest };
}

const text = fc.array(fc.constantFrom("a", "b", " ", "\n", "é", "🐋"), { maxLength: 30 }).map((parts) => parts.join(""));
const list = fc.array(text, { maxLength: 4 });

test("equals the definition", () => {
  fc.assert(fc.property(list, list, fc.integer({ min: 1, max: 6 }), (heldOut, train, length) => {
    const found = overlap(heldOut, train, length);
    expect({ windows: found.windows, shared: found.shared, longest: found.longest }).toEqual(slow(heldOut, train, length));
    expect(found.longestText.length).toBe(found.longest);
  }), { numRuns: 500 });
});

test("a text shares all of itself, and nothing with nothing", () => {
  fc.assert(fc.property(list, (texts) => {
    const self = overlap(texts, texts, 3);
    expect(self.shared).toBe(self.windows);
    expect(overlap(texts, [], 3).shared).toBe(0);
  }));
});

test("without its shared passages, a text keeps every other character and no passage is left at its place", () => {
  fc.assert(fc.property(list, text, fc.integer({ min: 1, max: 6 }), (heldOut, train, length) => {
    const [passages] = sharedPassages(heldOut, [train], length);
    const covered = new Array<boolean>(train.length).fill(false);
    for (let i = 0; i + length <= train.length; i++) {
      if (heldOut.some((other) => other.includes(train.slice(i, i + length)))) covered.fill(true, i, i + length);
    }
    expect(without(train, passages)).toBe(train.split("").filter((_, i) => !covered[i]).join(""));
  }), { numRuns: 500 });
});
