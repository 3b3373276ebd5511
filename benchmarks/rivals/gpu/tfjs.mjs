/** TensorFlow.js on WebGPU: the step by `minimize` with Adam (it has no AdamW). Its gelu and norms are compositions. */
import { seen } from "./dawn.mjs";
import { modelOf, operands, products } from "./model.mjs";
import { serve } from "./serve.mjs";

await serve(async () => {
  const tf = await import("@tensorflow/tfjs-core");
  await import("@tensorflow/tfjs-core/dist/register_all_gradients.js");
  await import("@tensorflow/tfjs-backend-webgpu");
  if (!(await tf.setBackend("webgpu"))) throw new Error("TensorFlow.js finds no WebGPU adapter");
  await tf.ready();
  const backend = tf.backend();

  const o = {
    matmul: (x, w) => tf.matMul(x, w), matmulT: (x, w) => tf.matMul(x, w, false, true),
    add: (x, y) => tf.add(x, y), sub: (x, y) => tf.sub(x, y), mul: (x, y) => tf.mul(x, y),
    reshape: (x, shape) => tf.reshape(x, shape), permute: (x, axes) => tf.transpose(x, axes),
    softmax: (x) => tf.softmax(x, -1), logsumexp: (x) => tf.logSumExp(x, -1),
    sum: (x) => tf.sum(x), sumLast: (x) => tf.sum(x, -1), meanLast: (x) => tf.mean(x, -1, true),
    rsqrt: (x) => tf.rsqrt(x), split: (x, n) => tf.split(x, n, -1), concat: (xs) => tf.concat(xs, -1), take: (table, ids) => tf.gather(table, ids),
    gelu: (x) => tf.mul(tf.mul(x, 0.5), tf.add(tf.tanh(tf.mul(tf.add(tf.mul(tf.mul(tf.mul(x, x), x), 0.044715), x), Math.sqrt(2 / Math.PI))), 1)),
    silu: (x) => tf.mul(x, tf.sigmoid(x)),
  };
  // what the backend does before it reads: it holds back up to 15 dispatches
  const idle = () => {
    backend.endComputePassEncoder();
    if (backend.commandEncoder) backend.submitQueue();
    return seen.device.queue.onSubmittedWorkDone();
  };

  const step = (name) => async (q) => {
    const model = modelOf(name, q), p = {}, a = {};
    for (const [key, shape, numbers, dtype] of model.base) {
      const t = tf.tensor(numbers(), shape, dtype === "i32" ? "int32" : "float32");
      backend.uploadToGPU(t.dataId);                // now, so that the host's copy goes
      p[key] = t;
    }
    await idle();
    for (const [key, shape, numbers] of model.adapters) a[key] = tf.variable(tf.tensor(numbers(), shape));
    const optimizer = tf.train.adam(1e-4, 0.9, 0.999, 1e-8), list = Object.values(a), next = () => optimizer.minimize(() => model.loss(o, p, a), true, list);
    const first = async () => {
      const out = [];
      for (let i = 0; i < 3; i++) { const loss = next(); out.push((await loss.data())[0]); loss.dispose(); }
      return out;
    };
    const run = () => { next().dispose(); return idle(); };
    return { first, run, work: model.tokens, unit: "tokens" };
  };

  const product = (name) => async (q) => {
    const { a: [aShape, aData], b: [bShape, bData], turned, work, last } = operands(name, q.smoke), a = tf.tensor(aData, aShape), b = tf.tensor(bData, bShape);
    const next = () => tf.matMul(a, b, false, turned);
    const first = async () => { const c = next(), data = await c.data(); c.dispose(); return [data[0], data[last[0] * (last[1] + 1) + last[1]]]; };
    const run = () => { next().dispose(); return idle(); };
    return { first, run, work, unit: "flops" };
  };
  return {
    system: `TensorFlow.js ${tf.version_core}`, idle,
    tasks: { "gpt2-lora": step("gpt2-lora"), "llama-lora": step("llama-lora"), ...Object.fromEntries(Object.keys(products).map((name) => [name, product(name)])) },
  };
});
