/** A loop on a CPU gives timers, and so the abort of a page or a signal, their turn. */
import { lora } from "@adjoint/lora";
import { loadModel } from "@adjoint/models";
import { adamw } from "@adjoint/optim";
import { fixture } from "@adjoint/testing/fixtures";
import { expect, test } from "vitest";
import { adapterTrainee, idsRows, Training } from "../src/index.ts";

test.each([1, 2])("an abort from a timer ends the run between two steps (accumulation %i)", async (accumulation) => {
  const model = await loadModel(fixture("llama/tiny"), { tokenizer: false }), rows = Array.from({ length: 8 }, (_, r) => Array.from({ length: 12 }, (_, i) => 1 + ((r * 7 + i * 5) % 50)));
  const training = new Training(adapterTrainee(lora(model, { r: 2, loraAlpha: 2, seed: 1 })), { data: idsRows(rows, "rows"), steps: 1_000_000, learningRate: () => 1e-3, optimizer: adamw({ learningRate: 1e-3 }), batchSize: 2, accumulation });
  const controller = new AbortController();
  let steps = 0;
  for await (const { step } of training.run(controller.signal)) {
    if (steps === 0) setTimeout(() => { controller.abort(); }, 50);        // from the first step on: a busy machine may take long to plan it
    steps = step;
  }
  expect(steps).toBeGreaterThan(0);
  expect(training.step).toBe(steps);
}, 20_000);
