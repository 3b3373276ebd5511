/** Checkpoint folders: written whole or not at all, enough to go on bit for bit, the weights readable by PEFT or transformers. */
import { type Content, fileSystem, isRecord, node, openSafetensors, parseJsonObject, readText, recoverDirectory, safetensorsParts, writeDirectoryAtomic } from "@adjoint/io";
import { isPlateau } from "@adjoint/optim";
import { ConfigError, FormatError, getDevice, type HostArray } from "@adjoint/tensor";
import { checkAdapter } from "./adapter-check.ts";
import { baseDigest, checkBase } from "./base-digest.ts";
import type { DataSet } from "./data/dataset.ts";
import type { Training } from "./loop.ts";
import type { StepMetrics } from "./metrics.ts";
import type { Routine, RoutineState } from "./routine.ts";
import { type Recipe, compactRecipe, defaultRecipe } from "./recipe.ts";

export const CHECKPOINT_FORMAT = 1;
const STATE = "trainer_state.json", OPTIMIZER = "optimizer.safetensors", SCHEDULER = "scheduler.json", RANDOM = "rng.json", DATA = "data.json", METHOD = "method.json", METHOD_TENSORS = "method.safetensors", ORIGIN = "adapter_origin.safetensors";

/** Keys that do not change a run's numbers: they may differ when it goes on. */
const free: ReadonlySet<keyof Recipe> = new Set<keyof Recipe>([
  "model_name_or_path", "model_revision", "tokenizer_name", "config_name", "dataset_name", "eval_dataset_name", "old_dataset_name", "ids", "eval_ids", "validation_split_percentage",
  "per_device_eval_batch_size", "gradient_checkpointing", "output_dir", "overwrite_output_dir", "logging_steps", "eval_steps", "save_steps", "save_total_limit",
  "resume_from_checkpoint", "sample_prompt", "sample_max_new_tokens", "device", "threads", "wide", "init_adapter", "save_dtype", "save_embedding_layers",
]);
const binding = (recipe: Recipe): Readonly<Record<string, unknown>> => Object.fromEntries(Object.entries(recipe).filter(([key]) => !(free as ReadonlySet<string>).has(key)));

/** SHA-256 of what a run's numbers follow from: the recipe's binding keys. */
export const configHash = (recipe: Recipe): string => sha256(JSON.stringify(binding(recipe)));
const sha256 = (text: string | Uint8Array): string => node().crypto.createHash("sha256").update(text).digest("hex");

/** SHA-256 of all samples in their order. */
export function dataHash(data: DataSet): string {
  const hash = node().crypto.createHash("sha256");
  for (const { ids, labels, pieces } of data.samples) {
    hash.update(new Uint8Array(Int32Array.of(ids.length, pieces?.length ?? -1, ...(pieces ?? [])).buffer));
    hash.update(new Uint8Array(Int32Array.from(ids).buffer)).update(new Uint8Array(Int32Array.from(labels).buffer));
  }
  return hash.digest("hex");
}

