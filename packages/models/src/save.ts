/** Writes a model as a Hugging Face folder, its codes as bitsandbytes does, or as a GGUF file. */
import { ggufParts, type ShardOptions, modelFiles, writeDirectoryAtomic, writeFileAtomic } from "@adjoint/io";
import { bitsandbytesConfig, bitsandbytesTensors, ggufTypeOfQuantized, quantizedOf } from "@adjoint/quant";
import { ConfigError, convertArray, type DType, type HostArray, knownOptions, type OptionNames, type Tensor } from "@adjoint/tensor";
import type { CausalLM } from "./causal-lm.ts";
import { architectures, type ConfigJson } from "./config.ts";
import { embeddingName } from "./family.ts";
import { ggufKind, ggufMetadata, ggufRope, ggufTensor } from "./gguf.ts";
import { HEAD } from "./head.ts";
import { tokenizerAmong } from "./tokenizer/files.ts";
import type { TrainedTokenizer } from "./tokenizer/train.ts";
import { isCodes, type Weight } from "./weights.ts";

/** safetensors: what `from_pretrained` reads, codes as bitsandbytes writes them (nf4, fp4, int8 in rows); gguf: what llama.cpp reads (q8_0, q4_0, mxfp4, and whatever a GGUF file held). */
export type ModelFormat = "safetensors" | "gguf";

export interface SaveModelOptions extends ShardOptions {
  /** more files of the folder by name, such as tokenizer.json */
  readonly files?: Readonly<Record<string, string | Uint8Array>>;
  /** default: gguf for a path that ends so or for a model of GGUF's codes, else safetensors */
  readonly format?: ModelFormat;
}

const torch = { f64: "float64", f32: "float32", f16: "float16", bf16: "bfloat16" } as const;
const GGUF_FILE = "model.gguf";

const saveNames: OptionNames<Required<SaveModelOptions>> = { files: true, format: true, maxShardBytes: true, metadata: true };

/**
 * Writes config.json and model.safetensors (in shards above `maxShardBytes`); `AutoModelForCausalLM.from_pretrained(dir)` reads them.
 * Weights held as codes are written as codes, bit for bit. In format "gguf" the folder holds model.gguf, which llama.cpp reads, with the tokenizer of
 * `files` or else the model's own in it (`ggufTokenizerKeys`); a path that ends in .gguf is that file alone.
 *
 * The folder appears whole or not at all; the parameters are those after the last finished step.
 * @throws FileError naming the file; ConfigError if the folder holds other files, or for codes that the format cannot hold
 */
export async function saveModel(model: CausalLM, path: string, options: SaveModelOptions = {}): Promise<void> {
  knownOptions("saveModel", options, saveNames);
  const { files = {}, format, ...shards } = options, weights = await hostWeights(model.weights()), alone = /\.gguf$/i.test(path);
  if (alone && (format === "safetensors" || Object.keys(files).length > 0)) throw new ConfigError(`${path} is one GGUF file: it holds no ${format === "safetensors" ? "safetensors" : Object.keys(files)[0]}`, { op: "saveModel", file: path, key: format === "safetensors" ? "format" : "files", fix: 'name a folder; { format: "gguf" } puts model.gguf into it' });
  const tokenizer = tokenizerAmong(files) ?? model.tokenizer?.source ?? null;
  if (alone) await writeFileAtomic(path, ggufOf(model, weights, path, tokenizer));
  else await writeDirectoryAtomic(path, { ...savedFiles(model, weights, format ?? formatFor(weights), path, { ...shards, tokenizer }), ...files });
}

/** Files of a model's folder from weights on the host; a tokenizer goes into GGUF files only. @throws ConfigError for codes that the format cannot hold */
export function savedFiles(model: Pick<CausalLM, "config">, given: ReadonlyMap<string, Weight>, format: ModelFormat, name: string, options: ShardOptions & { readonly tokenizer?: TrainedTokenizer | null } = {}): Record<string, Uint8Array[] | string> {
  const { tokenizer = null, ...shards } = options;
  if (format === "gguf") return { [GGUF_FILE]: ggufOf(model, given, name, tokenizer) };
  const arrays = new Map<string, HostArray>(), weights = besideCodes(given, embeddingName(model.config));
  for (const [key, w] of weights) {
    if (!isCodes(w)) arrays.set(key, w);
    else for (const [k, array] of Object.entries(bitsandbytesTensors(key, w))) arrays.set(k, array);
  }
  return { ...modelFiles(arrays, shards), "config.json": `${pythonFloats(JSON.stringify(configOf(model, weights), null, 2))}\n` };
}
/**
 * Beside codes transformers keeps every weight in the type of the file, and a product of two types fails there: so all of them have one, that of the
 * embedding if it holds each exactly (norms of GGUF files are f32), else f32.
 */
