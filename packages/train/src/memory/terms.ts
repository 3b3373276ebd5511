/**
 * What a fine-tuning holds in memory, term by term, from the model's config alone (no weight is ever read):
 * 
 *   weights   = codes of quantized linears + scales + (P - Pq) b_w        adapter = (T + K) b_a,  T = Σ r (in + out) for LoRA
 *   gradients = (full ? P : T) b_g                                        optimizer = N b_o, N = what trains
 *
 * K is what stands beside the factors and does not train: first factors A₀ and B₀ (PiSSA, OLoRA, CorDA, LoRA-GA), DoRA's squares of rows, VeRA's shared
 * projections, MiCA's B, AdaLoRA's masks, the table of trained tokens. AdaLoRA remembers 2 T numbers of importance, which count with the optimizer's.
 * Both are read off an adapter of the same shapes without numbers (hollow.ts), so that they are those of the adapter that would train;
 * and what a step needs besides: activations, logits, workspace (arena.ts).
 */
import { type LoraOptions, type ModuleInfo, nearest } from "@adjoint/lora";
import { type ModelConfig, moduleShapes, parameterShapes } from "@adjoint/models";
import { isEmbeddingTable, optimizer, optimizerNames } from "@adjoint/optim";
import { blockOf, type FormatName, formatOf, ggufBytesHeld, ggufTypeOfQuantized, isFormatName } from "@adjoint/quant";
import { bytesOf, ConfigError, type Shape, sizeOf } from "@adjoint/tensor";
import { type Held, heldBy, hollowAdapter, hollowModel } from "./hollow.ts";

export type Method = "full" | "lora" | "qlora";
type FloatName = "f32" | "f16" | "bf16";

/** What is to be planned. */
export interface MemoryRequest {
  readonly method: Method;
  /** rank of the adapter (default 16) */
  readonly rank?: number;
  /** DoRA: a vector of lengths a module beside the factors (default false) */
  readonly dora?: boolean;
  /** as target_modules (default "all-linear") */
  readonly targets?: LoraOptions["targetModules"];
  /** the whole adapter, as `lora` takes it, in place of rank, dora and targets: its kind, first numbers, what trains beside */
  readonly adapter?: LoraOptions;
  /** of the weights that are no codes (default f32 for full, else bf16) */
  readonly dtype?: FloatName;
  /** of the codes (default nf4) */
  readonly format?: FormatName;
  /** elements a scale; the format's own when left out, a row for int8 */
  readonly block?: number;
  /** scales as 8-bit codes too (default: where they are f32, but not for int8, as bitsandbytes has it) */
  readonly doubleQuant?: boolean;
  /** linears that stay as they are, by the last part of their path (default lm_head) */
  readonly skip?: readonly string[];
  /** what the parameters are held as where a file of codes says so (GGUF), in place of format, block, doubleQuant, skip and dtype; embeddings of codes are held in f16 */
  readonly held?: ReadonlyMap<string, FormatName | FloatName>;
  /** as `optim` of a recipe (default adamw_torch) */
  readonly optimizer?: string;
  /** full training of half-precision weights keeps a copy in f32 (default true) */
  readonly masterWeights?: boolean;
}

/** Numbers of a request: how many, and how many bytes. */
export interface StaticTerms {
  /** P: parameters of the base */
  readonly parameters: number;
  /** Pq: those held as codes */
  readonly quantized: number;
  /** N: what trains; T for adapters */
  readonly trainable: number;
  /** T: parameters of the adapter at any rank, as a multiple of r */
  readonly perRank: number;
  /** K: numbers of the adapter that do not train, and what they are */
  readonly beside: number;
  readonly besideRoles: readonly string[];
  /** numbers that the method itself remembers from step to step (AdaLoRA's importance); their bytes are among the optimizer's */
  readonly remembered: number;
  /** parameters of the adapted linear layers, for the cost of rank */
  readonly linears: number;
  readonly weights: number;
  readonly adapter: number;
  readonly gradients: number;
  readonly optimizer: number;
  /** bytes a parameter of the codes with their scales */
  readonly bytesPerCode: number;
}

/** Blocks of scales that are quantized again (bitsandbytes). */
const NESTED_BLOCK = 256;

/** Bytes of one quantized tensor in memory: codes, one f32 a block, the table; with double quantization one byte a block, one f32 each 256 blocks, offset and table. */
export function quantizedBytes(elements: number, name: FormatName, block?: number, doubleQuant = false): number {
  const format = formatOf(name), blocks = Math.ceil(elements / blockOf(format, block)), type = ggufTypeOfQuantized({ format });
  if (doubleQuant && format.scale !== "f32") throw new ConfigError(`memory: the scales of ${name} are ${format.scale}`, { key: "doubleQuant", value: true, fix: "leave doubleQuant out" });
  if (type !== null) return ggufBytesHeld(type, elements);
  const scales = doubleQuant ? blocks + 4 * Math.ceil(blocks / NESTED_BLOCK) + 4 + 1024 : 4 * blocks;
  return Math.ceil((elements * format.bits) / 8) + scales + format.table.byteLength;
}

