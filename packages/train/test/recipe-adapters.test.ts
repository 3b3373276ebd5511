/** What packages/lora can be asked for, asked for by a recipe: each key trains what it says, goes into adapter_config.json, or is refused by name. */
import { readFileSync } from "node:fs";
import { defaultConfig, type Tuned } from "@adjoint/lora";
import { type CausalLM, initModel, loadModel } from "@adjoint/models";
import { ConfigError } from "@adjoint/tensor";
import { fixture } from "@adjoint/testing/fixtures";
import { describe, expect, test } from "vitest";
import { baseOptions, checkRecipe, fields, idsRows, loraOptions, mergeRecipe, type Recipe, traineeOf, Training, trainingOptions, tunedFor } from "../src/index.ts";

const rows: number[][] = JSON.parse(readFileSync(fixture("llama/tiny/ids.json"), "utf8")), data = idsRows(rows, "rows");
const json: Record<string, unknown> = JSON.parse(readFileSync(fixture("llama/tiny/config.json"), "utf8"));
const base = { per_device_train_batch_size: 2, max_steps: 2, learning_rate: 2e-2, lora_r: 2, lora_target_modules: ["q_proj"], seed: 7, init_batches: 8 };
const recipeOf = (file: Record<string, unknown>): Recipe => mergeRecipe(base, checkRecipe(file, "r.yaml").values);
const plain = (): Promise<CausalLM> => loadModel(fixture("llama/tiny"), { tokenizer: false });
/** The adapter that a recipe's keys ask for. */
const tunedOf = async (file: Record<string, unknown>, model?: CausalLM): Promise<Tuned<CausalLM>> => tunedFor(recipeOf(file), model ?? (await plain()), { base: "base", data });

/** What has moved after two steps, by name, with the places that have. */
async function moved(file: Record<string, unknown>, model?: CausalLM): Promise<Record<string, readonly number[]>> {
  const recipe = recipeOf(file), tuned = await tunedOf(file, model), t = new Training(traineeOf(recipe, tuned), trainingOptions(recipe, data)), out: Record<string, readonly number[]> = {};
  const now = async (): Promise<[string, number[]][]> => Promise.all(Object.entries(t.trainee.trainable).map(async ([name, s]): Promise<[string, number[]]> => [name, Array.from(await s.data(), Number)]));
  const before = await now();
  for await (const _ of t.run());
  (await now()).forEach(([name, after], i) => { out[name.replace("base_model.model.", "")] = after.flatMap((x, k) => (x === before[i][1][k] ? [] : [k])); });
  return out;
}
const written = async (file: Record<string, unknown>, model?: CausalLM): Promise<{ config: Record<string, unknown>; names: string }> => {
  const files = await traineeOf(recipeOf(file), await tunedOf(file, model)).files(), [tensors] = [files["adapter_model.safetensors"]].flat(), config = files["adapter_config.json"];
  return { config: JSON.parse(typeof config === "string" ? config : ""), names: Buffer.from(tensors as Uint8Array).toString("latin1", 8, 4000) };
};

test("every key of an adapter's config is a recipe's too, or is none of a recipe's business", () => {
  const others = { r: "lora_r", loraAlpha: "lora_alpha", loraDropout: "lora_dropout", targetModules: "lora_target_modules", scaling: "use_rslora", baseModelNameOrPath: "model_name_or_path", revision: "model_revision", adalora: "peft_type", vera: "peft_type" } as Record<string, string>;
  const none = ["taskType", "autoMapping", "inferenceMode"]; // the only task, and what PEFT keeps for itself
  for (const key of Object.keys(defaultConfig)) if (!none.includes(key)) expect(Object.keys(fields), key).toContain(others[key] ?? key.replaceAll(/[A-Z]/g, (c) => `_${c.toLowerCase()}`));
});

