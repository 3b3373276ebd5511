/** The training loop: micro-batches, accumulation weighted by predicted tokens, and one event per optimizer step. */
import { checkpoint, gradients } from "@adjoint/autograd";
import type { Context } from "@adjoint/nn";
import { Accumulator, type BoundOptimizer, type Optimizer, type Schedule } from "@adjoint/optim";
import { compile, ConfigError, concat, counter, type Counter, div, live, pace, type Store, type Tensor } from "@adjoint/tensor";
import { CURVATURE_EVERY, sampleCurvature } from "./curvature.ts";
import type { DataSet } from "./data/dataset.ts";
import type { StepMetrics } from "./metrics.ts";
import { type Batch, toTensors } from "./data/tensors.ts";
import type { Gradients } from "./routine.ts";
import type { Trainee } from "./trainee.ts";

export interface TrainingOptions {
  readonly data: DataSet;
  /** how an update is made of gradients; its learning rate should be `learningRate` */
  readonly optimizer: Optimizer;
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
  /** for an optimizer with a `hessian` (Sophia): a sample of the curvature every `every` steps (default 10), averaged with β₂ */
  readonly curvature?: { readonly beta2: number; readonly every?: number };
  readonly seed?: number;
  /** a new order each pass (default true) */
  readonly shuffle?: boolean;
}

/** Loss, norm before clipping, whether the step was skipped (1 or 0), and predicted tokens, in one tensor, so that one read gives all. */
const report = (loss: Tensor, norm: Tensor, skipped: Tensor, count: Tensor): Tensor =>
  concat([loss, norm, skipped, count].map((t) => t.cast("f32").reshape([1])));

/** g min(1, maxNorm / (‖g‖ + 1e-6)), what `clip_grad_norm_` leaves in torch's gradients; maxNorm 0: g. */
function clipped(g: Gradients, norm: Tensor, maxNorm: number): Gradients {
  if (maxNorm <= 0) return g;
  const c = div(maxNorm, norm.add(1e-6)).minimum(1);
  return Object.fromEntries(Object.entries(g).map(([path, x]) => [path, x === null ? null : x.mul(c.cast(x.dtype))]));
}

/** The sum of two gradients of the same parameters. */
const sumOf = (a: Gradients, b: Gradients): Gradients =>
  Object.fromEntries([...new Set([...Object.keys(a), ...Object.keys(b)])].map((path) => { const x = a[path] ?? null, y = b[path] ?? null; return [path, x === null ? y : y === null ? x : x.add(y)]; }));

/** A training run in memory: where it stands, and what moves it. */
export class Training {
  readonly trainee: Trainee;
  readonly options: TrainingOptions;
  readonly optimizer: BoundOptimizer<Readonly<Record<string, Store>>>;
  /** optimizer steps done */
  step = 0;
  /** predicted tokens so far */
  tokensSeen = 0;
  /** what routines said after steps; whoever reads them empties the list */
  readonly notes: string[] = [];
  /** first micro-batch of the step, then ticking: the step word of the dropout masks */
  readonly #micro: Counter = counter(0, "micro");
  readonly #sums: Accumulator<Readonly<Record<string, Store>>> | null;
  readonly #whole: (batch: Batch) => Tensor;
  readonly #add: (batch: Batch) => Tensor;
  readonly #finish: () => Tensor;
  readonly #curvature: ((batch: Batch) => void) | null;

