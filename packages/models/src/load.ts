/** Models from Hugging Face folders and hub ids, and from arrays that are already in memory. */
import { defaultDevice } from "./device.ts";
import { checkFinite, FileError, type GgufFile, node, openGguf, parseJsonObject } from "@adjoint/io";
import { normal, constant } from "@adjoint/nn";
import { dequantize, type FormatName, PartRoom, quantizeArray, quantizedOf, quantizedWeight, type QuantizeOptions, quantizeParts } from "@adjoint/quant";
import { ConfigError, type DType, FormatError, type HostArray, Store, type Tensor, convertArray, getDevice, isFloat, knownOptions, type OptionNames, place, sameShape, show } from "@adjoint/tensor";
import type { CausalLM } from "./causal-lm.ts";
import { type ConfigJson, type ModelConfig, parseConfig } from "./config.ts";
import { buildModel, canonicalName, embeddingName, moduleShapes, parameterShapes } from "./family.ts";
import { ggufConfig, ggufWeights } from "./gguf.ts";
import { ggufWithin } from "./gguf-folder.ts";
import { HEAD, settledHead, withHead } from "./head.ts";
import { type ResolveModelOptions, resolveModel } from "./hub.ts";
import type { ModuleShape } from "./layout.ts";
import { type ModelFiles, type Origin, filesOrigin, folderOrigin, isModelFiles } from "./origin.ts";
import { ggufTokenizer } from "./tokenizer/gguf-read.ts";
import { tokenizerFrom } from "./tokenizer/load.ts";
import { createTokenizer, type Tokenizer } from "./tokenizer/tokenizer.ts";
import { isCodes, renamed, tensorWeights, type Weight, type WeightFile } from "./weights.ts";

/** Element type of the parameters in memory; "auto" keeps each as it is stored. */
export type ModelDType = "f32" | "f16" | "bf16" | "auto";

/** How weights of linear layers are held as codes. */
export interface QuantizeWeights {
  readonly format: FormatName;
  /** weights a scale, or "row"; the format's own by default, a row for int8 as bitsandbytes has it */
  readonly block?: number | "row";
  /** scales as 8-bit codes too (default false) */
  readonly doubleQuant?: boolean;
  /** linear layers that stay as they are, by path or its last part (default lm_head) */
  readonly skip?: readonly string[];
}

/** How far a load has come. */
export interface LoadProgress { readonly name: string; readonly done: number; readonly all: number }

export interface LoadModelOptions extends ResolveModelOptions {
  /** default "auto" */
  readonly dtype?: ModelDType;
  /** whether the tokenizer is loaded: true, false (model.tokenizer is null), or "auto" (the default): if the folder, or the GGUF file, has one; or a tokenizer to use */
  readonly tokenizer?: boolean | "auto" | Tokenizer;
  /** refuse files with tensors that the model has no place for (default true) */
  readonly strict?: boolean;
  /** quantize the weights of linear layers, one at a time as they are read; false: decode what the file holds as codes (left out: keep it) */
  readonly quantize?: QuantizeWeights | false;
  /** precision of what is not quantized: as `dtype` says, or f32 for the norms, or for all of it (default "none") */
  readonly upcast?: "none" | "norms" | "all";
  /** called after each weight */
  readonly onWeight?: (progress: LoadProgress) => void;
}

const transferNames: OptionNames<Required<ResolveModelOptions>> = { cacheDir: true, revision: true, endpoint: true, accessToken: true, onProgress: true, signal: true, retries: true, retryDelay: true };
const loadNames: OptionNames<Required<LoadModelOptions>> = { ...transferNames, dtype: true, tokenizer: true, strict: true, quantize: true, upcast: true, onWeight: true };
const quantizeNames: OptionNames<Required<QuantizeWeights>> = { format: true, block: true, doubleQuant: true, skip: true };
const dtypes: readonly unknown[] = ["f32", "f16", "bf16", "auto"];
const upcasts: readonly unknown[] = ["none", "norms", "all"];

/**
 * Loads a model from a folder (path or file: URL), a GGUF file or a folder that holds one, a hub id ("organisation/name"), an address of the hub, or files by name, as pages have them.
 *
 * Half-precision weights stay so in memory unless `dtype` says otherwise; products widen them. With `quantize` memory never holds more
 * than the quantized model and one tensor. Weights that bitsandbytes or GGUF files hold as codes stay codes; products decode them.
 * @throws ConfigError for a model or option that is not implemented; FormatError naming file, tensor, expected and found shape, or a number that is not finite; FileError for what is not there
 * @example const model = await loadModel("HuggingFaceTB/SmolLM2-135M", { quantize: { format: "nf4", doubleQuant: true } });
 */
