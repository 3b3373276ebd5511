/** What trains beside the targets (biases, whole modules, token rows, raw parameters), chosen by PEFT's rules, and what tied weights ask for. */
import { ConfigError, type Shape, sizeOf } from "@adjoint/tensor";
import type { AdapterMethod, Site } from "../adapter.ts";
import type { LoraConfig } from "../config/config.ts";
import type { ModuleInfo } from "../targets/targets.ts";
import { trainedBias } from "./bias.ts";
import { lowRankParameter } from "./parameters.ts";
import { tiedLowRank } from "./tied.ts";
import { tiedRows, trainedRows } from "./tokens.ts";
import { tiedCopy, wholeCopy } from "./whole.ts";

/** One layer with something beside the low-rank targets. */
export interface Beside {
  readonly site: Site;
  readonly method: AdapterMethod;
  /** in words, for the table */
  readonly what: string;
  /** the layer and method whose tensors it uses */
  readonly shares?: { readonly path: string; readonly method: string };
}

/** What stands beside the targets, and which paths they must leave alone. */
export interface BesideTargets {
  readonly beside: readonly Beside[];
  /** layers inside modules_to_save, and heads that follow their embedding */
  readonly taken: ReadonlySet<string>;
  /** embeddings that are adapted because a layer that shares their weight is */
  readonly warnings: readonly string[];
}

/** How strict selection is: a new adapter must mean what it says, a file is read as PEFT reads it. */
export type Origin = "new" | "file";

const ends = (path: string, name: string): boolean => path === name || path.endsWith(`.${name}`);
const refuse = (key: string, value: unknown, problem: string, fix: string): never => {
  throw new ConfigError(`${key}: ${problem}`, { key, value, fix });
};

/** A site of a layer without rank. */
const plainSite = (m: ModuleInfo, matchedBy: string): Site => ({ path: m.path, kind: m.kind, r: 0, alpha: 0, scale: 1, parameters: 0, matchedBy, inFeatures: m.inFeatures ?? 0, outFeatures: m.outFeatures ?? 0 });
/** With the number of parameters that its method trains. */
export const counted = (site: Site, method: AdapterMethod, c: LoraConfig): Site => ({ ...site, parameters: Object.values(method.shapes(site, c)).reduce((n, shape) => n + sizeOf(shape), 0) });

/** PEFT's rule for modules_to_save: the text of the path ends in the name, at a dot or within a word ("norm" is input_layernorm too). */
const endsAsText = (m: ModuleInfo, name: string): boolean => m.kind !== "lstm" && m.path.endsWith(name);
/** Modules that a name in modules_to_save means: a new adapter goes by whole words, a file by PEFT's rule. */
const namedBy = (name: string, modules: readonly ModuleInfo[], origin: Origin): readonly ModuleInfo[] => modules.filter((m) => (origin === "file" ? endsAsText(m, name) : ends(m.path, name)));

/**
 * modules_to_save for the file: names that choose by PEFT's rule what these choose here, an ambiguous one lengthened from the left ("model.norm").
 * @throws ConfigError where no ending of a path is its own
 */
export function savedNames(c: LoraConfig, modules: readonly ModuleInfo[], origin: Origin): readonly string[] | null {
  if (c.modulesToSave === null || origin === "file") return c.modulesToSave;
  const wanted = new Set(c.modulesToSave.flatMap((name) => namedBy(name, modules, origin))), stray = (name: string): ModuleInfo | undefined => modules.find((m) => endsAsText(m, name) && !wanted.has(m));
  const longer = ({ path }: ModuleInfo, name: string): string => {
    const parts = path.split("."), fits = parts.map((_, i) => parts.slice(parts.length - 1 - i).join(".")).find((end) => stray(end) === undefined);
    return fits ?? refuse("modules_to_save", name, `files name modules by the end of the text of their path, and ${stray(path)?.path ?? ""} ends in ${path} too`, `name both: ${JSON.stringify([path, stray(path)?.path])}`);
  };
  return [...new Set(c.modulesToSave.flatMap((name) => (stray(name) === undefined ? [name] : namedBy(name, modules, origin).map((m) => longer(m, name)))))];
}

