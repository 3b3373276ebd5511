/**
 * Adapters on the GPU: what each method computes, and its gradients, are those of the reference. A software GPU takes ten seconds to compile each case, so the
 * first one runs in every suite, all of them where ADJOINT_RUNS is 60 or more (`node scripts/gpu.mjs -- node node_modules/vitest/vitest.mjs run packages/webgpu/test/adapters`).
 */
import { gradients } from "@adjoint/autograd";
import { adapterSet, createLora, type CreateLoraOptions } from "@adjoint/lora";
import { type Context, Embedding, Linear } from "@adjoint/nn";
import { type Backend, compile, createReference, hostNormal, scope, setDevice, type Store, store, tensor, type Tensor } from "@adjoint/tensor";
import fc from "fast-check";
import { expect, test } from "vitest";
import { webgpu } from "../src/index.ts";

const gpu = await webgpu({ mode: "safe", allowSoftware: true }).catch(() => null);

const filled = (shape: readonly number[], step: number): Store => store(tensor(Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => (((i * step) % 19) - 9) / 16), { shape: [...shape] }));
/** A table, a layer with a bias and a head. */
class Toy {
  readonly embed = new Embedding(filled([7, 6], 5));
  readonly up = new Linear(filled([8, 6], 7), filled([8], 3));
  readonly head = new Linear(filled([5, 8], 11), filled([5], 2));
  forward(ids: Tensor, context: Context = {}): Tensor {
    return this.head.forward(this.up.forward(this.embed.forward(ids, context), context).tanh(), context);
  }
}
const ids = tensor(Int32Array.of(0, 3, 6, 1, 4, 3), { shape: [2, 3] });

const cases: Readonly<Record<string, CreateLoraOptions>> = {
  "DoRA": { useDora: true },
  "rsLoRA with a bias on B": { useRslora: true, loraBias: true },
  "DoRA on an embedding": { useDora: true, targetModules: ["embed"] },
  "PiSSA": { initLoraWeights: "pissa" },
  "biases, a copy and token rows": { targetModules: ["up"], bias: "all", modulesToSave: ["head"], trainableTokenIndices: [3, 4] },
  "a raw parameter": { targetModules: ["up"], targetParameters: ["embed.weight"], trainableTokenIndices: { head: [1, 3] } },
};

async function answers(device: Backend, options: CreateLoraOptions): Promise<readonly (readonly number[])[]> {
  setDevice(device);
  const tuned = await createLora(new Toy(), { r: 3, loraAlpha: 6, targetModules: ["up", "head"], seed: 2, ...options }), trainable = Object.fromEntries(tuned.tensors());
  // away from their start, where B is 0
  for (const s of Object.values(trainable)) s.set({ dtype: "f32", shape: s.shape, data: Float32Array.from({ length: s.size }, (_, i) => (s.shape.length === 1 ? 1 : 0) + (((i * 5) % 17) - 8) / 64) });
  const { y, found } = scope(() => {
    const y = tuned.forward(ids);
    return { y, found: gradients(y.square().sum(), trainable) };
  });
  const [merged] = tuned.mergedWeights().values();
  return Promise.all([y, ...Object.values(found), merged].map(async (t) => [...(await t!.data())]));
}

const whole = Number(process.env["ADJOINT_RUNS"] ?? 16) >= 60;
test.runIf(gpu !== null).each(Object.entries(cases).slice(0, whole ? undefined : 1))("%s: output, gradients and merged weight", async (_, options) => {
  const want = await answers(createReference({ name: "fused", fuse: true }), options), got = await answers(gpu!, options);
  expect(got.length).toBe(want.length);
  want.forEach((row, i) => {
    const size = Math.max(1e-2, ...row.map(Math.abs));
    row.forEach((v, j) => { expect(Math.abs(v - got[i][j]), `part ${i}, element ${j}`).toBeLessThan(1e-5 * size); });
  });
}, 600_000);

const lawful: Readonly<Record<string, CreateLoraOptions>> = { "LoRA": {}, "DoRA": { useDora: true } };
test.runIf(gpu !== null && whole).each(Object.entries(lawful))("%s obeys its laws: identity at the start, merged as attached and back bit for bit, A and B scaled against each other", (_, options) => fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 99 }), async (seed) => {
  setDevice(gpu!);
  const model = new Toy(), tuned = await createLora(model, { r: 3, loraAlpha: 6, targetModules: ["up", "head"], seed, ...options }), read = async (t: Tensor): Promise<number[]> => [...(await t.data())];
  const near = (got: readonly number[], want: readonly number[]): void => { got.forEach((v, i) => { expect(Math.abs(v - want[i])).toBeLessThan(1e-5 * Math.max(1, ...want.map(Math.abs))); }); };
  const base = await read(model.forward(ids));
  near(await read(tuned.forward(ids)), base);
  for (const [name, s] of tuned.tensors()) s.set({ ...hostNormal(seed, name, s.shape, { std: 0.5 }) });
  const beside = await read(tuned.forward(ids));
  expect(beside.some((v, i) => Math.abs(v - base[i]) > 1e-3)).toBe(true);
  await tuned.merge();
  near(await read(model.forward(ids)), beside);
  await tuned.unmerge();
  expect(await read(model.forward(ids))).toEqual(base);
  for (const { factors: { A, B } } of tuned.attachments) for (const [s, by] of [[A, 4], [B, 0.25]] as const) s.set({ dtype: "f32", shape: s.shape, data: Float32Array.from(await s.data(), (v) => v * by) });
  expect(await read(tuned.forward(ids))).toEqual(beside);
}), { numRuns: 3 }), 600_000);

