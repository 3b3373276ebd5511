/** Adapters of every kind as recipes ask for them: AdaLoRA's budget in a run, initialisations that look at the model, resume bit for bit, and what is refused. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { loadLora, readAdapterDirectory } from "@adjoint/lora";
import { loadModel } from "@adjoint/models";
import { ConfigError, type HostArray } from "@adjoint/tensor";
import { fixture, golden, goldenTensors } from "@adjoint/testing/fixtures";
import { describe, expect, test } from "vitest";
import { checkpointOrigin, checkRecipe, idsRows, latestCheckpoint, loadCheckpoint, loraOptions, mergeRecipe, readCheckpoint, type Recipe, saveCheckpoint, traineeOf, Training, trainingOptions, tunedFor } from "../src/index.ts";
import { bits, near, temporary, worst } from "./support.ts";

const rows = golden("llama/tiny")["rows"] ?? JSON.parse(readFileSync(fixture("llama/tiny/ids.json"), "utf8")), data = idsRows(rows, "rows");
const base: Partial<Recipe> = { per_device_train_batch_size: 2, max_steps: 6, learning_rate: 2e-2, lora_r: 2, lora_target_modules: ["q_proj", "down_proj"], seed: 7 };
async function start(recipe: Recipe, origin: Parameters<typeof tunedFor>[2]["origin"] = null): Promise<Training> {
  const model = await loadModel(fixture("llama/tiny"), { tokenizer: false, ...(recipe.load_in_4bit ? { quantize: { format: "nf4", block: 32 } } as const : {}) });
  return new Training(traineeOf(recipe, await tunedFor(recipe, model, { base: null, data, origin })), trainingOptions(recipe, data));
}
const stateOf = async (t: Training): Promise<Record<string, string>> => bits([...(await Promise.all(Object.entries(t.trainee.trainable).map(async ([name, s]) => [name, await s.host()] as const))), ...Object.entries(await t.optimizer.state())]);

describe("goes on bit for bit", () => {
  const cases: [string, Partial<Recipe>, number][] = [
    ["AdaLoRA, cut while ranks are given up", { peft_type: "ADALORA", tinit: 1, tfinal: 2 }, 3],
    ["AdaLoRA, cut after the ranks are final", { peft_type: "ADALORA", tfinal: 3, gradient_accumulation_steps: 2, per_device_train_batch_size: 1 }, 5],
    ["DoRA with a module in full beside it", { use_dora: true, modules_to_save: ["lm_head"] }, 2],
    ["PiSSA", { init_lora_weights: "pissa", lora_dropout: 0.25 }, 2],
  ];
  for (const [name, changes, at] of cases) {
    test(name, async () => {
      const recipe = mergeRecipe(base, changes), whole = await start(recipe), first = await start(recipe), folder = temporary();
      for await (const _ of whole.run());
      for (let i = 0; i < at; i++) await first.next();
      const path = await saveCheckpoint(first, { folder, recipe }), second = await start(recipe, await checkpointOrigin(path));
      await loadCheckpoint(second, recipe, await readCheckpoint(await latestCheckpoint(folder)));
      for await (const _ of second.run());
      expect(await stateOf(second)).toEqual(await stateOf(whole));
      expect((await checkpointOrigin(path)) !== null).toBe(changes.init_lora_weights === "pissa");
    });
  }
});

describe("AdaLoRA in a run", () => {
  test("ends at its budget, adds its penalty once a step, and writes rank_pattern", async () => {
    const recipe = mergeRecipe(base, { peft_type: "ADALORA", target_r: 1, init_r: 2, tfinal: 2 }), t = await start(recipe), notes: string[] = [];
    while (t.step < 6) { await t.next(); notes.push(...t.notes.splice(0)); }
    expect(notes).toEqual([expect.stringMatching(/^step 5: ranks are settled: 4 of 8 triplets, \d to \d a module$/)]);
    const folder = temporary(), { writeDirectoryAtomic } = await import("@adjoint/io");
    await writeDirectoryAtomic(join(folder, "adapter"), await t.trainee.files(), { replaceAll: true });
    const { config } = await readAdapterDirectory(join(folder, "adapter"));
    expect(Object.values(config.adalora?.rankPattern ?? {}).flat().filter(Boolean)).toHaveLength(4);
    const { report } = await loadLora(await loadModel(fixture("llama/tiny"), { tokenizer: false }), join(folder, "adapter"));
    expect(report.loaded).toBe(12);
    // the penalty's gradient enters once, however the batch is cut
    const [one, two] = await Promise.all([{}, { per_device_train_batch_size: 1, gradient_accumulation_steps: 2 }].map(async (cut) => start(mergeRecipe(recipe, { shuffle: false }, cut))));
    const [a, b] = [await one.next(), await two.next()];
    expect(Math.abs(a.grad_norm / b.grad_norm - 1)).toBeLessThan(1e-4);
    expect(a.loss).toBeCloseTo(b.loss, 5);
  });
});

test("AdaLoRA gives up the ranks that it gives up under transformers' Trainer, where importance comes from clipped gradients", async () => {
  const { config: c, run, rows: trained, grad_norms, left } = golden<{ config: Record<string, number>; run: Record<string, number>; rows: number[][]; grad_norms: number[]; left: number[] }>("adalora/trainer"), wanted = Object.fromEntries(goldenTensors("adalora/trainer"));
  const recipe = mergeRecipe(base, {
    peft_type: "ADALORA", init_r: c["init_r"], target_r: c["target_r"], tinit: c["tinit"], tfinal: c["tfinal"], delta_t: c["deltaT"], adalora_beta1: c["beta1"], adalora_beta2: c["beta2"], orth_reg_weight: c["orth_reg_weight"], lora_alpha: c["lora_alpha"], use_rslora: false,
    optim: "sgd", lr_scheduler_type: "constant", learning_rate: run["learning_rate"], max_grad_norm: run["max_grad_norm"], max_steps: run["max_steps"], shuffle: false,
  });
  const rows = idsRows(trained, "rows"), model = await loadModel(fixture("llama/tiny"), { tokenizer: false }), t = new Training(traineeOf(recipe, await tunedFor(recipe, model, { base: null, data: rows })), trainingOptions(recipe, rows));
  for (const [name, s] of Object.entries(t.trainee.trainable)) s.set(wanted[`start/${name}`]);
  const [routine] = t.trainee.routines ?? [], close = (got: HostArray, name: string): void => { expect(worst(got.data as Float32Array, wanted[name].data as Float32Array), name).toBeLessThan(2e-6 * Math.max(...Array.from(wanted[name].data as Float32Array, Math.abs))); };
  for (let step = 0; step < left.length; step++) {
    near((await t.next()).grad_norm, grad_norms[step], 1e-5, `the norm of step ${step}`);
    let kept = 0;
    for (const [name, s] of Object.entries(t.trainee.trainable)) if (name.endsWith("lora_E")) kept += Array.from(await s.data(), Number).filter((x) => x !== 0).length;
    expect([step, kept]).toEqual([step, left[step]]);
    if (step !== left.length - c["tfinal"] - 1) continue;
    const { arrays = {} } = await routine.state();
    for (const name of Object.keys(t.trainee.trainable)) for (const kind of ["mean", "deviation"]) close(arrays[`${kind}.${name}`], `${kind}/${name.replace("base_model.model.", "")}`);
  }
  for (const [name, s] of Object.entries(t.trainee.trainable)) close(await s.host(), `end/${name}`);
});

describe("initialisations of a recipe", () => {
  for (const rule of ["pissa_niter_2", "eva", "corda", "lora_ga", "loftq"]) {
    test(`${rule} takes a step`, async () => {
      const looks = ["eva", "corda", "lora_ga"].includes(rule), recipe = mergeRecipe(base, { init_lora_weights: rule, lora_target_modules: ["q_proj"], ...(looks ? { init_batches: 1 } : {}), ...(rule === "loftq" ? { load_in_4bit: true, quant_block_size: 32 } : {}) });
      const source = await loadModel(fixture("llama/tiny"), { tokenizer: false }), weights = async (name: string): Promise<HostArray> => source.parameters()[name].host();
      const model = await loadModel(fixture("llama/tiny"), { tokenizer: false, ...(rule === "loftq" ? { quantize: { format: "nf4", block: 32 } } as const : {}) });
      const t = new Training(traineeOf(recipe, await tunedFor(recipe, model, { base: null, data, weights })), trainingOptions(recipe, data)), { loss, skipped } = await t.next();
      expect(Number.isFinite(loss)).toBe(true);
      expect(skipped).toBe(false);
    });
  }
});

test("values of init_lora_weights: true, false, and names; flags that have no meaning are refused by name", () => {
  expect(checkRecipe({ init_lora_weights: true }, "r").values).toEqual({ init_lora_weights: true });
  expect(checkRecipe({ init_lora_weights: "pissa_niter_4", lora_modules_to_save: "lm_head" }, "r").values).toEqual({ init_lora_weights: "pissa_niter_4", modules_to_save: ["lm_head"] });
  expect(() => checkRecipe({ init_lora_weights: "piza" }, "r")).toThrow(/true, false, or one of gaussian, pissa, pissa_niter_K, olora/);
  const fails = (changes: Partial<Recipe>, text: RegExp): void => { expect(() => loraOptions(mergeRecipe(changes), null)).toThrow(ConfigError); expect(() => loraOptions(mergeRecipe(changes), null)).toThrow(text); };
  fails({ tinit: 3 }, /tinit goes with peft_type: ADALORA/);
  fails({ d_initial: 1, peft_type: "ADALORA" }, /d_initial goes with peft_type: VERA/);
});
