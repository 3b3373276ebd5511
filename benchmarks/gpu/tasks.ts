/** What is measured on a GPU: copy-like kernels, products, and LoRA training steps; each task is a function that queues one run. */
import { gradients } from "@adjoint/autograd";
import { lora } from "@adjoint/lora";
import { buildModel, parameterShapes, parseConfig } from "@adjoint/models";
import { adamw } from "@adjoint/optim";
import { type DType, Tensor, assign, compile, flatten, fromHost, layerNorm, matmul, rmsNorm, softmax } from "@adjoint/tensor";
import { Gpt2 } from "./gpt2.ts";
import { alpha, batchOf, gpt2Small, gpt2Tiny, idsOf, llama1b, llamaTiny, rank } from "./same.ts";
import { codesLike, constantStore, randomStore } from "./weights.ts";

/** One prepared task: `run` queues it once; a run does `work` units; `first` gives numbers that every system must agree on. */
export interface Task { readonly run: () => void; readonly first?: () => Promise<readonly number[]>; readonly work: number; readonly unit: "bytes" | "flops" | "tokens"; /** the weights that a step reads */ readonly stores?: readonly Tensor[] }
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
  const corner = (from: readonly [number, number]): Promise<number> => y.slice(0, from[0], from[0] + 1).slice(1, from[1], from[1] + 1).item();
  const first = async (): Promise<readonly number[]> => { step(); return [await corner([0, 0]), await corner([M - 1, N - 1])]; };
  return { run: () => { step(); }, first, work: 2 * M * N * K, unit: "flops" };
};
/** A product whose weight [n, k] is codes, decoded inside its tiles. */
const overCodes = (m: number, n: number, k: number): Make => ({ smoke }) => {
  const [M, N, K] = smoke ? [64, 64, 64] : [m, n, k], a = randomStore("a", [M, K]), w = codesLike("w", [N, K]), y = randomStore("y", [M, N]), step = compile(() => { assign([y], [matmul(a, w.T)]); });
  return { run: () => { step(); }, work: 2 * M * N * K, unit: "flops" };
};
/** AdamW over one flat parameter: reads p, g, m, v and writes p, m, v. */
const optimizer: Make = ({ smoke }) => {
  const size = smoke ? 4096 : 1 << 26, p = randomStore("p", [size]), g = randomStore("g", [size]), tree = { p }, opt = adamw({ learningRate: 1e-3 }).for(tree);
  const step = compile(() => { opt.step({ p: g.current }); });
  return { run: () => { step(); }, work: 7 * 4 * size, unit: "bytes" };
};

/** The losses of the first three steps. */
async function losses(step: () => Tensor): Promise<readonly number[]> {
  const out: number[] = [];
  for (let i = 0; i < 3; i++) out.push(await step().item());
  return out;
}
const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;

const tokens = (batch: number, length: number, vocabulary: number): Tensor => fromHost({ dtype: "i32", shape: [batch, length], data: idsOf(batch * length, vocabulary) });

/** One LoRA step (rank 16, every linear layer, AdamW) of the model of GPT-2's small size. */
export const gpt2Step: Make = (o) => {
  const sizes = o.smoke ? gpt2Tiny : gpt2Small, { batch, length: usual } = batchOf("gpt2-lora", o), { length = usual } = o;
  const tuned = lora(new Gpt2(sizes), { r: rank, loraAlpha: alpha, targetModules: "all-linear", seed: 1 }), opt = adamw({ learningRate: 1e-4 }).for(tuned.adapter);
  const step = compile((ids: Tensor) => {
    const loss = tuned.loss({ ids });
    opt.step(gradients(loss, tuned.adapter));
    return loss;
  });
  const ids = tokens(batch, length, sizes.vocabulary);
  return { run: () => { step(ids); }, first: () => losses(() => step(ids)), work: batch * length, unit: "tokens", stores: flatten(tuned.base, isTensor).leaves };
};

/** One LoRA step of a model of Llama 1B's size, base in bf16; or its linear layers as nf4 (QLoRA), where nothing but memory should change. */
const llamaOver = (base: "bf16" | "nf4"): Make => (o) => {
  const config = parseConfig(o.smoke ? llamaTiny : llama1b), shapes = parameterShapes(config), { batch, length: usual } = batchOf("llama-lora", o), { length = usual } = o;
  const model = buildModel(config, (name) => {
    const shape = shapes.get(name)!;
    return name.endsWith("norm.weight") ? constantStore(name, shape[0], 1) : base === "nf4" && !name.includes("embed_tokens") ? codesLike(name, shape) : randomStore(name, shape, "bf16");
  });
  const tuned = lora(model, { r: rank, loraAlpha: alpha, targetModules: "all-linear", seed: 1 }), opt = adamw({ learningRate: 1e-4 }).for(tuned.adapter);
  const step = compile((inputIds: Tensor) => {
    const loss = tuned.loss({ inputIds, labels: inputIds });
    opt.step(gradients(loss, tuned.adapter));
    return loss;
  });
  const ids = tokens(batch, length, config.vocabSize);
  return { run: () => { step(ids); }, first: () => losses(() => step(ids)), work: batch * length, unit: "tokens", stores: flatten(tuned.base, isTensor).leaves };
};

export const llamaStep: Make = llamaOver("bf16");

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
  "gemm-nf4": overCodes(4096, 4096, 4096),
  "llama-lora": llamaStep,
  "llama-qlora": llamaOver("nf4"),
};
