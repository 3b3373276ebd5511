/** Muon: momentum made orthogonal, for matrices. */
import { ConfigError, type Tensor } from "@adjoint/tensor";
import { scaleByAdam } from "./adam.ts";
import { finite, flag, fraction, knownKeys, notNegative, oneOf, tuple, whole } from "./check.ts";
import { norm } from "./clip.ts";
import { type CommonOptions, built, commonKeys } from "./common.ts";
import { rulesOf } from "./groups.ts";
import type { Optimizer } from "./optimizer.ts";
import { isEmbeddingTable, isOutputHead } from "./roles.ts";
import { type Transform, branch, mapLeaves, stateless, zerosLike } from "./transform.ts";
import { decayWeights, lerp, scaleByLearningRate } from "./transforms.ts";

/** Coefficients of one Newton-Schulz step, aX + (bG + cG²)X with G = XXᵀ. */
export type NewtonSchulz = readonly [number, number, number];
const quintic: NewtonSchulz = [3.4445, -4.775, 2.0315];

/** Options of `muon`. */
export interface MuonOptions extends CommonOptions {
  readonly momentum?: number;
  readonly nesterov?: boolean;
  readonly nsCoefficients?: NewtonSchulz;
  /** least norm that a matrix is divided by */
  readonly eps?: number;
  readonly nsSteps?: number;
  /** original: lr √max(1, rows/columns); match_rms_adamw: 0.2 lr √max(rows, columns); none: lr */
  readonly adjustLrFn?: "original" | "match_rms_adamw" | "none";
  /** leaves that are no matrices: refuse them (as torch does); or let Adam's direction move them, and embedding tables and output heads too, as Muon's authors advise */
  readonly others?: "refuse" | "adam";
}

/** A matrix with the same singular vectors and singular values near 1: so many Newton-Schulz steps from X / max(‖X‖, eps). */
export function orthogonalized(x: Tensor, [a, b, c]: NewtonSchulz = quintic, steps = 5, eps = 1e-7): Tensor {
  const tall = x.shape[0] > x.shape[1];
  let y = x.div(norm(x).maximum(eps));
  if (tall) y = y.T;
  for (let i = 0; i < steps; i++) {
    const gram = y.matmul(y.T);
    y = y.mul(a).add(gram.mul(b).add(gram.matmul(gram).mul(c)).matmul(y));
  }
  return tall ? y.T : y;
}

const adjustments: Readonly<Record<"original" | "match_rms_adamw" | "none", (rows: number, columns: number) => number>> = {
  original: (rows, columns) => Math.sqrt(Math.max(1, rows / columns)), match_rms_adamw: (rows, columns) => 0.2 * Math.sqrt(Math.max(rows, columns)), none: () => 1,
};

/** buf ← lerp(buf, g, 1 - μ); u = nesterov ? lerp(g, buf, μ) : buf. */
export function momentumAverage(momentum: number, nesterov: boolean): Transform {
  return {
    init: (params) => ({ momentum_buffer: zerosLike(params) }),
    update(updates, { momentum_buffer: old }, _, context) {
      const buf = mapLeaves(updates, (g, path) => context.keep(lerp(old[path], g, 1 - momentum), old[path]));
      return { updates: nesterov ? mapLeaves(updates, (g, path) => lerp(g, buf[path], momentum)) : buf, state: { momentum_buffer: buf } };
    },
  };
}

/**
 * Muon (Jordan et al. 2024, torch.optim.Muon): buf ← μ buf + (1 - μ)g; u = nesterov ? (1 - μ)g + μ buf : buf; p ← p(1 - lr λ);
 * p ← p - lr √max(1, rows/columns) · orthogonalized(u). Defaults: learningRate 1e-3, momentum 0.95, nesterov, 5 steps, weightDecay 0.1.
 * With `others: "adam"` vectors, embedding tables and output heads (by their names) take AdamW's step at the same rate (betas 0.9, 0.999); groups give them another.
 * torch iterates in bf16, this in the parameters' own precision: its matrices are a little nearer to orthogonal.
 * Errors: ConfigError for a leaf that is no matrix, unless `others: "adam"`.
 */
export function muon(options: MuonOptions = {}): Optimizer {
  const op = "muon";
  knownKeys(op, options, [...commonKeys, "momentum", "nesterov", "nsCoefficients", "eps", "nsSteps", "adjustLrFn", "others"]);
  const { learningRate = 1e-3, weightDecay = 0.1, momentum = 0.95, nesterov = true, nsCoefficients = quintic, eps = 1e-7, nsSteps = 5, adjustLrFn = "original", others = "refuse" } = options;
  const rules = rulesOf(op, { ...options, learningRate, weightDecay });
  fraction(op, "momentum", momentum); flag(op, "nesterov", nesterov); notNegative(op, "eps", eps);
  tuple(op, "nsCoefficients", nsCoefficients, 3).forEach((c, i) => finite(op, `nsCoefficients[${i}]`, c));
  oneOf(op, "adjustLrFn", adjustLrFn, ["original", "match_rms_adamw", "none"]); oneOf(op, "others", others, ["refuse", "adam"]);
  if (whole(op, "nsSteps", nsSteps) >= 100) throw new ConfigError(`${op}: ${nsSteps} Newton-Schulz steps`, { op, key: "nsSteps", value: nsSteps, fix: "5 are usual, and fewer than 100 allowed" });
  const direction = stateless((updates) => mapLeaves(updates, (u) => orthogonalized(u, nsCoefficients, nsSteps, eps).mul(adjustments[adjustLrFn](u.shape[0], u.shape[1]))));
  const average = momentumAverage(momentum, nesterov);
  const matrices: Transform = {
    init: (params) => average.init(params),
    update(updates, state, params, context) {
      const first = average.update(updates, state, params, context);
      return { ...first, updates: direction.update(first.updates, {}, params, context).updates };
    },
  };
  const isMatrix = (path: string, p: Tensor): boolean => {
    if (p.rank !== 2 && others === "refuse") throw new ConfigError(`${op}: ${path} has shape [${p.shape.join(", ")}], and only matrices have singular values`, { op, key: path, fix: 'give that leaf another optimizer, or set others: "adam"' });
    return p.rank === 2 && !(others === "adam" && (isEmbeddingTable(path) || isOutputHead(path)));
  };
  return built(op, options, [decayWeights(rules.decay, rules), branch(isMatrix, matrices, others === "adam" ? scaleByAdam() : undefined), scaleByLearningRate(rules)], rules, { momentum, nesterov, ns_coefficients: nsCoefficients, eps, ns_steps: nsSteps, adjust_lr_fn: adjustLrFn });
}
