/** Sophia: steps clipped by an estimate of the curvature, and the two estimators. */
import { type Key, Tensor, amin, bitAnd, iota, mapTree, randomBits, randomUniform } from "@adjoint/tensor";
import { checkedBetas } from "./adam.ts";
import { aboveZero, fraction, knownKeys } from "./check.ts";
import { type CommonOptions, built, commonKeys } from "./common.ts";
import { rulesOf } from "./groups.ts";
import { sign } from "./lion.ts";
import type { BoundOptimizer, GradientsOf, Optimizer } from "./optimizer.ts";
import { type Transform, mapLeaves, zerosLike } from "./transform.ts";
import { decayWeights, lerp, scaleByLearningRate } from "./transforms.ts";

/** Options of `scaleBySophia`. */
export interface SophiaScaling {
  /** decays of the momentum and of the curvature; default 0.965, 0.99 */
  readonly betas?: readonly [number, number];
  /** ρ: how much of the curvature counts; more of it clips less; default 0.04 */
  readonly rho?: number;
  /** what a sample of the curvature is multiplied by: predicted tokens a batch for `gaussNewtonBartlett`, 1 for `hutchinson` */
  readonly bs?: number;
}
/** Options of `sophia`. */
export interface SophiaOptions extends CommonOptions, SophiaScaling {}

/**
 * u = sign(m) min(1, |m| / (ρ bs max(h, 0) + 1e-15)) with m ← lerp(m, g, 1 - β₁); h comes from `estimateCurvature` (Liu et al. 2023). Where h < 0,
 * as Hutchinson's samples can be, a step has its full length downhill.
 */
export function scaleBySophia(options: SophiaScaling = {}): Transform {
  knownKeys("scaleBySophia", options, ["betas", "rho", "bs"]);
  const { betas = [0.965, 0.99], rho = 0.04, bs = 1 } = options, [b1] = checkedBetas("scaleBySophia", betas);
  aboveZero("scaleBySophia", "rho", rho); aboveZero("scaleBySophia", "bs", bs);
  return {
    init: (params) => ({ exp_avg: zerosLike(params), hessian: zerosLike(params) }),
    update(updates, { exp_avg, hessian }, _, context) {
      const m = mapLeaves(updates, (g, path) => context.keep(lerp(exp_avg[path], g, 1 - b1), exp_avg[path]));
      return { updates: mapLeaves(m, (x, path) => sign(x).mul(x.abs().div(hessian[path].maximum(0).mul(rho * bs).add(1e-15)).minimum(1))), state: { exp_avg: m } };
    },
  };
}
/** h ← β₂h + (1 - β₂) sample. */
export const averageCurvature = (beta2: number): Transform => ({
  init: (params) => ({ hessian: zerosLike(params) }),
  update: (samples, { hessian }, _, context) => ({ updates: {}, state: { hessian: mapLeaves(samples, (x, path) => context.keep(hessian[path].mul(beta2).add(x.mul(1 - beta2)), hessian[path])) } }),
});

/**
 * Sophia (Liu et al. 2023): p ← p(1 - lr λ); m ← β₁m + (1 - β₁)g; p ← p - lr sign(m) min(1, |m| / (ρ bs h + 1e-15)). The curvature h is
 * brought up to date by `estimateCurvature`, every tenth step or so. Defaults: learningRate 1e-4, betas 0.965, 0.99, rho 0.04, weightDecay 0.1.
 * With a fresh LoRA B = 0, so h_A = 0: until samples come in, A takes steps of full length.
 * @example
 * const optimizer = sophia({ learningRate: 3e-4, bs: tokensPerBatch, maxGradNorm: 1 }).for(model);
 * if (t % 10 === 0) estimateCurvature(optimizer, gaussNewtonBartlett(gradients(lossWithLabels(sampleLabels(logits, key)), model)));
 */
