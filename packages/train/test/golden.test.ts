/** Losses, gradient norms and trained weights are those of transformers, PEFT and torch. */
import { loadLora } from "@adjoint/lora";
import { loadModel } from "@adjoint/models";
import { convertArray } from "@adjoint/tensor";
import { fixture, golden, goldenTensors } from "@adjoint/testing/fixtures";
import { describe, expect, test } from "vitest";
import { adapterTrainee, evaluate, fullTrainee, idsData, idsRows, mergeRecipe, type Recipe, type Trainee, Training, trainingOptions } from "../src/index.ts";
import { near, tunedOf, worst } from "./support.ts";

interface Step { readonly step: number; readonly loss: number; readonly grad_norm: number; readonly learning_rate: number }
const stepsOf = (g: Record<string, unknown>): readonly Step[] => g["steps"] as readonly Step[];

describe("evaluate equals transformers", () => {
  for (const name of ["tiny", "tiny-bf16", "tiny-f16", "tiny-tied", "tiny-sharded", "tiny-headdim", "tiny-rope-llama3"]) {
    test(name, async () => {
      const g = golden(`llama/${name}`), model = await loadModel(fixture(`llama/${name}`), { tokenizer: false });
      const { loss, tokens, bitsPerByte } = await evaluate(model, await idsData(fixture(`llama/${name}/ids.json`)));
      near(loss, Number(g["loss"]), 1e-6, name);
      expect(tokens).toBe(g["tokens"]);
      expect(bitsPerByte).toBeNull();
    });
  }
  test("batches of any size give the same loss", async () => {
    const model = await loadModel(fixture("llama/tiny"), { tokenizer: false }), data = await idsData(fixture("llama/tiny/ids.json"));
    for (const batchSize of [1, 4]) near((await evaluate(model, data, { batchSize })).loss, Number(golden("llama/tiny")["loss"]), 1e-6, `batch ${batchSize}`);
  });
});

async function train(trainee: Trainee, rows: unknown, recipe: Partial<Recipe>, steps: readonly Step[]): Promise<void> {
  const training = new Training(trainee, trainingOptions(mergeRecipe({ per_device_train_batch_size: 2, shuffle: false, max_steps: steps.length, weight_decay: 0 }, recipe), idsRows(rows, "rows")));
  for await (const m of training.run()) {
    const want = steps[m.step - 1];
    near(m.loss, want.loss, 1e-5, `loss of step ${m.step}`);
    near(m.grad_norm, want.grad_norm, 5e-4, `norm of step ${m.step}`);
    near(m.learning_rate, want.learning_rate, 1e-12, `rate of step ${m.step}`);
    expect(m.skipped).toBe(false);
  }
  expect(training.step).toBe(steps.length);
}

describe("five AdamW steps on adapters equal PEFT's", () => {
  const cases: [string, string, Partial<Recipe>][] = [
    ["lora", "llama/tiny", { learning_rate: 5e-3, lr_scheduler_type: "constant" }],
    ["rslora", "llama/tiny", { learning_rate: 1e-2, lr_scheduler_type: "cosine", warmup_steps: 1 }],
    ["patterns", "llama/tiny-tied", { learning_rate: 1e-2, lr_scheduler_type: "linear", warmup_ratio: 0.2 }],
    ["bf16-base", "llama/tiny-bf16", { learning_rate: 5e-3, lr_scheduler_type: "constant" }],
    ["embedding", "llama/tiny", { learning_rate: 5e-3, lr_scheduler_type: "constant" }],
  ];
  for (const [name, base, recipe] of cases) {
    test(name, async () => {
      const g = golden(`peft/${name}`), tuned = await tunedOf(name, base);
      await train(adapterTrainee(tuned), g["rows"], recipe, stepsOf(g));
      const want = goldenTensors(`peft/${name}`, "trained/adapter_model.safetensors");
      for (const [key, { data }] of await tuned.snapshot()) {
        const file = want.get(key);
        expect(file, key).toBeDefined();
        if (file) expect(worst(data, convertArray(file.data, file.dtype, "f32")), key).toBeLessThan(2e-5);
      }
    });
  }
});

