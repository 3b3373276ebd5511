/** Optimizers, schedules and groups as recipes ask for them: every name, LoRA+, patterns, momentum of one cycle, plateaus, Sophia's samples. */
import { readFileSync } from "node:fs";
import { lora } from "@adjoint/lora";
import { loadModel } from "@adjoint/models";
import { aboutOptimizer, optimizerEntries, optimizerNames, optimizerOptions, schedule, scheduleNames } from "@adjoint/optim";
import { assign, ConfigError, fromHost, store, type Store } from "@adjoint/tensor";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { describe, expect, test } from "vitest";
import {
  adapterTrainee, collate, fullTrainee, idsRows, loraOptions, mergeRecipe, optimizerFor, type Recipe, type Routine, run, type RunOptions, type RunResult, scheduleOf, toTensors, Training, trainingOptions, warmupOf,
} from "../src/index.ts";
import { withDrawnLabels } from "../src/curvature.ts";
import { bits, temporary } from "./support.ts";

const rows = golden("llama/tiny")["rows"] ?? JSON.parse(readFileSync(fixture("llama/tiny/ids.json"), "utf8"));
const failing = (f: () => unknown): ConfigError => {
  try { f(); } catch (error) { if (error instanceof ConfigError) return error; throw error; }
  throw new Error("no error");
};
const steps = (n: number): number[] => [...Array(n).keys()];
const base: Partial<Recipe> = { per_device_train_batch_size: 2, max_steps: 4, learning_rate: 1e-2, lora_r: 2, init_lora_weights: false, seed: 7 };
async function start(changes: Partial<Recipe>): Promise<Training> {
  const recipe = mergeRecipe(base, changes), model = await loadModel(fixture("llama/tiny"), { tokenizer: false });
  const trainee = recipe.use_peft ? adapterTrainee(lora(model, { ...loraOptions(recipe, null), seed: recipe.seed })) : fullTrainee(model);
  return new Training(trainee, trainingOptions(recipe, idsRows(rows, "rows"), trainee.scaling));
}
const one = (value = 1): Store => store(fromHost({ dtype: "f32", shape: [2, 2], data: new Float32Array(4).fill(value) }));
interface TorchGroup { readonly lr: number; readonly weight_decay: number; readonly param_names?: readonly string[]; readonly names?: readonly string[] }
/** Rate and decay of each parameter of a recipe's optimizer. */
async function ratesOf(changes: Partial<Recipe>, names: readonly string[], at = 0): Promise<Record<string, [number, number]>> {
  const recipe = mergeRecipe(base, changes), o = optimizerFor(recipe, scheduleOf(recipe, 10)).for(Object.fromEntries(names.map((n) => [n, one()])));
  o.counter.value = at + 1;
  const { param_groups } = await o.stateDict();
  return Object.fromEntries((param_groups as unknown as readonly TorchGroup[]).flatMap((g) => (g.param_names ?? g.names ?? []).map((n) => [n, [g.lr, g.weight_decay]] as const)));
}

