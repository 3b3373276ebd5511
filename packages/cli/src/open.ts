/** Opens what commands work on: the device, models, adapters and named data. */
import { node, openGguf, readText } from "@adjoint/io";
import { loadLora, type Tuned } from "@adjoint/lora";
import { type CausalLM, ggufTokenizer, ggufWithin, type LoadModelOptions, loadModel, loadTokenizer, resolveModel, type Tokenizer, tokenizerAmong, tokenizerFiles } from "@adjoint/models";
import { quantizedOf } from "@adjoint/quant";
import { ConfigError, getDevice, setDevice } from "@adjoint/tensor";
import { type DeviceChoice, chooseDevice } from "./devices.ts";
import type { WebGpuOptions } from "@adjoint/webgpu";
import * as tiny from "@adjoint/tiny";
import type { Progress } from "./progress.ts";
import { type DataSet, type DataSource, firstBytes, idsData, measured, numbers, packingStrategies, type Recipe, type Row, readRows, textData, type TextData, type TextDataOptions } from "@adjoint/train";

/** Makes the recipe's device the default one. Returns how it is called on the screen. */
export async function openDevice(choice: DeviceChoice, options: WebGpuOptions = {}): Promise<string> {
  const { device, name } = await chooseDevice(choice, options);
  setDevice(device);
  return name;
}
export const deviceName = (): string => getDevice().name;

/** Recipe keys that say which base it is and how it is held. */
export const baseKeys: readonly (keyof Recipe)[] = ["model_revision", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "quant_block_size", "llm_int8_skip_modules", "upcast_modules"];
/** The files beside a model's weights that go with it; of a GGUF file without a tokenizer.json beside it, the tokenizer that it holds. */
export async function companionFiles(folder: string | null): Promise<Record<string, string>> {
  const files: Record<string, string> = {}, { path } = node(), at = folder !== null && /\.gguf$/i.test(folder) ? path.dirname(folder) : folder;
  for (const name of ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "chat_template.jinja"]) {
    const file = at === null ? null : path.join(at, name);
    if (file !== null && (await exists(file))) files[name] = await readText(file);
  }
  return folder === null || folder === at || files["tokenizer.json"] !== undefined ? files : heldFiles(folder);
}
/** The tokenizer of a model that is not loaded: of a folder, a hub id or a GGUF file. */
export async function openTokenizer(given: string): Promise<Tokenizer> {
  const source = await ggufWithin(given);
  if (!/\.gguf$/i.test(source)) return loadTokenizer(await resolveModel(source));
  const own = tokenizerAmong(await companionFiles(source));
  return own === null ? loadTokenizer(source) : loadTokenizer(own);
}
async function heldFiles(path: string): Promise<Record<string, string>> {
  const file = await openGguf(path);
  try {
    const tokenizer = ggufTokenizer(file);
    return tokenizer === null ? {} : tokenizerFiles(tokenizer);
  } finally { await file.close(); }
}
export const exists = (path: string): Promise<boolean> => node().fs.access(path).then(() => true, () => false);

/** What a model's weights are: element types and formats, and the bytes that they take. */
export function held(model: CausalLM): { readonly types: string; readonly bytes: number; readonly parameters: number } {
  const weights = Object.values(model.weights()), types = new Map<string, number>();
  let bytes = 0, parameters = 0;
  for (const w of weights) {
    const q = quantizedOf(w), type = q?.format.name ?? w.dtype;
    types.set(type, (types.get(type) ?? 0) + w.size);
    bytes += q?.bytes ?? w.bytes;
    parameters += w.size;
  }
  const named = [...types].sort(([, a], [, b]) => b - a).map(([type]) => type), codes = weights.some((w) => quantizedOf(w) !== null);
  return { types: codes ? named.slice(0, 2).join(" and ") : (Object.values(model.weights())[0]?.dtype ?? ""), bytes, parameters };
}

/** What the bundled model is called on the screen. */
export const BUNDLED = "tiny";

/** A model with where it came from. */
export interface OpenModel {
  readonly model: CausalLM;
  /** what `from_pretrained` of Python takes */
  readonly path: string;
  readonly name: string;
  readonly folder: string | null;
}

export interface OpenModelOptions {
  readonly tokenizer?: boolean | "auto";
  readonly dtype?: "f32" | "auto";
  readonly tokenizerName?: string | null;
  /** which revision of it, and how it is held: `baseOptions` of a recipe */
  readonly base?: Pick<LoadModelOptions, "quantize" | "upcast" | "revision">;
  /** messages about a download */
  readonly say?: (text: string) => void;
  /** shows how far a large model has come */
  readonly progress?: Progress;
}

/** Milliseconds of loading after which a bar says how far it is. */
const LONG = 1000;

/** The bundled model's folder as a path: relative where that is shorter. */
function bundledPath(): string {
  const { url, path } = node(), absolute = url.fileURLToPath(tiny.model), relative = path.relative(process.cwd(), absolute);
  return (relative.startsWith("..") ? absolute : relative).replace(/[\\/]$/, "");
}

