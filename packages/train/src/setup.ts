/** From a recipe to values: schedule, optimizer, adapter options, numbers of steps. */
import { compilePattern, type Tuned } from "@adjoint/lora";
import { aboutOptimizer, type Group, isEmbeddingTable, isPlateau, loraPlus, oneCycleMomentum, type Optimizer, optimizer, optimizerOptions, type RateOptions, relativeRate, type Schedule, schedule, scheduleOptions } from "@adjoint/optim";
import type { CausalLM, LoadModelOptions } from "@adjoint/models";
import { isFormatName } from "@adjoint/quant";
import { ConfigError } from "@adjoint/tensor";
import type { DataSet } from "./data/dataset.ts";
import type { TrainingOptions } from "./loop.ts";
import { defaultRecipe, type Recipe } from "./recipe.ts";
import { type ReloraOptions, reloraTrainee, restOf } from "./relora.ts";
import { adapterTrainee, type Trainee } from "./trainee.ts";
import { adaloraRoutine } from "./adalora.ts";

/** Optimizer steps of a recipe on this data. */
export function stepsOf(recipe: Recipe, data: DataSet): number {
  if (recipe.max_steps === 0) throw new ConfigError("max_steps = 0: there is nothing to train", { key: "max_steps", value: 0, fix: "give a number of steps, or -1 for num_train_epochs" });
  if (recipe.max_steps > 0) return recipe.max_steps;
  const each = data.stepsPerEpoch({ size: recipe.per_device_train_batch_size, accumulation: recipe.gradient_accumulation_steps });
  return Math.ceil(recipe.num_train_epochs * each);
}

/** Steps of warm-up: warmup_steps goes before warmup_ratio; below 1 it is a share, as in Transformers 5. */
export function warmupOf({ warmup_steps: given, warmup_ratio }: Recipe, steps: number): number {
  return given >= 1 ? given : Math.ceil(steps * (given > 0 ? given : warmup_ratio));
}

/** Optimizers whose momentum may follow a schedule: SGD's momentum, β₁ of Adam. */
const cycled: ReadonlySet<string> = new Set(["sgd", "adam", "adamw", "amsgrad", "adamw_hf"]);

/** ReLoRA's restarts as keys of its schedules. @throws ConfigError for a growth that the schedule does not have */
function restartsOf({ relora, relora_cycle: cycle, relora_warmup: growth, relora_warm_start: warm, lr_scheduler_type: name }: Recipe): Readonly<Record<string, string>> {
  const every = cycle ?? relora;
  if (growth > 0 && name !== "relora_cosine_restarts") throw new ConfigError(`relora_warmup = ${growth}: ${name} does not restart`, { key: "relora_warmup", value: growth, fix: "set lr_scheduler_type: relora_cosine_restarts, or remove it" });
  if (every === null) return {};
  if (name.startsWith("relora_") && warm % every !== 0) throw new ConfigError(`relora_warm_start = ${warm}: ${name} starts anew each ${every} steps, and merges are counted from the warm start's end`, { key: "relora_warm_start", value: warm, fix: `use a multiple of ${every}` });
  return name === "relora_cosine_restarts" ? { restart_every: String(every), restart_warmup_steps: String(growth) } : name === "relora_cosine" ? { cycle_length: String(every) } : {};
}

/** A recipe's ReLoRA; null where it asks for none. @throws ConfigError for keys that have no meaning */
export function reloraOptions(recipe: Recipe): Omit<ReloraOptions, "full"> | null {
  const { relora: every, relora_cycle: cycle, relora_reset: reset, relora_reset_ratio: ratio, relora_warm_start: warmStart, seed } = recipe;
  const bad = (key: keyof Recipe, problem: string, fix: string): ConfigError => new ConfigError(problem, { key, value: recipe[key], fix });
  if (every === null) {
    for (const key of ["relora_cycle", "relora_warmup", "relora_warm_start", "relora_reset", "relora_reset_ratio", "relora_train_rest"] as const) if (recipe[key] !== defaultRecipe[key]) throw bad(key, `${key} goes with relora`, "set relora to the steps between merges, or remove it");
    return null;
  }
  if (!recipe.use_peft) throw bad("relora", "ReLoRA trains an adapter, and all weights train", "set use_peft: true");
  return { every, seed, warmStart, ...(cycle === null ? {} : { cycle }), ...(reset === "zero" || reset === "random" || reset === "magnitude" || reset === "none" ? { reset } : {}), ...(ratio === null ? {} : { ratio }) };
}

/** Optimizers that see A and B as one update B A. */
const pairwise: ReadonlySet<string> = new Set(["lorafa", "lorapro", "riemannian"]);

