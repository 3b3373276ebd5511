/** Which modules of a model an adapter touches, with rank, alpha and scale (PEFT's rules), as a table to look at before training. */
import { ConfigError, type Shape, sizeOf } from "@adjoint/tensor";
import type { Site } from "../adapter.ts";
import { type LoraConfig, loraConfig, type LoraOptions } from "../config/config.ts";
import { type Beside, besideTargets, type Origin, savedNames } from "../extras/select.ts";
import { methodOf } from "../methods/methods.ts";
import { scaleIn } from "../config/kinds.ts";
import { nearest } from "./nearest.ts";
import { compilePattern, type Pattern } from "./pattern.ts";
import { lintScale } from "../config/scaling.ts";
import { print } from "./target-table.ts";
import { withWidest } from "../methods/vera.ts";

/** What module selection needs to know of one module. */
export interface ModuleInfo {
  /** path inside the base model, such as model.layers.0.self_attn.q_proj */
  readonly path: string;
  /** `conv1d` is GPT-2's linear layer with the weight stored (in, out), `conv` a convolution, `lstm` one weight of an LSTM; `other` cannot be adapted */
  readonly kind: "linear" | "conv1d" | "embedding" | "conv" | "lstm" | "other";
  /** in features, or rows of an embedding */
  readonly inFeatures?: number;
  /** out features, or width of an embedding */
  readonly outFeatures?: number;
  /** of a convolution: its channels and kernel, [C, k] or [C, kh, kw], and its groups */
  readonly window?: readonly number[];
  readonly groups?: number;
  /** gives the logits: "all-linear" leaves it out */
  readonly isOutputHead?: boolean;
  /** shapes of its own parameters by name, for what trains beside the targets; left out where the module is no layer */
  readonly parameters?: Readonly<Record<string, Shape>>;
  /** path of the first layer whose weight it shares (a tied output head) */
  readonly tiedTo?: string;
}

/** One adapted module. */
export interface Target {
  readonly path: string;
  readonly kind: ModuleInfo["kind"];
  readonly r: number;
  readonly alpha: number;
  /** s in y = W x + s B A x */
  readonly scale: number;
  /** what trains: r (in + out) for LoRA */
  readonly parameters: number;
  /** the entry or expression that chose it */
  readonly matchedBy: string;
}

/** The table of an adapter before it exists. */
export interface TargetTable {
  readonly targets: readonly Site[];
  /** biases, whole modules, token rows and raw parameters that train beside */
  readonly beside: readonly Beside[];
  /** linear layers that stay as they are */
  readonly notAdapted: readonly string[];
  /** what trains in all */
  readonly parameters: number;
  readonly warnings: readonly string[];
  /** value of target_modules for the file: "all-linear" and defaults written out */
  readonly targetModules: readonly string[] | string;
  /** value of modules_to_save for the file: names that PEFT's rule for it reads as what trains here */
  readonly modulesToSave: readonly string[] | null;
  toString(): string;
}

/** Names that PEFT adapts when target_modules is null, by model_type. */
export const defaultTargets: Readonly<Record<string, readonly string[]>> = {
  ...from(["q_proj", "v_proj"], "llama mistral mixtral qwen2 qwen3 gemma gemma2 gemma3_text stablelm llama4 opt bart gptj gpt_neo"),
  ...from(["query_key_value"], "gpt_neox bloom falcon chatglm"),
  ...from(["query", "value"], "bert roberta xlm-roberta electra"),
  ...from(["q", "v"], "t5 mt5"),
  ...from(["c_attn"], "gpt2 gpt_bigcode"),
  phi: ["q_proj", "v_proj", "fc1", "fc2"],
  mpt: ["Wqkv"],
  codegen: ["qkv_proj"],
};

function from(targets: readonly string[], modelTypes: string): Record<string, readonly string[]> {
  return Object.fromEntries(modelTypes.split(" ").map((t) => [t, targets]));
}

type Chooser = (path: string) => string | null;

const isSuffix = (path: string, name: string): boolean => path === name || path.endsWith(`.${name}`);

/** Index of the layer that a path lies in: the first numbered part, or the one after a name that fits layers_pattern. */
function layerIndex(path: string, patterns: readonly Pattern[]): number | null {
  for (const p of patterns) {
    const index = p.match(path)?.named.get("idx");
    if (index !== undefined) return Number(index);
  }
  if (patterns.length > 0) return null;
  const parts = path.split(".");
  const at = parts.findIndex((part, i) => i > 0 && i < parts.length - 1 && /^\d+$/.test(part));
  return at < 0 ? null : Number(parts[at]);
}

