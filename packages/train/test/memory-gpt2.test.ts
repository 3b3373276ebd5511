import { describe, expect, test } from "vitest";
import { lora } from "@adjoint/lora";
import { initModel, parseConfig } from "@adjoint/models";
import { setDevice } from "@adjoint/tensor";
import { fullTrainee, idsRows, mergeRecipe, modulesOf, predictMemory, staticTerms, stepBytes, Training, trainingOptions } from "@adjoint/train";
import { wasm } from "@adjoint/wasm";

const gpt2 = (layers: number, more: object = {}) => parseConfig({ model_type: "gpt2", vocab_size: 256, n_embd: 48, n_layer: layers, n_head: 4, n_positions: 64, ...more });

describe("the memory of other families", () => {
  test.each([gpt2(2).json, gpt2(1, { tie_word_embeddings: false, n_inner: 20 }).json, { model_type: "gemma", vocab_size: 20, hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2, head_dim: 6 }])("modules of a config are those of its model", (json) => {
    const model = initModel(json, 1), [rows, columns] = [0, 1], found = modulesOf(parseConfig(json));
    expect(found.map(({ path, kind }) => [path, kind])).toEqual(model.modules().map(({ path, kind }) => [path, kind === "norm" ? "other" : kind]));
    found.forEach((m, i) => {
      const { shape } = model.modules()[i].module.weight;
      if (m.kind !== "other") expect([m.inFeatures, m.outFeatures], m.path).toEqual(m.kind === "linear" ? [shape[columns], shape[rows]] : [shape[rows], shape[columns]]);
    });
  });
  test("every weight of GPT-2 counts, and its layers are not held as codes", () => {
    const config = gpt2(3), model = initModel(config.json, 1);
    expect(staticTerms(config, { method: "full" }).parameters).toBe(Object.values(model.parameters()).reduce((n, p) => n + p.size, 0));
    expect(() => staticTerms(config, { method: "qlora" })).toThrow("Conv1D");
    for (const targets of ["all-linear", ["c_attn", "wte", "wpe"]]) {
      const tuned = lora(model, { r: 4, targetModules: targets, seed: 1 }), step = { batch: 1, seq: 8, checkpointing: false, adapter: { r: 4, targetModules: targets }, dtype: "f32" } as const;
      expect(staticTerms(config, { method: "lora", rank: 4, targets }).trainable).toBe([...tuned.tensors()].reduce((n, [, t]) => n + t.size, 0));
      expect(stepBytes(config, step).arena).toBeGreaterThan(0);
    }
  });
  test("a full training of GPT-2 that runs, with its dropout, holds what was predicted, within 10 %", async () => {
    const device = setDevice(await wasm({ threads: 1 })), config = gpt2(6), batch = 2, seq = 32;
    const rows = Array.from({ length: 2 * batch }, (_, r) => Array.from({ length: seq }, (_, i) => (7 * i + r) % 256));
    const training = new Training(fullTrainee(initModel(config.json, 1)), trainingOptions(mergeRecipe({ max_steps: 2, per_device_train_batch_size: batch }), idsRows(rows, "rows")));
    for (let i = 0; i < 2; i++) await training.next();
    const predicted = predictMemory(config, { method: "full", batch, seq }, device), held = device.counters.arenaBytes + device.counters.bufferBytes;
    expect(Math.abs(predicted.total / held - 1), `${predicted.total} predicted, ${held} held`).toBeLessThan(0.1);
    expect(stepBytes(config, { batch, seq, checkpointing: true, adapter: null, dtype: "f32" }, device).arena).toBeLessThan(predicted.arena);
    await device.close?.();
  });
});
