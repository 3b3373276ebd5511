/** Normalisation layers; statistics in f32 (f64 for f64 inputs). */
import { ShapeError, type Store, type Tensor, layerNorm, rmsNorm, show } from "@adjoint/tensor";
import { adapted, type Context } from "./context.ts";
import { wide } from "./wide.ts";

const vector = (layer: string, x: Store, length = x.shape[0]): Store => {
  if (x.rank !== 1 || x.shape[0] !== length) throw new ShapeError(`${layer}: expected a vector${x.rank === 1 ? ` of ${length}` : ""}, got ${show(x.shape)}`, { op: layer, key: x.name, shapes: [x.shape] });
  return x;
};

/** y = x / √(mean x² + eps) · weight over the last axis (Zhang and Sennrich 2019). */
export class RMSNorm {
  readonly weight: Store;
  readonly eps: number;
  constructor(weight: Store, eps = 1e-6) { this.weight = vector("RMSNorm", weight); this.eps = eps; }
  forward(x: Tensor, context: Context = {}): Tensor { return adapted(this, x, rmsNorm(wide(x), wide(this.weight), this.eps), context); }
}

/** y = (x - mean) / √(variance + eps) · weight + bias over the last axis (Ba et al. 2016). */
export class LayerNorm {
  readonly weight: Store;
  readonly bias: Store | null;
  readonly eps: number;
  constructor(weight: Store, bias: Store | null = null, eps = 1e-5) {
    this.weight = vector("LayerNorm", weight);
    this.bias = bias && vector("LayerNorm", bias, weight.shape[0]);
    this.eps = eps;
  }
  forward(x: Tensor, context: Context = {}): Tensor { return adapted(this, x, layerNorm(wide(x), wide(this.weight), this.bias && wide(this.bias), this.eps), context); }
}
