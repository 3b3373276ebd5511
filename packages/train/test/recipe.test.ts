/** Recipes: every key as file and flag, and errors that name file, key, value and fix. */
import { ConfigError } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { checkRecipe, compactRecipe, defaultRecipe, fields, flagValue, idsRows, inertKeys, mergeRecipe, optimizerFor, parseRecipe, recipeKey, type Recipe, scheduleOf, schedules, stepsOf } from "../src/index.ts";

const keys = Object.keys(fields) as (keyof Recipe)[];
const failing = (f: () => unknown): ConfigError => {
  try { f(); } catch (error) { if (error instanceof ConfigError) return error; throw error; }
  throw new Error("no error");
};

test("a key is known in snake_case, kebab-case and by its aliases, and no name stands for two", () => {
  const names = keys.flatMap((key) => [key, ...(fields[key].aliases ?? [])]);
  expect(new Set(names).size).toBe(names.length);
  for (const key of keys) for (const name of [key, key.replaceAll("_", "-"), ...(fields[key].aliases ?? [])]) expect(recipeKey(name)).toBe(key);
  for (const name of names) expect(Object.hasOwn(inertKeys, name)).toBe(false);
});

test("the defaults are valid, and differ from themselves nowhere", () => {
  expect(checkRecipe({ ...defaultRecipe }, "defaults").values).toEqual(defaultRecipe);
  expect(compactRecipe(defaultRecipe)).toEqual({});
  expect(schedules).toEqual(expect.arrayContaining(["constant", "constant_with_warmup", "linear", "cosine", "polynomial", "inverse_sqrt", "warmup_stable_decay", "reduce_lr_on_plateau"]));
});

test("law: what a recipe says survives compact, YAML and merging", () => {
  const ids = fc.uniqueArray(fc.nat(40), { maxLength: 3 });
  const value = (key: keyof Recipe): fc.Arbitrary<unknown> => {
    const f = fields[key], low = f.min ?? (f.above === undefined ? 0 : f.above + 0.5), high = Math.min(f.max ?? 40, f.below === undefined ? 40 : f.below - 0.0625);
    const word = fc.stringMatching(/^[a-z][a-z0-9./ -]{0,8}[a-z]$/);
    switch (f.kind) {
      case "text": return f.choices ? fc.constantFrom(...f.choices) : f.matches ? fc.oneof(fc.stringMatching(f.matches), ...(f.boolean ? [fc.boolean()] : [])) : word;
      case "texts": return fc.array(word, { maxLength: 3 });
      case "flag": return fc.boolean();
      case "indices": return f.byName === true ? fc.oneof(ids, fc.dictionary(fc.stringMatching(/^[a-z]{1,5}$/), ids, { maxKeys: 2 })) : ids;
      case "integer": return fc.integer({ min: Math.ceil(low), max: Math.max(Math.ceil(low), Math.floor(high)) });
      case "number": return fc.integer({ min: Math.ceil(low * 16), max: Math.floor(high * 16) }).map((k) => k / 16);
      default: return fc.dictionary(fc.stringMatching(/^[a-z]{1,5}$/), fc.integer({ min: 1, max: 9 }).map(String), { maxKeys: 3 });
    }
  };
  const recipe = fc.record(Object.fromEntries(keys.map((key) => [key, value(key)])), { requiredKeys: [] });
  fc.assert(fc.property(recipe, (given) => {
    const whole = mergeRecipe(checkRecipe(given, "law").values);
    const again = parseRecipe(JSON.stringify(compactRecipe(whole)), "law.json");
    expect(mergeRecipe(again.values)).toEqual(whole);
  }), { numRuns: 60 });
});

describe("flags say what files say", () => {
  const cases: [keyof Recipe, string, unknown][] = [
    ["learning_rate", "2e-3", 0.002], ["max_steps", "-1", -1], ["use_rslora", "true", true], ["lora_alpha", "null", null], ["lora_target_modules", "q_proj,v_proj", ["q_proj", "v_proj"]],
    ["lora_target_modules", ".*\\.(q|v){1,2}_proj", [".*\\.(q|v){1,2}_proj"]], ["optim_args", "beta1=0.8,eps=1e-6", { beta1: "0.8", eps: "1e-6" }], ["rank_pattern", "layers\\.1\\.q_proj=2", { "layers\\.1\\.q_proj": "2" }],
    ["layers_to_transform", "0,3", [0, 3]], ["layers_to_transform", "none", null], ["trainable_token_indices", "7", [7]], ["trainable_token_indices", '{"embed_tokens": [1, 2], "lm_head": 3}', { embed_tokens: [1, 2], lm_head: [3] }],
    ["eva_config", "rho=1.5,use_label_mask=false", { rho: "1.5", use_label_mask: "false" }], ["save_embedding_layers", "true", true],
    ["lr_scheduler_kwargs", '{"num_cycles": 3, "mode": "min"}', { num_cycles: "3", mode: "min" }], ["learning_rate_pattern", ".*a=b=1e-3", { ".*a=b": "1e-3" }],
  ];
  for (const [key, text, want] of cases) test(`--${key} ${text}`, () => { expect(flagValue(key, text)).toEqual(want); });
});