/** A model's folder or hub id; null is the bundled one. */
export const modelPath = (source: string | null): string => (source === null || source === BUNDLED ? bundledPath() : source);

/** Loads a model by folder or hub id; null is the bundled one. @throws what loadModel throws */
export async function openModel(source: string | null, { tokenizer = "auto", dtype = "auto", tokenizerName = null, base = {}, say, progress }: OpenModelOptions = {}): Promise<OpenModel> {
  const from = source === null || source === BUNDLED ? tiny.model : await ggufWithin(source);
  const begun = performance.now(), own = await loadModel(from, {
    dtype, tokenizer: tokenizerName === null ? tokenizer : false, ...base,
    ...(progress === undefined ? {} : { onWeight: ({ name, done, all }) => { if (performance.now() - begun > LONG) progress.part(done, all, `${base.quantize ? "quantizing" : "loading"} ${name}`); } }),
    ...(say === undefined ? {} : { onProgress: (p) => { say(`downloading ${p.file}  ${Math.round((100 * p.bytes) / Math.max(1, p.size))} %`); } }),
  });
  progress?.clear();
  const model = tokenizerName === null || tokenizer === false ? own : withTokenizer(own, await loadTokenizer(tokenizerName));
  return typeof from === "string" ? { model, path: from, name: node().path.basename(from), folder: from } : { model, path: bundledPath(), name: BUNDLED, folder: bundledPath() };
}

/** The same model, with another tokenizer. */
function withTokenizer(model: CausalLM, tokenizer: Tokenizer): CausalLM {
  if (tokenizer.vocabSize > model.config.vocabSize) throw new ConfigError(`the tokenizer has ${tokenizer.vocabSize} tokens, the model ${model.config.vocabSize}`, { key: "tokenizer_name", value: tokenizer.vocabSize, fix: "use the model's own tokenizer" });
  Object.defineProperty(model, "tokenizer", { value: tokenizer, enumerable: false });
  return model;
}

/** The tokenizer, or what to do about there being none. */
export function tokenizerOf(model: CausalLM, path: string): Tokenizer {
  if (model.tokenizer !== null) return model.tokenizer;
  throw new ConfigError(`${path}: ${/\.gguf$/i.test(path) ? "the file holds no tokenizer and none lies beside it" : "the model has no tokenizer.json"}, so text cannot be read`, { file: path, key: "tokenizer_name", value: null, fix: "give --tokenizer-name DIR, or token ids with --ids FILE.json" });
}

/** An adapter's folder: the folder itself, or `adapter` in a run's folder. */
export async function adapterFolder(path: string): Promise<string> {
  const { fs, path: paths } = node(), inner = paths.join(path, "adapter");
  const has = (folder: string): Promise<boolean> => fs.access(paths.join(folder, "adapter_config.json")).then(() => true, () => false);
  return !(await has(path)) && (await has(inner)) ? inner : path;
}

/** Loads an adapter onto a model. Warnings are told, missing and unexpected keys refused. */
export async function openAdapter(model: CausalLM, path: string, say: (text: string) => void): Promise<Tuned<CausalLM>> {
  const { tuned, report } = await loadLora(model, await adapterFolder(path));
  for (const warning of report.warnings) say(`adapter: ${warning}`);
  return tuned;
}

/** Bytes of each address that measure what a short run forgets. */
const OLD_BYTES = 6 * 1024;
const texts = (list: readonly tiny.Text[]): Row[] => list.map(({ name, text }) => ({ name, text }));

/** Data that comes with the command. */
const named: Readonly<Record<string, { readonly title: string; readonly source: () => DataSource }>> = {
  "moby-dick": { title: "Moby-Dick", source: () => { const { train, test } = tiny.mobyDick(); return { train: texts(train), test: texts(test) }; } },
  "moby-dick-test": { title: "Moby-Dick, test chapters", source: () => texts(tiny.mobyDick().test) },
  addresses: { title: "addresses", source: () => { const { train, development } = tiny.addresses(); return { train: texts(train), test: texts(development) }; } },
  "addresses-development": { title: "addresses, development", source: () => texts(tiny.addresses().development) },
  "addresses-test": { title: "addresses, test", source: () => texts(tiny.addresses().test) },
  "addresses-start": { title: "addresses", source: () => tiny.addresses().test.map(({ name, text }) => ({ name, text: firstBytes(text, OLD_BYTES) })) },
  numbers: { title: "numbers", source: () => numbers() },
};
export const dataNames: readonly string[] = Object.keys(named);