/** The paths of a config's modules, as `describeTargets` wants them. */
export function modulesOf(config: ModelConfig): readonly ModuleInfo[] {
  return moduleShapes(config).map(({ path, kind, weight: [rows, columns], isOutputHead }) => {
    if (kind === "norm") return { path, kind: "other" };
    return kind === "linear" ? { path, kind, inFeatures: columns, outFeatures: rows, isOutputHead } : { path, kind, inFeatures: rows, outFeatures: columns };
  });
}

type StateRule = (trains: Held["trains"]) => number;
const summed = (of: (shape: Shape) => number): StateRule => (trains) => trains.reduce((n, { shape }) => n + of(shape), 0);
const each = (bytes: number): StateRule => summed((s) => bytes * sizeOf(s));
/** 8-bit states: `moments` bytes and one f32 a block of 256 each; embeddings and tensors below 4096 elements keep f32. */
const eightBit = (moments: number): StateRule => (trains) => trains.reduce((n, { shape, path }) => {
  const size = sizeOf(shape);
  return n + moments * (size < 4096 || isEmbeddingTable(path) ? 4 * size : size + 4 * Math.ceil(size / NESTED_BLOCK));
}, 0);
const factored: StateRule = summed((s) => 4 * (s.length < 2 ? sizeOf(s) : s[s.length - 2] + s[s.length - 1]));
/** Without what LoRA-FA leaves as it is: A of each pair, of an embedding's B. */
const isFrozen = optimizer("lorafa", { scaling: 1 }).transform.ignores ?? ((): boolean => false);
const moving = (trains: Held["trains"]): Held["trains"] => trains.filter(({ path }) => !isFrozen(path));
const isLoraFa = /^lora_?fa$/;
/** Bytes that an optimizer keeps beside what it trains, by the first of these expressions that its name matches. */
const states: readonly (readonly [RegExp, StateRule])[] = [
  [/^(paged_)?(adam|adamw|adamw_bnb)_?8bit$/, eightBit(2)], [/^(paged_)?(lion|rmsprop|rmsprop_bnb)_?8bit$/, eightBit(1)],
  [/^sgd$/, each(0)], [/^adafactor/, factored], [/^amsgrad$/, each(12)], [isLoraFa, (trains) => each(8)(moving(trains))],
  [/^(adagrad|muon)$|^rmsprop|lion/, each(4)], [/adam|lamb|sophia|riemannian|lora_?pro/, each(8)],
];
function stateRule(name: string): StateRule {
  const found = optimizerNames.includes(name) ? states.find(([expression]) => expression.test(name)) : undefined;
  if (found === undefined) throw new ConfigError(`memory: the optimizer ${name} is not known`, { key: "optim", value: name, fix: `did you mean ${nearest(name, optimizerNames, 1)[0] ?? "adamw_torch"}?` });
  return found[1];
}

