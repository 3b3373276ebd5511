/** What a loop trains, as a value: the adapter beside a frozen base, or all weights of a model. */
import { type Content, modelFiles, node, openModelFolder, openSafetensors, type SafetensorsFile } from "@adjoint/io";
import { adapterFiles, factorKey, type Tuned } from "@adjoint/lora";
import { architectures, type CausalLM } from "@adjoint/models";
import type { Context } from "@adjoint/nn";
import { ConfigError, convertArray, FormatError, type HostArray, sameShape, type Store, type Tensor } from "@adjoint/tensor";
import type { Batch } from "./data/tensors.ts";

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
  /** the weights as files of a folder that PEFT or transformers can read; a full model's may be rounded to a smaller dtype */
  files(dtype?: "f32" | "f16" | "bf16"): Promise<Readonly<Record<string, Content>>>;
  /** takes up what `files` wrote, strictly and without rounding */
  load(folder: string): Promise<void>;
}

async function snapshot(stores: Readonly<Record<string, Store>>): Promise<Map<string, HostArray>> {
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
  const { torch_dtype: _, ...json } = model.config.json;
  return { ...json, architectures: json["architectures"] ?? [architectures[model.config.modelType]], dtype: torchNames[dtype] };
}

/** Replaces all stores, or none. */
async function restore(stores: Readonly<Record<string, Store>>, file: SafetensorsFile): Promise<void> {
  try {
    const names = Object.keys(stores), found: HostArray[] = [];
    const missing = names.filter((name) => !file.entries.has(name));
    if (missing.length > 0) throw new FormatError(`${file.label}: ${missing.length} of ${names.length} tensors are missing, such as ${missing[0]}`, { file: file.label, key: missing[0], fix: "resume with the model and the options that the checkpoint was made with" });
    for (const name of names) {
      const h = await file.read(name), s = stores[name];
      if (!sameShape(h.shape, s.shape)) throw new FormatError(`${file.label}: ${name} has shape [${h.shape.join(", ")}], here it is [${s.shape.join(", ")}]`, { file: file.label, key: name, shapes: [h.shape, s.shape], fix: "resume with the model and the options that the checkpoint was made with" });
      found.push({ dtype: s.dtype, shape: s.shape, data: h.dtype === s.dtype ? h.data : convertArray(h.data, h.dtype, s.dtype) });
    }
    names.forEach((name, i) => { stores[name].set(found[i]); });
  } finally {
    await file.close();
  }
}

/** Where the rows of a packed batch begin and end. */
const layoutOf = ({ positionIds, segmentIds }: Pick<Batch, "positionIds" | "segmentIds">): Pick<Batch, "positionIds" | "segmentIds"> => ({ ...(positionIds ? { positionIds } : {}), ...(segmentIds ? { segmentIds } : {}) });

/** Scales by module, found by the name of a factor. */
function scalingOf(tuned: Tuned<CausalLM>): (path: string) => number {
  const scales = new Map(tuned.targets.targets.map(({ path, kind, scale }) => [factorKey(path, "B", kind), scale]));
  return (path) => scales.get(path) ?? 1;
}

/** Trains the factors of an adapter; its files are PEFT's. */
export function adapterTrainee(tuned: Tuned<CausalLM>): Trainee {
  const trainable = Object.fromEntries(tuned.tensors());
  return {
    kind: "adapter",
    model: tuned.base,
    trainable,
    lossSum: (batch, context = {}) => tuned.base.lossSum(batch, tuned.context(context)),
    logits: ({ inputIds, labels: _, ...layout }, context = {}) => tuned.base.logits(inputIds, { ...tuned.context(context), ...layoutOf(layout) }),
    scaling: scalingOf(tuned),
    files: async () => adapterFiles(tuned.fileConfig(), await tuned.snapshot()),
    load: async (folder) => restore(trainable, await openSafetensors(node().path.join(folder, "adapter_model.safetensors"))),
  };
}

/** Trains every weight; its files are those of a model folder. @throws ConfigError for weights held as codes */
export function fullTrainee(model: CausalLM): Trainee {
  const trainable = model.parameters(), codes = Object.keys(model.weights()).find((name) => !Object.hasOwn(trainable, name));
  if (codes !== undefined) throw new ConfigError(`${codes} is held as codes, which do not train`, { key: "use_peft", value: codes, fix: "train an adapter, or load the model with quantize: false" });
  return {
    kind: "full",
    model,
    trainable,
    lossSum: (batch, context) => model.lossSum(batch, context),
    logits: ({ inputIds, labels: _, ...layout }, context) => model.logits(inputIds, { ...context, ...layoutOf(layout) }),
    scaling: null,
    files: async (dtype = "f32") => ({ "config.json": `${JSON.stringify(configFor(model, dtype), null, 2)}\n`, ...modelFiles(rounded(await snapshot(trainable), dtype)) }),
    load: async (folder) => restore(trainable, await openModelFolder(folder)),
  };
}
