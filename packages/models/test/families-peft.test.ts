import { expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { adapterSet, loadLora } from "@adjoint/lora";
import { loadModel } from "@adjoint/models";
import { scope, setDevice, tensor } from "@adjoint/tensor";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { wasmSync } from "@adjoint/wasm";
import { rowsOf, tensorsOf } from "./golden.ts";

it.each(["gpt2", "gpt2-head", "gemma"])("%s: an adapter's loss and gradients are PEFT's, on Conv1D layers and on embeddings", async (name) => {
  setDevice(wasmSync());
  const { base, rows, loss } = golden<{ base: string; rows: number[][]; loss: number }>(`families-peft/${name}`), want = tensorsOf(`families-peft/${name}`), model = await loadModel(fixture(base));
  const { tuned } = await loadLora(model, fixture(`families-peft/${name}/adapter`)), factors = Object.fromEntries(tuned.tensors());
  const { found, got } = scope(() => { const found = model.loss(rowsOf(rows), tuned.context()); return { found, got: gradients(found, factors) }; });
  expect(Math.abs((await found.item()) / loss - 1)).toBeLessThan(1e-6);
  expect(Object.keys(factors).map((key) => `grad/${key}`).sort()).toEqual([...want.keys()].sort());
  for (const key of Object.keys(factors)) {
    const w = await want.get(`grad/${key}`)!.data(), g = await got[key]!.data(), largest = Math.max(...[...w].map(Math.abs));
    expect(Math.max(...[...g].map((x, i) => Math.abs(x - w[i]))), key).toBeLessThanOrEqual(1e-5 * largest);
  }
});

it("gpt2: rows of one batch may have their own position embeddings", async () => {
  setDevice(wasmSync());
  const model = await loadModel(fixture("families/gpt2")), set = adapterSet(model), ids = tensor(Int32Array.of(1, 2, 3, 4, 5, 6), { shape: [2, 3] });
  set.add("a", { r: 1, initLoraWeights: false, targetModules: ["wpe", "c_attn"] });
  const [alone, base, mixed] = await Promise.all([set.with("a"), set.base, set.rows(["a", null])].map(async (m) => [...(await m.logits(ids).data())])), half = base.length / 2;
  expect(mixed.slice(0, half)).toEqual(alone.slice(0, half));
  expect(mixed.slice(half)).toEqual(base.slice(half));
  expect(alone).not.toEqual(base);
});
