/** LoRA over weights held as codes: bitsandbytes and PEFT's numbers, and merging. */
import { gradients } from "@adjoint/autograd";
import { type CausalLM, loadModel } from "@adjoint/models";
import { Linear } from "@adjoint/nn";
import { dequantize, quantize, quantizedOf, quantizedWeight } from "@adjoint/quant";
import { assign, clearPlans, type Backend, flatten, getDevice, hostNormal, scope, setDevice, store, type Tensor, Tensor as TensorClass, tensor } from "@adjoint/tensor";
import { fixture, golden, goldenTensors } from "@adjoint/testing/fixtures";
import { wasm } from "@adjoint/wasm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadLora, lora, requantize, type Tuned } from "../src/index.ts";
import { batchOf } from "./batch.ts";

let before: Backend;
beforeAll(async () => { before = getDevice(); setDevice(await wasm({ threads: 1 })); });
afterAll(() => { clearPlans(); setDevice(before); });

interface Golden { readonly rows: number[][]; readonly loss: number; readonly loss_base: number; readonly gradient_loss: number; readonly training: { readonly batch_size: number } }
const isTensor = (x: unknown): x is Tensor => x instanceof TensorClass;
const error = (a: ArrayLike<number>, b: ArrayLike<number>): number => Math.max(...Array.from(b, (v, i) => Math.abs(a[i] - v))) / Math.max(...Array.from(b, Math.abs));
const codesOf = async (model: CausalLM, name: string): Promise<Uint8Array | undefined> => (await quantizedOf(model.weights()[name])?.host())?.codes;

describe("QLoRA equals bitsandbytes and PEFT", () => {
  it.each(["nf4", "fp4"])("%s: loss, logits, gradients of A and B", async (name) => {
    const g = golden<Golden>(`qlora/${name}`), tensors = goldenTensors(`qlora/${name}`), model = await loadModel(fixture(`qlora/${name}/base`), { tokenizer: false });
    const { tuned } = await loadLora(model, fixture(`qlora/${name}/adapter`));
    expect((await model.loss(batchOf(g.rows)).item()) / g.loss_base).toBeCloseTo(1, 6);
    expect((await tuned.loss(batchOf(g.rows)).item()) / g.loss).toBeCloseTo(1, 6);
    const logits = tensors.get("logits"), [, T, V] = logits?.shape ?? [], ours = await tuned.forward(batchOf(g.rows).inputIds).data();
    g.rows.forEach((row, r) => { expect(error(ours.slice(r * T * V, (r * T + row.length) * V), Array.from(logits?.data ?? []).slice(r * T * V, (r * T + row.length) * V))).toBeLessThan(1e-5); });
    const { loss, leaves } = scope(() => {
      const l = tuned.loss(batchOf(g.rows.slice(0, g.training.batch_size)));
      return { loss: l, leaves: flatten(gradients(l, tuned.adapter), isTensor).leaves };
    });
    expect((await loss.item()) / g.gradient_loss).toBeCloseTo(1, 6);
    const { paths } = flatten(tuned.adapter, isTensor);
    for (const [i, leaf] of leaves.entries()) expect(error(await leaf.data(), tensors.get(`grad/${paths[i]}`)?.data ?? []), paths[i]).toBeLessThan(1e-5);
  });
  it("quantizes to the codes that bitsandbytes saved", async () => {
    for (const [name, how] of [["nf4", { format: "nf4", doubleQuant: true }], ["fp4", { format: "fp4" }]] as const) {
      const theirs = await loadModel(fixture(`qlora/${name}/base`)), ours = await loadModel(fixture("qlora/full"), { quantize: how });
      for (const key of Object.keys(theirs.weights())) expect(await codesOf(ours, key), key).toEqual(await codesOf(theirs, key));
    }
  });
});