test("maps may be texts in a file too, as in Transformers: k=v,k=v, or JSON", () => {
  const want = { optim: "adamw_torch", optim_args: { beta1: "0.8", beta2: "0.95" }, lr_scheduler_kwargs: { num_cycles: "3" } };
  for (const text of ['optim_args: "beta1=0.8,beta2=0.95"\nlr_scheduler_kwargs: {num_cycles: 3}', "optim_args: beta1 = 0.8, beta2 = 0.95\nlr_scheduler_kwargs: '{\"num_cycles\": 3}'"]) expect(parseRecipe(`optim: adamw_torch\n${text}`, "r.yaml").values).toEqual(want);
});

describe("what is wrong is named", () => {
  const cases: [string, string, RegExp][] = [
    ["an unknown key", "learning_rat: 1", /r\.yaml: "learning_rat" is not a known key\n {2}fix: did you mean learning_rate\?/],
    ["a negative rank", "lora_r: -4", /r\.yaml: lora_r = -4 is not valid\n {2}fix: use an integer, at least 1/],
    ["a text for a number", "max_steps: many", /max_steps = "many" is not valid/],
    ["a fraction for an integer", "max_steps: 1.5", /max_steps = 1.5 is not valid/],
    ["a schedule that is not there", "lr_scheduler_type: polynomiall", /one of constant, constant_with_warmup, linear, cosine, [^]*polynomial/],
    ["an optimizer that is not there", "optim: adamx", /one of sgd, [^]*adamw_torch, /],
    ["a ratio of LoRA+ below 1", "loraplus_lr_ratio: 0.5", /loraplus_lr_ratio = 0.5 is not valid\n {2}fix: use a number, at least 1, or null/],
    ["a probability of 1", "lora_dropout: 1", /at least 0, below 1/],
    ["a key twice", "learning_rate: 1e-3\nlearning-rate: 2e-3", /gives learning_rate a second time/],
    ["a feature that is not there", "bf16: true", /bf16 = true is not implemented \(training runs in f32\)/],
    ["no YAML", "a: [1", /r\.yaml is not YAML/],
    ["an index that is none", "layers_to_transform: [0, -1]", /layers_to_transform = \[0,-1\] is not valid\n {2}fix: use different numbers of at least 0, or null/],
    ["an index twice", "trainable_token_indices: [4, 4]", /or a map of modules to such numbers, or null/],
    ["layers by name", "layers_to_transform: {h: [0]}", /layers_to_transform = \{"h":\[0\]\} is not valid/],
    ["when embeddings are saved", "save_embedding_layers: maybe", /one of auto, true, false/],
    ["an adapter that is not there", "use_qalora: true", /use_qalora = true is not implemented \(QALoRA is not here\)/],
    ["a text that is no map", "optim_args: fast", /r\.yaml: "fast" is not of the form key=value\n {2}fix: write optim_args: a=1,b=2, or a map/],
    ["an option twice", "optim_args: beta1=0.8,beta1=0.9", /optim_args has beta1 twice/],
    ["JSON that is none", "lr_scheduler_kwargs: '{num_cycles'", /lr_scheduler_kwargs = [^]* is not valid/],
    ["a list", "- a", /a recipe is a map of keys to values/],
  ];
  for (const [name, text, message] of cases) {
    test(name, () => {
      const error = failing(() => parseRecipe(text, "r.yaml"));
      expect(error.message).toMatch(message);
      expect(error.details.file).toBe("r.yaml");
      expect(error.details.fix).toBeDefined();
    });
  }
  test("keys that change nothing pass with a note", () => {
    expect(parseRecipe("bf16: false\nlog_level: info\nlora_r: 4", "r.yaml")).toEqual({ values: { lora_r: 4 }, notes: ["bf16 has no effect: training runs in f32", "log_level has no effect: one level of messages"] });
  });
  test("options of another optimizer", () => {
    const of = (optim: string, optim_args: Record<string, string>): unknown => optimizerFor(mergeRecipe({ optim, optim_args }), () => 1);
    expect(failing(() => of("adamw_torch", { momentum: "0.9" })).message).toMatch(/adamw_torch has no option momentum\n {2}fix: its options: beta1, beta2, eps, weight_decay, amsgrad/);
    expect(failing(() => of("sgd", { momentun: "0.9" })).message).toMatch(/its options: momentum, dampening, weight_decay, nesterov/);
    expect(failing(() => of("sgd", { momentum: "much" })).message).toMatch(/momentum = much is not a number/);
    expect(of("sgd", { momentum: "0.9", nesterov: "true" })).toMatchObject({ name: "sgd" });
  });
});

test("steps and warm-up are those of transformers", () => {
  const data = idsRows([[1, 2], [1, 2], [1, 2], [1, 2], [1, 2]], "rows");
  expect(stepsOf(mergeRecipe({ num_train_epochs: 2, per_device_train_batch_size: 2 }), data)).toBe(6);
  expect(stepsOf(mergeRecipe({ num_train_epochs: 1.5, per_device_train_batch_size: 2, gradient_accumulation_steps: 2 }), data)).toBe(3);
  expect(stepsOf(mergeRecipe({ max_steps: 7 }), data)).toBe(7);
  expect(failing(() => stepsOf(mergeRecipe({ max_steps: 0 }), data)).details.key).toBe("max_steps");
  const rate = scheduleOf(mergeRecipe({ learning_rate: 1, lr_scheduler_type: "linear", warmup_ratio: 0.15 }), 10);
  expect([0, 1, 2, 6, 10].map(rate)).toEqual([0, 0.5, 1, 0.5, 0]);
  expect(scheduleOf(mergeRecipe({ learning_rate: 1, lr_scheduler_type: "linear", warmup_ratio: 0.15, warmup_steps: 4 }), 10)(2)).toBe(0.5);
});
