/** Steps that change nothing say so: rows without a token to predict, and gradients that are not finite. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { lora } from "@adjoint/lora";
import { loadModel } from "@adjoint/models";
import { Store } from "@adjoint/tensor";
import { fixture } from "@adjoint/testing/fixtures";
import { describe, expect, test } from "vitest";
import { DataSet, idsRows, loraOptions, mergeRecipe, type Recipe, run, type RunEvent, type RunResult, type Sample, type StepMetrics, traineeOf, Training, trainingOptions } from "../src/index.ts";
import { bits, temporary } from "./support.ts";

const row = [5, 9, 2, 17, 30, 4], text: Sample = { ids: row, labels: row }, blank: Sample = { ids: row, labels: row.map(() => -100) };
const base: Partial<Recipe> = { per_device_train_batch_size: 1, shuffle: false, learning_rate: 1e-2, lora_r: 2, init_lora_weights: false, seed: 7 };
async function traineeFor(recipe: Recipe, broken = false): ReturnType<typeof loaded> {
  const trainee = await loaded(recipe), norm = trainee.model.weights()["model.norm.weight"];
  if (broken && norm instanceof Store) { const { dtype, shape, data } = await norm.host(), bad = data.slice(); bad[0] = Number.NaN; norm.set({ dtype, shape, data: bad }); }
  return trainee;
}
const loaded = async (recipe: Recipe): Promise<ReturnType<typeof traineeOf>> => traineeOf(recipe, lora(await loadModel(fixture("llama/tiny"), { tokenizer: false }), { ...loraOptions(recipe, null), seed: recipe.seed }));
async function follow(folder: string, recipe: Recipe, data: DataSet, broken = false): Promise<{ result: RunResult; notes: string[] }> {
  const notes: string[] = [];
  for (const going: AsyncGenerator<RunEvent, RunResult> = run({ command: "finetune", recipe, trainee: await traineeFor(recipe, broken), data, measured: [], folder, sample: null }); ;) {
    const next = await going.next();
    if (next.done === true) return { result: next.value, notes };
    if (next.value.type === "note") notes.push(next.value.text);
  }
}
const runFile = (folder: string): Record<string, unknown> => JSON.parse(readFileSync(join(folder, "run.json"), "utf8")) as Record<string, unknown>;

describe("a step without predicted tokens", () => {
  const kinds: [string, Partial<Recipe>, DataSet][] = [
    ["alone", { weight_decay: 0.1 }, new DataSet([text, blank, text])],
    ["accumulated", { gradient_accumulation_steps: 2 }, new DataSet([text, blank, blank, blank, blank, text])],
    ["with AdaLoRA's penalty", { peft_type: "ADALORA", tinit: 0, tfinal: 1 }, new DataSet([text, blank, text])],
    ["with Sophia's curvature", { optim: "sophia" }, new DataSet([blank, text])],
  ];
  for (const [name, changes, data] of kinds) {
    test(`has no loss and changes nothing: ${name}`, async () => {
      const recipe = mergeRecipe(base, { max_steps: 3, ...changes }), trainee = await traineeFor(recipe), t = new Training(trainee, trainingOptions(recipe, data)), seen: StepMetrics[] = [];
      const now = async (): Promise<unknown> => bits([...(await Promise.all(Object.entries(trainee.trainable).map(async ([key, s]) => [key, await s.host()] as const))), ...Object.entries(await t.optimizer.state()).filter(([key]) => !key.includes("step"))]);
      while (t.step < 3) {
        const before = await now(), m = await t.next();
        seen.push(m);
        if (recipe.peft_type !== "ADALORA" || m.tokens > 0) expect(JSON.stringify(before) === JSON.stringify(await now()), `step ${m.step}`).toBe(m.tokens === 0);
      }
      const blanks = seen.filter((m) => m.tokens === 0);
      expect([blanks.length, blanks.every((m) => m.skipped && Number.isNaN(m.loss)), seen.filter((m) => m.tokens > 0).every((m) => !m.skipped && m.loss > 0 && m.grad_norm > 0)]).toEqual([name.startsWith("with S") ? 2 : 1, true, true]);
      expect(t.notes.filter((n) => n.includes("no token of its rows is predicted")).length).toBe(1);
    });
  }

  test("does not count: what comes after it is as if it had never been, Adam's corrections too", async () => {
    const after = async (rows: readonly Sample[], accumulated: number): Promise<unknown> => {
      const recipe = mergeRecipe(base, { max_steps: rows.length / accumulated, lr_scheduler_type: "constant", gradient_accumulation_steps: accumulated }), trainee = await traineeFor(recipe), t = new Training(trainee, trainingOptions(recipe, new DataSet(rows)));
      while (t.step < t.options.steps) await t.next();
      expect(t.optimizer.counter.value).toBe(t.step);
      return bits([...(await Promise.all(Object.entries(trainee.trainable).map(async ([key, s]) => [key, await s.host()] as const))), ...Object.entries(await t.optimizer.state()).filter(([key]) => key !== "step")]);
    };
    expect(await after([blank, text, blank, text], 1)).toEqual(await after([text, text], 1));
    expect(await after([blank, blank, text, text], 2)).toEqual(await after([text, text], 2));
  });

  test("the guard changes no bit of the others", async () => {
    const recipe = mergeRecipe(base, { max_steps: 2 }), after = async (rows: readonly Sample[]): Promise<unknown> => {
      const trainee = await traineeFor(recipe), t = new Training(trainee, trainingOptions(recipe, new DataSet(rows)));
      await t.next();
      await t.next();
      return bits(await Promise.all(Object.entries(trainee.trainable).map(async ([key, s]) => [key, await s.host()] as const)));
    };
    expect(await after([text, text, blank])).toEqual(await after([text, text, text]));
  });
});

describe("gradients that are not finite", () => {
  test("in every step: the run fails after ten, or after all, and says so", async () => {
    for (const [max_steps, first] of [[40, 10], [3, 3]]) {
      const folder = temporary();
      await expect(follow(folder, mergeRecipe(base, { max_steps }), idsRows([row, row], "rows"), true)).rejects.toThrow(new RegExp(`every one of the first ${first} steps was skipped, so nothing was trained: their loss was not finite[^]*adjoint eval`));
      expect(runFile(folder)).toMatchObject({ status: "failed", steps_done: first, skipped_steps: first, output: null });
    }
  });

  test("in some steps: the run says how many", async () => {
    const folder = temporary(), { result, notes } = await follow(folder, mergeRecipe(base, { max_steps: 6, learning_rate: 1e38, max_grad_norm: 0 }), idsRows([row, row], "rows"));
    expect(result.skipped).toBeGreaterThan(1);
    expect(result).toMatchObject({ status: "done", steps: 6 });
    expect(runFile(folder)).toMatchObject({ status: "done", skipped_steps: result.skipped });
    expect(notes).toEqual([expect.stringMatching(/^step \d was skipped: its (loss was|gradients were) not finite$/), `${result.skipped} of 6 steps were skipped, because gradients were not finite; so was the last: a lower learning rate may help`]);
  });
});