const wantedLayers = (c: LoraConfig): readonly number[] => (typeof c.layersToTransform === "number" ? [c.layersToTransform] : (c.layersToTransform ?? []));

/** The part of the config that filters by layer; null without one. */
function layerFilter(c: LoraConfig): ((path: string) => boolean) | null {
  const wanted = wantedLayers(c), indexOf = layerOf(c);
  return wanted.length === 0 ? null : (path) => { const index = indexOf(path); return index !== null && wanted.includes(index); };
}

/** The index of the layer that a path lies in, as the config finds it. */
function layerOf(c: LoraConfig): (path: string) => number | null {
  const names = typeof c.layersPattern === "string" ? [c.layersPattern] : (c.layersPattern ?? []);
  const patterns = names.filter((n) => n !== "").map((n) => compilePattern(`(?:^|.*?\\.)(?:${n})\\.(?P<idx>\\d+)\\.`, { key: "layers_pattern" }));
  return (path) => layerIndex(path, patterns);
}

function byNames(names: readonly string[], inLayer: ((path: string) => boolean) | null): Chooser {
  const exact = new Set(names);
  return (path) => {
    if (exact.has(path)) return path; // a full path is meant as it is, whatever the layers
    const found = names.find((n) => path.endsWith(`.${n}`));
    return found !== undefined && (inLayer === null || inLayer(path)) ? found : null;
  };
}

/** Whether exclude_modules is set. */
export const leavesOut = (c: Pick<LoraConfig, "excludeModules">): boolean => c.excludeModules !== null && c.excludeModules.length > 0;
function excluder(exclude: LoraConfig["excludeModules"]): (path: string) => boolean {
  if (exclude === null || exclude.length === 0) return () => false;
  if (typeof exclude !== "string") return (path) => exclude.some((e) => isSuffix(path, e));
  const pattern = compilePattern(exclude, { key: "exclude_modules" });
  return (path) => pattern.fullMatch(path) !== null;
}

/** First pattern that matches a path whole or after a dot, in order; remembers which were ever used. */
function overrides(key: string, entries: Readonly<Record<string, number>>): { of: (path: string) => number | null; unused: () => readonly string[] } {
  const patterns = Object.entries(entries).map(([source, value]) => ({
    source,
    value,
    pattern: compilePattern(`(?:.*\\.)?(?:${source})`, { key: `${key}[${JSON.stringify(source)}]` }),
  }));
  const used = new Set<string>();
  return {
    of: (path) => {
      const hit = patterns.find((p) => p.pattern.fullMatch(path) !== null);
      if (hit !== undefined) used.add(hit.source);
      return hit?.value ?? null;
    },
    unused: () => patterns.filter((p) => !used.has(p.source)).map((p) => p.source),
  };
}

const isLinear = (m: ModuleInfo): boolean => m.kind === "linear" || m.kind === "conv1d";
export const isAllLinear = (targets: LoraConfig["targetModules"]): boolean => typeof targets === "string" && targets.toLowerCase() === "all-linear";

interface Selection {
  readonly choose: Chooser;
  readonly written: readonly string[] | string;
}

function select(c: LoraConfig, modules: readonly ModuleInfo[], modelType: string | null): Selection {
  const wanted = c.targetModules;
  if (isAllLinear(wanted)) {
    const all = modules.filter((m) => isLinear(m) && m.isOutputHead !== true).map((m) => m.path);
    const set = new Set(all);
    return { choose: (path) => (set.has(path) ? "all-linear" : null), written: shortNames(all, modules) };
  }
  if (typeof wanted === "string") {
    const pattern = compilePattern(wanted, { key: "target_modules" });
    return { choose: (path) => (pattern.fullMatch(path) === null ? null : wanted), written: wanted };
  }
  const names = wanted ?? (modelType === null ? undefined : defaultTargets[modelType]);
  if (names === undefined) {
    throw new ConfigError(`target_modules is not set, and model_type ${modelType ?? "(unknown)"} has no default`, {
      key: "target_modules",
      value: null,
      fix: 'name the modules, such as ["q_proj", "v_proj"], or use "all-linear"',
    });
  }
  return { choose: byNames(names, layerFilter(c)), written: names };
}

