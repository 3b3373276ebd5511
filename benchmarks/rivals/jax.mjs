/**
 * jax-js on its wasm backend: the whole training step (loss, gradient, AdamW) in one jit, matrices as [in, out], embedding
 * and labels as one-hot products. Every array is owned: `.ref` before each use but the last.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { blockUntilReady, defaultDevice, init, jit, nn, numpy as np, valueAndGrad } from "@jax-js/jax";
import { serve } from "./child.mjs";
import { numbers, products, readDump } from "./dump.mjs";

await init("wasm");
defaultDevice("wasm");

const layerNorm = (x, weight, bias) => {
  const c = x.ref.sub(np.mean(x, -1, { keepdims: true }));
  const variance = np.mean(c.ref.mul(c.ref), -1, { keepdims: true });
  return c.div(np.sqrt(variance.add(1e-5))).mul(weight).add(bias);
};

/** Mean cross-entropy of the small GPT; owns p, consumes ids and labels. */
function lossOf({ layers, width, heads, length, batch, vocabulary }) {
  const d = width / heads, rows = batch * length;
  return (p, ids, labels) => {
    const linear = (x, name) => np.matmul(x, p[name]).add(p[`${name}.bias`]);
    const split = (x) => np.transpose(x.reshape([batch, length, heads, d]), [0, 2, 1, 3]);
    const positions = np.broadcastTo(p.wpe.reshape([1, length, width]), [batch, length, width]).reshape([rows, width]);
    let x = np.matmul(nn.oneHot(ids, vocabulary), p.wte).add(positions);
    for (let i = 0; i < layers; i++) {
      const h = layerNorm(x.ref, p[`h${i}.ln1`], p[`h${i}.ln1.bias`]);
      const q = split(linear(h.ref, `h${i}.q`)), k = split(linear(h.ref, `h${i}.k`)), v = split(linear(h, `h${i}.v`));
      const scores = np.matmul(q, np.transpose(k, [0, 1, 3, 2])).mul(1 / Math.sqrt(d));
      const causal = np.tril(np.ones([length, length])).greater(0.5);
      const a = np.matmul(nn.softmax(np.where(causal, scores, -1e30), -1), v);
      x = x.add(linear(np.transpose(a, [0, 2, 1, 3]).reshape([rows, width]), `h${i}.o`));
      const f = nn.gelu(linear(layerNorm(x.ref, p[`h${i}.ln2`], p[`h${i}.ln2.bias`]), `h${i}.fc`), { approximate: true });
      x = x.add(linear(f, `h${i}.proj`));
    }
    const logits = np.matmul(layerNorm(x, p.ln, p["ln.bias"]), p.head);
    return np.mean(np.sum(nn.logSoftmax(logits, -1).mul(nn.oneHot(labels, vocabulary)), -1)).mul(-1);
  };
}

async function gpt(folder) {
  const { sizes, rate, decay, ids, labels, weights } = readDump(folder, { turn: true });
  const gradient = valueAndGrad(lossOf(sizes));
  const update = jit((p, m, v, x, y, a, b) => {
    const held = Object.fromEntries(Object.entries(p).map(([name, w]) => [name, w.ref]));
    const [loss, g] = gradient(held, x, y);
    const next = { p: {}, m: {}, v: {} };
    for (const name of Object.keys(p)) {
      const m1 = m[name].mul(0.9).add(g[name].ref.mul(0.1));
      const v1 = v[name].mul(0.999).add(g[name].ref.mul(g[name]).mul(0.001));
      next.p[name] = p[name].mul(1 - rate * decay).sub(m1.ref.mul(a.ref).div(np.sqrt(v1.ref).mul(b.ref).add(1e-8)));
      next.m[name] = m1;
      next.v[name] = v1;
    }
    a.dispose();
    b.dispose();
    return [loss, next.p, next.m, next.v];
  });
  const tree = (make) => Object.fromEntries([...weights].map(([name, w]) => [name, make(w)]));
  let p = tree(({ data, shape }) => np.array(data, { shape })), m = tree(({ shape }) => np.zeros(shape)), v = tree(({ shape }) => np.zeros(shape));
  const x = np.array(ids, { dtype: np.int32 }), y = np.array(labels, { dtype: np.int32 });
  let t = 0, loss;
  const step = async () => {
    t++;
    loss?.dispose();
    [loss, p, m, v] = update(p, m, v, x.ref, y.ref, np.array(rate / (1 - 0.9 ** t)), np.array(1 / Math.sqrt(1 - 0.999 ** t)));
    await blockUntilReady([loss, p, m, v]);
  };
  const losses = async (n) => {
    const out = [];
    for (let i = 0; i < n; i++) { await step(); out.push((await loss.ref.data())[0]); }
    return out;
  };
  return { warm: async () => ({ losses: await losses(3) }), run: step };
}

const product = ([m, k, n]) => () => {
  const a = np.array(numbers(m * k, 1), { shape: [m, k] }), b = np.array(numbers(k * n, 2), { shape: [k, n] });
  const f = jit((x, y) => np.matmul(x, y));
  const run = async () => {
    const c = f(a.ref, b.ref);
    await c.blockUntilReady();
    c.dispose();
  };
  const warm = async () => {
    const c = await f(a.ref, b.ref).data();
    for (let i = 0; i < 10; i++) await run();
    return { first: c[0], last: c[c.length - 1] };
  };
  return { warm, run };
};

const { version } = JSON.parse(readFileSync(join(dirname(createRequire(import.meta.url).resolve("@jax-js/jax")), "..", "package.json"), "utf8"));
serve({ name: "jax-js", version, note: "wasm backend, one thread (no Worker in Node)" }, { gpt, ...Object.fromEntries(Object.entries(products).map(([name, shape]) => [name, product(shape)])) });
