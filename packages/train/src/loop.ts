/** The training loop: micro-batches, accumulation weighted by predicted tokens, and one event per optimizer step. */
import type { BoundOptimizer, Optimizer, Schedule } from "@adjoint/optim";
import { ConfigError, counter, type Counter, knownOptions, type OptionNames, pace, type Store, type Tensor } from "@adjoint/tensor";
import { CURVATURE_EVERY } from "./curvature.ts";
import type { DataSet } from "./data/dataset.ts";
import type { StepMetrics } from "./metrics.ts";
import { toTensors } from "./data/tensors.ts";
import { Steps } from "./steps.ts";
import type { Trainee } from "./trainee.ts";

export interface TrainingOptions {
  readonly data: DataSet;
  /** how an update is made of gradients; its learning rate should be `learningRate` */
  readonly optimizer: Optimizer;
  /** of the steps in which a warm start trains all weights; its learning rate should be `learningRate`, and that of `optimizer` the same from the step at which it begins */
  readonly warmOptimizer?: Optimizer;
  /** the norm at which the optimizer clips, as it was given to it: routines look at gradients of that length, as callbacks do that torch's loops call after a step */
  readonly maxGradNorm?: number;
  /** rate of step t = 0, 1, ..., for the metrics */
  readonly learningRate: Schedule;
  /** optimizer steps of the whole run */
  readonly steps: number;
  /** rows of a micro-batch (default 8) */
  readonly batchSize?: number;
  /** micro-batches of one optimizer step (default 1) */
  readonly accumulation?: number;
  /** layers compute their intermediate values again in the backward pass (default false) */
  readonly gradientCheckpointing?: boolean;
  /** for an optimizer with a `hessian` (Sophia): a sample of the curvature every `every` steps (default 10), averaged with β₂; `bs`, if the optimizer's stands for the tokens of a full batch: samples of fewer are made less of */
  readonly curvature?: { readonly beta2: number; readonly every?: number; readonly bs?: number };
  readonly seed?: number;
  /** a new order each pass (default true) */
  readonly shuffle?: boolean;
}

const trainingNames: OptionNames<Required<TrainingOptions>> = {
  data: true, optimizer: true, warmOptimizer: true, maxGradNorm: true, learningRate: true, steps: true, batchSize: true, accumulation: true, gradientCheckpointing: true, curvature: true, seed: true, shuffle: true,
};
/** Refuses what is easily confused with a part of a training. @throws ConfigError */
function checkParts(trainee: Trainee, options: TrainingOptions): void {
  knownOptions("Training", options, trainingNames);
  const refuse = (key: string, problem: string, fix: string): never => { throw new ConfigError(`Training: ${problem}`, { op: "Training", key, fix }); };
  if (typeof trainee.lossSum !== "function" || typeof trainee.trainable !== "object") refuse("trainee", "the first argument is no trainee", "new Training(adapterTrainee(lora(model, ...)), options), or fullTrainee(model)");
  const { optimizer, learningRate, data } = options;
  if (typeof optimizer?.for !== "function") refuse("optimizer", `the optimizer is ${optimizer === undefined ? "missing" : "bound to parameters already"}`, "adamw({ learningRate }), without .for(...): Training binds it to the trainee");
  if (typeof learningRate !== "function") refuse("learningRate", `learningRate is ${learningRate === undefined ? "missing" : String(learningRate)}, and a schedule is a function of the step`, "constant({ peak: 1e-3 }), cosine({ peak, steps }), or any (step) => rate; give the optimizer the same one");
  if (typeof data?.group !== "function") refuse("data", "the data is no DataSet", "await textData(file, model.tokenizer)");
}

/** A training run in memory: where it stands, and what moves it. */
export class Training {
  readonly options: TrainingOptions;
  /** optimizer steps done */
  step = 0;
  /** predicted tokens so far */
  tokensSeen = 0;
  /** what routines said after steps; whoever reads them empties the list */
  readonly notes: string[] = [];
  /** first micro-batch of the step, then ticking */
  readonly #micro: Counter = counter(0, "micro");
  readonly #trainee: Trainee;
  #steps: Steps;
  /** a step without predicted tokens was told */
  #blank = false;

  constructor(trainee: Trainee, options: TrainingOptions) {
    checkParts(trainee, options);
    const { steps, accumulation = 1 } = options, warm = trainee.warmStart?.steps ?? 0;
    if (!Number.isInteger(steps) || steps < 1) throw new ConfigError(steps === undefined ? "Training: steps is missing" : `a run of ${steps} steps`, { key: "max_steps", value: steps, fix: "train for at least one step" });
    if (!Number.isInteger(accumulation) || accumulation < 1) throw new ConfigError(`gradient_accumulation_steps = ${accumulation}`, { key: "gradient_accumulation_steps", value: accumulation, fix: "use an integer of at least 1" });
    if (warm >= steps) throw new ConfigError(`a warm start of ${warm} steps leaves none of ${steps}`, { key: "relora_warm_start", value: warm, fix: "shorten it, or train for longer" });
    this.#trainee = trainee;
    this.options = options;
    this.#steps = this.#made();
  }