/** A net of one layer of codes, and one of numbers. */
function net(format: "nf4" | "int8" = "nf4"): { layers: { q_proj: Linear; o_proj: Linear }; forward(x: Tensor): Tensor } {
  const w = hostNormal(1, "w", [6, 8], { std: 0.5 }), o = hostNormal(1, "o", [8, 6], { std: 0.5 });
  const layers = { q_proj: new Linear(quantizedWeight(quantize(w.data as Float32Array, [6, 8], { format, block: 32 }), "q")), o_proj: new Linear(store(o)) };
  return { layers, forward: (x) => layers.o_proj.forward(layers.q_proj.forward(x)) };
}
function filled(seed: number, format: "nf4" | "int8" = "nf4"): Tuned<ReturnType<typeof net>> {
  const tuned = lora(net(format), { r: 2, loraAlpha: 2, targetModules: ["q_proj", "o_proj"], seed }), stores = [...tuned.tensors().values()];
  stores.forEach((s, i) => { s.set(hostNormal(seed, `f${i}`, s.shape, { std: 0.25 })); });
  return tuned;
}
const weightOf = (t: Tuned<ReturnType<typeof net>>): Tensor => t.base.layers.q_proj.weight;

describe("merging into codes", () => {
  it("is refused unless allowed, and leaves everything as it was", async () => {
    const tuned = filled(1), was = await quantizedOf(weightOf(tuned))?.host();
    await expect(tuned.merge()).rejects.toThrow(/q_proj\.weight is held as nf4.*allowRequantize/s);
    expect(tuned.merged).toBe(false);
    expect(await quantizedOf(weightOf(tuned))?.host()).toEqual(was);
  });
  it.each([1, 2, 3])("decodes, adds and quantizes again, says what that lost, and goes back bit for bit (seed %i)", async (seed) => {
    const tuned = filled(seed, seed === 2 ? "int8" : "nf4"), x = tensor(hostNormal(9, "x", [3, 8]).data, { shape: [3, 8] });
    const codes = quantizedOf(weightOf(tuned)), was = await codes?.host(), y = await tuned.base.forward(x).data(), sum = await tuned.mergedWeights().get("layers.q_proj.weight")?.data();
    const [report, ...rest] = await tuned.merge({ allowRequantize: true });
    expect(rest).toEqual([]);
    const now = await codes?.host(), decoded = now === undefined ? [] : dequantize(now);
    const lost = Array.from(sum ?? [], (s, i) => decoded[i] - s), rms = (v: readonly number[]): number => Math.sqrt(v.reduce((a, b) => a + b * b, 0) / v.length);
    expect(report.name).toBe("layers.q_proj.weight");
    expect(report.relative).toBeCloseTo(rms(lost) / rms(Array.from(sum ?? [])), 6);
    expect(report.max).toBeCloseTo(Math.max(...lost.map(Math.abs)), 6);
    expect(report.relative).toBeLessThan(seed === 2 ? 0.01 : 0.15);
    expect(Array.from(await tuned.base.forward(x).data())).not.toEqual(Array.from(y));
    await tuned.unmerge();
    expect(await codes?.host()).toEqual(was);
    expect(await tuned.base.forward(x).data()).toEqual(y);
  });
  it("loses nothing where the sum has codes of its own", () => {
    const values = Float32Array.from({ length: 64 }, (_, i) => [1, -1, 0, 0.5626170039176941][i % 4]), old = quantize(values, [8, 8], { format: "nf4" });
    const { error: e } = requantize(old, dequantize(old), "w");
    expect(e).toEqual({ name: "w", relative: 0, ofDelta: 0, max: 0 });
  });
  it("trains the adapter and never the codes", async () => {
    const tuned = filled(4), x = tensor(hostNormal(9, "x", [3, 8]).data, { shape: [3, 8] }), was = await quantizedOf(weightOf(tuned))?.host(), factors = [...tuned.tensors().values()];
    const losses: number[] = [];
    for (let i = 0; i < 20; i++) {
      const loss = tuned.base.layers.o_proj.forward(tuned.base.layers.q_proj.forward(x, tuned.context()), tuned.context()).sub(1).square().mean(), g = gradients(loss, factors);
      expect(g.every((d) => d !== null)).toBe(true);
      assign(factors, factors.map((p, j) => p.sub(g[j]?.mul(0.1) ?? 0)));
      losses.push(await loss.item());
    }
    expect(losses[19]).toBeLessThan(0.5 * losses[0]);
    expect(await quantizedOf(weightOf(tuned))?.host()).toEqual(was);
  });
});