/** What a recipe trains of a model with an adapter. @throws ConfigError for keys that have no meaning together */
export function traineeOf(recipe: Recipe, tuned: Tuned<CausalLM>): Trainee {
  const relora = reloraOptions(recipe);
  if (relora !== null && recipe.peft_type !== "LORA") throw new ConfigError(`relora with peft_type ${recipe.peft_type}: merging would take away what it learns by`, { key: "relora", value: recipe.relora, fix: "use peft_type: LORA" });
  const { adalora, vera } = tuned.loraConfig;
  if ((adalora !== null || vera !== null) && pairwise.has(aboutOptimizer(recipe.optim).name)) throw new ConfigError(`optim ${recipe.optim} is about the pair B A, and ${adalora !== null ? "AdaLoRA" : "VeRA"} has vectors between and around them`, { key: "optim", value: recipe.optim, fix: "use adamw_torch, or peft_type: LORA" });
  const { save_embedding_layers: save } = recipe, saveEmbeddings = typeof save === "boolean" ? save : "auto";
  if (relora !== null && saveEmbeddings !== "auto") throw new ConfigError(`save_embedding_layers = ${save} with relora: what comes out is a whole model`, { key: "save_embedding_layers", value: save, fix: "remove it" });
  return relora === null ? adapterTrainee(tuned, adalora === null ? [] : [adaloraRoutine(tuned)], { saveEmbeddings }) : reloraTrainee(tuned, { ...relora, full: recipe.relora_train_rest ? restOf(tuned) : [] });
}

/** The learning rate of each step, and the momentum that goes with it: under one_cycle with cycle_momentum. */
function courseOf(recipe: Recipe, steps: number): { readonly rate: Schedule; readonly momentum: Schedule | null } {
  const { lr_scheduler_type: name, learning_rate: peak, eval_steps } = recipe, warmup = warmupOf(recipe, steps), { cycleMomentum = false, baseMomentum = 0.85, maxMomentum = 0.95, ...more } = scheduleOptions(name, { ...restartsOf(recipe), ...recipe.lr_scheduler_kwargs });
  const relative = relativeOf(recipe);
  if (relative !== null) {
    if (peak !== 0 || name !== "constant" || warmup > 0) throw new ConfigError(`optim_args.relative_step makes its own rate, and learning_rate is ${peak} with lr_scheduler_type ${name}`, { key: "optim_args.relative_step", value: true, fix: "set learning_rate: 0 and lr_scheduler_type: constant, without a warm-up, or remove relative_step" });
    return { rate: relative, momentum: null };
  }
  if (name === "reduce_lr_on_plateau") {
    if (warmup > 0) throw new ConfigError(`${name}: a warm-up of ${warmup} steps has no place in it`, { key: "warmup_steps", value: warmup, fix: "set warmup_steps and warmup_ratio to 0" });
    if (eval_steps === 0) throw new ConfigError(`${name} looks at evaluations, and there are none while training`, { key: "eval_steps", value: 0, fix: "set eval_steps, for instance to a tenth of the steps" });
    return { rate: schedule(name, { peak, ...more }), momentum: null };
  }
  const rate = schedule(name, { peak, warmup, steps, ...more });
  if (!cycleMomentum) return { rate, momentum: null };
  if (!cycled.has(aboutOptimizer(recipe.optim).name)) throw new ConfigError(`cycle_momentum: the momentum of ${recipe.optim} is fixed`, { key: "lr_scheduler_kwargs.cycle_momentum", value: true, fix: `set it to false, or use one of ${[...cycled].join(", ")}` });
  const { divFactor: _, finalDivFactor: __, ...shape } = more;
  return { rate, momentum: oneCycleMomentum({ steps, baseMomentum, maxMomentum, ...shape }) };
}

/** The learning rate of each step. */
export const scheduleOf = (recipe: Recipe, steps: number): Schedule => courseOf(recipe, steps).rate;

/** Numbers by expression, each matched against the last components of a parameter's path, as in PEFT's rank_pattern. */
function patternsOf(recipe: Recipe, key: "learning_rate_pattern" | "weight_decay_pattern"): readonly { readonly source: string; readonly value: number }[] {
  return Object.entries(recipe[key]).map(([source, text]) => {
    const value = text.trim() === "" ? Number.NaN : Number(text);
    if (!(Number.isFinite(value) && value >= 0)) throw new ConfigError(`${key}: ${source} = ${text} is not a number of at least 0`, { key: `${key}[${JSON.stringify(source)}]`, value: text, fix: "write expression=number, such as .*lora_B.weight=1e-3" });
    return { source, value };
  });
}

/** The rate that Adafactor makes by itself, where a recipe asks for it. */
function relativeOf({ optim, optim_args }: Recipe): Schedule | null {
  if (aboutOptimizer(optim).name !== "adafactor") return null;
  const { relativeStep, warmupInit } = optimizerOptions(optim, optim_args);
  return relativeStep === true ? relativeRate(warmupInit === true) : null;
}