export async function loadModel(source: string | URL | ModelFiles, options: LoadModelOptions = {}): Promise<CausalLM> {
  await defaultDevice();
  const device = getDevice(), tensors = new Map<string, Tensor>();
  const { config, tokenizer } = await read(source, options, (name, w) => {
    const t = tensorOf(name, w), q = quantizedOf(t);
    // where numbers can be read back at once they go to the device now, so that two copies of a model never wait for the collector
    if (device.sync) for (const s of q === null ? [t] : q.stores) if (s instanceof Store) place(s, device);
    tensors.set(name, t);
  });
  return buildModel(config, (name) => tensors.get(name)!, tokenizer);
}

/** A model's weights on the host, as `loadModel` would hold them: for writing them elsewhere. Errors as loadModel. */
export async function loadWeights(source: string | URL | ModelFiles, options: Omit<LoadModelOptions, "tokenizer"> = {}): Promise<{ readonly config: ModelConfig; readonly weights: ReadonlyMap<string, Weight> }> {
  const weights = new Map<string, Weight>(), { config } = await read(source, { ...options, tokenizer: false }, (name, w) => weights.set(name, w));
  return { config, weights };
}

const tensorOf = (name: string, w: Weight): Tensor => (isCodes(w) ? quantizedWeight(w, name) : new Store(w, name));

/** Reads config and tokenizer, and gives every weight to `keep`, one at a time. */
async function read(source: string | URL | ModelFiles, options: LoadModelOptions, keep: (name: string, w: Weight) => void): Promise<{ readonly config: ModelConfig; readonly tokenizer: Tokenizer | null }> {
  if (typeof source !== "string" && (typeof source !== "object" || source === null)) throw new ConfigError(`loadModel: there is no model of type ${source === null ? "null" : typeof source}`, { op: "loadModel", key: "source", value: source, fix: "give a folder, a hub id, a URL, or files by name" });
  if (!isModelFiles(source) && globalThis.process?.getBuiltinModule === undefined) throw new FileError(`${String(source)}: a page has neither folders nor a cache of the hub`, { file: String(source), fix: 'name the files: loadModel({ "config.json": url, "model.safetensors": url, "tokenizer.json": url, "tokenizer_config.json": url }), each a URL, a Blob or bytes' });
  knownOptions("loadModel", options, loadNames);
  if (options.quantize !== undefined && options.quantize !== false) knownOptions("loadModel: quantize", options.quantize, quantizeNames);
  const { dtype = "auto", tokenizer = "auto", strict = true, quantize: how, upcast = "none", onWeight, ...transfer } = options;
  if (!dtypes.includes(dtype)) throw new ConfigError(`loadModel: dtype ${String(dtype)} is not one of ${dtypes.join(", ")}`, { op: "loadModel", key: "dtype", value: dtype, fix: 'leave it out, or use "f32"' });
  if (!upcasts.includes(upcast)) throw new ConfigError(`loadModel: upcast ${String(upcast)} is not one of ${upcasts.join(", ")}`, { op: "loadModel", key: "upcast", value: upcast, fix: "leave it out" });
  const readOptions: ReadOptions = { dtype, strict, how, upcast, onWeight }, gguf = ggufSource(isModelFiles(source) ? source : await ggufWithin(source));
  if (gguf !== null) {
    const file = await openGguf(gguf.file);
    try {
      const config = parseConfig(await ggufConfig(file), file.label), beside = isModelFiles(source) ? filesOrigin(source) : folderOrigin(gguf.folder);
      const own = await ggufTokenizerOf(file, config, beside, tokenizer);
      await readWeights(config, ggufWeights(file, config), readOptions, keep);
      return { config, tokenizer: own };
    } finally {
      await file.close();
    }
  }
  const origin = isModelFiles(source) ? filesOrigin(source) : folderOrigin(await resolveModel(source, transfer));
  const given = parseConfig(await readConfig(origin), origin.label("config.json")), file = renamed(tensorWeights(await origin.weights()), (name) => canonicalName(given, name));
  try {
    const config = await settledHead(given, file);
    await readWeights(config, file, readOptions, keep);
    return { config, tokenizer: await tokenizerOf(origin, tokenizer) };
  } finally {
    await file.close();
  }
}

