/**
 * TensorFlow.js on its wasm backend (XNNPACK): the training step by `minimize` with Adam (it has no AdamW), matrices as
 * [in, out] because only its untransposed product is fast, embedding as a one-hot product, gelu and layer norm composed.
 */
import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-wasm";
import "@tensorflow/tfjs-layers"; // only because it registers all gradients, which tfjs-core's Node build leaves out
import { serve } from "./child.mjs";
import { numbers, products, readDump } from "./dump.mjs";

await tf.setBackend("wasm");
await tf.ready();

const layerNorm = (x, weight, bias) => {
  const c = tf.sub(x, tf.mean(x, -1, true));
  return tf.add(tf.mul(tf.mul(c, tf.rsqrt(tf.add(tf.mean(tf.mul(c, c), -1, true), 1e-5))), weight), bias);
};
const gelu = (x) => tf.mul(tf.mul(x, 0.5), tf.add(tf.tanh(tf.mul(tf.add(tf.mul(tf.mul(tf.mul(x, x), x), 0.044715), x), Math.sqrt(2 / Math.PI))), 1));

function lossOf({ layers, width, heads, length, batch }, p, onehotIds, onehotLabels, mask) {
  const d = width / heads, rows = batch * length;
  const linear = (x, name) => tf.add(tf.matMul(x, p[name]), p[`${name}.bias`]);
  const split = (x) => tf.transpose(tf.reshape(x, [batch, length, heads, d]), [0, 2, 1, 3]);
  let x = tf.reshape(tf.add(tf.reshape(tf.matMul(onehotIds, p.wte), [batch, length, width]), p.wpe), [rows, width]);
  for (let i = 0; i < layers; i++) {
    const h = layerNorm(x, p[`h${i}.ln1`], p[`h${i}.ln1.bias`]);
    const q = split(linear(h, `h${i}.q`)), k = split(linear(h, `h${i}.k`)), v = split(linear(h, `h${i}.v`));
    const scores = tf.add(tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(d)), mask);
    const a = tf.matMul(tf.softmax(scores, -1), v);
    x = tf.add(x, linear(tf.reshape(tf.transpose(a, [0, 2, 1, 3]), [rows, width]), `h${i}.o`));
    x = tf.add(x, linear(gelu(linear(layerNorm(x, p[`h${i}.ln2`], p[`h${i}.ln2.bias`]), `h${i}.fc`)), `h${i}.proj`));
  }
  const logits = tf.matMul(layerNorm(x, p.ln, p["ln.bias"]), p.head);
  return tf.neg(tf.mean(tf.sum(tf.mul(tf.logSoftmax(logits, -1), onehotLabels), -1)));
}

function gpt(folder) {
  const { sizes, rate, ids, labels, weights } = readDump(folder, { turn: true });
  const { length, vocabulary } = sizes;
  const p = Object.fromEntries([...weights].map(([name, { data, shape }]) => [name, tf.variable(tf.tensor(data, shape))]));
  // filled here: the backend's oneHot gives i32 whatever dtype is asked for
  const onehot = (ids) => {
    const data = new Float32Array(ids.length * vocabulary);
    ids.forEach((id, i) => { data[i * vocabulary + id] = 1; });
    return tf.tensor(data, [ids.length, vocabulary]);
  };
  const x = onehot(ids), y = onehot(labels);
  const mask = tf.tensor(Float32Array.from({ length: length * length }, (_, i) => (i % length > Math.floor(i / length) ? -1e30 : 0)), [1, 1, length, length]);
  const optimizer = tf.train.adam(rate, 0.9, 0.999, 1e-8), list = Object.values(p);
  const run = () => {
    const cost = optimizer.minimize(() => lossOf(sizes, p, x, y, mask), true, list), [value] = cost.dataSync();
    cost.dispose();
    return value;
  };
  return { warm: () => ({ losses: [run(), run()] }), run, end: () => { tf.dispose([x, y, mask, ...list]); optimizer.dispose(); } };
}

const product = ([m, k, n]) => () => {
  const a = tf.tensor(numbers(m * k, 1), [m, k]), b = tf.tensor(numbers(k * n, 2), [k, n]);
  const run = () => { tf.matMul(a, b).dispose(); };
  const warm = () => {
    const t = tf.matMul(a, b), c = t.dataSync();
    t.dispose();
    for (let i = 0; i < 10; i++) run();
    return { first: c[0], last: c[c.length - 1] };
  };
  return { warm, run, end: () => { tf.dispose([a, b]); } };
};

const backend = tf.env().getFlags();
serve({ name: "tfjs-wasm", version: tf.version_core, note: `SIMD ${backend.WASM_HAS_SIMD_SUPPORT === true ? "on" : "off"}, threads ${backend.WASM_HAS_MULTITHREAD_SUPPORT === true ? "on" : "off"}; Adam` }, { gpt, ...Object.fromEntries(Object.entries(products).map(([name, shape]) => [name, product(shape)])) });
