/** A small model with every layer that may train beside an adapter: embedding, linear, GPT-2's Conv1D, both norms, and a head that may be tied. */
import { type Context, Conv1D, Embedding, LayerNorm, Linear, RMSNorm } from "@adjoint/nn";
import { type DType, encode, hostArray, store, type Store, type Tensor, tensor } from "@adjoint/tensor";

/** Numbers on a grid, the same for the same seed. */
function stream(seed: number): () => number {
  let state = seed;
  return () => { state = (Math.imul(state, 1664525) + 1013904223) >>> 0; return (((state >>> 8) % 33) - 16) / 16; };
}

export class Rich {
  readonly embed_tokens: Embedding;
  readonly q_proj: Linear;
  readonly ln_1: LayerNorm;
  readonly c_fc: Conv1D;
  readonly mlp: { readonly down_proj: Linear };
  readonly norm: RMSNorm;
  readonly lm_head: Linear;
  readonly config: { readonly modelType: string; readonly vocabSize: number };
  constructor({ dtype = "f32", tied = false, seed = 1, vocabSize = 7 }: { readonly dtype?: DType; readonly tied?: boolean; readonly seed?: number; readonly vocabSize?: number } = {}) {
    const next = stream(seed);
    const of = (name: string, ...shape: number[]): Store => {
      const data = hostArray(dtype, shape.reduce((a, b) => a * b, 1));
      for (let i = 0; i < data.length; i++) data[i] = encode(dtype, next());
      return store({ dtype, shape, data }, name);
    };
    this.embed_tokens = new Embedding(of("embed", 7, 4));
    this.q_proj = new Linear(of("q", 4, 4), of("q.bias", 4));
    this.ln_1 = new LayerNorm(of("ln_1", 4), of("ln_1.bias", 4), 0.5);
    this.c_fc = new Conv1D(of("c_fc", 4, 6), of("c_fc.bias", 6));
    this.mlp = { down_proj: new Linear(of("down", 4, 6), of("down.bias", 4)) };
    this.norm = new RMSNorm(of("norm", 4), 0.5);
    this.lm_head = new Linear(tied ? this.embed_tokens.weight : of("head", 7, 4));
    this.config = { modelType: "llama", vocabSize };
  }
  forward(ids: Tensor, context: Context = {}): Tensor {
    const h = this.embed_tokens.forward(ids, context), x = h.add(this.q_proj.forward(h, context));
    const y = this.mlp.down_proj.forward(this.c_fc.forward(this.ln_1.forward(x, context), context).tanh(), context);
    return this.lm_head.forward(this.norm.forward(x.add(y), context), context);
  }
  loss(ids: Tensor, context: Context = {}): Tensor {
    return this.forward(ids, context).square().mean();
  }
}

export const ids: Tensor = tensor(Int32Array.from([0, 3, 1, 6, 2, 3, 5, 6]), { shape: [2, 4] });
