/** What a loop trains, as a value: the adapter beside a frozen base, or all weights of a model. */
import { type Content, modelFiles, node, openModelFolder, openSafetensors, type SafetensorsFile } from "@adjoint/io";
import { factorKey, needsNumbers, type SaveOptions, type Tuned, writeLoraConfig } from "@adjoint/lora";
import { architectures, type CausalLM } from "@adjoint/models";
import type { Context } from "@adjoint/nn";
import { ConfigError, convertArray, FormatError, type HostArray, sameShape, type Store, type Tensor } from "@adjoint/tensor";
import type { Batch } from "./data/tensors.ts";
import type { Routine } from "./routine.ts";

/** A model, what of it trains, and how that goes into files. */
export interface Trainee {
  readonly kind: "adapter" | "full";
  readonly model: CausalLM;
  /** the stores that train; paths are the names in the files */
  readonly trainable: Readonly<Record<string, Store>>;
  /** Σ -log p over predicted tokens, and how many there are */
  lossSum(batch: Batch, context?: Context): { total: Tensor; count: Tensor };
  /** scores of each next token [rows, length, vocabulary] */
  logits(batch: Batch, context?: Context): Tensor;
  /** the scale of the adapter whose lora_B has this path; null where all weights train */
  readonly scaling: ((path: string) => number) | null;
  /** a term of the loss beside the data's (AdaLoRA's orthogonality), recorded once a step; null or left out: none */
  readonly penalty?: () => Tensor | null;
  /** weights of the model that stay as they came, so that a checkpoint need not hold them; left out: none */
  readonly frozen?: Readonly<Record<string, Tensor>>;
  /** text of adapter_config.json as `checkpoint` writes it */
  adapterConfig?(): string;
  /** what happens around the steps */
  readonly routines?: readonly Routine[];
  /** what trains instead in the first steps of a run (ReLoRA's warm start: all weights) */
  readonly warmStart?: { readonly steps: number; readonly trainee: Trainee };
  /** what `files` are */
  readonly output: "adapter" | "model";
  /** the weights as files of a folder that PEFT or transformers can read; a full model's may be rounded to a smaller dtype */
  files(dtype?: "f32" | "f16" | "bf16"): Promise<Readonly<Record<string, Content>>>;
  /** the files of a checkpoint, where they are others: everything that `load` needs to go on bit for bit */
  checkpoint?(): Promise<Readonly<Record<string, Content>>>;
  /** takes up what `checkpoint` (or else `files`) wrote, strictly and without rounding */
  load(folder: string): Promise<void>;
}

/** Stores as they are, on the host. */
export async function snapshot(stores: Readonly<Record<string, Store>>): Promise<Map<string, HostArray>> {
  const arrays = new Map<string, HostArray>();
  for (const [name, s] of Object.entries(stores)) {
    const { dtype, shape, data } = await s.host();
    arrays.set(name, { dtype, shape, data: data.slice() });
  }
  return arrays;
}

const torchNames = { f32: "float32", f16: "float16", bf16: "bfloat16" } as const;
const rounded = (arrays: ReadonlyMap<string, HostArray>, dtype: "f32" | "f16" | "bf16"): ReadonlyMap<string, HostArray> =>
  new Map([...arrays].map(([name, a]) => [name, a.dtype === dtype ? a : { dtype, shape: a.shape, data: convertArray(a.data, a.dtype, dtype) }]));
/** The model's config with the dtype of its file and the class that transformers looks for. */
function configFor(model: CausalLM, dtype: "f32" | "f16" | "bf16"): Readonly<Record<string, unknown>> {
  const { torch_dtype: _, quantization_config: _codes, ...json } = model.config.json;
  return { ...json, architectures: json["architectures"] ?? [architectures[model.config.modelType]], dtype: torchNames[dtype] };
}

/** Reads numbers for all of these stores and closes the file; what it returns puts them in place. @throws FormatError for missing names and other shapes */
export async function readStores(stores: Readonly<Record<string, Store>>, file: SafetensorsFile): Promise<() => void> {
  try {
    const names = Object.keys(stores), found: HostArray[] = [];
    const missing = names.filter((name) => !file.entries.has(name));
    if (missing.length > 0) throw new FormatError(`${file.label}: ${missing.length} of ${names.length} tensors are missing, such as ${missing[0]}`, { file: file.label, key: missing[0], fix: "resume with the model and the options that the checkpoint was made with" });
    for (const name of names) {
      const h = await file.read(name), s = stores[name];
      if (!sameShape(h.shape, s.shape)) throw new FormatError(`${file.label}: ${name} has shape [${h.shape.join(", ")}], here it is [${s.shape.join(", ")}]`, { file: file.label, key: name, shapes: [h.shape, s.shape], fix: "resume with the model and the options that the checkpoint was made with" });
      found.push({ dtype: s.dtype, shape: s.shape, data: h.dtype === s.dtype ? h.data : convertArray(h.data, h.dtype, s.dtype) });
    }
    return () => { names.forEach((name, i) => { stores[name].set(found[i]); }); };
  } finally {
    await file.close();
  }
}
const inFolder = (folder: string, name: string): Promise<SafetensorsFile> => openSafetensors(node().path.join(folder, name));