/** Layers by the names in a list of modules: those named, and those inside them. */
function savedLayers(c: LoraConfig, modules: readonly ModuleInfo[], origin: Origin, warnings: string[]): ReadonlyMap<ModuleInfo, string> {
  const found = new Map<ModuleInfo, string>(), described = modules.some((m) => m.parameters !== undefined); // a list of paths alone says less
  for (const name of c.modulesToSave ?? []) {
    const named = namedBy(name, modules, origin);
    if (named.length === 0) {
      const near = modules.filter((m) => endsAsText(m, name)).map((m) => m.path);
      const problem = `${JSON.stringify(name)} is no module of the model`;
      if (origin === "new") refuse("modules_to_save", name, problem, near.length > 0 ? `PEFT would take ${near[0]}, which only ends like it; write ${JSON.stringify(near[0].slice(near[0].lastIndexOf(".") + 1))}` : "name a module, such as lm_head");
      warnings.push(`modules_to_save: ${problem}`);
    }
    const longer = modules.filter((m) => endsAsText(m, name) && !named.includes(m)).map((m) => m.path);
    if (named.length > 0 && longer.length > 0) warnings.push(`modules_to_save: ${JSON.stringify(name)} means ${named[0].path}${named.length > 1 ? ` and ${named.length - 1} more` : ""}; PEFT would take ${longer[0]} too, which only ends like it`);
    for (const top of named) {
      const inside = modules.filter((m) => m.path === top.path || m.path.startsWith(`${top.path}.`));
      const layers = described ? inside.filter((m) => m.parameters !== undefined) : inside;
      if (layers.length === 0) refuse("modules_to_save", name, `${top.path} holds no layer that can be copied`, "name layers, such as lm_head or a norm");
      for (const layer of layers) {
        if (modules.some((m) => m.kind === "lstm" && m.path.startsWith(`${layer.path}.`))) refuse("modules_to_save", name, `${layer.path} is an LSTM, which cannot be copied whole`, "adapt it by target_modules");
        if (!found.has(layer)) found.set(layer, name);
      }
    }
  }
  return found;
}

/** Layers that share one weight: the first of them, and those that follow it. */
interface Group { readonly leader: ModuleInfo; readonly others: readonly ModuleInfo[]; readonly names: string }
type Groups = ReadonlyMap<ModuleInfo, Group>;

/** The group of every layer that shares its weight. */
function groupsOf(modules: readonly ModuleInfo[]): Groups {
  const byPath = new Map(modules.map((m) => [m.path, m])), followers = new Map<ModuleInfo, ModuleInfo[]>(), groups = new Map<ModuleInfo, Group>();
  for (const m of modules) {
    const leader = m.tiedTo === undefined ? undefined : byPath.get(m.tiedTo);
    if (leader !== undefined) followers.set(leader, [...(followers.get(leader) ?? []), m]);
  }
  for (const [leader, others] of followers) {
    const group: Group = { leader, others, names: [leader, ...others].map((m) => m.path).join(" and ") };
    for (const m of [leader, ...others]) groups.set(m, group);
  }
  return groups;
}

/** `modules_to_save`, with the copies of tied weights tied where that is asked for. */
function wholeModules(c: LoraConfig, modules: readonly ModuleInfo[], groups: Groups, origin: Origin, warnings: string[]): readonly Beside[] {
  const saved = new Map(savedLayers(c, modules, origin, warnings)), out: Beside[] = [];
  const followers = new Map<ModuleInfo, ModuleInfo>();
  for (const [m, name] of [...saved]) {
    const group = groups.get(m);
    if (group === undefined) continue;
    const { leader, others, names } = group;
    if (c.ensureWeightTying) {
      if (!saved.has(leader)) saved.set(leader, name);
      for (const other of others) { saved.delete(other); followers.set(other, leader); }
    } else if (origin === "new") refuse("modules_to_save", name, `${names} share one weight, and a copy of one of them would part them`, "set ensureWeightTying: true to train one copy for both, or untie the base first");
    else warnings.push(`modules_to_save: ${names} share one weight in the base; with this adapter they do not`);
  }
  for (const [m, name] of saved) {
    const method = wholeCopy(m.parameters ?? {}, c.bias === "all");
    out.push({ site: counted(plainSite(m, name), method, c), method, what: "in full" });
  }
  for (const [m, leader] of followers) out.push({ site: plainSite(m, saved.get(leader) ?? ""), method: tiedCopy, what: `as ${leader.path}`, shares: { path: leader.path, method: "full" } });
  return out;
}