describe("every optimizer by its names", () => {
  test("takes its own options, spelled as in recipes, and lists them when it is given another", () => {
    for (const name of optimizerNames) {
      const recipe = mergeRecipe({ optim: name, learning_rate: 1e-3 }), { keys, defaults } = aboutOptimizer(name);
      expect(() => optimizerFor(recipe, () => 1e-3, { scaling: () => 1 })).not.toThrow();
      expect(failing(() => optimizerFor({ ...recipe, optim_args: { momentun: "1" } }, () => 1e-3, { scaling: () => 1 })).message).toContain(`${name} has no option momentun\n  fix: its options: ${Object.keys(keys)[0]}`);
      for (const [key, { option, default: value, index }] of Object.entries(keys)) {
        if (value === null) continue;
        const read = optimizerOptions(name, { [key]: String(value) })[option];
        expect([key, read]).toEqual([key, index === null ? value : defaults[option]]);
      }
    }
  });
  test("has a title and a use", () => {
    for (const { name } of optimizerEntries) expect([name, aboutOptimizer(name).title === name, aboutOptimizer(name).use]).toEqual([name, false, expect.stringMatching(/.{10}/)]);
  });
  test("adam_beta1, adam_beta2 and adam_epsilon reach the optimizers that have them", async () => {
    const hyper = async (changes: Partial<Recipe>): Promise<unknown> => (await optimizerFor(mergeRecipe(changes), () => 1).for({ p: one() }).stateDict()).param_groups[0];
    expect(await hyper({ adam_beta1: 0.5, adam_beta2: 0.75, adam_epsilon: 0.125 })).toMatchObject({ betas: [0.5, 0.75], eps: 0.125 });
    expect(await hyper({ adam_beta1: 0.5, optim_args: { beta1: "0.25" } })).toMatchObject({ betas: [0.25, 0.999] });
    expect(await hyper({ optim: "lion" })).toMatchObject({ betas: [0.9, 0.99] });
    expect(await hyper({ optim: "lion", adam_beta2: 0.5 })).toMatchObject({ betas: [0.9, 0.5] });
    for (const optim of ["lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit"]) expect([optim, await hyper({ optim })]).toEqual([optim, expect.objectContaining({ betas: [0.9, 0.999] })]);   // as Transformers' Trainer
    expect(await hyper({ optim: "lion_32bit", optim_args: { beta2: "0.99" } })).toMatchObject({ betas: [0.9, 0.99] });
    expect(await hyper({ optim: "adafactor" })).toMatchObject({ lr: 1 });
  });
  test("a rate and a rate of its own are one too many; without one, Adafactor's own is taken and reported", async () => {
    const own: Partial<Recipe> = { optim: "adafactor", optim_args: { relative_step: "true", scale_parameter: "true", warmup_init: "true" } };
    for (const changes of [{}, { learning_rate: 0 }, { learning_rate: 0, lr_scheduler_type: "constant", warmup_steps: 2 }]) expect(failing(() => scheduleOf(mergeRecipe(own, changes), 10)).details).toMatchObject({ key: "optim_args.relative_step", fix: expect.stringContaining("learning_rate: 0") });
    const t = await start({ ...own, learning_rate: 0, lr_scheduler_type: "constant", max_steps: 3 }), before = bits(await Promise.all(Object.entries(t.trainee.trainable).map(async ([k, s]) => [k, await s.host()] as const)));
    expect([(await t.next()).learning_rate, (await t.next()).learning_rate, (await t.next()).learning_rate]).toEqual([1e-6, 2e-6, 1e-6 * 3]);
    expect(bits(await Promise.all(Object.entries(t.trainee.trainable).map(async ([k, s]) => [k, await s.host()] as const)))).not.toEqual(before);
  });
  test("riemannian: SGD as its base, with a momentum", async () => {
    const pair = { lora_A: { weight: one() }, lora_B: { weight: one() } }, o = optimizerFor(mergeRecipe({ optim: "riemannian", optim_args: { base: "sgd", momentum: "0.5", reg: "0.25" } }), () => 1).for(pair);
    expect(Object.keys(o.states)).toEqual(["momentum_buffer"]);
    expect((await o.stateDict()).param_groups[0]).toMatchObject({ momentum: 0.5, reg: 0.25 });
    expect(failing(() => optimizerFor(mergeRecipe({ optim: "riemannian", optim_args: { base: "sgd" }, adam_beta1: 0.5 }), () => 1)).details.key).toBe("betas");
  });
  test("in 8 bits, embeddings keep states of 32, whether all weights train or copies beside an adapter", () => {
    const big = (): Store => store(fromHost({ dtype: "f32", shape: [64, 64], data: new Float32Array(4096) })), names = ["model.embed_tokens.weight", "x.wte.modules_to_save.default.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"];
    for (const optim of ["adamw_8bit", "adam_8bit", "lion_8bit", "rmsprop_bnb_8bit"]) {
      const { states } = optimizerFor(mergeRecipe({ optim }), () => 1).for(Object.fromEntries(names.map((n) => [n, big()])));
      expect(names.map((n) => states["state1"][n].dtype)).toEqual(["f32", "f32", "u8", "u8"]);
    }
  });
  test("what trains factors wants an adapter", () => {
    for (const optim of ["lorafa", "lorapro"]) expect(failing(() => optimizerFor(mergeRecipe({ optim, use_peft: false }), () => 1)).details.key).toBe("optim");
  });
});

