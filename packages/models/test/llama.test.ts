import { describe, expect, it } from "vitest";
import { createReference, setDevice } from "@adjoint/tensor";
import { loadModel } from "@adjoint/models";
import { fixture, golden, goldenTensors, rowsOf } from "./golden.ts";

interface Golden { readonly rows: number[][]; readonly tokens: number; readonly loss: number }
const folders = ["tiny", "tiny-bf16", "tiny-f16", "tiny-tied", "tiny-sharded", "tiny-headdim", "tiny-rope-llama3"];

for (const device of [createReference(), createReference({ name: "fused", fuse: true, arena: true })]) describe(device.name, () => {
  for (const folder of folders) it(`${folder}: logits and loss are those of transformers`, async () => {
    setDevice(device);
    const model = await loadModel(fixture(`llama/${folder}`)), { rows, tokens, loss } = golden<Golden>(`llama/${folder}`);
    const batch = rowsOf(rows), { total, count } = model.lossSum(batch);
    expect(await count.item()).toBe(tokens);
    expect((await total.item()) / tokens / loss).toBeCloseTo(1, 6);
    const want = await goldenTensors(`llama/${folder}`).get("logits")!.data();
    for (const pass of [{}, { attentionMask: batch.attentionMask }]) {
      const got = await model.logits(batch.inputIds, pass).data(), [, T, V] = [rows.length, batch.inputIds.shape[1], model.config.vocabSize];
      let worst = 0;
      rows.forEach((row, b) => { for (let i = 0; i < row.length * V; i++) worst = Math.max(worst, Math.abs(got[b * T * V + i] - want[b * T * V + i])); });
      expect(worst).toBeLessThan(1e-5);
    }
  });
});
