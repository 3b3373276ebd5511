/** How runs look: bars, sparklines, widths, colours; and the example recipes. */
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { jobFindings } from "@adjoint/tiny";
import type { StepMetrics } from "@adjoint/train";
import { mergeRecipe, readRecipe } from "@adjoint/train";
import { expect, test } from "vitest";
import { parseArguments } from "../src/arguments.ts";
import { forgottenInFull } from "../src/beside.ts";
import { commands } from "../src/index.ts";
import { Progress, sparkline } from "../src/progress.ts";
import { Screen } from "../src/screen.ts";
import { recipeOf } from "../src/recipes.ts";
import { bytes, duration, rate, type Terminal, width } from "../src/terminal.ts";

const terminal = (live: boolean, color: boolean): { terminal: Terminal; text: () => string } => {
  let all = "";
  return { text: () => all, terminal: { out: () => undefined, err: (t) => { all += t; }, live, color, colorOut: color, columns: 110, onInterrupt: () => () => undefined } };
};
const metrics = (step: number, loss: number): StepMetrics => ({ step, epoch: 0, loss, grad_norm: 123456, learning_rate: 1.234e-5, tokens_per_second: 12345, tokens: 2040, tokens_seen: 2040 * step, skipped: true, memory: 12e9, time: "" });

test("where there is no terminal: one line each 10 %, without escape codes", () => {
  const { terminal: t, text } = terminal(false, false), progress = new Progress(t);
  for (let i = 1; i <= 200; i++) progress.step(metrics(i, 3), 200);
  const lines = text().trim().split("\n");
  expect(lines.length).toBeGreaterThanOrEqual(10);
  expect(lines.length).toBeLessThanOrEqual(11);
  expect(lines.at(-1)).toMatch(/^step 200\/200 {2}loss 3\.00 {2}\|g\| 1\.2e\+5 {2}lr 1\.2e-5 {2}12,345 tok\/s {2}12,000 MB {2}skipped {2}0 s$/);
  expect(text()).not.toMatch(/\u001b/);
});

test("law: on a terminal every line fits into 110 columns, whatever the numbers are", () => {
  fc.assert(fc.property(fc.array(fc.oneof(fc.double({ noNaN: false }), fc.constant(Number.NaN)), { minLength: 1, maxLength: 30 }), fc.boolean(), (losses, color) => {
    const { terminal: t, text } = terminal(true, color), progress = new Progress(t), steps = 1_000_000 + losses.length;
    losses.forEach((loss, i) => { progress.step(metrics(steps - losses.length + i + 1, Number.isFinite(loss) ? loss % 1e6 : loss), steps); });
    for (const line of text().split("\r")) expect(width(line)).toBeLessThanOrEqual(110);
    if (!color) expect(text().replaceAll("\u001b[2K", "")).not.toMatch(/\u001b/);
  }));
});

test("sparklines show the course, short or long", () => {
  expect(sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8)).toBe("█▇▆▅▄▃▂▁");
  expect(sparkline([1, 1], 8)).toBe("▁▁");
  expect(sparkline([Number.NaN], 8)).toBe("");
  expect(sparkline(Array.from({ length: 100 }, (_, i) => -i), 4)).toBe("█▆▃▁");
});

test("numbers for people", () => {
  expect([0, 41, 125, 3780].map(duration)).toEqual(["0 s", "41 s", "2 min 05 s", "1 h 03 min"]);
  expect([0, 2e-3, 6.14e-4].map(rate)).toEqual(["0", "2e-3", "6.1e-4"]);
  expect([12, 2048, 5 << 20].map(bytes)).toEqual(["12 B", "2.0 KiB", "5.0 MiB"]);
});

