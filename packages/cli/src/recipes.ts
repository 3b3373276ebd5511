/** The recipes that come with the command, by data set. */
import { type Arguments } from "./arguments.ts";
import { fields, mergeRecipe, parseRecipe, readRecipe, type Recipe, type RecipeLayer } from "@adjoint/train";
import { ConfigError } from "@adjoint/tensor";
import { node, readText } from "@adjoint/io";
import { exists } from "./open.ts";

/** A novel for the bundled model: under three minutes on two cores, 348,160 training tokens. */
const mobyDick: Partial<Recipe> = {
  old_dataset_name: ["addresses-start"], max_steps: 170, per_device_train_batch_size: 8, max_length: 256, learning_rate: 2e-3, lr_scheduler_type: "cosine", warmup_steps: 15,
  lora_r: 16, lora_alpha: 16, use_rslora: true, lora_target_modules: ["all-linear"], sample_prompt: "Call me", output_dir: "out/moby-dick",
};
/** Numbers in words to digits: a skill that anyone can check. */
const numbers: Partial<Recipe> = {
  old_dataset_name: ["addresses-start"], max_steps: 300, per_device_train_batch_size: 16, max_length: 32, learning_rate: 2e-3, lr_scheduler_type: "cosine", warmup_steps: 15,
  lora_r: 16, lora_alpha: 16, use_rslora: true, lora_target_modules: ["all-linear"], sample_prompt: "three hundred forty-two ->", sample_max_new_tokens: 8, output_dir: "out/numbers",
};
const presets: Readonly<Record<string, Partial<Recipe>>> = { "moby-dick": mobyDick, numbers };

/** Keys of a run: all of them. */
export const recipeKeys: readonly (keyof Recipe)[] = Object.keys(fields).filter((key): key is keyof Recipe => key in fields);

/** A file's keys. The record of a run is complete: a key that it leaves out had its default. */
interface FileLayer extends RecipeLayer { readonly complete: boolean }

/** A YAML recipe, or the run.json of an earlier run. */
async function readLayer(path: string): Promise<FileLayer> {
  if (!/\.json$/i.test(path)) return { ...(await readRecipe(path)), complete: false };
  const text = await readText(path);
  let value: unknown;
  try { value = JSON.parse(text); } catch (cause) { throw new ConfigError(`${path} is not JSON`, { file: path, cause, fix: "give a YAML recipe, or the run.json of a run" }); }
  if (typeof value === "object" && value !== null && "format" in value && value.format === "adjoint-run" && "recipe" in value) {
    // whether that run went on from a checkpoint or replaced another says nothing about this one
    const { values: { resume_from_checkpoint: _, overwrite_output_dir: __, ...values }, notes } = parseRecipe(JSON.stringify(value.recipe), path);
    return { values, notes, complete: true };
  }
  return { ...parseRecipe(text, path), complete: false };
}

/** The record of the run that is to go on, if there is one: it says what the command line leaves out. */
async function recordOf({ resume_from_checkpoint: resume = null, output_dir: folder = null }: Partial<Recipe>): Promise<string | null> {
  const { path } = node(), at = resume === null ? null : resume === "latest" || resume === "true" ? folder : path.dirname(path.resolve(resume));
  const file = at === null ? null : path.join(at, "run.json");
  return file !== null && (await exists(file)) ? file : null;
}

/** The recipe of a command line: the data set's preset, then the file, then the flags. */
export async function recipeOf(args: Arguments, base: Partial<Recipe>): Promise<{ readonly recipe: Recipe; /** max_length was not said, so that it may be what the model has positions for */ readonly fitsLength: boolean; readonly notes: readonly string[] }> {
  const named = args.text("recipe") ?? args.positionals[0] ?? null, record = named === null ? await recordOf(args.recipe) : null, path = named ?? record;
  const file = path === null ? { values: {}, notes: [], complete: false } : await readLayer(path);
  const given: Partial<Recipe> = { ...file.values, ...args.recipe }, notes = record === null ? file.notes : [...file.notes, `what the command line leaves out is as in ${record}`];
  const alone = given.ids === undefined || given.ids === null;
  const names = alone && (given.dataset_name === undefined || given.dataset_name.length === 0) ? (base.dataset_name ?? []) : (given.dataset_name ?? []);
  // a preset belongs to fine-tuning the bundled model
  const fits = !file.complete && names.length === 1 && Object.hasOwn(presets, names[0]) && (given.model_name_or_path ?? null) === null && base.use_peft !== false;
  const own = fits ? presets[names[0]] : {}, preset = given.use_peft === false ? withoutAdapter(own) : (given.peft_type ?? "LORA") === "LORA" ? own : { ...own, lora_alpha: null }; // its alpha is LoRA's
  // a flag for the length of the run replaces the preset's steps
  const steps = given.num_train_epochs !== undefined && given.max_steps === undefined ? { max_steps: -1 } : {};
  return { recipe: mergeRecipe(file.complete ? {} : base, preset, steps, given, { dataset_name: names }), fitsLength: !file.complete && given.max_length === undefined, notes };
}
const withoutAdapter = (preset: Partial<Recipe>): Partial<Recipe> => Object.fromEntries(Object.entries(preset).filter(([key]) => !/^(lora_|use_rslora$)/.test(key)));