/** A GGUF file among sources, and the folder in which a tokenizer.json would lie beside it. */
function ggufSource(source: string | URL | ModelFiles): { readonly file: string | Blob; readonly folder: string } | null {
  if (isModelFiles(source)) {
    const [name, more] = Object.keys(source).filter((n) => n.endsWith(".gguf"));
    if (name === undefined) return null;
    const blob = source[name];
    if (more !== undefined || blob instanceof URL) throw new ConfigError(`${name}: one GGUF file is read, as a Blob or bytes`, { file: name, key: name, fix: "fetch it yourself, and give its parts joined" });
    return { file: blob instanceof Uint8Array ? new Blob([blob.slice()]) : blob, folder: "" };
  }
  if (source instanceof URL && source.protocol !== "file:") return null;
  const { path, url } = node(), name = typeof source === "string" && !source.startsWith("file:") ? source : url.fileURLToPath(source);
  return /\.gguf$/i.test(name) && !/^https?:/i.test(name) ? { file: name, folder: path.dirname(name) } : null;
}
async function tokenizerOf(origin: Origin, own: boolean | "auto" | Tokenizer): Promise<Tokenizer | null> {
  if (typeof own === "object") return own;
  return own === false || (own === "auto" && !(await origin.has("tokenizer.json"))) ? null : tokenizerFrom(origin);
}
/** The tokenizer of a GGUF file: a tokenizer.json beside it comes first, since it says more. */
async function ggufTokenizerOf(file: GgufFile, { vocabSize }: ModelConfig, beside: Origin, own: boolean | "auto" | Tokenizer): Promise<Tokenizer | null> {
  if (own === false || typeof own === "object") return own === false ? null : own;
  if (await beside.has("tokenizer.json")) return tokenizerFrom(beside);
  const held = ggufTokenizer(file);
  if (held === null && own === true) throw new ConfigError(`${file.label} holds no tokenizer`, { op: "loadModel", file: file.label, key: "tokenizer", value: own, fix: "put tokenizer.json beside it, or give one: tokenizer: await loadTokenizer(...)" });
  if (held === null) return null;
  const tokenizer = createTokenizer(held.tokenizerJson, held.config, file.label);
  if (tokenizer.vocabSize > vocabSize) throw new FormatError(`${file.label}: tokenizer.ggml.tokens has ${tokenizer.vocabSize} entries, and token_embd.weight ${vocabSize} rows`, { file: file.label, key: "tokenizer.ggml.tokens", value: tokenizer.vocabSize, fix: "vocabulary and weights are not of one model: get the file again" });
  return tokenizer;
}

/** A model over arrays, or codes of linear weights, by parameter name, which it takes over. @throws FormatError listing what is missing, unexpected or misshapen */
export function modelFrom(config: ModelConfig, arrays: ReadonlyMap<string, Weight>, tokenizer: Tokenizer | null = null): CausalLM {
  const weights = new Map([...arrays].map(([name, w]) => [canonicalName(config, name), w])), embedding = weights.get(embeddingName(config)), head = weights.get(HEAD);
  const own = config.tieWordEmbeddings && embedding && head ? withHead(config, embedding, head) : config;
  check(own, new Map([...weights].map(([name, { shape }]) => [name, shape])), "the given arrays", true);
  const stores = new Map([...weights].map(([name, w]) => [name, tensorOf(name, w)]));
  return buildModel(own, (name) => stores.get(name)!, tokenizer);
}

/**
 * A model with random parameters: normal with standard deviation `initializer_range` (0.02), projections that write into the residual
 * stream divided by √(2 · layers) (Radford et al. 2019), norms the identity, biases 0. Drawn on the host: equal on every machine.
 * @example const model = initModel({ model_type: "llama", vocab_size: 2048, hidden_size: 192, intermediate_size: 512, num_hidden_layers: 6, num_attention_heads: 6 }, 42);
 */
export function initModel(json: ConfigJson, seed: number, options: { readonly tokenizer?: Tokenizer | null; readonly dtype?: "f32" | "f16" | "bf16" } = {}): CausalLM {
  const config = parseConfig(json), std = config.initializerRange, deep = std / Math.sqrt(2 * config.numHiddenLayers), { dtype = "f32" } = options, one = config.modelType !== "gpt2" && config.normUnitOffset ? 0 : 1;
  const make = (name: string, shape: readonly number[]): Store => {
    const s = name.endsWith(".bias") ? constant(0)(name, shape) : shape.length === 1 ? constant(one)(name, shape) : normal(seed, /\.(o_proj|down_proj|c_proj)\.weight$/.test(name) ? deep : std)(name, shape);
    return dtype === "f32" ? s : new Store({ dtype, shape, data: convertArray(s.cell.host!.data, "f32", dtype) }, name);
  };
  const stores = new Map([...parameterShapes(config)].map(([name, shape]) => [name, make(name, shape)]));
  return buildModel(config, (name) => stores.get(name)!, options.tokenizer ?? null);
}

