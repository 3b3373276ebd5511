/** `adjoint explain`: the kernels and the memory of one training step, from the plan that would run; or an adapter, a format, an optimizer, a schedule. */
import { checkpoint, gradients } from "@adjoint/autograd";
import { lora } from "@adjoint/lora";
import { bytesMoved, compile, ConfigError, explain, flatten, getDevice, operationsOf, Tensor } from "@adjoint/tensor";
import { adapterTrainee, baseOptions, collate, defaultRecipe, fullTrainee, loraOptions, mergeRecipe, optimizerFor, type Recipe, toTensors } from "@adjoint/train";
import type { MemoryByClass } from "@adjoint/webgpu";
import type { Arguments } from "../arguments.ts";
import type { Answer, Command } from "../command.ts";
import { baseKeys, openDevice, openModel } from "../open.ts";
import { type KernelTime, type Limits, measureLimits, profileStep, showTimes } from "../profile.ts";
import { bytes, count } from "../terminal.ts";
import { explainAdapter, explainFormat } from "./explain-kinds.ts";
import { explainOptimizer, explainSchedule } from "./explain-names.ts";

const keys: readonly (keyof Recipe)[] = [
  "model_name_or_path", ...baseKeys, "use_peft", "lora_r", "lora_alpha", "use_rslora", "lora_target_modules", "per_device_train_batch_size", "max_length", "gradient_checkpointing", "device", "threads", "wide",
];
const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;

const topics: Readonly<Record<string, (name: string | null) => Answer>> = { adapter: explainAdapter, format: explainFormat, optimizer: explainOptimizer, schedule: explainSchedule };

async function run(args: Arguments): Promise<Answer> {
  const [topic, name = null] = args.positionals;
  if (topic === undefined) return explainStep(args);
  if (!Object.hasOwn(topics, topic)) throw new ConfigError(`explain: there is no topic ${topic}`, { key: "TOPIC", value: topic, fix: `adjoint explain alone, or one of ${Object.keys(topics).join(", ")}` });
  return topics[topic](name);
}

async function explainStep(args: Arguments): Promise<Answer> {
  const recipe = mergeRecipe({ max_length: 256 }, args.recipe);
  await openDevice(recipe, { profile: args.flag("profile") });
  const device = getDevice(), { WebGpuBackend } = await import("@adjoint/webgpu"), gpu = device instanceof WebGpuBackend ? device : null;
  if (args.flag("profile") && gpu === null) throw new ConfigError(`explain: --profile measures kernels by a GPU's timestamps; this is ${device.name}`, { key: "profile", value: device.name, fix: "--device webgpu" });
  const { model, path } = await openModel(recipe.model_name_or_path, { tokenizer: false, dtype: recipe.use_peft ? "auto" : "f32", base: baseOptions(recipe) });
  const trainee = recipe.use_peft ? adapterTrainee(lora(model, { ...loraOptions(recipe, null), seed: recipe.seed })) : fullTrainee(model);
  const ids = Array.from({ length: recipe.max_length }, (_, i) => i % model.config.vocabSize), { per_device_train_batch_size: rows } = recipe;
  const batch = toTensors(collate(Array.from({ length: rows }, () => ({ ids, labels: ids })), 0, 0));
  const lossOf = (): Tensor => {
    const { total, count: n } = trainee.lossSum(batch, { train: false, ...(recipe.gradient_checkpointing ? { checkpoint } : {}) });
    return total.div(n.maximum(1));
  };
  const loss = lossOf(), forward = explain(loss);
  // the step: gradients, clipping, optimizer, as assignments to the stores that train
  const optimizer = optimizerFor(recipe, () => recipe.learning_rate, { scaling: trainee.scaling }).for(trainee.trainable);
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
  let times: { readonly limits: Limits; readonly kernels: readonly KernelTime[]; readonly memory: MemoryByClass } | null = null;
  if (args.flag("profile") && gpu !== null) {
    const limits = await measureLimits(gpu), run = compile(() => { const value = lossOf(); optimizer.step(gradients(value, trainee.trainable)); });
    times = { limits, kernels: await profileStep(gpu, run, limits), memory: gpu.memoryByClass };
  }
  const tokens = rows * recipe.max_length;
  const wide = (text: string, to: number): string => text.padStart(to);
  const lines = [`${path}: one step of ${rows} rows of ${recipe.max_length} tokens, ${recipe.use_peft ? "adapter" : "all weights"}${recipe.gradient_checkpointing ? ", layers computed again in the backward pass" : ""}`, ...rowsOf.map((r) =>
    `  ${r.name.padEnd(20)} ${wide(String(r.kernels), 5)} kernels  ${wide((r.flops / 1e9).toFixed(2), 8)} GFLOP  ${wide(bytes(r.bytes), 9)} moved  arena ${wide(bytes(r.arena), 9)}\n      ${Object.entries(r.kinds).map(([k, c]) => `${c} ${k}`).join(", ")}`),
  `  ${count(rowsOf[2].flops / tokens)} operations a token`];
  const more = (["graph", "kernels", "memory", "source"] as const).filter((part) => args.flag(part)).map((part) => `\n${step[part]}`);
  if (times !== null && gpu !== null) more.push(`\n${showTimes(times.kernels, times.limits)}\n\nmemory of the device\n${gpu.showMemory()}`);
  return { text: `${lines.join("\n")}\n${more.map((m) => `${m}\n`).join("")}`, json: { model: path, rows, length: recipe.max_length, parts: rowsOf, ...(times === null ? {} : { profile: times }) } };
}

export const explainCommand: Command = {
  grammar: {
    name: "explain", positionals: ["[TOPIC]", "[NAME]"], keys, summary: "Shows the kernels and the memory of one training step, or what an adapter, format, optimizer or schedule does.",
    text: "adjoint explain adapter [NAME]     equations, gradients, tensors, recipe, source; also first numbers\nadjoint explain format [NAME]      codes of quantized weights: table, bits, errors, source\nadjoint explain optimizer [NAME]   equations, options, bytes of state, source\nadjoint explain schedule [NAME]    its curve, equation, options, source",
    flags: {
      kernels: { kind: "flag", help: "every kernel with its formula, bytes and operations" }, memory: { kind: "flag", help: "every buffer with its place" },
      graph: { kind: "flag", help: "every recorded node" }, source: { kind: "flag", help: "the device's source of every kernel: WGSL on a GPU" },
      profile: { kind: "flag", help: "GPU: runs the step and prints each kernel's time, rate and share of the roofline, and the memory by class" },
    },
    examples: ["adjoint explain", "adjoint explain --gradient-checkpointing", "adjoint explain --kernels --per-device-train-batch-size 1", "adjoint explain --device webgpu --profile", "adjoint explain adapter dora", "adjoint explain format nf4", "adjoint explain optimizer adamw_torch", "adjoint explain schedule cosine"],
  },
  defaults: { ...defaultRecipe, max_length: 256 },
  run,
};
