/** Models from Hugging Face folders and hub ids, and from arrays that are already in memory. */
import { defaultDevice } from "./device.ts";
import { type SafetensorsFile, parseJsonObject } from "@adjoint/io";
import { normal, constant } from "@adjoint/nn";
import { ConfigError, type DType, FormatError, type HostArray, Store, convertArray, isFloat, sameShape, show } from "@adjoint/tensor";
import type { CausalLM } from "./causal-lm.ts";
import { type ConfigJson, type ModelConfig, parseConfig } from "./config.ts";
import { type ResolveModelOptions, resolveModel } from "./hub.ts";
import { LlamaForCausalLM, parameterShapes } from "./llama.ts";
import { type ModelFiles, type Origin, filesOrigin, folderOrigin, isModelFiles } from "./origin.ts";
import { tokenizerFrom } from "./tokenizer/load.ts";
import type { Tokenizer } from "./tokenizer/index.ts";

/** Element type of the parameters in memory; "auto" keeps each as it is stored. */
export type ModelDType = "f32" | "f16" | "bf16" | "auto";

export interface LoadModelOptions extends ResolveModelOptions {
  /** default "auto" */
  readonly dtype?: ModelDType;
  /** whether the tokenizer is loaded: true, false (model.tokenizer is null), or "auto" (the default): if the folder has one; or a tokenizer to use */
  readonly tokenizer?: boolean | "auto" | Tokenizer;
  /** refuse files with tensors that the model has no place for (default true) */
  readonly strict?: boolean;
}

const dtypes: readonly unknown[] = ["f32", "f16", "bf16", "auto"];

/**
 * Loads a model from a folder (path or file: URL), a hub id ("organisation/name"), an address of the hub, or files by name, as pages have them.
 *
 * Half-precision weights stay so in memory unless `dtype` says otherwise; products widen them.
 * @throws ConfigError for a model or option that is not implemented; FormatError naming file, tensor, expected and found shape; FileError for what is not there
 * @example const model = await loadModel("HuggingFaceTB/SmolLM2-135M");
 */
export async function loadModel(source: string | URL | ModelFiles, options: LoadModelOptions = {}): Promise<CausalLM> {
  const { dtype = "auto", tokenizer = "auto", strict = true, ...transfer } = options;
  if (!dtypes.includes(dtype)) throw new ConfigError(`loadModel: dtype ${String(dtype)} is not one of ${dtypes.join(", ")}`, { op: "loadModel", key: "dtype", value: dtype, fix: 'leave it out, or use "f32"' });
  await defaultDevice();
  const origin = isModelFiles(source) ? filesOrigin(source) : folderOrigin(await resolveModel(source, transfer));
  const config = parseConfig(await readConfig(origin), origin.label("config.json")), file = await origin.weights();
  try {
    const arrays = await readParameters(config, file, dtype, strict);
    const own = tokenizer === "auto" ? await origin.has("tokenizer.json") : tokenizer;
    return modelFrom(config, arrays, own === true ? await tokenizerFrom(origin) : own === false ? null : own);
  } finally {
    await file.close();
  }
}

/** A model over arrays by parameter name, which it takes over. @throws FormatError listing what is missing, unexpected or misshapen */
export function modelFrom(config: ModelConfig, arrays: ReadonlyMap<string, HostArray>, tokenizer: Tokenizer | null = null): CausalLM {
  const stores = new Map([...arrays].map(([name, array]) => [name, new Store(array, name)]));
  check(config, new Map([...stores].map(([name, { shape }]) => [name, shape])), "the given arrays", true);
  return new LlamaForCausalLM(config, (name) => stores.get(name)!, tokenizer);
}

/**
 * A model with random parameters: normal with standard deviation `initializer_range` (0.02), projections that write into the residual
 * stream divided by √(2 · layers) (Radford et al. 2019), norms 1, biases 0. Drawn on the host: equal on every machine.
 * @example const model = initModel({ model_type: "llama", vocab_size: 2048, hidden_size: 192, intermediate_size: 512, num_hidden_layers: 6, num_attention_heads: 6 }, 42);
 */
export function initModel(json: ConfigJson, seed: number, options: { readonly tokenizer?: Tokenizer | null; readonly dtype?: "f32" | "f16" | "bf16" } = {}): CausalLM {
  const config = parseConfig(json), std = config.initializerRange, deep = std / Math.sqrt(2 * config.numHiddenLayers), { dtype = "f32" } = options;
  const make = (name: string, shape: readonly number[]): Store => {
    const s = name.endsWith(".bias") ? constant(0)(name, shape) : shape.length === 1 ? constant(1)(name, shape) : normal(seed, /\.(o_proj|down_proj)\.weight$/.test(name) ? deep : std)(name, shape);
    return dtype === "f32" ? s : new Store({ dtype, shape, data: convertArray(s.cell.host!.data, "f32", dtype) }, name);
  };
  const stores = new Map([...parameterShapes(config)].map(([name, shape]) => [name, make(name, shape)]));
  return new LlamaForCausalLM(config, (name) => stores.get(name)!, options.tokenizer ?? null);
}

async function readConfig(origin: Origin): Promise<ConfigJson> {
  const read = async (name: string): Promise<ConfigJson> => parseJsonObject(await origin.text(name), origin.label(name));
  const config = await read("config.json"), generation = "generation_config.json";
  const eos = (await origin.has(generation)) ? (await read(generation))["eos_token_id"] : undefined;    // chat models list more ends there
  return eos === undefined || eos === null ? config : { ...config, eos_token_id: eos };
}

async function readParameters(config: ModelConfig, file: SafetensorsFile, dtype: ModelDType, strict: boolean): Promise<Map<string, HostArray>> {
  check(config, new Map([...file.entries].map(([name, { shape }]) => [name, shape])), file.label, strict);
  const arrays = new Map<string, HostArray>();
  for (const name of parameterShapes(config).keys()) {
    const array = await file.read(name);
    if (!isFloat(array.dtype)) throw new FormatError(`${file.label}: tensor "${name}" is ${array.dtype}, and parameters are floats`, { file: file.label, key: name, value: array.dtype, fix: "use the unquantized model" });
    const want = dtype === "auto" ? (array.dtype === "f64" ? "f32" : array.dtype) : dtype;
    arrays.set(name, array.dtype === want ? array : converted(array, want));
  }
  return arrays;
}
const converted = ({ data, dtype, shape }: HostArray, to: DType): HostArray => ({ dtype: to, shape, data: convertArray(data, dtype, to) });

/** Buffers that older versions of transformers saved and nobody needs; and the head of a tied model, which is the embedding. */
const superfluous = (name: string, c: ModelConfig): boolean => /\.rotary_emb\.inv_freq$/.test(name) || (c.tieWordEmbeddings && name === "lm_head.weight");

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
