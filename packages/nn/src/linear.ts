/** Fully connected layers, with the weight as Linear and as GPT-2 store it. */
import { ConfigError, ShapeError, type Store, Tensor, show } from "@adjoint/tensor";
import { adapted, type Context } from "./context.ts";
import { wide } from "./wide.ts";

/** Layers are made of parameters, not of sizes. @throws ConfigError */
function checkTensors(layer: string, shape: string, weight: unknown, bias: unknown): void {
  for (const [key, value] of Object.entries({ weight, bias })) {
    if (value instanceof Tensor || (key === "bias" && value === null)) continue;
    throw new ConfigError(`${layer}: ${key} is ${typeof value === "number" ? value : `of type ${typeof value}`}, no tensor: a layer is made of its parameters`, { op: layer, key, value, fix: `const init = kaimingUniform(seed); new ${layer}(init("weight", ${shape}), init("bias", [out])), or leave the bias out` });
  }
}
/** @throws ShapeError naming the weight where x has other features */
function checkInput(layer: string, x: Tensor, features: number, weight: Tensor): void {
  if (x.shape.at(-1) === features) return;
  throw new ShapeError(`${layer}: x has ${x.shape.at(-1) ?? "no"} features, the weight wants ${features}\n  x       ${show(x.shape)}${x.name === "" ? "" : `  ${x.name}`}\n  weight  ${show(weight.shape)}${weight.name === "" ? "" : `  ${weight.name}`}`, { op: layer, key: weight.name, shapes: [x.shape, weight.shape], fix: `give x of shape [..., ${features}]` });
}

/**
 * y = x Wᵀ + b over the last axis; weight [out, in] and bias [out] as in the files.
 * A half-precision weight is widened by the product, a weight of codes (`quantizedWeight` of @adjoint/quant) is decoded by it; y is f32 (f64 for an f64 layer).
 */
export class Linear {
  /** a store, or a tensor that stays a recipe over stores: such a one does not train */
  readonly weight: Tensor;
  readonly bias: Store | null;
  /** @throws ShapeError unless weight is a matrix and bias has its rows */
  constructor(weight: Tensor, bias: Store | null = null) {
    checkTensors("Linear", "[out, in]", weight, bias);
    if (weight.rank !== 2) throw new ShapeError(`Linear: the weight must be [out, in], got ${show(weight.shape)}`, { op: "Linear", key: weight.name, shapes: [weight.shape] });
    if (bias && (bias.rank !== 1 || bias.shape[0] !== weight.shape[0])) throw new ShapeError(`Linear: bias ${show(bias.shape)} does not fit weight ${show(weight.shape)}`, { op: "Linear", key: bias.name, shapes: [weight.shape, bias.shape] });
    this.weight = weight;
    this.bias = bias;
  }
  get inFeatures(): number { return this.weight.shape[1]; }
  get outFeatures(): number { return this.weight.shape[0]; }
  /** x [..., in] to [..., out]. */
  forward(x: Tensor, context: Context = {}): Tensor {
    checkInput("Linear", x, this.inFeatures, this.weight);
    const xw = x.matmul(this.weight.T), y = this.bias ? xw.add(wide(this.bias)) : xw;
    return adapted(this, x, y, context);
  }
}

/** y = x W + b over the last axis; weight [in, out] as GPT-2's files have it (transformers' `Conv1D`), all else as Linear. */
export class Conv1D {
  readonly weight: Tensor;
  readonly bias: Store | null;
  /** @throws ShapeError unless weight is a matrix and bias has its columns */
  constructor(weight: Tensor, bias: Store | null = null) {
    checkTensors("Conv1D", "[in, out]", weight, bias);
    if (weight.rank !== 2) throw new ShapeError(`Conv1D: the weight must be [in, out], got ${show(weight.shape)}`, { op: "Conv1D", key: weight.name, shapes: [weight.shape] });
    if (bias && (bias.rank !== 1 || bias.shape[0] !== weight.shape[1])) throw new ShapeError(`Conv1D: bias ${show(bias.shape)} does not fit weight ${show(weight.shape)}`, { op: "Conv1D", key: bias.name, shapes: [weight.shape, bias.shape] });
    this.weight = weight;
    this.bias = bias;
  }
  get inFeatures(): number { return this.weight.shape[0]; }
  get outFeatures(): number { return this.weight.shape[1]; }
  /** x [..., in] to [..., out]. */
  forward(x: Tensor, context: Context = {}): Tensor {
    checkInput("Conv1D", x, this.inFeatures, this.weight);
    const xw = x.matmul(this.weight);
    return adapted(this, x, this.bias ? xw.add(wide(this.bias)) : xw, context);
  }
}
