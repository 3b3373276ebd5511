/** From a recipe to values: schedule, optimizer, adapter options, numbers of steps. */
import { type LoraOptions, nearest } from "@adjoint/lora";
import { type Optimizer, optimizer, type Schedule, schedule } from "@adjoint/optim";
import { ConfigError } from "@adjoint/tensor";
import type { DataSet } from "./data/dataset.ts";
import type { TrainingOptions } from "./loop.ts";
import type { Recipe } from "./recipe.ts";

/** Optimizer steps of a recipe on this data. */
export function stepsOf(recipe: Recipe, data: DataSet): number {
  if (recipe.max_steps === 0) throw new ConfigError("max_steps = 0: there is nothing to train", { key: "max_steps", value: 0, fix: "give a number of steps, or -1 for num_train_epochs" });
  if (recipe.max_steps > 0) return recipe.max_steps;
  const each = data.stepsPerEpoch({ size: recipe.per_device_train_batch_size, accumulation: recipe.gradient_accumulation_steps });
  return Math.ceil(recipe.num_train_epochs * each);
}

/** The learning rate of each step. warmup_steps goes before warmup_ratio. */
export function scheduleOf(recipe: Recipe, steps: number): Schedule {
  const warmup = recipe.warmup_steps > 0 ? recipe.warmup_steps : Math.ceil(steps * recipe.warmup_ratio);
  return schedule(recipe.lr_scheduler_type, { peak: recipe.learning_rate, warmup, steps });
}

interface ArgumentRule { readonly optims: readonly string[]; readonly key: string; readonly kind: "number" | "flag" }
const optimArguments: Readonly<Record<string, ArgumentRule>> = {
  beta1: { optims: ["adamw_torch"], key: "beta1", kind: "number" },
  beta2: { optims: ["adamw_torch"], key: "beta2", kind: "number" },
  eps: { optims: ["adamw_torch"], key: "eps", kind: "number" },
  amsgrad: { optims: ["adamw_torch"], key: "amsgrad", kind: "flag" },
  weight_decay: { optims: ["adamw_torch", "sgd"], key: "weightDecay", kind: "number" },
  momentum: { optims: ["sgd"], key: "momentum", kind: "number" },
  dampening: { optims: ["sgd"], key: "dampening", kind: "number" },
  nesterov: { optims: ["sgd"], key: "nesterov", kind: "flag" },
};

/** optim_args as numbers and flags. @throws ConfigError for a name that this optimizer does not have */
function readArguments(recipe: Recipe): Readonly<Record<string, number | boolean>> {
  const found: Record<string, number | boolean> = {};
  for (const [name, text] of Object.entries(recipe.optim_args)) {
    const rule = Object.hasOwn(optimArguments, name) ? optimArguments[name] : undefined;
    const known = Object.keys(optimArguments).filter((n) => optimArguments[n].optims.includes(recipe.optim));
    if (rule === undefined || !rule.optims.includes(recipe.optim)) {
      const near = nearest(name, known, 1)[0];
      throw new ConfigError(`optim_args: ${recipe.optim} has no option ${name}`, { key: `optim_args.${name}`, value: text, fix: near === undefined ? `its options: ${known.join(", ")}` : `did you mean ${near}?` });
    }
    const value = rule.kind === "flag" ? (/^true$/i.test(text) ? true : /^false$/i.test(text) ? false : Number.NaN) : Number(text === "" ? Number.NaN : text);
    if (Number.isNaN(value)) throw new ConfigError(`optim_args: ${name} = ${text} is not ${rule.kind === "flag" ? "true or false" : "a number"}`, { key: `optim_args.${name}`, value: text, fix: rule.kind === "flag" ? "write true or false" : "write a number such as 0.9" });
    found[rule.key] = value;
  }
  return found;
}

/** The recipe's optimizer; optim_args go before the keys of the same meaning. */
export function optimizerFor(recipe: Recipe, learningRate: Schedule): Optimizer {
  const { beta1 = recipe.adam_beta1, beta2 = recipe.adam_beta2, ...rest } = readArguments(recipe);
  const common = { learningRate, weightDecay: recipe.weight_decay, maxGradNorm: recipe.max_grad_norm };
  return recipe.optim === "sgd" ? optimizer("sgd", { ...common, ...rest }) : optimizer(recipe.optim, { ...common, betas: [Number(beta1), Number(beta2)], eps: recipe.adam_epsilon, ...rest });
}

/** Everything that a training needs besides what trains. */
export function trainingOptions(recipe: Recipe, data: DataSet): TrainingOptions {
  const steps = stepsOf(recipe, data), learningRate = scheduleOf(recipe, steps);
  return {
    data, steps, learningRate, optimizer: optimizerFor(recipe, learningRate), batchSize: recipe.per_device_train_batch_size, accumulation: recipe.gradient_accumulation_steps,
    gradientCheckpointing: recipe.gradient_checkpointing, seed: recipe.seed, shuffle: recipe.shuffle,
  };
}

const isExpression = (text: string): boolean => text === "all-linear" || /[()[\]{}\\|*+?^$]/.test(text);

/** A recipe's adapter as options of `lora`. */
export function loraOptions(recipe: Recipe, base: string | null): LoraOptions {
  const modules = recipe.lora_target_modules, numbersOf = (map: Readonly<Record<string, string>>): Record<string, number> => Object.fromEntries(Object.entries(map).map(([k, v]) => [k, Number(v)]));
  return {
    r: recipe.lora_r, loraAlpha: recipe.lora_alpha ?? recipe.lora_r, loraDropout: recipe.lora_dropout, useRslora: recipe.use_rslora, initLoraWeights: recipe.init_lora_weights,
    targetModules: modules.length === 1 && isExpression(modules[0]) ? modules[0] : modules,
    rankPattern: numbersOf(recipe.rank_pattern), alphaPattern: numbersOf(recipe.alpha_pattern), baseModelNameOrPath: base,
  };
}
