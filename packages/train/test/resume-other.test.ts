/** A checkpoint goes on with the base and the adapter that it began with, wherever they lie, and with no other. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { lora, type LoraOptions } from "@adjoint/lora";
import { type CausalLM, loadModel, type LoadModelOptions } from "@adjoint/models";
import { quantizedOf } from "@adjoint/quant";
import { Store } from "@adjoint/tensor";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { beforeAll, describe, expect, test } from "vitest";
import { adapterTrainee, fullTrainee, idsRows, loadCheckpoint, loraOptions, mergeRecipe, readCheckpoint, type Recipe, saveCheckpoint, Training, trainingOptions, type Trainee } from "../src/index.ts";
import { baseDigest } from "../src/base-digest.ts";
import { temporary } from "./support.ts";

const rows = golden("llama/tiny")["rows"] ?? JSON.parse(readFileSync(fixture("llama/tiny/ids.json"), "utf8"));
const recipe = mergeRecipe({ per_device_train_batch_size: 2, max_steps: 2, lora_r: 2, seed: 7 }), data = idsRows(rows, "rows");
const modelOf = (load: LoadModelOptions = {}): Promise<CausalLM> => loadModel(fixture("llama/tiny"), { tokenizer: false, ...load });
const traineeOf = (model: CausalLM, options: LoraOptions = {}): Trainee => adapterTrainee(lora(model, { ...loraOptions(recipe, null), seed: recipe.seed, ...options }));
const starting = (trainee: Trainee): Training => new Training(trainee, trainingOptions(recipe, data));
const checkpointOf = async (trainee: Trainee, of: Recipe = recipe): Promise<string> => { const t = starting(trainee); await t.next(); return saveCheckpoint(t, { folder: temporary(), recipe: of }); };
const resume = async (trainee: Trainee, folder: string, by: Recipe = recipe): Promise<number> => { const t = starting(trainee); await loadCheckpoint(t, by, await readCheckpoint(folder)); return (await t.next()).loss; };

let saved: string;
beforeAll(async () => { saved = await checkpointOf(traineeOf(await modelOf())); });

describe("another base", () => {
  const changed = async (name: string): Promise<CausalLM> => {
    const model = await modelOf(), w = model.weights()[name];
    if (!(w instanceof Store)) throw new Error(name);
    const { dtype, shape, data: numbers } = await w.host(), other = numbers.slice();
    other[other.length - 1] = Number(other[other.length - 1]) + 0.01;
    w.set({ dtype, shape, data: other });
    return model;
  };
  test("is refused, whichever weight differs; a checkpoint that says nothing of its base still goes on", async () => {
    const names = Object.keys((await modelOf()).weights());
    for (const name of [names[0], names[5], names[names.length - 1]]) await expect(resume(traineeOf(await changed(name)), saved), name).rejects.toThrow(/other weights than the one that this run began with[^]*contents may not change/);
    const file = join(saved, "trainer_state.json"), text = readFileSync(file, "utf8");
    writeFileSync(file, JSON.stringify({ ...JSON.parse(text) as object, base: undefined }));
    expect(await resume(traineeOf(await changed(names[0])), saved)).toBeGreaterThan(0);
    writeFileSync(file, text);
  });

  test("or another config.json", async () => {
    const model = await modelOf(), other = { ...model.config, json: { ...model.config.json, rms_norm_eps: 0.5 } }, same = { ...model.config, json: { dtype: "x", ...model.config.json, transformers_version: "x" } };
    const as = (config: CausalLM["config"]): CausalLM => new Proxy(model, { get: (m, key) => { const v: unknown = key === "config" ? config : Reflect.get(m, key, m); return typeof v === "function" ? v.bind(m) : v; } });
    await expect(resume({ ...traineeOf(model), model: as(other) }, saved)).rejects.toThrow(/another config.json/);
    expect(await resume({ ...traineeOf(await modelOf()), model: as(same) }, saved)).toBeGreaterThan(0);
  });

  test("codes are looked at too; what trains, and what an initialisation computes, is not", async () => {
    const model = await modelOf({ quantize: { format: "nf4", block: 32 } }), digest = await baseDigest(traineeOf(model)), [name, w] = Object.entries(model.weights()).find(([, x]) => quantizedOf(x) !== null)!, q = await quantizedOf(w)!.host();
    expect(await baseDigest(traineeOf(await modelOf({ quantize: { format: "nf4", block: 32 } })))).toEqual(digest);
    quantizedOf(w)!.set({ ...q, codes: q.codes.map((c) => c ^ 1) });
    expect((await baseDigest(traineeOf(model))).weights, name).not.toBe(digest.weights);
    expect(await baseDigest(fullTrainee(await changed("model.norm.weight")))).toEqual(await baseDigest(fullTrainee(await modelOf())));
  });
});

describe("another adapter", () => {
  test("one that was given and is left out is refused by the key, both values and the flag; given again it goes on", async () => {
    const given = mergeRecipe(recipe, { init_adapter: "first/adapter" }), folder = await checkpointOf(traineeOf(await modelOf(), { loraAlpha: 128 }), given);
    await expect(resume(traineeOf(await modelOf()), folder)).rejects.toThrow(/adapter has lora_alpha = 128, now it is 2[^]*add --init-adapter first\/adapter/);
    expect(await resume(traineeOf(await modelOf(), { loraAlpha: 128 }), folder, given)).toBeGreaterThan(0);
    await expect(resume(traineeOf(await modelOf(), { targetModules: ["q_proj"] }), saved)).rejects.toThrow(/adapter has target_modules/);
  });
  test("who made it, and how a plain one began, does not matter", async () => {
    expect(await resume(traineeOf(await modelOf(), { initLoraWeights: "gaussian", baseModelNameOrPath: "elsewhere" }), saved)).toBeGreaterThan(0);
  });
});