async function readConfig(origin: Origin): Promise<ConfigJson> {
  const read = async (name: string): Promise<ConfigJson> => parseJsonObject(await origin.text(name), origin.label(name));
  const config = await read("config.json"), generation = "generation_config.json";
  const eos = (await origin.has(generation)) ? (await read(generation))["eos_token_id"] : undefined;    // chat models list more ends there
  return eos === undefined || eos === null ? config : { ...config, eos_token_id: eos };
}

interface ReadOptions extends Required<Pick<LoadModelOptions, "strict" | "dtype" | "upcast">> { readonly how: QuantizeWeights | false | undefined; readonly onWeight: LoadModelOptions["onWeight"] }

/** Every weight as it will lie in memory, one at a time. */
async function readWeights(config: ModelConfig, file: WeightFile, { dtype, strict, how, upcast, onWeight }: ReadOptions, keep: (name: string, w: Weight) => void): Promise<void> {
  const wanted = parameterShapes(config), known = new Map<string, readonly number[]>();
  for (const [name, shape] of file.shapes) known.set(name, shape ?? wanted.get(name) ?? []);
  check(config, known, file.label, strict);
  const kinds = new Map<string, ModuleShape["kind"]>(moduleShapes(config).flatMap(({ path, kind }) => [[`${path}.weight`, kind] as const, ...(kind === "norm" ? [[`${path}.bias`, kind] as const] : [])])), skip = how === undefined || how === false ? [] : (how.skip ?? ["lm_head"]);
  if (how && [...kinds.values()].includes("conv1d")) throw new ConfigError(`loadModel: ${config.modelType} has Conv1D layers, whose weights ([in, out]) are not held as codes`, { op: "loadModel", key: "quantize", value: how.format, fix: "leave quantize out" });
  for (const name of skip) if (![...wanted.keys(), "lm_head.weight"].some((weight) => isModule(weight, name))) throw new ConfigError(`loadModel: skip names ${name}, and the model has no such layer`, { op: "loadModel", key: "skip", value: name, fix: "use the last part of a path, such as lm_head" });
  let done = 0;
  const room = new PartRoom(), whole = async (name: string, want: readonly number[]): Promise<Weight> => {
    const read = await file.read(name), w = isCodes(read) ? read : checkFinite(read, { file: file.label, key: name });
    if (!sameShape(w.shape, want)) throw new FormatError(`${file.label}: tensor "${name}": expected ${show(want)} by config.json, found ${show(w.shape)}`, { op: "loadModel", file: file.label, key: name, shapes: [want, w.shape], fix: "take config.json and weights of one model" });
    return settled(name, w, kinds.get(name), skip, { dtype, how, upcast, file: file.label });
  };
  for (const [name, want] of wanted) {
    const parts = how && becomesCodes(name, kinds.get(name), skip) ? file.parts?.(name) : null; // their shape was checked above
    keep(name, how && parts ? await quantizeParts(parts, codesOf(how, want, { name, file: file.label }), room) : await whole(name, want));
    onWeight?.({ name, done: ++done, all: wanted.size });
  }
}

/** Whether a module is meant: its path, or the last part of it. */
const isModule = (weight: string, name: string): boolean => { const path = weight.replace(/\.(weight|bias)$/, ""); return path === name || path.endsWith(`.${name}`); };

/** Whether a weight is quantized where `quantize` asks for it. */
const becomesCodes = (name: string, kind: string | undefined, skip: readonly string[]): boolean => kind === "linear" && !skip.some((s) => isModule(name, s));
/** How a weight of this shape is quantized. */
const codesOf = ({ format, block = format === "int8" ? "row" : undefined, doubleQuant = false }: QuantizeWeights, shape: readonly number[], named: { readonly name: string; readonly file: string }): Omit<QuantizeOptions, "dtype"> =>
  ({ format, doubleQuant, ...named, ...(block === undefined ? {} : { block: block === "row" ? shape[1] : block }) });