  constructor(trainee: Trainee, options: TrainingOptions) {
    const { optimizer, steps, accumulation = 1, gradientCheckpointing = false, seed = 42 } = options;
    if (!Number.isInteger(steps) || steps < 1) throw new ConfigError(`a run of ${steps} steps`, { key: "max_steps", value: steps, fix: "train for at least one step" });
    if (!Number.isInteger(accumulation) || accumulation < 1) throw new ConfigError(`gradient_accumulation_steps = ${accumulation}`, { key: "gradient_accumulation_steps", value: accumulation, fix: "use an integer of at least 1" });
    this.trainee = trainee;
    this.options = options;
    this.optimizer = optimizer.for(trainee.trainable);
    for (const routine of trainee.routines ?? []) routine.begin?.(steps);
    this.#sums = accumulation > 1 ? new Accumulator(trainee.trainable) : null;
    const lossSum = (batch: Batch): { total: Tensor; count: Tensor } => {
      const context: Context = {
        train: true,
        key: { seed, stream: "dropout", step: live(this.#micro, (n) => n, "u32") },
        ...(gradientCheckpointing ? { checkpoint } : {}),
      };
      const sum = trainee.lossSum(batch, context);
      this.#micro.tick();
      return sum;
    };
    /** The step of the optimizer, then what looks at its gradients. A method's own term of the loss has its gradient once a step. */
    const update = (loss: Tensor, gradient: Gradients, count: Tensor): Tensor => {
      const { gradNorm, skipped } = this.optimizer.step(gradient);
      const watching = (trainee.routines ?? []).filter((routine) => routine.observe !== undefined), seen = watching.length === 0 ? gradient : clipped(gradient, gradNorm, options.maxGradNorm ?? 0);
      for (const routine of watching) routine.observe?.(seen, skipped);
      return report(loss, gradNorm, skipped, count);
    };
    const { curvature } = options;
    this.#curvature = curvature === undefined ? null : compile((batch: Batch) => {
      sampleCurvature(this.optimizer, trainee, batch, { train: false, ...(gradientCheckpointing ? { checkpoint } : {}) }, { seed, stream: "curvature", step: live(this.#micro, (n) => n, "u32") }, curvature.beta2);
    });
    this.#whole = compile((batch: Batch) => {
      const { total, count } = lossSum(batch);
      const loss = total.div(count.maximum(1)), penalty = trainee.penalty?.() ?? null;
      return update(loss, gradients(penalty === null ? loss : loss.add(penalty.cast(loss.dtype)), trainee.trainable), count);
    });
    this.#add = compile((batch: Batch) => {
      const { total, count } = lossSum(batch);
      this.#sums?.add(gradients(total, trainee.trainable), count, total);
      return count;
    });
    this.#finish = compile(() => {
      if (!this.#sums) throw new ConfigError("nothing was accumulated", { op: "Training" });
      const { gradients: mean, loss, count } = this.#sums.finish(), penalty = trainee.penalty?.() ?? null;
      return update(loss, penalty === null ? mean : sumOf(mean, gradients(penalty, trainee.trainable)), count);
    });
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
    const { curvature } = this.options;
    if (this.#curvature && curvature && this.step % (curvature.every ?? CURVATURE_EVERY) === 0) this.#curvature(toTensors(group[0]));
    let done: Tensor;
    if (this.#sums) {
      try {
        for (const batch of group) {
          signal?.throwIfAborted();
          this.#add(toTensors(batch));
          await pace();
        }
        signal?.throwIfAborted();
      } catch (error) {
        this.#sums.reset();
        throw error;
      }
      done = this.#finish();
    } else {
      signal?.throwIfAborted();
      done = this.#whole(toTensors(group[0]));
    }
    const [loss, norm, skipped] = Array.from(await done.data(), Number);
    await pace();             // a compiled step on a CPU has its numbers at once, and reading them gives nobody a turn
    const tokens = group.reduce((n, b) => n + b.predicted, 0), rate = learningRate(this.step);
    this.step++;
    this.tokensSeen += tokens;
    for (const routine of this.trainee.routines ?? []) {
      const note = await routine.between({ step: this.step, steps: this.options.steps, optimizer: this.optimizer });
      if (note !== null) this.notes.push(note);
    }
    return {
      step: this.step, epoch: this.step / this.stepsPerEpoch, loss, grad_norm: norm, learning_rate: rate,
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