describe("every schedule by its name", () => {
  const kwargs: Readonly<Record<string, Record<string, string>>> = {
    cosine_with_min_lr: { min_lr_rate: "0.1" }, cosine_warmup_with_min_lr: { min_lr: "0.001" }, warmup_stable_decay: { num_decay_steps: "4" }, cosine_annealing_warm_restarts: { T_0: "5", T_mult: "2" },
    relora_cosine_restarts: { restart_every: "10", restart_warmup_steps: "2" }, polynomial: { power: "2" },
  };
  test("the rate is the schedule's with the recipe's numbers", () => {
    for (const name of scheduleNames) {
      const warmup_steps = name === "constant" || name === "one_cycle" || name === "reduce_lr_on_plateau" ? 0 : 3;
      const rate = scheduleOf(mergeRecipe({ learning_rate: 0.5, lr_scheduler_type: name, lr_scheduler_kwargs: kwargs[name] ?? {}, warmup_steps, eval_steps: 5 }), 20);
      for (const v of steps(20).map(rate)) expect(v >= 0 && v <= 0.5).toBe(true);
      expect(Math.max(...steps(20).map(rate))).toBeGreaterThan(0.4);
    }
    expect(scheduleOf(mergeRecipe({ learning_rate: 0.5, lr_scheduler_type: "polynomial", lr_scheduler_kwargs: { power: "2", lr_end: "0.25" } }), 20)(10)).toBe(schedule("polynomial", { peak: 0.5, power: 2, lrEnd: 0.25, steps: 20 })(10));
  });
  test("a warm-up below 1 is a share; warmup_steps goes before warmup_ratio", () => {
    expect([{ warmup_steps: 0.15 }, { warmup_ratio: 0.15 }, { warmup_steps: 4, warmup_ratio: 0.5 }, {}].map((r) => warmupOf(mergeRecipe(r), 10))).toEqual([2, 2, 4, 0]);
  });
  test.each<[string, Partial<Recipe>, RegExp]>([
    ["a warm-up longer than the run", { warmup_steps: 30 }, /warm-up of 30 steps is longer than the schedule of 20/],
    ["a warm-up of 2.5 steps", { warmup_steps: 2.5 }, /warmup must be a whole number/],
    ["an option of another schedule", { lr_scheduler_type: "linear", lr_scheduler_kwargs: { num_cycles: "2" } }, /linear: there is no option num_cycles/],
    ["a plateau without evaluations", { lr_scheduler_type: "reduce_lr_on_plateau" }, /eval_steps/],
    ["a plateau with a warm-up", { lr_scheduler_type: "reduce_lr_on_plateau", eval_steps: 2, warmup_steps: 2 }, /warm-up of 2 steps has no place/],
    ["a cycle of a momentum that is fixed", { optim: "lion", lr_scheduler_type: "one_cycle", lr_scheduler_kwargs: { cycle_momentum: "true" } }, /momentum of lion is fixed/],
  ])("refuses %s", (_, changes, message) => { expect(failing(() => scheduleOf(mergeRecipe(changes), 20)).message).toMatch(message); });
});

