/**
 * What a fine-tuning holds in memory, term by term, from the model's config alone (no weight is ever read):
 *
 * (DoRA: T = Σ r (in + out) + Σ out, and Σ out squares of rows that do not train)
 *
 *   weights   = codes of quantized linears + scales + (P - Pq) b_w        adapter = T b_a,  T = Σ r (in + out)
 *   gradients = (full ? P : T) b_g                                        optimizer = N b_o, N = what trains
 *
 * and what a step needs besides: activations, logits, workspace (arena.ts).
 */
import { describeTargets, type LoraOptions, type ModuleInfo, nearest } from "@adjoint/lora";
import { type ModelConfig, moduleShapes, parameterShapes } from "@adjoint/models";
import { optimizerNames } from "@adjoint/optim";
import { blockOf, type FormatName, formatOf } from "@adjoint/quant";
import { bytesOf, ConfigError, sizeOf } from "@adjoint/tensor";

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
  /** of the weights that are no codes (default f32 for full, else bf16) */
  readonly dtype?: FloatName;
  /** of the codes (default nf4) */
  readonly format?: FormatName;
  /** elements a scale; the format's own when left out */
  readonly block?: number;
  /** scales as 8-bit codes too (default true) */
  readonly doubleQuant?: boolean;
  /** linears that stay as they are, by the last part of their path (default lm_head) */
  readonly skip?: readonly string[];
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
  /** DoRA's magnitudes, which no rank changes; as many squares of rows are kept beside them */
  readonly magnitudes: number;
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
  const format = formatOf(name), blocks = Math.ceil(elements / blockOf(format, block));
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

type StateRule = (shapes: readonly (readonly number[])[]) => number;
const each = (bytes: number): StateRule => (shapes) => bytes * shapes.reduce((n, s) => n + sizeOf(s), 0);
/** 8-bit states: `moments` bytes and one f32 a block of 256 each; tensors below 4096 elements keep f32. */
const eightBit = (moments: number): StateRule => (shapes) => shapes.reduce((n, s) => { const size = sizeOf(s); return n + moments * (size < 4096 ? 4 * size : size + 4 * Math.ceil(size / NESTED_BLOCK)); }, 0);
const factored: StateRule = (shapes) => shapes.reduce((n, s) => n + 4 * (s.length < 2 ? sizeOf(s) : s[s.length - 2] + s[s.length - 1]), 0);
/** An adapter's B alone: every second matrix. */
const ofB = (rule: StateRule): StateRule => (shapes) => rule(shapes.filter((s, i) => s.length < 2 || i % 2 === 1));
/** Bytes that an optimizer keeps beside what it trains, by the first of these expressions that its name matches. */
const states: readonly (readonly [RegExp, StateRule])[] = [
  [/^(paged_)?(adam|adamw|adamw_bnb)_?8bit$/, eightBit(2)], [/^(paged_)?(lion|rmsprop|rmsprop_bnb)_?8bit$/, eightBit(1)],
  [/^sgd$/, each(0)], [/^adafactor/, factored], [/^amsgrad$/, each(12)], [/^lora_?fa$/, ofB(each(8))],
  [/^(adagrad|muon)$|^rmsprop|lion/, each(4)], [/adam|lamb|sophia|riemannian|lora_?pro/, each(8)],
];
function stateRule(name: string): StateRule {
  const found = optimizerNames.includes(name) ? states.find(([expression]) => expression.test(name)) : undefined;
  if (found === undefined) throw new ConfigError(`memory: the optimizer ${name} is not known`, { key: "optim", value: name, fix: `did you mean ${nearest(name, optimizerNames, 1)[0] ?? "adamw_torch"}?` });
  return found[1];
}

/** @throws ConfigError for an unknown optimizer, format, block size or target */
export function staticTerms(config: ModelConfig, request: MemoryRequest): StaticTerms {
  const { method, rank = 16, targets = "all-linear", dtype = method === "full" ? "f32" : "bf16", format = "nf4", block, doubleQuant = true, skip = ["lm_head"], optimizer = "adamw_torch", masterWeights = true, dora = false } = request;
  const state = stateRule(optimizer);
  if (!(Number.isInteger(rank) && rank > 0)) throw new ConfigError(`memory: rank is ${rank}`, { key: "rank", value: rank, fix: "use a whole number above 0" });
  const shapes = parameterShapes(config), b = bytesOf(dtype), modules = modulesOf(config);
  const conv = modules.find((m) => m.kind === "conv1d");
  if (method === "qlora" && conv) throw new ConfigError(`memory: ${conv.path} is a Conv1D layer, and those are not held as codes`, { key: "method", value: method, fix: "use lora" });
  const linears = new Set(modules.filter((m) => m.kind === "linear").map((m) => `${m.path}.weight`)), isCode = (name: string): boolean => method === "qlora" && linears.has(name) && !skip.some((s) => isSkipped(name, s));
  let parameters = 0, quantized = 0, codes = 0;
  for (const [name, shape] of shapes) {
    parameters += sizeOf(shape);
    if (isCode(name)) { quantized += sizeOf(shape); codes += quantizedBytes(sizeOf(shape), format, block, doubleQuant); }
  }
  const weights = codes + (parameters - quantized) * b;
  const table = method === "full" ? null : describeTargets({ r: rank, targetModules: targets, useDora: dora }, modules, config.modelType);
  const sizes = new Map(modules.map((m) => [m.path, m])), adapted = (table?.targets ?? []).map((t) => ({ r: t.r, inn: sizes.get(t.path)?.inFeatures ?? 0, out: sizes.get(t.path)?.outFeatures ?? 0 }));
  const magnitudes = dora ? adapted.reduce((n, { out }) => n + out, 0) : 0, trains = table === null ? [...shapes.values()] : [...adapted.flatMap(({ r, inn, out }) => [[r, inn], [out, r]]), ...(dora ? adapted.map(({ out }) => [out]) : [])];
  const trainable = trains.reduce((n, s) => n + sizeOf(s), 0), half = method === "full" && dtype !== "f32";
  return {
    parameters, quantized, trainable, perRank: adapted.reduce((n, { inn, out }) => n + inn + out, 0), magnitudes, linears: modules.filter((m) => m.kind === "linear" || m.kind === "conv1d").reduce((n, m) => n + (m.inFeatures ?? 0) * (m.outFeatures ?? 0), 0),
    weights, adapter: method === "full" ? 0 : 4 * (trainable + magnitudes), gradients: (half ? b : 4) * trainable, optimizer: state(trains) + (half && masterWeights ? 4 * trainable : 0),
    bytesPerCode: quantized === 0 ? 0 : codes / quantized,
  };
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