/** Last parts of the paths where they choose exactly these modules, else the paths themselves. */
function shortNames(paths: readonly string[], modules: readonly ModuleInfo[]): readonly string[] {
  const leaves = [...new Set(paths.map((p) => p.slice(p.lastIndexOf(".") + 1)))];
  const chosen = new Set(paths);
  const same = modules.every((m) => leaves.some((l) => isSuffix(m.path, l)) === chosen.has(m.path));
  return (same ? leaves : [...paths]).sort();
}

/** Exactly these modules: their paths, or an expression where one of them is the end of another module's. */
export function exactly(paths: readonly string[], modules: readonly ModuleInfo[]): readonly string[] | string {
  const chosen = new Set(paths), clear = modules.every((m) => chosen.has(m.path) || !paths.some((p) => isSuffix(m.path, p)));
  return clear ? [...paths].sort() : `(?:${paths.map((p) => p.replaceAll(/\W/g, "\\$&")).join("|")})`;
}

function nothingMatched(c: LoraConfig, modules: readonly ModuleInfo[], matchedBeforeFilters: boolean): never {
  const leaves = [...new Set(modules.filter((m) => m.kind !== "other").map((m) => m.path.slice(m.path.lastIndexOf(".") + 1)))];
  const asked = typeof c.targetModules === "string" ? [c.targetModules] : (c.targetModules ?? []);
  const near = [...new Set(asked.flatMap((a) => nearest(a.slice(a.lastIndexOf(".") + 1), leaves)))];
  const hint = asked.some((a) => a.toLowerCase() === "all-linear")
    ? typeof c.targetModules === "string" ? "no linear layer is left besides the output head: name the modules" : 'write "all-linear" as a text, not in a list'
    : matchedBeforeFilters
      ? "exclude_modules, layers_to_transform or layers_pattern leaves none of them"
      : typeof c.targetModules === "string"
        ? `the expression must match a whole path, such as ${modules.find((m) => isLinear(m))?.path ?? "(no linear layer)"}${near.length > 0 ? `; near names: ${near.join(", ")}` : ""}`
        : `near names: ${(near.length > 0 ? near : leaves.slice(0, 12)).join(", ")}`;
  throw new ConfigError(`target_modules = ${JSON.stringify(c.targetModules)} matches no module of the model`, { key: "target_modules", value: c.targetModules, fix: hint });
}

function target(c: LoraConfig, m: ModuleInfo, matchedBy: string, r: number, alpha: number, scale: number): Site {
  if (m.kind === "other") {
    throw new ConfigError(`target_modules matches ${m.path}, which cannot be adapted`, {
      key: "target_modules",
      value: matchedBy,
      fix: "narrow the names or the expression, or list it in exclude_modules",
    });
  }
  const found: Site = { path: m.path, kind: m.kind, r, alpha, scale, parameters: 0, matchedBy, inFeatures: m.inFeatures ?? 0, outFeatures: m.outFeatures ?? 0, ...(m.window === undefined ? {} : { window: m.window, groups: m.groups ?? 1 }) };
  return { ...found, parameters: Object.values(methodOf(c, m.kind).shapes(found, c)).reduce((n, shape) => n + sizeOf(shape), 0) };
}

/**
 * Applies target_modules, exclude_modules, layers_to_transform, layers_pattern, rank_pattern and alpha_pattern to a model's modules.
 * Throws ConfigError (with near names) when nothing matches, or when something matches that cannot be adapted; warns about
 * patterns that choose nothing and about scales that look multiplied twice. `origin`: for a new adapter, a name that matches nothing
 * and a copy that would part tied weights are errors; a file is read as PEFT reads it, with a warning.
 */
