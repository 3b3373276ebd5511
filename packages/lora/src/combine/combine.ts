/**
 * One plain LoRA adapter out of several: PEFT's `add_weighted_adapter`, right by default.
 *
 * With Δ_i = s_i B_i A_i and weights w_i: `cat` is Σ w_i Δ_i exactly (rank Σ r_i), `svd` its best approximation of a rank; `linear` adds factors
 * (cross terms B_i A_j and all); `ties`, `dare_linear`, `dare_ties` and `magnitude_prune` prune and add factors, their `_svd` forms the Δ_i.
 * Each s_i enters once; the result has scale 1 whatever the parts had.
 */
import { ConfigError, hostOf, type HostArray, type Matrix, matrixOf, sizeOf } from "@adjoint/tensor";
import type { AdapterMethod, Role, Shapes, Site } from "../adapter.ts";
import type { Attachment } from "../attachments.ts";
import { type LoraConfig, loraConfig } from "../config/config.ts";
import { unitScale } from "../config/ranks.ts";
import { convolution } from "../methods/convolution.ts";
import { attachLora, planLora } from "../lora.ts";
import { lowRank } from "../methods/low-rank.ts";
import { nearest } from "../targets/nearest.ts";
import { stacked } from "../methods/origin.ts";
import { plainFactors } from "../plain.ts";
import { adalora } from "../methods/adalora.ts";
import { vera } from "../methods/vera.ts";
import type { Tuned } from "../tuned.ts";
import { electedMean, keepLargest, keepRandom, type SignRule, weightedSum } from "./operators.ts";
import { clamped, concatenated, deltaOf, factored, type Pair, topSingular, type Weighted } from "./pairs.ts";

/** What a combination does with lists of numbers; the key with `_svd` does it to Δ, the one without to A and B. */
interface Operator {
  readonly prune: "magnitude" | "random" | null;
  readonly elect: boolean;
}
const operators = {
  linear: { prune: null, elect: false },
  ties: { prune: "magnitude", elect: true },
  dare_linear: { prune: "random", elect: false },
  dare_ties: { prune: "random", elect: true },
  magnitude_prune: { prune: "magnitude", elect: false },
} satisfies Readonly<Record<string, Operator>>;

