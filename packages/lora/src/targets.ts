/** Which modules of a model an adapter touches, with rank, alpha and scale (PEFT's rules), as a table to look at before training. */
import { ConfigError, type Shape, sizeOf } from "@adjoint/tensor";
import type { Site } from "./adapter.ts";
import { type LoraConfig, loraConfig, type LoraOptions } from "./config.ts";
import { type Beside, besideTargets, describeBeside, type Origin } from "./extras/select.ts";
import { methodOf } from "./methods.ts";
import { scaleIn } from "./kinds.ts";
import { nearest } from "./nearest.ts";
import { compilePattern, type Pattern } from "./pattern.ts";
import { lintScale } from "./scaling.ts";
import { withWidest } from "./vera.ts";

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

/** The part of the config that filters by layer; null without one. */
function layerFilter(c: LoraConfig): ((path: string) => boolean) | null {
  const wanted = typeof c.layersToTransform === "number" ? [c.layersToTransform] : (c.layersToTransform ?? []);
  if (wanted.length === 0) return null;
  const names = typeof c.layersPattern === "string" ? [c.layersPattern] : (c.layersPattern ?? []);
  const patterns = names.filter((n) => n !== "").map((n) => compilePattern(`(?:^|.*?\\.)(?:${n})\\.(?P<idx>\\d+)\\.`, { key: "layers_pattern" }));
  return (path) => {
    const index = layerIndex(path, patterns);
    return index !== null && wanted.includes(index);
  };
}

function byNames(names: readonly string[], inLayer: ((path: string) => boolean) | null): Chooser {
  const exact = new Set(names);
  return (path) => {
    if (exact.has(path)) return path; // a full path is meant as it is, whatever the layers
    const found = names.find((n) => path.endsWith(`.${n}`));
    return found !== undefined && (inLayer === null || inLayer(path)) ? found : null;
  };
}

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

function nothingMatched(c: LoraConfig, modules: readonly ModuleInfo[], matchedBeforeFilters: boolean): never {
  const leaves = [...new Set(modules.filter((m) => m.kind !== "other").map((m) => m.path.slice(m.path.lastIndexOf(".") + 1)))];
  const asked = typeof c.targetModules === "string" ? [c.targetModules] : (c.targetModules ?? []);
  const near = [...new Set(asked.flatMap((a) => nearest(a.slice(a.lastIndexOf(".") + 1), leaves)))];
  const hint = asked.some((a) => a.toLowerCase() === "all-linear")
    ? 'write "all-linear" as a text, not in a list'
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
  for (const [key, unused] of [["rank_pattern", ranks.unused()], ["alpha_pattern", alphas.unused()]] as const) {
    for (const source of unused) warnings.add(`${key}: ${JSON.stringify(source)} changes nothing: it matches no adapted module, or an earlier key matched first`);
  }
  for (const [key, names, matches] of unmatchedLists(c, modules)) {
    for (const name of names.filter((n) => !modules.some((m) => matches(m.path, n)))) {
      const near = nearest(name.slice(name.lastIndexOf(".") + 1), [...new Set(modules.filter((m) => m.kind !== "other").map((m) => m.path.slice(m.path.lastIndexOf(".") + 1)))]);
      const fix = near.length > 0 ? `did you mean ${near.join(" or ")}?` : "remove it";
      if (origin === "new" && key === "target_modules") throw new ConfigError(`${key}: ${JSON.stringify(name)} matches no module of the model`, { key, value: name, fix });
      warnings.add(`${key}: ${JSON.stringify(name)} matches no module of the model (${fix})`);
    }
  }
  const parameters = [...targets, ...beside.map((b) => b.site)].reduce((sum, t) => sum + t.parameters, 0);
  return { targets: c.vera === null ? targets : withWidest(targets), beside, notAdapted, parameters, warnings: [...warnings], targetModules: written, toString: () => print(targets, beside, notAdapted) };
}

/** Lists of names, each of which should match something. */
const unmatchedLists = (c: LoraConfig, modules: readonly ModuleInfo[]): readonly (readonly [string, readonly string[], (path: string, name: string) => boolean])[] => [
  ["target_modules", modules.length > 0 && Array.isArray(c.targetModules) ? c.targetModules : [], isSuffix],
  ["exclude_modules", Array.isArray(c.excludeModules) ? c.excludeModules : [], isSuffix],
];

/** Paths that differ only in numbers are one row: model.layers.{0-5}.mlp.up_proj. */
function print(targets: readonly Target[], beside: readonly Beside[], notAdapted: readonly string[]): string {
  const rows = new Map<string, { first: Target; paths: string[]; parameters: number }>();
  for (const t of targets) {
    const key = [t.path.replaceAll(/\.\d+(?=\.)/g, ".#"), t.r, t.alpha, t.scale, t.parameters, t.matchedBy].join("|");
    const row = rows.get(key) ?? { first: t, paths: [], parameters: 0 };
    row.paths.push(t.path);
    row.parameters += t.parameters;
    rows.set(key, row);
  }
  const number = (x: number): string => String(Number(x.toPrecision(6)));
  const table = [["module", "count", "r", "alpha", "scale", "parameters", "matched by"]];
  for (const { first, paths, parameters: n } of rows.values()) {
    table.push([condense(paths), String(paths.length), String(first.r), number(first.alpha), number(first.scale), n.toLocaleString("en-US"), first.matchedBy]);
  }
  const widths = table[0].map((_, i) => Math.max(...table.map((row) => row[i].length)));
  const lines = table.map((row) => row.map((cell, i) => (i === 0 || i === 6 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join("  ").trimEnd());
  const sum = (sites: readonly Target[]): string => sites.reduce((n, t) => n + t.parameters, 0).toLocaleString("en-US");
  lines.push(`${targets.length} modules, ${sum(targets)} parameters`);
  if (beside.length > 0) lines.push(`beside them, ${sum(beside.map((b) => b.site))} parameters:`, ...describeBeside(beside, condense, groups).map((line) => `  ${line}`));
  if (notAdapted.length > 0) lines.push(`linear layers not adapted: ${[...groups(notAdapted).values()].map(condense).join(", ")}`);
  return lines.join("\n");
}

function groups(paths: readonly string[]): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const p of paths) {
    const key = p.replaceAll(/\.\d+(?=\.)/g, ".#");
    found.set(key, [...(found.get(key) ?? []), p]);
  }
  return found;
}

/** model.layers.0.q, model.layers.1.q -> model.layers.{0-1}.q; a single path stays. */
function condense(paths: readonly string[]): string {
  if (paths.length === 1) return paths[0];
  return paths[0]
    .split(".")
    .map((part, i) => {
      const values = [...new Set(paths.map((p) => p.split(".")[i]))];
      return values.length === 1 ? part : `{${spans(values.map(Number))}}`;
    })
    .join(".");
}

function spans(numbers: readonly number[]): string {
  const order = [...numbers].sort((a, b) => a - b);
  const out: [number, number][] = [];
  for (const n of order) {
    const last = out.at(-1);
    if (last !== undefined && n === last[1] + 1) last[1] = n;
    else out.push([n, n]);
  }
  return out.map(([a, b]) => (a === b ? `${a}` : `${a}-${b}`)).join(",");
}
