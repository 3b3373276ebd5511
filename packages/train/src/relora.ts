/** ReLoRA in a run: merges at fixed steps, moments that are forgotten with them, and a base that goes into checkpoints because it changes (arXiv 2307.05695). */
import { type Content, node, openSafetensors, type SafetensorsFile, safetensorsParts } from "@adjoint/io";
import { isTarget, mergeAndReinit, parametersOf, refreshConstants, type Tuned, writeLoraConfig } from "@adjoint/lora";
import { type CausalLM, hostWeights } from "@adjoint/models";
import { resetState, type ResetOptions } from "@adjoint/optim";
import { bitsandbytesTensors, bitsandbytesWeights, dequantize, type Quantized, quantizedOf, readBitsandbytes } from "@adjoint/quant";
import { ConfigError, FormatError, type HostArray, Store, type Tensor } from "@adjoint/tensor";
import type { Between, Routine } from "./routine.ts";
import { fullTrainee, modelFolder, readStores, throughAdapter, type Trainee } from "./trainee.ts";

/** Options of ReLoRA in a run. */
export interface ReloraOptions {
  /** optimizer steps between merges: after steps R + 1, 2 R + 1, ..., so that the step at which a jagged schedule restarts from 0 is the last of its cycle */
  readonly every: number;
  /** optimizer steps between resets of the factors' moments; default: as `every` */
  readonly cycle?: number;
  /** what of the moments is forgotten; "none": nothing (default "zero") */
  readonly reset?: ResetOptions["mode"] | "none";
  /** share that is forgotten by "random" and "magnitude" */
  readonly ratio?: number;
  readonly seed?: number;
  /** optimizer steps at the start in which all weights train in full and no factor does; merges and resets are counted from there (default 0) */
  readonly warmStart?: number;
  /** parameters of the base that train in full beside the factors, by path: embeddings, norms, head */
  readonly full?: readonly string[];
}

const BASE = "base.safetensors", ADAPTER = "adapter_model.safetensors";
/** Whether something that comes each R steps comes after this one. */
const due = (step: number, every: number): boolean => step > every && (step - 1) % every === 0;

/** Parameters of the base that no target owns and that can train: what the paper trains in full beside the factors. */
export function restOf(tuned: Tuned<CausalLM>): readonly string[] {
  const owned = new Set(tuned.attachments.filter(isTarget(tuned)).flatMap((a) => Object.values(parametersOf(a.module))));
  return Object.entries(tuned.base.parameters()).filter(([, p]) => !owned.has(p)).map(([name]) => name);
}

/** Merges and resets, as a routine. Its state is how often each has happened. */
export function relora(tuned: Tuned<CausalLM>, options: ReloraOptions): Routine {
  const { every, cycle = every, reset = "zero", ratio, seed = 0, warmStart = 0 } = options;
  for (const [key, n] of Object.entries({ relora: every, relora_cycle: cycle })) if (!(Number.isInteger(n) && n > 0)) throw new ConfigError(`${key} = ${n}`, { key, value: n, fix: "give a number of steps of at least 1" });
  if ((reset === "random" || reset === "magnitude") !== (ratio !== undefined)) throw new ConfigError(`relora_reset = ${reset} ${ratio === undefined ? "needs" : "has no"} relora_reset_ratio`, { key: "relora_reset_ratio", value: ratio, fix: ratio === undefined ? "give the share that is forgotten, such as 0.9" : "remove it" });
  const counts = { merges: 0, resets: 0 };
  const merge = async (): Promise<string> => {
    const errors = await mergeAndReinit(tuned, { seed, count: ++counts.merges }), mean = errors.reduce((n, e) => n + e.ofDelta, 0) / Math.max(1, errors.length);
    return `merge ${counts.merges} into the base${errors.length === 0 ? "" : `; quantizing it again lost ${(100 * mean).toFixed(0)} % of the update`}`;
  };
  const forget = async ({ optimizer }: Between): Promise<string> => {
    if (reset !== "none") await resetState(optimizer, { mode: reset, seed, ...(ratio === undefined ? {} : { ratio }) });
    counts.resets++;
    return reset === "zero" ? "moments set to zero" : `${(100 * (ratio ?? 0)).toPrecision(3)} % of the moments set to zero`;
  };
  return {
    name: "relora",
    between: async (at) => {
      const said = [...(due(at.step - warmStart, every) ? [await merge()] : []), ...(reset !== "none" && due(at.step - warmStart, cycle) ? [await forget(at)] : [])];
      return said.length === 0 ? null : `step ${at.step}: ${said.join(", ")}`;
    },
    state: () => Promise.resolve({ values: { ...counts } }),
    load: ({ values: { merges, resets } }) => {
      for (const n of [merges, resets]) if (!(Number.isInteger(n) && n >= 0)) throw new FormatError(`method.json: relora holds ${String(n)} instead of a count`, { file: "method.json", key: "relora", value: n, fix: "use another checkpoint" });
      counts.merges = merges;
      counts.resets = resets;
    },
  };
}

/** The base's parameters that merges change, as they are held. */
function changed(tuned: Tuned<CausalLM>): Readonly<Record<string, Tensor>> {
  const all = tuned.base.weights();
  return Object.fromEntries([...tuned.mergedWeights({ which: isTarget(tuned) }).keys()].map((name) => [name, all[name]]));
}

