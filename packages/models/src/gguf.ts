/**
 * GGUF files of the Llama family (llama.cpp): their metadata as a config, their tensors under the names of Hugging Face, both ways.
 *
 * llama.cpp turns pairs of neighbours by rotary embedding, Hugging Face the two halves of a head, so files of architecture "llama" hold
 * the rows of queries and keys in another order: row (head, 2i + j) there is row (head, j d/2 + i) here.
 */
import type { GgufFile, GgufTensor, GgufType, GgufValue } from "@adjoint/io";
import { ropeFrequencies } from "@adjoint/nn";
import { decodeGguf, fromGguf, isGgufBlockType, type Quantized, toGguf } from "@adjoint/quant";
import { ConfigError, convertArray, type DType, FormatError, type HostArray, isFloat, type TypedArray } from "@adjoint/tensor";
import type { ConfigJson, ModelConfig } from "./config.ts";
import type { LlamaConfig } from "./llama-config.ts";
import { ggufTokenizerKeys } from "./tokenizer/gguf-write.ts";
import type { TrainedTokenizer } from "./tokenizer/train.ts";
import { isCodes, type Weight, type WeightFile } from "./weights.ts";

const parts: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm", attn_q: "self_attn.q_proj", attn_k: "self_attn.k_proj", attn_v: "self_attn.v_proj", attn_output: "self_attn.o_proj", attn_q_norm: "self_attn.q_norm", attn_k_norm: "self_attn.k_norm",
  ffn_norm: "post_attention_layernorm", ffn_gate: "mlp.gate_proj", ffn_up: "mlp.up_proj", ffn_down: "mlp.down_proj",
};
const ends: Readonly<Record<string, string>> = { token_embd: "model.embed_tokens", output_norm: "model.norm", output: "lm_head" };
const back: Readonly<Record<string, string>> = Object.fromEntries(Object.entries({ ...parts, ...ends }).map(([theirs, ours]) => [ours, theirs]));

/** The name that Hugging Face gives a tensor of a GGUF file; null for what is no weight of the family. */
export function fromGgufName(name: string): string | null {
  const [, layer, part, kind] = /^(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)$/.exec(name) ?? [];
  if (part === undefined) return null;
  const ours = layer === undefined ? ends[part] : parts[part];
  return ours === undefined ? null : layer === undefined ? `${ours}.${kind}` : `model.layers.${layer}.${ours}.${kind}`;
}
/** The name in a GGUF file of one of our weights. */
export function toGgufName(name: string): string {
  const [, layer, path, kind] = /^(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)$/.exec(name) ?? [], theirs = path === undefined ? undefined : back[path];
  if (theirs === undefined) throw new ConfigError(`${name} has no name in GGUF files`, { op: "saveModel", key: name, fix: "write a safetensors folder" });
  return layer === undefined ? `${theirs}.${kind}` : `blk.${layer}.${theirs}.${kind}`;
}

const architectures = ["llama", "qwen2", "qwen3"] as const;
const isArchitecture = (x: unknown): x is (typeof architectures)[number] => architectures.some((a) => a === x);

/** Typed access to metadata. */
class Metadata {
  readonly file: GgufFile;
  readonly architecture: string;
  constructor(file: GgufFile) {
    this.file = file;
    const name = file.metadata.get("general.architecture")?.value;
    if (!isArchitecture(name)) throw new ConfigError(`${file.label}: general.architecture is ${JSON.stringify(name) ?? "missing"}: models of this type are not implemented`, { file: file.label, key: "general.architecture", value: name, fix: `use one of ${architectures.join(", ")}` });
    this.architecture = name;
    const parts = this.plain("split.count");
    if (typeof parts === "number" && parts > 1) throw new ConfigError(`${file.label}: is one of ${parts} parts of a model`, { file: file.label, key: "split.count", value: parts, fix: "join them first (llama.cpp: llama-gguf-split --merge)" });
  }
  plain(key: string): unknown { return this.file.metadata.get(key)?.value; }
  number(key: string): number | null {
    const value = this.plain(`${this.architecture}.${key}`);
    if (value === undefined) return null;
    if (typeof value === "number") return value;
    throw new FormatError(`${this.file.label}: ${this.architecture}.${key} is no number`, { file: this.file.label, key: `${this.architecture}.${key}`, value, fix: "models whose layers differ are not implemented" });
  }
  need(key: string): number {
    const n = this.number(key);
    if (n === null) throw new FormatError(`${this.file.label}: ${this.architecture}.${key} is missing`, { file: this.file.label, key: `${this.architecture}.${key}`, fix: "get the file again, or convert the model anew" });
    return n;
  }
}

