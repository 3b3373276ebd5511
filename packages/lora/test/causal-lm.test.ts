import { expect, it } from "vitest";
import { type CausalLM, loadModel } from "@adjoint/models";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { loadLora, lora } from "../src/index.ts";
import { batchOf } from "./batch.ts";

it("a tuned language model is a language model", async () => {
  const base = await loadModel(fixture("llama/tiny"));
  const { tuned } = await loadLora(base, fixture("peft/rslora/adapter"));
  const model: CausalLM = tuned;
  const { rows, loss } = golden<{ rows: number[][]; loss: number }>("peft/rslora");
  const batch = batchOf(rows), ids = batch.inputIds;
  expect(Math.abs((await model.loss(batch).item()) / loss - 1)).toBeLessThan(2e-6);
  expect(model.config).toBe(base.config);
  expect(model.tokenizer).toBe(base.tokenizer);
  expect(Object.keys(model.parameters())).toEqual(Object.keys(base.parameters()));
  const { total, count } = model.lossSum(batch);
  expect(Math.abs((await total.div(count).item()) / loss - 1)).toBeLessThan(2e-6);
  expect(await model.logits(ids).data()).toEqual(await model.head(model.hidden(ids)).data());
  expect(await model.logits(ids).data()).toEqual(await model.forward(ids).data());
  expect(await model.logits(ids, { adapter: null }).data()).toEqual(await base.logits(ids).data());
  expect(lora(base, {}).targets.targets.map((t) => t.path)).toContain("model.layers.1.self_attn.v_proj");
});
