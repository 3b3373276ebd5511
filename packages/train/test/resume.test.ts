/** A run that was cut goes on bit for bit; checkpoints are whole, rotated, and refused where they do not belong. */
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { withFileSystem } from "@adjoint/io";
import { sweepFailures } from "@adjoint/io/failing";
import { loadLora, lora } from "@adjoint/lora";
import { loadModel } from "@adjoint/models";
import { ConfigError, FormatError, referenceBackend, setDevice } from "@adjoint/tensor";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { describe, expect, test } from "vitest";
import {
  adapterTrainee, checkpoints, evaluate, fullTrainee, idsData, idsRows, latestCheckpoint, loadCheckpoint, loraOptions, mergeRecipe, readCheckpoint, type Recipe, run, type RunOptions, type RunResult, saveCheckpoint, type Trainee,
  Training, trainingOptions, readMetrics,
} from "../src/index.ts";
import { bits, temporary } from "./support.ts";

const rows = golden("llama/tiny")["rows"] ?? JSON.parse(readFileSync(fixture("llama/tiny/ids.json"), "utf8"));
const STEPS = 4;
const base: Partial<Recipe> = { per_device_train_batch_size: 2, max_steps: STEPS, learning_rate: 1e-2, warmup_steps: 1, lora_r: 2, lora_dropout: 0.25, init_lora_weights: false, seed: 7 };
const makeTrainee = async (recipe: Recipe): Promise<Trainee> => {
  const model = await loadModel(fixture("llama/tiny"), { tokenizer: false });
  return recipe.use_peft ? adapterTrainee(lora(model, { ...loraOptions(recipe, null), seed: recipe.seed })) : fullTrainee(model);
};
const start = async (recipe: Recipe): Promise<Training> => new Training(await makeTrainee(recipe), trainingOptions(recipe, idsRows(rows, "rows")));
const stateOf = async (t: Training): Promise<Record<string, string>> => ({
  ...bits(await Promise.all(Object.entries(t.trainee.trainable).map(async ([name, s]) => [name, await s.host()] as const))), ...bits(Object.entries(await t.optimizer.state())),
});

describe("resume is bit-equal", () => {
  const cases: [string, Partial<Recipe>][] = [
    ["an adapter with dropout", {}],
    ["accumulation of unequal groups", { per_device_train_batch_size: 1, gradient_accumulation_steps: 4 }],
    ["all weights, the order of the file", { use_peft: false, shuffle: false, lora_dropout: 0, weight_decay: 0.1 }],
  ];
  for (const [name, changes] of cases) {
    test(name, async () => {
      const recipe = mergeRecipe(base, changes), whole = await start(recipe), losses: number[] = [];
      for await (const m of whole.run()) losses.push(m.loss);
      const first = await start(recipe), folder = temporary();
      await first.next();
      await first.next();
      await saveCheckpoint(first, { folder, recipe });
      const second = await start(recipe);
      expect(await loadCheckpoint(second, recipe, await readCheckpoint(await latestCheckpoint(folder)))).toEqual([]);
      expect(second.step).toBe(2);
      const rest: number[] = [];
      for await (const m of second.run()) rest.push(m.loss);
      expect(rest).toEqual(losses.slice(2));
      expect(await stateOf(second)).toEqual(await stateOf(whole));
      expect(second.tokensSeen).toBe(whole.tokensSeen);
    });
  }

  test("cut in the middle of an accumulation: the step is repeated", async () => {
    const recipe = mergeRecipe(base, { per_device_train_batch_size: 1, gradient_accumulation_steps: 3 }), whole = await start(recipe);
    for await (const _ of whole.run());
    const cut = await start(recipe), folder = temporary(), stop = new AbortController();
    await cut.next();
    const before = await stateOf(cut);
    // the signal fires after the first micro-batch of step 2
    let looks = 0;
    const signal: AbortSignal = new Proxy(stop.signal, { get: (t, key) => { const v: unknown = Reflect.get(t, key, t); return key === "throwIfAborted" ? () => { if (++looks === 2) stop.abort(new Error("cut")); t.throwIfAborted(); } : typeof v === "function" ? v.bind(t) : v; } });
    await expect(cut.next(signal)).rejects.toThrow("cut");
    expect(await stateOf(cut)).toEqual(before);
    await saveCheckpoint(cut, { folder, recipe });
    const second = await start(recipe);
    await loadCheckpoint(second, recipe, await readCheckpoint(await latestCheckpoint(folder)));
    for await (const _ of second.run());
    expect(await stateOf(second)).toEqual(await stateOf(whole));
    // and the one that was cut can itself go on
    for await (const _ of cut.run());
    expect(await stateOf(cut)).toEqual(await stateOf(whole));
  });

  test("on wasm, with another number of threads", async () => {
    const { wasm } = await import("@adjoint/wasm");
    const recipe = mergeRecipe(base);
    try {
      setDevice(await wasm({ threads: 1 }));
      const whole = await start(recipe);
      for await (const _ of whole.run());
      const want = await stateOf(whole), first = await start(recipe), folder = temporary();
      await first.next();
      await saveCheckpoint(first, { folder, recipe });
      setDevice(await wasm({ threads: 2, soloBelow: 16 }));
      const second = await start(recipe);
      await loadCheckpoint(second, recipe, await readCheckpoint(await latestCheckpoint(folder)));
      for await (const _ of second.run());
      expect(await stateOf(second)).toEqual(want);
    } finally {
      setDevice(referenceBackend);
    }
  });

  test("gradient checkpointing changes no bit", async () => {
    const plain = await start(mergeRecipe(base)), again = await start(mergeRecipe(base, { gradient_checkpointing: true }));
    for (let i = 0; i < 2; i++) expect((await again.next()).loss).toBe((await plain.next()).loss);
    expect(await stateOf(again)).toEqual(await stateOf(plain));
  });
});

