/** The small GPT of the CPU specification: 4 layers, width 256, 8 heads, 128 tokens, batch 8, vocabulary 512, gelu(tanh), AdamW, f32. */
import { type Store, type Tensor, assign, counter, crossEntropy, gather, geluTanh, hostNormal, internal, iota, layerNorm, live, softmax, store, fromHost, zeroStore } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import type { Sizes } from "../rivals/dump.mjs";

/** Named parameters and the mean cross-entropy of a batch; `beside` adds to a linear layer's output. */
export interface Gpt { readonly parameters: Readonly<Record<string, Store>>; loss(ids: Tensor, labels: Tensor, beside?: (x: Tensor, name: string) => Tensor | null): Tensor }
export const small: Sizes = { layers: 4, width: 256, heads: 8, length: 128, batch: 8, vocabulary: 512 };

export function gpt(s: Sizes): Gpt {
  const p: Record<string, Store> = {};
  const normal = (name: string, shape: number[], std = 0.02): void => { p[name] = store(fromHost(hostNormal(1, name, shape, { std })), name); };
  const ones = (name: string): void => { p[name] = store(fromHost({ dtype: "f32", shape: [s.width], data: new Float32Array(s.width).fill(1) }), name); p[`${name}.bias`] = zeroStore([s.width], "f32", `${name}.bias`); };
  const linear = (name: string, out: number, inp: number): void => { normal(name, [out, inp]); p[`${name}.bias`] = zeroStore([out], "f32", `${name}.bias`); };
  normal("wte", [s.vocabulary, s.width]); normal("wpe", [s.length, s.width]);
  for (let i = 0; i < s.layers; i++) {
    ones(`h${i}.ln1`); ones(`h${i}.ln2`);
    linear(`h${i}.q`, s.width, s.width); linear(`h${i}.k`, s.width, s.width); linear(`h${i}.v`, s.width, s.width); linear(`h${i}.o`, s.width, s.width);
    linear(`h${i}.fc`, 4 * s.width, s.width); linear(`h${i}.proj`, s.width, 4 * s.width);
  }
  ones("ln"); normal("head", [s.vocabulary, s.width]);
  return {
    parameters: p,
    loss(ids, labels, beside = () => null) {
      const lin = (x: Tensor, name: string): Tensor => {
        const y = x.matmul(p[name].T).add(p[`${name}.bias`]), more = beside(x, name);
        return more === null ? y : y.add(more);
      };
      const [b, t] = ids.shape, d = s.width / s.heads;
      const split = (x: Tensor): Tensor => x.reshape([b, t, s.heads, d]).permute([0, 2, 1, 3]);
      const causal = iota([t, t], 0).ge(iota([t, t], 1));
      let x = gather(p.wte, ids).add(p.wpe);
      for (let i = 0; i < s.layers; i++) {
        const h = layerNorm(x, p[`h${i}.ln1`], p[`h${i}.ln1.bias`]);
        const scores = split(lin(h, `h${i}.q`)).matmul(split(lin(h, `h${i}.k`)).T).mul(1 / Math.sqrt(d));
        const a = softmax(causal.expand(scores.shape).where(scores, -1e30)).matmul(split(lin(h, `h${i}.v`)));
        x = x.add(lin(a.permute([0, 2, 1, 3]).reshape([b, t, s.width]), `h${i}.o`));
        x = x.add(lin(geluTanh(lin(layerNorm(x, p[`h${i}.ln2`], p[`h${i}.ln2.bias`]), `h${i}.fc`)), `h${i}.proj`));
      }
      return crossEntropy(layerNorm(x, p.ln, p["ln.bias"]).matmul(p.head.T), labels);
    },
  };
}

/** AdamW written out: the benchmark measures the engine, not the optimizer package. */
export function trainStep(model: Gpt, lr = 1e-3, decay = 0.01): (ids: Tensor, labels: Tensor) => Tensor {
  const state = Object.fromEntries(Object.entries(model.parameters).map(([k, w]) => [k, [zeroStore(w.shape), zeroStore(w.shape)]]));
  const c = counter();
  return (ids, labels) => {
    c.tick();
    const loss = model.loss(ids, labels), g = gradients(loss, model.parameters);
    const bc1 = live(c, (t) => lr / (1 - 0.9 ** t)), bc2 = live(c, (t) => 1 / Math.sqrt(1 - 0.999 ** t));
    internal(() => {
      const stores: Store[] = [], values: Tensor[] = [];
      for (const [k, w] of Object.entries(model.parameters)) {
        const gw = g[k]!, [m, v] = state[k];
        const m1 = m.mul(0.9).add(gw.mul(0.1)), v1 = v.mul(0.999).add(gw.mul(gw).mul(0.001));
        stores.push(w, m, v);
        values.push(w.mul(1 - lr * decay).sub(m1.mul(bc1).div(v1.sqrt().mul(bc2).add(1e-8))), m1, v1);
      }
      assign(stores, values);
    });
    return loss;
  };
}
