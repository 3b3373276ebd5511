/** One optimizer step of a trainee, compiled: micro-batches, their sums, the update, and who looks at its gradients. */
import { checkpoint, gradients } from "@adjoint/autograd";
import type { Context } from "@adjoint/nn";
import { Accumulator, type BoundOptimizer, type Optimizer } from "@adjoint/optim";
import { compile, ConfigError, concat, type Counter, div, live, type Store, type Tensor } from "@adjoint/tensor";
import { sampleCurvature } from "./curvature.ts";
import { predictedTokens } from "./data/sample.ts";
import type { Batch } from "./data/tensors.ts";
import type { TrainingOptions } from "./loop.ts";
import type { Gradients } from "./routine.ts";
import type { Trainee } from "./trainee.ts";

/** Loss, norm before clipping, whether the step was skipped (1 or 0), and predicted tokens, in one tensor, so that one read gives all. */
const report = (loss: Tensor, norm: Tensor, skipped: Tensor, count: Tensor): Tensor =>
  concat([loss, norm, skipped, count].map((t) => t.cast("f32").reshape([1])));

/** g min(1, maxNorm / (‖g‖ + 1e-6)), what `clip_grad_norm_` leaves in torch's gradients; maxNorm 0: g. */
function clipped(g: Gradients, norm: Tensor, maxNorm: number): Gradients {
  if (maxNorm <= 0) return g;
  const c = div(maxNorm, norm.add(1e-6)).minimum(1);
  return Object.fromEntries(Object.entries(g).map(([path, x]) => [path, x === null ? null : x.mul(c.cast(x.dtype))]));
}

/** The same gradients, but NaN in the smallest of them where no token was predicted: nothing was learned then, and an optimizer leaves everything as it is when it sees a NaN. */
function orNothing(g: Gradients, count: Tensor): Gradients {
  const [path, least] = Object.entries(g).reduce<readonly [string, Tensor | null]>((least, [path, x]) => (x !== null && (least[1] === null || x.size < least[1].size) ? [path, x] : least), ["", null]);
  return least === null ? g : { ...g, [path]: count.reshape([]).gt(0).where(least, Number.NaN) };
}

/** The sum of two gradients of the same parameters. */
const sumOf = (a: Gradients, b: Gradients): Gradients =>
  Object.fromEntries([...new Set([...Object.keys(a), ...Object.keys(b)])].map((path) => { const x = a[path] ?? null, y = b[path] ?? null; return [path, x === null ? y : y === null ? x : x.add(y)]; }));

/** What a loop calls: a trainee with its optimizer. */
export class Steps {
  readonly trainee: Trainee;
  readonly optimizer: BoundOptimizer<Readonly<Record<string, Store>>>;
  /** sums of micro-batches; null where a step has one */
  readonly sums: Accumulator<Readonly<Record<string, Store>>> | null;
  /** a whole step on one batch: loss, norm, skipped, predicted tokens */
  readonly whole: (batch: Batch) => Tensor;
  /** a micro-batch into the sums */
  readonly add: (batch: Batch) => Tensor;
  /** the step on the sums */
  readonly finish: () => Tensor;
  readonly curvature: ((batch: Batch) => void) | null;

  /** `micro` counts micro-batches: the step word of the dropout masks. */
  constructor(trainee: Trainee, optimizer: Optimizer, options: TrainingOptions, micro: Counter) {
    const { steps, accumulation = 1, gradientCheckpointing = false, seed = 42, curvature, maxGradNorm = 0 } = options, blanks = options.data.samples.some((sample) => predictedTokens(sample) === 0);
    this.trainee = trainee;
    this.optimizer = optimizer.for(trainee.trainable);
    for (const routine of trainee.routines ?? []) routine.begin?.(steps);
    this.sums = accumulation > 1 ? new Accumulator(trainee.trainable) : null;
    const lossSum = (batch: Batch): { total: Tensor; count: Tensor } => {
      const context: Context = {
        train: true,
        key: { seed, stream: "dropout", step: live(micro, (n) => n, "u32") },
        ...(gradientCheckpointing ? { checkpoint } : {}),
      };
      const sum = trainee.lossSum(batch, context);
      micro.tick();
      return sum;
    };
    /** The step of the optimizer, then what looks at its gradients. A method's own term of the loss has its gradient once a step. */
    const update = (loss: Tensor, gradient: Gradients, count: Tensor): Tensor => {
      const { gradNorm, skipped } = this.optimizer.step(blanks ? orNothing(gradient, count) : gradient);
      const watching = (trainee.routines ?? []).filter((routine) => routine.observe !== undefined), seen = watching.length === 0 ? gradient : clipped(gradient, gradNorm, maxGradNorm);
      for (const routine of watching) routine.observe?.(seen, skipped);
      return report(loss, gradNorm, skipped, count);
    };
    this.curvature = curvature === undefined ? null : compile((batch: Batch) => {
      sampleCurvature(this.optimizer, trainee, batch, { train: false, ...(gradientCheckpointing ? { checkpoint } : {}) }, { seed, stream: "curvature", step: live(micro, (n) => n, "u32") }, curvature.beta2, curvature.bs);
    });
    this.whole = compile((batch: Batch) => {
      const { total, count } = lossSum(batch);
      const loss = total.div(count.maximum(1)), penalty = trainee.penalty?.() ?? null;
      return update(loss, gradients(penalty === null ? loss : loss.add(penalty.cast(loss.dtype)), trainee.trainable), count);
    });
    this.add = compile((batch: Batch) => {
      const { total, count } = lossSum(batch);
      this.sums?.add(Object.fromEntries(Object.entries<Tensor | null>(gradients(total, trainee.trainable)).map(([path, g]) => [path, this.optimizer.ignores(path) ? null : g])), count, total);
      return count;
    });
    this.finish = compile(() => {
      if (!this.sums) throw new ConfigError("nothing was accumulated", { op: "Training" });
      const { gradients: mean, loss, count } = this.sums.finish(), penalty = trainee.penalty?.() ?? null;
      return update(loss, penalty === null ? mean : sumOf(mean, gradients(penalty, trainee.trainable)), count);
    });
  }
}