describe("a checkpoint", () => {
  test("is an adapter folder that PEFT's loader reads, and is rotated", async () => {
    const recipe = mergeRecipe(base, { save_total_limit: 2 }), t = await start(recipe), folder = temporary();
    for (let i = 0; i < 3; i++) { await t.next(); await saveCheckpoint(t, { folder, recipe, limit: 2 }); }
    expect(await checkpoints(folder)).toEqual([2, 3]);
    expect(readdirSync(join(folder, "checkpoint-3")).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors", "data.json", "optimizer.safetensors", "rng.json", "scheduler.json", "trainer_state.json"]);
    const { tuned } = await loadLora(await loadModel(fixture("llama/tiny"), { tokenizer: false }), join(folder, "checkpoint-3"));
    expect(bits(await tuned.snapshot())).toEqual(bits(await Promise.all(Object.entries(t.trainee.trainable).map(async ([name, s]) => [name, await s.host()] as const))));
    const state = JSON.parse(readFileSync(join(folder, "checkpoint-3", "trainer_state.json"), "utf8")) as Record<string, unknown>;
    expect(state).toMatchObject({ global_step: 3, max_steps: STEPS, epoch: 1, format_version: 1 });
    expect(JSON.parse(readFileSync(join(folder, "checkpoint-3", "data.json"), "utf8"))).toMatchObject({ microstep: 0, epoch: 1, next_step: 3 });
  });

  test("is refused by another recipe, other data, another format, and when damaged", async () => {
    const recipe = mergeRecipe(base), t = await start(recipe), folder = temporary();
    await t.next();
    const path = await saveCheckpoint(t, { folder, recipe }), info = await readCheckpoint(path);
    const other = mergeRecipe(recipe, { learning_rate: 2e-2 });
    await expect(loadCheckpoint(await start(other), other, info)).rejects.toThrow(/learning_rate = 0.01, now it is 0.02/);
    const fewer = new Training(await makeTrainee(recipe), trainingOptions(recipe, idsRows(rows.slice(1), "rows")));
    await expect(loadCheckpoint(fewer, recipe, info)).rejects.toThrow(/training data has changed/);
    const fresh = await start(recipe), before = await stateOf(fresh), file = join(path, "optimizer.safetensors"), whole = readFileSync(file);
    writeFileSync(file, whole.subarray(0, whole.length - 8));
    await expect(loadCheckpoint(fresh, recipe, info)).rejects.toThrow(FormatError);
    expect(await stateOf(fresh)).toEqual(before);
    const state = join(path, "trainer_state.json");
    writeFileSync(state, readFileSync(state, "utf8").replace('"format_version": 1', '"format_version": 9'));
    await expect(readCheckpoint(path)).rejects.toThrow(/format_version is 9/);
    await expect(latestCheckpoint(temporary())).rejects.toThrow(ConfigError);
  });

  test("a full disk at any write leaves the older checkpoints whole and nothing half-written", async () => {
    const recipe = mergeRecipe(base), t = await start(recipe), folder = temporary();
    await t.next();
    await saveCheckpoint(t, { folder, recipe });
    const old = readFileSync(join(folder, "checkpoint-1", "adapter_model.safetensors"));
    await t.next();
    const failures = await sweepFailures(
      (fs) => { rmSync(join(folder, "checkpoint-2"), { recursive: true, force: true }); return withFileSystem(fs, async () => { await saveCheckpoint(t, { folder, recipe, limit: 5 }); }); },
      async (error) => {
        expect(String(error)).toMatch(/cannot write .*checkpoint-2.*ENOSPC/);
        expect(readdirSync(folder)).toEqual(["checkpoint-1"]);
        expect(readFileSync(join(folder, "checkpoint-1", "adapter_model.safetensors")).equals(old)).toBe(true);
      });
    expect(failures).toBeGreaterThan(10);
    expect(await checkpoints(folder)).toEqual([1, 2]);
  });
});

describe("a whole run", () => {
  const follow = async (options: RunOptions, onStep: (step: number) => void = () => undefined): Promise<RunResult> => {
    for (const going = run(options); ;) {
      const next = await going.next();
      if (next.done === true) return next.value;
      if (next.value.type === "step") onStep(next.value.metrics.step);
    }
  };
  const optionsOf = async (folder: string, changes: Partial<Recipe> = {}): Promise<RunOptions> => {
    const recipe = mergeRecipe(base, changes), data = idsRows(rows, "rows");
    return { command: "finetune", recipe, trainee: await makeTrainee(recipe), data, measured: [{ name: "rows", role: "new", data: await idsData(fixture("llama/tiny/ids.json")) }], folder, sample: null };
  };

  test("stopped and resumed equals the one that was not, with one line a step", async () => {
    const a = temporary(), b = temporary();
    const whole = await follow(await optionsOf(a));
    expect(whole.status).toBe("done");
    const stop = new AbortController();
    const cut = await follow({ ...(await optionsOf(b)), signal: stop.signal }, (step) => { if (step === 2) stop.abort(new Error("stop")); });
    expect(cut).toMatchObject({ status: "interrupted", steps: 2, output: null, checkpoint: join(b, "checkpoint-2") });
    const resumed = await follow(await optionsOf(b, { resume_from_checkpoint: "latest" }));
    expect(resumed.status).toBe("done");
    for (const name of ["adapter_model.safetensors", "adapter_config.json"]) expect(readFileSync(join(b, "adapter", name)).equals(readFileSync(join(a, "adapter", name)))).toBe(true);
    const [x, y] = [await readMetrics(a), await readMetrics(b)];
    expect(y.map((m) => [m.step, m.loss, m.grad_norm, m.learning_rate, m.tokens_seen])).toEqual(x.map((m) => [m.step, m.loss, m.grad_norm, m.learning_rate, m.tokens_seen]));
    expect(resumed.comparisons).toEqual(whole.comparisons);
    expect(whole.comparisons[0].after.loss).toBeLessThan(whole.comparisons[0].before?.loss ?? 0);
    const { tuned } = await loadLora(await loadModel(fixture("llama/tiny"), { tokenizer: false }), join(a, "adapter"));
    expect((await evaluate(tuned, await idsData(fixture("llama/tiny/ids.json")))).loss).toBeCloseTo(whole.comparisons[0].after.loss, 6);
  });

  test("does not touch an earlier run unless told to", async () => {
    const folder = temporary();
    await follow(await optionsOf(folder, { max_steps: 1 }));
    await expect(follow(await optionsOf(folder, { max_steps: 1 }))).rejects.toThrow(/holds an earlier run/);
    expect((await follow(await optionsOf(folder, { max_steps: 2, overwrite_output_dir: true }))).steps).toBe(2);
    expect((await readMetrics(folder)).length).toBe(2);
  });
});
