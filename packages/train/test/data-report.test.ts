/** `adjoint data FILE`: the numbers, and the page. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, expect, test } from "vitest";
import { loadTokenizer, trainTokenizer } from "@adjoint/models";
import { dataReport, formatDataReport, reportRows, wantsColor, type Row } from "../src/data/index.ts";

const tokenizer = await loadTokenizer(trainTokenizer(["the sea and the ship ".repeat(9)], { vocabSize: 270 }));
const folder = mkdtempSync(join(tmpdir(), "adjoint-report-"));
afterAll(() => rmSync(folder, { recursive: true }));

const rows: Row[] = [
  { prompt: "the sea", completion: " and\nthe ship" },
  { prompt: "the sea", completion: " é" },
  { prompt: "the sea", completion: " and\nthe ship" },
  { prompt: "the ship and the ship and the ship and the ship", completion: " x" },
];

test("counts rows, tokens, cut rows and doubles", async () => {
  const file = join(folder, "rows.jsonl");
  writeFileSync(file, rows.map((row) => JSON.stringify(row)).join("\n"));
  const report = await dataReport(file, tokenizer, { maxLength: 10 });
  expect([report.kind, report.rows, report.truncated, report.truncatedShare, report.duplicates, report.samples]).toEqual(["prompt", 4, 1, 0.25, 1, 4]);
  expect(report.shown).toHaveLength(3);
  const [first] = report.shown;
  expect(first.map(({ text }) => text).join("")).toBe("the sea and\nthe ship<|endoftext|>");
  expect(first.filter(({ trained }) => !trained).map(({ text }) => text).join("")).toBe("the sea");
  expect(report.warnings[0]).toMatch(/cuts off all/);
});

test("the page shows every figure; grey with colours, brackets without", () => {
  const report = reportRows(rows, "rows.jsonl", tokenizer, { maxLength: 10 });
  const plain = formatDataReport(report, { width: 60 });
  expect(plain).toContain("rows.jsonl   4 rows of prompt + completion");
  expect(plain).toMatch(/truncated {2}1 of 4 rows \(25 %\) at 10 tokens/);
  expect(plain).toMatch(/duplicates 1 of 4 rows/);
  expect(plain).toContain("⟦the⟧│⟦ sea⟧│ and│\\n│the│ ship│<|endoftext|>│");
  expect(plain).toContain("<C3>│<A9>│");
  expect(plain).not.toContain("\x1b");
  const colored = formatDataReport(report, { color: true });
  expect(colored).toContain("\x1b[90mthe\x1b[39m│\x1b[90m sea\x1b[39m│ and│");
  expect(colored).not.toContain("⟦");
});

test("colours only on a terminal, and never with NO_COLOR", () => {
  expect(wantsColor({ isTTY: true }, {})).toBe(true);
  expect(wantsColor({ isTTY: true }, { NO_COLOR: "" })).toBe(true);
  expect(wantsColor({ isTTY: true }, { NO_COLOR: "1" })).toBe(false);
  expect(wantsColor({}, {})).toBe(false);
});

test("the histogram holds every row once, in at most eight bins without gaps", () => {
  const text = fc.integer({ min: 1, max: 400 }).map((n) => ({ text: "x".repeat(n) }));
  fc.assert(fc.property(fc.array(text, { minLength: 1, maxLength: 20 }), (texts) => {
    const { lengths: { bins, least, most, median } } = reportRows(texts, "x.jsonl", tokenizer);
    expect(bins.reduce((sum, bin) => sum + bin.rows, 0)).toBe(texts.length);
    expect(bins.length).toBeLessThanOrEqual(8);
    expect(bins.every((bin, i) => i === 0 || bin.from === bins[i - 1].to + 1)).toBe(true);
    expect(bins[0].from <= least && bins[bins.length - 1].to >= most && least <= median && median <= most).toBe(true);
  }));
});

test("text rows: lines keep within the width", () => {
  const report = reportRows([{ text: "the sea and the ship ".repeat(30) }], "sea.txt", tokenizer, { maxLength: 256 });
  expect(formatDataReport(report, { width: 50 }).split("\n").filter((line) => line.includes("│")).every((line) => line.length <= 51)).toBe(true);
  expect(report.kind).toBe("text");
});