/** `trainable_token_indices`: rows of embeddings, and of heads by name or because they share the embedding's weight. */
function tokenRows(c: LoraConfig, modules: readonly ModuleInfo[], groups: Groups, warnings: string[]): readonly Beside[] {
  const wanted = c.trainableTokenIndices, key = "trainable_token_indices";
  if (wanted === null) return [];
  const isList = (v: unknown): v is readonly number[] => Array.isArray(v);
  const asked = new Map<ModuleInfo, { readonly ids: readonly number[]; readonly name: string }>();
  if (isList(wanted)) {
    if (wanted.length === 0) return [];
    const embedding = modules.find((m) => m.kind === "embedding") ?? refuse(key, wanted, "the model has no embedding", "remove it");
    asked.set(embedding, { ids: wanted, name: key });
  } else {
    for (const [name, ids] of Object.entries(wanted)) {
      const named = modules.filter((m) => ends(m.path, name) && (m.kind === "embedding" || m.kind === "linear"));
      if (named.length === 0) refuse(key, name, `${JSON.stringify(name)} is no embedding and no linear layer of the model`, "name an embedding, such as embed_tokens");
      for (const m of named) asked.set(m, { ids, name });
    }
  }
  const out: Beside[] = [], followers = new Map<ModuleInfo, ModuleInfo>();
  for (const [m, { ids, name }] of [...asked]) {
    const shape = m.parameters?.weight ?? refuse(key, name, `${m.path} has no weight`, "name an embedding");
    const outside = ids.find((id) => id >= shape[0]);
    if (outside !== undefined) refuse(key, outside, `${m.path} has ${shape[0]} rows, and no row ${outside}`, "name ids below that");
    const group = groups.get(m);
    if (group === undefined) continue;
    const { leader, others, names } = group, lists = [leader, ...others].flatMap((g) => { const found = asked.get(g); return found === undefined ? [] : [found.ids]; });
    const same = lists.every((l) => l.length === lists[0].length && l.every((id, i) => id === lists[0][i]));
    if (!same && c.ensureWeightTying) refuse(key, wanted, `${names} share one weight, and other rows are named for each`, "name the same rows, or set ensureWeightTying: false");
    if (!same || !asked.has(leader)) warnings.push(`${key}: ${names} share one weight in the base; with this adapter they do not`);
    else for (const other of others) { asked.delete(other); followers.set(other, leader); }
  }
  for (const [m, { ids, name }] of asked) {
    if (ids.length === 0 || m.parameters?.weight === undefined) continue;
    const method = trainedRows(ids, m.parameters.weight);
    out.push({ site: counted(plainSite(m, name), method, c), method, what: `${ids.length} rows` });
  }
  for (const [m, leader] of followers) out.push({ site: plainSite(m, key), method: tiedRows, what: `as ${leader.path}`, shares: { path: leader.path, method: "tokens" } });
  return out;
}

/** r, alpha and scale of a path. */
export type RankOf = (path: string) => Pick<Site, "r" | "alpha" | "scale">;

/** `target_parameters`: matrices by the end of their path. */
function rawParameters(c: LoraConfig, modules: readonly ModuleInfo[], rankOf: RankOf): readonly Beside[] {
  const key = "target_parameters", out: Beside[] = [];
  for (const name of c.targetParameters ?? []) {
    const found = modules.flatMap((m) => Object.entries(m.parameters ?? {}).filter(([p]) => ends(`${m.path}.${p}`, name)).map(([p, shape]) => ({ m, p, shape })));
    if (found.length === 0) refuse(key, name, `${JSON.stringify(name)} is no parameter of the model`, "name one by the end of its path, such as q_proj.weight");
    for (const { m, p, shape } of found) {
      if (shape.length !== 2 || p !== "weight" || m.kind === "conv" || m.kind === "lstm" || m.kind === "other") refuse(key, name, `${m.path}.${p} of shape [${shape.join(", ")}] cannot be adapted as a parameter`, "name matrices of linear layers and embeddings; stacks of experts are not implemented");
      if (out.some((o) => o.site.path === m.path)) continue;
      const site: Site = { ...plainSite(m, name), ...rankOf(`${m.path}.${p}`), inFeatures: shape[1], outFeatures: shape[0] };
      out.push({ site: counted(site, lowRankParameter, c), method: lowRankParameter, what: `parameter, r ${site.r}, alpha ${site.alpha}, scale ${Number(site.scale.toPrecision(6))}` });
    }
  }
  return out;
}

