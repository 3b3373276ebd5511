import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { openModelFolder, saveSafetensors } from "@adjoint/io";
import { ConfigError, createReference, type HostArray, planOf, scope, setDevice, type Tensor, tensor } from "@adjoint/tensor";
import { wasmSync } from "@adjoint/wasm";
import { type CausalLM, initModel, loadModel, parseConfig, saveModel, Session } from "@adjoint/models";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { rowsOf, tensorsOf } from "./golden.ts";

interface Golden { readonly rows: number[][]; readonly loss: number }
const names = ["llama3", "mistral", "qwen2", "qwen3", "gpt2", "gpt2-flags", "gemma"] as const;
const ids = (x: number[][]): Tensor => tensor(Int32Array.from(x.flat()), { shape: [x.length, x[0].length] });
const tinyGpt2 = { model_type: "gpt2", vocab_size: 23, n_embd: 12, n_layer: 2, n_head: 3, n_positions: 40, initializer_range: 0.4 };
let folder = "";
beforeAll(async () => { folder = await mkdtemp(join(tmpdir(), "families-")); setDevice(wasmSync()); });
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Largest difference from the golden logits at real tokens. */
async function off(model: CausalLM, name: string, attended: boolean): Promise<number> {
  const { rows } = golden<Golden>(`families/${name}`), { inputIds, attentionMask } = rowsOf(rows), T = inputIds.shape[1], V = model.config.vocabSize;
  const got = await model.logits(inputIds, attended ? { attentionMask } : {}).data(), want = await tensorsOf(`families/${name}`).get("logits")!.data();
  return Math.max(...rows.flatMap((row, b) => Array.from({ length: row.length * V }, (_, i) => Math.abs(got[b * T * V + i] - want[b * T * V + i]))));
}

for (const device of [createReference({ name: "fused", fuse: true, arena: true }), wasmSync()]) describe(device.name, () => {
  for (const name of device.name === "fused" ? ["gpt2", "gemma"] as const : names) it(`${name}: logits, loss and the gradient of every weight are those of transformers`, async () => {
    setDevice(device);
    const model = await loadModel(fixture(`families/${name}`)), { rows, loss } = golden<Golden>(`families/${name}`), want = tensorsOf(`families/${name}`);
    expect(await off(model, name, false)).toBeLessThan(1e-5);
    expect(await off(model, name, true)).toBeLessThan(1e-5);
    const parameters = model.parameters(), { found, got } = scope(() => { const found = model.loss(rowsOf(rows)); return { found, got: gradients(found, parameters) }; });
    expect(Math.abs((await found.item()) / loss - 1)).toBeLessThan(1e-6);
    expect(Object.keys(parameters).sort()).toEqual([...want.keys()].filter((k) => k.startsWith("grad/")).map((k) => k.slice(5)).sort());
    for (const key of Object.keys(parameters)) {
      const w = await want.get(`grad/${key}`)!.data(), g = await got[key]!.data(), largest = Math.max(...[...w].map(Math.abs));
      const worst = Math.max(...[...g].map((x, i) => Math.abs(x - w[i])));
      expect(worst, key).toBeLessThanOrEqual(1e-5 * Math.max(largest, 1e-2));          // a key's bias shifts all scores of a query: its gradient is rounding alone
    }
  });
});

