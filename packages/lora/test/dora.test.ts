/** DoRA: the numeric anchor, gradients in closed form, and what must not change. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { type Context, Linear } from "@adjoint/nn";
import { dequantize, quantize, quantizedWeight } from "@adjoint/quant";
import { assign, type Backend, clearPlans, compile, dropout, getDevice, hostArray, hostNormal, operationsOf, planOf, referenceBackend, scalar, setDevice, type Shape, sizeOf, type Store, store, tensor, type Tensor } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";
import { type AdapterMethod, type Application, createLora, type Factors, lora, loraConfig, lowRank, mergeAndReinit, methodOf, plainLora, type Site, tensorsOf, type Tuned } from "../src/index.ts";
import { ids, Toy } from "./toy.ts";

const numRuns = Number(process.env["ADJOINT_RUNS"] ?? 12);
const dora = methodOf(loraConfig({ useDora: true }), "linear");
const site = (inFeatures: number, outFeatures: number, r: number, scale: number, kind: Site["kind"] = "linear"): Site => ({ path: "m", kind, r, alpha: scale * r, scale, parameters: 0, matchedBy: "m", inFeatures, outFeatures });
const matrix = (values: readonly number[], shape: Shape): Store => {
  const data = hostArray("f64", values.length);
  values.forEach((v, i) => { data[i] = v; });
  return store({ dtype: "f64", shape, data });
};
const numbers = async (t: Tensor | null): Promise<number[]> => (t === null ? [] : [...(await t.data())]);
async function close(actual: Tensor | null, expected: Tensor | readonly number[], tolerance = 1e-9): Promise<void> {
  const a = await numbers(actual), e = "shape" in expected ? await numbers(expected) : [...expected];
  expect(a.length).toBe(e.length);
  a.forEach((v, i) => { expect(Math.abs(v - e[i])).toBeLessThanOrEqual(tolerance * (1 + Math.abs(e[i]))); });
}

/** A layer of some kind: W is [out, in] in the formulas and lies as the kind has it. */
interface Layer { readonly at: Site; readonly x: Store; readonly W: Store; readonly A: Store; readonly B: Store; readonly m: Store; readonly g: Store; readonly bias: Store }
const lying = ({ at, W }: Layer): Tensor => (at.kind === "linear" ? W : W.T);
const factorsOf = (l: Layer): Factors => {
  const p = { A: l.A, B: l.B, magnitude: l.m };
  return { ...p, ...dora.constants?.(l.at, { weight: lying(l) }) };
};
const useOf = (l: Layer): Application => ({ x: l.x, y: l.x.matmul(l.W.T).add(l.bias), module: {}, frozen: { weight: lying(l), bias: l.bias }, key: null, dropout: 0 });
const run = (l: Layer): Tensor => dora.forward(factorsOf(l), l.at, useOf(l));
const rowsOf = ({ at, W, A, B }: Layer): Tensor => W.add(B.matmul(A).mul(at.scale));
const lengths = (V: Tensor): Tensor => V.square().sum(1).sqrt().reshape([V.shape[0]]);

const size = fc.constantFrom(1, 2, 3, 5), grid = (n: number, from = -32): fc.Arbitrary<number[]> => fc.array(fc.integer({ min: from, max: 32 }).map((k) => k / 16), { minLength: n, maxLength: n });
const layer = fc.record({ n: size, i: size, o: size, r: size, s: fc.constantFrom(0.25, 1, 2, -1.5), kind: fc.constantFrom<Site["kind"]>("linear", "conv1d") }).chain(({ n, i, o, r, s, kind }) =>
  fc.record({ x: grid(n * i), w: grid(o * i), a: grid(r * i), b: grid(o * r), g: grid(n * o), m: grid(o, 1), c: grid(o) }).map((v): Layer => ({
    at: site(i, o, r, s, kind), x: matrix(v.x, [n, i]), W: matrix(v.w, [o, i]), A: matrix(v.a, [r, i]), B: matrix(v.b, [o, r]), g: matrix(v.g, [n, o]), m: matrix(v.m, [o]), bias: matrix(v.c, [o]),
  })));
/** Rows of V that are (nearly) zero have no direction. */
const directed = async (l: Layer): Promise<boolean> => (await numbers(lengths(rowsOf(l)))).every((n) => n > 0.05);

