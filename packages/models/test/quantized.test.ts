import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, test } from "vitest";
import { ggufBytes, ggufParts, type GgufType, openGguf, openModelFolder, saveSafetensors } from "@adjoint/io";
import { dequantize, formats, type FormatName, quantize, quantizedOf, toGguf } from "@adjoint/quant";
import { AdjointError, ConfigError, createReference, flatten, FormatError, fromHost, Store, setDevice, tensor, Tensor, toF16 } from "@adjoint/tensor";
import { type CausalLM, fromGgufName, initModel, knownConfig, knownModels, loadModel, parameterShapes, parseConfig, saveModel, toGgufName } from "@adjoint/models";
import { fixture } from "@adjoint/testing/fixtures";

const sizes = { vocab_size: 50, hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, initializer_range: 0.2, bos_token_id: 1, eos_token_id: 2 };
const ids = tensor(Int32Array.from([1, 7, 3, 9, 30, 2]), { shape: [1, 6] });
let folder = "", base = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "quantized-"));
  setDevice(createReference({ name: "fused", fuse: true }));
  base = join(folder, "base");
  await saveModel(initModel({ model_type: "llama", ...sizes }, 5), base);
});
afterAll(() => rm(folder, { recursive: true, force: true }));
const logits = async (model: CausalLM): Promise<number[]> => Array.from(await model.logits(ids).data(), Number);
const quantizedNames = (model: CausalLM): string[] => Object.entries(model.weights()).filter(([, w]) => quantizedOf(w) !== null).map(([name]) => name);

describe("quantizing while loading", () => {
  it("holds the linear layers as codes, and computes what the decoded weights compute", async () => {
    const seen: string[] = [], model = await loadModel(base, { quantize: { format: "nf4", doubleQuant: true }, onWeight: ({ name }) => seen.push(name) });
    expect(quantizedNames(model)).toHaveLength(14);
    expect(quantizedNames(model)).not.toContain("lm_head.weight");
    expect(seen).toHaveLength(parameterShapes(model.config).size);
    expect(Object.keys(model.parameters())).toHaveLength(seen.length - 14);
    const q = quantizedOf(model.weights()["model.layers.0.mlp.up_proj.weight"]);
    expect(q?.bytes).toBeLessThan(0.75 * 64 * 96 + 1200);
    const twin = await loadModel(base);
    for (const [name, s] of Object.entries(twin.parameters())) s.set(await model.weights()[name].host());
    const [ours, theirs] = [await logits(model), await logits(twin)];
    expect(Math.max(...ours.map((x, i) => Math.abs(x - theirs[i])))).toBeLessThan(1e-5);       // a fused decode may round once less
    expect(quantizedNames(model)).toHaveLength(14);
  });
  it("takes a row a scale for int8, names to skip, and other precisions of the rest", async () => {
    const model = await loadModel(base, { quantize: { format: "int8", skip: ["lm_head", "down_proj"] }, dtype: "bf16", upcast: "norms" });
    expect(quantizedNames(model)).toHaveLength(12);
    expect(quantizedOf(model.weights()["model.layers.0.mlp.up_proj.weight"])?.block).toBe(64);
    expect(model.weights()["model.norm.weight"].dtype).toBe("f32");
    expect(model.weights()["lm_head.weight"].dtype).toBe("bf16");
    expect((await loadModel(base, { dtype: "f16", upcast: "all", quantize: { format: "fp4" } })).weights()["lm_head.weight"].dtype).toBe("f32");
  });
  it("refuses what it cannot do, by name", async () => {
    await expect(loadModel(base, { quantize: { format: "nf4", skip: ["lm_haed"] } })).rejects.toThrow(/skip names lm_haed/);
    await expect(loadModel(base, { quantize: { format: "nf4", block: 48 } })).rejects.toThrow(/block 48/);
    await expect(loadModel(base, { quantize: { format: "q4_k" } })).rejects.toThrow(/q4_k can be read but not made/);
    await expect(loadModel(base, JSON.parse('{"quantize":{"format":"nf5"}}') as object)).rejects.toThrow(/nf5/);
    await expect(loadModel(base, JSON.parse('{"upcast":"some"}') as object)).rejects.toThrow(ConfigError);
    const file = await openModelFolder(base), arrays = new Map<string, Awaited<ReturnType<typeof file.read>>>(), bad = join(folder, "infinite");
    for (const name of file.entries.keys()) arrays.set(name, await file.read(name));
    await file.close();
    arrays.get("model.layers.1.mlp.up_proj.weight")?.data.fill(Infinity, 70, 71);
    await saveModel(await loadModel(base), bad);
    await saveSafetensors(join(bad, "model.safetensors"), arrays);
    await expect(loadModel(bad, { quantize: { format: "nf4" } })).rejects.toThrow(/infinite.*model\.layers\.1\.mlp\.up_proj\.weight.*element 70/s);
  });
});