/** Safetensors of numbers and of codes as bitsandbytes writes them. */
async function heldFile(weights: Readonly<Record<string, Tensor>>): Promise<readonly Uint8Array[]> {
  const arrays = new Map<string, HostArray>();
  for (const [name, w] of await hostWeights(weights)) {
    if ("codes" in w) for (const [key, array] of Object.entries(bitsandbytesTensors(name, w))) arrays.set(key, array);
    else arrays.set(name, { ...w, data: w.data.slice() });
  }
  return safetensorsParts(arrays);
}

/** Codes of a file for the weights that are held so; what it returns puts them in place. */
async function readCodes(weights: Readonly<Record<string, Tensor>>, file: SafetensorsFile): Promise<() => void> {
  try {
    const made = bitsandbytesWeights(file.entries.keys()), found: [string, Quantized][] = [];
    for (const name of Object.keys(weights)) {
      if (!made.has(name)) throw new FormatError(`${file.label}: ${name} is missing`, { file: file.label, key: name, fix: "resume with the model and the options that the checkpoint was made with" });
      found.push([name, await readBitsandbytes(file, name)]);
    }
    return () => { for (const [name, q] of found) quantizedOf(weights[name])?.set(q); };
  } finally {
    await file.close();
  }
}

/** Refuses what belongs to the weights of the beginning, which a warm start changes. */
function refuseCold(tuned: Tuned<CausalLM>): void {
  const { initLoraWeights: rule, useDora } = tuned.loraConfig, other = tuned.attachments.find((a) => !isTarget(tuned)(a));
  const bad = (key: string, value: unknown, why: string, fix: string): ConfigError => new ConfigError(`relora_warm_start with ${key} = ${JSON.stringify(value)}: ${why}`, { key, value, fix });
  if (rule === false) throw bad("init_lora_weights", rule, "factors that are not zero would change the model when they begin", "use true or gaussian");
  if (useDora) throw bad("use_dora", true, "lengths of rows are taken before all weights train", "use LoRA, or finetune the model of a shorter training");
  const code = Object.entries(tuned.base.weights()).find(([, w]) => !(w instanceof Store));
  if (code !== undefined) throw new ConfigError(`relora_warm_start: ${code[0]} is held as codes, and all weights train at the start`, { key: "relora_warm_start", value: code[0], fix: "load the base unquantized, or remove it" });
  if (other !== undefined) throw bad("modules_to_save or bias", other.site.path, "the copy that trains is taken before all weights train", "use relora_train_rest");
}

/**
 * Trains an adapter that is merged into its base again and again. Its files are a model's folder, the last factors added in: an adapter alone would
 * belong to a base that nobody has. A checkpoint holds the adapter and, in base.safetensors, the base that it belongs to.
 * @throws ConfigError before anything trains: for tied weights, for codes that no checkpoint can hold, for parameters that are not there
 */
export function reloraTrainee(tuned: Tuned<CausalLM>, options: ReloraOptions): Trainee {
  const { base } = tuned, weights = base.weights(), parameters = base.parameters(), merged = changed(tuned);
  for (const [name, w] of Object.entries(merged)) {
    const format = quantizedOf(w)?.format.name;
    if (format !== undefined && !["nf4", "fp4", "int8"].includes(format)) throw new ConfigError(`relora: ${name} is held as ${format}, which checkpoints cannot keep`, { key: "bnb_4bit_quant_type", value: format, fix: "use nf4, fp4 or int8" });
  }
  const full: Record<string, Store> = {}, factors = Object.fromEntries(tuned.tensors());
  for (const name of options.full ?? []) {
    if (!(parameters[name] instanceof Store) || name in merged) throw new ConfigError(`relora: ${name} is no parameter that trains in full beside the factors`, { key: "relora_train_rest", value: name, fix: `one of ${restOf(tuned).slice(0, 4).join(", ")}, ...` });
    full[name] = parameters[name];
  }
  const numbers: Record<string, Store> = { ...full }, codes: Record<string, Tensor> = {};
  for (const [name, w] of Object.entries(merged)) if (w instanceof Store) numbers[name] = w; else codes[name] = w;
  const warm = options.warmStart ?? 0;
  if (warm > 0) {
    refuseCold(tuned);
    Object.assign(numbers, parameters); // all of them have moved
  }
  return {
    kind: "adapter",
    output: "model",
    model: base,
    trainable: { ...factors, ...full },
    routines: [relora(tuned, options)],
    ...(warm === 0 ? {} : { warmStart: { steps: warm, trainee: fullTrainee(base) } }),
    ...throughAdapter(tuned),
    frozen: Object.fromEntries(Object.entries(weights).filter(([name]) => !(name in numbers) && !(name in codes))),
    adapterConfig: () => writeLoraConfig(tuned.fileConfig()),
    files: async (dtype = "f32") => {
      const arrays = new Map<string, HostArray>(), sums = tuned.mergedWeights();
      for (const [name, w] of await hostWeights(weights)) {
        const sum = await sums.get(name)?.host(), own = sum ?? ("codes" in w ? { dtype: "f32" as const, shape: w.shape, data: dequantize(w) } : w);
        arrays.set(name, { ...own, data: own.data.slice() });
      }
      return modelFolder(base, arrays, dtype);
    },
    checkpoint: async (): Promise<Record<string, Content>> => ({ ...(await tuned.files({ convert: false })), [BASE]: await heldFile({ ...numbers, ...codes }) }),
    load: async (folder) => {
      const at = (name: string): Promise<SafetensorsFile> => openSafetensors(node().path.join(folder, name));
      const puts = [await readStores(factors, await at(ADAPTER)), await readStores(numbers, await at(BASE)), await readCodes(codes, await at(BASE))];
      for (const put of puts) put();
      refreshConstants(tuned.attachments);
    },
  };
}