describe("DoRA on a layer", () => {
  it("equals its numeric anchor", async () => {
    const of = (rows: number[][]): Store => matrix(rows.flat(), [rows.length, rows[0].length]);
    const l: Layer = {
      at: site(3, 2, 2, 2), W: of([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]), A: of([[0.1, 0.2, 0.3], [-0.1, 0, 0.2]]), B: of([[0.5, -0.5], [1, 0.25]]), x: of([[1, 2, 3], [0, -1, 1]]), g: of([[1, 0], [0.5, -1]]),
      m: matrix([Math.hypot(0.1, 0.2, 0.3), Math.hypot(0.4, 0.5, 0.6) * 1.1], [2]), bias: matrix([0, 0], [2]),
    };
    const y = run(l), d = gradients(y.mul(l.g).sum(), { A: l.A, B: l.B, m: l.m });
    await close(lengths(rowsOf(l)), [0.6403124237, 1.6740669043], 1e-9);
    await close(d.m, [3.5919965234, -0.2389390764]);
    await close(d.A, [0.5843487098, 2.0296981023, 0.8920454467, -0.5843487098, -0.5882293053, -2.3335142437]);
    await close(d.B, [1.6946112584, 0.7012184517, -0.1153175038, -0.2306350075]);
    await close(y, [1.3440020325, 3.6036719924, 0, 0.2306350075]);
  });

  it("has the closed-form gradients with n held: dm = Σ g ∘ V x / n, dB = s g'ᵀ H, dA = s (g' B)ᵀ x, dx = g' W + s g' B A", async () => {
    await fc.assert(fc.asyncProperty(layer, async (l) => {
      fc.pre(await directed(l));
      const { x, W, A, B, m, g, at: { scale: s } } = l, V = rowsOf(l), n = lengths(V), G = g.mul(m.div(n));
      const y = run(l), d = gradients(y.mul(g).sum(), { x, A, B, m });
      await close(d.m, g.mul(x.matmul(V.T)).sum(0).reshape([m.size]).div(n));
      await close(d.B, G.T.matmul(x.matmul(A.T)).mul(s));
      await close(d.A, G.matmul(B).T.matmul(x).mul(s));
      await close(d.x, G.matmul(W).add(G.matmul(B).matmul(A).mul(s)));
      await close(y, x.matmul(V.T).mul(m.div(n)).add(l.bias));
    }), { numRuns });
  });

  it("equals the layer with the merged weight, whose rows have the lengths m: the output for the identity has them too", async () => {
    await fc.assert(fc.asyncProperty(layer, async (l) => {
      fc.pre(await directed(l));
      const { weight } = dora.merged(factorsOf(l), l.at, { weight: lying(l) }), rows = l.at.kind === "linear" ? weight : weight.T;
      await close(l.x.matmul(rows.T).add(l.bias), run(l));
      await close(lengths(rows), l.m);
      const k = l.at.inFeatures, eye = matrix(Array.from({ length: k * k }, (_, i) => (i % (k + 1) === 0 ? 1 : 0)), [k, k]);
      await close(lengths(run({ ...l, x: eye, bias: matrix(Array.from({ length: l.m.size }, () => 0), [l.m.size]) }).T), l.m);
    }), { numRuns });
  });

  it("does not change when A is multiplied by c and B divided by it", async () => {
    await fc.assert(fc.asyncProperty(layer, fc.constantFrom(0.25, 2, -4), async (l, c) => {
      fc.pre(await directed(l));
      const times = async (t: Store, by: number): Promise<Store> => matrix((await numbers(t)).map((v) => v * by), t.shape);
      await close(run({ ...l, A: await times(l.A, c), B: await times(l.B, 1 / c) }), run(l), 1e-12);
    }), { numRuns });
  });
});

