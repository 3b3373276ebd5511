/** From a recipe to an adapter beside a model: options of `lora`, and the data that initialisations look at. */
import { gradients } from "@adjoint/autograd";
import { createLora, type InitialData, type JsonValue, keepsOrigin, lora, type LoraOptions, needsNumbers, readLoraConfig, type Tuned } from "@adjoint/lora";
import type { CausalLM } from "@adjoint/models";
import { ConfigError, fromHost, type HostArray, Store, type Tensor } from "@adjoint/tensor";
import type { DataSet } from "./data/dataset.ts";
import type { HostBatch } from "./data/sample.ts";
import { Batch } from "./data/tensors.ts";
import { defaultRecipe, type Recipe } from "./recipe.ts";

const isExpression = (text: string): boolean => text === "all-linear" || /[()[\]{}\\|*+?^$]/.test(text);
const named = (names: readonly string[]): readonly string[] | string => (names.length === 1 && isExpression(names[0]) ? names[0] : names);
const orNull = <T>(list: readonly T[]): readonly T[] | null => (list.length === 0 ? null : list);
/** The value that a text of a map stands for, as YAML has it; what is no number and no word of YAML's stays a text. */
const valueOf = (text: string): JsonValue => (text === "null" ? null : text === "true" || text === "false" ? text === "true" : text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text));
const valuesOf = (map: Readonly<Record<string, string>>): Readonly<Record<string, JsonValue>> => Object.fromEntries(Object.entries(map).map(([k, v]) => [k, valueOf(v)]));

/** Keys that one kind of adapter, or one initialisation, alone has. */
const owners: readonly { readonly key: "peft_type" | "init_lora_weights"; readonly value: string; readonly keys: readonly (keyof Recipe)[] }[] = [
  { key: "peft_type", value: "LORA", keys: ["rank_pattern", "alpha_pattern"] },
  { key: "peft_type", value: "ADALORA", keys: ["target_r", "init_r", "tinit", "tfinal", "delta_t", "adalora_beta1", "adalora_beta2", "orth_reg_weight"] },
  { key: "peft_type", value: "VERA", keys: ["projection_prng_key", "d_initial"] },
  ...["eva", "corda", "lora_ga", "loftq"].map((value) => ({ key: "init_lora_weights", value, keys: [`${value}_config`].filter((key): key is keyof Recipe => key in defaultRecipe) } as const)),
];
function checkOwners(recipe: Recipe): void {
  for (const { key: owner, value, keys } of owners) {
    const key = recipe[owner] === value ? undefined : keys.find((k) => JSON.stringify(recipe[k]) !== JSON.stringify(defaultRecipe[k]));
    if (key !== undefined) throw new ConfigError(`${key} goes with ${owner}: ${value}`, { key, value: recipe[key], fix: `set ${owner}: ${value}, or remove it` });
  }
}

/** The keys of adapter_config.json that the recipe's kind of adapter has for itself. */
function kindKeys(recipe: Recipe): Readonly<Record<string, JsonValue>> {
  const { peft_type: kind, lora_r: r, lora_alpha: alpha } = recipe;
  if (kind === "ADALORA") {
    const target_r = recipe.target_r ?? r, init_r = recipe.init_r ?? Math.ceil(1.5 * target_r);
    return { lora_alpha: alpha ?? init_r, target_r, init_r, tinit: recipe.tinit, tfinal: recipe.tfinal, deltaT: recipe.delta_t, beta1: recipe.adalora_beta1, beta2: recipe.adalora_beta2, orth_reg_weight: recipe.orth_reg_weight };
  }
  if (kind === "VERA") return { r, ...(alpha === null ? {} : { lora_alpha: alpha }), projection_prng_key: recipe.projection_prng_key, d_initial: recipe.d_initial };
  return { r, lora_alpha: alpha ?? r, use_rslora: recipe.use_rslora, rank_pattern: valuesOf(recipe.rank_pattern), alpha_pattern: valuesOf(recipe.alpha_pattern) };
}

/**
 * A recipe's adapter as options of `lora`: what PEFT's adapter_config.json would say of it, read by the same rules, so that errors have the names that the recipe has.
 * @throws ConfigError for keys that have no meaning together, and for values that cannot be
 */
export function loraOptions(recipe: Recipe, base: string | null): LoraOptions {
  checkOwners(recipe);
  const { init_lora_weights: init } = recipe;
  const { config } = readLoraConfig(JSON.stringify({
    peft_type: recipe.peft_type, task_type: "CAUSAL_LM", base_model_name_or_path: base, revision: recipe.model_revision, ...kindKeys(recipe),
    lora_dropout: recipe.lora_dropout, target_modules: named(recipe.lora_target_modules), exclude_modules: recipe.exclude_modules.length === 0 ? null : named(recipe.exclude_modules),
    layers_to_transform: recipe.layers_to_transform, layers_pattern: orNull(recipe.layers_pattern), fan_in_fan_out: recipe.fan_in_fan_out,
    init_lora_weights: init, ...Object.fromEntries((["eva_config", "corda_config", "lora_ga_config", "loftq_config"] as const).map((key) => [key, valuesOf(recipe[key])])),
    use_dora: recipe.use_dora, lora_bias: recipe.lora_bias, bias: recipe.bias, modules_to_save: orNull(recipe.modules_to_save), trainable_token_indices: recipe.trainable_token_indices,
    target_parameters: orNull(recipe.target_parameters), ensure_weight_tying: recipe.ensure_weight_tying,
  }), "recipe");
  return config.adalora === null ? config : { ...config, adalora: { ...config.adalora, scaling: recipe.use_rslora ? "sqrt" : "ranknum" } };
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
function* firstBatches(recipe: Recipe, data: DataSet): Generator<Seen> {
  for (let step = 0; step < recipe.init_batches; step++) yield new Seen(data.group(step, { size: recipe.per_device_train_batch_size, accumulation: 1, seed: recipe.seed, shuffle: recipe.shuffle })[0]);
}

/** A batch that knows which of its tokens are none: an initialisation may look at those that no loss asks for. */
class Seen extends Batch {
  readonly real: Tensor;
  constructor(host: HostBatch) {
    super(host);
    this.real = fromHost({ dtype: "f32", shape: [host.rows, host.length], data: Float32Array.from(host.attentionMask) });
  }
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
  const eva = options.evaConfig ?? null;
  const from: InitialData<Seen> = {
    batches: { [Symbol.iterator]: () => firstBatches(recipe, data) },
    mask: ({ labels, real }) => (eva === null ? labels.ge(0).cast("f32") : eva.useLabelMask === false ? real : labels.ne(eva.labelMaskValue ?? -100).cast("f32").mul(real)),
    gradients: (w) => meanGradients(recipe, model, data, w), ...(weights === undefined ? {} : { weights }), ...(origin !== null && keepsOrigin(rule) ? { origin } : {}),
  };
  return createLora(model, { ...options, ...(onModule === undefined ? {} : { onModule }) }, from);
}
