/** The modules of a model by path: what selection looks at, and where an adapter attaches. */
import { Embedding, Linear } from "@adjoint/nn";
import { flatten, Tensor } from "@adjoint/tensor";
import type { ModuleInfo } from "./targets.ts";

export type Adaptable = Linear | Embedding;

/** Names of modules that give the logits; "all-linear" leaves them out. */
const HEADS: readonly string[] = ["lm_head", "embed_out"];

const isPart = (x: unknown): x is Adaptable | Tensor => x instanceof Linear || x instanceof Embedding || x instanceof Tensor;

/** Linear layers and embeddings by path, in the model's order; a module that sits in two places counts once, under its first path. */
export function adaptableModules(model: object): ReadonlyMap<string, Adaptable> {
  const found = new Map<string, Adaptable>();
  const seen = new Set<Adaptable>();
  const { paths, leaves } = flatten(model, isPart);
  leaves.forEach((leaf, i) => {
    if (leaf instanceof Tensor || seen.has(leaf)) return;
    seen.add(leaf);
    found.set(paths[i], leaf);
  });
  return found;
}

/** Everything with a path that holds parameters; what is neither linear nor embedding has kind `other`. */
export function moduleInfos(model: object): readonly ModuleInfo[] {
  const infos = new Map<string, ModuleInfo>();
  const adaptable = adaptableModules(model);
  const { paths } = flatten(model, isPart);
  for (const path of paths) {
    const module = adaptable.get(path);
    const parts = path.split(".");
    for (let n = 1; n < parts.length; n++) {
      const above = parts.slice(0, n).join(".");
      if (!infos.has(above)) infos.set(above, { path: above, kind: "other" });
    }
    if (module instanceof Linear) {
      infos.set(path, { path, kind: "linear", inFeatures: module.inFeatures, outFeatures: module.outFeatures, isOutputHead: HEADS.includes(parts.at(-1) ?? "") });
    } else if (module instanceof Embedding) infos.set(path, { path, kind: "embedding", inFeatures: module.numEmbeddings, outFeatures: module.embeddingDim });
  }
  return [...infos.values()];
}