/** Rates, decay and groups of a recipe: the patterns first, then LoRA+. */
function ratesOf(recipe: Recipe, learningRate: Schedule): RateOptions {
  const { learning_rate: peak, weight_decay: weightDecay, loraplus_lr_ratio: ratio } = recipe, rates = patternsOf(recipe, "learning_rate_pattern"), decays = patternsOf(recipe, "weight_decay_pattern");
  if (ratio !== null && !recipe.use_peft) throw new ConfigError("loraplus_lr_ratio is about an adapter's factors, and all weights train", { key: "loraplus_lr_ratio", value: ratio, fix: "remove it, or set use_peft: true" });
  if (ratio === null && rates.length === 0 && decays.length === 0) return { learningRate, weightDecay };
  if (peak === 0) throw new ConfigError("learning_rate = 0: rates of groups follow its course, which cannot be told", { key: "learning_rate", value: 0, fix: "give a rate above 0" });
  const schedule: Schedule = (t) => learningRate(t) / peak;
  const groups: readonly Group[] = [...new Set([...rates, ...decays].map((p) => p.source))].map((source) => {
    const rate = rates.find((p) => p.source === source), decay = decays.find((p) => p.source === source), name = `${rate ? "learning_rate_pattern" : "weight_decay_pattern"}[${JSON.stringify(source)}]`, pattern = compilePattern(`(?:.*\\.)?(?:${source})`, { key: name });
    return { name, match: (path) => pattern.fullMatch(path) !== null, ...(rate ? { learningRate: rate.value } : {}), ...(decay ? { weightDecay: decay.value } : {}) };
  });
  const own = ratio === null ? { learningRate: peak, weightDecay, schedule, groups: [] } : loraPlus({ learningRate: peak, ratio, weightDecay, embeddingLearningRate: recipe.loraplus_lr_embedding, schedule });
  return { ...own, groups: [...groups, ...own.groups] };
}

/** Tokens of a full micro-batch: what Sophia's samples of the curvature are multiplied by; those of a batch that predicts fewer are scaled before (`curvature.bs`). */
const batchTokens = (recipe: Recipe): number => recipe.per_device_train_batch_size * recipe.max_length;

/** adam_beta1, adam_beta2 and adam_epsilon, for optimizers that have them. */
function momentsOf(recipe: Recipe): Readonly<Record<string, number>> {
  const { moments, keys } = aboutOptimizer(recipe.optim), given = { beta1: "adam_beta1", beta2: "adam_beta2", eps: "adam_epsilon" } as const;
  return Object.fromEntries(Object.entries(given).filter(([key, name]) => keys[key] !== undefined && (key === "eps" || keys[key].index !== null) && (moments === "always" || recipe[name] !== defaultRecipe[name])).map(([key, name]) => [key, recipe[name]]));
}

/** What an optimizer may need that no recipe says. */
export interface OptimizerNeeds {
  /** a momentum (β₁) that follows the schedule */
  readonly momentum?: Schedule | null;
  /** the scale of each adapter by the path of its lora_B, for LoRA-FA and LoRA-Pro */
  readonly scaling?: ((path: string) => number) | null;
}

/**
 * The recipe's optimizer; optim_args go before the keys of the same meaning.
 * Errors: ConfigError for a name in optim_args that this optimizer does not have, or a value that it refuses.
 */
export function optimizerFor(recipe: Recipe, learningRate: Schedule, { momentum = null, scaling = null }: OptimizerNeeds = {}): Optimizer {
  const { optim } = recipe, { defaults } = aboutOptimizer(optim), own = optimizerOptions(optim, { ...momentsOf(recipe), ...recipe.optim_args });
  if ("scaling" in defaults && scaling === null) throw new ConfigError(`${optim} trains the factors of an adapter, and all weights train`, { key: "optim", value: optim, fix: "set use_peft: true, or use another optimizer" });
  // embeddings keep states of 32 bits, as under Transformers' Trainer and in PEFT's LoRA+
  const given = { ...("bs" in defaults ? { bs: batchTokens(recipe) } : {}), ...("scaling" in defaults ? { scaling } : {}), ...("min8bitSize" in defaults ? { keep32bit: isEmbeddingTable } : {}) };
  const { weightDecay = recipe.weight_decay } = own, { learningRate: rate, ...rates } = ratesOf({ ...recipe, weight_decay: Number(weightDecay) }, learningRate);
  return optimizer(optim, { ...rates, ...(relativeOf(recipe) === null ? { learningRate: rate } : {}), maxGradNorm: recipe.max_grad_norm, ...given, ...own, ...momentumOf(momentum, own["betas"] ?? defaults["betas"]) });
}

