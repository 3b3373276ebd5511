/** Composites that are just functions: fusion makes the kernel, the primitives' gradients make the gradient. */
import { composite } from "./op.ts";
import { axisOf } from "./shape.ts";
import { type Tensor } from "./tensor.ts";
import { amax, mean, sum, type Axes } from "./ops/reduce.ts";
import { stopGradient } from "./ops/views.ts";
import { where } from "./ops/pointwise.ts";
import { iota } from "./ops/indexing.ts";

/** max(x, 0), with derivative 0 at 0. */
export const relu = (x: Tensor): Tensor => where(x.gt(0), x, 0);
/** 1 / (1 + e^-x), written by tanh so that it never overflows. */
export const sigmoid = (x: Tensor): Tensor => x.mul(0.5).tanh().mul(0.5).add(0.5);
/** x · sigmoid(x) (also called swish). */
export const silu = (x: Tensor): Tensor => x.mul(sigmoid(x));
/** x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))): GPT-2's gelu. */
export const geluTanh = (x: Tensor): Tensor => x.mul(0.5).mul(x.mul(x).mul(x).mul(0.044715).add(x).mul(Math.sqrt(2 / Math.PI)).tanh().add(1));
/** x Φ(x) with the exact normal distribution. */
export const gelu = (x: Tensor): Tensor => x.mul(0.5).mul(x.mul(Math.SQRT1_2).erf().add(1));
/** log(1 + e^x). */
export const softplus = (x: Tensor): Tensor => x.maximum(0).add(x.abs().neg().exp().add(1).log());

const shifted = (x: Tensor, axes: Axes): Tensor => x.sub(stopGradient(amax(x, axes)));
/** y = e^x / Σ e^x; its gradient needs y alone: dx = y (g - Σ g y). */
const softmaxOf = composite("softmax", {
  define: ([x], { axis }: { axis: number }) => {
    const e = shifted(x, axis).exp();
    return e.div(sum(e, axis));
  },
  vjp: (g, y) => [y.mul(g.sub(sum(g.mul(y), (y.attrs as { axis: number }).axis)))],
  doc: "softmax along one axis",
});
/** e^x / Σ e^x along an axis (the last by default). */
export const softmax = (x: Tensor, axis = -1): Tensor => softmaxOf([x], { axis: axisOf("softmax", axis, x.rank) });
/** log Σ e^x along an axis, kept as size 1. */
export function logSumExp(x: Tensor, axis = -1): Tensor {
  const m = stopGradient(amax(x, axis));
  return sum(x.sub(m).exp(), axis).log().add(m);
}
/** x - logSumExp(x). */
export function logSoftmax(x: Tensor, axis = -1): Tensor {
  const z = shifted(x, axis);
  return z.sub(sum(z.exp(), axis).log());
}
/** x / √(mean x² + eps) · weight over the last axis (Zhang and Sennrich 2019). */
export function rmsNorm(x: Tensor, weight: Tensor, eps = 1e-6): Tensor {
  return x.mul(mean(x.mul(x), -1).add(eps).rsqrt()).mul(weight);
}
/** (x - mean) / √(variance + eps) · weight + bias over the last axis (Ba et al. 2016). */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor | null, eps = 1e-5): Tensor {
  const c = x.sub(mean(x, -1)), y = c.mul(mean(c.mul(c), -1).add(eps).rsqrt()).mul(weight);
  return bias ? y.add(bias) : y;
}
/**
 * Sum over rows of -log softmax(logits)[label] and the number of rows that count; labels outside [0, classes) (such as -100) are ignored.
 * Shapes: logits [..., classes], labels [...] i32.
 */
export function crossEntropySum(logits: Tensor, labels: Tensor): { total: Tensor; count: Tensor } {
  const classes = logits.shape[logits.rank - 1], y = labels.unsqueeze(-1);
  const hit = iota(logits.shape, -1).eq(y.expand(logits.shape));
  const valid = y.ge(0).where(y.lt(classes).cast(logits.dtype), 0);
  const picked = sum(hit.where(logits, 0), -1);
  return { total: sum(logSumExp(logits).sub(picked).mul(valid)), count: sum(valid) };
}
/** Mean of -log softmax(logits)[label] over the rows that count; 0 when none does. */
export function crossEntropy(logits: Tensor, labels: Tensor): Tensor {
  const { total, count } = crossEntropySum(logits, labels);
  return total.div(count.maximum(1));
}
