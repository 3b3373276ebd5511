/** Mean loss and bits per byte of a model on a data set. */
import type { Tuned } from "@adjoint/lora";
import type { CausalLM } from "@adjoint/models";
import type { Context } from "@adjoint/nn";
import { compile, ConfigError, knownOptions, type OptionNames, type Tensor } from "@adjoint/tensor";
import { collate } from "./data/sample.ts";
import type { DataSet } from "./data/dataset.ts";
import { type Batch, toTensors } from "./data/tensors.ts";

/** Anything that knows the summed loss of a batch: a model, or a trainee. */
export interface Scorer {
  lossSum(batch: Batch, context?: Context): { total: Tensor; count: Tensor };
}

export interface Evaluation {
  /** mean next-token loss in nats over all predicted tokens */
  readonly loss: number;
  readonly tokens: number;
  /** loss·tokens / (bytes·ln 2), every byte counted; null for data without text */
  readonly bitsPerByte: number | null;
}

export interface EvaluateOptions {
  /** rows of a batch (default 8) */
  readonly batchSize?: number;
  readonly signal?: AbortSignal;
  /** called after each batch with rows done and all rows */
  readonly onProgress?: (done: number, all: number) => void;
  /** what the model is called in errors (default "the model") */
  readonly model?: string;
}

const evaluateNames: OptionNames<Required<EvaluateOptions>> = { batchSize: true, signal: true, onProgress: true, model: true };

type Step = (batch: Batch) => { total: Tensor; count: Tensor };
const steps = new WeakMap<object, Step>();

const isTuned = (model: Scorer | Tuned<CausalLM>): model is Tuned<CausalLM> => "base" in model && "adapter" in model;
const scorerOf = (model: Scorer | Tuned<CausalLM>): Scorer =>
  (isTuned(model) ? { lossSum: (batch, context = {}) => model.base.lossSum(batch, model.context(context)) } : model);

/** One compiled pass a model, kept as long as the model is. */
function stepOf(model: Scorer | Tuned<CausalLM>): Step {
  let step = steps.get(model);
  if (!step) {
    const scorer = scorerOf(model);
    steps.set(model, (step = compile((batch: Batch) => scorer.lossSum(batch, { train: false }))));
  }
  return step;
}

/**
 * Mean next-token loss over all predicted tokens of `data`, and bits per byte where the data knows its bytes.
 * Rows of like length share a batch, so that little is padding; each row counts once.
 * @throws ConfigError naming data and model where the loss is not finite
 * @example const { loss, bitsPerByte } = await evaluate(tuned, data.heldOut);
 */
export async function evaluate(subject: Scorer | Tuned<CausalLM>, data: DataSet, options: EvaluateOptions = {}): Promise<Evaluation> {
  knownOptions("evaluate", options, evaluateNames);
  const given: unknown = data;
  if (given === undefined || given === null) throw new ConfigError("evaluate: there is no data", { op: "evaluate", key: "data", value: given, fix: "hold some out: textData(source, tokenizer, { heldOut: 0.1 }).heldOut" });
  const { batchSize = 8, signal, onProgress, model = "the model" } = options;
  const step = stepOf(subject);
  const rows = data.samples.map((_, i) => i).sort((a, b) => data.samples[b].ids.length - data.samples[a].ids.length || a - b);
  let total = 0, tokens = 0;
  for (let at = 0; at < rows.length; at += batchSize) {
    signal?.throwIfAborted();
    const batch = collate(rows.slice(at, at + batchSize).map((i) => data.samples[i]), data.padTokenId, 0, data.longest);
    if (batch.predicted > 0) {
      total += Number((await step(toTensors(batch)).total.data())[0]);
      tokens += batch.predicted;
    }
    onProgress?.(Math.min(at + batchSize, rows.length), rows.length);
  }
  const loss = total / tokens;
  if (!Number.isFinite(loss)) {
    throw new ConfigError(`${data.name}: the loss of ${model} is ${loss} over ${tokens} tokens`, { op: "evaluate", key: "loss", value: String(loss), fix: "the weights or the adapter hold numbers that are not finite, or too large: a run diverged (use an earlier checkpoint and a smaller learning_rate), or the file is damaged" });
  }
  return { loss, tokens, bitsPerByte: data.bytes === undefined ? null : total / (data.bytes * Math.LN2) };
}