describe("which modules", () => {
  test("layers_to_transform and layers_pattern", async () => {
    const names = Object.keys(await moved({ layers_to_transform: [1] }));
    expect(names).toEqual(["A", "B"].map((f) => `model.layers.1.self_attn.q_proj.lora_${f}.weight`));
    expect((await tunedOf({ layers_to_transform: 1, layers_pattern: "layers" })).targets.targets.map((t) => t.path)).toEqual(["model.layers.1.self_attn.q_proj"]);
    await expect(tunedOf({ layers_to_transform: [0], layers_pattern: "blocks" })).rejects.toThrow(/layers_pattern leaves none of them/);
    await expect(tunedOf({ layers_to_transform: [5] })).rejects.toThrow(/layers_to_transform/);
  });
  test("target_parameters, alone and by its other name", async () => {
    const places = await moved({ lora_target_parameters: "q_proj.weight", lora_target_modules: [] });
    expect(Object.keys(places)).toHaveLength(4);
    for (const [name, all] of Object.entries(places)) expect([name, all.length > 0]).toEqual([name, true]);
    expect((await written({ target_parameters: ["q_proj.weight"], target_modules: [] })).config).toMatchObject({ target_parameters: ["q_proj.weight"], target_modules: [] });
  });
});

describe("what trains beside", () => {
  test("trainable_token_indices: rows of tokens in the data move, and no others", async () => {
    const used = rows.flat(), absent = Array.from({ length: Number(json["vocab_size"]) }, (_, i) => i).find((i) => !used.includes(i)) ?? -1, [id] = used, width = Number(json["hidden_size"]);
    expect(absent).toBeGreaterThan(0);
    const places = await moved({ trainable_token_indices: [absent, id], learning_rate: 0.125 }), own = places["model.embed_tokens.token_adapter.trainable_tokens_delta"];
    expect(own).toEqual(Array.from({ length: width }, (_, k) => width + k));
    const byName = await tunedOf({ trainable_token_indices: { embed_tokens: [3], lm_head: [4, 5] } });
    expect([...byName.tensors()].filter(([name]) => name.includes("token_adapter")).map(([name, t]) => [name.split(".").find((p) => /^(embed_tokens|lm_head)$/.test(p)), t.shape[0]])).toEqual([["embed_tokens", 1], ["lm_head", 2]]);
  });
  test("ensure_weight_tying: one copy of two layers that share a weight", async () => {
    const tied = (): CausalLM => initModel({ ...json, tie_word_embeddings: true }, 1);
    await expect(tunedOf({ modules_to_save: ["lm_head"] }, tied())).rejects.toThrow(/share one weight/);
    const places = await moved({ modules_to_save: ["lm_head"], ensure_weight_tying: true }, tied()), copies = Object.keys(places).filter((name) => !name.includes("lora_"));
    expect(copies).toEqual(["model.embed_tokens.weight"]);
    expect(places[copies[0]].length).toBeGreaterThan(0);
  });
  test("save_embedding_layers and fan_in_fan_out are for the file", async () => {
    const { names, config } = await written({ save_embedding_layers: true, fan_in_fan_out: true, model_revision: "v2" });
    expect(names).toContain("embed_tokens.weight");
    expect((await written({})).names).not.toContain("embed_tokens.weight");
    expect(config).toMatchObject({ fan_in_fan_out: true, revision: "v2", base_model_name_or_path: "base", task_type: "CAUSAL_LM" });
    expect((await tunedOf({ fan_in_fan_out: true })).targets.warnings).toEqual([expect.stringContaining("fan_in_fan_out: true changes nothing")]);
    await expect(loadModel(fixture("llama/tiny"), { tokenizer: false, ...baseOptions(recipeOf({ model_revision: "v2" })) })).rejects.toThrow(/a folder has no revision/);
  });
});

