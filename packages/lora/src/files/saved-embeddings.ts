/** Whether the frozen input embedding and output head go into an adapter's file: decided without a network, with the reason in words. */
import { ConfigError, type Tensor } from "@adjoint/tensor";
import type { Attachment } from "../attachments.ts";
import { savedWeight } from "../extras/whole.ts";
import { adaptableModules, moduleInfos, parametersOf } from "../targets/modules.ts";
import { PREFIX } from "./peft-keys.ts";
import type { ModuleInfo } from "../targets/targets.ts";

/** "auto": only where the base on the disk cannot have them. */
export type SaveEmbeddings = "auto" | boolean;

/** What is saved, and why. */
export interface EmbeddingsDecision {
  /** frozen parameters by their name in the file */
  readonly parameters: ReadonlyMap<string, Tensor>;
  readonly reason: string;
  /** an embedding or the head is adapted, resized or comes from elsewhere: the reason is worth a line */
  readonly notable: boolean;
}

/** The vocabulary of the model's config: what its base has on the disk. */
function vocabularyOf(model: object): number | null {
  const config: unknown = "config" in model ? model.config : null;
  if (typeof config !== "object" || config === null) return null;
  const size: unknown = "vocabSize" in config ? config.vocabSize : "vocab_size" in config ? config.vocab_size : null;
  return typeof size === "number" ? size : null;
}

const rows = (m: ModuleInfo): number => m.parameters?.weight?.[0] ?? 0;

/**
 * Decides from the model alone. "auto" saves the two when their rows are not the vocabulary of the config, since then the base's files have others, and
 * when they came with the adapter's own files; PEFT's "auto" also saves them when they are adapted, which a frozen base does not need. True does what
 * PEFT does with save_embedding_layers=True: those that are adapted, or both where none is. Those that train whole are in the file anyway.
 */
export function savedEmbeddings(option: SaveEmbeddings, model: object, attachments: readonly Attachment[]): EmbeddingsDecision {
  const infos = moduleInfos(model), modules = adaptableModules(model), vocabulary = vocabularyOf(model);
  const ends = [infos.find((m) => m.kind === "embedding"), infos.find((m) => m.isOutputHead === true)].filter((m): m is ModuleInfo => m !== undefined);
  const has = (m: ModuleInfo, test: (a: Attachment) => boolean): boolean => attachments.some((a) => a.site.path === m.path && test(a));
  const isAdapted = (m: ModuleInfo): boolean => has(m, (a) => a.site.r > 0);
  const resized = ends.filter((m) => vocabulary !== null && rows(m) !== vocabulary), stand = ends.filter((m) => has(m, (a) => a.method === savedWeight)), adapted = ends.filter(isAdapted);
  const notable = resized.length + stand.length + adapted.length > 0, count = resized.length > 0 ? `${resized[0].path} has ${rows(resized[0])} rows, and the base's config says ${vocabulary}` : "";
  const none = (why: string): EmbeddingsDecision => ({ parameters: new Map(), reason: `embeddings are not saved: ${why}`, notable });
  if (option === false) return none(`saveEmbeddings is false${count === "" ? "" : `, though ${count}`}`);
  if (option === "auto" && resized.length + stand.length === 0) return none(vocabulary === null ? "the model has no config that says otherwise" : `their ${vocabulary} rows are the base's`);
  if (ends.length === 0) throw new ConfigError("saveEmbeddings: the model has no embedding and no output head", { key: "saveEmbeddings", value: option, fix: "use false" });
  const wanted = option === "auto" && resized.length === 0 ? stand : adapted.length > 0 ? adapted : ends, chosen = wanted.filter((m) => !has(m, (a) => a.method.name === "full" || a.method.name === "full-tied"));
  const parameters = new Map<string, Tensor>();
  for (const m of chosen) {
    const module = modules.get(m.path), brought = attachments.find((a) => a.site.path === m.path && a.method === savedWeight)?.beside;
    for (const [name, t] of Object.entries({ ...(module === undefined ? {} : parametersOf(module)), ...brought })) parameters.set(`${PREFIX}${m.path}.${isAdapted(m) ? "base_layer." : ""}${name}`, t);
  }
  const why = option === true ? "saveEmbeddings is true" : count === "" ? "the files that this adapter came from have others than the base" : count;
  return { parameters, reason: parameters.size === 0 ? "embeddings are saved whole already (modules_to_save)" : `embeddings are saved along (${chosen.map((m) => m.path).join(", ")}): ${why}`, notable };
}
