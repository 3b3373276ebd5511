import { pathToFileURL } from "node:url";
import { mkdtemp, readFile, rm, writeFile, cp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openModelFolder, saveSafetensors } from "@adjoint/io";
import { ConfigError, FormatError, createReference, setDevice, tensor } from "@adjoint/tensor";
import { initModel, loadModel, modelFrom, parseConfig, saveModel } from "@adjoint/models";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { tensorsOf, rowsOf } from "./golden.ts";

const tiny = fixture("llama/tiny");
let folder = "";
beforeAll(async () => { folder = await mkdtemp(join(tmpdir(), "models-")); setDevice(createReference({ name: "fused", fuse: true })); });
afterAll(() => rm(folder, { recursive: true, force: true }));
/** A copy of the tiny Llama with another config and other tensors. */
async function changed(name: string, config: Record<string, unknown>, tensors: Record<string, number[] | null> = {}): Promise<string> {
  const dir = join(folder, name), file = await openModelFolder(tiny), arrays = new Map<string, Awaited<ReturnType<typeof file.read>>>();
  await cp(tiny, dir, { recursive: true });
  await writeFile(join(dir, "config.json"), JSON.stringify({ ...(JSON.parse(await readFile(join(tiny, "config.json"), "utf8")) as object), ...config }));
  for (const key of file.entries.keys()) if (tensors[key] !== null) arrays.set(key, await file.read(key));
  for (const [key, shape] of Object.entries(tensors)) if (shape) arrays.set(key, { dtype: "f32", shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) });
  await file.close();
  await saveSafetensors(join(dir, "model.safetensors"), arrays);
  return dir;
}

