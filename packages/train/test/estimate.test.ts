/** The estimate is right for a machine of constant speed, and a run tells it once. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { lora } from "@adjoint/lora";
import { loadModel } from "@adjoint/models";
import { fixture } from "@adjoint/testing/fixtures";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { adapterTrainee, Estimator, idsData, mergeRecipe, run, type RunEvent, type StepMetrics } from "../src/index.ts";
import { temporary } from "./support.ts";

const metrics = (step: number, tokens: number, seconds: number, memory = 0): StepMetrics =>
  ({ step, epoch: 0, loss: 1, grad_norm: 1, learning_rate: 1, tokens_per_second: tokens / seconds, tokens, tokens_seen: 0, skipped: false, memory, time: "" });

describe("the formula", () => {
  test("law: tokens that cost alike, whatever the first step and the rest cost: the estimate is the truth, told once", () => {
    const tokens = fc.integer({ min: 1, max: 4096 });
    fc.assert(fc.property(fc.array(tokens, { minLength: 24, maxLength: 40 }), fc.integer({ min: 1, max: 64 }), fc.integer({ min: 0, max: 800 }), fc.integer({ min: 0, max: 160 }), (sizes, cost, first, rest) => {
      const perToken = cost / 1024, before = first / 16, estimator = new Estimator(), told: number[] = [];
      const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0), truth = before + sum(sizes) * perToken + rest;
      sizes.forEach((n, i) => {
        // the first step makes the plan: it takes longer, and its cost is in what has elapsed
        const made = estimator.step(metrics(i + 1, n, n * perToken + (i === 0 ? before : 0), 100 - i), {
          steps: sizes.length, elapsed: before + sum(sizes.slice(0, i + 1)) * perToken, tokensLeft: sum(sizes.slice(i + 1)),
          otherSeconds: (each) => { expect(each).toBeCloseTo(perToken, 9); return rest; },
        });
        if (made !== null) { told.push(made.seconds); expect(made.memory).toBe(100); expect(2 * (i + 1)).toBeLessThanOrEqual(sizes.length); }
      });
      expect(told).toHaveLength(1);
      expect(Math.abs(told[0] - truth)).toBeLessThanOrEqual(1e-9 * truth);
    }));
  });
  test("nothing is told of the first step, nor of a run that is half over", () => {
    const at = (steps: number): number[] => {
      const estimator = new Estimator(), told: number[] = [];
      for (let i = 1; i <= steps; i++) if (estimator.step(metrics(i, 10, 10), { steps, elapsed: 10 * i, tokensLeft: 10 * (steps - i), otherSeconds: () => 0 }) !== null) told.push(i);
      return told;
    };
    expect([1, 2, 3, 4, 100].map(at)).toEqual([[], [], [], [], [4]]);
  });
});

describe("a run", () => {
  const rows = idsData(fixture("llama/tiny/ids.json"));
  const events = async (steps: number): Promise<{ list: RunEvent[]; file: Record<string, unknown> }> => {
    const recipe = mergeRecipe({ max_steps: steps, per_device_train_batch_size: 2, eval_steps: 5 }), folder = temporary(), list: RunEvent[] = [];
    const trainee = adapterTrainee(lora(await loadModel(fixture("llama/tiny"), { tokenizer: false }), { r: 2, targetModules: "all-linear", seed: 1 }));
    for await (const event of run({ command: "finetune", recipe, trainee, data: await rows, measured: [{ name: "rows", role: "new", data: await rows }], folder, sample: null })) list.push(event);
    return { list, file: JSON.parse(readFileSync(join(folder, "run.json"), "utf8")) as Record<string, unknown> };
  };
  test("tells it once, after its first steps, and run.json keeps it beside the truth", async () => {
    const { list, file } = await events(20), told = list.flatMap((e) => (e.type === "estimate" ? [e.estimate] : []));
    expect(told).toHaveLength(1);
    expect(told[0].seconds).toBeGreaterThan(0);
    expect(told[0].seconds).toBeLessThan(600);
    expect(told[0].memory).toBeGreaterThan(0);
    expect(file["estimated_seconds"]).toBe(Math.round(told[0].seconds));
    expect(file["seconds"]).toBeGreaterThan(0);
  });
  test("of two steps tells none", async () => {
    const { list, file } = await events(2);
    expect(list.some((e) => e.type === "estimate")).toBe(false);
    expect(file).not.toHaveProperty("estimated_seconds");
  });
});
