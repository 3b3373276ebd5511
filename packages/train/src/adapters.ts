/** From a recipe to an adapter beside a model: options of `lora`, and the data that initialisations look at. */
import { gradients } from "@adjoint/autograd";
import { createLora, type InitialData, isInitLoraWeights, keepsOrigin, lora, type LoraOptions, needsNumbers, type Tuned } from "@adjoint/lora";
import type { CausalLM } from "@adjoint/models";
import { ConfigError, type HostArray, Store, type Tensor } from "@adjoint/tensor";
import type { DataSet } from "./data/dataset.ts";
import { type Batch, toTensors } from "./data/tensors.ts";
import { defaultRecipe, type Recipe } from "./recipe.ts";

const isExpression = (text: string): boolean => text === "all-linear" || /[()[\]{}\\|*+?^$]/.test(text);
const numbersOf = (map: Readonly<Record<string, string>>): Record<string, number> => Object.fromEntries(Object.entries(map).map(([k, v]) => [k, Number(v)]));
const named = (names: readonly string[]): readonly string[] | string => (names.length === 1 && isExpression(names[0]) ? names[0] : names);

/** Keys that one kind of adapter alone has. */
const owners = {
  ADALORA: ["target_r", "init_r", "tinit", "tfinal", "delta_t", "adalora_beta1", "adalora_beta2", "orth_reg_weight"],
  VERA: ["projection_prng_key", "d_initial"],
} as const satisfies Readonly<Record<string, readonly (keyof Recipe)[]>>;

/** The recipe's kind of adapter; plain LoRA's own rank, alpha and scale are left to it. */
function kindOptions(recipe: Recipe): LoraOptions {
  const { peft_type: kind, lora_r: r, lora_alpha: alpha } = recipe;
  for (const [owner, keys] of Object.entries(owners)) {
    const key = owner === kind ? undefined : keys.find((k) => recipe[k] !== defaultRecipe[k]);
    if (key !== undefined) throw new ConfigError(`${key} goes with peft_type: ${owner}`, { key, value: recipe[key], fix: `set peft_type: ${owner}, or remove it` });
  }
  if (kind === "ADALORA") {
    const targetR = recipe.target_r ?? r, initR = recipe.init_r ?? Math.ceil(1.5 * targetR);
    return {
      loraAlpha: alpha ?? initR,
      adalora: { targetR, initR, tinit: recipe.tinit, tfinal: recipe.tfinal, deltaT: recipe.delta_t, beta1: recipe.adalora_beta1, beta2: recipe.adalora_beta2, orthRegWeight: recipe.orth_reg_weight, scaling: recipe.use_rslora ? "sqrt" : "ranknum" },
    };
  }
  if (kind === "VERA") return { r, ...(alpha === null ? {} : { loraAlpha: alpha }), vera: { projectionPrngKey: recipe.projection_prng_key, dInitial: recipe.d_initial } };
  return { r, loraAlpha: alpha ?? r, useRslora: recipe.use_rslora };
}

/** A recipe's adapter as options of `lora`. @throws ConfigError for keys that have no meaning together */
export function loraOptions(recipe: Recipe, base: string | null): LoraOptions {
  const { bias, init_lora_weights: init } = recipe;
  if (!isInitLoraWeights(init) || (bias !== "none" && bias !== "all" && bias !== "lora_only")) throw new ConfigError(`init_lora_weights = ${String(init)}, bias = ${bias}`, { key: "init_lora_weights", value: init });
  return {
    ...kindOptions(recipe), loraDropout: recipe.lora_dropout, initLoraWeights: init, useDora: recipe.use_dora, loraBias: recipe.lora_bias, bias,
    targetModules: named(recipe.lora_target_modules), excludeModules: recipe.exclude_modules.length === 0 ? null : named(recipe.exclude_modules), modulesToSave: recipe.modules_to_save.length === 0 ? null : recipe.modules_to_save,
    rankPattern: numbersOf(recipe.rank_pattern), alphaPattern: numbersOf(recipe.alpha_pattern), baseModelNameOrPath: base,
  };
}

/** What an adapter is made from besides the recipe. */
export interface AdapterSource {
  readonly base: string | null;
  readonly data: DataSet;
  /** first factors of an earlier run that goes on: `adapter_origin.safetensors` of its checkpoint */
  readonly origin?: ReadonlyMap<string, HostArray> | null;
  /** weights before they were quantized, by name (loftq) */
  readonly weights?: (name: string) => Promise<HostArray>;
  readonly onModule?: (done: { readonly path: string; readonly index: number; readonly count: number }) => void;
}

/** The first batches of the training, in its order. */
function* firstBatches(recipe: Recipe, data: DataSet): Generator<Batch> {
  for (let step = 0; step < recipe.init_batches; step++) yield toTensors(data.group(step, { size: recipe.per_device_train_batch_size, accumulation: 1, seed: recipe.seed, shuffle: recipe.shuffle })[0]);
}

/** Mean gradients of weights over the first batches, on the host. */
async function meanGradients(recipe: Recipe, model: CausalLM, data: DataSet, weights: ReadonlyMap<string, Tensor>): Promise<ReadonlyMap<string, HostArray>> {
  const of: Record<string, Store> = {}, sums = new Map<string, HostArray>();
  for (const [path, w] of weights) {
    if (!(w instanceof Store)) throw new ConfigError(`init_lora_weights = lora_ga needs the gradient of ${path}, and codes have none`, { key: "init_lora_weights", value: "lora_ga", fix: "load the base unquantized, or use pissa" });
    of[path.replaceAll(".", "/")] = w;
  }
  let count = 0;
  for (const batch of firstBatches(recipe, data)) {
    const found = gradients(model.loss(batch, { train: false }), of);
    count++;
    for (const [key, g] of Object.entries(found)) {
      if (g === null) continue;
      const path = key.replaceAll("/", "."), { shape, data: numbers } = await g.cast("f32").host(), sum = sums.get(path) ?? { dtype: "f32" as const, shape, data: new Float32Array(numbers.length) };
      for (let i = 0; i < numbers.length; i++) sum.data[i] += numbers[i];
      sums.set(path, sum);
    }
  }
  for (const { data: sum } of sums.values()) for (let i = 0; i < sum.length; i++) sum[i] /= count;
  return sums;
}

/** The recipe's adapter beside a model. Initialisations that look at data see the first batches of the training. @throws ConfigError as `lora` and `createLora` */
export async function tunedFor(recipe: Recipe, model: CausalLM, { base, data, origin = null, weights, onModule }: AdapterSource): Promise<Tuned<CausalLM>> {
  const options = { ...loraOptions(recipe, base), seed: recipe.seed }, { initLoraWeights: rule = true } = options;
  if (!needsNumbers(rule)) {
    if (recipe.init_batches !== defaultRecipe.init_batches) throw new ConfigError("init_batches goes with eva, corda and lora_ga", { key: "init_batches", value: recipe.init_batches, fix: "remove it, or choose one of them as init_lora_weights" });
    return lora(model, options);
  }
  const from: InitialData<Batch> = {
    batches: { [Symbol.iterator]: () => firstBatches(recipe, data) }, mask: ({ labels }) => labels.ge(0).cast("f32"),
    gradients: (w) => meanGradients(recipe, model, data, w), ...(weights === undefined ? {} : { weights }), ...(origin !== null && keepsOrigin(rule) ? { origin } : {}),
  };
  return createLora(model, { ...options, ...(onModule === undefined ? {} : { onModule }) }, from);
}
