/**
 * The two models once, in terms of a few operations that each rival supplies: matrices lie [in, out], which is the product
 * that rivals are fast at; activations are [tokens, width]. The base is frozen and in f32 (no rival has bf16), its numbers those of ours.
 */
import { adapterNumbers, alpha, batchOf, gpt2Small, gpt2Tiny, idsOf, llama1b, llamaTiny, rank, weightNumbers } from "../../gpu/same.ts";

/** { base: [name, shape, numbers()], adapters: [name, shape, numbers()], loss(o, p, a): a scalar } of a task. */
export function modelOf(task, { smoke, scale = 1 }) {
  const size = batchOf(task, { smoke, scale });
  return { ...(task === "gpt2-lora" ? gpt2(smoke ? gpt2Tiny : gpt2Small, size) : llama(smoke ? llamaTiny : llama1b, size)), tokens: size.batch * size.length };
}

/** Collects parameters while a model is laid out. */
function parameters({ batch, length }, vocabulary) {
  const base = [], adapters = [], rows = batch * length, ids = idsOf(rows, vocabulary), constant = (n, value) => () => new Float32Array(n).fill(value);
  const self = {
    base, adapters,
    host(name, shape, numbers, dtype = "f32") { base.push([name, shape, numbers, dtype]); },
    vector(name, n, value) { self.host(name, [n], constant(n, value)); },
    table(name, shape, dtype) { self.host(name, shape, () => weightNumbers(shape, dtype)); },
    linear(path, inputs, outputs, bias) {
      self.host(path, [inputs, outputs], () => weightNumbers([outputs, inputs], "bf16", true));
      if (bias) self.vector(`${path}.bias`, outputs, 0);
      adapters.push([`${path}.A`, [inputs, rank], () => adapterNumbers(path, inputs)], [`${path}.B`, [rank, outputs], constant(rank * outputs, 0)]);
    },
  };
  self.host("ids", [rows], () => ids, "i32");
  // the last token of a row has nothing to predict
  self.host("labels", [rows], () => ids.map((_, i) => (i % length === length - 1 ? 0 : ids[i + 1])), "i32");
  self.host("share", [rows], () => Float32Array.from(ids, (_, i) => (i % length === length - 1 ? 0 : 1 / (batch * (length - 1)))));
  self.host("mask", [1, 1, length, length], () => Float32Array.from({ length: length * length }, (_, i) => (i % length > Math.floor(i / length) ? -1e30 : 0)));
  return self;
}

/** x W + b + alpha/r (x A) B */
const linear = (o, p, a, x, path) => {
  const y = o.matmul(x, p[path]), low = o.mul(o.matmul(o.matmul(x, a[`${path}.A`]), a[`${path}.B`]), alpha / rank);
  return o.add(`${path}.bias` in p ? o.add(y, p[`${path}.bias`]) : y, low);
};
/** Causal attention of [batch, time, heads, d] over [batch, time, groups, d]; gives [tokens, heads d]. */
function attention(o, q, k, v, mask, [batch, length, heads, groups, d]) {
  const lie = (x, h) => o.permute(o.reshape(x, [batch, length, h, d]), [0, 2, 1, 3]), folded = (x, last) => o.reshape(x, [batch, groups, (heads / groups) * length, last]);
  const scores = o.reshape(o.matmulT(folded(lie(q, heads), d), lie(k, groups)), [batch, heads, length, length]);
  const shares = o.softmax(o.add(o.mul(scores, 1 / Math.sqrt(d)), mask));
  return o.reshape(o.permute(o.reshape(o.matmul(folded(shares, length), lie(v, groups)), [batch, heads, length, d]), [0, 2, 1, 3]), [batch * length, heads * d]);
}
/** Σ share (log Σ exp z - z[label]) with z = h tableᵀ: the label's logit by a gather of rows, so that there is no one-hot matrix. */
const head = (o, p, h, table) => o.sum(o.mul(o.sub(o.logsumexp(o.matmulT(h, p[table])), o.sumLast(o.mul(h, o.take(p[table], p.labels)))), p.share));