/** One weight as it will lie in memory. */
function settled(name: string, w: Weight, kind: string | undefined, skip: readonly string[], { dtype, how, upcast, file }: Pick<ReadOptions, "dtype" | "how" | "upcast"> & { readonly file: string }): Weight {
  if (isCodes(w)) {
    if (how !== false && how !== undefined) throw new ConfigError(`${file}: ${name} is ${w.format.name} already`, { op: "loadModel", file, key: "quantize", value: how.format, fix: "leave quantize out to use it as it is, or load the unquantized model" });
    if (how === undefined && kind === "linear") return w;
    const data = dequantize(w), own = w.dtype === "bf16" ? "bf16" : (w.dtype === "f32" && how === false) || data.some((x) => Math.abs(x) > LARGEST_F16) ? "f32" : "f16";
    return settled(name, { dtype: "f32", shape: w.shape, data }, kind, skip, { dtype: dtype === "auto" ? own : dtype, how: undefined, upcast, file });
  }
  if (!isFloat(w.dtype)) throw new FormatError(`${file}: tensor "${name}" is ${w.dtype}, and parameters are floats`, { file, key: name, value: w.dtype, fix: "use the unquantized model, or one that bitsandbytes wrote" });
  if (how && becomesCodes(name, kind, skip)) return { ...quantizeArray(w.dtype === "f64" ? converted(w, "f32", name, file) : w, codesOf(how, w.shape, { name, file })), dtype: w.dtype };
  const raised = upcast === "all" || (upcast === "norms" && kind === "norm");
  const want = raised ? "f32" : dtype === "auto" ? (w.dtype === "f64" ? "f32" : w.dtype) : dtype;
  return w.dtype === want ? w : converted(w, want, name, file);
}
const LARGEST_F16 = 65504;
function converted({ data, dtype, shape }: HostArray, to: DType, name: string, file: string): HostArray {
  const made = convertArray(data, dtype, to), at = to === "f16" ? made.findIndex((bits: number | bigint) => (Number(bits) & 0x7fff) === 0x7c00) : -1;
  if (at >= 0) throw new FormatError(`${file}: tensor "${name}": element ${at} is ${convertArray(data.slice(at, at + 1), dtype, "f32")[0]}, more than f16 holds`, { op: "loadModel", file, key: name, value: to, fix: 'leave dtype out, or use "f32" or "bf16"' });
  return { dtype: to, shape, data: made };
}

/** Buffers that older versions of transformers saved and nobody needs; and the head of a tied model, which equals the embedding (`withHead`). */
const superfluous = (name: string, c: ModelConfig): boolean => /\.rotary_emb\.inv_freq$/.test(name) || (c.modelType === "gpt2" && /\.attn\.(bias|masked_bias)$/.test(name)) || (c.tieWordEmbeddings && name === HEAD);

function check(config: ModelConfig, found: ReadonlyMap<string, readonly number[]>, file: string, strict: boolean): void {
  const wanted = parameterShapes(config), missing: string[] = [], bad: { name: string; want: readonly number[]; got: readonly number[] }[] = [];
  for (const [name, want] of wanted) {
    const got = found.get(name);
    if (!got) missing.push(name);
    else if (!sameShape(want, got)) bad.push({ name, want, got });
  }
  const unexpected = strict ? [...found.keys()].filter((name) => !wanted.has(name) && !superfluous(name, config)) : [];
  if (missing.length + bad.length + unexpected.length === 0) return;
  const list = (names: readonly string[]): string => `${names.slice(0, 5).map((n) => `"${n}"`).join(", ")}${names.length > 5 ? ` and ${names.length - 5} more` : ""}`;
  const lines = [
    ...bad.slice(0, 5).map(({ name, want, got }) => `tensor "${name}": expected ${show(want)} by config.json, found ${show(got)}`),
    ...(missing.length ? [`missing: ${list(missing)}`] : []), ...(unexpected.length ? [`unexpected: ${list(unexpected)}`] : []),
  ];
  throw new FormatError(`${file}: the tensors are not those of the ${config.modelType} model in config.json\n  ${lines.join("\n  ")}`, {
    op: "loadModel", file, key: bad[0]?.name ?? missing[0] ?? unexpected[0], value: { missing, unexpected, misshapen: bad }, ...(bad.length ? { shapes: [bad[0].want, bad[0].got] } : {}),
    fix: "take config.json and weights of one model" + (unexpected.length ? "; { strict: false } leaves out what is unexpected" : ""),
  });
}
