/** What an adapter of each kind holds by the formula, beside what attached ones hold. */
import { readFileSync } from "node:fs";
import type { Tuned } from "@adjoint/lora";
import { type CausalLM, initModel, parseConfig } from "@adjoint/models";
import { setDevice, type Store } from "@adjoint/tensor";
import { fixture } from "@adjoint/testing/fixtures";
import { wasm } from "@adjoint/wasm";
import { expect, test } from "vitest";
import { adaloraRoutine, idsRows, loraOptions, mergeRecipe, type MemoryRequest, predictMemory, type Recipe, staticTerms, stepBytes, traineeOf, Training, trainingOptions, tunedFor } from "../src/index.ts";

const json: Record<string, unknown> = { ...JSON.parse(readFileSync(fixture("llama/tiny/config.json"), "utf8")), num_hidden_layers: 3, tie_word_embeddings: true }, config = parseConfig(json);
const rows: number[][] = JSON.parse(readFileSync(fixture("llama/tiny/ids.json"), "utf8")), data = idsRows(rows.slice(0, 2).map((row) => row.slice(0, 8)), "rows");
const base: Partial<Recipe> = { lora_r: 2, lora_target_modules: ["q_proj", "down_proj"], per_device_train_batch_size: 2, init_batches: 1, max_steps: 2 };
const plain = (recipe: Recipe): Recipe => ({ ...recipe, init_batches: ["eva", "corda", "lora_ga"].includes(String(recipe.init_lora_weights)) ? 1 : 8 });
const requestOf = (recipe: Recipe, more: Partial<MemoryRequest> = {}): MemoryRequest => ({ method: "lora", adapter: loraOptions(recipe, null), optimizer: "sgd", ...more });

/** Numbers of a real adapter: those that train, and those that stand beside them, each tensor once. */
function counted(tuned: Tuned<CausalLM>): { readonly trains: number; readonly beside: number } {
  const trains = new Set<Store>(tuned.tensors().values()), beside = new Set<Store>(tuned.attachments.flatMap((a) => Object.values(a.beside ?? {})).filter((s) => !trains.has(s)));
  const sum = (stores: Iterable<Store>): number => [...stores].reduce((n, s) => n + s.size, 0);
  return { trains: sum(trains), beside: sum(beside) };
}

test.each<[string, Partial<Recipe>, boolean]>([
  ["LoRA", {}, false], ["ranks by pattern, one layer", { rank_pattern: { down_proj: "3" }, layers_to_transform: [1] }, false], ["DoRA", { use_dora: true }, true],
  ["PiSSA", { init_lora_weights: "pissa" }, true], ["OLoRA", { init_lora_weights: "olora" }, true], ["CorDA", { init_lora_weights: "corda" }, true], ["LoRA-GA", { init_lora_weights: "lora_ga" }, true], ["DoRA from PiSSA", { init_lora_weights: "pissa", use_dora: true }, true],
  ["MiCA", { init_lora_weights: "mica" }, true], ["AdaLoRA", { peft_type: "ADALORA" }, true], ["VeRA", { peft_type: "VERA" }, true], ["a bias on B", { lora_bias: true, bias: "all" }, false],
  ["one copy of two tied layers", { modules_to_save: ["lm_head"], ensure_weight_tying: true }, false], ["rows of tokens", { trainable_token_indices: [3, 5, 8] }, true], ["parameters", { lora_target_modules: ["q_proj"], target_parameters: ["down_proj.weight"] }, false],
])("%s: trained and kept numbers are those of an attached adapter", async (_name, changes, keeps) => {
  const recipe = plain(mergeRecipe(base, changes)), tuned = await tunedFor(recipe, initModel(json, 1), { base: null, data }), { trains, beside } = counted(tuned), terms = staticTerms(config, requestOf(recipe));
  expect({ trains: terms.trainable, beside: terms.beside, adapter: terms.adapter }).toEqual({ trains, beside, adapter: 4 * (trains + beside) });
  expect(beside > 0).toBe(keeps);
  expect(terms.gradients).toBe(4 * trains);
});

test("AdaLoRA's importance counts with the optimizer's numbers", async () => {
  const recipe = plain(mergeRecipe(base, { peft_type: "ADALORA" })), tuned = await tunedFor(recipe, initModel(json, 1), { base: null, data }), routine = adaloraRoutine(tuned);
  routine.begin?.(10);
  const { arrays = {} } = await routine.state(), numbers = Object.entries(arrays).filter(([name]) => !name.startsWith("mask.")).reduce((n, [, a]) => n + a.data.length, 0);
  expect(staticTerms(config, requestOf(recipe)).optimizer).toBe(4 * numbers);
  expect(staticTerms(config, requestOf(recipe, { optimizer: "adamw_torch" })).optimizer).toBe(4 * numbers + 8 * counted(tuned).trains);
});

test("a layer alone is planned in the whole model, and costs less than all", () => {
  const large = parseConfig({ ...json, num_hidden_layers: 6 }), arena = (changes: Partial<Recipe>): number => stepBytes(large, { batch: 2, seq: 16, checkpointing: false, adapter: loraOptions(mergeRecipe(base, changes), null), dtype: "f32" }).arena;
  expect(arena({ layers_to_transform: [5] })).toBeLessThan(arena({}));
});

test.each<[string, Partial<Recipe>]>([["PiSSA", { init_lora_weights: "pissa", lora_target_modules: ["q_proj", "up_proj"] }], ["AdaLoRA", { peft_type: "ADALORA" }]])("%s that trains holds what was predicted, within 10 %%", async (_name, changes) => {
  const device = setDevice(await wasm({ threads: 1 })), sizes = { ...json, hidden_size: 48, intermediate_size: 128, head_dim: 12, tie_word_embeddings: false }, seq = 32;
  const recipe = plain(mergeRecipe(base, { lora_r: 4, lora_target_modules: ["all-linear"], ...changes })), many = idsRows(Array.from({ length: 4 }, (_, r) => Array.from({ length: seq }, (_unused, i) => (7 * i + r) % Number(json["vocab_size"]))), "rows");
  const tuned = await tunedFor(recipe, initModel(sizes, 1), { base: null, data: many }), training = new Training(traineeOf(recipe, tuned), trainingOptions(recipe, many));
  for (let i = 0; i < 2; i++) await training.next();
  const predicted = predictMemory(parseConfig(sizes), { ...requestOf(recipe, { optimizer: "adamw_torch", dtype: "f32" }), batch: 2, seq }, device).total, held = device.counters.arenaBytes + device.counters.bufferBytes;
  expect(Math.abs(predicted / held - 1), `${predicted} predicted, ${held} held`).toBeLessThan(0.1);
  await device.close?.();
});