/** Sophia's curvature is averaged with its own β₂; a `bs` of optim_args is taken at its word. */
function curvatureOf(recipe: Recipe): Pick<TrainingOptions, "curvature"> {
  const { name, defaults } = aboutOptimizer(recipe.optim), { betas = defaults["betas"], bs = null } = optimizerOptions(recipe.optim, { ...momentsOf(recipe), ...recipe.optim_args });
  return name === "sophia" && Array.isArray(betas) ? { curvature: { beta2: Number(betas[1]), ...(bs === null ? { bs: batchTokens(recipe) } : {}) } } : {};
}

/** A momentum that changes, where the optimizer keeps its own. */
const momentumOf = (momentum: Schedule | null, betas: unknown): object => (momentum === null ? {} : Array.isArray(betas) ? { betas: [momentum, Number(betas[1])] } : { momentum });

/** Everything that a training needs besides what trains. */
export function trainingOptions(recipe: Recipe, data: DataSet, scaling: OptimizerNeeds["scaling"] = null): TrainingOptions {
  const steps = stepsOf(recipe, data), { rate: learningRate, momentum } = courseOf(recipe, steps), warm = recipe.relora === null ? 0 : recipe.relora_warm_start;
  if (warm > 0 && isPlateau(learningRate)) throw new ConfigError(`relora_warm_start with ${recipe.lr_scheduler_type}: the rate's course is fixed before a warm start`, { key: "lr_scheduler_type", value: recipe.lr_scheduler_type, fix: "use relora_cosine_restarts, or cosine" });
  if (warm > 0 && pairwise.has(aboutOptimizer(recipe.optim).name)) throw new ConfigError(`relora_warm_start with optim ${recipe.optim}, which is about the pair B A: all weights train at the start`, { key: "optim", value: recipe.optim, fix: "use adamw_torch" });
  /** the optimizer of the factors counts its own steps, the course those of the run */
  const later = (f: Schedule): Schedule => (warm === 0 ? f : (t) => f(t + warm)), own = optimizerFor(recipe, later(learningRate), { momentum: momentum === null ? null : later(momentum), scaling });
  return {
    data, steps, learningRate, maxGradNorm: recipe.max_grad_norm, optimizer: own, ...(warm === 0 ? {} : { warmOptimizer: optimizerFor(recipe, learningRate, { momentum }) }), batchSize: recipe.per_device_train_batch_size, accumulation: recipe.gradient_accumulation_steps,
    gradientCheckpointing: recipe.gradient_checkpointing, seed: recipe.seed, shuffle: recipe.shuffle, ...curvatureOf(recipe),
  };
}

/** Which revision of it a recipe's base is, and how it is held: as codes, or as its file has it. @throws ConfigError for keys that contradict each other */
export function baseOptions(recipe: Recipe): Pick<LoadModelOptions, "quantize" | "upcast" | "revision"> {
  const { load_in_4bit: four, load_in_8bit: eight, quant_block_size: block, llm_int8_skip_modules: skip, upcast_modules: upcast } = recipe, doubleQuant = recipe.bnb_4bit_use_double_quant;
  const bad = (key: keyof Recipe, problem: string, fix: string): ConfigError => new ConfigError(problem, { key, value: recipe[key], fix });
  if (four && eight) throw bad("load_in_8bit", "load_in_4bit and load_in_8bit are both true", "choose one");
  if ((four || eight) && !recipe.use_peft) throw bad(four ? "load_in_4bit" : "load_in_8bit", "codes do not train: quantized bases go with an adapter", "set use_peft, or load the base unquantized");
  for (const key of ["bnb_4bit_quant_type", "bnb_4bit_use_double_quant"] as const) if (!four && recipe[key] !== defaultRecipe[key]) throw bad(key, `${key} goes with load_in_4bit`, "set load_in_4bit, or remove it");
  for (const key of ["quant_block_size", "llm_int8_skip_modules"] as const) if (!four && !eight && JSON.stringify(recipe[key]) !== JSON.stringify(defaultRecipe[key])) throw bad(key, `${key} goes with load_in_4bit or load_in_8bit`, "set one of them, or remove it");
  const rest = { ...(upcast === "norms" || upcast === "all" ? { upcast } as const : {}), ...(recipe.model_revision === null ? {} : { revision: recipe.model_revision }) };
  if (!four && !eight) return rest;
  const format = eight ? "int8" : recipe.bnb_4bit_quant_type;
  if (!isFormatName(format)) throw bad("bnb_4bit_quant_type", `bnb_4bit_quant_type ${format} is not known`, "use nf4 or fp4");
  return { ...rest, quantize: { format, doubleQuant, skip: skip.filter((name) => name !== "none"), ...(block === null ? {} : { block }) } };
}
