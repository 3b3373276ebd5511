/** `adjoint inspect`: what a model, adapter, checkpoint or tensor file holds. */
import { fileSystem, node, openGguf, openModelFolder, openSafetensors, readText, type SafetensorsFile } from "@adjoint/io";
import { adapterTitle, readAdapterDirectory, scaleIn } from "@adjoint/lora";
import { ggufWithin, parameterShapes, resolveModel, parseConfig } from "@adjoint/models";
import { bitsandbytesWeights } from "@adjoint/quant";
import * as tiny from "@adjoint/tiny";
import { ConfigError, sizeOf } from "@adjoint/tensor";
import { compactRecipe, defaultRecipe, readCheckpoint } from "@adjoint/train";
import type { Arguments } from "../arguments.ts";
import type { Answer, Command } from "../command.ts";
import { rankText } from "../adapter-text.ts";
import { adapterFolder, BUNDLED } from "../open.ts";
import { bytes, count, millions } from "../terminal.ts";

interface TensorLine { readonly name: string; readonly dtype: string; readonly shape: readonly number[] }
const linesOf = ({ entries }: SafetensorsFile): TensorLine[] => [...entries].map(([name, { dtype, shape }]) => ({ name, dtype, shape })).sort((a, b) => (a.name < b.name ? -1 : 1));
const tensorText = (lines: readonly TensorLine[]): string => lines.map((t) => `  ${t.dtype.padEnd(4)} ${`[${t.shape.join(", ")}]`.padEnd(14)} ${t.name}`).join("\n");
const totals = (file: SafetensorsFile): { parameters: number; bytes: number } => [...file.entries.values()].reduce((n, e) => ({ parameters: n.parameters + sizeOf(e.shape), bytes: n.bytes + e.byteLength }), { parameters: 0, bytes: 0 });

async function tensorFile(path: string): Promise<Answer> {
  const file = await openSafetensors(path);
  try {
    const lines = linesOf(file), { parameters, bytes: size } = totals(file);
    const metadata = Object.entries(file.metadata).map(([k, v]) => `  ${k}: ${v}`).join("\n");
    return { text: `${path}: ${lines.length} tensors, ${count(parameters)} numbers, ${bytes(size)}\n${metadata === "" ? "" : `${metadata}\n`}${tensorText(lines)}\n`, json: { kind: "safetensors", file: path, tensors: lines, metadata: file.metadata, parameters, bytes: size } };
  } finally { await file.close(); }
}

async function ggufFile(path: string): Promise<Answer> {
  const file = await openGguf(path);
  try {
    const tensors = [...file.entries].map(([name, { type, shape }]) => ({ name, type, shape })), size = [...file.entries.values()].reduce((n, e) => n + e.byteLength, 0), numbers = tensors.reduce((n, t) => n + sizeOf(t.shape), 0);
    const metadata = [...file.metadata].map(([key, v]) => [key, v.type === "array" ? `${v.value.length} of ${v.of}` : shortened(String(v.value))] as const);
    const lines = tensors.map((t) => `  ${t.type.padEnd(5)} ${`[${t.shape.join(", ")}]`.padEnd(14)} ${t.name}`);
    return { text: `${path}: GGUF ${file.version}, ${tensors.length} tensors, ${count(numbers)} numbers, ${bytes(size)}\n${metadata.map(([k, v]) => `  ${k}: ${v}\n`).join("")}${lines.join("\n")}\n`, json: { kind: "gguf", file: path, version: file.version, metadata: Object.fromEntries(metadata), tensors, parameters: numbers, bytes: size } };
  } finally { await file.close(); }
}

/** A text on one line; whole tokenizers and templates are among the values. */
const shortened = (text: string): string => (text.length > LINE ? `${text.slice(0, LINE).replace(/\s+/g, " ")}... (${count(text.length)} characters)` : text);
const LINE = 80;

