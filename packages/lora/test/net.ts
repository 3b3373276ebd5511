/** One layer of each kind that LoRA has a dense form for: an embedding, a linear layer, GPT-2's Conv1D. */
import { type Context, Conv1D, Embedding, Linear } from "@adjoint/nn";
import { type DType, hostArray, sizeOf, store, type Store, type Tensor } from "@adjoint/tensor";
import { goldenTensors } from "@adjoint/testing/fixtures";

let state = 1;
/** The next numbers of this stream start anew. */
export const restart = (seed: number): void => { state = seed; };
/** Multiples of 1/16 in [-1, 1]. */
export function grid(shape: readonly number[], dtype: DType, name = ""): Store {
  const data = hostArray(dtype, sizeOf(shape));
  for (let i = 0; i < data.length; i++) data[i] = (((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 8) % 33 - 16) / 16;
  return store({ dtype, shape, data }, name);
}

export class Net {
  readonly embed: Embedding;
  readonly up: Linear;
  readonly c_fc: Conv1D;
  constructor(embed: Store, up: Store, bias: Store, out: Store, outBias: Store | null = null) {
    this.embed = new Embedding(embed);
    this.up = new Linear(up, bias);
    this.c_fc = new Conv1D(out, outBias);
  }
  forward(ids: Tensor, context: Context = {}): Tensor {
    return this.c_fc.forward(this.up.forward(this.embed.forward(ids, context), context).tanh(), context);
  }
}

export const gridNet = (dtype: DType): Net => new Net(grid([5, 4], dtype, "embed"), grid([6, 4], dtype, "up"), grid([6], dtype, "bias"), grid([6, 3], dtype, "c_fc"));

/** The net of fixtures/data/many. */
export function goldenNet(dtype: "f32" | "bf16" = "f32"): Net {
  const tensors = goldenTensors("many");
  const of = (key: string): Store => {
    const a = tensors.get(`base/${key}`);
    if (a === undefined) throw new Error(key);
    return store(dtype === "f32" ? a : { dtype, shape: a.shape, data: Uint16Array.from(new Uint32Array(Float32Array.from(a.data).buffer), (v) => v >>> 16) }, key); // multiples of 1/64: exact
  };
  return new Net(of("embed.weight"), of("up.weight"), of("up.bias"), of("c_fc.weight"), of("c_fc.bias"));
}