/** Rows of files and names joined; a source that brings its split must stand alone. */
async function sourceOf(names: readonly string[]): Promise<{ readonly source: DataSource; readonly title: string }> {
  const [only] = names;
  if (names.length === 1 && Object.hasOwn(named, only)) return { source: named[only].source(), title: named[only].title };
  const { basename } = node().path;
  const title = names.map((n) => basename(n)).join(", ");
  if (names.length === 1) {
    const files = await filesOf(only);
    return files.length === 1 ? { source: files[0], title } : { source: (await Promise.all(files.map(readRows))).flat(), title };
  }
  const rows: Row[] = [];
  for (const name of names) {
    const given = Object.hasOwn(named, name) ? named[name].source() : null, list: readonly Row[] | null = isRows(given) ? given : null;
    if (given !== null && list === null) throw new ConfigError(`dataset_name: ${name} brings its own split, so it cannot be joined with other data`, { key: "dataset_name", value: names, fix: "give it alone" });
    if (list !== null) rows.push(...list);
    else for (const file of await filesOf(name)) rows.push(...(await readRows(file)));
  }
  return { source: rows, title };
}

const isRows = (source: DataSource | null): source is readonly Row[] => Array.isArray(source);

/** The data files of a path. */
async function filesOf(path: string): Promise<string[]> {
  const { fs, path: paths } = node();
  const stat = await fs.stat(path).catch(() => null);
  if (stat === null) {
    throw new ConfigError(`${path}: there is no such data`, { file: path, key: "dataset_name", value: path, fix: `give a .txt or .jsonl file, a folder of them, or one of ${dataNames.join(", ")}` });
  }
  if (!stat.isDirectory()) return [path];
  const files = (await fs.readdir(path)).filter((name) => /\.(txt|jsonl)$/i.test(name)).sort().map((name) => paths.join(path, name));
  if (files.length === 0) throw new ConfigError(`${path}: the folder holds no .txt or .jsonl file`, { file: path, key: "dataset_name", value: path, fix: "name another folder" });
  return files;
}

/** What a recipe says of text; what it leaves open (packing of texts, none of other rows) `textData` decides by the data. */
export function textOptions(recipe: Recipe): TextDataOptions {
  const strategy = packingStrategies.find((name) => name === (recipe.packing_strategy ?? (recipe.packing === true ? "bfd" : null)));
  return {
    maxLength: recipe.max_length, assistantOnlyLoss: recipe.assistant_only_loss,
    ...(recipe.packing === null ? {} : { packing: recipe.packing }), ...(strategy === undefined ? {} : { packingStrategy: strategy }),
    ...(recipe.completion_only_loss === null ? {} : { completionOnlyLoss: recipe.completion_only_loss }),
  };
}

/** Training data with its held-out part. */
export interface OpenData { readonly data: DataSet; readonly title: string; readonly heldOut: DataSet | null; readonly warnings: readonly string[]; readonly truncated: number; readonly rows: readonly Row[] }

/** Training data of a recipe: ids, or text by the model's tokenizer. */
export async function openData(recipe: Recipe, model: CausalLM, path: string): Promise<OpenData> {
  if (recipe.ids !== null) {
    if (recipe.dataset_name.length > 0) throw new ConfigError("both ids and dataset_name are given", { key: "ids", value: recipe.ids, fix: "give one of the two" });
    const packs = recipe.packing === true ? "packing" : recipe.packing_strategy === null ? null : "packing_strategy";
    if (packs !== null) throw new ConfigError(`${packs} is about text, and rows of ids are taken as they are`, { key: packs, value: recipe[packs], fix: "remove it, or pack the rows in the file" });
    const vocabSize = model.config.vocabSize, title = node().path.basename(recipe.ids);
    const heldOut = recipe.eval_ids === null ? null : await idsData(recipe.eval_ids, { vocabSize });
    return { data: await idsData(recipe.ids, { vocabSize }), title, heldOut, warnings: [], truncated: 0, rows: [] };
  }
  const tokenizer = tokenizerOf(model, path), { source, title } = await sourceOf(recipe.dataset_name);
  const split = typeof source === "object" && "train" in source;
  const share = split || recipe.eval_dataset_name.length > 0 ? 0 : recipe.validation_split_percentage / 100;
  const data: TextData = await textData(source, tokenizer, { ...textOptions(recipe), heldOut: share });
  const heldOut = recipe.eval_dataset_name.length > 0 ? await openMeasured(recipe.eval_dataset_name, recipe, tokenizer) : data.heldOut === undefined ? null : data.heldOut;
  return { data, title, heldOut, warnings: data.warnings, truncated: data.truncated, rows: split ? source.test : [] };
}

/** Data that is only measured: texts byte by byte, other rows as they are trained. */
export async function openMeasured(names: readonly string[], recipe: Recipe, tokenizer: Tokenizer): Promise<DataSet> {
  const { source, title } = await sourceOf(names);
  const given = typeof source === "string" || source instanceof URL ? await readRows(source) : typeof source === "function" ? source() : source;
  const rows: readonly Row[] = "train" in given ? given.test : given;
  const plain = rows.filter((row) => "text" in row);
  if (plain.length === rows.length) return measured(plain, tokenizer, { maxLength: recipe.max_length, name: title });
  return textData(rows, tokenizer, textOptions({ ...recipe, packing_strategy: null, packing: false }));
}

/** What a name is called in tables. */
export const titleOf = (names: readonly string[]): string => names.map((n) => (Object.hasOwn(named, n) ? named[n].title : node().path.basename(n))).join(", ");