/** The config.json that this file's model would have. @throws ConfigError for another architecture; FormatError for what is missing */
export async function ggufConfig(file: GgufFile): Promise<ConfigJson> {
  const m = new Metadata(file), heads = m.need("attention.head_count"), hidden = m.need("embedding_length"), embedding = file.entries.get("token_embd.weight");
  if (embedding === undefined) throw new FormatError(`${file.label}: token_embd.weight is missing`, { file: file.label, key: "token_embd.weight", fix: "this file holds no language model" });
  const headDim = m.number("attention.key_length") ?? m.number("rope.dimension_count") ?? hidden / heads, theta = m.number("rope.freq_base") ?? 10000, id = (key: string): unknown => m.plain(`tokenizer.ggml.${key}_token_id`);
  const biased = (name: string): boolean => file.entries.has(`blk.0.${name}.bias`);
  const window = m.architecture === "llama" ? m.number("attention.sliding_window") : null;   // a Mistral: llama.cpp has one architecture for both
  return {
    model_type: window === null ? m.architecture : "mistral", ...(window === null ? {} : { sliding_window: window }), vocab_size: embedding.shape[0], hidden_size: hidden, intermediate_size: m.need("feed_forward_length"), num_hidden_layers: m.need("block_count"), num_attention_heads: heads,
    num_key_value_heads: m.number("attention.head_count_kv") ?? heads, head_dim: headDim, max_position_embeddings: m.number("context_length") ?? 2048, rms_norm_eps: m.number("attention.layer_norm_rms_epsilon") ?? 1e-5,
    rope_theta: theta, tie_word_embeddings: !file.entries.has("output.weight"), hidden_act: "silu", ...(await scaling(m, headDim, theta)),
    ...(m.architecture === "llama" && biased("attn_q") ? { attention_bias: true } : {}), ...(biased("ffn_up") ? { mlp_bias: true } : {}),
    ...Object.fromEntries<unknown>(Object.entries({ bos_token_id: id("bos"), eos_token_id: id("eos"), pad_token_id: id("padding") }).filter(([, value]) => typeof value === "number")),
  };
}

/** Llama 3's scalings of positions; files hold the factor of each frequency, not what they were made from. */
const llama3 = [8, 32, 16].map((factor) => ({ type: "llama3", factor, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 8192 }) as const);

async function scaling(m: Metadata, headDim: number, theta: number): Promise<ConfigJson> {
  const type = m.plain(`${m.architecture}.rope.scaling.type`) ?? "none", bad = (key: string, value: unknown): ConfigError => new ConfigError(`${m.file.label}: ${key}: this scaling of positions is not implemented`, { file: m.file.label, key, value, fix: "none, linear and Llama 3's are" });
  if (type === "linear") return { rope_scaling: { rope_type: "linear", factor: m.need("rope.scaling.factor") } };
  if (type !== "none") throw bad(`${m.architecture}.rope.scaling.type`, type);
  if (!m.file.entries.has("rope_freqs.weight")) return {};
  const { data, dtype }: HostArray = await m.file.readArray("rope_freqs.weight"), factors = convertArray(data, dtype, "f32"), plain = ropeFrequencies(headDim, theta, { type: "default" });
  const found = llama3.find((s) => ropeFrequencies(headDim, theta, s).every((f, i) => Math.abs(plain[i] / f / factors[i] - 1) < 1e-3));
  if (found === undefined) throw bad("rope_freqs.weight", [...factors]);
  return { rope_scaling: { rope_type: "llama3", factor: found.factor, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 } };
}

/** Heads whose rows are in llama.cpp's order; 0 where they are as here. */
function turnedHeads(name: string, c: ModelConfig): number {
  if (c.modelType !== "llama" && c.modelType !== "mistral") return 0;
  return /\.q_proj\.(weight|bias)$/.test(name) ? c.numAttentionHeads : /\.k_proj\.(weight|bias)$/.test(name) ? c.numKeyValueHeads : 0;
}