describe("loading", () => {
  it("keeps the file's element type, or converts", async () => {
    const at = fixture("llama/tiny-bf16"), { rows, loss } = golden<{ rows: number[][]; loss: number }>("llama/tiny-bf16"), batch = rowsOf(rows);
    for (const [dtype, held] of [["auto", "bf16"], ["f32", "f32"], ["bf16", "bf16"]] as const) {
      const model = await loadModel(at, { dtype });
      expect(new Set(Object.values(model.parameters()).map((p) => p.dtype))).toEqual(new Set([held]));
      expect((await model.loss(batch).item()) / loss).toBeCloseTo(1, 6);
    }
    await expect(loadModel(at, JSON.parse('{"dtype":"int4"}') as object)).rejects.toThrow("int4");
  });
  it("takes a URL, and a folder without a tokenizer", async () => {
    expect((await loadModel(pathToFileURL(fixture("llama/tiny-sharded")))).tokenizer).toBe(null);
    await expect(loadModel(tiny, { tokenizer: true })).rejects.toThrow("tokenizer.json");
  });
  it("names file, tensor, expected and found", async () => {
    const error = await loadModel(await changed("wide", {}, { "model.layers.1.mlp.up_proj.weight": [3, 16] })).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(FormatError);
    expect(String(error)).toMatch(/wide.*model\.safetensors[\s\S]*"model\.layers\.1\.mlp\.up_proj\.weight": expected \[40, 16\] by config\.json, found \[3, 16\]/);
    await expect(loadModel(await changed("holes", {}, { "model.norm.weight": null, "extra.weight": [2] }))).rejects.toThrow(/missing: "model\.norm\.weight"[\s\S]*unexpected: "extra\.weight"/);
    const extra = await changed("extra", {}, { "extra.weight": [2], "model.layers.0.self_attn.rotary_emb.inv_freq": [2] });
    await expect(loadModel(extra)).rejects.toThrow(/^(?![\s\S]*inv_freq)[\s\S]*extra\.weight/);
    expect(Object.keys((await loadModel(extra, { strict: false })).parameters())).not.toContain("extra.weight");
  });
  const refused: Record<string, [Record<string, unknown>, string]> = {
    "another family": [{ model_type: "gpt_neox" }, "llama, mistral, qwen2, qwen3"],
    "another head": [{ architectures: ["LlamaForSequenceClassification"] }, "architectures"],
    "scaled positions": [{ rope_scaling: { type: "dynamic", factor: 2 }, rope_parameters: null }, "rope_scaling.type"],
    "scaled positions of version 5": [{ rope_parameters: { rope_type: "yarn", factor: 2 } }, "rope_parameters.rope_type"],
    "an activation": [{ hidden_act: "gelu" }, "hidden_act"],
    "a mixed window": [{ layer_types: ["full_attention", "sliding_attention"] }, "layer_types"],
    "quantized weights": [{ quantization_config: { quant_method: "gptq" } }, "quantization_config"],
    "a missing size": [{ hidden_size: undefined }, "hidden_size"],
    "a size that is text": [{ vocab_size: "61" }, "vocab_size"],
    "uneven groups": [{ num_key_value_heads: 3 }, "num_key_value_heads"],
    "an odd head": [{ head_dim: 5 }, "head_dim"],
    "scaled positions as text": [{ rope_scaling: "linear" }, "rope_scaling is \"linear\": an object"],
    "positions by layer": [{ rope_parameters: { full_attention: { rope_type: "linear", factor: 2 } } }, "rope_parameters.full_attention"],
    "dropout of one": [{ attention_dropout: 1 }, "attention_dropout"],
  };
  for (const [what, [change, key]] of Object.entries(refused)) it(`refuses ${what} by name`, async () => {
    const json = { ...(JSON.parse(await readFile(join(tiny, "config.json"), "utf8")) as object), ...change };
    expect(() => parseConfig(json, "here/config.json")).toThrow(ConfigError);
    expect(() => parseConfig(json, "here/config.json")).toThrow(key);
    expect(() => parseConfig(json, "here/config.json")).toThrow("here/config.json");
  });
  const sizes = { vocab_size: 3, hidden_size: 64, intermediate_size: 4, num_hidden_layers: 1, num_attention_heads: 8 };
  it("takes rope_scaling, and not the base of rope_parameters, where both are there (transformers 5)", () => {
    const rope = (more: Record<string, unknown>): unknown => { const c = parseConfig({ model_type: "llama", ...sizes, ...more }); return "ropeTheta" in c && [c.ropeTheta, c.ropeScaling]; };
    const rope_parameters = { rope_type: "default", rope_theta: 5e5 };
    expect(rope({ rope_parameters, rope_scaling: { type: "linear", factor: 4 } })).toEqual([10000, { type: "linear", factor: 4 }]);
    for (const rope_scaling of [null, {}]) expect(rope({ rope_parameters, rope_scaling })).toEqual([5e5, { type: "default" }]);
  });
  it.each([["llama", 2048, null, 8], ["mistral", 131072, 4096, 8], ["qwen2", 32768, null, 8], ["qwen3", 32768, null, 8], ["gemma", 8192, null, 8]] as const)("%s has the defaults of transformers", (model_type, positions, slidingWindow, numKeyValueHeads) => {
    expect(parseConfig({ model_type, ...sizes })).toMatchObject({ maxPositionEmbeddings: positions, slidingWindow, numKeyValueHeads });
    expect(parseConfig({ model_type, ...sizes, sliding_window: null, num_attention_heads: 4, num_key_value_heads: null })).toMatchObject({ slidingWindow: null, numKeyValueHeads: 4 });
  });
  it("a head of its own is used although the config says tied, and saved with a config that says so", async () => {
    const { rows, loss } = golden<{ rows: number[][]; loss: number }>("llama/tiny"), model = await loadModel(await changed("own-head", { tie_word_embeddings: true }));
    expect((await model.loss(rowsOf(rows)).item()) / loss).toBeCloseTo(1, 6);
    const dir = join(folder, "own-head-saved");
    await saveModel(model, dir);
    expect(JSON.parse(await readFile(join(dir, "config.json"), "utf8"))).toMatchObject({ tie_word_embeddings: false });
    const weights = new Map(await Promise.all(Object.entries(model.weights()).map(async ([name, w]) => [name, await w.host()] as const))), tied = { ...model.config, tieWordEmbeddings: true };
    expect(modelFrom(tied, weights).config.tieWordEmbeddings).toBe(false);
    const equal = modelFrom(tied, new Map([...weights, ["lm_head.weight", weights.get("model.embed_tokens.weight")!]]));
    expect(equal.config.tieWordEmbeddings).toBe(true);
    expect(Object.keys(equal.weights())).not.toContain("lm_head.weight");
  });
  it("refuses numbers that are not finite, and names file, tensor and element", async () => {
    const dir = await changed("not-finite", {}), at = join(dir, "model.safetensors"), file = await openModelFolder(dir), { offset, byteLength } = file.entries.get("model.layers.1.mlp.up_proj.weight")!, bytes = await readFile(at);
    await file.close();
    bytes.writeFloatLE(-Infinity, offset + byteLength - 4);
    await writeFile(at, bytes);
    await expect(loadModel(dir)).rejects.toThrow(/not-finite.*model\.safetensors: tensor "model\.layers\.1\.mlp\.up_proj\.weight": element 639 is -Infinity/);
  });
  it("refuses arrays that do not make the model", () => {
    expect(() => modelFrom(parseConfig({ model_type: "llama", vocab_size: 3, hidden_size: 4, intermediate_size: 4, num_hidden_layers: 1, num_attention_heads: 2 }), new Map())).toThrow("missing");
  });
});

