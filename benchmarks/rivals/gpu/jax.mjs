/** jax-js on WebGPU: the whole step (loss, gradient, AdamW) in one jit. Every array is owned: `.ref` before each use but the last. */
import { seen } from "./dawn.mjs";
import { modelOf, operands, products } from "./model.mjs";
import { serve } from "./serve.mjs";

await serve(async () => {
  const { blockUntilReady, defaultDevice, init, jit, nn, numpy: np, valueAndGrad } = await import("@jax-js/jax");
  if (!(await init("webgpu")).includes("webgpu")) throw new Error("jax-js finds no WebGPU adapter");
  defaultDevice("webgpu");

  const number = (x) => (typeof x === "number" ? x : x.ref);
  const o = {
    matmul: (x, w) => np.matmul(x.ref, w.ref),
    matmulT: (x, w) => np.matmul(x.ref, np.matrixTranspose(w.ref)),
    add: (x, y) => x.ref.add(number(y)), sub: (x, y) => x.ref.sub(y.ref), mul: (x, y) => x.ref.mul(number(y)),
    reshape: (x, shape) => x.ref.reshape(shape), permute: (x, axes) => np.transpose(x.ref, axes),
    softmax: (x) => nn.softmax(x.ref, -1), logsumexp: (x) => nn.logsumexp(x.ref, -1),
    sum: (x) => np.sum(x.ref), sumLast: (x) => np.sum(x.ref, -1), meanLast: (x) => np.mean(x.ref, -1, { keepdims: true }),
    rsqrt: (x) => np.reciprocal(np.sqrt(x.ref)), split: (x, n) => np.split(x.ref, n, -1), concat: (xs) => np.concatenate(xs.map((x) => x.ref), -1),
    take: (table, ids) => np.take(table.ref, ids.ref, 0), gelu: (x) => nn.gelu(x.ref, { approximate: true }), silu: (x) => nn.silu(x.ref),
  };
  const up = (shape, data, dtype) => np.array(data, { shape, dtype: dtype === "i32" ? np.int32 : np.float32 });

  const step = (name) => async (q) => {
    const model = modelOf(name, q), rate = 1e-4, decay = 0.01, tree = (list, make) => Object.fromEntries(list.map(([key, ...rest]) => [key, make(...rest)]));
    const gradient = valueAndGrad((a, p) => model.loss(o, p, a));
    const update = jit((a, m, v, p, c1, c2) => {
      const held = Object.fromEntries(Object.entries(a).map(([key, w]) => [key, w.ref]));
      const [loss, g] = gradient(held, p), next = { a: {}, m: {}, v: {} };
      for (const key of Object.keys(a)) {
        const m1 = m[key].mul(0.9).add(g[key].ref.mul(0.1)), v1 = v[key].mul(0.999).add(g[key].ref.mul(g[key]).mul(0.001));
        next.a[key] = a[key].mul(1 - rate * decay).sub(m1.ref.mul(c1.ref).div(np.sqrt(v1.ref).mul(c2.ref).add(1e-8)));
        next.m[key] = m1;
        next.v[key] = v1;
      }
      c1.dispose();
      c2.dispose();
      return [loss, next.a, next.m, next.v];
    });
    const p = {};
    for (const [key, shape, numbers, dtype] of model.base) p[key] = await up(shape, numbers(), dtype).blockUntilReady();
    let a = tree(model.adapters, (shape, numbers) => up(shape, numbers())), m = tree(model.adapters, (shape) => np.zeros(shape)), v = tree(model.adapters, (shape) => np.zeros(shape)), t = 0;
    const next = () => {
      t++;
      const held = Object.fromEntries(Object.entries(p).map(([key, w]) => [key, w.ref]));
      let loss;
      [loss, a, m, v] = update(a, m, v, held, np.array(rate / (1 - 0.9 ** t)), np.array(1 / Math.sqrt(1 - 0.999 ** t)));
      return loss;
    };
    const first = async () => {
      const out = [];
      for (let i = 0; i < 3; i++) out.push((await next().data())[0]);
      return out;
    };
    const run = async () => { const loss = next(); await blockUntilReady(loss); loss.dispose(); };
    return { first, run, work: model.tokens, unit: "tokens" };
  };

  const product = (name) => async (q) => {
    const { a: [aShape, aData], b: [bShape, bData], turned, work, last } = operands(name, q.smoke), a = up(aShape, aData), b = up(bShape, bData);
    const f = jit((x, y) => np.matmul(x, turned ? np.matrixTranspose(y) : y));
    const first = async () => { const data = await f(a.ref, b.ref).data(); return [data[0], data[last[0] * (last[1] + 1) + last[1]]]; };
    const run = async () => { const c = f(a.ref, b.ref); await c.blockUntilReady(); c.dispose(); };
    return { first, run, work, unit: "flops" };
  };
  return {
    system: `jax-js ${JAX_VERSION}`, idle: () => seen.device.queue.onSubmittedWorkDone(),
    tasks: { "gpt2-lora": step("gpt2-lora"), "llama-lora": step("llama-lora"), ...Object.fromEntries(Object.keys(products).map((name) => [name, product(name)])) },
  };
});