export type CombinationType = "cat" | "svd" | "linear" | "ties" | "ties_svd" | "dare_linear" | "dare_linear_svd" | "dare_ties" | "dare_ties_svd" | "magnitude_prune" | "magnitude_prune_svd";
export const combinationTypes: readonly CombinationType[] = ["cat", "svd", "linear", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd", "magnitude_prune", "magnitude_prune_svd"];

/** PEFT's options in camelCase. */
export interface CombineOptions {
  /** default svd */
  readonly combinationType?: CombinationType;
  /** rank of the `svd` forms; default: the largest rank of the parts */
  readonly svdRank?: number;
  /** limit of both factors of the `svd` forms: this quantile of their magnitudes, in (0, 1] */
  readonly svdClamp?: number;
  /** share of numbers that pruning keeps, from 0 to 1; dare divides by it, so not 0 there */
  readonly density?: number;
  /** ties: how the sign of an entry is chosen; default total */
  readonly majoritySignMethod?: SignRule;
  /** of dare's masks; default 0 */
  readonly seed?: number;
  /**
   * PEFT 0.21.2's numbers: the result inherits the first adapter's config, use_rslora with it (so its scale is sqrt(r)); one rank for all modules,
   * filled up with zeros; signs elected before weighting; a quantile of signed numbers; one adapter is always `linear`.
   */
  readonly compat?: "peft";
}

/** One adapter of a combination. Its name is the stream of its random mask. */
export interface CombinePart<M> {
  readonly name: string;
  readonly adapter: Tuned<M>;
  readonly weight: number;
}

/** Low-rank updates that are read as LoRA's. */
const isRanked = (method: AdapterMethod): boolean => method === adalora || method === vera;
const fail = (problem: string, key: string, value: unknown, fix: string): never => { throw new ConfigError(`combine: ${problem}`, { op: "combine", key, value, fix }); };
const isSvd = (type: CombinationType): boolean => type.endsWith("svd");
function operatorOf(type: CombinationType): Operator {
  switch (type) {
    case "cat": case "svd": case "linear": return operators.linear;
    case "ties": case "ties_svd": return operators.ties;
    case "dare_linear": case "dare_linear_svd": return operators.dare_linear;
    case "dare_ties": case "dare_ties_svd": return operators.dare_ties;
    case "magnitude_prune": case "magnitude_prune_svd": return operators.magnitude_prune;
  }
}

/** Options that are contradictory, missing or would do nothing are errors. */
function checkOptions({ combinationType: type = "svd", svdRank, svdClamp, density, majoritySignMethod, compat, ...rest }: CombineOptions): void {
  if (!combinationTypes.includes(type)) fail(`combinationType = ${JSON.stringify(type)} is none`, "combinationType", type, `use ${(nearest(type, combinationTypes)[0] ?? combinationTypes.join(", "))}`);
  const { prune, elect } = operatorOf(type);
  for (const key of Object.keys(rest)) if (key !== "seed") fail(`${key} is not an option`, key, Object.entries(rest).find(([k]) => k === key)?.[1], "options: combinationType, svdRank, svdClamp, density, majoritySignMethod, seed, compat");
  const idle = (key: string, value: unknown, used: boolean): void => { if (value !== undefined && !used) fail(`${key} does nothing with ${type}`, key, value, `leave ${key} out`); };
  idle("svdRank", svdRank, isSvd(type));
  idle("svdClamp", svdClamp, isSvd(type));
  idle("density", density, prune !== null);
  idle("majoritySignMethod", majoritySignMethod, elect);
  if (prune !== null && (density === undefined || !(density >= 0 && density <= 1))) fail(`density = ${density} is not a share of the numbers`, "density", density, `${type} keeps a share of the numbers: pass one from 0 to 1, such as 0.5`);
  if (prune === "random" && density === 0) fail("density = 0 would divide by 0", "density", 0, "pass a share above 0");
  if (svdRank !== undefined && !(Number.isInteger(svdRank) && svdRank > 0)) fail(`svdRank = ${svdRank} is not a rank`, "svdRank", svdRank, "pass an integer above 0");
  if (svdClamp !== undefined && !(svdClamp > 0 && svdClamp <= 1)) fail(`svdClamp = ${svdClamp} is not a quantile`, "svdClamp", svdClamp, "pass a number above 0, up to 1, such as 0.99");
  if (majoritySignMethod !== undefined && majoritySignMethod !== "total" && majoritySignMethod !== "frequency") fail(`majoritySignMethod = ${JSON.stringify(majoritySignMethod)} is none`, "majoritySignMethod", majoritySignMethod, "use total or frequency");
  if (compat !== undefined && compat !== "peft") fail(`compat = ${JSON.stringify(compat)} is none`, "compat", compat, 'use "peft", or leave it out');
}

function checkParts<M>(model: M, parts: readonly CombinePart<M>[], compat: boolean): void {
  if (parts.length === 0) fail("no adapters", "adapters", [], "name at least one, with a weight");
  for (const { name, adapter, weight } of parts) {
    if (!Number.isFinite(weight)) fail(`the weight of ${name} is ${weight}`, name, weight, "pass a finite number; a negative one takes the adapter away");
    if (parts.filter((p) => p.name === name).length > 1) fail(`${name} is named twice`, name, name, "name it once, with the sum of the weights");
    if (adapter.base !== model) fail(`${name} was made for another model`, name, name, "load it onto this one first");
    for (const { method, site, beside = {} } of adapter.attachments) {
      if (method === convolution && (site.groups ?? 1) > 1) fail(`${name} is on ${site.path}, a convolution of ${site.groups} groups`, name, site.path, "leave it out, or merge the adapter into the base first");
      if (compat && beside["A0"] !== undefined) fail(`${name} was made by ${method.name}, of which PEFT combines the converted file`, name, method.name, 'save it, load it again, and combine that; or leave compat: "peft" out');
      if (compat && isRanked(method)) fail(`${name} is ${method.name}, and PEFT combines LoRA alone`, name, method.name, 'combine await plainLora(adapter), or leave compat: "peft" out');
      if (method !== lowRank && method !== convolution && !isRanked(method) && beside["A0"] === undefined) fail(`${name} has ${method.name} on ${site.path}, which does not combine`, name, method.name, "LoRA, rsLoRA, AdaLoRA, VeRA, and what starts as PiSSA and the like do: merge the other adapter into the base first, or leave it out");
    }
  }
}

/** Parts of one module. */
interface Here extends Weighted {
  readonly name: string;
  readonly rank: number;
}

/** A and B of the result at one module. */
function combineSite(path: string, here: readonly Here[], type: CombinationType, options: CombineOptions, rank: number): Pair {
  const compat = options.compat === "peft", { prune, elect } = operatorOf(type), { density = 1, seed = 0, majoritySignMethod = "total" } = options;
  const merged = (role: Role, of: readonly Matrix[], weights: readonly number[]): Matrix => {
    const pruned = of.map(({ data }, i) => (prune === null || density >= 1 ? data : prune === "magnitude" ? keepLargest(data, density) : keepRandom(data, density, seed, `combine/${path}/${role}/${here[i].name}`)));
    return { ...of[0], data: elect ? electedMean(pruned, weights, majoritySignMethod, compat) : weightedSum(pruned, weights) };
  };
  if (type === "cat") return concatenated(here);
  if (isSvd(type)) {
    const { cols: inputs } = here[0].A, { rows: outputs } = here[0].B, k = Math.min(rank, inputs, outputs), sum = here.reduce((n, p) => n + p.rank, 0);
    const pair = type === "svd" && sum < Math.min(inputs, outputs) && k <= sum ? factored(concatenated(here), k) : topSingular(merged("delta", here.map(deltaOf), here.map((p) => p.weight)), k);
    return options.svdClamp === undefined ? pair : clamped(pair, options.svdClamp, compat);
  }
  const ranks = [...new Set(here.map((p) => p.rank))];
  if (ranks.length > 1) fail(`ranks ${ranks.join(" and ")} at ${path} differ`, path, ranks, `${type} adds factors entry by entry: use cat or ${type === "linear" ? "svd" : `${type}_svd`}`);
  const root = here.map((p) => Math.sqrt(Math.abs(p.weight * p.scale)));
  return { A: merged("A", here.map((p) => p.A), here.map((p, i) => (p.weight * p.scale < 0 ? -root[i] : root[i]))), B: merged("B", here.map((p) => p.B), root) };
}

/** Filled up with zeros to a rank, as PEFT's allocation is. */
function padded({ A, B }: Pair, rank: number): Pair {
  const a = new Float64Array(rank * A.cols), b = new Float64Array(B.rows * rank);
  a.set(A.data);
  for (let o = 0; o < B.rows; o++) b.set(B.data.subarray(o * B.cols, (o + 1) * B.cols), o * rank);
  return { A: { rows: rank, cols: A.cols, data: a }, B: { rows: B.rows, cols: rank, data: b } };
}

const flat = ({ dtype, shape: [rows, ...rest], data }: HostArray): Matrix => matrixOf({ dtype, shape: [rows, sizeOf(rest)], data });
/** Factors as matrices and their scale: a convolution's kernels as rows, with what was taken out of the base at the start (PiSSA), as `save` converts it, and AdaLoRA and VeRA as `plainLora` does. */
async function read(attachment: Attachment): Promise<Pair & { readonly scale: number }> {
  const { factors: { A, B }, beside: { A0, B0 } = {}, site: { scale } } = attachment, plain = await plainFactors(attachment);
  if (plain !== null) return { A: flat(plain.A), B: flat(plain.B), scale: 1 };
  const now = { A: await A.host(), B: await B.host() }, whole = A0 === undefined ? now : stacked(now, { A: await A0.host(), B: await B0.host() });
  return { A: flat(whole.A), B: flat(whole.B), scale };
}
/** Pruning would take NaN for small and leave it out. */
function checkFinite(name: string, path: string, { A, B }: Pair): void {
  const value = [...A.data, ...B.data].find((v) => !Number.isFinite(v));
  if (value !== undefined) fail(`${name} holds ${value} at ${path}`, name, value, "the adapter diverged: use an earlier checkpoint, or leave it out");
}

/** The plain config of the result: its modules by their last names where these choose no others, else by their paths; the most frequent rank, and exceptions. */
function plainConfig<M extends object>(model: M, parts: readonly CombinePart<M>[], paths: readonly string[], rankOf: (path: string) => number): LoraConfig {
  const [{ adapter: { loraConfig: first } }] = parts;
  const dropouts = new Set(parts.map((p) => p.adapter.loraConfig.loraDropout));
  const of = (targetModules: readonly string[]): LoraConfig => loraConfig({
    ...unitScale(new Map(paths.map((path) => [path, rankOf(path)]))), targetModules, loraDropout: dropouts.size === 1 ? first.loraDropout : 0,
    taskType: first.taskType, baseModelNameOrPath: first.baseModelNameOrPath, revision: first.revision, autoMapping: first.autoMapping, fanInFanOut: first.fanInFanOut,
  });
  const short = of([...new Set(paths.map((p) => p.slice(p.lastIndexOf(".") + 1)))].sort()), chosen = new Set(paths);
  try {
    const { targets } = planLora(model, short, null).table;
    if (targets.length === chosen.size && targets.every((t) => chosen.has(t.path))) return short;
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error; // the short names hit something that cannot be adapted
  }
  return of([...paths].sort());
}

/** The first adapter's config with the new rank and the union of the targets. */
function inheritedConfig<M>(parts: readonly CombinePart<M>[], r: number): LoraConfig {
  const targets = parts.map((p) => p.adapter.targets.targetModules), texts = targets.filter((t) => typeof t === "string"), lists = targets.filter((t) => typeof t !== "string");
  if (texts.length > 0 && lists.length > 0) fail("targetModules is an expression in some adapters and a list in others", "targetModules", targets, 'leave compat: "peft" out');
  const targetModules = texts.length > 0 ? texts.map((t) => `(${t})`).join("|") : [...new Set(lists.flat())].sort();
  return loraConfig({ ...parts[0].adapter.loraConfig, r, loraAlpha: r, targetModules, rankPattern: {}, alphaPattern: {} });
}

/**
 * A new adapter beside the model that is the weighted combination of others; it saves as PEFT's files, and the others stay as they are.
 * @throws ConfigError for options that miss, contradict or do nothing, adapters that are not low-rank sums (DoRA, FLoRA, biases, whole modules), and ranks that differ where they must not
 * @example const both = await combine(model, [{ name: "a", adapter: a, weight: 1 }, { name: "b", adapter: b, weight: 0.5 }], { combinationType: "cat" });
 */
export async function combine<M extends object>(model: M, parts: readonly CombinePart<M>[], options: CombineOptions = {}): Promise<Tuned<M>> {
  checkOptions(options);
  const compat = options.compat === "peft";
  checkParts(model, parts, compat);
  const type = compat && parts.length === 1 ? "linear" : (options.combinationType ?? "svd");
  const at = new Map<string, { readonly part: CombinePart<M>; readonly attachment: Attachment }[]>();
  for (const part of parts) for (const attachment of part.adapter.attachments) at.set(attachment.site.path, [...(at.get(attachment.site.path) ?? []), { part, attachment }]);
  const largest = (sites: readonly Site[]): number => Math.max(...sites.map((s) => s.r));
  const allRanks = parts.map((p) => largest(p.adapter.targets.targets));
  const common = isSvd(type) ? (options.svdRank ?? Math.max(...allRanks)) : type === "cat" ? allRanks.reduce((a, b) => a + b, 0) : Math.max(...allRanks);
  const pairs = new Map<string, Pair>();
  for (const [path, held] of at) {
    const here = await Promise.all(held.map(async ({ part: { name, weight }, attachment }): Promise<Here> => { const pair = await read(attachment); checkFinite(name, path, pair); return { name, weight, rank: pair.A.rows, ...pair }; }));
    const pair = combineSite(path, here, type, options, isSvd(type) ? (options.svdRank ?? (compat ? common : largest(held.map((h) => h.attachment.site)))) : 0);
    pairs.set(path, compat ? padded(pair, common) : pair);
  }
  const config = compat ? inheritedConfig(parts, common) : plainConfig(model, parts, [...pairs.keys()], (path) => pairs.get(path)?.A.rows ?? 0);
  return attachLora(model, config, planLora(model, config, null), ({ site, method }) => factorsOf(pairs.get(site.path), site.path, method.shapes(site, config)), false);
}

function factorsOf(pair: Pair | undefined, path: string, shapes: Shapes): Readonly<Record<Role, HostArray>> {
  if (pair === undefined) return fail(`the union of target modules adapts ${path}, which no adapter does`, "targetModules", path, 'leave compat: "peft" out');
  return { A: { ...hostOf(pair.A), shape: shapes["A"] }, B: { ...hostOf(pair.B), shape: shapes["B"] } };
}
