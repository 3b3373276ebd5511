/** A small model with an embedding, two blocks and a head, on the dyadic grid. */
import { type Context, Embedding, Linear } from "@adjoint/nn";
import { type DType, encode, hostArray, store, type Store, type Tensor, tensor } from "@adjoint/tensor";

let seed = 1;
function numbers(shape: readonly number[], dtype: DType, name: string): Store {
  const data = hostArray(dtype, shape.reduce((a, b) => a * b, 1));
  for (let i = 0; i < data.length; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    data[i] = encode(dtype, (((seed >>> 8) % 33) - 16) / 16);
  }
  return store({ dtype, shape, data }, name);
}

class Block {
  readonly q_proj: Linear;
  readonly up_proj: Linear;
  constructor(width: number, dtype: DType) {
    this.q_proj = new Linear(numbers([width, width], dtype, "q"));
    this.up_proj = new Linear(numbers([width, width], dtype, "up"), numbers([width], dtype, "bias"));
  }
  forward(x: Tensor, context: Context): Tensor {
    return this.up_proj.forward(this.q_proj.forward(x, context).tanh(), context).add(x);
  }
}

export class Toy {
  readonly embed: Embedding;
  readonly layers: readonly Block[];
  readonly norm: { readonly weight: Store };
  readonly lm_head: Linear;
  readonly config: { readonly modelType: string } = { modelType: "llama" };
  constructor(options: { readonly dtype?: DType; readonly tied?: boolean; readonly start?: number } = {}) {
    const { dtype = "f32", tied = false, start = 1 } = options;
    seed = start;
    this.embed = new Embedding(numbers([5, 6], dtype, "embed"));
    this.layers = [new Block(6, dtype), new Block(6, dtype)];
    this.norm = { weight: numbers([6], "f32", "norm") };
    this.lm_head = new Linear(tied ? this.embed.weight : numbers([5, 6], dtype, "head"));
  }
  forward(ids: Tensor, context: Context = {}): Tensor {
    let x = this.embed.forward(ids, context);
    for (const block of this.layers) x = block.forward(x, context);
    return this.lm_head.forward(this.norm.weight.dtype === x.dtype ? x.mul(this.norm.weight) : x, context);
  }
  loss(ids: Tensor, context: Context = {}): Tensor {
    return this.forward(ids, context).square().mean();
  }
}

export const ids: Tensor = tensor(Int32Array.from([0, 3, 1, 4, 2, 3]), { shape: [2, 3] });