describe("DoRA beside a model", () => {
  let before: Backend;
  beforeAll(async () => { before = getDevice(); setDevice(await wasm({ threads: 1 })); });
  afterAll(() => { clearPlans(); setDevice(before); });
  /** Gives all factors numbers, magnitudes positive ones. */
  function fill<M>(tuned: Tuned<M>, seed = 5): Tuned<M> {
    let n = 0;
    for (const [key, s] of tuned.tensors()) {
      const h = hostNormal(seed, `${n++}`, s.shape, { std: 0.25 }), positive = key.endsWith("magnitude_vector"), data = hostArray(s.dtype, s.size);
      h.data.forEach((v, i) => { data[i] = positive ? 1 + Math.abs(v) : v; });
      s.set({ dtype: s.dtype, shape: s.shape, data });
    }
    return tuned;
  }
  const targets = ["q_proj", "up_proj", "embed", "lm_head"];

  it.each(["f32", "f64", "bf16"] as const)("starts as the base, bit for bit where no bias is taken out and put back, and equals its merge: %s", async (dtype) => {
    if (dtype === "f64") setDevice(referenceBackend);
    const model = new Toy({ dtype }), base = await numbers(model.forward(ids)), tuned = lora(model, { r: 2, loraAlpha: 3, useDora: true, targetModules: targets });
    expect(await numbers(tuned.forward(ids))).toEqual(base);
    expect(tuned.summary()).toMatch(/^DoRA: 5 of 5 linear layers/);
    fill(tuned);
    const y = await numbers(tuned.forward(ids));
    expect(y).not.toEqual(base);
    await tuned.merge();
    await close(tuned.forward(ids), y, dtype === "bf16" ? 2e-2 : dtype === "f32" ? 1e-5 : 1e-12);
    await tuned.unmerge();
    expect(await numbers(tuned.forward(ids))).toEqual(y);
    expect(await numbers(model.forward(ids))).toEqual(base);
    setDevice(await wasm({ threads: 1 }));
  });

  it("in training drops the input of both products: y + (c - 1) W x~ + c s B A x~", async () => {
    const w = store(hostNormal(1, "w", [5, 4])), bias = store(hostNormal(1, "b", [5])), x = tensor(hostNormal(1, "x", [3, 4]).data, { shape: [3, 4] }), layer = new Linear(w, bias);
    const tuned = fill(lora({ layer }, { r: 2, loraAlpha: 3, useDora: true, loraDropout: 0.5, targetModules: ["layer"] })), [{ site: at, method, factors: { A, B, magnitude } }] = tuned.attachments;
    const context = tuned.context({ train: true, key: { seed: 3, stream: "d", step: scalar(0, "u32") } }), dropped = dropout(x, 0.5, { seed: 3, stream: "d/lora/layer", step: scalar(0, "u32") });
    const c = magnitude.div(lengths(w.add(B.matmul(A).mul(at.scale)))), W = dropped.matmul(w.T);
    await close(layer.forward(x, context), x.matmul(w.T).add(bias).add(c.sub(1).mul(W)).add(c.mul(dropped.matmul(A.T).matmul(B.T)).mul(at.scale)), 1e-5);
    expect((await numbers(dropped)).filter((v) => v === 0).length).toBeGreaterThan(0);
    expect(method.name).toBe("dora");
    await close(layer.forward(x, tuned.context({ train: false })), await numbers(layer.forward(x, tuned.context())), 0);
  });

  it("over PiSSA: starts as the base, gives up what PiSSA took on the whole input, drops what stays, and is saved as DoRA of twice the rank", async () => {
    const w = store(hostNormal(1, "w", [5, 4])), x = tensor(hostNormal(1, "x", [3, 4]).data, { shape: [3, 4] }), layer = new Linear(w), net = { layer }, base = await numbers(layer.forward(x));
    const options = { r: 2, loraAlpha: 3, useDora: true, loraDropout: 0.5, targetModules: ["layer"] }, tuned = await createLora(net, { ...options, initLoraWeights: "pissa" });
    await close(layer.forward(x, tuned.context()), base, 1e-6);
    fill(tuned);
    const [a] = tuned.attachments, { A, B, magnitude, A0, B0 } = tensorsOf(a), step = scalar(0, "u32"), dropped = dropout(x, 0.5, { seed: 3, stream: "d/lora/layer", step }), { scale: s } = a.site;
    const part = (v: Tensor, down: Tensor, up: Tensor): Tensor => v.matmul(down.T).matmul(up.T).mul(s), V = w.add(B.matmul(A).mul(s)).sub(B0.matmul(A0).mul(s)), c = magnitude.div(lengths(V));
    const Vx = dropped.matmul(w.T).sub(part(dropped, A0, B0)).add(part(dropped, A, B));
    await close(layer.forward(x, tuned.context({ train: true, key: { seed: 3, stream: "d", step } })), x.matmul(w.T).sub(part(x, A0, B0)).add(part(dropped, A, B)).add(c.sub(1).mul(Vx)), 1e-5);
    const plain = await plainLora(tuned);
    expect([...plain.tensors().values()].map((t) => t.shape)).toEqual([[4, 4], [5, 4], [5]]);
    await close(layer.forward(x, plain.context()), await numbers(layer.forward(x, tuned.context())), 1e-5);
    const y = await numbers(layer.forward(x, tuned.context()));
    await tuned.merge();
    await close(layer.forward(x), y, 1e-5);
  });

  it("works over codes as over the numbers that they stand for, and trains beside them", async () => {
    const q = quantize(hostNormal(1, "w", [6, 64]).data as Float32Array, [6, 64], { format: "nf4", block: 64 }), net = (w: Tensor) => { const layer = new Linear(w); return { layer, forward: (x: Tensor, c: Context = {}) => layer.forward(x, c) }; };
    const x = tensor(hostNormal(9, "x", [3, 64]).data, { shape: [3, 64] }), options = { r: 2, loraAlpha: 3, useDora: true, targetModules: ["layer"], seed: 1 };
    const coded = fill(lora(net(quantizedWeight(q)), options)), plain = fill(lora(net(store({ dtype: "f32", shape: [6, 64], data: dequantize(q) })), options));
    const of = (t: typeof coded): (Tensor | null)[] => { const y = t.forward(x), d = gradients(y.square().sum(), [...t.tensors().values()]); return [y, ...d]; };
    const theirs = of(plain);
    for (const [i, t] of of(coded).entries()) await close(t, await numbers(theirs[i]), 1e-5);
    const stores = [...coded.tensors().values()], losses: number[] = [];
    for (let t = 0; t < 20; t++) {
      const loss = coded.forward(x).sub(1).square().mean(), g = gradients(loss, stores);
      assign(stores, stores.map((p, i) => p.sub(g[i]?.mul(0.05) ?? 0)));
      losses.push(await loss.item());
    }
    expect(losses[19]).toBeLessThan(0.8 * losses[0]);
    await expect(coded.merge()).rejects.toThrow(/allowRequantize/);
    await expect(coded.merge({ allowRequantize: true })).resolves.toHaveLength(1);
  });

  it("keeps a row of zeros a row of zeros", async () => {
    const layer = new Linear(store(tensor([[0, 0], [1, 2]]))), tuned = lora({ layer }, { r: 1, useDora: true, targetModules: ["layer"] });
    const y = layer.forward(tensor([[3, 4]]), tuned.context());
    const d = gradients(y.sum(), [...tuned.tensors().values()]);
    for (const t of [y, ...d]) expect((await numbers(t)).every(Number.isFinite)).toBe(true);
    expect(await numbers(y)).toEqual([0, 11]);
  });

  it("frozen: the same numbers without the products of the norm; it does not train, and holds the values of its making", async () => {
    const model = new Toy(), tuned = fill(lora(model, { r: 2, useDora: true, targetModules: targets })), frozen = tuned.frozen(), plain = fill(lora(model, { r: 2, targetModules: targets }));
    const flops = (t: Tensor): number => planOf([t]).spec.kernels.reduce((n, k) => n + (k.kind === "contract" ? operationsOf(k) : 0), 0);
    await numbers(frozen.forward(ids));
    expect(flops(frozen.forward(ids))).toBe(flops(plain.forward(ids)));
    expect(flops(tuned.forward(ids))).toBeGreaterThan(flops(plain.forward(ids)));
    await close(frozen.forward(ids), await numbers(tuned.forward(ids)), 1e-6);
    expect(() => frozen.forward(ids, { train: true })).toThrow(/frozen/);
    const y = await numbers(frozen.forward(ids));
    tuned.frozen(); // never used: nothing of it waits for numbers that change now
    for (const [key, s] of tuned.tensors()) s.set({ dtype: "f32", shape: s.shape, data: Float32Array.from(await s.data(), (v, i) => (key.endsWith("magnitude_vector") ? 2 : v + (i % 3) / 8)) });
    expect(await numbers(frozen.forward(ids))).toEqual(y);
    expect(await numbers(frozen.mergedWeights().get("layers.0.q_proj.weight") ?? null)).not.toEqual(await numbers(tuned.mergedWeights().get("layers.0.q_proj.weight") ?? null));
    await close(tuned.frozen().forward(ids), await numbers(tuned.forward(ids)), 1e-6);
    expect(await numbers(tuned.forward(ids))).not.toEqual(y);
  });

  it("takes its norm from the base as it is: after another adapter was merged into it too", async () => {
    const model = new Toy(), options = { r: 2, useDora: true, targetModules: targets }, first = fill(lora(model, options), 1), second = fill(lora(model, options), 2), frozen = second.frozen();
    const y = await numbers(second.forward(ids));
    await first.merge();
    const over = await numbers(second.forward(ids));
    await close(frozen.forward(ids), over, 1e-6);
    await second.merge();
    await close(model.forward(ids), over, 1e-5);
    await second.unmerge();
    await first.unmerge();
    expect(await numbers(second.forward(ids))).toEqual(y);
  });

  it("a compiled step equals a plain one", async () => {
    const run = async (wrap: typeof compile): Promise<number[][]> => {
      const tuned = fill(lora(new Toy(), { r: 2, useDora: true, targetModules: targets })), stores = [...tuned.tensors().values()];
      const step = wrap((x: Tensor) => { const loss = tuned.loss(x), d = gradients(loss, stores); assign(stores, stores.map((p, i) => p.sub(d[i]?.mul(0.01) ?? 0))); return loss; });
      const losses: number[] = [];
      for (let t = 0; t < 4; t++) losses.push(await step(ids).item());
      expect(losses[3]).toBeLessThan(losses[0]);
      return [losses, ...(await Promise.all(stores.map(numbers)))];
    };
    expect(await run(compile)).toEqual(await run((f) => f));
  });

  it("keeps its function when it is merged for good and starts anew (ReLoRA): the lengths stay", async () => {
    const tuned = fill(lora(new Toy(), { r: 2, useDora: true, targetModules: targets })), y = await numbers(tuned.forward(ids)), lengthsOf = async (): Promise<number[]> => (await Promise.all([...tuned.tensors()].filter(([key]) => key.endsWith("vector")).map(([, s]) => numbers(s)))).flat(), m = await lengthsOf();
    await mergeAndReinit(tuned, { count: 1 });
    await close(tuned.forward(ids), y, 1e-5);
    (await lengthsOf()).forEach((v, i) => { expect(v).toBeCloseTo(m[i], 5); });
  });

  it("its gradient writes nothing of W's size, and its products are those of LoRA and the norm's", () => {
    const [n, i, o, r] = [29, 53, 41, 3], f32 = (shape: Shape): Store => store({ dtype: "f32", shape, data: Float32Array.from({ length: sizeOf(shape) }, (_, k) => ((k % 7) + 1) / 16) });
    const [W, A, B, m, x, g, squares] = [f32([o, i]), f32([r, i]), f32([o, r]), f32([o]), f32([n, i]), f32([n, o]), f32([o])], at = site(i, o, r, 2);
    const plan = (method: AdapterMethod) => {
      const y = method.forward({ A, B, magnitude: m, squares }, at, { x, y: x.matmul(W.T), module: {}, frozen: { weight: W }, key: null, dropout: 0 }), d = gradients(y.mul(g).sum(), [x, A, B, m]);
      return planOf([y, ...d.filter((t) => t !== null)]).spec;
    };
    const spec = plan(dora), plain = plan(lowRank), products = (s: typeof spec): number => s.kernels.reduce((f, k) => f + (k.kind === "contract" ? operationsOf(k) : 0), 0);
    expect(products(spec) - products(plain)).toBe(2 * r * i * o + 2 * r * r * (i + o)); // A Wᵀ; A Aᵀ and B (A Aᵀ)
    for (const b of spec.buffers) if (b.kind === "slot" || b.kind === "output") expect(b.length).not.toBe(i * o);
    expect(spec.kernels.length - plain.kernels.length).toBeLessThanOrEqual(8);
  });
});