describe("GPT-2", () => {
  it("loads the names of published files, with the buffers of attention that nobody needs", async () => {
    const at = fixture("families/gpt2"), file = await openModelFolder(at), arrays = new Map<string, HostArray>();
    for (const key of file.entries.keys()) arrays.set(key.replace(/^transformer\./, ""), await file.read(key));
    await file.close();
    for (const i of [0, 1]) { arrays.set(`h.${i}.attn.bias`, { dtype: "u8", shape: [1, 1, 24, 24], data: new Uint8Array(576).fill(1) }); arrays.set(`h.${i}.attn.masked_bias`, { dtype: "f32", shape: [], data: Float32Array.of(-1e4) }); }
    await writeFile(join(folder, "config.json"), await readFile(join(at, "config.json")));
    await saveSafetensors(join(folder, "model.safetensors"), arrays);
    const model = await loadModel(folder);
    expect(await off(model, "gpt2", true)).toBeLessThan(1e-5);
    expect(Object.keys(model.parameters())).toEqual(Object.keys((await loadModel(at)).parameters()));
  });
  it("names modules as PEFT does", () => {
    const model = initModel(tinyGpt2, 1);
    expect(model.modules().slice(0, 9).map(({ path, kind }) => `${kind} ${path}`)).toEqual(["embedding transformer.wte", "embedding transformer.wpe", "norm transformer.h.0.ln_1", "conv1d transformer.h.0.attn.c_attn", "conv1d transformer.h.0.attn.c_proj", "norm transformer.h.0.ln_2", "conv1d transformer.h.0.mlp.c_fc", "conv1d transformer.h.0.mlp.c_proj", "norm transformer.h.1.ln_1"]);
    expect(model.modules().at(-1)).toMatchObject({ path: "lm_head", kind: "linear", isOutputHead: true });
    expect(Object.keys(model.parameters()).slice(0, 5)).toEqual(["transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.ln_1.weight", "transformer.h.0.ln_1.bias", "transformer.h.0.attn.c_attn.weight"]);
  });
  it("starts with smaller weights where a layer writes to the residual stream, and norms that change nothing", async () => {
    const p = initModel({ ...tinyGpt2, n_embd: 48, n_layer: 8, initializer_range: 0.02 }, 3).parameters();
    const spread = async (name: string): Promise<number> => { const x = [...(await p[`transformer.h.5.${name}`].data())]; return Math.hypot(...x) / Math.sqrt(x.length); };
    expect((await spread("mlp.c_proj.weight")) / (0.02 / 4)).toBeCloseTo(1, 1);
    expect((await spread("attn.c_proj.weight")) / (0.02 / 4)).toBeCloseTo(1, 1);
    expect((await spread("mlp.c_fc.weight")) / 0.02).toBeCloseTo(1, 1);
    expect([await spread("ln_1.weight"), await spread("ln_1.bias"), await spread("attn.c_attn.bias")]).toEqual([1, 0, 0]);
  });
  it("a layer is at most 10 kernels", () => {
    const kernels = (layers: number): number => planOf([initModel({ ...tinyGpt2, n_layer: layers }, 7).loss(rowsOf([[1, 2, 3, 4]]))]).spec.kernels.length;
    expect(kernels(3) - kernels(2)).toBeLessThanOrEqual(10);
  });
  it("packed rows and rows alone have the same loss", async () => {
    const model = initModel(tinyGpt2, 7), a = [3, 1, 4, 1, 5], b = [9, 2, 6];
    const sum = (inputIds: number[][], labels: number[][], more: object = {}): Promise<number> => model.lossSum({ inputIds: ids(inputIds), labels: ids(labels), ...more }).total.item();
    const alone = (await sum([a], [a])) + (await sum([b], [b])), labels = [[...a, -100, ...b.slice(1)]], segmentIds = ids([[0, 0, 0, 0, 0, 1, 1, 1]]), positionIds = ids([[0, 1, 2, 3, 4, 0, 1, 2]]);
    expect(await sum([[...a, ...b]], labels, { segmentIds, positionIds })).toBeCloseTo(alone, 4);
    expect(Math.abs((await sum([[...a, ...b]], labels, { segmentIds })) - alone)).toBeGreaterThan(1e-3);          // positions are learned, not distances
  });
  it("draws dropout in training only, with a key, the same for the same key", async () => {
    const batch = rowsOf([[1, 2, 3, 4, 5, 6]]), train = { train: true, key: { seed: 1, stream: "dropout" } };
    for (const option of ["embd_pdrop", "resid_pdrop", "attn_pdrop"]) {
      const model = initModel({ ...tinyGpt2, embd_pdrop: 0, resid_pdrop: 0, attn_pdrop: 0, [option]: 0.5 }, 3), run = (context: object): Promise<number> => model.loss(batch, context).item();
      expect(await run(train)).toBe(await run(train));
      expect(await run(train), option).not.toBe(await run({}));
      expect(await run({ ...train, key: { ...train.key, seed: 2 } }), option).not.toBe(await run(train));
      expect(() => model.loss(batch, { train: true })).toThrow(/key/);
    }
  });
  it("refuses what it has no position or no code for", async () => {
    const model = initModel(tinyGpt2, 1), long = Array.from({ length: 41 }, () => 1);
    expect(() => model.logits(ids([long]))).toThrow(/n_positions|position 40/);
    expect(() => model.logits(ids([[1, 2]]), { positionIds: ids([[0, 40]]) })).toThrow("position 40");
    await expect(loadModel(fixture("families/gpt2"), { quantize: { format: "nf4" } })).rejects.toThrow("Conv1D");
    for (const name of ["gpt2", "gemma"]) await expect(saveModel(await loadModel(fixture(`families/${name}`)), join(folder, `${name}.gguf`))).rejects.toThrow(name);
    const refused = { add_cross_attention: true, activation_function: "tanh", architectures: ["GPT2ForSequenceClassification"], quantization_config: { quant_method: "bitsandbytes" }, n_head: 5, num_hidden_layers: 3, attn_pdrop: 1 };
    for (const [key, value] of Object.entries(refused)) {
      expect(() => parseConfig({ ...tinyGpt2, [key]: value }), key).toThrow(ConfigError);
      expect(() => parseConfig({ ...tinyGpt2, [key]: value }), key).toThrow(key);
    }
  });
});

