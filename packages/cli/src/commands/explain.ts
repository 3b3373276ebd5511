/** `adjoint explain`: the kernels and the memory of one training step, from the plan that would run. */
import { checkpoint, gradients } from "@adjoint/autograd";
import { lora } from "@adjoint/lora";
import { bytesMoved, explain, flatten, operationsOf, Tensor } from "@adjoint/tensor";
import { adapterTrainee, collate, defaultRecipe, fullTrainee, loraOptions, mergeRecipe, optimizerFor, type Recipe, toTensors } from "@adjoint/train";
import type { Arguments } from "../arguments.ts";
import type { Answer, Command } from "../command.ts";
import { openDevice, openModel } from "../open.ts";
import { bytes, count } from "../terminal.ts";

const keys: readonly (keyof Recipe)[] = [
  "model_name_or_path", "use_peft", "lora_r", "lora_alpha", "use_rslora", "lora_target_modules", "per_device_train_batch_size", "max_length", "gradient_checkpointing", "device", "threads", "wide",
];
const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;

async function run(args: Arguments): Promise<Answer> {
  const recipe = mergeRecipe({ max_length: 256 }, args.recipe);
  await openDevice(recipe);
  const { model, path } = await openModel(recipe.model_name_or_path, { tokenizer: false, dtype: recipe.use_peft ? "auto" : "f32" });
  const trainee = recipe.use_peft ? adapterTrainee(lora(model, { ...loraOptions(recipe, null), seed: recipe.seed })) : fullTrainee(model);
  const ids = Array.from({ length: recipe.max_length }, (_, i) => i % model.config.vocabSize), { per_device_train_batch_size: rows } = recipe;
  const { total, count: n } = trainee.lossSum(toTensors(collate(Array.from({ length: rows }, () => ({ ids, labels: ids })), 0, 0)), { train: false, ...(recipe.gradient_checkpointing ? { checkpoint } : {}) });
  const loss = total.div(n.maximum(1)), forward = explain(loss);
  // the step: gradients, clipping, optimizer, as assignments to the stores that train
  const optimizer = optimizerFor(recipe, () => recipe.learning_rate).for(trainee.trainable);
  const grads = gradients(loss, trainee.trainable);
  const backward = explain(loss, ...flatten(grads, isTensor).leaves);
  const { gradNorm } = optimizer.step(grads);
  const step = explain(loss, gradNorm);
  const parts = { forward, "forward and backward": backward, "whole step": step };
  const rowsOf = Object.entries(parts).map(([name, { plan }]) => {
    const kinds: Record<string, number> = {};
    for (const k of plan.kernels) kinds[k.kind] = (kinds[k.kind] ?? 0) + 1;
    return { name, kernels: plan.kernels.length, kinds, flops: plan.kernels.reduce((s, k) => s + operationsOf(k), 0), bytes: plan.kernels.reduce((s, k) => s + bytesMoved(k, plan), 0), arena: plan.arenaBytes };
  });
  const tokens = rows * recipe.max_length;
  const lines = [`${path}: one step of ${rows} rows of ${recipe.max_length} tokens, ${recipe.use_peft ? "adapter" : "all weights"}${recipe.gradient_checkpointing ? ", layers computed again in the backward pass" : ""}`, ...rowsOf.map((r) =>
    `  ${r.name.padEnd(21)} ${String(r.kernels).padStart(5)} kernels (${Object.entries(r.kinds).map(([k, c]) => `${c} ${k}`).join(", ")})  ${(r.flops / 1e9).toFixed(2)} GFLOP  ${bytes(r.bytes)} moved  arena ${bytes(r.arena)}`),
  `  ${count(rowsOf[2].flops / tokens)} operations a token`];
  const more = (["graph", "kernels", "memory", "source"] as const).filter((part) => args.flag(part)).map((part) => `\n${step[part]}`);
  return { text: `${lines.join("\n")}\n${more.map((m) => `${m}\n`).join("")}`, json: { model: path, rows, length: recipe.max_length, parts: rowsOf } };
}

export const explainCommand: Command = {
  grammar: {
    name: "explain", positionals: [], keys, summary: "Shows the kernels and the memory of one training step, from the plan that would run.",
    flags: {
      kernels: { kind: "flag", help: "every kernel with its formula, bytes and operations" }, memory: { kind: "flag", help: "every buffer with its place" },
      graph: { kind: "flag", help: "every recorded node" }, source: { kind: "flag", help: "the device's source of every kernel" },
    },
    examples: ["adjoint explain", "adjoint explain --gradient-checkpointing", "adjoint explain --kernels --per-device-train-batch-size 1"],
  },
  defaults: { ...defaultRecipe, max_length: 256 },
  run,
};
