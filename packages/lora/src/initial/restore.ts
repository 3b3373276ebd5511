/** The first factors of an adapter that is read from a file whose factors belong to a changed base. */
import { quantizedOf } from "@adjoint/quant";
import { FormatError, type HostArray, hostOf } from "@adjoint/tensor";
import type { LoraConfig } from "../config/config.ts";
import { ownParameter } from "../own-weights.ts";
import { parametersOf } from "../targets/modules.ts";
import { originKey } from "../methods/origin.ts";
import { initialisationOf } from "./index.ts";
import type { Place } from "./initial.ts";
import { keepsOrigin } from "./names.ts";

type First = Readonly<Record<"A0" | "B0", HostArray>>;

/** Both first factors of a module where a file has them. */
function stored({ site }: Place, origin: ReadonlyMap<string, HostArray>): First | null {
  const A0 = origin.get(originKey(site.path, "A0")), B0 = origin.get(originKey(site.path, "B0"));
  return A0 === undefined || B0 === undefined ? null : { A0, B0 };
}

/**
 * A₀ and B₀ by module path, for configs that need them; none for others. They come from `origin`, or for "pissa" and "olora" from the
 * base once more (without what is merged into it now), which gives the same product B₀ A₀ as when the adapter was made.
 * @throws FormatError where they can be neither read nor computed, and for LoftQ's factors on a base that is not held as codes
 */
export async function firstFactors(model: object, config: LoraConfig, places: readonly Place[], origin: ReadonlyMap<string, HostArray>, file: string): Promise<ReadonlyMap<string, First>> {
  const rule = config.initLoraWeights, found = new Map<string, First>(), value = String(rule);
  if (rule === "loftq") {
    const plain = places.find(({ module }) => quantizedOf(parametersOf(module)["weight"]) === null);
    if (plain !== undefined) {
      throw new FormatError(`${file}: init_lora_weights = "loftq" belongs to a base of LoftQ's codes, and the weight of ${plain.site.path} is held as numbers`, { file, key: "init_lora_weights", value, fix: "load the base that was saved with it (its codes, or their decoded values with init_lora_weights set to true)" });
    }
  }
  if (!keepsOrigin(rule)) return found;
  const init = initialisationOf(rule), repeatable = rule === "pissa" || rule === "olora";
  for (const place of places) {
    const read = stored(place, origin);
    if (read !== null) {
      found.set(place.site.path, read);
      continue;
    }
    if (!repeatable || init === null) {
      throw new FormatError(`${file}: init_lora_weights = ${JSON.stringify(rule)} belongs to a changed base, and how it was changed is not in the file`, {
        file, key: "init_lora_weights", value,
        fix: "save it in the converted form (tuned.save's default; in PEFT save_pretrained with path_initial_model_for_weight_conversion), or keep adapter_origin.safetensors beside it",
      });
    }
    const start = await (await init.begin({ model: {}, config, seed: 0, places: [place], data: {}, compat: null })).start({ ...place, weight: ownParameter(model, parametersOf(place.module).weight, "loadLora", `${place.site.path}.weight`) });
    if (start !== null) found.set(place.site.path, { A0: hostOf(start.A), B0: hostOf(start.B) });
  }
  return found;
}