export function sophia(options: SophiaOptions = {}): Optimizer {
  const op = "sophia";
  knownKeys(op, options, [...commonKeys, "betas", "rho", "bs"]);
  const { learningRate = 1e-4, betas = [0.965, 0.99], rho = 0.04, bs = 1, weightDecay = 0.1 } = options, rules = rulesOf(op, { ...options, learningRate, weightDecay });
  checkedBetas(op, betas);
  aboveZero(op, "rho", rho);
  aboveZero(op, "bs", bs);
  return built(op, options, [decayWeights(rules.decay, rules), scaleBySophia({ betas, rho, bs }), scaleByLearningRate(rules)], rules, { betas, rho, bs });
}

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;

/** A sample of the curvature's diagonal, made when asked for. */
export type CurvatureSample<T> = () => GradientsOf<T>;

/**
 * Records h ← β₂h + (1 - β₂) sample for the leaves that the sample has. Call it where the step is recorded, every k steps.
 * Errors: ConfigError for an optimizer without a `hessian`, or a sample of another tree.
 */
export function estimateCurvature<T>(optimizer: BoundOptimizer<T>, sample: CurvatureSample<T>, beta2 = 0.99): void {
  optimizer.observe(averageCurvature(fraction("estimateCurvature", "beta2", beta2)), sample());
}
/** Gauss-Newton-Bartlett: ĝ² of the mean loss under labels drawn from the model itself (`sampleLabels`); `bs` in `sophia` makes it a curvature. */
export const gaussNewtonBartlett = <T>(gradients: GradientsOf<T>): CurvatureSample<T> => () => mapTree(gradients, isTensor, (g: Tensor) => g.mul(g)) as GradientsOf<T>;
/** Hutchinson: v ⊙ Hv with v of `rademacher` and Hv the gradient of Σ g v; use `bs: 1`. */
export const hutchinson = <T>(v: GradientsOf<T>, hv: GradientsOf<T>): CurvatureSample<T> => () => productOf(v, hv);

function productOf<T>(v: GradientsOf<T>, hv: GradientsOf<T>): GradientsOf<T> {
  const signs: Tensor[] = [];
  mapTree(v, isTensor, (x: Tensor) => { signs.push(x); return x; });
  let i = 0;
  return mapTree(hv, isTensor, (x: Tensor) => x.mul(signs[i++])) as GradientsOf<T>;
}
/** A tree of 1 and -1 by chance, shaped like the tensors of another; each leaf has a stream of its own. */
export function rademacher<T>(tree: T, key: Key): GradientsOf<T> {
  return mapTree(tree, isTensor, (x: Tensor, path) => bitAnd(randomBits(x.shape, { ...key, stream: `${key.stream}/${path}` }), 1).cast(x.dtype === "f64" ? "f64" : "f32").mul(2).sub(1));
}

/** Labels drawn from softmax(logits), on the device: the largest of logit - log(-log u), i32, the shape without the last axis (Gumbel's way). */
export function sampleLabels(logits: Tensor, key: Key): Tensor {
  const n = logits.shape[logits.rank - 1], u = randomUniform(logits.shape, key).maximum(2 ** -25);
  const z = logits.cast("f32").sub(u.log().neg().log()), best = z.eq(z.amax(-1)), place = iota(logits.shape, -1, "i32");
  return amin(best.where(place, n - 1), -1).reshape(logits.shape.slice(0, -1));
}

/** The share of numbers whose step is not clipped, |m| < ρ bs h: aim at 0.1 to 0.5. Shape []. */
export function unclippedShare<T>(optimizer: BoundOptimizer<T>, options: Pick<SophiaScaling, "rho" | "bs"> = {}): Tensor {
  knownKeys("unclippedShare", options, ["rho", "bs"]);
  const { rho = 0.04, bs = 1 } = options, paths = Object.keys(optimizer.params), { exp_avg: m, hessian: h } = optimizer.states;
  const hits = paths.map((path) => m[path].abs().lt(h[path].mul(rho * bs)).cast("f32").sum()).reduce((a, b) => a.add(b));
  return hits.div(paths.reduce((total, path) => total + m[path].size, 0));
}
