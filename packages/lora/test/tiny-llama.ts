/** The tiny Llama of the fixtures, just enough of it to meet PEFT's numbers; packages/models has the real one. */
import { readFileSync } from "node:fs";
import { parseSafetensors } from "@adjoint/io";
import { attention, causalMask, type Context, Embedding, Linear, nextTokenLossSum, RMSNorm, rope, ropeFrequencies, ropeTables } from "@adjoint/nn";
import { type HostArray, store, type Store, type Tensor, silu, tensor } from "@adjoint/tensor";
import { fixture } from "./golden.ts";

const [HEADS, KV, DIM, WIDTH] = [4, 2, 4, 16];

export const readTensors = (path: string): ReadonlyMap<string, HostArray> => parseSafetensors(new Uint8Array(readFileSync(fixture(path))), path).tensors;

class Attention {
  readonly q_proj: Linear;
  readonly k_proj: Linear;
  readonly v_proj: Linear;
  readonly o_proj: Linear;
  constructor(w: (name: string) => Store) {
    this.q_proj = new Linear(w("q_proj"));
    this.k_proj = new Linear(w("k_proj"));
    this.v_proj = new Linear(w("v_proj"));
    this.o_proj = new Linear(w("o_proj"));
  }
  forward(x: Tensor, cos: Tensor, sin: Tensor, context: Context): Tensor {
    const [B, T] = x.shape;
    const q = rope(this.q_proj.forward(x, context).reshape([B, T, HEADS, DIM]), cos, sin).reshape([B, T, KV, HEADS / KV, DIM]).permute([0, 2, 3, 1, 4]);
    const k = rope(this.k_proj.forward(x, context).reshape([B, T, KV, DIM]), cos, sin).permute([0, 2, 1, 3]);
    const v = this.v_proj.forward(x, context).reshape([B, T, KV, DIM]).permute([0, 2, 1, 3]);
    const y = attention(q, k, v, { mask: causalMask(T) });
    return this.o_proj.forward(y.permute([0, 3, 1, 2, 4]).reshape([B, T, HEADS * DIM]), context);
  }
}

class Mlp {
  readonly gate_proj: Linear;
  readonly up_proj: Linear;
  readonly down_proj: Linear;
  constructor(w: (name: string) => Store) {
    this.gate_proj = new Linear(w("gate_proj"));
    this.up_proj = new Linear(w("up_proj"));
    this.down_proj = new Linear(w("down_proj"));
  }
  forward(x: Tensor, context: Context): Tensor {
    return this.down_proj.forward(silu(this.gate_proj.forward(x, context)).mul(this.up_proj.forward(x, context)), context);
  }
}

class Layer {
  readonly self_attn: Attention;
  readonly mlp: Mlp;
  readonly input_layernorm: RMSNorm;
  readonly post_attention_layernorm: RMSNorm;
  constructor(w: (name: string) => Store) {
    this.self_attn = new Attention((n) => w(`self_attn.${n}`));
    this.mlp = new Mlp((n) => w(`mlp.${n}`));
    this.input_layernorm = new RMSNorm(w("input_layernorm"), 1e-5);
    this.post_attention_layernorm = new RMSNorm(w("post_attention_layernorm"), 1e-5);
  }
}

export class TinyLlama {
  readonly model: { readonly embed_tokens: Embedding; readonly layers: readonly Layer[]; readonly norm: RMSNorm };
  readonly lm_head: Linear;
  readonly #theta: number;
  constructor(name: string) {
    const arrays = readTensors(`llama/${name}/model.safetensors`);
    const w = (key: string): Store => {
      const array = arrays.get(`${key}.weight`);
      if (array === undefined) throw new Error(`${name} has no ${key}`);
      return store(array, key);
    };
    this.model = {
      embed_tokens: new Embedding(w("model.embed_tokens")),
      layers: [0, 1].map((i) => new Layer((n) => w(`model.layers.${i}.${n}`))),
      norm: new RMSNorm(w("model.norm"), 1e-5),
    };
    this.lm_head = new Linear(name === "tiny-tied" ? this.model.embed_tokens.weight : w("lm_head"));
    this.#theta = name === "tiny-tied" ? 500 : 10000;
  }
  forward(ids: Tensor, context: Context = {}): Tensor {
    const T = ids.shape[1], tables = ropeTables(T, ropeFrequencies(DIM, this.#theta));
    const cos = tables.cos.reshape([1, T, DIM / 2]), sin = tables.sin.reshape([1, T, DIM / 2]);
    let x = this.model.embed_tokens.forward(ids, context);
    for (const layer of this.model.layers) {
      x = x.add(layer.self_attn.forward(layer.input_layernorm.forward(x), cos, sin, context));
      x = x.add(layer.mlp.forward(layer.post_attention_layernorm.forward(x), context));
    }
    if (x.shape[2] !== WIDTH) throw new Error("width");
    return this.lm_head.forward(this.model.norm.forward(x), context);
  }
  /** Mean over the predicted tokens of right-padded rows; a causal model needs no mask for padding on the right. */
  loss(rows: readonly (readonly number[])[], context: Context = {}): Tensor {
    const { ids, labels } = padded(rows);
    const { total, count } = nextTokenLossSum(this.forward(ids, context), labels);
    return total.div(count);
  }
}

export function padded(rows: readonly (readonly number[])[]): { ids: Tensor; labels: Tensor } {
  const T = Math.max(...rows.map((r) => r.length));
  const fill = (pad: number): Tensor => tensor(Int32Array.from(rows.flatMap((r) => Array.from({ length: T }, (_, i) => r[i] ?? pad))), { shape: [rows.length, T] });
  return { ids: fill(0), labels: fill(-100) };
}
