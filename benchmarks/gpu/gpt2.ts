/** A GPT-2 of any size with random weights in bf16: packed query-key-value projection, learned positions, tied head; its linear layers take adapters. */
import { type Tensor, packedAttention, gather, geluTanh, zeroStore } from "@adjoint/tensor";
import { type Context, Embedding, LayerNorm, Linear, linearCrossEntropy, shiftLabels } from "@adjoint/nn";
import type { Gpt2Sizes } from "./same.ts";
import { constantStore, randomStore } from "./weights.ts";

const linear = (name: string, out: number, from: number): Linear => new Linear(randomStore(`${name}.weight`, [out, from], "bf16"), zeroStore([out], "f32", `${name}.bias`));
const norm = (name: string, width: number): LayerNorm => new LayerNorm(constantStore(`${name}.weight`, width, 1), zeroStore([width], "f32", `${name}.bias`));

/** x + proj(attention(ln1(x))), then x + proj(gelu(fc(ln2(x)))). */
class Block {
  readonly ln_1: LayerNorm;
  readonly attn: { readonly c_attn: Linear; readonly c_proj: Linear };
  readonly ln_2: LayerNorm;
  readonly mlp: { readonly c_fc: Linear; readonly c_proj: Linear };
  readonly heads: number;
  constructor(s: Gpt2Sizes, at: string) {
    this.ln_1 = norm(`${at}.ln_1`, s.width);
    this.attn = { c_attn: linear(`${at}.attn.c_attn`, 3 * s.width, s.width), c_proj: linear(`${at}.attn.c_proj`, s.width, s.width) };
    this.ln_2 = norm(`${at}.ln_2`, s.width);
    this.mlp = { c_fc: linear(`${at}.mlp.c_fc`, 4 * s.width, s.width), c_proj: linear(`${at}.mlp.c_proj`, s.width, 4 * s.width) };
    this.heads = s.heads;
  }
  forward(x: Tensor, context: Context): Tensor {
    const [B, T, width] = x.shape, d = width / this.heads;
    const qkv = this.attn.c_attn.forward(this.ln_1.forward(x), context).reshape([B, T, 3 * this.heads, d]);
    const h = x.add(this.attn.c_proj.forward(packedAttention(qkv, this.heads, { causal: true }).reshape([B, T, width]), context));
    return h.add(this.mlp.c_proj.forward(geluTanh(this.mlp.c_fc.forward(this.ln_2.forward(h), context)), context));
  }
}

export class Gpt2 {
  readonly wte: Embedding;
  readonly wpe: Embedding;
  readonly h: readonly Block[];
  readonly ln_f: LayerNorm;
  constructor(s: Gpt2Sizes) {
    this.wte = new Embedding(randomStore("wte", [s.vocabulary, s.width], "bf16"));
    this.wpe = new Embedding(randomStore("wpe", [s.positions, s.width]));
    this.h = Array.from({ length: s.layers }, (_, i) => new Block(s, `h.${i}`));
    this.ln_f = norm("ln_f", s.width);
  }
  /** Mean next-token loss of ids [B, T]; the head is the embedding. */
  loss({ ids }: { readonly ids: Tensor }, context: Context = {}): Tensor {
    const [B, T] = ids.shape;
    let x = gather(this.wte.weight, ids).cast("f32").add(this.wpe.weight.slice(0, 0, T));
    for (const block of this.h) x = block.forward(x, context);
    const { total, count } = linearCrossEntropy(this.ln_f.forward(x).reshape([B * T, -1]), this.wte.weight, shiftLabels(ids).reshape([B * T]));
    return total.div(count.maximum(1));
  }
}
