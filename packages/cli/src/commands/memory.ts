/** `adjoint memory`: what a fine-tuning will hold in memory, term by term, from the model's config alone. */
import { type GgufFile, isRecord, node, openGguf, parseJsonObject, readText } from "@adjoint/io";
import { type ConfigJson, fromGgufName, ggufConfig, ggufWithin, knownConfig, knownModels, parseConfig } from "@adjoint/models";
import { type FormatName, formats, isFormatName } from "@adjoint/quant";
import { adapterTitle, loraConfig } from "@adjoint/lora";
import { ConfigError, getDevice } from "@adjoint/tensor";
import * as tiny from "@adjoint/tiny";
import { defaultRecipe, loraOptions, type MemoryPrediction, mergeRecipe, type Method, predictMemory, type Recipe, type TrainingRequest } from "@adjoint/train";
import type { Arguments } from "../arguments.ts";
import type { Answer, Command } from "../command.ts";
import { rankText } from "../adapter-text.ts";
import { BUNDLED, openDevice } from "../open.ts";
import { count, millions } from "../terminal.ts";

/** Recipe keys that change what an adapter holds, besides its rank, targets and DoRA, which have flags of their own here. */
const adapterKeys: readonly (keyof Recipe)[] = ["peft_type", "target_r", "init_r", "init_lora_weights", "lora_bias", "bias", "modules_to_save", "trainable_token_indices", "target_parameters", "ensure_weight_tying", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern"];
const keys: readonly (keyof Recipe)[] = [...adapterKeys, "optim", "gradient_checkpointing", "gradient_accumulation_steps", "device", "threads", "wide"];
const methods: readonly Method[] = ["full", "lora", "qlora"];
const dtypes = { f32: "f32", float32: "f32", f16: "f16", float16: "f16", bf16: "bf16", bfloat16: "bf16" } as const;
type DTypeFlag = keyof typeof dtypes;

/** What is planned for: a config, and what a GGUF file holds its parameters as. */
interface Planned { readonly json: ConfigJson; readonly name: string; readonly file: string; readonly held?: NonNullable<TrainingRequest["held"]> }

/** A config by folder, file or name; the bundled model's when nothing is given. */
async function configOf(model: string | null): Promise<Planned> {
  const { fs, path, url } = node();
  const from = model === null || model === BUNDLED ? url.fileURLToPath(tiny.model) : model, stat = await fs.stat(from).catch(() => null);
  if (stat === null) return { json: knownConfig(from), name: from, file: from };
  const weights = stat.isDirectory() ? await ggufWithin(from) : from;
  if (/\.gguf$/i.test(weights)) {
    const file = await openGguf(weights);
    try {
      const held = heldBy(file);
      return { json: await ggufConfig(file), name: path.basename(weights), file: weights, ...([...held.values()].some(isFormatName) ? { held } : {}) };
    } finally { await file.close(); }
  }
  const file = stat.isDirectory() ? path.join(from, "config.json") : from;
  return { json: parseJsonObject(await readText(file), file), name: model === null || model === BUNDLED ? BUNDLED : path.basename(path.resolve(from)), file };
}

const plain = { F64: "f32", F32: "f32", F16: "f16", BF16: "bf16" } as const;
/** What loading holds the tensors of a GGUF file as, by parameter. */
function heldBy(file: GgufFile): Map<string, FormatName | "f32" | "f16" | "bf16"> {
  return new Map([...file.entries].flatMap(([theirs, { type }]) => {
    const name = fromGgufName(theirs), format = type.toLowerCase(), as = isFormatName(format) ? format : type in plain ? plain[type as keyof typeof plain] : undefined;
    if (name === null) return [];
    if (as === undefined) throw new ConfigError(`${file.label}: tensor "${theirs}" is ${type}, which is not read`, { file: file.label, key: theirs, value: type, fix: "get the model in another type" });
    return [[name, as] as const];
  }));
}

/** How bitsandbytes holds the weights that a config belongs to; null: it does not. */
function quantizedBy(config: ConfigJson): Pick<TrainingRequest, "format" | "doubleQuant" | "skip"> | null {
  const q = config["quantization_config"];
  if (!isRecord(q) || (q["load_in_4bit"] !== true && q["load_in_8bit"] !== true)) return null;
  const skip: readonly unknown[] = Array.isArray(q["llm_int8_skip_modules"]) ? q["llm_int8_skip_modules"] : ["lm_head"];
  return { format: q["load_in_8bit"] === true ? "int8" : q["bnb_4bit_quant_type"] === "nf4" ? "nf4" : "fp4", doubleQuant: q["load_in_8bit"] !== true && q["bnb_4bit_use_double_quant"] === true, skip: skip.filter((name) => typeof name === "string") };
}

/** The format of most of a file's tensors. */
function mostly(held: Planned["held"]): FormatName | undefined {
  const counts = new Map<FormatName, number>();
  for (const as of held?.values() ?? []) if (isFormatName(as)) counts.set(as, (counts.get(as) ?? 0) + 1);
  return [...counts].sort(([, a], [, b]) => b - a)[0]?.[0];
}

const oneOf = <T extends string>(flag: string, given: string | null, known: readonly T[], fallback: T): T => {
  if (given === null) return fallback;
  const found = known.find((k) => k === given);
  if (found === undefined) throw new ConfigError(`memory: --${flag} ${given}`, { key: `--${flag}`, value: given, fix: `use one of ${known.join(", ")}` });
  return found;
};

function requestOf(args: Arguments, recipe: Recipe, { json: config, file, held }: Planned): TrainingRequest {
  const method = oneOf("method", args.text("method"), methods, "qlora"), text = (flag: string): string | null => args.text(flag), number = (flag: string, fallback: number): number => args.number(flag) ?? fallback;
  const for4 = ["format", "block", "skip"].find((flag) => text(flag) !== null || args.number(flag) !== null) ?? (args.flag("no-double-quant") ? "no-double-quant" : undefined);
  const made = held === undefined ? quantizedBy(config) : null, as = made?.format ?? mostly(held) ?? "codes";
  if (method !== "qlora" && (made !== null || held !== undefined)) throw new ConfigError(`memory: ${file}: the weights are ${as}, over which an adapter trains`, { key: "--method", value: method, file, fix: "use --method qlora, or the config of the unquantized model" });
  if (for4 !== undefined && (held !== undefined || (made !== null && for4 !== "block"))) throw new ConfigError(`memory: --${for4}: ${file} says how its weights are held (${as})`, { key: `--${for4}`, file, fix: "remove it, or use the config of the unquantized model" });
  if (method !== "qlora" && for4 !== undefined) throw new ConfigError(`memory: --${for4} goes with --method qlora`, { key: `--${for4}`, fix: "remove it" });
  const own = adapterKeys.find((key) => args.recipe[key] !== undefined), forAdapter = ["rank", "targets"].find((flag) => text(flag) !== null || args.number(flag) !== null) ?? (args.flag("dora") ? "dora" : own?.replaceAll("_", "-"));
  if (method === "full" && forAdapter !== undefined) throw new ConfigError(`memory: --${forAdapter} goes with an adapter`, { key: `--${forAdapter}`, fix: "remove it, or use --method lora" });
  const said = config["dtype"] ?? config["torch_dtype"], stored = typeof said === "string" && said in dtypes ? dtypes[said as DTypeFlag] : "bf16";
  const dtype = text("dtype") === null ? (method === "full" ? "f32" : held === undefined ? stored : "f16") : dtypes[oneOf("dtype", text("dtype"), Object.keys(dtypes) as DTypeFlag[], "f32")];
  const format = text("format") ?? made?.format ?? mostly(held) ?? "nf4", targets = text("targets") ?? "all-linear", rank = number("rank", 16), dora = args.flag("dora"), names = /^all-linear$|[()[\]{}\\|*+?^$]/.test(targets) ? targets : targets.split(",").filter((t) => t !== "");
  if (!isFormatName(format)) throw new ConfigError(`memory: --format ${format}`, { key: "--format", value: format, fix: `use one of ${Object.keys(formats).join(", ")}` });
  const doubleQuant = made?.doubleQuant ?? (!args.flag("no-double-quant") && formats[format].scale === "f32" && format !== "int8"), block = args.number("block");
  return {
    method, ...(own === undefined ? { dora, rank, targets: names } : { adapter: loraOptions(mergeRecipe(recipe, { lora_r: rank, lora_target_modules: [names].flat(), use_dora: dora }), null) }), dtype, format, doubleQuant, ...(block === null ? {} : { block }),
    skip: made?.skip ?? (text("skip") ?? "lm_head").split(",").filter((s) => s !== "" && s !== "none"), ...(held === undefined ? {} : { held }), optimizer: recipe.optim, masterWeights: !args.flag("no-master-weights"), batch: number("batch", 1), seq: number("seq", 512),
    checkpointing: recipe.gradient_checkpointing, accumulation: recipe.gradient_accumulation_steps > 1,
  };
}

const GIB = 2 ** 30;
/** What a WebAssembly memory can hold. */
const WASM = 4 * GIB;

function show(name: string, device: string, request: TrainingRequest, { terms, total, counts, ranks }: MemoryPrediction): string {
  const { method, batch, seq, rank = 16, adapter } = request, c = adapter === undefined ? null : loraConfig(adapter), train = `${millions(counts.trainable)} train (${((100 * counts.trainable) / counts.parameters).toPrecision(3)} %)`;
  const what = c !== null ? `${adapterTitle({ ...c, useRslora: false })}${typeof c.initLoraWeights === "boolean" ? "" : ` from ${c.initLoraWeights}`}${method === "qlora" ? ` over ${request.format ?? "nf4"}` : ""}, ${rankText(c)}: ${train}` : method === "full" ? "all weights train" : `${request.dora === true ? `DoRA${method === "qlora" ? ` over ${request.format ?? "nf4"}` : ""}` : method === "qlora" ? `QLoRA, ${request.format ?? "nf4"}` : "LoRA"}, rank ${rank}: ${train}`;
  const [unit, per] = total < GIB ? (["MiB", 2 ** 20] as const) : (["GiB", GIB] as const), size = (bytes: number): string => (bytes / per).toFixed(bytes < 0.1 * per ? 4 : 2);
  const rows = terms.filter((t) => t.bytes > 0).map((t) => `  ${t.name.padEnd(12)}${size(t.bytes).padStart(9)}${`${((100 * t.bytes) / total).toFixed(1)} %`.padStart(9)}   ${t.from}`);
  const lines = [
    `${name}: ${millions(counts.parameters)} parameters, ${what}`, `${count(batch)} x ${count(seq)} tokens, ${request.optimizer ?? "adamw_torch"}${request.checkpointing === true ? ", layers computed again in the backward pass" : ""}, ${device}`, "",
    `  ${"".padEnd(12)}${unit.padStart(9)}${"share".padStart(9)}`, ...rows, `  ${"total".padEnd(12)}${size(total).padStart(9)}`,
  ];
  if (device.startsWith("wasm") && total > WASM) lines.push("", "  more than the 4 GiB that a WebAssembly memory holds: train it on a GPU (--device webgpu), or hold less");
  if (ranks.length > 0) lines.push("", "  rank       parameters   step time beside this rank's, predicted", ...ranks.map((r) => `  ${String(r.rank).padStart(4)} ${count(r.parameters).padStart(16)}   ${r.time.toFixed(3)}`));
  return `${lines.join("\n")}\n`;
}

async function run(args: Arguments): Promise<Answer> {
  const recipe = mergeRecipe({ device: "cpu" }, args.recipe), planned = await configOf(args.positionals[0] ?? null), { json, name, file } = planned;
  const config = parseConfig(json, file), request = requestOf(args, recipe, planned);
  const device = await openDevice(recipe), prediction = predictMemory(config, request, getDevice());
  return { text: show(name, device, request, prediction), json: { model: name, device, request: { ...request, ...(request.held === undefined ? {} : { held: Object.fromEntries(request.held) }) }, parameters: prediction.counts.parameters, quantized: prediction.counts.quantized, trainable: prediction.counts.trainable, arena: prediction.arena, terms: prediction.terms, total: prediction.total, ranks: prediction.ranks } };
}

export const memoryCommand: Command = {
  grammar: {
    name: "memory", positionals: ["[MODEL]"], keys, summary: "Predicts the memory of a fine-tuning term by term, from the model's config alone.",
    text: `MODEL is a folder with config.json, a config file, a GGUF file, or a known name:\n${wrapped(knownModels)}\nThe step is recorded without weights and its memory laid out as it would be on the device; nothing is computed.`,
    flags: {
      method: { kind: "text", value: "full|lora|qlora", help: "what trains, over what [qlora]" }, rank: { kind: "number", help: "rank of the adapter [16]", aliases: ["r"] },
      batch: { kind: "number", help: "rows of a micro-batch [1]", aliases: ["b"] }, seq: { kind: "number", help: "tokens of a row [512]", aliases: ["t"] },
      targets: { kind: "text", value: "A,B", help: "modules that are adapted: names, an expression, or all-linear [all-linear]" },
      dora: { kind: "flag", help: "DoRA: magnitudes beside the factors" },
      format: { kind: "text", help: `of quantized weights: ${Object.keys(formats).join(", ")} [nf4]` }, block: { kind: "number", help: "weights a scale [the format's]" },
      "no-double-quant": { kind: "flag", help: "scales stay in f32" }, skip: { kind: "text", value: "A,B", help: "linear layers that are not quantized, or none [lm_head]" },
      dtype: { kind: "text", value: "f32|f16|bf16", help: "of the other weights [the file's; f32 where all train]" },
      "no-master-weights": { kind: "flag", help: "full training in half precision without a copy in f32" },
    },
    examples: ["adjoint memory Llama-2-7b --method qlora --rank 8 --seq 1024 --gradient-checkpointing", "adjoint memory Llama-3-70B --method full --dtype bf16 --json", "adjoint memory HuggingFaceTB/SmolLM2-135M --method lora --batch 8 --seq 256", "adjoint memory Llama-3.2-1B --method lora --init-lora-weights pissa --modules-to-save lm_head --ensure-weight-tying"],
  },
  defaults: { ...defaultRecipe, device: "cpu" },
  run,
};

/** Names in lines of at most 100 columns. */
function wrapped(names: readonly string[]): string {
  const lines = [""];
  for (const name of names) {
    if (lines[lines.length - 1].length + name.length > 98) lines.push("");
    lines[lines.length - 1] += `${lines[lines.length - 1] === "" ? "  " : ", "}${name}`;
  }
  return lines.join(",\n");
}
