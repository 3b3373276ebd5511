import { describe, expect, it } from "vitest";
import { type Tensor, createReference, planOf, setDevice, tensor } from "@adjoint/tensor";
import { wasmSync } from "@adjoint/wasm";
import { type Batch, initModel, loadModel } from "@adjoint/models";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { tensorsOf, rowsOf } from "./golden.ts";

interface Golden { readonly rows: number[][]; readonly tokens: number; readonly loss: number }
const folders = [
  ...["tiny", "tiny-bf16", "tiny-f16", "tiny-tied", "tiny-sharded", "tiny-headdim", "tiny-rope-llama3"].map((name) => `llama/${name}`),
  "families/rope-linear",
];

for (const device of [createReference(), createReference({ name: "fused", fuse: true, arena: true }), wasmSync()]) describe(device.name, () => {
  for (const folder of device.fuse ? folders : folders.slice(0, 2)) it(`${folder}: logits and loss are those of transformers`, async () => {
    setDevice(device);
    const model = await loadModel(fixture(folder)), { rows, tokens, loss } = golden<Golden>(folder);
    const batch = rowsOf(rows), { total, count } = model.lossSum(batch);
    expect(await count.item()).toBe(tokens);
    expect((await total.item()) / tokens / loss).toBeCloseTo(1, 6);
    const want = await tensorsOf(folder).get("logits")!.data();
    for (const pass of [{}, { attentionMask: batch.attentionMask }]) {
      const got = await model.logits(batch.inputIds, pass).data(), [, T, V] = [rows.length, batch.inputIds.shape[1], model.config.vocabSize];
      let worst = 0;
      rows.forEach((row, b) => { for (let i = 0; i < row.length * V; i++) worst = Math.max(worst, Math.abs(got[b * T * V + i] - want[b * T * V + i])); });
      expect(worst).toBeLessThan(1e-5);
    }
  });
});

describe("one model, several layouts", () => {
  const model = initModel({ model_type: "qwen3", vocab_size: 29, hidden_size: 12, intermediate_size: 20, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 6, initializer_range: 0.4 }, 7);
  const ids = (x: number[][]): Tensor => tensor(Int32Array.from(x.flat()), { shape: [x.length, x[0].length] });
  const sum = async (batch: Batch): Promise<number> => await model.lossSum(batch).total.item();
  const a = [3, 1, 4, 1, 5], b = [9, 2, 6], both = [...a, ...b], plain = (row: number[]): Batch => ({ inputIds: ids([row]), labels: ids([row]) });

  it("packed rows, padded rows and rows alone have the same loss", async () => {
    setDevice(createReference({ name: "fused", fuse: true }));
    const alone = (await sum(plain(a))) + (await sum(plain(b)));
    const labels = ids([[...a, -100, ...b.slice(1)]]), segmentIds = ids([[0, 0, 0, 0, 0, 1, 1, 1]]), positionIds = ids([[0, 1, 2, 3, 4, 0, 1, 2]]);
    expect(await sum({ inputIds: ids([both]), labels, segmentIds, positionIds })).toBeCloseTo(alone, 4);
    expect(await sum({ inputIds: ids([both]), labels, segmentIds })).toBeCloseTo(alone, 4);          // only distances count
    expect(Math.abs((await sum({ inputIds: ids([both]), labels })) - alone)).toBeGreaterThan(1e-2);
    const { inputIds, labels: padded, attentionMask } = rowsOf([a, b]);
    expect(await sum({ inputIds, labels: padded, attentionMask })).toBeCloseTo(alone, 4);
    const left = ids([a, [0, 0, ...b]]), mask = ids([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]).cast("bool");
    expect(await sum({ inputIds: left, labels: ids([a, [-100, -100, -100, ...b.slice(1)]]), attentionMask: mask })).toBeCloseTo(alone, 4);
  });
  it("a row without labels counts nothing and has loss 0", async () => {
    const { total, count } = model.lossSum({ inputIds: ids([a]), labels: ids([[-100, -100, -100, -100, -100]]) });
    expect([await total.item(), await count.item()]).toEqual([0, 0]);
    expect(await model.loss({ inputIds: ids([[1]]), labels: ids([[1]]) }).item()).toBe(0);
  });
  it("names its modules and parameters as the file does", () => {
    expect(Object.keys(model.parameters()).slice(0, 8)).toEqual(["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", ...["q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"].map((n) => `model.layers.0.self_attn.${n}.weight`)]);
    expect(model.modules().filter((m) => m.kind === "linear").length).toBe(2 * 7 + 1);
    expect(model.modules().filter((m) => m.isOutputHead).map((m) => m.path)).toEqual(["lm_head"]);
  });
  it("a layer is at most 14 kernels", () => {
    const kernels = (layers: number): number => {
      const m = initModel({ model_type: "llama", vocab_size: 29, hidden_size: 16, intermediate_size: 20, num_hidden_layers: layers, num_attention_heads: 4, num_key_value_heads: 2 }, 7);
      return planOf([m.loss(plain(a))]).spec.kernels.length;
    };
    expect(kernels(3) - kernels(2)).toBeLessThanOrEqual(14);
  });
  it("refuses what does not fit", () => {
    expect(() => model.logits(tensor(Int32Array.of(1, 2)))).toThrow("[batch, T]");
    expect(() => model.logits(ids([[29]]))).toThrow("29");
    expect(() => model.logits(ids([a]), { segmentIds: ids([b]) })).toThrow("segmentIds");
    expect(() => model.logits(ids([a]), { positionIds: ids([a]).cast("f32") })).toThrow("i32");
  });
});