describe("saving", () => {
  for (const name of ["llama/tiny-bf16", "llama/tiny-tied", "families/qwen2", "llama/tiny-headdim"]) it(`${name} comes back bit for bit`, async () => {
    const model = await loadModel(fixture(name)), dir = join(folder, "saved", name);
    await saveModel(model, dir, { files: { "note.txt": "kept" } });
    const again = await loadModel(dir), config = JSON.parse(await readFile(join(dir, "config.json"), "utf8")) as Record<string, unknown>;
    expect(Object.keys(again.parameters())).toEqual(Object.keys(model.parameters()));
    for (const [key, p] of Object.entries(model.parameters())) expect(await again.parameters()[key].host(), key).toEqual(await p.host());
    expect(config).toMatchObject({ dtype: name.endsWith("bf16") ? "bfloat16" : "float32", model_type: name.endsWith("qwen2") ? "qwen2" : "llama" });
    expect(config).not.toHaveProperty("torch_dtype");
    expect(await readFile(join(dir, "note.txt"), "utf8")).toBe("kept");
    const { rows } = golden<{ rows: number[][] }>(name), got = await again.logits(rowsOf(rows).inputIds).data(), want = await tensorsOf(name).get("logits")!.data();
    expect(Math.abs(got[0] - want[0])).toBeLessThan(1e-5);
  });
  it("writes shards above a limit", async () => {
    const model = await loadModel(tiny), dir = join(folder, "shards");
    await saveModel(model, dir, { maxShardBytes: 10_000 });
    expect(await readFile(join(dir, "model.safetensors.index.json"), "utf8")).toContain("model-00001-of-");
    expect(await (await loadModel(dir)).parameters()["lm_head.weight"].host()).toEqual(await model.parameters()["lm_head.weight"].host());
  });
});

describe("initModel", () => {
  const config = { model_type: "llama", vocab_size: 300, hidden_size: 64, intermediate_size: 96, num_hidden_layers: 8, num_attention_heads: 4, tie_word_embeddings: true };
  const spread = async (x: { data(): Promise<ArrayLike<number>> }): Promise<number> => Math.sqrt([...Array.from(await x.data())].reduce((a, v) => a + v * v, 0) / (await x.data()).length);
  it("draws small weights, smaller ones into the residual stream, the same for the same seed", async () => {
    const p = initModel(config, 5).parameters(), again = initModel(config, 5).parameters(), other = initModel(config, 6).parameters();
    expect(await spread(p["model.layers.3.mlp.up_proj.weight"])).toBeCloseTo(0.02, 2.5);
    expect((await spread(p["model.layers.3.mlp.down_proj.weight"])) / (0.02 / 4)).toBeCloseTo(1, 1);
    expect((await spread(p["model.layers.3.self_attn.o_proj.weight"])) / (0.02 / 4)).toBeCloseTo(1, 1);
    expect(new Set(await p["model.norm.weight"].data())).toEqual(new Set([1]));
    for (const name of Object.keys(p)) expect(await again[name].host()).toEqual(await p[name].host());
    expect(await other["model.embed_tokens.weight"].data()).not.toEqual(await p["model.embed_tokens.weight"].data());
  });
  it("starts at the loss of guessing", async () => {
    const model = initModel(config, 5), inputIds = tensor(Int32Array.from({ length: 64 }, (_, i) => (i * 37) % 300), { shape: [2, 32] });
    expect(await model.loss({ inputIds, labels: inputIds }).item()).toBeCloseTo(Math.log(300), 0.5);
    expect(model.parameters()).not.toHaveProperty("lm_head.weight");
  });
});
