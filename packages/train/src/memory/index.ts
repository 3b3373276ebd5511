/** The memory of a fine-tuning before it runs: `predictMemory(config, request)`. */
import type { ModelConfig } from "@adjoint/models";
import { ConfigError, getDevice } from "@adjoint/tensor";
import { logitsBytes, type PlannedDevice, stepBytes } from "./arena.ts";
import { adapterOf, atRanks, type MemoryRequest, rankRatio, staticTerms, type StaticTerms } from "./terms.ts";

export { modulesOf, quantizedBytes, rankRatio, staticTerms, type MemoryRequest, type Method, type RankCost, type StaticTerms } from "./terms.ts";
export { logitsBytes, type PlannedDevice, stepBytes, type StepBytes, type StepShape } from "./arena.ts";

/** A whole training. */
export interface TrainingRequest extends MemoryRequest {
  /** rows of a micro-batch */
  readonly batch: number;
  /** tokens of a row */
  readonly seq: number;
  /** layers are computed again in the backward pass (default false) */
  readonly checkpointing?: boolean;
  /** micro-batches are summed (default false): one more tensor for each that trains */
  readonly accumulation?: boolean;
}

/** One line of the sum. */
export interface MemoryTerm { readonly name: "weights" | "adapter" | "gradients" | "optimizer" | "activations" | "logits" | "workspace"; readonly bytes: number; /** how the number comes about */ readonly from: string }

export interface MemoryPrediction {
  readonly terms: readonly MemoryTerm[];
  readonly total: number;
  /** parameters, trainable ones, and bytes of what stays between steps */
  readonly counts: StaticTerms;
  /** bytes of the step's arena: gradients, activations and logits share it */
  readonly arena: number;
  /** predicted time of a step over that of other ranks: [rank, T, time of that rank over this one's] */
  readonly ranks: readonly { readonly rank: number; readonly parameters: number; readonly time: number }[];
}

/** Tokens of a row, and rows of a batch, beyond which a request is taken for a mistake. */
const LONGEST = 2 ** 24;

/** What one thread packs of a product's operands (or decodes of codes) at a time: at most 1,024 columns of 256 numbers, in f32. */
function tile(config: ModelConfig, tokens: number): number {
  const widest = Math.max(config.vocabSize, config.intermediateSize, config.hiddenSize, tokens);
  return 4 * Math.min(1024, widest) * Math.min(256, widest);
}

/** What stands beside the factors, in words. */
const called: Readonly<Record<string, string>> = { A0: "first factors", B0: "first factors", squares: "squares of rows", A: "shared projections", B: "B, which is frozen", mask: "masks", slots: "places of tokens" };

/** How the adapter's bytes come about. */
function adapterText(request: MemoryRequest, s: StaticTerms): string {
  const n = (x: number): string => x.toLocaleString("en-US"), r = adapterOf(request).r ?? 0, names = new Set(s.besideRoles.map((role) => (role === "B" && s.besideRoles.includes("A") ? called["A"] : called[role] ?? role)));
  const trains = s.trainable === r * s.perRank ? `r (in + out) = ${r} x ${n(s.perRank)} = ${n(s.trainable)}` : `${n(s.trainable)} train`;
  return `${trains}${s.beside === 0 ? "" : `, and ${n(s.beside)} beside (${[...names].join(", ")})`}, x 32 bits`;
}

/**
 * Weights, adapter, gradients, optimizer, activations, logits and workspace of one training, from the config alone.
 *
 * The static terms are formulas (`staticTerms`). A step's values lie in one arena, which the planner lays out on `device` for the recorded step;
 * gradients and logits are counted by their formulas, and activations are the rest of the arena.
 * @throws ConfigError for sizes, names or targets that cannot be
 */
