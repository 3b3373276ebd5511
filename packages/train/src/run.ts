/** A whole run in a folder: evaluate, train, keep checkpoints and metrics, evaluate again, and write what repeats it. */
import { appendLine, node, writeDirectoryAtomic, writeFileAtomic } from "@adjoint/io";
import { isPlateau } from "@adjoint/optim";
import { ConfigError, getDevice } from "@adjoint/tensor";
import type { DataSet } from "./data/dataset.ts";
import { dataHash, latestCheckpoint, loadCheckpoint, readCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import { type Estimate, Estimator } from "./estimate.ts";
import { evaluate, type Evaluation } from "./evaluate.ts";
import { Training } from "./loop.ts";
import { readEvaluations, readMetrics, readSamples, SAMPLES_FILE, type SampleText, type StepMetrics, trimMetrics, writeEvaluation, writeMetrics } from "./metrics.ts";
import { compactRecipe, type Recipe } from "./recipe.ts";
import { continueIn, prepareFolder, removeStale, RUN_FILE } from "./run-folder.ts";
import { trainingOptions } from "./setup.ts";
import type { Trainee } from "./trainee.ts";

/** Data that is measured before and after. */
export interface Measured {
  /** what the table calls it */
  readonly name: string;
  /** new: what is learned; old: what may be forgotten */
  readonly role: "new" | "old";
  readonly data: DataSet;
}

export interface RunOptions {
  readonly command: "finetune" | "pretrain";
  readonly recipe: Recipe;
  readonly trainee: Trainee;
  readonly data: DataSet;
  readonly measured: readonly Measured[];
  /** the run's folder */
  readonly folder: string;
  /** continues a prompt with the model as it is; null: no samples */
  readonly sample: ((prompt: string) => Promise<string>) | null;
  /** more files of the folder of what was trained, such as the tokenizer's */
  readonly modelFiles?: Readonly<Record<string, string | Uint8Array>>;
  /** what run.json says about program, machine and model */
  readonly about?: Readonly<Record<string, unknown>>;
  readonly signal?: AbortSignal;
}

/** What a run tells while it goes. */
export type RunEvent =
  | { readonly type: "note"; readonly text: string }
  | { readonly type: "evaluating"; readonly name: string; readonly step: number }
  | { readonly type: "evaluation"; readonly name: string; readonly role: "new" | "old"; readonly step: number; readonly result: Evaluation }
  | { readonly type: "step"; readonly metrics: StepMetrics; readonly steps: number }
  | { readonly type: "estimate"; readonly estimate: Estimate }
  | { readonly type: "checkpoint"; readonly folder: string };

/** One line of the table at the end. */
export interface Comparison { readonly name: string; readonly role: "new" | "old"; readonly before: Evaluation | null; readonly after: Evaluation }

export interface RunResult {
  readonly status: "done" | "interrupted";
  readonly steps: number;
  readonly comparisons: readonly Comparison[];
  readonly samples: readonly SampleText[];
  readonly metrics: readonly StepMetrics[];
  /** steps that changed nothing: gradients that were not finite, or no token to predict */
  readonly skipped: number;
  /** folder of the adapter, or of the model for full training; null when interrupted */
  readonly output: string | null;
  /** where an interrupted run can go on */
  readonly checkpoint: string | null;
  readonly folder: string;
  readonly seconds: number;
}

/** Steps after which a run in which none has changed anything ends. */
const PATIENCE = 10;
const isUnsound = (m: StepMetrics): boolean => m.skipped && m.tokens > 0;
const notFinite = (m: StepMetrics): string => (Number.isFinite(m.loss) ? "gradients were" : "loss was");
/** Whether no step has changed anything, and enough of them have tried: PATIENCE, or all. */
const isHopeless = (history: readonly StepMetrics[], steps: number): boolean =>
  history.every((m) => m.skipped) && (history.length === steps || history.filter(isUnsound).length >= PATIENCE);
function hopeless(history: readonly StepMetrics[], recipe: Recipe): ConfigError {
  const last = history.findLast(isUnsound), all = `every one of the first ${history.length} steps was skipped, so nothing was trained`;
  if (last === undefined) return new ConfigError(`${all}: none of their rows has a token to predict`, { key: "dataset_name", value: recipe.dataset_name, fix: "give more steps, or rows with text to predict" });
  return new ConfigError(`${all}: their ${notFinite(last)} not finite`, { key: "model_name_or_path", value: recipe.model_name_or_path, fix: "measure the base alone (adjoint eval): its weights may hold NaN or infinity, or overflow at half precision" });
}

/**
 * Trains and writes `metrics.jsonl`, `evaluations.jsonl`, checkpoints, the adapter or model, and `run.json` into the folder.
 * An abort saves a checkpoint between two steps and ends with status "interrupted".
 * @example for await (const event of (r = run(options))) show(event); — the generator's return value is the RunResult
 */
export async function* run(options: RunOptions): AsyncGenerator<RunEvent, RunResult, undefined> {
  const { recipe, trainee, data, measured, folder, sample, signal } = options, begun = performance.now();
  const training = new Training(trainee, trainingOptions(recipe, data, trainee.scaling)), { steps, learningRate } = training.options;
  if (isPlateau(learningRate) && measured.length === 0) throw new ConfigError(`${recipe.lr_scheduler_type} looks at held-out data, and there is none`, { key: "lr_scheduler_type", value: recipe.lr_scheduler_type, fix: "name eval_dataset_name, or hold out a share: validation_split_percentage" });
  const history: StepMetrics[] = [], results = new Map<string, { before: Evaluation | null; after: Evaluation | null }>();
  const samples: SampleText[] = [];
  let saved: string | null = null, estimate: Estimate | null = null;
  /** seconds of the last evaluation of everything, and of the last sample; null before there is one */
  let measuring: number | null = null, sampling = 0;
  const since = (start: number): number => (performance.now() - start) / 1000;

  async function* measure(): AsyncGenerator<RunEvent, void, undefined> {
    const { step } = training, start = performance.now();
    for (const { name, role, data: rows } of measured) {
      yield { type: "evaluating", name, step };
      const result = await evaluate(trainee, rows, { batchSize: recipe.per_device_eval_batch_size, ...(signal ? { signal } : {}) });
      await writeEvaluation(folder, { step, data: name, loss: result.loss, tokens: result.tokens, bits_per_byte: result.bitsPerByte });
      const both = results.get(name) ?? { before: null, after: null };
      results.set(name, step === 0 ? { before: result, after: both.after } : { before: both.before, after: result });
      yield { type: "evaluation", name, role, step, result };
    }
    measuring = since(start);
    const first = measured.find((m) => m.role === "new") ?? measured[0], metric = first === undefined ? undefined : results.get(first.name)?.after?.loss;
    if (step > 0 && isPlateau(learningRate) && metric !== undefined) learningRate.observe(metric);
  }
  const take = async (): Promise<void> => {
    const prompt = recipe.sample_prompt;
    if (sample === null || prompt === null) return;
    const start = performance.now(), made = { step: training.step, prompt, text: await sample(prompt) };
    samples.push(made);
    await appendLine(node().path.join(folder, SAMPLES_FILE), JSON.stringify(made));
    sampling = since(start);
  };
  const tokensOfStep = data.predicted / training.stepsPerEpoch, measuredTokens = measured.reduce((n, m) => n + m.data.predicted, 0);
  /** Evaluations and the sample that are still to come, in seconds: as long as those before, else by their tokens: a forward pass is about half of an adapter's step and a third of a full one. */
  const otherSeconds = (secondsPerToken: number): number => {
    const times = 1 + (recipe.eval_steps > 0 ? Math.floor((steps - 1) / recipe.eval_steps) - Math.floor(training.step / recipe.eval_steps) : 0);
    return times * (measuring ?? (measuredTokens * secondsPerToken) / (trainee.kind === "adapter" ? 2 : 3)) + sampling;
  };
  const checkpointNow = async (): Promise<string> => {
    saved = await saveCheckpoint(training, { folder, recipe, history, limit: recipe.save_total_limit });
    return saved;
  };
  const finish = (status: RunResult["status"], output: string | null): RunResult => ({
    status, steps: training.step, samples, metrics: history, skipped: history.filter((m) => m.skipped).length, output, checkpoint: saved, folder, seconds: since(begun),
    comparisons: measured.flatMap(({ name, role }) => { const r = results.get(name); return r?.after ? [{ name, role, before: r.before, after: r.after }] : []; }),
  });
  const describe = async (status: string, output: string | null): Promise<void> => {
    const { options: o } = training;
    await writeFileAtomic(node().path.join(folder, RUN_FILE), `${JSON.stringify({
      format: "adjoint-run", format_version: 1, command: options.command, status, recipe: compactRecipe(recipe), ...options.about, device: getDevice().name,
      data: { name: data.name, rows: data.samples.length, tokens: data.tokens, predicted: data.predicted, sha256: dataHash(data) },
      steps: o.steps, steps_done: training.step, skipped_steps: finish("done", output).skipped, seconds: Math.round(finish("done", output).seconds * 10) / 10, ...(estimate === null ? {} : { estimated_seconds: Math.round(estimate.seconds) }), output,
      results: finish("done", output).comparisons.map((c) => ({ name: c.name, role: c.role, before: c.before, after: c.after })),
    }, null, 2)}\n`);
  };

  await removeStale(folder);
  const resume = recipe.resume_from_checkpoint;
  if (resume !== null) {
    const info = await readCheckpoint(resume === "latest" || resume === "true" ? await latestCheckpoint(folder) : resume);
    for (const text of await loadCheckpoint(training, recipe, info)) yield { type: "note", text };
    saved = info.folder;
    await continueIn(folder, recipe, info.folder, info.step);
    await trimMetrics(folder, info.step);
    history.push(...(await readMetrics(folder)));
    samples.push(...(await readSamples(folder)).filter((s) => s.step === 0));
    for (const e of await readEvaluations(folder)) if (e.step === 0) results.set(e.data, { before: { loss: e.loss, tokens: e.tokens, bitsPerByte: e.bits_per_byte }, after: null });
    yield { type: "note", text: `going on after step ${info.step} of ${steps} (${info.folder})` };
  } else {
    await prepareFolder(folder, recipe);
  }
  try {
    await describe("running", null);
    if (training.step === 0 && !results.size) {
      yield* measure();
      await take();
    }
    // a run that was cut between a step and its evaluation owes the schedule that metric
    if (isPlateau(learningRate) && recipe.eval_steps > 0 && learningRate.state().evaluations < Math.floor(training.step / recipe.eval_steps)) yield* measure();
    const estimator = new Estimator();
    for await (const metrics of training.run(signal)) {
      history.push(metrics);
      await writeMetrics(folder, metrics);
      yield { type: "step", metrics, steps };
      for (const text of training.notes.splice(0)) yield { type: "note", text };
      if (isUnsound(metrics) && history.filter(isUnsound).length === 1) yield { type: "note", text: `step ${metrics.step} was skipped: its ${notFinite(metrics)} not finite` };
      if (isHopeless(history, steps)) {
        await describe("failed", null);
        throw hopeless(history, recipe);
      }
      const { step } = metrics, last = step === steps;
      const told = estimator.step(metrics, { steps, elapsed: since(begun), tokensLeft: (steps - step) * tokensOfStep, otherSeconds });
      if (told !== null) yield { type: "estimate", estimate: (estimate = told) };
      if (recipe.save_steps > 0 && step % recipe.save_steps === 0 && !last) yield { type: "checkpoint", folder: await checkpointNow() };
      if (recipe.eval_steps > 0 && step % recipe.eval_steps === 0 && !last) yield* measure();
    }
    if (signal?.aborted !== true) {
      const output = await saveOutput(options), unsound = history.filter(isUnsound).length;
      if (unsound > 1) yield { type: "note", text: `${unsound} of ${steps} steps were skipped, because gradients were not finite${isUnsound(history[history.length - 1]) ? "; so was the last: a lower learning rate may help" : ""}` };
      yield* measure();
      await take();
      await describe("done", output);
      return finish("done", output);
    }
  } catch (error) {
    if (signal?.aborted !== true || error !== signal.reason) throw error;
  }
  // interrupted: what is finished is kept; a half-done step is repeated
  if (training.step > 0) yield { type: "checkpoint", folder: await checkpointNow() };
  await describe("interrupted", null);
  return finish("interrupted", null);
}

/** Writes the trained adapter, or the trained model. */
async function saveOutput({ trainee, recipe, folder, modelFiles = {} }: RunOptions): Promise<string> {
  const output = node().path.join(folder, trainee.output);
  if (trainee.output === "adapter") await writeDirectoryAtomic(output, { ...(await trainee.files()), ...modelFiles }, { replaceAll: true });
  else await saveFull(trainee, output, recipe.save_dtype, modelFiles);
  return output;
}

async function saveFull(trainee: Trainee, output: string, dtype: string, files: Readonly<Record<string, string | Uint8Array>>): Promise<void> {
  await writeDirectoryAtomic(output, { ...(await trainee.files(dtype === "float16" ? "f16" : dtype === "bfloat16" ? "bf16" : "f32")), ...files }, { replaceAll: true });
}