describe("groups", () => {
  const A = "base_model.model.q.lora_A.weight", B = "base_model.model.q.lora_B.weight", E = "base_model.model.e.lora_embedding_A";
  test("loraplus_lr_ratio, loraplus_lr_embedding and weight_decay are LoRA+'s", async () => {
    const plus = { loraplus_lr_ratio: 4, loraplus_lr_embedding: 0.25, weight_decay: 0.125, learning_rate: 0.5 };
    expect(await ratesOf({ ...plus, lr_scheduler_type: "constant" }, [A, B, E])).toEqual({ [A]: [0.5, 0.125], [B]: [2, 0.125], [E]: [0.25, 0.125] });
    expect(await ratesOf({ ...plus, lr_scheduler_type: "linear" }, [A, B, E], 5)).toEqual({ [A]: [0.25, 0.125], [B]: [1, 0.125], [E]: [0.125, 0.125] });
  });
  test("a weight_decay of optim_args goes before the recipe's, in LoRA+'s groups too", async () => {
    const decay = { weight_decay: 0.5, optim_args: { weight_decay: "0.125" }, lr_scheduler_type: "constant", learning_rate: 0.5 };
    expect(await ratesOf(decay, [A, B])).toEqual({ [A]: [0.5, 0.125], [B]: [0.5, 0.125] });
    expect(await ratesOf({ ...decay, loraplus_lr_ratio: 4 }, [A, B, E])).toEqual({ [A]: [0.5, 0.125], [B]: [2, 0.125], [E]: [1e-6, 0.125] });
  });
  test("patterns by parameter, before LoRA+", async () => {
    const changes: Partial<Recipe> = { learning_rate: 0.5, lr_scheduler_type: "linear", learning_rate_pattern: { "q\\.lora_B\\.weight": "0.25" }, weight_decay_pattern: { "lora_A.weight": "0.5" } };
    expect(await ratesOf(changes, [A, B], 5)).toEqual({ [A]: [0.25, 0.5], [B]: [0.125, 0] });
    expect(await ratesOf({ ...changes, loraplus_lr_ratio: 8 }, [A, B, E], 5)).toEqual({ [A]: [0.25, 0.5], [B]: [0.125, 0], [E]: [5e-7, 0] });
  });
  test.each<[string, Partial<Recipe>, string]>([
    ["a rate that is no number", { learning_rate_pattern: { a: "fast" } }, 'learning_rate_pattern["a"]'],
    ["a negative decay", { weight_decay_pattern: { a: "-1" } }, 'weight_decay_pattern["a"]'],
    ["an expression that takes nothing", { learning_rate_pattern: { nothing: "1" } }, 'learning_rate_pattern["nothing"]'],
    ["LoRA+ without an adapter", { loraplus_lr_ratio: 4, use_peft: false }, "loraplus_lr_ratio"],
    ["groups under a rate of 0", { loraplus_lr_ratio: 4, learning_rate: 0 }, "learning_rate"],
  ])("refuses %s", (_, changes, key) => {
    expect(failing(() => optimizerFor(mergeRecipe(changes), () => 1).for({ [A]: one(), [B]: one() })).details.key).toBe(key);
  });
});

test.each([["sgd", { momentum: 0.75 }], ["adamw_torch", { betas: [0.75, 0.999] }]])("one_cycle may turn the momentum of %s the other way", async (optim, hyper) => {
  const recipe = mergeRecipe({ optim, lr_scheduler_type: "one_cycle", lr_scheduler_kwargs: { cycle_momentum: "true", base_momentum: "0.5", max_momentum: "0.75" }, learning_rate: 1, max_steps: 10 });
  const { optimizer } = trainingOptions(recipe, idsRows(rows, "rows")), o = optimizer.for({ p: one() });
  expect((await o.stateDict()).param_groups[0]).toMatchObject(hyper);
});

test("a momentum that cycles leaves the β₂ of optim_args as it is", async () => {
  const recipe = mergeRecipe({ lr_scheduler_type: "one_cycle", lr_scheduler_kwargs: { cycle_momentum: "true", max_momentum: "0.75", base_momentum: "0.5" }, optim_args: { beta2: "0.875" }, learning_rate: 1, max_steps: 10 });
  expect((await trainingOptions(recipe, idsRows(rows, "rows")).optimizer.for({ p: one() }).stateDict()).param_groups[0]).toMatchObject({ betas: [0.75, 0.875] });
});

