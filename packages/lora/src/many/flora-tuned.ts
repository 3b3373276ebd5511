/** FLoRA beside a model, and its files: our own, because PEFT has no such adapter. */
import { fileSystem, openSafetensors, parseJsonObject, readText, safetensorsParts } from "@adjoint/io";
import { ConfigError, convertArray, FormatError, type HostArray } from "@adjoint/tensor";
import { keyOf } from "../attachments.ts";
import { type LoraConfig, loraConfig, type LoraOptions, snakeCase } from "../config/config.ts";
import { flora } from "../methods/flora.ts";
import { attachLora, planLora } from "../lora.ts";
import { rebuilt } from "./rebuilt.ts";
import { type SaveOptions, Tuned } from "../tuned.ts";

/** What FLoRA has of LoRA's options: it has no scale, no dropout and no choice of first numbers. */
export type FloraOptions = Pick<LoraOptions, "r" | "targetModules" | "excludeModules" | "layersToTransform" | "layersPattern" | "rankPattern" | "taskType" | "baseModelNameOrPath" | "revision">;
const keys = ["r", "targetModules", "excludeModules", "layersToTransform", "layersPattern", "rankPattern", "taskType", "baseModelNameOrPath", "revision"] as const satisfies readonly (keyof FloraOptions)[];
/** What `peft_type` says in these files, so that PEFT refuses them by name. */
const TYPE = "FLORA";
const CONFIG = "adapter_config.json", WEIGHTS = "adapter_model.safetensors";

/** A model with FLoRA beside it. */
export class FloraTuned<M> extends Tuned<M> {
  /** @throws ConfigError: PEFT has no FLoRA */
  override fileConfig(): LoraConfig {
    throw new ConfigError("PEFT has no FLoRA, so there is no config of PEFT's for it", { op: "fileConfig", fix: "await tuned.save(directory) writes files that loadFlora reads; or merge it into the base" });
  }
  override summary(): string {
    return super.summary().replace(/^[^:]*/, "FLoRA");
  }
  /** adapter_config.json (peft_type FLORA) and adapter_model.safetensors (base_model.model.M.flora_a and flora_b); `loadFlora` reads them. */
  override async files({ saveEmbeddings }: SaveOptions = {}): Promise<Readonly<Record<string, string | readonly Uint8Array[]>>> {
    if (saveEmbeddings === true) throw new ConfigError("FLoRA's files hold no embeddings", { op: "save", key: "saveEmbeddings", value: true, fix: "leave it out, and keep the base's" });
    const { loraConfig: c } = this, config = { peft_type: TYPE, ...Object.fromEntries(keys.map((key) => [snakeCase(key), key === "targetModules" ? this.targets.targetModules : c[key]])) };
    const json = JSON.stringify(Object.fromEntries(Object.entries(config).sort(([a], [b]) => (a < b ? -1 : 1))), null, 2);
    return { [CONFIG]: json, [WEIGHTS]: safetensorsParts(await this.snapshot(), { format: "pt" }) };
  }
}

function make<M extends object>(model: M, options: FloraOptions, modelType: string | null | undefined, initial: ((key: string) => HostArray) | null, seed: number): FloraTuned<M> {
  for (const key of Object.keys(options)) if (!keys.some((k) => k === key)) throw new ConfigError(`${key} is not an option of FLoRA`, { op: "flora", key, fix: `options: ${keys.join(", ")}, seed, modelType` });
  const { r = 8 } = options, config = loraConfig({ taskType: "CAUSAL_LM", ...options, r, loraAlpha: r, alphaPattern: options.rankPattern ?? {} }), plan = planLora(model, config, ...(modelType === undefined ? [] : [modelType]));
  const chosen = plan.chosen.map((c) => ({ ...c, method: flora }));
  return new FloraTuned(rebuilt(attachLora(model, config, { ...plan, chosen }, ({ site, method }) => (initial === null ? method.init(site, config, seed) : Object.fromEntries(["a", "b"].map((role) => [role, initial(keyOf({ site, method }, role))]))), false)));
}

/**
 * Puts a FLoRA adapter beside a model: y = mean_j a_j ∘ (W (b_j ∘ x)) + bias in every target, linear layers alone. It starts as the identity
 * (exactly at rank 1; to rounding above, where components must differ to learn different things).
 * @throws ConfigError as `lora`, and for options that FLoRA does not have (scale, dropout)
 * @example const tuned = floraAdapter(model, { r: 1, targetModules: "all-linear" });
 */
export function floraAdapter<M extends object>(model: M, options: FloraOptions & { readonly seed?: number; readonly modelType?: string | null } = {}): FloraTuned<M> {
  const { seed = 0, modelType, ...rest } = options;
  return make(model, rest, modelType, null, seed);
}

/** Whether a directory holds FLoRA's files. */
export async function isFlora(directory: string): Promise<boolean> {
  const names = await fileSystem().list(directory);
  return Array.isArray(names) && names.includes(CONFIG) && parseJsonObject(await readText(`${directory}/${CONFIG}`), `${directory}/${CONFIG}`, "copy the directory again")["peft_type"] === TYPE;
}

/** Reads what `FloraTuned.save` wrote. @throws FormatError for other files and for tensors that miss, that nobody asked for, or of another shape */
export async function loadFlora<M extends object>(model: M, directory: string): Promise<FloraTuned<M>> {
  const file = `${directory}/${CONFIG}`, json = parseJsonObject(await readText(file), file, "copy the directory again from where the adapter was saved");
  if (json["peft_type"] !== TYPE) throw new FormatError(`${file}: peft_type = ${JSON.stringify(json["peft_type"])} is not FLoRA`, { file, key: "peft_type", value: json["peft_type"], fix: "read LoRA's files with loadLora" });
  const { peft_type: _, ...rest } = json, weights = `${directory}/${WEIGHTS}`, open = await openSafetensors(weights);
  try {
    const options = loraConfig(Object.fromEntries(Object.entries(rest).map(([key, value]) => [keys.find((k) => snakeCase(k) === key) ?? key, value])));
    const wanted = new Set<string>(), found = new Map<string, HostArray>();
    for (const name of open.entries.keys()) found.set(name, await open.read(name));
    const tuned = make(model, Object.fromEntries(keys.map((key) => [key, options[key]])), undefined, (key) => {
      const array = found.get(key);
      wanted.add(key);
      if (array === undefined) throw new FormatError(`${weights} has no ${key}`, { file: weights, key, fix: "load it onto the base model that it was made for" });
      return { dtype: "f32", shape: array.shape, data: convertArray(array.data, array.dtype, "f32") };
    }, 0);
    for (const a of tuned.attachments) {
      for (const [role, shape] of Object.entries(flora.shapes(a.site, tuned.loraConfig))) {
        const own = a.factors[role].shape;
        if (own.join() !== shape.join()) throw new FormatError(`${weights}: ${keyOf(a, role)} has shape [${own.join(", ")}], the model needs [${shape.join(", ")}]`, { file: weights, key: keyOf(a, role), value: own, fix: "load it onto the base model that it was made for" });
      }
    }
    const extra = [...found.keys()].filter((key) => !wanted.has(key));
    if (extra.length > 0) throw new FormatError(`${weights}: ${extra[0]} belongs to no module of the model`, { file: weights, key: extra[0], value: extra, fix: "load it onto the base model that it was made for" });
    return tuned;
  } finally {
    await open.close();
  }
}