describe("options of first numbers", () => {
  const first = async (file: Record<string, unknown>): Promise<string> => {
    const tuned = await tunedOf({ layers_to_transform: [0], init_batches: 2, ...file }), all = await Promise.all([...tuned.tensors().values()].map(async (t) => Array.from(await t.data(), (x) => Number(x).toPrecision(4)).slice(0, 24)));
    return all.join(" ");
  };
  const differ = async (init: string, key: string, options: Record<string, unknown>[]): Promise<void> => {
    const all = await Promise.all([{}, ...options].map((own) => first({ init_lora_weights: init, [key]: own })));
    expect(new Set(all).size).toBe(all.length);
  };
  test("eva_config", async () => {
    await differ("eva", "eva_config", [{ whiten: true }, { label_mask_value: rows[0][0] }]);
    const kept = await tunedOf({ init_lora_weights: "eva", init_batches: 2, eva_config: { rho: 1, tau: 0.5 } });
    expect(kept.targets.targets.map((t) => t.r)).toEqual([2, 2]);
    expect(kept.loraConfig.evaConfig).toEqual({ rho: 1, tau: 0.5, useLabelMask: true, labelMaskValue: -100, whiten: false, adjustScalingFactors: true });
  });
  test("corda_config", () => differ("corda", "corda_config", [{ corda_method: "kpm" }]));
  test("lora_ga_config", () => differ("lora_ga", "lora_ga_config", [{ direction: "ArBr", scale: "unit" }, { stable_gamma: 4 }]));
  test("loftq_config", async () => {
    const source = await plain(), make = async (file: Record<string, unknown>): Promise<Tuned<CausalLM>> => {
      const recipe = recipeOf({ init_lora_weights: "loftq", load_in_4bit: true, quant_block_size: 32, ...file });
      return tunedFor(recipe, await loadModel(fixture("llama/tiny"), { tokenizer: false, ...baseOptions(recipe) }), { base: null, data, weights: async (name) => source.parameters()[name].host() });
    };
    const numbers = async (tuned: Tuned<CausalLM>): Promise<unknown> => Array.from(await [...tuned.tensors().values()][0].data(), Number);
    expect(await numbers(await make({ loftq_config: { loftq_iter: 3 } }))).not.toEqual(await numbers(await make({})));
    await expect(make({ loftq_config: { loftq_bits: 8 } })).rejects.toThrow(/loftq_bits is 8, and the weight of .* is held as nf4/);
    await expect(make({ loftq_config: { loftq_bits: 3 } })).rejects.toThrow(/recipe: loftq_config\.loftq_bits = 3 is not valid\n {2}fix: use 2, 4 or 8/);
  });
});

test.each<[Record<string, unknown>, RegExp]>([
  [{ eva_config: { rho: 2 } }, /eva_config goes with init_lora_weights: eva/],
  [{ loftq_config: { loftq_iter: 2 }, init_lora_weights: "pissa" }, /loftq_config goes with init_lora_weights: loftq/],
  [{ init_lora_weights: "eva", eva_config: { rho: 0.5 } }, /recipe: eva_config\.rho = 0.5 is not valid\n {2}fix: use a number from 1 on/],
  [{ init_lora_weights: "eva", eva_config: { row: 2 } }, /eva_config\.row = 2 is not an option\n {2}fix: options: rho, tau, use_label_mask/],
  [{ init_lora_weights: "corda", corda_config: { corda_method: "iPm" } }, /corda_config\.corda_method = "iPm" is not valid\n {2}fix: use one of ipm, kpm/],
  [{ layers_to_transform: [0], lora_target_modules: "all-linear" }, /layers_to_transform = \[0\] cannot stand beside target_modules/],
  [{ layers_pattern: "layers" }, /layers_pattern = \["layers"\] does nothing without layers_to_transform/],
  [{ target_parameters: ["q_proj.weight"], lora_dropout: 0.5 }, /lora_dropout = 0.5 cannot stand beside target_parameters/],
  [{ trainable_token_indices: { lm_head: [1] }, modules_to_save: ["lm_head"] }, /is also in modules_to_save/],
  [{ trainable_token_indices: [1], peft_type: "VERA" }, /trainable_token_indices = \[1\] is not for VeRA/],
  [{ rank_pattern: { q_proj: 4 }, peft_type: "ADALORA" }, /rank_pattern goes with peft_type: LORA/],
  [{ rank_pattern: { q_proj: "much" } }, /rank_pattern = \{"q_proj":"much"\} is not valid/],
])("%j is refused by name", (file, text) => {
  expect(() => loraOptions(recipeOf(file), null)).toThrow(ConfigError);
  expect(() => loraOptions(recipeOf(file), null)).toThrow(text);
});
