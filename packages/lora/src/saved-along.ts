/** What a file holds besides what trains: frozen parameters of the base, which must be the model's own, and copies in tied layers, which must be equal. */
import { Embedding } from "@adjoint/nn";
import { ConfigError, convertArray, FormatError, type HostArray, isHalf, type Numbers, roundTo, type Tensor } from "@adjoint/tensor";
import { type Attachment, tensorsOf } from "./attachments.ts";
import type { Site } from "./adapter.ts";
import type { LoraConfig } from "./config.ts";
import { savedWeight } from "./extras/whole.ts";
import { adaptableModules, moduleInfos, parametersOf } from "./modules.ts";
import { PREFIX } from "./peft-keys.ts";
import type { ModuleInfo } from "./targets.ts";

/** Equal, or equal once rounded to the file's half precision. */
function sameNumbers({ data, dtype }: HostArray, own: Numbers): boolean {
  const theirs = convertArray(data, dtype, "f32");
  return own.length === theirs.length && theirs.every((v, i) => v === own[i] || (isHalf(dtype) && v === roundTo(dtype, own[i])));
}

/**
 * Compares what was saved along with what it is a copy of.
 * @throws FormatError for a parameter of another base, and for a tied layer whose copy differs
 */
export async function checkCopies({ base, echoes, file }: { readonly base: ReadonlyMap<string, HostArray>; readonly echoes: ReadonlyMap<string, HostArray>; readonly file: string }, attachments: readonly Attachment[], modules: ReadonlyMap<string, object>): Promise<void> {
  for (const [name, saved] of base) {
    const at = name.lastIndexOf("."), module = modules.get(name.slice(0, at)), own = module === undefined ? undefined : parametersOf(module)[name.slice(at + 1)];
    if (own === undefined || !sameNumbers(saved, await own.data())) {
      throw new FormatError(`${file}: the saved ${name.slice(at + 1)} of ${name.slice(0, at)} differs from the model's`, {
        file,
        key: name,
        value: saved.shape,
        fix: "load the adapter onto the base model that it was saved with (its embeddings were trained or resized)",
      });
    }
  }
  for (const a of attachments) {
    for (const [key, value] of Object.entries(a.method.echoes?.(a.site) ?? {})) {
      const saved = echoes.get(key);
      if (saved !== undefined && !sameNumbers(saved, await value(tensorsOf(a), parametersOf(a.module)).data())) {
        throw new FormatError(`${file}: ${key} is not equal to what it is a copy of`, { file, key, value: saved.shape, fix: "the layers were not tied when this was saved: set ensure_weight_tying to false in adapter_config.json, or load the base that it was saved with" });
      }
    }
  }
}

/**
 * Saved weights of the base that are not the model's, as frozen weights that stand in their place.
 * @throws ConfigError for other sizes, and beside DoRA, which follows from the model's own weight
 */
export async function differingBase(base: ReadonlyMap<string, HostArray>, modules: ReadonlyMap<string, object>, config: LoraConfig): Promise<readonly { readonly chosen: Pick<Attachment, "site" | "module" | "method">; readonly weight: HostArray }[]> {
  const out: { readonly chosen: Pick<Attachment, "site" | "module" | "method">; readonly weight: HostArray }[] = [];
  for (const [name, saved] of base) {
    const path = name.slice(0, name.lastIndexOf(".")), module = modules.get(path), own = module === undefined ? undefined : parametersOf(module).weight;
    if (module === undefined || own === undefined || !name.endsWith(".weight") || sameNumbers(saved, await own.data())) continue;
    const refuse = (problem: string, fix: string): never => { throw new ConfigError(`the saved weight of ${path} ${problem}`, { key: "savedEmbeddings", value: "use", fix }); };
    if (saved.shape.join() !== own.shape.join()) refuse(`is [${saved.shape.join(", ")}], the model's [${own.shape.join(", ")}]`, "load a base whose vocabulary was resized as that one's was");
    if (config.useDora) refuse("cannot stand in place of the model's beside DoRA", "load the base that the adapter was saved with");
    const site: Site = { path, kind: module instanceof Embedding ? "embedding" : "linear", r: 0, alpha: 0, scale: 1, parameters: 0, matchedBy: name, inFeatures: 0, outFeatures: 0 };
    out.push({ chosen: { site, module, method: savedWeight }, weight: { dtype: "f32", shape: saved.shape, data: convertArray(saved.data, saved.dtype, "f32") } });
  }
  return out;
}

const f32 = async (t: Tensor): Promise<HostArray> => { const { dtype, shape, data } = await t.host(); return { dtype: "f32", shape, data: dtype === "f32" ? data.slice() : convertArray(data, dtype, "f32") }; };

