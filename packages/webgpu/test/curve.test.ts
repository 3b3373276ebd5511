/**
 * Training curves of GPU and CPU agree: the bundled model with an adapter, 2 rows of 64 tokens, 50 steps. In the long form only
 * (ADJOINT_RUNS): a software GPU needs a minute to compile the step's kernels and five seconds a step.
 */
import { gradients } from "@adjoint/autograd";
import { lora } from "@adjoint/lora";
import { loadModel } from "@adjoint/models";
import { adamw } from "@adjoint/optim";
import { type Backend, compile, setDevice, type Tensor, tensor } from "@adjoint/tensor";
import { model as bundled } from "@adjoint/tiny";
import { wasm } from "@adjoint/wasm";
import { expect, test } from "vitest";
import { adapters, nameOf, webgpu } from "../src/index.ts";

const steps = 50, long = process.env["ADJOINT_RUNS"] !== undefined;
const [adapter] = await adapters().catch(() => []);
const text = "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse, and nothing particular to interest me on shore, I thought I would sail about a little and see the watery part of the world. It is a way I have of driving off the spleen and regulating the circulation. Whenever I find myself growing grim about the mouth; whenever it is a damp, drizzly November in my soul.";

/** Losses and the adapter's values at the end. */
async function trained(device: Backend): Promise<{ readonly losses: number[]; readonly weights: number[] }> {
  setDevice(device);
  const model = await loadModel(bundled), tuned = lora(model, { r: 8, loraAlpha: 16, targetModules: "all-linear", seed: 5 });
  const optimizer = adamw({ learningRate: 2e-3 }).for(tuned.adapter), ids = Int32Array.from(model.tokenizer!.encode(text).slice(0, 128));
  expect(ids.length).toBe(128);
  const step = compile((rows: Tensor) => {
    const loss = tuned.loss({ inputIds: rows, labels: rows });
    optimizer.step(gradients(loss, tuned.adapter));
    return loss;
  });
  const losses: number[] = [];
  for (let i = 0; i < steps; i++) losses.push(await step(tensor(ids, { shape: [2, 64] })).item());
  return { losses, weights: [...(await tuned.snapshot()).values()].flatMap(({ data }) => Array.from(data, Number)) };
}

test.runIf(long && adapter !== undefined)(`losses of ${steps} steps on ${adapter === undefined ? "a GPU" : nameOf(adapter)} are those of wasm, within 1e-3`, async () => {
  const cpu = await trained(await wasm()), gpu = await trained(await webgpu({ allowSoftware: true, mode: "safe" }));
  cpu.losses.forEach((want, i) => { expect(Math.abs(gpu.losses[i] - want) / want, `step ${i + 1}: ${gpu.losses[i]} on the GPU, ${want} on the CPU`).toBeLessThan(1e-3); });
  expect(gpu.losses[steps - 1]).toBeLessThan(0.7 * gpu.losses[0]);
  const norm = Math.hypot(...cpu.weights.slice(0, 100_000));
  expect(Math.hypot(...cpu.weights.slice(0, 100_000).map((w, i) => w - gpu.weights[i])) / norm).toBeLessThan(1e-2);
}, 1_200_000);