  /** What trains at this step, by which optimizer. */
  #made(): Steps {
    const { warmStart } = this.#trainee, { optimizer, warmOptimizer } = this.options;
    if (warmStart === undefined || this.step >= warmStart.steps) return new Steps(this.#trainee, optimizer, this.options, this.#micro);
    if (warmOptimizer === undefined) throw new ConfigError("a warm start has an optimizer of its own", { op: "Training", key: "warmOptimizer", fix: "give options.warmOptimizer, as trainingOptions does" });
    return new Steps(warmStart.trainee, warmOptimizer, this.options, this.#micro);
  }
  #now(): Steps {
    const { warmStart } = this.#trainee, due = warmStart !== undefined && this.step < warmStart.steps ? warmStart.trainee : this.#trainee;
    if (this.#steps.trainee !== due) this.#steps = this.#made();
    return this.#steps;
  }

  /** What trains now: of a warm start, all weights until its steps are over. */
  get trainee(): Trainee {
    return this.#now().trainee;
  }
  get optimizer(): BoundOptimizer<Readonly<Record<string, Store>>> {
    return this.#now().optimizer;
  }

  /** Optimizer steps of one pass over the data. */
  get stepsPerEpoch(): number {
    const { data, batchSize: size = 8, accumulation = 1 } = this.options;
    return data.stepsPerEpoch({ size, accumulation });
  }

  /** One optimizer step. A step that is cut between micro-batches leaves no trace but what `reset` removes. @throws the signal's reason */
  async next(signal?: AbortSignal): Promise<StepMetrics> {
    const { data, batchSize: size = 8, accumulation = 1, seed = 42, shuffle = true, learningRate } = this.options;
    const begun = performance.now();
    const group = data.group(this.step, { size, accumulation, seed, shuffle });
    this.#micro.value = this.step * accumulation;
    const { curvature } = this.options, { trainee, optimizer, sums, ...steps } = this.#now();
    const tokens = group.reduce((n, b) => n + b.predicted, 0), rate = learningRate(this.step);
    if (steps.curvature && curvature && group[0].predicted > 0 && this.step % (curvature.every ?? CURVATURE_EVERY) === 0) steps.curvature(toTensors(group[0]));
    let done: Tensor;
    if (sums) {
      try {
        for (const batch of group) {
          signal?.throwIfAborted();
          steps.add(toTensors(batch));
          await pace();
        }
        signal?.throwIfAborted();
      } catch (error) {
        sums.reset();
        throw error;
      }
      done = steps.finish();
    } else {
      signal?.throwIfAborted();
      done = steps.whole(toTensors(group[0]));
    }
    const [loss, norm, skipped] = Array.from(await done.data(), Number);
    await pace();             // a compiled step on a CPU has its numbers at once, and reading them gives nobody a turn
    if (skipped !== 0) optimizer.uncount();
    this.step++;
    this.tokensSeen += tokens;
    if (tokens === 0 && !this.#blank) {
      this.#blank = true;
      this.notes.push(`step ${this.step}: no token of its rows is predicted, so it has no loss and changes nothing; nor does any other such step`);
    }
    for (const routine of trainee.routines ?? []) {
      const note = await routine.between({ step: this.step, steps: this.options.steps, optimizer });
      if (note !== null) this.notes.push(note);
    }
    if (this.step === this.#trainee.warmStart?.steps) this.notes.push(`step ${this.step}: all weights have trained; from now on what the adapter trains`);
    return {
      step: this.step, epoch: this.step / this.stepsPerEpoch, loss: tokens === 0 ? Number.NaN : loss, grad_norm: tokens === 0 ? Number.NaN : norm, learning_rate: rate,
      tokens_per_second: tokens / Math.max(1e-6, (performance.now() - begun) / 1000), tokens, tokens_seen: this.tokensSeen,
      skipped: skipped !== 0, memory: memoryBytes(), time: new Date().toISOString(),
    };
  }

  /** The steps that are left. Ends early, between steps, when the signal says so. @example for await (const m of training.run()) console.log(m.step, m.loss); */
  async *run(signal?: AbortSignal): AsyncGenerator<StepMetrics, void, undefined> {
    while (this.step < this.options.steps && !stopped(signal)) {
      let metrics: StepMetrics;
      try {
        metrics = await this.next(signal);
      } catch (error) {
        if (stopped(signal) && error === signal?.reason) return;
        throw error;
      }
      yield metrics;
    }
  }
}

const stopped = (signal: AbortSignal | undefined): boolean => signal?.aborted === true;

/** Bytes that the process holds; 0 where nobody can say. */
export const memoryBytes = (): number => globalThis.process?.memoryUsage?.rss?.() ?? 0;