test("the example recipes are valid, and that of the novel is what a bare `adjoint finetune` does", async () => {
  const folder = fileURLToPath(new URL("../../../examples/", import.meta.url)), grammar = commands["finetune"].grammar;
  const files = readdirSync(folder).filter((name) => name.endsWith(".yaml"));
  expect(files.length).toBeGreaterThanOrEqual(3);
  for (const name of files) expect((await readRecipe(folder + name)).notes).toEqual([]);
  const bare = await recipeOf(parseArguments([], grammar), { dataset_name: ["moby-dick"] });
  expect(mergeRecipe((await readRecipe(`${folder}moby-dick.yaml`)).values)).toEqual(bare.recipe);
  const numbers = await recipeOf(parseArguments(["--dataset-name", "numbers"], grammar), { dataset_name: ["moby-dick"] });
  expect(mergeRecipe((await readRecipe(`${folder}numbers.yaml`)).values)).toEqual(numbers.recipe);
  // full fine-tuning takes the preset without its adapter
  const full = await recipeOf(parseArguments(["--no-use-peft", "--learning-rate", "3e-4", "--output-dir", "out/moby-dick-full"], grammar), { dataset_name: ["moby-dick"] });
  expect(mergeRecipe((await readRecipe(`${folder}moby-dick-full.yaml`)).values)).toEqual(full.recipe);
});

test("what full fine-tuning forgot stands beside the measured job, and beside no other run", async () => {
  const run = async (...words: string[]): Promise<number | null> => forgottenInFull((await recipeOf(parseArguments(words, commands["finetune"].grammar), { dataset_name: ["moby-dick"] })).recipe);
  expect(await run()).toBeCloseTo(14.13, 2);
  expect(await run("--threads", "1", "--output-dir", "out/other", "--save-steps", "50")).toBeCloseTo(14.13, 2);
  for (const words of [["--learning-rate", "1e-3"], ["--seed", "7"], ["--lora-r", "8"], ["--max-steps", "20"], ["--dataset-name", "numbers"], ["--dataset-name", "notes.txt"], ["--model", "DIR"], ["--ids", "rows.json"], ["--no-use-peft"], ["--init-adapter", "DIR"]]) {
    expect(await run(...words), words.join(" ")).toBeNull();
  }
});

test("the figures beside the job are those of the measurement", () => {
  interface Row { readonly method: string; readonly rate: number; readonly step: number; readonly test: number; readonly old: number; readonly at: string; readonly target?: number; readonly development: number }
  const { before, adapter, full, source } = jobFindings();
  const result = JSON.parse(readFileSync(fileURLToPath(new URL(`../../../${source}`, import.meta.url)), "utf8")) as { before: { test: number; old: number }; results: Row[] };
  expect(before).toEqual({ new: result.before.test, old: result.before.old });
  const find = (accept: (r: Row) => boolean): Row => { const row = result.results.find(accept); expect(row).toBeDefined(); return row!; };
  const a = find((r) => r.method === "rslora" && r.at === "end" && r.rate === adapter.learning_rate), f = find((r) => r.method === "full" && r.rate === full.learning_rate && r.target === adapter.learning_rate);
  expect([adapter.new, adapter.old, full.step, full.new, full.old]).toEqual([a.test, a.old, f.step, f.test, f.old]);
  // the same point: no higher a loss on development text; and the rate is the best of three
  expect(f.development).toBeLessThanOrEqual(a.development);
  const ends = result.results.filter((r) => r.method === "full" && r.at === "end").sort((x, y) => x.development - y.development);
  expect(ends).toHaveLength(3);
  expect(full.learning_rate).toBe(ends[0].rate);
});

test("the table's line with the figure fits into 110 columns", () => {
  const { terminal: t } = terminal(true, true), screen = new Screen(t, false), lines: string[] = [];
  screen.capture(lines);
  screen.table([["new", "Moby-Dick", "2.54", "2.09", "-18 %", "learned", ""], ["old", "addresses", "1.36", "1.50", "+11 %", "forgotten", "full fine-tuning to the same point: +14 %"]], "bits per byte");
  expect(lines[1]).not.toContain("full fine-tuning");
  expect(lines[2]).toContain("full fine-tuning to the same point: +14 %");
  for (const line of lines) expect(width(line)).toBeLessThanOrEqual(110);
});