export function describeTargets(options: LoraOptions, modules: readonly ModuleInfo[], modelType: string | null = null, origin: Origin = "file"): TargetTable {
  const c = loraConfig(options);
  const { choose, written } = select(c, modules, modelType);
  const excluded = excluder(c.excludeModules);
  const ranks = overrides("rank_pattern", c.rankPattern);
  const alphas = overrides("alpha_pattern", c.alphaPattern);
  const targets: Site[] = [];
  const rankOf = (path: string): Pick<Site, "r" | "alpha" | "scale"> => {
    const r = ranks.of(path) ?? c.r, alpha = alphas.of(path) ?? c.loraAlpha;
    return { r, alpha, scale: scaleIn(c, alpha, r) };
  };
  const { beside, chosen, warnings: found } = besideTargets(c, modules, (path) => (excluded(path) ? null : choose(path)), rankOf, origin);
  const warnings = new Set<string>(found);
  for (const m of modules) {
    const matchedBy = chosen.get(m.path);
    if (matchedBy === undefined) continue;
    const { r, alpha, scale } = rankOf(m.path);
    targets.push(target(c, m, matchedBy, r, alpha, scale));
    const lint = lintScale(c.scaling, alpha, r);
    if (lint !== null) warnings.add(lint);
  }
  const held = new Set([...chosen.keys(), ...beside.filter((b) => b.what !== "bias").map((b) => b.site.path)]);
  const notAdapted = modules.filter((m) => isLinear(m) && !held.has(m.path)).map((m) => m.path);
  if (targets.length === 0 && !beside.some((b) => b.method.name === "parameter")) {
    const names = c.targetModules;
    nothingMatched(c, modules, modules.some((m) => (names === null || typeof names === "string" ? choose(m.path) !== null : names.some((n) => isSuffix(m.path, n)))));
  }
  if (c.fanInFanOut && !targets.some((t) => t.kind === "conv1d")) warnings.add("fan_in_fan_out: true changes nothing: how a weight is stored is read off its layer, and none of these is GPT-2's Conv1D");
  for (const [key, unused] of [["rank_pattern", ranks.unused()], ["alpha_pattern", alphas.unused()]] as const) {
    for (const source of unused) warnings.add(`${key}: ${JSON.stringify(source)} changes nothing: it matches no adapted module, or an earlier key matched first`);
  }
  for (const { key, value, problem, fix, isError } of unmatched(c, modules, chosen)) {
    if (origin === "new" && isError) throw new ConfigError(`${key}: ${problem}`, { key, value, fix });
    warnings.add(`${key}: ${problem} (${fix})`);
  }
  const parameters = [...targets, ...beside.map((b) => b.site)].reduce((sum, t) => sum + t.parameters, 0);
  return { targets: c.vera === null ? targets : withWidest(targets), beside, notAdapted, parameters, warnings: [...warnings], targetModules: c.vera !== null && leavesOut(c) ? exactly(targets.map((t) => t.path), modules) : written, modulesToSave: savedNames(c, modules, origin), toString: () => print(targets, beside, notAdapted) };
}

/** Something of a config that chooses nothing. */
interface Unmatched { readonly key: string; readonly value: unknown; readonly problem: string; readonly fix: string; readonly isError: boolean }

/** Names, layers and expressions that match nothing, though others do: a new adapter must not be smaller than it was meant to be. */
function unmatched(c: LoraConfig, modules: readonly ModuleInfo[], chosen: ReadonlyMap<string, string>): readonly Unmatched[] {
  const found: Unmatched[] = [], leaves = [...new Set(modules.filter((m) => m.kind !== "other").map((m) => m.path.slice(m.path.lastIndexOf(".") + 1)))];
  for (const [key, names] of [["target_modules", c.targetModules], ["exclude_modules", c.excludeModules]] as const) {
    for (const name of typeof names === "string" ? [] : (names ?? [])) {
      if (modules.some((m) => isSuffix(m.path, name))) continue;
      const near = nearest(name.slice(name.lastIndexOf(".") + 1), leaves);
      found.push({ key, value: name, problem: `${JSON.stringify(name)} matches no module of the model`, fix: near.length > 0 ? `did you mean ${near.join(" or ")}?` : "remove it", isError: key === "target_modules" });
    }
  }
  const excluded = excluder(c.excludeModules);
  if (typeof c.excludeModules === "string" && c.excludeModules !== "" && !modules.some((m) => excluded(m.path))) found.push({ key: "exclude_modules", value: c.excludeModules, problem: `${JSON.stringify(c.excludeModules)} matches no module of the model`, fix: "it must match a whole path", isError: false });
  const layers = wantedLayers(c), indexOf = layerOf(c), present = new Set([...chosen.keys()].map(indexOf));
  for (const layer of layers.filter((l) => !present.has(l))) found.push({ key: "layers_to_transform", value: layer, problem: `layer ${layer} holds no target`, fix: `layers with targets: ${[...present].filter((l) => l !== null).join(", ")}`, isError: true });
  return found;
}