describe("Gemma", () => {
  const tinyGemma = { model_type: "gemma", vocab_size: 23, hidden_size: 12, intermediate_size: 20, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8, initializer_range: 0.4 };
  it("rounds the factor of its embeddings as their type does", async () => {
    const seen: number[] = [];
    for (const dtype of ["f32", "bf16"] as const) {
      const model = initModel({ ...tinyGemma, num_hidden_layers: 1 }, 2, { dtype }), [embedding, norm] = model.modules(), table = await embedding.module.weight.cast("f32").data();
      let h: Tensor | null = null;
      model.hidden(ids([[5]]), { adapter: { output: (m, x, y) => { if (m === norm.module) h = x; return y; } } });
      seen.push((await (h as Tensor | null)!.data())[3] / table[5 * 12 + 3]);
    }
    expect(seen[0]).toBeCloseTo(Math.sqrt(12), 6);
    expect(seen[1]).toBeCloseTo(3.46875, 6);
  });
  it("starts with norms that change nothing: weights 0", async () => {
    expect(new Set(await initModel(tinyGemma, 1).parameters()["model.norm.weight"].data())).toEqual(new Set([0]));
  });
  it("takes the first files' spelling of its activation, and refuses what would differ", () => {
    expect(parseConfig({ ...tinyGemma, hidden_act: "gelu", hidden_activation: null })).toMatchObject({ hiddenAct: "gelu_pytorch_tanh", tieWordEmbeddings: true });
    for (const [key, value] of Object.entries({ hidden_act: "silu", hidden_activation: "gelu", use_bidirectional_attention: true, model_type: "gemma2" })) expect(() => parseConfig({ ...tinyGemma, [key]: value })).toThrow(key);
  });
});

describe("what all have", () => {
  it.each(["gpt2", "gpt2-flags", "gemma"])("%s is saved and read back bit for bit", async (name) => {
    const model = await loadModel(fixture(`families/${name}`)), dir = join(folder, `saved-${name}`);
    await saveModel(model, dir);
    const again = await loadModel(dir);
    expect(again.config).toEqual({ ...model.config, json: again.config.json });
    for (const [key, p] of Object.entries(model.parameters())) expect(await again.parameters()[key].host(), key).toEqual(await p.host());
    expect(JSON.parse(await readFile(join(dir, "config.json"), "utf8"))).toMatchObject({ architectures: [name === "gemma" ? "GemmaForCausalLM" : "GPT2LMHeadModel"], dtype: "float32" });
  });
  it.each(["gpt2", "gemma"])("%s: cached logits are uncached logits, up to the last position", async (name) => {
    const model = await loadModel(fixture(`families/${name}`)), session = new Session(model), all = [24, 50, 27];
    let got = await session.read(all);
    for (let i = 3; i <= 24; i++) {
      const want = (await model.logits(ids([all])).data()).slice(-61);
      expect(Math.max(...Array.from(want, (x, j) => Math.abs(x - got[j])))).toBeLessThan(1e-5);
      if (i === 24) break;
      all.push((i * i + 7) % 61);
      got = await session.next(all[i]);
    }
    if (name === "gpt2") await expect(session.next(1)).rejects.toThrow("position");
  });
});
