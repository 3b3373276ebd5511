/** A small model with grouped heads and padding on the GPU: loss, gradients and generation over a cache are those of the reference. */
import { gradients } from "@adjoint/autograd";
import { generateIds, initModel } from "@adjoint/models";
import { type Backend, createReference, scope, setDevice, tensor } from "@adjoint/tensor";
import { expect, test } from "vitest";
import { webgpu } from "../src/index.ts";

const gpu = await webgpu({ mode: "safe", allowSoftware: true }).catch(() => null);

async function answers(device: Backend): Promise<{ readonly loss: number; readonly gradients: readonly number[][]; readonly text: readonly number[] }> {
  setDevice(device);
  const model = initModel({ model_type: "llama", vocab_size: 50, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 }, 1), p = model.parameters();
  const ids = tensor(Int32Array.from({ length: 24 }, (_, i) => (i * 7) % 50), { shape: [2, 12] }), real = tensor(Int32Array.from({ length: 24 }, (_, i) => (i < 20 ? 1 : 0)), { shape: [2, 12] });
  const { loss, found } = scope(() => {
    const loss = model.loss({ inputIds: ids, labels: ids, attentionMask: real });
    return { loss, found: gradients(loss, [p["model.layers.0.self_attn.q_proj.weight"], p["model.layers.1.self_attn.k_proj.weight"], p["model.embed_tokens.weight"]]) };
  });
  return { loss: await loss.item(), gradients: await Promise.all(found.map(async (g) => [...(await g!.data())])), text: await generateIds(model, [1, 2, 3, 4, 5], { maxNewTokens: 5, temperature: 0 }) };
}

test.runIf(gpu !== null)("a model of grouped heads learns and writes as on the reference", async () => {
  const want = await answers(createReference({ name: "fused", fuse: true })), got = await answers(gpu!);
  expect(Math.abs(want.loss - got.loss)).toBeLessThan(1e-5);
  want.gradients.forEach((row, i) => { row.forEach((v, j) => { expect(Math.abs(v - got.gradients[i][j])).toBeLessThan(1e-5); }); });
  expect(got.text).toEqual(want.text);
}, 600_000);