/** config.json and weights of a model's folder. */
export const modelFolder = (model: CausalLM, arrays: ReadonlyMap<string, HostArray>, dtype: "f32" | "f16" | "bf16"): Readonly<Record<string, Content>> =>
  ({ "config.json": `${JSON.stringify(configFor(model, dtype), null, 2)}\n`, ...modelFiles(rounded(arrays, dtype)) });

/** Where the rows of a packed batch begin and end. */
const layoutOf = ({ positionIds, segmentIds }: Pick<Batch, "positionIds" | "segmentIds">): Pick<Batch, "positionIds" | "segmentIds"> => ({ ...(positionIds ? { positionIds } : {}), ...(segmentIds ? { segmentIds } : {}) });

/** Scales by module, found by the name of a factor. */
function scalingOf(tuned: Tuned<CausalLM>): (path: string) => number {
  const scales = new Map(tuned.targets.targets.map(({ path, kind, scale }) => [factorKey(path, "B", kind), scale]));
  return (path) => scales.get(path) ?? 1;
}

/** The base's weights but those that train and those that an initialisation computes anew. */
function frozenOf(tuned: Tuned<CausalLM>): Readonly<Record<string, Tensor>> {
  const own = new Set<Tensor>(tuned.tensors().values()), made = needsNumbers(tuned.loraConfig.initLoraWeights) ? tuned.targets.targets.map(({ path }) => path) : [];
  return Object.fromEntries(Object.entries(tuned.base.weights()).filter(([name, w]) => !own.has(w) && !made.some((path) => name === path || name.startsWith(`${path}.`))));
}

/** What a model with an adapter computes, for any trainee of it. */
export const throughAdapter = (tuned: Tuned<CausalLM>): Pick<Trainee, "lossSum" | "logits" | "scaling" | "penalty"> => ({
  lossSum: (batch, context = {}) => tuned.base.lossSum(batch, tuned.context(context)),
  logits: ({ inputIds, labels: _, ...layout }, context = {}) => tuned.base.logits(inputIds, { ...tuned.context(context), ...layoutOf(layout) }),
  scaling: scalingOf(tuned),
  penalty: () => tuned.penalty(),
});

/** Trains the factors of an adapter; its files are PEFT's, written with these options. */
export function adapterTrainee(tuned: Tuned<CausalLM>, routines: readonly Routine[] = [], save: SaveOptions = {}): Trainee {
  const trainable = Object.fromEntries(tuned.tensors());
  return {
    kind: "adapter",
    output: "adapter",
    model: tuned.base,
    trainable,
    routines,
    ...throughAdapter(tuned),
    frozen: frozenOf(tuned),
    adapterConfig: () => writeLoraConfig(tuned.fileConfig()),
    files: () => tuned.files(save),
    checkpoint: () => tuned.files({ convert: false }),
    load: async (folder) => { (await readStores(trainable, await inFolder(folder, "adapter_model.safetensors")))(); },
  };
}

/** Trains every weight; its files are those of a model folder. @throws ConfigError for weights held as codes */
export function fullTrainee(model: CausalLM): Trainee {
  const trainable = model.parameters(), codes = Object.keys(model.weights()).find((name) => !Object.hasOwn(trainable, name));
  if (codes !== undefined) throw new ConfigError(`${codes} is held as codes, which do not train`, { key: "use_peft", value: codes, fix: "train an adapter, or load the model with quantize: false" });
  return {
    kind: "full",
    output: "model",
    model,
    trainable,
    lossSum: (batch, context) => model.lossSum(batch, context),
    logits: ({ inputIds, labels: _, ...layout }, context) => model.logits(inputIds, { ...context, ...layoutOf(layout) }),
    scaling: null,
    files: async (dtype = "f32") => modelFolder(model, await snapshot(trainable), dtype),
    load: async (folder) => { (await readStores(trainable, await openModelFolder(folder)))(); },
  };
}
