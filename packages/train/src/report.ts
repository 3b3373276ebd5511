/** One HTML file about a run: curves by uPlot, the comparison, samples, recipe and machine. It needs no network and no other file. */
import { node, writeFileAtomic } from "@adjoint/io";
import type { Evaluation } from "./evaluate.ts";
import { compactRecipe, type Recipe } from "./recipe.ts";
import type { RunResult } from "./run.ts";

export interface ReportOptions {
  readonly folder: string;
  readonly title: string;
  readonly recipe: Recipe;
  readonly result: RunResult;
  /** program, machine, model */
  readonly about: Readonly<Record<string, unknown>>;
}

export const REPORT_FILE = "report.html";

const escapes: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (text: string): string => text.replaceAll(/[&<>"']/g, (c) => escapes[c]);
/** JSON inside a script element: nothing in it can end the element. */
const inline = (value: unknown): string => JSON.stringify(value).replaceAll("<", "\\u003c").replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029");

/** The text of uPlot's files, from where npm put the package. */
async function library(name: string): Promise<string> {
  const { createRequire } = process.getBuiltinModule("node:module");
  return node().fs.readFile(createRequire(import.meta.url).resolve(`uplot/dist/${name}`), "utf8");
}

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  `<table>${head.length === 0 ? "" : `<thead><tr>${head.map((h) => `<th>${escape(h)}</th>`).join("")}</tr></thead>`}<tbody>${rows.map((r) => `<tr>${r.map((c) => `<td>${escape(c)}</td>`).join("")}</tr>`).join("")}</tbody></table>`;
const shown = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));
const pairs = (value: Readonly<Record<string, unknown>>): string => table([], Object.entries(value).map(([k, v]) => [k, shown(v)]));
const number = (x: number | null | undefined, digits: number): string => (x === null || x === undefined || !Number.isFinite(x) ? "" : x.toFixed(digits));

function comparison({ comparisons }: RunResult): string {
  const change = (before: Evaluation | null, after: Evaluation): string => {
    if (before === null) return "";
    const [a, b] = before.bitsPerByte !== null && after.bitsPerByte !== null ? [before.bitsPerByte, after.bitsPerByte] : [before.loss, after.loss];
    return `${b > a ? "+" : ""}${((100 * (b - a)) / a).toFixed(1)} %`;
  };
  return table(["domain", "data", "loss before", "after", "bits per byte before", "after", "change", "tokens"],
    comparisons.map(({ name, role, before, after }) => [role, name, number(before?.loss, 4), number(after.loss, 4), number(before?.bitsPerByte, 4), number(after.bitsPerByte, 4), change(before, after), String(after.tokens)]));
}

const STYLE = `
:root { color-scheme: light dark; --line: #2563eb; --soft: #93b4f3; --rule: #8884; --text: light-dark(#1a1a1a, #e6e6e6); --back: light-dark(#fff, #16181c); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; padding: 0 1rem; color: var(--text); background: var(--back); }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } td, th { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; border-left: 3px solid var(--rule); padding-left: .8rem; margin: .4rem 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1rem; } .u-legend { font-size: 12px; }
@media print { .charts { display: block; } }`;