test.runIf(gpu !== null && whole)("rsLoRA is LoRA of alpha sqrt(r), and cat is the sum", () => fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 99 }), async (seed) => {
  setDevice(gpu!);
  const set = adapterSet(new Toy()), near = async (got: Tensor, want: Tensor): Promise<void> => {
    const [g, w] = await Promise.all([got, want].map((t) => t.data()));
    g.forEach((v, i) => { expect(Math.abs(Number(v) - Number(w[i]))).toBeLessThan(1e-5 * Math.max(1, Math.abs(Number(w[i])))); });
  };
  for (const [name, options] of [["plain", { loraAlpha: 2 * Math.sqrt(3) }], ["stable", { loraAlpha: 2, useRslora: true }]] as const) {
    for (const [key, s] of set.add(name, { r: 3, targetModules: ["up", "head"], ...options }).tensors()) s.set({ ...hostNormal(seed, key, s.shape, { std: 0.5 }) });
  }
  await near(set.with("stable").forward(ids), set.with("plain").forward(ids));
  await set.combine("both", { plain: 0.5, stable: 1 }, { combinationType: "cat" });
  await near(set.with("both").forward(ids), set.with({ plain: 0.5, stable: 1 }).forward(ids));
}), { numRuns: 2 }), 600_000);

test.runIf(gpu !== null && whole).each(["masked", "gathered"] as const)("a mixed batch, %s: output and gradients", async (form) => {
  const of = async (device: Backend): Promise<readonly (readonly number[])[]> => {
    setDevice(device);
    const set = adapterSet(new Toy()), view = (): ReturnType<typeof set.rows> => set.rows(["b", "__base__"], { form });
    for (const [name, options] of [["a", { r: 2, targetModules: ["embed", "up"] }], ["b", { r: 3, targetModules: ["embed", "up", "head"] }]] as const) {
      for (const s of set.add(name, options).tensors().values()) s.set({ dtype: "f32", shape: s.shape, data: Float32Array.from({ length: s.size }, (_, i) => (((i * 5) % 17) - 8) / 64) });
    }
    const { y, found } = scope(() => {
      const y = view().forward(ids);
      return { y, found: gradients(y.square().sum(), Object.fromEntries(set.names.flatMap((name) => [...set.get(name).tensors()].map(([key, s]) => [`${name}/${key}`, s])))) };
    });
    return Promise.all([y, ...Object.values(found)].map(async (t) => [...(await t!.data())]));
  };
  const want = await of(createReference({ name: "fused", fuse: true })), got = await of(gpu!);
  want.forEach((row, i) => { row.forEach((v, j) => { expect(Math.abs(v - got[i][j]), `part ${i}, element ${j}`).toBeLessThan(1e-5 * Math.max(1e-2, ...row.map(Math.abs))); }); });
}, 600_000);

test.runIf(gpu !== null && whole).each(["masked", "gathered"] as const)("a mixed batch, %s: a row that names no slot is NaN, and the others are as they were", async (form) => {
  setDevice(gpu!);
  const set = adapterSet(new Toy());
  for (const name of ["a", "b"]) for (const s of set.add(name, { r: 2, targetModules: ["embed", "up"] }).tensors().values()) s.set({ dtype: "f32", shape: s.shape, data: Float32Array.from({ length: s.size }, (_, i) => (((i * 5) % 17) - 8) / 64) });
  const numbers = async (by: number): Promise<number[]> => {
    const step = compile((x: Tensor, index: Tensor) => set.rows(index.add(tensor(Int32Array.of(0, by))), { form }).forward(x)); // made by the step: no host sees it
    return [...(await step(ids, tensor(Int32Array.of(1, 2))).data())].map(Number);
  };
  const want = await numbers(0), half = want.length / 2;
  for (const by of [1, -3]) {
    const got = await numbers(by);
    expect(got.slice(half).every(Number.isNaN), String(by)).toBe(true);
    expect(got.slice(0, half)).toEqual(want.slice(0, half));
  }
  expect(want.every(Number.isFinite)).toBe(true);
}, 600_000);

test.runIf(gpu !== null)("a norm over more vectors than a dispatch may bind, as DoRA's magnitudes and AdaLoRA's E have", async () => {
  const vectors = Array.from({ length: 40 }, (_, i) => filled([9], i + 2)), means = Array.from({ length: 20 }, (_, i) => filled([3, 9], i + 3));
  const answer = async (device: Backend): Promise<readonly (readonly number[])[]> => {
    setDevice(device);
    const { norm, rows } = scope(() => ({
      norm: vectors.map((v) => v.mul(v).sum()).reduce((a, b) => a.add(b)).sqrt(),
      rows: means.map((m) => m.mul(m).mean(1)).reduce((a, b) => a.add(b)),
    }));
    return Promise.all([norm, rows].map(async (t) => [...(await t.data())].map(Number)));
  };
  const want = await answer(createReference({ name: "fused", fuse: true })), got = await answer(gpu!);
  want.forEach((row, i) => { row.forEach((v, j) => { expect(Math.abs(got[i][j] / v - 1)).toBeLessThan(1e-5); }); });
}, 600_000);