function besideCodes(weights: ReadonlyMap<string, Weight>, embedding: string): ReadonlyMap<string, Weight> {
  const plain = [...weights.values()].flatMap((w) => (isCodes(w) ? [] : [w])), to = weights.get(embedding)?.dtype;
  if (to === undefined || plain.length === weights.size || plain.every((w) => w.dtype === to)) return weights;
  const exact = (w: HostArray): boolean => { const back = convertArray(convertArray(w.data, w.dtype, to), to, w.dtype); return w.data.every((v, i) => v === back[i]); };
  const as: DType = plain.every((w) => w.dtype === to || exact(w)) ? to : "f32";
  return new Map([...weights].map(([name, w]) => [name, isCodes(w) || w.dtype === as ? w : { dtype: as, shape: w.shape, data: convertArray(w.data, w.dtype, as) }] as const));
}
/** transformers refuses a threshold that is an int, and JSON of JavaScript writes 6.0 as 6. */
const pythonFloats = (json: string): string => json.replace(/("llm_int8_threshold": \d+)(?=[,\s])/, "$1.0");
function ggufOf({ config }: Pick<CausalLM, "config">, weights: ReadonlyMap<string, Weight>, path: string, tokenizer: TrainedTokenizer | null): Uint8Array[] {
  const name = path.replace(/^.*[\\/]/, "").replace(/\.gguf$/i, ""), metadata = ggufMetadata(config, tokenizer, name), tensors = [...ggufRope(config), ...[...weights].map(([key, w]) => ggufTensor(key, w, config))];
  return ggufParts({ ...metadata, ...ggufKind(tensors) }, tensors);
}

/** Where codes of GGUF's own formats go. */
function formatFor(weights: ReadonlyMap<string, Weight>): ModelFormat {
  return [...weights.values()].some((w) => isCodes(w) && ggufTypeOfQuantized(w) !== null) ? "gguf" : "safetensors";
}

/** Every weight as it lies in memory, from the device. */
export async function hostWeights(weights: Readonly<Record<string, Tensor>>): Promise<Map<string, Weight>> {
  const found = new Map<string, Weight>();
  for (const [name, w] of Object.entries(weights)) found.set(name, (await quantizedOf(w)?.host()) ?? (await w.host()));
  return found;
}

/** The config as it came, with the class name, the element type of the weights, and what bitsandbytes must know of codes. */
function configOf({ config }: Pick<CausalLM, "config">, weights: ReadonlyMap<string, Weight>): ConfigJson {
  const name = embeddingName(config), dtype = weights.get(name)?.dtype;
  if (dtype !== "f32" && dtype !== "f16" && dtype !== "bf16" && dtype !== "f64") throw new ConfigError("the model holds no embedding", { op: "saveModel", key: name });
  const { torch_dtype: _old, quantization_config: _before, ...json } = config.json, quantization = quantizationOf(weights, name, dtype === "f64" ? "float32" : torch[dtype]);
  return { ...json, architectures: json["architectures"] ?? [architectures[config.modelType]], dtype: torch[dtype], ...(quantization === null ? {} : { quantization_config: quantization }) };
}
function quantizationOf(weights: ReadonlyMap<string, Weight>, embedding: string, computeDtype: "float32" | "float16" | "bfloat16"): ConfigJson | null {
  const codes = [...weights].flatMap(([name, w]) => (isCodes(w) ? [{ name, w }] : [])), [first] = codes, format = first?.w.format.name;
  if (first === undefined) return null;
  if (format !== "nf4" && format !== "fp4" && format !== "int8") throw new ConfigError(`${first.name} is ${String(format)}, which bitsandbytes has no file for`, { op: "saveModel", key: first.name, value: format, fix: 'quantize to nf4, fp4 or int8, or save with format "gguf" (q8_0, q4_0, mxfp4)' });
  const other = codes.find(({ w }) => w.format.name !== format);
  if (other !== undefined) throw new ConfigError(`${first.name} is ${format} and ${other.name} is ${other.w.format.name}: a folder holds one kind of codes`, { op: "saveModel", key: other.name, value: other.w.format.name, fix: "quantize all layers alike" });
  const plain = new Set([...weights].filter(([name, w]) => !isCodes(w) && w.shape.length === 2 && name !== embedding).map(([name]) => name.replace(/\.weight$/, "")));
  return bitsandbytesConfig({ format, doubleQuant: first.w.scales.nested !== undefined, computeDtype, skip: [...(codes.some(({ name }) => name === HEAD) ? [] : ["lm_head"]), ...[...plain].filter((path) => path !== "lm_head")] });
}