/** `bias`: copies of biases, of the adapted layers or of all that have one and are not saved whole. */
function biases(c: LoraConfig, modules: readonly ModuleInfo[], adapted: ReadonlySet<string>, taken: ReadonlySet<string>): readonly Beside[] {
  if (c.bias === "none") return [];
  return modules.flatMap((m): readonly Beside[] => {
    const shape: Shape | undefined = m.parameters?.bias;
    if (shape === undefined || taken.has(m.path) || (c.bias === "lora_only" && !adapted.has(m.path))) return [];
    const method = trainedBias(shape[0], adapted.has(m.path));
    return [{ site: counted(plainSite(m, `bias = ${c.bias}`), method, c), method, what: "bias" }];
  });
}

/** Everything beside the targets. `choose`: the entry of target_modules that a path matches, null for none. */
export function besideTargets(c: LoraConfig, modules: readonly ModuleInfo[], choose: (path: string) => string | null, rankOf: RankOf, origin: Origin): BesideTargets & { readonly chosen: ReadonlyMap<string, string> } {
  const warnings: string[] = [], groups = groupsOf(modules), whole = wholeModules(c, modules, groups, origin, warnings), taken = new Set(whole.map((b) => b.site.path));
  const chosen = new Map<string, string>();
  for (const m of modules) {
    const by = taken.has(m.path) ? null : choose(m.path);
    if (by !== null) chosen.set(m.path, by);
  }
  const tied: Beside[] = [];
  for (const m of groups.keys()) {
    const group = groups.get(m), by = chosen.get(m.path);
    if (group === undefined || by === undefined) continue;
    const { leader, others, names } = group;
    if (!c.ensureWeightTying) {
      warnings.push(`${names} share one weight, and the adapter of ${m.path} is for ${m.path} alone: merging would need them apart (ensure_weight_tying: true adapts both as one)`);
      continue;
    }
    if (c.useDora) refuse("ensure_weight_tying", true, `DoRA on ${names}, which share one weight, is not implemented`, "use LoRA there, or set ensureWeightTying: false");
    chosen.set(leader.path, chosen.get(leader.path) ?? by);
    for (const other of others) {
      chosen.delete(other.path);
      if (tied.some((b) => b.site.path === other.path)) continue;
      const site = { ...plainSite(other, by), ...rankOf(other.path) };
      if (site.r !== rankOf(leader.path).r) refuse("rank_pattern", site.r, `${names} share one weight and one adapter, but not one rank`, "give both the same rank");
      tied.push({ site, method: tiedLowRank, what: `as ${leader.path}`, shares: { path: leader.path, method: "lora" } });
    }
  }
  const tokens = tokenRows(c, modules, groups, warnings), raw = rawParameters(c, modules, rankOf);
  const layers = new Map<string, string>([...[...chosen.keys()].map((p) => [p, "target_modules"] as const), ...whole.map((b) => [b.site.path, "modules_to_save"] as const)]);
  for (const [key, list] of [["trainable_token_indices", tokens], ["target_parameters", raw]] as const) {
    for (const { site } of list) {
      const other = layers.get(site.path) ?? tied.find((b) => b.site.path === site.path)?.what;
      if (other !== undefined) refuse(key, site.matchedBy, `${site.path} is also in ${other}`, "name it in one of the two (target_modules: [] adapts no module)");
      layers.set(site.path, key);
    }
  }
  const all = [...whole, ...tied, ...tokens, ...raw];
  if (c.ensureWeightTying && !all.some((b) => b.shares !== undefined)) warnings.push("ensure_weight_tying changes nothing: no two layers that share a weight are adapted, saved or have trainable tokens");
  const adapted = new Set([...chosen.keys(), ...tied.map((b) => b.site.path), ...raw.map((b) => b.site.path)]);
  if (c.bias !== "none") warnings.push(`bias = ${JSON.stringify(c.bias)}: the base keeps its biases; merging puts the trained ones in their place, and a second adapter that is merged with biases of its own replaces them`);
  return { beside: [...all, ...biases(c, modules, adapted, taken)], taken, warnings, chosen };
}