async function adapter(path: string): Promise<Answer> {
  const { config, tensors, warnings } = await readAdapterDirectory(path);
  const size = [...tensors.values()].reduce((n, t) => n + t.data.length, 0);
  const rule = adapterTitle(config), scale = scaleIn(config, config.loraAlpha, config.r);
  const lines = [...tensors].map(([name, t]) => ({ name, dtype: t.dtype, shape: t.shape }));
  const head = [`${path}: ${rule} adapter, ${rankText(config)}, ${config.vera === null ? `alpha ${config.loraAlpha}, ` : ""}scale ${Number(scale.toPrecision(4))}, ${count(size)} parameters`, `  base     ${config.baseModelNameOrPath ?? "not named"}`, `  targets  ${Array.isArray(config.targetModules) ? config.targetModules.join(", ") : String(config.targetModules)}`, ...warnings.map((w) => `  warning  ${w}`)];
  return { text: `${head.join("\n")}\n${tensorText(lines)}\n`, json: { kind: "adapter", folder: path, method: rule, r: config.r, lora_alpha: config.loraAlpha, scale, target_modules: config.targetModules, base_model_name_or_path: config.baseModelNameOrPath, parameters: size, tensors: lines, warnings } };
}

async function checkpoint(path: string): Promise<Answer> {
  const { step, recipe, state } = await readCheckpoint(path), set = compactRecipe(recipe);
  return {
    text: `${path}: checkpoint after step ${step} of ${String(state["max_steps"])}, ${String(state["kind"])} training on ${String(state["device"])}\n${Object.entries(set).map(([k, v]) => `  ${k}: ${JSON.stringify(v)}`).join("\n")}\n`,
    json: { kind: "checkpoint", folder: path, step, max_steps: state["max_steps"], training: state["kind"], device: state["device"], recipe: set },
  };
}

async function model(path: string): Promise<Answer> {
  const folder = await resolveModel(path), { join } = node().path, file = await openModelFolder(folder);
  try {
    const json: unknown = JSON.parse(await readText(join(folder, "config.json")));
    const c = parseConfig(typeof json === "object" && json !== null ? Object.fromEntries(Object.entries(json)) : {}, join(folder, "config.json"));
    const { bytes: size } = totals(file), lines = linesOf(file), parameters = [...parameterShapes(c).values()].reduce((n, s) => n + sizeOf(s), 0), codes = bitsandbytesWeights(file.entries.keys());
    const head = [
      `${path}: ${c.modelType}, ${millions(parameters)} parameters, ${bytes(size)}, ${[...new Set(lines.map((t) => t.dtype))].join(", ")}${codes.size === 0 ? "" : `, ${codes.size} layers as codes of bitsandbytes`}`,
      `  layers ${c.numHiddenLayers}, width ${c.hiddenSize}, mlp ${c.intermediateSize}, heads ${c.numAttentionHeads} (${c.numKeyValueHeads} key-value) of ${c.headDim}`,
      `  vocabulary ${count(c.vocabSize)}, ${c.tieWordEmbeddings ? "tied" : "untied"} embeddings, ${count(c.maxPositionEmbeddings)} ${c.modelType === "gpt2" ? "learned positions" : `positions, rope ${c.ropeScaling.type} theta ${c.ropeTheta}`}`,
    ];
    return { text: `${head.join("\n")}\n${tensorText(lines)}\n`, json: { kind: "model", folder: path, model_type: c.modelType, parameters, bytes: size, config: c.json, tensors: lines } };
  } finally { await file.close(); }
}

async function run(args: Arguments): Promise<Answer> {
  const given = args.positionals[0] ?? BUNDLED, path = given === BUNDLED ? node().url.fileURLToPath(tiny.model) : given;
  const names = await fileSystem().list(path), { join } = node().path;
  if (names === "file") {
    if (/\.safetensors$/.test(path)) return tensorFile(path);
    if (/\.gguf$/i.test(path)) return ggufFile(path);
    throw new ConfigError(`${path}: this kind of file is not known`, { file: path, fix: "give a .safetensors or .gguf file, or the folder of a model, adapter, checkpoint or run" });
  }
  const has = (name: string): boolean => Array.isArray(names) && names.includes(name);
  if (has("trainer_state.json")) return checkpoint(path);
  if (has("adapter_config.json")) return adapter(path);
  if (!has("config.json") && has("adapter")) return adapter(await adapterFolder(path));
  if (!has("config.json") && has("model")) return model(join(path, "model"));
  const weights = await ggufWithin(path);
  return weights === path ? model(path) : ggufFile(weights);
}

export const inspect: Command = {
  grammar: {
    name: "inspect", positionals: ["[PATH]"], keys: [], flags: {}, summary: "Says what a model, adapter, checkpoint, run, .safetensors or .gguf file holds; by default the bundled model.",
    examples: ["adjoint inspect out/moby-dick/adapter", "adjoint inspect model.safetensors --json"],
  },
  defaults: defaultRecipe,
  run,
};
