/** The schema of `metrics.jsonl`: one line per optimizer step, written as it happens. */
import { appendLine, node, parseJsonObject, writeFileAtomic } from "@adjoint/io";

/** One optimizer step. Numbers that are not finite are null in the file. */
export interface StepMetrics {
  /** 1 for the first step */
  readonly step: number;
  /** passes over the data after this step, in fractions */
  readonly epoch: number;
  /** mean next-token loss in nats over the step's predicted tokens, before the update; NaN where there are none */
  readonly loss: number;
  /** global L2 norm of all gradients, before clipping */
  readonly grad_norm: number;
  /** the rate that this step used */
  readonly learning_rate: number;
  /** predicted tokens per second of wall time, this step alone (evaluation and saving not counted) */
  readonly tokens_per_second: number;
  /** predicted tokens of this step */
  readonly tokens: number;
  /** predicted tokens of the run so far */
  readonly tokens_seen: number;
  /** the gradients were not finite, or no token was predicted (`tokens` = 0), so parameters and moments stayed as they were */
  readonly skipped: boolean;
  /** resident memory of the process in bytes */
  readonly memory: number;
  /** when the step ended, ISO 8601 */
  readonly time: string;
}

/** One evaluation of a data set, a line of `evaluations.jsonl`. */
export interface EvaluationMetrics {
  /** optimizer steps done; 0 is before training */
  readonly step: number;
  /** name of the data set */
  readonly data: string;
  /** mean next-token loss in nats over all predicted tokens */
  readonly loss: number;
  readonly tokens: number;
  /** every byte counted; null for data without text */
  readonly bits_per_byte: number | null;
}

export const METRICS_FILE = "metrics.jsonl";
export const EVALUATIONS_FILE = "evaluations.jsonl";
export const SAMPLES_FILE = "samples.jsonl";

/** A sample of the same prompt, before and after. */
export interface SampleText { readonly step: number; readonly prompt: string; readonly text: string }

/** Keys that every line of metrics.jsonl has, in this order. */
export const stepMetricsKeys: readonly (keyof StepMetrics)[] = [
  "step", "epoch", "loss", "grad_norm", "learning_rate", "tokens_per_second", "tokens", "tokens_seen", "skipped", "memory", "time",
];

const numberOrNull = (x: unknown): unknown => (typeof x === "number" && !Number.isFinite(x) ? null : x);

/** One line, keys in the schema's order, no line break. */
export function metricsLine(m: StepMetrics): string {
  return JSON.stringify(Object.fromEntries(stepMetricsKeys.map((key) => [key, numberOrNull(m[key])])));
}

/** Appends one line to a folder's metrics.jsonl. @throws FileError */
export const writeMetrics = (folder: string, m: StepMetrics): Promise<void> => appendLine(node().path.join(folder, METRICS_FILE), metricsLine(m));

/** Appends one line to a folder's evaluations.jsonl. @throws FileError */
export const writeEvaluation = (folder: string, m: EvaluationMetrics): Promise<void> =>
  appendLine(node().path.join(folder, EVALUATIONS_FILE), JSON.stringify(Object.fromEntries(Object.entries(m).map(([k, v]) => [k, numberOrNull(v)]))));

/** Text of a file in a folder; empty if there is no such file. */
async function textOf(folder: string, name: string): Promise<string> {
  const { fs, path } = node();
  try { return await fs.readFile(path.join(folder, name), "utf8"); } catch { return ""; }
}

/** Lines of a JSONL file's text. A last line without its end (a power cut) is dropped. */
function linesOf(content: string, file: string): Readonly<Record<string, unknown>>[] {
  const whole = content.slice(0, content.lastIndexOf("\n") + 1);
  return whole.split("\n").filter((line) => line !== "").map((line, i) => parseJsonObject(line, `${file}, line ${i + 1}`, "remove the line"));
}
const readLines = async (folder: string, name: string): Promise<Readonly<Record<string, unknown>>[]> => linesOf(await textOf(folder, name), node().path.join(folder, name));
const text = (v: unknown): string => (typeof v === "string" ? v : "");
const num = (v: unknown): number => (typeof v === "number" ? v : Number.NaN);

/** All steps of a run. */
export async function readMetrics(folder: string): Promise<StepMetrics[]> {
  return (await readLines(folder, METRICS_FILE)).map((m) => ({
    step: num(m["step"]), epoch: num(m["epoch"]), loss: num(m["loss"]), grad_norm: num(m["grad_norm"]), learning_rate: num(m["learning_rate"]),
    tokens_per_second: num(m["tokens_per_second"]), tokens: num(m["tokens"]), tokens_seen: num(m["tokens_seen"]), skipped: m["skipped"] === true,
    memory: num(m["memory"]), time: text(m["time"]),
  }));
}

/** All evaluations of a run. */
export async function readEvaluations(folder: string): Promise<EvaluationMetrics[]> {
  return (await readLines(folder, EVALUATIONS_FILE)).map((m) => ({
    step: num(m["step"]), data: text(m["data"]), loss: num(m["loss"]), tokens: num(m["tokens"]),
    bits_per_byte: typeof m["bits_per_byte"] === "number" ? m["bits_per_byte"] : null,
  }));
}

/** All samples of a run. */
export async function readSamples(folder: string): Promise<SampleText[]> {
  return (await readLines(folder, SAMPLES_FILE)).map((s) => ({ step: num(s["step"]), prompt: text(s["prompt"]), text: text(s["text"]) }));
}

/** The whole lines of a JSONL file up to a step, and whether that is all that the file holds: lines of later steps and a torn last one are left out. */
export async function linesUpTo(folder: string, name: string, step: number): Promise<{ readonly kept: string; readonly whole: boolean }> {
  const content = await textOf(folder, name), lines = linesOf(content, node().path.join(folder, name)), kept = lines.filter((m) => num(m["step"]) <= step);
  return { kept: kept.map((m) => `${JSON.stringify(m)}\n`).join(""), whole: kept.length === lines.length && (content === "" || content.endsWith("\n")) };
}

/** Drops what was written after `step` and lines without an end, so that a resumed run has one line per step. */
export async function trimMetrics(folder: string, step: number): Promise<void> {
  for (const name of [METRICS_FILE, EVALUATIONS_FILE, SAMPLES_FILE]) {
    const { kept, whole } = await linesUpTo(folder, name, step);
    if (!whole) await writeFileAtomic(node().path.join(folder, name), kept);
  }
}