/** For each row of the result the row it comes from: out of llama.cpp's order, or (`into`) into it. */
function rowOrder(rows: number, heads: number, into: boolean): Int32Array {
  const d = rows / heads, half = d / 2;
  return Int32Array.from({ length: rows }, (_, row) => {
    const h = Math.floor(row / d), at = row % d;
    return h * d + (into ? (at % 2) * half + Math.floor(at / 2) : 2 * (at % half) + Math.floor(at / half));
  });
}

/** Rows of an array in another order; `size` elements a row. */
function take<A extends TypedArray>(data: A, size: number, order: Int32Array): A {
  const out = data.slice() as A;
  order.forEach((from, to) => { out.set(data.subarray(from * size, (from + 1) * size), to * size); });
  return out;
}

/** A weight with its rows in another order, its codes as they are. */
export function reordered(w: Weight, order: Int32Array, name: string): Weight {
  const rows = w.shape[0];
  if (!isCodes(w)) return { ...w, data: take(w.data, w.data.length / rows, order) };
  const split = <A extends TypedArray>(data: A): A => {
    if (data.length % rows !== 0) throw new ConfigError(`${name}: its rows of ${w.shape[1]} are no whole number of blocks, so they cannot change places`, { key: name, value: w.block, fix: "decode it (quantize: false), or use a smaller block" });
    return take(data, data.length / rows, order);
  };
  const scales = (s: Quantized["scales"]): Quantized["scales"] => ({ values: split(s.values), ...(s.nested === undefined ? {} : { nested: { ...s.nested, codes: split(s.nested.codes) } }) });
  return { ...w, codes: split(w.codes), scales: scales(w.scales), ...(w.mins === undefined ? {} : { mins: scales(w.mins) }) };
}

/** The weights of a GGUF file. Types that stay as codes do (fromGguf); others are decoded. */
export function ggufWeights(file: GgufFile, config: ModelConfig): WeightFile {
  const names = new Map<string, string>();
  for (const theirs of file.entries.keys()) {
    if (/^rope_freqs\.weight$|\.attn_rot_embd$/.test(theirs)) continue;
    names.set(fromGgufName(theirs) ?? theirs, theirs);
  }
  const entryOf = (name: string): { theirs: string; type: GgufType; shape: readonly number[] } => {
    const theirs = names.get(name) ?? name, entry = file.entries.get(theirs);
    if (entry === undefined) throw new FormatError(`${file.label}: "${theirs}" is missing`, { file: file.label, key: name, fix: "get the file again" });
    return { theirs, ...entry };
  };
  return {
    label: file.label,
    shapes: new Map([...names].map(([ours, theirs]) => [ours, file.entries.get(theirs)?.shape ?? null])),
    async read(name) {
      const { theirs, type, shape } = entryOf(name), plain = /^(F32|F16|BF16|F64|I\d+)$/.test(type), heads = turnedHeads(name, config), where = { name: theirs, file: file.label };
      const w: Weight = plain ? await file.readArray(theirs) : isGgufBlockType(type) ? fromGguf(type, await file.read(theirs), shape, where) : { dtype: "f32", shape, data: decodeGguf(type, await file.read(theirs), shape, where) };
      return heads === 0 ? w : reordered(w, rowOrder(shape[0], heads, false), name);
    },
    close: () => file.close(),
  };
}

const types: Partial<Record<DType, GgufType>> = { f32: "F32", f16: "F16", bf16: "BF16", f64: "F64" };
const bytesOfArray = (data: TypedArray): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** One weight as a GGUF tensor: codes bit for bit, vectors in f32 as llama.cpp wants them, other matrices as they are. */
export function ggufTensor(name: string, w: Weight, config: ModelConfig): GgufTensor {
  const heads = turnedHeads(name, config), turned = heads === 0 ? w : reordered(w, rowOrder(w.shape[0], heads, true), name), theirs = toGgufName(name);
  if (isCodes(turned)) return { name: theirs, shape: turned.shape, ...toGguf(turned, { name }) };
  const { dtype, shape, data }: HostArray = turned, as = shape.length === 1 && isFloat(dtype) ? "f32" : dtype, type = types[as];
  if (type === undefined) throw new ConfigError(`${name} is ${dtype}, which GGUF files do not hold as a weight`, { op: "saveModel", key: name, value: dtype, fix: "load the model in f32 or f16" });
  return { name: theirs, type, shape, bytes: bytesOfArray(as === dtype ? data : convertArray(data, dtype, as)) };
}