test("after a warm start the factors' optimizer goes on in the course of the run", () => {
  const recipe = mergeRecipe({ relora: 2, relora_warm_start: 4, learning_rate: 1, lr_scheduler_type: "linear", max_steps: 10 }), { optimizer, warmOptimizer, learningRate } = trainingOptions(recipe, idsRows(rows, "rows"));
  const at = (o: typeof optimizer, step: number): number => { const bound = o.for({ p: one() }); bound.counter.value = step + 1; return bound.learningRate; };
  expect([0, 1, 5].map((n) => at(optimizer, n))).toEqual([4, 5, 9].map(learningRate));
  expect(warmOptimizer === undefined ? null : at(warmOptimizer, 3)).toBe(learningRate(3));
});

test("routines see gradients as clipping leaves them: shortened above the norm, as they are below it", async () => {
  const seen = store(fromHost({ dtype: "f32", shape: [], data: new Float32Array(1) })), recipe = mergeRecipe(base, {});
  const watch: Routine = { name: "watch", observe: (g) => { assign([seen], [Object.values(g).flatMap((x) => (x === null ? [] : [x.square().sum()])).reduce((a, b) => a.add(b)).sqrt()]); }, between: () => Promise.resolve(null), state: () => Promise.resolve({ values: {} }), load: () => undefined };
  for (const [maxNorm, share] of [[1e6, 1], [0, 1], [1e-3, null]] as const) {
    const model = await loadModel(fixture("llama/tiny"), { tokenizer: false }), options = trainingOptions({ ...recipe, max_grad_norm: maxNorm }, idsRows(rows, "rows"));
    const { grad_norm } = await new Training(adapterTrainee(lora(model, { ...loraOptions(recipe, null), seed: 7 }), [watch]), options).next();
    expect(Math.abs(await seen.item() / (share === null ? maxNorm : grad_norm) - 1)).toBeLessThan(share === null ? 1e-3 : 1e-6);
  }
});

test("LoRA-FA computes no gradient of A: it is in no norm and in no sum of micro-batches", async () => {
  for (const accumulation of [1, 2]) {
    const t = await start({ optim: "lorafa", gradient_accumulation_steps: accumulation, per_device_train_batch_size: 1 }), all = await start({ gradient_accumulation_steps: accumulation, per_device_train_batch_size: 1 }), [a, b] = [await t.next(), await all.next()];
    expect(a.loss).toBe(b.loss);
    expect(a.grad_norm).toBeGreaterThan(0);
    expect(a.grad_norm).toBeLessThan(b.grad_norm);
  }
});

describe("Sophia in a recipe", () => {
  test("samples the curvature every ten steps, from labels that the model draws; a run that was cut draws the same", async () => {
    const sophia: Partial<Recipe> = { optim: "sophia", learning_rate: 1e-3, max_steps: 3, lora_dropout: 0.25 }, a = await start(sophia), b = await start(sophia);
    const hessian = async (t: Training): Promise<Record<string, string>> => bits(Object.entries(await t.optimizer.state()).filter(([name]) => name.startsWith("hessian.")));
    const before = await hessian(a);
    await a.next();
    const first = await hessian(a);
    expect(Object.values(first)).not.toEqual(Object.values(before));
    await a.next();
    expect(await hessian(a)).toEqual(first);
    const values = Object.entries(await a.optimizer.state()).filter(([name]) => name.startsWith("hessian.")).flatMap(([, h]) => Array.from(h.data as Float32Array));
    expect(values.every((v) => v >= 0) && values.some((v) => v > 0)).toBe(true);
    for await (const _ of b.run());
    expect(await hessian(b)).toEqual(first);
  });
});