/** @throws ConfigError for an unknown optimizer, format, block size or target */
export function staticTerms(config: ModelConfig, request: MemoryRequest): StaticTerms {
  const { method, rank = 16, dtype = method === "full" ? "f32" : "bf16", format = "nf4", block, doubleQuant = formatOf(format).scale === "f32" && format !== "int8", held, skip = ["lm_head"], optimizer: name = "adamw_torch", masterWeights = true } = request;
  const state = stateRule(name);
  if (held !== undefined && method !== "qlora") throw new ConfigError(`memory: the weights are codes, over which an adapter trains`, { key: "method", value: method, fix: "use method qlora" });
  if (!(Number.isInteger(rank) && rank > 0)) throw new ConfigError(`memory: rank is ${rank}`, { key: "rank", value: rank, fix: "use a whole number above 0" });
  const shapes = parameterShapes(config), b = bytesOf(dtype), modules = modulesOf(config);
  const conv = modules.find((m) => m.kind === "conv1d");
  if (method === "qlora" && conv) throw new ConfigError(`memory: ${conv.path} is a Conv1D layer, and those are not held as codes`, { key: "method", value: method, fix: "use lora" });
  const linears = new Set(modules.filter((m) => m.kind === "linear").map((m) => `${m.path}.weight`)), isCode = (name: string): boolean => method === "qlora" && linears.has(name) && !skip.some((s) => isSkipped(name, s));
  const unknown = method !== "qlora" ? undefined : skip.find((name) => ![...shapes.keys(), "lm_head.weight"].some((parameter) => isSkipped(parameter, name)));
  if (unknown !== undefined) throw new ConfigError(`memory: skip names ${unknown}, and the model has no such layer`, { key: "skip", value: unknown, fix: `${nearest(unknown, [...new Set(modules.map((m) => m.path.slice(m.path.lastIndexOf(".") + 1)))], 1).map((name) => `did you mean ${name}? Or `).join("")}use the last part of a path, such as lm_head` });
  let parameters = 0, quantized = 0, codes = 0;
  let rest = 0;
  for (const [name, shape] of shapes) {
    const n = sizeOf(shape), as = held?.get(name), own = as === undefined ? isCode(name) && held === undefined : isFormatName(as) && linears.has(name);
    parameters += n;
    if (!own) rest += n * (as === undefined ? b : isFormatName(as) ? 2 : bytesOf(as));
    else { quantized += n; codes += as === undefined || !isFormatName(as) ? quantizedBytes(n, format, block ?? (format === "int8" ? shape[1] : undefined), doubleQuant) : quantizedBytes(n, as); }
  }
  const weights = codes + rest;
  const tuned = method === "full" ? null : hollowAdapter(hollowModel(config, "f32"), adapterOf(request));
  const { trains, beside, remembered }: Held = tuned === null ? { trains: [...shapes].map(([path, shape]) => ({ role: "weight", shape, path })), beside: [], remembered: 0 } : heldBy(tuned);
  const count = (list: readonly { readonly shape: Shape }[]): number => list.reduce((n, { shape }) => n + sizeOf(shape), 0), trainable = count(trains), besides = count(beside), half = method === "full" && dtype !== "f32";
  return {
    parameters, quantized, trainable, perRank: (tuned?.targets.targets ?? []).reduce((n, { inFeatures, outFeatures }) => n + inFeatures + outFeatures, 0),
    beside: besides, besideRoles: [...new Set(beside.map(({ role }) => role))], remembered, linears: modules.filter((m) => m.kind === "linear" || m.kind === "conv1d").reduce((n, m) => n + (m.inFeatures ?? 0) * (m.outFeatures ?? 0), 0),
    weights, adapter: method === "full" ? 0 : 4 * (trainable + besides), gradients: (half ? b : 4) * (isLoraFa.test(name) ? count(moving(trains)) : trainable), optimizer: state(trains) + 4 * remembered + (half && masterWeights ? 4 * trainable : 0),
    bytesPerCode: quantized === 0 ? 0 : codes / quantized,
  };
}

/** The adapter of a request as `lora` takes it. */
export const adapterOf = ({ adapter, rank = 16, targets = "all-linear", dora = false }: MemoryRequest): LoraOptions => adapter ?? { r: rank, targetModules: targets, useDora: dora };

/** What trains at other ranks of the adapter's; none where the rank is not the whole of it (AdaLoRA's budget, VeRA's vectors). */
export function atRanks(config: ModelConfig, request: MemoryRequest, ranks: readonly number[]): readonly { readonly rank: number; readonly parameters: number }[] {
  const options = adapterOf(request);
  if (request.method === "full" || (options.adalora ?? options.vera ?? null) !== null) return [];
  const model = hollowModel(config, "f32"), own = options.r ?? 8;
  return [...new Set([...ranks, own])].sort((x, y) => x - y).map((rank) => ({ rank, parameters: heldBy(hollowAdapter(model, { ...options, r: rank })).trains.reduce((n, { shape }) => n + sizeOf(shape), 0) }));
}

/** Whether a parameter belongs to a module that a list of names leaves out: the path's last part, or the whole path. */
export const isSkipped = (parameter: string, name: string): boolean => {
  const path = parameter.replace(/\.weight$/, "");
  return path === name || path.endsWith(`.${name}`);
};

/** What a token costs in multiply-adds: forward 2, backward of the input 2, recomputation 2, backward of the weights 2; a frozen reference forward 2 more. */
export interface RankCost { readonly checkpointing: boolean; /** a second pass without the adapter (DPO) */ readonly reference?: boolean }

/**
 * Predicted time of rank r2 over rank r1: ((f P + a T2) / (f P + a T1)) with f = 4, or 6 with checkpointing, plus 2 for a reference pass, and a = 6 or 8.
 * P are the parameters of all linear layers, T those of the adapter.
 */
export function rankRatio(linears: number, t1: number, t2: number, { checkpointing, reference = false }: RankCost): number {
  const f = (checkpointing ? 6 : 4) + (reference ? 2 : 0), a = checkpointing ? 8 : 6;
  return (f * linears + a * t2) / (f * linears + a * t1);
}
