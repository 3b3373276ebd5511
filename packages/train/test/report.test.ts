/** The report stands alone, shows what happened, and cannot be broken out of; metrics follow their schema. */
import { appendFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { mergeRecipe, METRICS_FILE, metricsLine, readMetrics, reportHtml, type RunResult, type StepMetrics, stepMetricsKeys, trimMetrics, writeMetrics } from "../src/index.ts";
import { temporary } from "./support.ts";

const step = (n: number): StepMetrics => ({
  step: n, epoch: n / 4, loss: n === 3 ? Number.NaN : 4 / n, grad_norm: 1, learning_rate: 1e-3, tokens_per_second: 100, tokens: 10, tokens_seen: 10 * n, skipped: n === 3, memory: 1, time: "2026-01-01T00:00:00.000Z",
});
const result: RunResult = {
  status: "done", steps: 4, metrics: [1, 2, 3, 4].map(step), output: "out/adapter", checkpoint: null, skipped: 1, folder: "out", seconds: 12.5,
  comparisons: [{ name: "a novel", role: "new", before: { loss: 4, tokens: 9, bitsPerByte: 2 }, after: { loss: 3, tokens: 9, bitsPerByte: 1.5 } }],
  samples: [{ step: 0, prompt: "Call", text: " </script><b>x" }, { step: 4, prompt: "Call", text: " me" }],
};

test("the report needs no other file or network, and draws every curve", async () => {
  const html = await reportHtml({ folder: "out", title: "a <run>", recipe: mergeRecipe({ lora_r: 4 }), result, about: { machine: { cpu: "x" } } });
  expect(html).not.toMatch(/<(?:script|link|img)[^>]+(?:src|href)=/);
  expect(html.replaceAll(/\/\*![\s\S]*?\*\//g, "")).not.toMatch(/https?:\/\//); // but for the library's own notice
  expect(html).toContain("a &lt;run&gt;");
  expect(html).toContain("&lt;/script&gt;&lt;b&gt;x");
  expect(html).toContain("<td>a novel</td><td>4.0000</td><td>3.0000</td><td>2.0000</td><td>1.5000</td><td>-25.0 %</td>");
  expect(html).toContain("1 step was skipped");
  expect(html).toContain("<td>lora_r</td><td>4</td>");
  // the scripts run: uPlot is there and every chart gets columns of equal length
  const scripts = [...html.matchAll(/<script>([\s\S]*?)<\/script>/g)].map((m) => m[1]);
  const data = /<script type="application\/json" id="run">([\s\S]*?)<\/script>/.exec(html)?.[1] ?? "";
  expect(scripts).toHaveLength(2);
  expect(scripts[0]).toContain("uPlot");
  const drawn: { title: string; columns: unknown[][] }[] = [];
  class FakePlot { constructor(options: { title: string }, columns: unknown[][]) { drawn.push({ title: options.title, columns }); } }
  runInNewContext(scripts[1], {
    uPlot: FakePlot, document: { getElementById: (id: string) => (id === "run" ? { textContent: data } : { clientWidth: 900 }), body: {} }, getComputedStyle: () => ({ color: "black" }), JSON, Math, Object, Number,
  });
  expect(drawn.map((d) => d.title)).toEqual(["loss (nats per token)", "gradient norm, before clipping", "learning rate", "tokens per second", "a novel: loss"]);
  for (const { columns } of drawn) for (const column of columns) expect(column.length).toBe(columns[0].length);
  expect([...drawn[0].columns[1]]).toEqual([4, 2, null, 1]);
});

test("metrics: one line a step, its keys in order, no number that JSON cannot hold; what came after a step can be dropped", async () => {
  const folder = temporary();
  expect(Object.keys(JSON.parse(metricsLine(step(1))) as object)).toEqual([...stepMetricsKeys]);
  expect(JSON.parse(metricsLine(step(3)))).toMatchObject({ loss: null, skipped: true });
  for (let n = 1; n <= 4; n++) await writeMetrics(folder, step(n));
  expect((await readMetrics(folder)).map((m) => m.loss)).toEqual([4, 2, Number.NaN, 1]);
  appendFileSync(join(folder, METRICS_FILE), '{"step": 5, "lo'); // a power cut
  expect(await readMetrics(folder)).toHaveLength(4);
  await trimMetrics(folder, 2);
  expect(readFileSync(join(folder, METRICS_FILE), "utf8")).toBe(`${metricsLine(step(1))}\n${metricsLine(step(2))}\n`);
});