/** The config of a model that GGUF files are written of. @throws ConfigError for the other families */
function writable(c: ModelConfig): LlamaConfig {
  if (c.modelType === "gpt2" || c.modelType === "gemma") throw new ConfigError(`GGUF files of ${c.modelType} models are not implemented`, { op: "saveModel", key: "model_type", value: c.modelType, fix: "write a safetensors folder" });
  return c;
}

/** The metadata that llama.cpp builds the model from, with a tokenizer. @throws ConfigError for a family that is not written */
export function ggufMetadata(config: ModelConfig, tokenizer: TrainedTokenizer | null, name: string): Record<string, GgufValue | string | boolean> {
  const c = writable(config), architecture = c.modelType === "mistral" ? "llama" : c.modelType, u32 = (value: number): GgufValue => ({ type: "u32", value }), f32 = (value: number): GgufValue => ({ type: "f32", value });
  const own: Record<string, GgufValue | string> = {
    block_count: u32(c.numHiddenLayers), context_length: u32(c.maxPositionEmbeddings), embedding_length: u32(c.hiddenSize), feed_forward_length: u32(c.intermediateSize), "attention.head_count": u32(c.numAttentionHeads),
    "attention.head_count_kv": u32(c.numKeyValueHeads), "attention.layer_norm_rms_epsilon": f32(c.rmsNormEps), "attention.key_length": u32(c.headDim), "attention.value_length": u32(c.headDim), "rope.dimension_count": u32(c.headDim),
    "rope.freq_base": f32(c.ropeTheta), vocab_size: u32(c.vocabSize), ...(c.slidingWindow === null ? {} : { "attention.sliding_window": u32(c.slidingWindow) }), ...(c.ropeScaling.type === "linear" ? { "rope.scaling.type": "linear", "rope.scaling.factor": f32(c.ropeScaling.factor) } : {}),
  };
  const ids = { bos: c.bosTokenId, eos: c.eosTokenIds[0] ?? null, padding: c.padTokenId };
  return {
    "general.architecture": architecture, "general.name": name, ...Object.fromEntries(Object.entries(own).map(([key, value]) => [`${architecture}.${key}`, value])),
    ...Object.fromEntries(Object.entries(ids).flatMap(([key, value]) => (value === null ? [] : [[`tokenizer.ggml.${key}_token_id`, u32(value)]]))),
    ...(tokenizer === null ? { "tokenizer.ggml.model": "none" } : ggufTokenizerKeys(tokenizer, c.vocabSize)),
  };
}

/** llama.cpp's numbers for what a file mostly is (`general.file_type`). */
const fileTypes: Partial<Record<GgufType, number>> = { F32: 0, F16: 1, Q4_0: 2, Q4_1: 3, Q8_0: 7, Q5_0: 8, Q5_1: 9, Q2_K: 10, Q3_K: 12, Q4_K: 15, Q5_K: 17, Q6_K: 18, IQ4_NL: 25, IQ4_XS: 30, BF16: 32, MXFP4: 38 };
/** What the layers' matrices mostly are, and which version of the quantized types that is. */
export function ggufKind(tensors: readonly GgufTensor[]): Record<string, GgufValue> {
  const counts = new Map<GgufType, number>();
  for (const { name, type, shape } of tensors) if (shape.length === 2 && name.startsWith("blk.")) counts.set(type, (counts.get(type) ?? 0) + shape[0] * shape[1]);
  const [most] = [...counts].sort(([, a], [, b]) => b - a)[0] ?? ["F32"], id = fileTypes[most], quantized = [...counts.keys()].some((type) => !/^B?F\d+$/.test(type));
  return { ...(id === undefined ? {} : { "general.file_type": { type: "u32", value: id } }), ...(quantized ? { "general.quantization_version": { type: "u32", value: 2 } } : {}) };
}

/** Llama 3's scaling of positions as a tensor, where the model has one: the factor that each frequency is divided by. */
export function ggufRope(config: ModelConfig): readonly GgufTensor[] {
  const { ropeScaling, headDim, ropeTheta } = writable(config);
  if (ropeScaling.type !== "llama3") return [];
  const plain = ropeFrequencies(headDim, ropeTheta, { type: "default" }), factors = ropeFrequencies(headDim, ropeTheta, ropeScaling).map((f, i) => plain[i] / f);
  return [{ name: "rope_freqs.weight", type: "F32", shape: [factors.length], bytes: bytesOfArray(factors) }];
}