const SCRIPT = `
const run = JSON.parse(document.getElementById("run").textContent);
const steps = run.metrics.map((m) => m.step), ink = getComputedStyle(document.body).color;
const smooth = (xs, k) => { let s = null; return xs.map((x) => x === null ? s : (s = s === null ? x : s + (x - s) / k)); };
const window_ = Math.max(1, Math.round(steps.length / 25));
function chart(title, series) {
  const box = document.getElementById("charts"), axis = { stroke: ink, grid: { stroke: "#8882", width: 1 }, ticks: { stroke: "#8884" } };
  new uPlot({ title, width: Math.min(460, box.clientWidth), height: 240, scales: { x: { time: false } }, axes: [axis, { ...axis, size: 60 }],
    series: [{ label: "step" }, ...series.map((s) => ({ label: s.label, stroke: s.stroke, width: s.width ?? 1.5, points: { show: s.points ?? false, size: 7 }, spanGaps: true, value: (_, v) => v === null ? "" : Number(v.toPrecision(5)) }))] },
    [s0(series), ...series.map((s) => s.values)], box);
}
const s0 = (series) => series[0].at ?? steps;
const of = (key) => run.metrics.map((m) => m[key]);
chart("loss (nats per token)", [{ label: "step", stroke: "#93b4f3", width: 1, values: of("loss") }, { label: "smoothed", stroke: "#2563eb", width: 2, values: smooth(of("loss"), window_) }]);
chart("gradient norm, before clipping", [{ label: "|g|", stroke: "#d97706", values: of("grad_norm") }]);
chart("learning rate", [{ label: "rate", stroke: "#059669", values: of("learning_rate") }]);
chart("tokens per second", [{ label: "tokens/s", stroke: "#7c3aed", width: 1, values: of("tokens_per_second") }]);
for (const [name, points] of Object.entries(run.evaluations)) chart(name + ": loss", [{ label: "loss", stroke: "#db2777", points: true, at: points.map((p) => p.step), values: points.map((p) => p.loss) }]);`;

/** Evaluations by data set, for the curves. */
function evaluationCurves({ comparisons, steps }: RunResult): Record<string, { step: number; loss: number }[]> {
  return Object.fromEntries(comparisons.filter((c) => c.before !== null).map((c) => [c.name, [{ step: 0, loss: c.before?.loss ?? 0 }, { step: steps, loss: c.after.loss }]]));
}

/** The report as text. */
export async function reportHtml({ title, recipe, result, about }: ReportOptions): Promise<string> {
  const finite = (x: number): number | null => (Number.isFinite(x) ? x : null);
  const metrics = result.metrics.map((m) => ({ step: m.step, loss: finite(m.loss), grad_norm: finite(m.grad_norm), learning_rate: m.learning_rate, tokens_per_second: finite(m.tokens_per_second) }));
  const last = result.metrics[result.metrics.length - 1];
  const skipped = result.metrics.filter((m) => m.skipped && m.tokens > 0).length;
  const samples = result.samples.map((s) => `<h3>${s.step === 0 ? "before" : `after step ${s.step}`}</h3><pre><b>${escape(s.prompt)}</b>${escape(s.text)}</pre>`).join("");
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escape(title)}</title>
<style>${await library("uPlot.min.css")}${STYLE}</style></head><body>
<h1>${escape(title)}</h1>
<p>${result.steps} steps, ${(last?.tokens_seen ?? 0).toLocaleString("en-US")} predicted tokens, ${result.seconds.toFixed(1)} s in all${skipped > 0 ? `; ${skipped} ${skipped === 1 ? "step was" : "steps were"} skipped because gradients were not finite` : ""}.</p>
${result.comparisons.length > 0 ? `<h2>Before and after</h2>${comparison(result)}` : ""}
<h2>Curves</h2><div id="charts" class="charts"></div>
${samples === "" ? "" : `<h2>Samples</h2>${samples}`}
<h2>Recipe</h2><p>Keys that differ from the defaults; <code>adjoint ${escape(about["command"] === "pretrain" ? "pretrain" : "finetune")} run.json</code> repeats the run.</p>${pairs(compactRecipe(recipe))}
<h2>Program and machine</h2>${pairs(about)}
<script type="application/json" id="run">${inline({ metrics, evaluations: evaluationCurves(result) })}</script>
<script>${(await library("uPlot.iife.min.js")).replaceAll("</script", "<\\/script")}</script>
<script>${SCRIPT}</script>
</body></html>
`;
}

/** Writes `report.html` into the run's folder and returns its path. @throws FileError */
export async function writeReport(options: ReportOptions): Promise<string> {
  const path = node().path.join(options.folder, REPORT_FILE);
  await writeFileAtomic(path, await reportHtml(options));
  return path;
}
