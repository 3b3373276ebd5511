/** What a file holds besides what trains: frozen parameters of the base, which must be the model's own, and copies in tied layers, which must be equal. */
import { Embedding } from "@adjoint/nn";
import { ConfigError, convertArray, FormatError, type HostArray, isHalf, type Numbers, roundTo, type Tensor } from "@adjoint/tensor";
import { type Attachment, tensorsOf } from "../attachments.ts";
import type { Site } from "../adapter.ts";
import type { LoraConfig } from "../config/config.ts";
import { savedWeight } from "../extras/whole.ts";
import { ownParameter, ownParameters } from "../own-weights.ts";
import { parametersOf } from "../targets/modules.ts";

/** Equal, or equal once rounded to the file's half precision. */
function sameNumbers({ data, dtype }: HostArray, own: Numbers): boolean {
  const theirs = convertArray(data, dtype, "f32");
  return own.length === theirs.length && theirs.every((v, i) => v === own[i] || (isHalf(dtype) && v === roundTo(dtype, own[i])));
}

/**
 * Compares what was saved along with what it is a copy of, in the base without what is merged into it now.
 * @throws FormatError for a parameter of another base, and for a tied layer whose copy differs
 */
export async function checkCopies(model: object, { base, echoes, file }: { readonly base: ReadonlyMap<string, HostArray>; readonly echoes: ReadonlyMap<string, HostArray>; readonly file: string }, attachments: readonly Attachment[], modules: ReadonlyMap<string, object>): Promise<void> {
  for (const [name, saved] of base) {
    const at = name.lastIndexOf("."), module = modules.get(name.slice(0, at)), own = module === undefined ? undefined : parametersOf(module)[name.slice(at + 1)];
    if (own === undefined || !sameNumbers(saved, await ownParameter(model, own, "loadLora", name).data())) {
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
      if (saved !== undefined && !sameNumbers(saved, await value(tensorsOf(a), ownParameters(model, a.module, "loadLora", a.site.path)).data())) {
        throw new FormatError(`${file}: ${key} is not equal to what it is a copy of`, { file, key, value: saved.shape, fix: "the layers were not tied when this was saved: set ensure_weight_tying to false in adapter_config.json, or load the base that it was saved with" });
      }
    }
  }
}

/**
 * Saved weights of the base that are not the model's, as frozen weights that stand in their place.
 * @throws ConfigError for other sizes, and beside DoRA, which follows from the model's own weight
 */
export async function differingBase(model: object, base: ReadonlyMap<string, HostArray>, modules: ReadonlyMap<string, object>, config: LoraConfig): Promise<readonly { readonly chosen: Pick<Attachment, "site" | "module" | "method">; readonly weight: HostArray }[]> {
  const out: { readonly chosen: Pick<Attachment, "site" | "module" | "method">; readonly weight: HostArray }[] = [];
  for (const [name, saved] of base) {
    const path = name.slice(0, name.lastIndexOf(".")), module = modules.get(path), own = module === undefined ? undefined : parametersOf(module).weight;
    if (module === undefined || own === undefined || !name.endsWith(".weight") || sameNumbers(saved, await ownParameter(model, own, "loadLora", name).data())) continue;
    const refuse = (problem: string, fix: string): never => { throw new ConfigError(`the saved weight of ${path} ${problem}`, { key: "savedEmbeddings", value: "use", fix }); };
    if (saved.shape.join() !== own.shape.join()) refuse(`is [${saved.shape.join(", ")}], the model's [${own.shape.join(", ")}]`, "load a base whose vocabulary was resized as that one's was");
    if (config.useDora) refuse("cannot stand in place of the model's beside DoRA", "load the base that the adapter was saved with");
    const site: Site = { path, kind: module instanceof Embedding ? "embedding" : "linear", r: 0, alpha: 0, scale: 1, parameters: 0, matchedBy: name, inFeatures: 0, outFeatures: 0 };
    out.push({ chosen: { site, module, method: savedWeight }, weight: { dtype: "f32", shape: saved.shape, data: convertArray(saved.data, saved.dtype, "f32") } });
  }
  return out;
}

/** A tensor as files hold it. */
export const f32 = async (t: Tensor): Promise<HostArray> => { const { dtype, shape, data } = await t.host(); return { dtype: "f32", shape, data: dtype === "f32" ? data.slice() : convertArray(data, dtype, "f32") }; };

/** Copies as PEFT writes them beside what trains, by name. */
export async function echoesOf(attachments: readonly Attachment[], model: unknown): Promise<ReadonlyMap<string, HostArray>> {
  const out = new Map<string, HostArray>();
  for (const a of attachments) for (const [key, value] of Object.entries(a.method.echoes?.(a.site) ?? {})) out.set(key, await f32(value(tensorsOf(a), ownParameters(model, a.module, "save", a.site.path))));
  return out;
}
