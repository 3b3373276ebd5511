import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError } from "@adjoint/tensor";
import { golden } from "@adjoint/testing/fixtures";
import { compilePattern, MAX_INSTRUCTIONS } from "../src/targets/pattern.ts";

/** Random small expressions whose syntax and meaning JavaScript and Python share. */
const expression = fc.letrec<{ node: string }>((tie) => ({
  node: fc.oneof(
    { maxDepth: 4, depthSize: "small" },
    fc.constantFrom("a", "b", ".", "\\.", "[ab]", "[^a]", "[a-b.]", "\\d", "\\w", "\\W", "1", "^", "\\b", "\\B", "(?:)"),
    fc.tuple(tie("node"), tie("node")).map(([a, b]) => a + b),
    fc.tuple(tie("node"), tie("node")).map(([a, b]) => `(?:${a}|${b})`),
    fc.tuple(tie("node"), fc.constantFrom("*", "+", "?", "{2}", "{1,2}", "{0,1}", "{1,}", "*?", "+?", "??", "{1,2}?")).map(([a, q]) => `(?:${a})${q}`),
    tie("node").map((a) => `(${a})`),
  ),
})).node;
const text = fc.string({ unit: fc.constantFrom("a", "b", ".", "1", "-"), maxLength: 7 });

describe("pattern", () => {
  it("matches a whole text exactly when JavaScript does", () => {
    fc.assert(
      fc.property(expression, text, (source, value) => {
        expect(compilePattern(source).fullMatch(value) !== null).toBe(new RegExp(`^(?:${source})$`, "u").test(value));
      }),
      { numRuns: 3000 },
    );
  });

  it("matches a prefix exactly when JavaScript does", () => {
    fc.assert(
      fc.property(expression, text, (source, value) => {
        expect(compilePattern(source).match(value) !== null).toBe(new RegExp(`^(?:${source})`, "u").test(value));
      }),
      { numRuns: 2000 },
    );
  });

  it("prefers the same alternative and captures the same groups as JavaScript where no repeated body can be empty", () => {
    const item = fc.constantFrom("a", "b", "[ab]", "(a)", "(b|ab)", "(a|ab)", "(?:a|b)+?", "(a+)", "(a+?)", "(ab|a)*", "b?", "(b??)", "(a{1,2})", "(a{1,2}?)");
    fc.assert(
      fc.property(fc.array(item, { minLength: 1, maxLength: 5 }), text, (items, value) => {
        const source = items.join("");
        const ours = compilePattern(source).match(value);
        const theirs = new RegExp(`^(?:${source})`, "u").exec(value);
        expect(ours === null ? null : [value.slice(0, ours.end), ...ours.groups.slice(1)]).toEqual(theirs === null ? null : [...theirs]);
      }),
      { numRuns: 3000 },
    );
  });

  it("takes time proportional to the text where backtracking takes exponential time", () => {
    const evil = ["(a*)*b", "(a|a)*b", "(a|aa)+b", "(?:a?){50}a{50}b", "(.*)(.*)(.*)(.*)(.*)b", "((a+)+)+b"];
    for (const source of evil) {
      const pattern = compilePattern(source);
      const start = performance.now();
      expect(pattern.fullMatch("a".repeat(5_000))).toBeNull();
      expect(performance.now() - start, source).toBeLessThan(3_000);
    }
  });

  it("refuses what cannot be linear by name, with the key", () => {
    const cases: [string, string][] = [
      ["(?=a)b", "look-ahead"],
      ["(?!a)b", "negative look-ahead"],
      ["(?<=a)b", "look-behind"],
      ["(?<!a)b", "negative look-behind"],
      ["(a)\\1", "back-reference \\1"],
      ["(?P<n>a)(?P=n)", "back-reference (?P="],
      ["a*+", "possessive"],
      ["a{1,2}+", "possessive"],
      ["(?>a)", "atomic"],
      ["(a)?(?(1)b|c)", "conditional"],
    ];
    for (const [source, name] of cases) {
      try {
        compilePattern(source, { key: "target_modules", file: "adapter_config.json" });
        expect.unreachable(source);
      } catch (error) {
        expect(error).toBeInstanceOf(ConfigError);
        if (!(error instanceof ConfigError)) return;
        expect(error.message).toContain(name);
        expect(error.details).toMatchObject({ key: "target_modules", file: "adapter_config.json", value: source });
      }
    }
  });

  it("refuses bad syntax instead of throwing something else", () => {
    for (const source of ["(", ")", "a)", "(a", "[a", "[]", "*a", "a**", "a{3,2}", "\\", "\\q", "a|*", "(?P<1>a)", "(?P<n>a)(?P<n>b)", "(?<n>a)", "(?z)a", "a(?i)b", "[b-a]", "\\x1", "^*", "(?"])
      expect(() => compilePattern(source), source).toThrow(ConfigError);
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(..."ab()[]{}*+?|\\^$.,-12:PZ<>=!"), maxLength: 12 }), (source) => {
        try {
          compilePattern(source).fullMatch("aab");
        } catch (error) {
          expect(error).toBeInstanceOf(ConfigError);
        }
      }),
      { numRuns: 3000 },
    );
  });

  it("bounds the written-out size, empty bodies included", () => {
    for (const source of ["((a{100}){100}){100}", "((((((?:){1000}){1000}){1000}){1000}){1000}){1000}", "a{1001}", `${"(".repeat(200)}${")".repeat(200)}`, "a".repeat(20_000)]) {
      const start = performance.now();
      expect(() => compilePattern(source), source.slice(0, 40)).toThrow(ConfigError);
      expect(performance.now() - start).toBeLessThan(1_000);
    }
    expect(compilePattern("(a{99}){99}").size).toBeLessThanOrEqual(MAX_INSTRUCTIONS);
  });
});

describe("pattern against Python's re", () => {
  const { texts, bad, cases } = golden<{
    texts: string[];
    bad: string[];
    cases: { pattern: string; full: number[]; prefix: [number, number, (string | null)[]][] }[];
  }>("patterns");

  it.each(cases.map((c) => [c.pattern, c] as const))("%s", (source, c) => {
    const pattern = compilePattern(source);
    expect(texts.flatMap((t, i) => (pattern.fullMatch(t) === null ? [] : [i]))).toEqual(c.full);
    const found = texts.flatMap((t, i) => {
      const m = pattern.match(t);
      return m === null ? [] : [[i, m.end, m.groups.slice(1).map((g) => g ?? null)]];
    });
    expect(found).toEqual(c.prefix);
  });

  it.each(bad)("refuses what Python refuses: %s", (source) => {
    expect(() => compilePattern(source)).toThrow(ConfigError);
  });
});
