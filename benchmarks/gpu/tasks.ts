/** What is measured on a GPU: copy-like kernels, products, and LoRA training steps; each task is a function that queues one run. */
import { gradients } from "@adjoint/autograd";
import { lora } from "@adjoint/lora";
import { LlamaForCausalLM, parameterShapes, parseConfig } from "@adjoint/models";
import { adamw } from "@adjoint/optim";
import { type DType, Tensor, assign, compile, flatten, fromHost, layerNorm, matmul, rmsNorm, softmax } from "@adjoint/tensor";
import { Gpt2, gpt2Small } from "./gpt2.ts";
import { constantStore, randomStore } from "./weights.ts";

/** One prepared task: `run` queues it once; a run does `work` units. */
export interface Task { readonly run: () => void; readonly work: number; readonly unit: "bytes" | "flops" | "tokens"; /** the weights that a step reads */ readonly stores?: readonly Tensor[] }
export interface TaskOptions { readonly smoke: boolean; readonly scale: number; /** tokens a row, where a task has rows of tokens */ readonly length?: number }
export type Make = (o: TaskOptions) => Task;

/** y = f(x) over [rows, width] f32, with x and y in memory: bytes = what is read and written once. */
const mapped = (rows: number, width: number, arrays: number, f: (x: Tensor) => Tensor): Make => ({ smoke }) => {
  const shape = smoke ? [8, 256] : [rows, width], x = randomStore("x", shape), y = randomStore("y", shape);
  const step = compile(() => { assign([y], [f(x)]); });
  return { run: () => { step(); }, work: arrays * 4 * shape[0] * shape[1], unit: "bytes" };
};
const product = (m: number, n: number, k: number, dtype: Extract<DType, "f32" | "f16">, transposed: boolean): Make => ({ smoke }) => {
  const [M, N, K] = smoke ? [64, 64, 64] : [m, n, k], a = randomStore("a", [M, K], dtype), b = randomStore("b", transposed ? [N, K] : [K, N], dtype), y = randomStore("y", [M, N]);
  const step = compile(() => { assign([y], [matmul(dtype === "f32" ? a : a.cast("f32"), transposed ? b.T : b)]); });
  return { run: () => { step(); }, work: 2 * M * N * K, unit: "flops" };
};
/** AdamW over one flat parameter: reads p, g, m, v and writes p, m, v. */
const optimizer: Make = ({ smoke }) => {
  const size = smoke ? 4096 : 1 << 26, p = randomStore("p", [size]), g = randomStore("g", [size]), tree = { p }, opt = adamw({ learningRate: 1e-3 }).for(tree);
  const step = compile(() => { opt.step({ p: g.current }); });
  return { run: () => { step(); }, work: 7 * 4 * size, unit: "bytes" };
};

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;

interface Shape { readonly batch: number; readonly length: number; readonly vocabulary: number }
const idsOf = ({ batch, length, vocabulary }: Shape): Tensor => fromHost({ dtype: "i32", shape: [batch, length], data: Int32Array.from({ length: batch * length }, (_, i) => (i * 7919) % vocabulary) });

/** One LoRA step (rank 16, every linear layer, AdamW) of the model of GPT-2's small size. */
export const gpt2Step: Make = ({ smoke, scale, length = smoke ? 32 : 512 }) => {
  const sizes = smoke ? { layers: 2, width: 64, heads: 2, vocabulary: 199, positions: 64 } : gpt2Small, batch = smoke ? 1 : Math.max(1, Math.round(8 * scale));
  const tuned = lora(new Gpt2(sizes), { r: 16, loraAlpha: 32, targetModules: "all-linear", seed: 1 }), opt = adamw({ learningRate: 1e-4 }).for(tuned.adapter);
  const step = compile((ids: Tensor) => {
    const loss = tuned.loss({ ids });
    opt.step(gradients(loss, tuned.adapter));
    return loss;
  });
  const ids = idsOf({ batch, length, vocabulary: sizes.vocabulary });
  return { run: () => { step(ids); }, work: batch * length, unit: "tokens", stores: flatten(tuned.base, isTensor).leaves };
};

/** The shape of Llama 3.2 1B. */
const llama1b = { model_type: "llama", vocab_size: 128256, hidden_size: 2048, intermediate_size: 8192, num_hidden_layers: 16, num_attention_heads: 32, num_key_value_heads: 8, head_dim: 64, max_position_embeddings: 8192, rms_norm_eps: 1e-5, rope_theta: 500000, tie_word_embeddings: true };
const llamaSmoke = { ...llama1b, vocab_size: 199, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, max_position_embeddings: 64 };
/** One LoRA step of a model of Llama 1B's size, base in bf16. */
export const llamaStep: Make = ({ smoke, scale, length = smoke ? 32 : 1024 }) => {
  const config = parseConfig(smoke ? llamaSmoke : llama1b), shapes = parameterShapes(config), batch = smoke ? 1 : Math.max(1, Math.round(4 * scale));
  const model = new LlamaForCausalLM(config, (name) => { const shape = shapes.get(name)!; return name.endsWith("norm.weight") ? constantStore(name, shape[0], 1) : randomStore(name, shape, "bf16"); });
  const tuned = lora(model, { r: 16, loraAlpha: 32, targetModules: "all-linear", seed: 1 }), opt = adamw({ learningRate: 1e-4 }).for(tuned.adapter);
  const step = compile((inputIds: Tensor) => {
    const loss = tuned.loss({ inputIds, labels: inputIds });
    opt.step(gradients(loss, tuned.adapter));
    return loss;
  });
  const ids = idsOf({ batch, length, vocabulary: config.vocabSize });
  return { run: () => { step(ids); }, work: batch * length, unit: "tokens", stores: flatten(tuned.base, isTensor).leaves };
};

/** All tasks by name; a rival that has one of the same name is shown beside it. */
export const tasks: Readonly<Record<string, Make>> = {
  copy: mapped(1 << 14, 4096, 2, (x) => x.add(1)),
  softmax: mapped(1 << 14, 4096, 2, (x) => softmax(x)),
  "rms-norm": mapped(1 << 14, 4096, 2, (x) => { const w = constantStore("w", x.shape[1], 1); return rmsNorm(x, w); }),
  "layer-norm": mapped(1 << 14, 4096, 2, (x) => { const w = constantStore("w", x.shape[1], 1); return layerNorm(x, w, constantStore("b", x.shape[1], 0)); }),
  adamw: optimizer,
  "gemm-f32": product(4096, 4096, 4096, "f32", false),
  "gemm-f32-nt": product(4096, 4096, 4096, "f32", true),
  "gemm-f16": product(4096, 4096, 4096, "f16", true),
  "lora-down": product(8192, 16, 2048, "f32", true),
  "lora-dA": product(16, 2048, 8192, "f32", false),
  "gpt2-lora": gpt2Step,
  "llama-lora": llamaStep,
};