function gpt2({ layers, width, heads, vocabulary, positions }, size) {
  const { batch, length } = size, w = parameters(size, vocabulary);
  w.table("wte", [vocabulary, width], "bf16");
  w.host("wpe", [1, length, width], () => weightNumbers([length, width], "f32")); // the first rows of [positions, width]
  if (length > positions) throw new Error(`${length} tokens do not fit ${positions} positions`);
  const norms = [...Array.from({ length: layers }, (_, i) => [`h.${i}.ln_1`, `h.${i}.ln_2`]).flat(), "ln_f"];
  for (const name of norms) { w.vector(name, width, 1); w.vector(`${name}.bias`, width, 0); }
  for (let i = 0; i < layers; i++) {
    w.linear(`h.${i}.attn.c_attn`, width, 3 * width, true);
    w.linear(`h.${i}.attn.c_proj`, width, width, true);
    w.linear(`h.${i}.mlp.c_fc`, width, 4 * width, true);
    w.linear(`h.${i}.mlp.c_proj`, 4 * width, width, true);
  }
  const loss = (o, p, a) => {
    const norm = (x, name) => { const c = o.sub(x, o.meanLast(x)); return o.add(o.mul(o.mul(c, o.rsqrt(o.add(o.meanLast(o.mul(c, c)), 1e-5))), p[name]), p[`${name}.bias`]); };
    let x = o.reshape(o.add(o.reshape(o.take(p.wte, p.ids), [batch, length, width]), p.wpe), [batch * length, width]);
    for (let i = 0; i < layers; i++) {
      const [q, k, v] = o.split(linear(o, p, a, norm(x, `h.${i}.ln_1`), `h.${i}.attn.c_attn`), 3);
      x = o.add(x, linear(o, p, a, attention(o, q, k, v, p.mask, [batch, length, heads, heads, width / heads]), `h.${i}.attn.c_proj`));
      x = o.add(x, linear(o, p, a, o.gelu(linear(o, p, a, norm(x, `h.${i}.ln_2`), `h.${i}.mlp.c_fc`)), `h.${i}.mlp.c_proj`));
    }
    return head(o, p, norm(x, "ln_f"), "wte");
  };
  return { base: w.base, adapters: w.adapters, loss };
}

function llama(c, size) {
  const { batch, length } = size, d = c.head_dim, heads = c.num_attention_heads, groups = c.num_key_value_heads, width = c.hidden_size, wide = c.intermediate_size, w = parameters(size, c.vocab_size);
  w.table("embed", [c.vocab_size, width], "bf16");
  const angles = (f) => () => Float32Array.from({ length: (length * d) / 2 }, (_, i) => f(Math.fround(Math.floor(i / (d / 2)) * Math.fround(c.rope_theta ** ((-2 * (i % (d / 2))) / d)))));
  w.host("cos", [1, length, 1, d / 2], angles(Math.cos));
  w.host("sin", [1, length, 1, d / 2], angles(Math.sin));
  const at = (i) => `model.layers.${i}`, numbers = Array.from({ length: c.num_hidden_layers }, (_, i) => i);
  for (const name of [...numbers.flatMap((i) => [`${at(i)}.input`, `${at(i)}.post`]), "norm"]) w.vector(name, width, 1);
  for (const i of numbers) {
    w.linear(`${at(i)}.self_attn.q_proj`, width, heads * d, false);
    w.linear(`${at(i)}.self_attn.k_proj`, width, groups * d, false);
    w.linear(`${at(i)}.self_attn.v_proj`, width, groups * d, false);
    w.linear(`${at(i)}.self_attn.o_proj`, heads * d, width, false);
    w.linear(`${at(i)}.mlp.gate_proj`, width, wide, false);
    w.linear(`${at(i)}.mlp.up_proj`, width, wide, false);
    w.linear(`${at(i)}.mlp.down_proj`, wide, width, false);
  }
  const loss = (o, p, a) => {
    const norm = (x, name) => o.mul(o.mul(x, o.rsqrt(o.add(o.meanLast(o.mul(x, x)), c.rms_norm_eps))), p[name]);
    const turned = (x, h) => {
      const [u, v] = o.split(o.reshape(x, [batch, length, h, d]), 2);
      return o.concat([o.sub(o.mul(u, p.cos), o.mul(v, p.sin)), o.add(o.mul(v, p.cos), o.mul(u, p.sin))]);
    };
    let x = o.take(p.embed, p.ids);
    for (const i of numbers) {
      const h = norm(x, `${at(i)}.input`), part = (name, from) => linear(o, p, a, from, `${at(i)}.${name}`);
      const q = turned(part("self_attn.q_proj", h), heads), k = turned(part("self_attn.k_proj", h), groups);
      x = o.add(x, part("self_attn.o_proj", attention(o, q, k, part("self_attn.v_proj", h), p.mask, [batch, length, heads, groups, d])));
      const f = norm(x, `${at(i)}.post`);
      x = o.add(x, part("mlp.down_proj", o.mul(o.silu(part("mlp.gate_proj", f)), part("mlp.up_proj", f))));
    }
    return head(o, p, norm(x, "norm"), "embed");
  };
  return { base: w.base, adapters: w.adapters, loss };
}

/** Rows, columns and depth of the products that rivals run, and whether b lies transposed. */
export const products = { "gemm-f32": [4096, 4096, 4096, false], "gemm-f32-nt": [4096, 4096, 4096, true] };
/** The operands of such a product. */
export function operands(task, smoke) {
  const [m, n, k, turned] = smoke ? [64, 64, 64, products[task][3]] : products[task], b = turned ? [n, k] : [k, n];
  return { a: [[m, k], weightNumbers([m, k], "f32")], b: [b, weightNumbers(b, "f32")], turned, work: 2 * m * n * k, last: [m - 1, n - 1] };
}
