/** Clipping: by value, by the norm of a leaf, by the norm of all leaves, by a share of each row's own norm. */
import { type Tensor, concat, div, total } from "@adjoint/tensor";
import { finite, knownKeys, notNegative } from "./check.ts";
import { type Leaves, type Transform, mapLeaves, stateless } from "./transform.ts";

/** Σ x² of one tensor. */
function square(x: Tensor): Tensor {
  const flat = x.reshape([x.size]);
  return total(flat.mul(flat));
}
/** Σ over all leaves and elements of g², a total of the leaves' totals, each added in f64 on the CPU (`total`); f64 where any leaf is. */
export function squaredNorm(gradients: Leaves): Tensor {
  const all = Object.values(gradients), dtype = all.some((g) => g.dtype === "f64") ? "f64" : "f32";
  const squares = all.map((g) => square(g).cast(dtype));
  return squares.length === 1 ? squares[0] : total(concat(squares.map((s) => s.reshape([1]))));
}
/** ‖g‖₂ over all leaves together. */
export const globalNorm = (gradients: Leaves): Tensor => squaredNorm(gradients).sqrt();
/** ‖x‖₂ of one tensor, shape []. */
export const norm = (x: Tensor): Tensor => square(x).sqrt();
/** √(mean x²), shape []. */
export const rms = (x: Tensor): Tensor => x.mul(x).mean().sqrt();

/** g · min(1, maxNorm / (‖g‖ + 1e-6)) with the norm over all leaves (torch's `clip_grad_norm_`); maxNorm ≤ 0 clips nothing. */
export function clipByGlobalNorm(maxNorm: number): Transform {
  finite("clipByGlobalNorm", "maxNorm", maxNorm);
  if (maxNorm <= 0) return stateless((updates) => updates);
  return stateless((updates) => {
    if (Object.keys(updates).length === 0) return updates;
    const c = div(maxNorm, globalNorm(updates).add(1e-6)).minimum(1);
    return mapLeaves(updates, (g) => g.mul(c.cast(g.dtype)));
  });
}

/** The same for each leaf by itself: g · min(1, maxNorm / (‖g‖ + 1e-6)). */
export function clipByNorm(maxNorm: number): Transform {
  notNegative("clipByNorm", "maxNorm", maxNorm);
  return stateless((updates) => mapLeaves(updates, (g) => g.mul(div(maxNorm, norm(g).add(1e-6)).minimum(1))));
}

/** min(max(g, -x), x), number by number (torch's `clip_grad_value_`). */
export function clipByValue(limit: number): Transform {
  notNegative("clipByValue", "limit", limit);
  return stateless((updates) => mapLeaves(updates, (g) => g.maximum(-limit).minimum(limit)));
}

/** Options of `clipAdaptively`. */
export interface AdaptiveClip {
  /** λ: the largest share; default 0.01 */
  readonly clipFactor?: number;
  /** rows of a smaller norm count as this; default 1e-3 */
  readonly eps?: number;
}
/** ‖x‖ of each row (all axes but the first); of vectors and numbers as a whole. */
function rowNorm(x: Tensor): Tensor {
  const square = x.mul(x);
  return x.rank < 2 ? square.sum().sqrt() : square.sum(x.shape.map((_, i) => i).slice(1)).sqrt();
}
/**
 * Rows with ‖g‖ > λ max(‖p‖, eps) are shortened to that: g · λ max(‖p‖, eps) / max(‖g‖, 1e-6) (Brock et al. 2021, adaptive
 * gradient clipping; rows are outputs, as weights are (out, in)).
 */
export function clipAdaptively(options: AdaptiveClip = {}): Transform {
  const op = "clipAdaptively";
  knownKeys(op, options, ["clipFactor", "eps"]);
  const clipFactor = notNegative(op, "clipFactor", options.clipFactor ?? 0.01), eps = notNegative(op, "eps", options.eps ?? 1e-3);
  return stateless((updates, params) => mapLeaves(updates, (g, path) => {
    const limit = rowNorm(params[path]).maximum(eps).mul(clipFactor), size = rowNorm(g).maximum(1e-6);
    return g.mul(limit.div(size).minimum(1));
  }));
}