/** Copies as PEFT writes them beside what trains, by name. */
export async function echoesOf(attachments: readonly Attachment[]): Promise<ReadonlyMap<string, HostArray>> {
  const out = new Map<string, HostArray>();
  for (const a of attachments) for (const [key, value] of Object.entries(a.method.echoes?.(a.site) ?? {})) out.set(key, await f32(value(tensorsOf(a), parametersOf(a.module))));
  return out;
}

/** Whether frozen embeddings go into the file, and why. */
export interface EmbeddingsDecision {
  /** layers and their parameters, by name in the file */
  readonly tensors: ReadonlyMap<string, HostArray>;
  readonly reason: string;
}

/** "auto": only where the base on the disk cannot have them. */
export type SaveEmbeddings = "auto" | boolean;

/** The vocabulary of the model's config: what its base has on the disk. */
function vocabularyOf(model: unknown): number | null {
  const config: unknown = typeof model === "object" && model !== null && "config" in model ? model.config : null;
  if (typeof config !== "object" || config === null) return null;
  const size: unknown = "vocabSize" in config ? config.vocabSize : "vocab_size" in config ? config.vocab_size : null;
  return typeof size === "number" ? size : null;
}

/**
 * Decides from the model alone whether the frozen input embedding and output head are saved along. "auto" saves them when their rows are not the
 * vocabulary of the config, since then the base's files have others; PEFT's "auto" also saves them when they are adapted, which a frozen base does not need.
 * True does what PEFT does with save_embedding_layers=True: those that are adapted, or both where none is.
 */
export async function savedEmbeddings(option: SaveEmbeddings, model: unknown, attachments: readonly Attachment[]): Promise<EmbeddingsDecision> {
  const tree = typeof model === "object" && model !== null ? model : {}, infos = moduleInfos(tree), modules = adaptableModules(tree);
  const ends = [infos.find((m) => m.kind === "embedding"), infos.find((m) => m.isOutputHead === true)].filter((m): m is ModuleInfo => m !== undefined);
  const rows = (m: ModuleInfo): number | undefined => m.parameters?.weight?.[0], vocabulary = vocabularyOf(model), none = new Map<string, HostArray>();
  const byPath = (path: string): readonly Attachment[] => attachments.filter((a) => a.site.path === path);
  const resized = ends.filter((m) => vocabulary !== null && rows(m) !== vocabulary), stand = ends.filter((m) => byPath(m.path).some((a) => a.method === savedWeight));
  if (option === false) return { tensors: none, reason: `embeddings are not saved: saveEmbeddings is false${resized.length > 0 ? `, though ${resized[0].path} has ${rows(resized[0])} rows and the config says ${vocabulary}` : ""}` };
  if (option === "auto" && resized.length + stand.length === 0) return { tensors: none, reason: `embeddings are not saved: ${vocabulary === null ? "the model has no config that says otherwise" : `their ${vocabulary} rows are the base's`}` };
  const isWhole = (path: string): boolean => byPath(path).some((a) => a.method.name === "full" || a.method.name === "full-tied");
  const adapted = ends.filter((m) => byPath(m.path).some((a) => a.site.r > 0)), needed = option === "auto" && resized.length === 0 ? stand : adapted.length > 0 ? adapted : ends, chosen = needed.filter((m) => !isWhole(m.path));
  if (option === true && ends.length === 0) throw new ConfigError("saveEmbeddings: the model has no embedding and no output head", { key: "saveEmbeddings", value: option, fix: "use false" });
  const out = new Map<string, HostArray>();
  for (const m of chosen) {
    const module = modules.get(m.path) ?? infos.flatMap((o) => (o.path === m.tiedTo ? [modules.get(o.path)] : []))[0];
    if (module === undefined) continue;
    const infix = byPath(m.path).some((a) => a.site.r > 0) ? "base_layer." : "", stands = byPath(m.path).find((a) => a.method === savedWeight)?.beside;
    for (const [name, t] of Object.entries({ ...parametersOf(module), ...stands })) out.set(`${PREFIX}${m.path}.${infix}${name}`, await f32(t));
  }
  const why = option === true ? "saveEmbeddings is true" : resized.length === 0 ? "the files that this adapter came from have others than the base" : `${resized[0].path} has ${rows(resized[0])} rows, and the base's config says ${vocabulary}`;
  return { tensors: out, reason: out.size === 0 ? "embeddings are saved whole already (modules_to_save)" : `embeddings are saved along (${chosen.map((m) => m.path).join(", ")}): ${why}` };
}