describe("five AdamW steps on all weights equal torch's", () => {
  for (const name of ["tiny", "tiny-tied"]) {
    test(name, async () => {
      const g = golden(`full/${name}`), model = await loadModel(fixture(`llama/${name}`), { tokenizer: false });
      const training = g["training"] as { learning_rate: number; weight_decay: number; betas: readonly [number, number] };
      await train(fullTrainee(model), g["rows"], { learning_rate: training.learning_rate, weight_decay: training.weight_decay, optim_args: { beta2: String(training.betas[1]) }, lr_scheduler_type: "cosine", warmup_steps: 2 }, stepsOf(g));
      const want = goldenTensors(`full/${name}`);
      let compared = 0;
      for (const [key, p] of Object.entries(model.parameters())) {
        const trained = want.get(`trained/${key}`);
        if (trained === undefined) continue;
        compared++;
        // Adam makes steps of the learning rate's size out of gradients that are only rounding noise: those are left out, and are few
        const got = await p.data(), gradient = want.get(`grad/${key}`)?.data ?? [], sure = Array.from(got, (_, i) => i).filter((i) => Math.abs(gradient[i]) > 1e-6 || gradient[i] === 0);
        expect(sure.length, key).toBeGreaterThan(0.99 * got.length);
        expect(worst(sure.map((i) => got[i]), sure.map((i) => trained.data[i])), key).toBeLessThan(2e-5);
      }
      expect(compared).toBe(Object.keys(model.parameters()).length);
    });
  }
});

describe("accumulation is the big batch", () => {
  test("loss and norm for micro-batches of 4, 2 and 1 rows of unequal length, and the weights after the step", async () => {
    const g = golden("accumulation"), runs = g["runs"] as { micro_batch: number; micro_batches: number; loss: number; grad_norm: number }[];
    const after: ArrayLike<number>[][] = [];
    for (const { micro_batch: size, micro_batches: accumulation, loss, grad_norm } of runs) {
      const tuned = await tunedOf();
      const recipe = mergeRecipe({ per_device_train_batch_size: size, gradient_accumulation_steps: accumulation, shuffle: false, max_steps: 1, optim: "sgd", learning_rate: 0.5, lr_scheduler_type: "constant", max_grad_norm: 0 });
      const training = new Training(adapterTrainee(tuned), trainingOptions(recipe, idsRows(g["rows"], "rows")));
      const m = await training.next();
      expect(m.tokens).toBe(g["tokens"]);
      near(m.loss, loss, 1e-6, `${size} rows: loss`);
      near(m.grad_norm, grad_norm, 1e-6, `${size} rows: norm`);
      after.push([...(await tuned.snapshot()).values()].map(({ data }) => data));
    }
    for (const other of after.slice(1)) other.forEach((data, i) => { expect(worst(data, after[0][i])).toBeLessThan(2e-6); });
  });
});

describe("five AdamW steps over a base that bitsandbytes quantized equal PEFT's", () => {
  for (const name of ["nf4", "fp4"]) {
    test(name, async () => {
      const g = golden(`qlora/${name}`), model = await loadModel(fixture(`qlora/${name}/base`), { tokenizer: false }), { tuned } = await loadLora(model, fixture(`qlora/${name}/adapter`));
      await train(adapterTrainee(tuned), g["rows"], { learning_rate: 5e-3, lr_scheduler_type: "constant" }, stepsOf(g));
      const want = goldenTensors(`qlora/${name}`);
      for (const [key, { data }] of await tuned.snapshot()) expect(worst(data, Float32Array.from(want.get(`trained/${key}`)?.data ?? [])), key).toBeLessThan(2e-5);
      expect(() => fullTrainee(model)).toThrow(/held as codes/);
    });
  }
});
