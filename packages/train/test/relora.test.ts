/** ReLoRA in a run: merges and resets where the reference has them, resume bit for bit with a base that changes, and what comes out. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gradients } from "@adjoint/autograd";
import { lora, mergeAndReinit } from "@adjoint/lora";
import { loadModel, type LoadModelOptions } from "@adjoint/models";
import { Linear } from "@adjoint/nn";
import { adamw, resetState } from "@adjoint/optim";
import { quantizedOf } from "@adjoint/quant";
import { compile, ConfigError, hostNormal, matrixOf, type Store, store, svd } from "@adjoint/tensor";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { describe, expect, test } from "vitest";
import { evaluate, fullTrainee, idsData, idsRows, latestCheckpoint, loadCheckpoint, loraOptions, mergeRecipe, readCheckpoint, type Recipe, restOf, run, type RunResult, saveCheckpoint, scheduleOf, type Trainee, traineeOf, Training, trainingOptions } from "../src/index.ts";
import { bits, temporary } from "./support.ts";

const rows = golden("llama/tiny")["rows"] ?? JSON.parse(readFileSync(fixture("llama/tiny/ids.json"), "utf8"));
const base: Partial<Recipe> = { per_device_train_batch_size: 2, max_steps: 6, learning_rate: 2e-2, lora_r: 2, seed: 7, relora: 2, lora_target_modules: ["q_proj", "down_proj"], lr_scheduler_type: "relora_cosine_restarts" };
const traineeFor = async (recipe: Recipe, load: LoadModelOptions = {}): Promise<Trainee> => {
  const model = await loadModel(fixture("llama/tiny"), { tokenizer: false, ...load });
  return traineeOf(recipe, lora(model, { ...loraOptions(recipe, null), seed: recipe.seed }));
};
const start = async (recipe: Recipe, load?: LoadModelOptions): Promise<Training> => new Training(await traineeFor(recipe, load), trainingOptions(recipe, idsRows(rows, "rows")));
const held = async (t: Training): Promise<Record<string, string>> => {
  const weights = await Promise.all(Object.entries(t.trainee.model.weights()).map(async ([name, w]) => { const q = await quantizedOf(w)?.host(); return [name, q === undefined ? await w.host() : { dtype: "u8" as const, shape: [q.codes.length], data: q.codes }] as const; }));
  return bits([...weights, ...(await Promise.all(Object.entries(t.trainee.trainable).map(async ([name, s]) => [name, await s.host()] as const))), ...Object.entries(await t.optimizer.state())]);
};

describe("ReLoRA", () => {
  test("merges after steps R + 1, 2 R + 1, as the reference does, at the step whose rate is 0", async () => {
    const recipe = mergeRecipe(base, { relora_warmup: 1, relora_reset: "magnitude", relora_reset_ratio: 0.5 }), t = await start(recipe), notes: string[] = [], rate = scheduleOf(recipe, 6);
    while (t.step < 6) { await t.next(); notes.push(...t.notes.splice(0)); }
    expect(notes).toEqual(["step 3: merge 1 into the base, 50.0 % of the moments set to zero", "step 5: merge 2 into the base, 50.0 % of the moments set to zero"]);
    expect([rate(2), rate(4)]).toEqual([0, 0]);
    expect(rate(3)).toBeGreaterThan(0);
  });

  const cases: [string, Partial<Recipe>, LoadModelOptions][] = [
    ["with moments that are pruned at random", { relora_reset: "random", relora_reset_ratio: 0.9, lora_dropout: 0.25 }, {}],
    ["with everything else trained in full", { relora_train_rest: true, gradient_accumulation_steps: 2, per_device_train_batch_size: 1 }, {}],
    ["over codes, which are quantized again", { relora_cycle: 4, max_steps: 8 }, { quantize: { format: "nf4", block: 32 } }],
  ];
  for (const [name, changes, load] of cases) {
    test(`goes on bit for bit ${name}`, async () => {
      const recipe = mergeRecipe(base, changes), whole = await start(recipe, load), first = await start(recipe, load), folder = temporary();
      for await (const _ of whole.run());
      for (let i = 0; i < 4; i++) await first.next();
      await saveCheckpoint(first, { folder, recipe });
      const files = readdirSync(join(folder, "checkpoint-4"));
      expect(files).toEqual(expect.arrayContaining(["base.safetensors", "adapter_model.safetensors", "method.json"]));
      const second = await start(recipe, load);
      await loadCheckpoint(second, recipe, await readCheckpoint(await latestCheckpoint(folder)));
      for await (const _ of second.run());
      expect(await held(second)).toEqual(await held(whole));
      expect(JSON.parse(readFileSync(join(folder, "checkpoint-4", "method.json"), "utf8"))).toMatchObject({ relora: { merges: 1 } });
    });
  }

  test("a warm start is full training to the bit, then ReLoRA, in one run that goes on from either part and from between", async () => {
    const recipe = mergeRecipe(base, { relora_warm_start: 2, relora_warmup: 1 }), whole = await start(recipe), notes: string[] = [], folder = temporary(), data = idsRows(rows, "rows");
    const weights = async (t: Training): Promise<Record<string, string>> => bits(await Promise.all(Object.entries(t.trainee.model.parameters()).map(async ([name, w]) => [name, await w.host()] as const)));
    const full = new Training(fullTrainee(await loadModel(fixture("llama/tiny"), { tokenizer: false })), trainingOptions(mergeRecipe(recipe, { use_peft: false, relora: null, relora_warm_start: 0, relora_warmup: 0, lr_scheduler_kwargs: { restart_every: "2", restart_warmup_steps: "1" } }), data));
    let before = await weights(whole);
    while (whole.step < 6) {
      expect(whole.trainee.kind).toBe(whole.step < 2 ? "full" : "adapter");
      await whole.next();
      const now = await weights(whole), { step } = whole;
      if (step <= 2) { await full.next(); expect(now).toEqual(await weights(full)); }
      else if (step < 5) expect([step, now]).toEqual([step, before]);
      else if (step === 5) expect(now).not.toEqual(before);
      before = now;
      notes.push(...whole.notes.splice(0));
      if (step < 4) await saveCheckpoint(whole, { folder, recipe });
    }
    expect(notes).toEqual(["step 2: all weights have trained; from now on what the adapter trains", "step 5: merge 1 into the base, moments set to zero"]);
    const end = await held(whole);
    for (const step of [1, 2, 3]) {
      const again = await start(recipe);
      await loadCheckpoint(again, recipe, await readCheckpoint(join(folder, `checkpoint-${step}`)));
      for await (const _ of again.run());
      expect(await held(again), `from step ${step}`).toEqual(end);
    }
  });

  test("writes a model that holds all of it, and trains what it is told to", async () => {
    const recipe = mergeRecipe(base, { relora_train_rest: true }), trainee = await traineeFor(recipe), folder = temporary(), data = idsRows(rows, "rows");
    expect(Object.keys(trainee.trainable)).toEqual(expect.arrayContaining(["model.embed_tokens.weight", "model.norm.weight", "model.layers.0.self_attn.k_proj.weight", "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]));
    expect(restOf(lora(trainee.model, { targetModules: ["q_proj"] }))).toContain("model.layers.0.self_attn.k_proj.weight");
    let result: RunResult | null = null;
    for (const going = run({ command: "finetune", recipe, trainee, data, measured: [{ name: "rows", role: "new", data: await idsData(fixture("llama/tiny/ids.json")) }], folder, sample: null }); result === null;) {
      const next = await going.next();
      if (next.done === true) result = next.value;
    }
    expect(result.output).toBe(join(folder, "model"));
    const model = await loadModel(join(folder, "model"), { tokenizer: false });
    expect((await evaluate(model, await idsData(fixture("llama/tiny/ids.json")))).loss).toBeCloseTo(result.comparisons[0].after.loss, 4);
    expect(result.comparisons[0].after.loss).toBeLessThan(result.comparisons[0].before?.loss ?? 0);
  });

  test("refuses by name what has no meaning", async () => {
    const fails = async (changes: Partial<Recipe>, key: string, load: LoadModelOptions = {}): Promise<void> => {
      const error: unknown = await start(mergeRecipe(base, changes), load).then(() => null, (e: unknown) => e);
      expect(error).toBeInstanceOf(ConfigError);
      if (error instanceof ConfigError) expect(error.message).toContain(key);
    };
    await fails({ relora: null, relora_cycle: 3 }, "relora_cycle goes with relora");
    await fails({ relora_warmup: 1, lr_scheduler_type: "cosine" }, "cosine does not restart");
    await fails({ relora_reset: "random" }, "needs relora_reset_ratio");
    await fails({ max_steps: 5 }, "restartEvery");
    await fails({ relora: null, relora_warm_start: 3 }, "relora_warm_start goes with relora");
    await fails({ relora_warm_start: 3 }, "relora_warm_start = 3: relora_cosine_restarts starts anew each 2 steps");
    await fails({ relora_warm_start: 2 }, "is held as codes, and all weights train at the start", { quantize: { format: "nf4", block: 32 } });
    await fails({ relora_warm_start: 6 }, "a warm start of 6 steps leaves none of 6");
    await fails({ relora_warm_start: 2, optim: "lora_fa" }, "relora_warm_start with optim lora_fa");
    await fails({ relora_warm_start: 2, lr_scheduler_type: "reduce_lr_on_plateau", eval_steps: 1 }, "relora_warm_start with reduce_lr_on_plateau");
    await fails({ relora_warm_start: 2, use_dora: true }, "relora_warm_start with use_dora = true");
    await fails({ relora_warm_start: 2, modules_to_save: ["lm_head"] }, "the copy that trains is taken before all weights train");
  });

  test("learns an update of a rank that its factors do not have (E4, in the small)", async () => {
    const d = 12, fixed = (seed: number): Store => store({ dtype: "f32", shape: [d, d], data: Float32Array.from(hostNormal(seed, "target", [d, d]).data) });
    const reach = async (every: number | null): Promise<{ loss: number; rank: number }> => {
      const start = fixed(1), target = fixed(2), model = { q_proj: new Linear(fixed(1)), config: { modelType: "llama" } }, tuned = lora(model, { r: 2, loraAlpha: 2, targetModules: ["q_proj"], seed: 3 });
      const p = Object.fromEntries(tuned.tensors()), optimizer = adamw({ learningRate: (t) => 0.1 * (every === null ? 1 : Math.min(1, (t % every) / 5)), weightDecay: 0 }).for(p), I = fixed(4);
      const step = compile(() => { const loss = model.q_proj.forward(I, tuned.context({})).sub(I.matmul(target.T)).square().mean(); optimizer.step(gradients(loss, p)); return loss; });
      let loss = Number.NaN;
      for (let t = 1, count = 0; t <= 160; t++) {
        loss = await step().item();
        if (every === null || t % every !== 0 || t === 160) continue;
        await mergeAndReinit(tuned, { seed: 3, count: ++count });
        await resetState(optimizer, { mode: "zero" });
      }
      const delta = (tuned.mergedWeights().get("q_proj.weight") ?? start).sub(start), { s: singular } = svd(matrixOf(await delta.host()));
      return { loss, rank: Array.from(singular).filter((x) => x > 0.01 * singular[0]).length };
    };
    const [plain, merged] = [await reach(null), await reach(40)];
    expect(plain.rank).toBe(2);
    expect(merged.rank).toBe(8);
    expect(merged.loss).toBeLessThan(0.5 * plain.loss);
  });
});