describe("Sophia's curvature", () => {
  test("has labels that the model draws one place before, and only where there were labels", async () => {
    const row = { ids: [3, 1, 4, 1, 5], labels: [-100, 1, -100, 1, 5] }, batch = toTensors(collate([row], 0, 0)), sure = [2, 0, 1, 3, 2];      // what the model is sure of at each place
    const logits = fromHost({ dtype: "f32", shape: [1, batch.length, 4], data: Float32Array.from({ length: 4 * batch.length }, (_, i) => (sure[i >> 2] === i % 4 ? 1e4 : 0)) });
    const drawn = withDrawnLabels(batch, logits, { seed: 1, stream: "s" });
    expect([...await drawn.labels.data()].slice(0, 5)).toEqual([-100, 2, -100, 1, 3]);
  });
  const hessian = async (t: Training): Promise<number[]> => Object.entries(await t.optimizer.state()).filter(([name]) => name.startsWith("hessian.")).flatMap(([, h]) => Array.from(h.data as Float32Array));
  const weights = async (t: Training): Promise<unknown> => bits(await Promise.all(Object.entries(t.trainee.trainable).map(async ([key, s]) => [key, await s.host()] as const)));
  test("is that of the tokens that a batch predicts: max_length does not matter to rows that are shorter", async () => {
    const run = async (max_length: number, optim_args: Record<string, string> = {}): Promise<[unknown, number[]]> => { const t = await start({ optim: "sophia", optim_args, max_length, max_steps: 3 }); for await (const _ of t.run()); return [await weights(t), await hessian(t)]; };
    const [[short, h], [long, quarter], [given]] = [await run(64), await run(256), await run(64, { bs: "128" })];
    expect(long).toEqual(short);
    expect(quarter).toEqual(h.map((x) => x / 4));
    expect(given).not.toEqual(short);
  });
  test("is averaged with the β₂ of the recipe", async () => {
    const first = async (beta2: string): Promise<number[]> => { const t = await start({ optim: "sophia", optim_args: { beta2 } }); await t.next(); return hessian(t); };
    const [a, b] = [await first("0.5"), await first("0.75")];
    expect(Math.max(...b)).toBeGreaterThan(0);
    expect(a).toEqual(b.map((x) => 2 * x));
  });
});

describe("a plateau in a run", () => {
  const recipe = mergeRecipe(base, { lr_scheduler_type: "reduce_lr_on_plateau", lr_scheduler_kwargs: { patience: "0", factor: "0.5", threshold: "0.9" }, eval_steps: 1, save_steps: 1, max_steps: 5 });
  async function go(changes: Partial<Recipe>, folder: string, stopAt = Infinity): Promise<RunResult> {
    const own = { ...recipe, ...changes }, model = await loadModel(fixture("llama/tiny"), { tokenizer: false }), trainee = adapterTrainee(lora(model, { ...loraOptions(own, null), seed: 7 })), data = idsRows(rows, "rows"), stop = new AbortController();
    const options: RunOptions = { command: "finetune", recipe: own, trainee, data, measured: [{ name: "rows", role: "new", data }], folder, sample: null, signal: stop.signal };
    const events = run(options);
    for (;;) {
      const { value, done } = await events.next();
      if (done) return value;
      if (value.type === "step" && value.metrics.step === stopAt) stop.abort(new Error("stop"));
    }
  }
  test("the rate falls by the loss on held-out data, and a run that was cut goes on with the same rates", async () => {
    const whole = await go({}, temporary()), folder = temporary();
    expect(whole.metrics.map((m) => m.learning_rate)).toEqual([0.01, 0.01, 0.005, 0.0025, 0.00125]);
    const cut = await go({}, folder, 3);
    expect(cut.status).toBe("interrupted");
    const rest = await go({ resume_from_checkpoint: "latest" }, folder);
    expect(rest.metrics.map((m) => [m.step, m.learning_rate, m.loss])).toEqual(whole.metrics.map((m) => [m.step, m.learning_rate, m.loss]));
  });
});