export interface CheckpointOptions {
  /** folder that holds `checkpoint-N` */
  readonly folder: string;
  readonly recipe: Recipe;
  /** metrics of all steps so far */
  readonly history?: readonly StepMetrics[];
  /** checkpoints to keep; 0: all */
  readonly limit?: number;
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

/** What the routines remember: numbers in method.json, tensors in method.safetensors as `routine.name`. */
async function methodFiles(routines: readonly Routine[]): Promise<Record<string, Content>> {
  const states = await Promise.all(routines.map(async (r) => [r.name, await r.state()] as const));
  const arrays = new Map(states.flatMap(([name, { arrays: own = {} }]) => Object.entries(own).map(([key, array]) => [`${name}.${key}`, array] as const)));
  return { ...(states.length === 0 ? {} : { [METHOD]: json(Object.fromEntries(states.map(([name, { values }]) => [name, values]))) }), ...(arrays.size === 0 ? {} : { [METHOD_TENSORS]: safetensorsParts(arrays) }) };
}

/** What `methodFiles` wrote. @throws FormatError when a routine's part is missing */
async function readMethods(routines: readonly Routine[], folder: string): Promise<ReadonlyMap<Routine, RoutineState>> {
  const found = new Map<Routine, RoutineState>(), { join } = node().path;
  if (routines.length === 0) return found;
  const values = await readJson(folder, METHOD), tensors = (await namesIn(folder)).includes(METHOD_TENSORS) ? await readArrays(join(folder, METHOD_TENSORS)) : {};
  for (const routine of routines) {
    const own = values[routine.name], prefix = `${routine.name}.`;
    if (!isRecord(own)) throw new FormatError(`${join(folder, METHOD)}: there is nothing of ${routine.name}`, { file: join(folder, METHOD), key: routine.name, fix: "resume with the options that the checkpoint was made with" });
    found.set(routine, { values: Object.fromEntries(Object.entries(own).map(([k, v]) => [k, Number(v)])), arrays: Object.fromEntries(Object.entries(tensors).filter(([k]) => k.startsWith(prefix)).map(([k, a]) => [k.slice(prefix.length), a])) });
  }
  return found;
}

async function readArrays(file: string): Promise<Record<string, HostArray>> {
  const saved = await openSafetensors(file), arrays: Record<string, HostArray> = {};
  try {
    for (const name of saved.entries.keys()) arrays[name] = await saved.read(name);
  } finally {
    await saved.close();
  }
  return arrays;
}

/** The first factors that a checkpoint keeps of an adapter that started away from zero, by name; null where there are none. */
export async function checkpointOrigin(folder: string): Promise<ReadonlyMap<string, HostArray> | null> {
  return (await namesIn(folder)).includes(ORIGIN) ? new Map(Object.entries(await readArrays(node().path.join(folder, ORIGIN)))) : null;
}

/** The files of a checkpoint, taken between steps. */
async function checkpointFiles(training: Training, { recipe, history = [] }: CheckpointOptions): Promise<Record<string, Content>> {
  const { options, step, optimizer, stepsPerEpoch } = training, { data, seed = 42, shuffle = true, batchSize = 8, accumulation = 1 } = options;
  const state = {
    format_version: CHECKPOINT_FORMAT, epoch: step / stepsPerEpoch, global_step: step, max_steps: options.steps, num_train_epochs: options.steps / stepsPerEpoch,
    train_batch_size: batchSize, logging_steps: 1, eval_steps: recipe.eval_steps, save_steps: recipe.save_steps, num_input_tokens_seen: training.tokensSeen, total_flos: 0,
    best_metric: null, best_model_checkpoint: null, kind: training.trainee.kind, config_hash: configHash(recipe), recipe: compactRecipe(recipe), device: getDevice().name, engine: engineOf(),
    base: await baseDigest(training.trainee),
    log_history: history.map((m) => ({ step: m.step, epoch: m.epoch, loss: m.loss, grad_norm: m.grad_norm, learning_rate: m.learning_rate })),
  };
  return {
    ...(await (training.trainee.checkpoint ?? training.trainee.files)()),
    ...(await methodFiles(training.trainee.routines ?? [])),
    [OPTIMIZER]: safetensorsParts(await optimizer.state()),
    [SCHEDULER]: json({ type: recipe.lr_scheduler_type, learning_rate: recipe.learning_rate, steps: options.steps, last_step: step, last_learning_rate: step === 0 ? null : options.learningRate(step - 1), ...(isPlateau(options.learningRate) ? { state: options.learningRate.state() } : {}) }),
    [RANDOM]: json({ algorithm: "threefry2x32-20", seed, streams: { "data-order": "epoch", dropout: "micro-batch" }, dropout_step: step * accumulation }),
    [DATA]: json({ sha256: dataHash(data), rows: data.samples.length, epoch: Math.floor(step / stepsPerEpoch), next_step: step, seed, shuffle, batch_size: batchSize, accumulation, microstep: 0 }),
    [STATE]: json(state),
  };
}
/** What rounds: fused multiply-add depends on the engine. */
const engineOf = (): string => `node ${globalThis.process?.versions?.node?.split(".")[0] ?? "?"}`;

const namesIn = async (folder: string): Promise<readonly string[]> => { const names = await fileSystem().list(folder); return names === null || names === "file" ? [] : names; };
const numbered = (name: string): number => Number(/^checkpoint-(\d+)$/.exec(name)?.[1] ?? Number.NaN);

/** Writes `checkpoint-<step>` and removes the oldest ones beyond the limit. Returns its path. @throws FileError; then no checkpoint was lost or half-written */
export async function saveCheckpoint(training: Training, options: CheckpointOptions): Promise<string> {
  const { join } = node().path, { folder, limit = 0 } = options, target = join(folder, `checkpoint-${training.step}`);
  await writeDirectoryAtomic(target, await checkpointFiles(training, options), { replaceAll: true });
  if (limit > 0) {
    const all = (await checkpoints(folder)).filter((step) => step !== training.step);
    for (const step of all.slice(0, Math.max(0, all.length + 1 - limit))) await fileSystem().remove(join(folder, `checkpoint-${step}`));
  }
  return target;
}

/** Steps of the checkpoints in a folder, rising. */
export async function checkpoints(folder: string): Promise<number[]> {
  return (await namesIn(folder)).map(numbered).filter((n) => !Number.isNaN(n)).sort((a, b) => a - b);
}

/** The last checkpoint of a run's folder. @throws ConfigError if there is none */
export async function latestCheckpoint(folder: string): Promise<string> {
  const { join } = node().path;
  // a writer killed between its two renames leaves the old folder under another name
  for (const name of await namesIn(folder)) {
    const left = /^\.(checkpoint-\d+)\.previous$/.exec(name)?.[1];
    if (left !== undefined) await recoverDirectory(join(folder, left));
  }
  const last = (await checkpoints(folder)).at(-1);
  if (last === undefined) throw new ConfigError(`${folder}: there is no checkpoint to resume from`, { file: folder, key: "resume_from_checkpoint", value: folder, fix: "train with --save-steps N, or start without --resume-from-checkpoint" });
  return join(folder, `checkpoint-${last}`);
}

/** What stands in a checkpoint before any tensor is read. */
export interface CheckpointInfo {
  readonly folder: string;
  readonly step: number;
  readonly recipe: Recipe;
  readonly state: Readonly<Record<string, unknown>>;
}

async function readJson(folder: string, name: string): Promise<Readonly<Record<string, unknown>>> {
  const file = node().path.join(folder, name), fix = `${folder} is not a checkpoint of adjoint: use a folder named checkpoint-N`;
  const text = await readText(file).catch((cause: unknown) => { throw new FormatError(`${file} cannot be read`, { file, cause, fix }); });
  return parseJsonObject(text, file, fix);
}

/** Reads what a checkpoint says about itself. @throws FormatError */
export async function readCheckpoint(folder: string): Promise<CheckpointInfo> {
  const state = await readJson(folder, STATE), step = state["global_step"], file = node().path.join(folder, STATE);
  if (state["format_version"] !== CHECKPOINT_FORMAT) throw new FormatError(`${file}: format_version is ${JSON.stringify(state["format_version"])}`, { file, key: "format_version", value: state["format_version"], fix: `this version of adjoint reads format ${CHECKPOINT_FORMAT}` });
  if (typeof step !== "number" || !Number.isInteger(step) || step < 0) throw new FormatError(`${file}: global_step is ${JSON.stringify(step)}`, { file, key: "global_step", value: step, fix: "use another checkpoint" });
  return { folder, step, recipe: { ...defaultRecipe, ...(isRecord(state["recipe"]) ? state["recipe"] : {}) }, state };
}

/**
 * Puts a training where the checkpoint was: parameters, optimizer, step. The next steps are bit-equal to those of a run that was never cut.
 * Returns notes: what may round differently. @throws ConfigError if the recipe, the data, the base or the adapter's options are not those of the checkpoint; FormatError for damaged files
 */
export async function loadCheckpoint(training: Training, recipe: Recipe, info: CheckpointInfo): Promise<readonly string[]> {
  const { folder, step, state } = info;
  const ours = binding(recipe), theirs = binding(info.recipe);
  for (const key of Object.keys(ours)) {
    if (JSON.stringify(ours[key]) === JSON.stringify(theirs[key])) continue;
    throw new ConfigError(`${folder}: the run was made with ${key} = ${JSON.stringify(theirs[key])}, now it is ${JSON.stringify(ours[key])}`, { file: folder, key, value: ours[key], fix: `set ${key} back, or start a new run in another output_dir` });
  }
  const was = training.step;
  training.step = step;      // what trains there, and by which optimizer, follows from it
  try {
    await takeUp(training, recipe, info);
  } catch (error) {
    training.step = was;
    throw error;
  }
  const device = getDevice().name, notes: string[] = [];
  if (state["device"] !== device) notes.push(`the checkpoint was made on ${String(state["device"])}, this is ${device}: numbers will agree only up to rounding`);
  else if (state["engine"] !== engineOf()) notes.push(`the checkpoint was made under ${String(state["engine"])}, this is ${engineOf()}: fused multiply-add may round differently`);
  return notes;
}

/** The numbers of a checkpoint into a training that stands at its step; nothing changes unless all of it fits. */
async function takeUp(training: Training, recipe: Recipe, { folder, step, state, recipe: before }: CheckpointInfo): Promise<void> {
  const { join } = node().path;
  if (state["kind"] !== training.trainee.kind) throw new ConfigError(`${folder}: holds a run of kind ${String(state["kind"])}`, { file: folder, key: "use_peft", value: training.trainee.kind, fix: "set use_peft as it was" });
  if (state["max_steps"] !== training.options.steps) throw new ConfigError(`${folder}: the run was to take ${String(state["max_steps"])} steps, now ${training.options.steps}`, { file: folder, key: "max_steps", value: training.options.steps, fix: "keep max_steps, epochs and data as they were: the learning rate's course depends on them" });
  const data = await readJson(folder, DATA);
  if (data["sha256"] !== dataHash(training.options.data)) throw new ConfigError(`${folder}: the training data has changed since the checkpoint was made`, { file: folder, key: "dataset_name", value: training.options.data.name, fix: "resume with the same data, tokenizer and max_length" });
  const { adapterConfig } = training.trainee;
  if (adapterConfig !== undefined) await checkAdapter(adapterConfig(), folder, before, recipe);
  await checkBase(training.trainee, folder, state["base"]);
  const routines = training.trainee.routines ?? [], methods = await readMethods(routines, folder), arrays = await readArrays(join(folder, OPTIMIZER));
  const { learningRate } = training.options, scheduler = isPlateau(learningRate) ? (await readJson(folder, SCHEDULER))["state"] : null;
  await training.trainee.load(folder);
  training.optimizer.load(arrays);
  for (const [routine, own] of methods) routine.load(own, step);
  if (isPlateau(learningRate)) learningRate.load(scheduler);
  const seen = state["num_input_tokens_seen"];
  training.tokensSeen = typeof seen === "number" ? seen : 0;
}
