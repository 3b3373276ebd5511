/** Which adapters may follow others on one module: those that compute it anew, or look at its weight as a whole, come first. */
import { ConfigError } from "@adjoint/tensor";
import type { Attachment } from "../attachments.ts";

interface Acting { readonly name: string; readonly attachments: readonly Attachment[] }

/** Methods that give an output of their own in the module's place: what an earlier adapter did there is lost. */
const anew: readonly string[] = ["full", "full-tied", "tokens", "tokens-tied"];
/** Methods that multiply: what an earlier adapter added would be multiplied too, attached otherwise than merged. */
const multiplies: readonly string[] = ["flora", "dora", "dora from an origin"];

/**
 * Refuses adapters whose order would lose a contribution, or give other numbers attached than merged. `inBase`: those that are merged, or are to be; DoRA
 * takes a base that holds them as it is. @throws ConfigError that names both and the module
 */
export function checkOrder(order: readonly Acting[], inBase: readonly string[]): void {
  const before = new Map<object, string>(), biased = new Map<object, string>();
  for (const { name, attachments } of order) {
    for (const { method, module, site } of attachments) {
      const other = biased.get(module);
      if (method.name === "bias" && other !== undefined && inBase.includes(name)) throw new ConfigError(`adapters ${other} and ${name} both train the bias of ${site.path}, and a merge puts one in the other's place`, { op: "merge", key: name, value: [other, name], fix: "merge one of them and keep the other beside it" });
      if (method.name === "bias") biased.set(module, name);
      const earlier = before.get(module), lost = anew.includes(method.name);
      if (earlier === undefined || !(lost || (multiplies.includes(method.name) && site.kind !== "lstm")) || (method.name.startsWith("dora") && inBase.includes(earlier))) continue;
      const does = lost ? `computes ${site.path} anew (${method.name}), and what adapter ${earlier} does there would be lost` : `multiplies ${method.name === "flora" ? "the weight" : "the rows of the weight"} of ${site.path}, and adapter ${earlier}, which comes before it, has added to it`;
      throw new ConfigError(`adapter ${name} ${does}`, { op: "with", key: name, value: [earlier, name], fix: `${inBase.includes(earlier) ? `unmerge ${earlier} and ` : ""}name ${name} first, unless both do this: then use one of them` });
    }
    for (const { module } of attachments) before.set(module, before.get(module) ?? name);
  }
}