export function predictMemory(config: ModelConfig, request: TrainingRequest, device: PlannedDevice & { readonly threads?: number } = getDevice()): MemoryPrediction {
  const { method, batch, seq, checkpointing = false, accumulation = false, dora = false } = request;
  for (const [key, given] of [["dora", dora], ["adapter", request.adapter !== undefined]] as const) if (given && method === "full") throw new ConfigError(`memory: ${key} goes with an adapter, and all weights train`, { key, value: true, fix: "use method lora or qlora, or remove it" });
  for (const key of ["rank", "dora", "targets"] as const) if (request.adapter !== undefined && request[key] !== undefined) throw new ConfigError(`memory: ${key} beside adapter, which says it all`, { key, value: request[key], fix: "remove one of the two" });
  for (const [key, n] of Object.entries({ batch, seq })) if (!(Number.isInteger(n) && n > 0)) throw new ConfigError(`memory: ${key} is ${n}`, { key, value: n, fix: "use a whole number above 0" });
  const most = config.modelType === "gpt2" ? config.maxPositionEmbeddings : LONGEST;
  if (seq > most) throw new ConfigError(`memory: seq is ${seq}, and ${most === LONGEST ? "no plan is made for that many tokens a row" : `the model has ${most} positions`}`, { key: "seq", value: seq, fix: `use rows of at most ${most} tokens` });
  if (batch > LONGEST) throw new ConfigError(`memory: batch is ${batch}`, { key: "batch", value: batch, fix: `use at most ${LONGEST} rows` });
  const dtype = request.dtype ?? (method === "full" ? "f32" : "bf16"), s = staticTerms(config, request), tokens = batch * seq;
  const { arena } = stepBytes(config, { batch, seq, checkpointing, adapter: method === "full" ? null : adapterOf(request), dtype: method === "full" ? "f32" : dtype }, device);
  const sums = accumulation ? s.gradients : 0, logits = Math.min(logitsBytes(config, { batch, seq }), arena), gradients = Math.min(s.gradients, arena - logits), n = (x: number): string => x.toLocaleString("en-US");
  const half = method === "full" && dtype !== "f32", b = s.quantized === 0 ? "" : `${n(s.quantized)} x ${(8 * s.bytesPerCode).toFixed(3)} bits + `;
  const terms: MemoryTerm[] = [
    { name: "weights", bytes: s.weights, from: `${b}${n(s.parameters - s.quantized)} x ${Number(((8 * (s.weights - s.quantized * s.bytesPerCode)) / (s.parameters - s.quantized)).toFixed(3))} bits` },
    { name: "adapter", bytes: s.adapter, from: method === "full" ? "none" : adapterText(request, s) },
    { name: "gradients", bytes: s.gradients + sums, from: `${n(s.gradients / (half ? 2 : 4))} x ${half ? 16 : 32} bits${accumulation ? ", and their sums" : ""}` },
    { name: "optimizer", bytes: s.optimizer, from: `${n(s.trainable)} x ${(s.optimizer / s.trainable).toFixed(3).replace(/\.?0+$/, "")} B${half && request.masterWeights !== false ? " (moments, and weights in f32)" : s.remembered > 0 ? " (moments, and the importance of each)" : ""}` },
    { name: "activations", bytes: Math.max(0, arena - logits - gradients), from: `${n(tokens)} tokens, ${checkpointing ? "the layers' inputs and one layer's values" : "what the backward pass reads"}: the rest of the step's arena` },
    { name: "logits", bytes: logits, from: tokens * config.vocabSize <= 2 ** 24 ? `2 x ${n(tokens)} x ${n(config.vocabSize)} x 32 bits` : "in chunks of 64 MiB" },
    { name: "workspace", bytes: tile(config, tokens) * (device.threads ?? 1), from: `a tile of a product's operand, ${device.threads ?? 1} ${device.threads === 1 ? "thread" : "threads"}` },
  ];
  const ranks = atRanks(config, request, [8, 16, 64, 256]).map((at) => ({ ...at, time: rankRatio(s.linears, s.trainable, at.parameters, { checkpointing }) }));
  return { terms, total: terms.reduce((sum, t) => sum + t.bytes, 0), counts: s, arena, ranks };
}
