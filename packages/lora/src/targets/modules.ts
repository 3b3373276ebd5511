/** The modules of a model by path: what selection looks at, and where an adapter attaches. */
import { Conv1D, Conv1d, Conv2d, Embedding, LayerNorm, Linear, LSTM, RMSNorm } from "@adjoint/nn";
import { flatten, sizeOf, Tensor } from "@adjoint/tensor";
import type { Parameters } from "../adapter.ts";
import type { ModuleInfo } from "./targets.ts";

/** A layer that adapters can see: its own parameters are the fields that hold tensors. */
export type Adaptable = Linear | Conv1D | Embedding | Conv1d | Conv2d | LSTM | RMSNorm | LayerNorm;

/** Names of modules that give the logits; "all-linear" leaves them out. */
const HEADS: readonly string[] = ["lm_head", "embed_out"];

const layers = [Linear, Conv1D, Embedding, Conv1d, Conv2d, LSTM, RMSNorm, LayerNorm] as const;
const isLayer = (x: unknown): x is Adaptable => layers.some((layer) => x instanceof layer);

/** Parameters of a module by name, as they lie in its fields. */
export const parametersOf = (module: object): Parameters => Object.fromEntries(Object.entries(module).filter((entry): entry is [string, Tensor] => entry[1] instanceof Tensor));

/** Layers by path, in the model's order; a module that sits in two places counts once, under its first path. */
export function adaptableModules(model: object): ReadonlyMap<string, Adaptable> {
  const found = new Map<string, Adaptable>(), seen = new Set<Adaptable>();
  const { paths, leaves } = flatten(model, (x): x is Adaptable | Tensor => isLayer(x) || x instanceof Tensor);
  leaves.forEach((leaf, i) => {
    if (leaf instanceof Tensor || seen.has(leaf)) return;
    seen.add(leaf);
    found.set(paths[i], leaf);
  });
  return found;
}

/** What selection needs to know of one layer. */
function infoOf(path: string, module: Adaptable): ModuleInfo {
  if (module instanceof Embedding) return { path, kind: "embedding", inFeatures: module.numEmbeddings, outFeatures: module.embeddingDim };
  if (module instanceof Conv1d || module instanceof Conv2d) {
    const window = [module.inChannels, ...module.kernelSize];
    return { path, kind: "conv", inFeatures: sizeOf(window), outFeatures: module.outChannels, window, groups: module.groups };
  }
  if (!(module instanceof Linear) && !(module instanceof Conv1D)) return { path, kind: "other" };
  return { path, kind: module instanceof Linear ? "linear" : "conv1d", inFeatures: module.inFeatures, outFeatures: module.outFeatures, isOutputHead: HEADS.includes(path.slice(path.lastIndexOf(".") + 1)) };
}

/** The weights of an LSTM, each a thing to adapt with its parameter's name. */
const weightsOf = (path: string, parameters: Parameters): readonly ModuleInfo[] =>
  Object.entries(parameters).flatMap(([name, { shape: [outFeatures, inFeatures] }]) => (name.startsWith("weight_") ? [{ path: `${path}.${name}`, kind: "lstm", inFeatures, outFeatures } as const] : []));

/** The path of the module that a site is on: an LSTM's for a site that is one of its weights. */
export const moduleOf = ({ path, kind }: Pick<ModuleInfo, "path" | "kind">): string => (kind === "lstm" ? path.slice(0, path.lastIndexOf(".")) : path);

/** Everything with a path that holds parameters; what cannot be adapted has kind `other`. */
export function moduleInfos(model: object): readonly ModuleInfo[] {
  const infos = new Map<string, ModuleInfo>(), adaptable = adaptableModules(model), first = new Map<Tensor, string>();
  const { paths } = flatten(model, (x): x is Adaptable | Tensor => isLayer(x) || x instanceof Tensor);
  for (const path of paths) {
    const module = adaptable.get(path), parts = path.split(".");
    for (let n = 1; n < parts.length; n++) {
      const above = parts.slice(0, n).join(".");
      if (!infos.has(above)) infos.set(above, { path: above, kind: "other" });
    }
    if (module === undefined) continue;
    const held = parametersOf(module), tiedTo = "weight" in held ? first.get(held.weight) : undefined;
    if ("weight" in held && tiedTo === undefined) first.set(held.weight, path);
    const parameters = Object.fromEntries(Object.entries(held).map(([name, t]) => [name, t.shape]));
    if (module instanceof LSTM) for (const info of weightsOf(path, held)) infos.set(info.path, info);
    infos.set(path, { ...infoOf(path, module), parameters, ...(tiedTo === undefined ? {} : { tiedTo }) });
  }
  return [...infos.values()];
}