test("numbers that f16 does not hold: told where f16 was asked for, f32 where codes would become it", async () => {
  const dir = join(folder, "large"), path = join(folder, "large.gguf"), name = "model.embed_tokens.weight", model = await loadModel(base), w = model.weights()[name];
  if (!(w instanceof Store)) throw new Error(name);
  w.set({ dtype: "f32", shape: w.shape, data: new Float32Array(w.size).fill(7e4, 5, 6) });
  await saveModel(model, dir);
  await expect(loadModel(dir, { dtype: "f16" })).rejects.toThrow(/large.*model\.embed_tokens\.weight": element 5 is 70000, more than f16 holds/);
  expect((await loadModel(dir, { dtype: "bf16" })).weights()[name].dtype).toBe("bf16");
  const plain = await openGguf(await saveModel(model, path).then(() => path)), tensors = await Promise.all([...plain.entries].map(async ([key, { type, shape }]) => ({ name: key, type, shape, bytes: await plain.read(key) })));
  const codes = toGguf(quantize(new Float32Array(w.size).fill(7e4, 5, 6), w.shape, { format: "mxfp4" }));
  await writeFile(path, Buffer.concat(ggufParts(Object.fromEntries(plain.metadata), tensors.map((t) => (t.name === "token_embd.weight" ? { name: t.name, shape: t.shape, ...codes } : t)))));
  await plain.close();
  const again = (await loadModel(path)).weights()[name];
  expect([again.dtype, (await again.data())[5]]).toEqual(["f32", 65536]);
});

describe("folders of bitsandbytes", () => {
  it.each([["nf4", true], ["fp4", false], ["int8", false]] as const)("%s goes out and comes back bit for bit", async (format, doubleQuant) => {
    const dir = join(folder, format), model = await loadModel(base, { quantize: { format, doubleQuant } });
    await saveModel(model, dir);
    const text = await readFile(join(dir, "config.json"), "utf8"), config = JSON.parse(text) as { quantization_config: Record<string, unknown> };
    expect(text).toContain('"llm_int8_threshold": 6.0,');        // transformers refuses an int
    expect(config.quantization_config).toMatchObject({ quant_method: "bitsandbytes", load_in_4bit: format !== "int8", llm_int8_skip_modules: ["lm_head"] });
    const again = await loadModel(dir);
    expect(quantizedNames(again)).toEqual(quantizedNames(model));
    for (const name of quantizedNames(model)) {
      const [a, b] = await Promise.all([model, again].map(async (m) => quantizedOf(m.weights()[name])?.host()));
      expect(b?.codes).toEqual(a?.codes);
      expect(b?.scales).toEqual(a?.scales);
    }
    expect(await logits(again)).toEqual(await logits(model));
    const decoded = await loadModel(dir, { quantize: false, dtype: "f32" }), [ours, theirs] = [await logits(decoded), await logits(model)];
    expect(quantizedNames(decoded)).toEqual([]);
    expect(Math.max(...ours.map((x, i) => Math.abs(x - theirs[i])))).toBeLessThan(1e-5);       // an ulp of a scale where those are codes too
    await saveModel(decoded, join(folder, `${format}-decoded`));
    expect(await readFile(join(folder, `${format}-decoded`, "config.json"), "utf8")).not.toContain("quantization_config");
    await expect(loadModel(dir, { quantize: { format: "fp4" } })).rejects.toThrow(/already/);
  });
  it("names as skipped what is not quantized, and only that: transformers builds its layers from this list", async () => {
    const dir = join(folder, "skipped"), listed = async (skip: string[], json: object = {}): Promise<unknown> => {
      for (const old of [dir, `${dir}-q`]) await rm(old, { recursive: true, force: true });
      await saveModel(initModel({ model_type: "llama", ...sizes, ...json }, 5), dir);
      await saveModel(await loadModel(dir, { quantize: { format: "nf4", skip } }), `${dir}-q`);
      const { quantization_config } = JSON.parse(await readFile(join(`${dir}-q`, "config.json"), "utf8")) as { quantization_config: { llm_int8_skip_modules: unknown } };
      return quantization_config.llm_int8_skip_modules;
    };
    expect(await listed([])).toEqual([]);
    expect(await listed([], { tie_word_embeddings: true })).toEqual(["lm_head"]);        // a tied head has no codes of its own
    expect(await listed(["lm_head", "v_proj"])).toEqual(["lm_head", "model.layers.0.self_attn.v_proj", "model.layers.1.self_attn.v_proj"]);
  });
  it("has one type for all that is no codes, as transformers needs it: the embedding's where nothing is lost, else f32", async () => {
    const dir = join(folder, "types"), from = `${dir}-plain`, typesOf = async (norm: number): Promise<(string | undefined)[]> => {
      const half = await loadModel(base, { dtype: "f16", upcast: "norms" }), name = "model.norm.weight", w = half.weights()[name];
      if (!(w instanceof Store)) throw new Error(name);
      w.set({ dtype: "f32", shape: w.shape, data: new Float32Array(w.size).fill(norm) });
      for (const old of [dir, from]) await rm(old, { recursive: true, force: true });
      await saveModel(half, from);
      await saveModel(await loadModel(from, { quantize: { format: "nf4" } }), dir);
      const file = await openModelFolder(dir), found = [name, "model.embed_tokens.weight", "lm_head.weight"].map((key) => file.entries.get(key)?.dtype);
      expect((await file.read(name)).data[0]).toBe(found[0] === "f16" ? toF16(norm) : Math.fround(norm));
      await file.close();
      return [...found, (JSON.parse(await readFile(join(dir, "config.json"), "utf8")) as { dtype: string }).dtype];
    };
    expect(await typesOf(1.5)).toEqual(["f16", "f16", "f16", "float16"]);
    expect(await typesOf(0.1)).toEqual(["f32", "f32", "f32", "float32"]);
  });
  it("refuses other methods, and codes that no file holds", async () => {
    const dir = join(folder, "gptq");
    await saveModel(await loadModel(base), dir);
    const config = JSON.parse(await readFile(join(dir, "config.json"), "utf8")) as object;
    await writeFile(join(dir, "config.json"), JSON.stringify({ ...config, quantization_config: { quant_method: "gptq" } }));
    await expect(loadModel(dir)).rejects.toThrow(/gptq/);
    await expect(saveModel(await loadModel(base, { quantize: { format: "int4" } }), join(folder, "int4"))).rejects.toThrow(/int4/);
  });
});

describe("GGUF files", () => {
  it.each([["llama", "q8_0"], ["llama", "q4_0"], ["qwen2", "mxfp4"], ["qwen3", "q8_0"]] as const)("%s in %s goes out and comes back bit for bit", async (model_type, format) => {
    const dir = join(folder, `${model_type}-${format}`), path = join(folder, `${model_type}-${format}.gguf`);
    await saveModel(initModel({ model_type, ...sizes, head_dim: 16, ...(model_type === "qwen2" ? { tie_word_embeddings: true } : {}) }, 6), dir);
    const model = await loadModel(dir, { quantize: { format } });
    await saveModel(model, path);
    const again = await loadModel(path);
    expect(again.config.tieWordEmbeddings).toBe(model_type === "qwen2");
    expect(quantizedNames(again)).toEqual(quantizedNames(model));
    expect(await logits(again)).toEqual(await logits(model));
  });
  it("keeps plain tensors and Llama 3's positions", async () => {
    const model = await loadModel(fixture("llama/tiny-rope-llama3")), scaled = { ...model.config, ropeScaling: { type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 8192 } } as const;
    Object.defineProperty(model, "config", { value: scaled });
    const path = join(folder, "plain.gguf");
    await saveModel(model, path);
    const again = await loadModel(path);
    expect("ropeScaling" in again.config && again.config.ropeScaling).toEqual(scaled.ropeScaling);
    for (const [name, w] of Object.entries(model.weights())) expect((await again.weights()[name].host()).data, name).toEqual((await w.host()).data);
  });
  it("keeps a Mistral's window", async () => {
    const model = initModel({ model_type: "mistral", ...sizes, head_dim: 16, num_key_value_heads: 2, sliding_window: 3 }, 6), path = join(folder, "window.gguf");
    await saveModel(model, path);
    const again = await loadModel(path);
    expect(again.config).toMatchObject({ modelType: "mistral", slidingWindow: 3 });
    expect(await logits(again)).toEqual(await logits(model));
    await saveModel(initModel({ model_type: "mistral", ...sizes, head_dim: 16, num_key_value_heads: 2, sliding_window: null }, 6), path);
    expect((await loadModel(path)).config).toMatchObject({ modelType: "llama", slidingWindow: null });
  });
  it("orders the rows of queries as llama.cpp does: [heads, 2, d/2] becomes [heads, d/2, 2]", async () => {
    const model = await loadModel(base), path = join(folder, "order.gguf");
    await saveModel(model, path);
    const file = await openGguf(path), { q_proj, v_proj } = (model as unknown as { model: { layers: { self_attn: { q_proj: { weight: Tensor }; v_proj: { weight: Tensor } } }[] } }).model.layers[0].self_attn;
    const turned = fromHost(await q_proj.weight.host()).reshape([4, 2, 8, 64]).permute([0, 2, 1, 3]).reshape([64, 64]);
    expect((await file.readArray("blk.0.attn_q.weight")).data).toEqual((await turned.host()).data);
    expect((await file.readArray("blk.0.attn_v.weight")).data).toEqual((await v_proj.weight.host()).data);
    await file.close();
  });
  it("says what it mostly is, and a folder that holds one file stands for it", async () => {
    const dir = join(folder, "gguf-folder"), model = await loadModel(base, { quantize: { format: "q4_0" } });
    await saveModel(model, dir);
    const file = await openGguf(join(dir, "model.gguf"));
    expect(Object.fromEntries([...file.metadata].filter(([key]) => /file_type|quantization_version|ggml.model/.test(key)).map(([key, { value }]) => [key, value]))).toEqual({ "general.file_type": 2, "general.quantization_version": 2, "tokenizer.ggml.model": "none" });
    await file.close();
    expect(await logits(await loadModel(dir))).toEqual(await logits(model));
    await saveModel(model, join(dir, "other.gguf"));
    await expect(loadModel(dir)).rejects.toThrow(/holds 2 GGUF files\n {2}fix: name one of them, such as .*model\.gguf/);
  });
  it("the mixture of a Q4_K_M file stays codes, and comes back bit for bit; parts of a file are named", async () => {
    const wide = { ...sizes, hidden_size: 256, intermediate_size: 256, head_dim: 64, num_hidden_layers: 1, tie_word_embeddings: false }, plain = join(folder, "plain-256.gguf"), path = join(folder, "q4km.gguf"), again = join(folder, "q4km-again.gguf");
    await saveModel(initModel({ model_type: "llama", ...wide }, 7), plain);
    const from = await openGguf(plain), kinds: Readonly<Record<string, GgufType>> = { "output.weight": "Q6_K", "blk.0.attn_v.weight": "Q6_K", "blk.0.ffn_down.weight": "Q5_K", "blk.0.attn_q.weight": "Q3_K", "blk.0.attn_k.weight": "Q2_K", "token_embd.weight": "Q4_K" };
    const tensors = await Promise.all([...from.entries].map(async ([name, { type, shape }]) => {
      const kind = shape.length === 1 ? type : (kinds[name] ?? "Q4_K"), bytes = shape.length === 1 ? await from.read(name) : Uint8Array.from({ length: ggufBytes(kind, shape) ?? 0 }, (_, i) => ((i * 2654435761) >>> 13) & 0x2f);
      return { name, type: kind, shape, bytes };
    }));
    await writeFile(path, Buffer.concat(ggufParts(Object.fromEntries(from.metadata), tensors)));
    await from.close();
    const model = await loadModel(path);
    expect(quantizedNames(model)).toHaveLength(8);
    expect((await logits(model)).every(Number.isFinite)).toBe(true);
    await saveModel(model, again);
    const back = await openGguf(again);
    for (const { name, type, bytes } of tensors.filter((t) => t.shape.length === 2 && t.name !== "token_embd.weight")) {
      expect(back.entries.get(name)?.type).toBe(type);
      expect(await back.read(name)).toEqual(bytes);
    }
    expect(back.metadata.get("general.file_type")?.value).toBe(15);
    await back.close();
    await writeFile(path, Buffer.concat(ggufParts({ ...Object.fromEntries(from.metadata), "split.count": { type: "u16", value: 3 } }, tensors)));
    await expect(loadModel(path)).rejects.toThrow(/q4km\.gguf: is one of 3 parts of a model/);
  });
  it("gives every weight a name and takes it back", () => {
    for (const json of [{ model_type: "llama", ...sizes }, { model_type: "qwen3", ...sizes, head_dim: 16 }, { model_type: "qwen2", ...sizes }]) {
      for (const name of parameterShapes(parseConfig(json)).keys()) expect(fromGgufName(toGgufName(name))).toBe(name);
    }
    expect(fromGgufName("blk.0.ssm_a.weight")).toBe(null);
  });
  it("refuses codes that GGUF has no type for, and cut files", async () => {
    const model = await loadModel(base, { quantize: { format: "nf4" } });
    await expect(saveModel(model, join(folder, "no.gguf"))).rejects.toThrow(/nf4 is no GGUF type/);
    const path = join(folder, "whole.gguf");
    await saveModel(await loadModel(base, { quantize: { format: "q8_0" } }), path);
    const bytes = await readFile(path);
    await writeFile(join(folder, "cut.gguf"), bytes.subarray(0, bytes.length - 999));
    await expect(loadModel(join(folder, "cut.gguf"))).rejects.toThrow(FormatError);
    await expect(loadModel(join(folder, "none.gguf"))).rejects.toThrow(/none\.gguf/);
    await expect(loadModel(new URL("ftp://hub/x/y"))).rejects.toThrow(AdjointError);
  });
});

describe("known sizes", () => {
  it("have the numbers of parameters that their cards give", () => {
    const count = (name: string): number => [...parameterShapes(parseConfig(knownConfig(name))).values()].reduce((n, s) => n + s.reduce((a, b) => a * b, 1), 0);
    expect({ "Llama-2-7b": count("meta-llama/Llama-2-7b-chat-hf"), tinyllama: count("TinyLlama/TinyLlama-1.1B-Chat-v1.0"), smol: count("HuggingFaceTB/SmolLM2-135M-Instruct"), mistral: count("openchat/openchat_3.5"), qwen: count("Qwen2.5-0.5B"), llama3: count("Meta-Llama-3-8B"), large: count("Llama-3.1-70B"), gpt2: count("openai-community/gpt2"), xl: count("gpt2-xl"), gemma: count("google/gemma-2b-it"), gemma7: count("gemma-7b") })
      .toEqual({ "Llama-2-7b": 6_738_415_616, tinyllama: 1_100_048_384, smol: 134_515_008, mistral: 7_241_748_480, qwen: 494_032_768, llama3: 8_030_261_248, large: 70_553_706_496, gpt2: 124_439_808, xl: 1_557_611_200, gemma: 2_506_172_416, gemma7: 8_537_680_896 });
    for (const name of knownModels) expect(count(name)).toBeGreaterThan(1e8);
    expect(() => knownConfig("gpt5")).toThrow(/Llama-2-7b/);
  });
  it("leaves no store behind a quantized layer that would train", async () => {
    const model = await loadModel(base, { quantize: { format: "nf4" } }), { leaves } = flatten(model, (x): x is Tensor => x instanceof Tensor);
    expect(leaves.filter((t) => t instanceof Store)).toHaveLength(parameterShapes(model.config).size - 14);
    expect(Object.keys(formats) satisfies string[] as FormatName[]).toContain("nf4");
    expect(dequantize((await quantizedOf(model.weights()["model.layers.0.self_attn.k_proj.weight"])?.host()) ?? raise())).toHaveLength(32 * 64);
  });
});
const raise = (): never => { throw new Error("no codes"); };
