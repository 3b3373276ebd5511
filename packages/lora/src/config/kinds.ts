/** PEFT's kinds of adapters beside LoRA that are methods here, AdaLoRA and VeRA: their options, and how their adapter_config.json differs from LoRA's. */
import { type AdaloraConfig, adaloraDefaults, adaloraScale, checkAdalora, masksFromFile, masksToFile } from "./adalora-config.ts";
import type { LoraConfig } from "./config.ts";
import { fileDefaults, type JsonValue } from "./config-keys.ts";
import { scaleOf } from "./scaling.ts";
import { checkVera, type VeraConfig, veraDefaults } from "./vera-config.ts";

/** Options of one kind each; null: plain LoRA. */
export interface Kinds {
  /** AdaLoRA: B diag(E) A, whose ranks follow a budget while it trains */
  readonly adalora: AdaloraConfig | null;
  /** VeRA: diag(b) B diag(d) A with A and B random, frozen and shared */
  readonly vera: VeraConfig | null;
}
export type KindKey = keyof Kinds;

type Json = Readonly<Record<string, unknown>>;
/** Throws the error for a key. */
export type Refuse = (key: string, value: unknown, problem: string, fix: string) => never;

/** s of a module: AdaLoRA's and VeRA's own rules, else LoRA's. */
export const scaleIn = (c: LoraConfig, alpha: number, r: number): number => (c.adalora !== null ? adaloraScale(c.adalora, alpha) : c.vera !== null ? 1 : scaleOf(c.scaling, alpha, r));

/** What an adapter of this config is called. */
export const adapterTitle = (c: Pick<LoraConfig, "adalora" | "vera" | "useDora" | "useRslora">): string =>
  (c.adalora !== null ? "AdaLoRA" : c.vera !== null ? "VeRA" : `${c.useRslora ? "rs" : ""}${c.useDora ? "DoRA" : "LoRA"}`);

/** Fills in the options of a kind, takes its rank, and refuses what the kind does not have. */
export function completeKinds(config: Record<string, unknown>, given: Json, name: (key: string) => string, refuse: Refuse): void {
  const kind = config["adalora"] !== null ? "adalora" : config["vera"] !== null ? "vera" : null;
  if (kind === null) return;
  const title = kind === "adalora" ? "AdaLoRA" : "VeRA", no = (key: string, fix: string): never => refuse(name(key), config[key], `is not for ${title}`, fix);
  const isEmpty = (v: unknown): boolean => v === null || (typeof v === "object" && Object.keys(v).length === 0);
  if (kind === "adalora" && config["vera"] !== null) no("vera", "give one of adalora and vera");
  if (config["useDora"] === true) no("useDora", "set it to false");
  if (config["loraBias"] === true) no("loraBias", "set it to false");
  if (config["scaling"] !== "lora") no(config["useRslora"] === true ? "useRslora" : "scaling", kind === "adalora" ? 'give adalora.scaling: "sqrt" for alpha / sqrt(init_r), or a number' : "remove it: VeRA's vectors are its scale");
  if (typeof config["initLoraWeights"] !== "boolean") no("initLoraWeights", "use true");
  for (const key of ["rankPattern", "alphaPattern", "trainableTokenIndices", "targetParameters"]) if (!isEmpty(config[key])) no(key, "remove it");
  if (kind === "adalora") {
    const own = checkAdalora({ ...adaloraDefaults, ...(config["adalora"] as Partial<AdaloraConfig>) }, refuse);
    if (given["r"] !== undefined && given["r"] !== own.initR) no("r", "give adalora.initR and adalora.targetR");
    config["adalora"] = own;
    config["r"] = own.initR;
  } else {
    if (given["loraAlpha"] !== undefined && given["loraAlpha"] !== fileDefaults["lora_alpha"]) no("loraAlpha", "remove it: VeRA's vectors are its scale");
    if (config["ensureWeightTying"] === true) no("ensureWeightTying", "set it to false: PEFT's VeRA has no such key");
    config["vera"] = checkVera({ ...veraDefaults, ...(config["vera"] as Partial<VeraConfig>) }, refuse);
    config["r"] = given["r"] ?? 256;
  }
}

const adaloraKeys = { target_r: "targetR", init_r: "initR", tinit: "tinit", tfinal: "tfinal", deltaT: "deltaT", beta1: "beta1", beta2: "beta2", orth_reg_weight: "orthRegWeight", total_step: "totalStep" } as const;
const veraKeys = { projection_prng_key: "projectionPrngKey", save_projection: "saveProjection", d_initial: "dInitial" } as const;
/** VeRA's names for what LoRA has too. */
const veraNames: Readonly<Record<string, string>> = { vera_dropout: "lora_dropout", init_weights: "init_lora_weights" };
const picked = (json: Json, keys: Readonly<Record<string, string>>): Record<string, unknown> => Object.fromEntries(Object.entries(keys).flatMap(([from, to]) => (json[from] === undefined ? [] : [[to, json[from]]])));

/** A file's keys as LoRA names them, and the options of its kind. */
export function readKind(json: Json, refuse: Refuse): { readonly json: Json; readonly given: Readonly<Record<string, unknown>> } {
  const type = json["peft_type"];
  if (type === "LORA") return { json, given: {} };
  if (type === "ADALORA") {
    const { rank_pattern: masks = null, r: _unused, ...rest } = json, own = picked(json, adaloraKeys);
    return { json: Object.fromEntries(Object.entries(rest).filter(([key]) => !Object.hasOwn(adaloraKeys, key))), given: { adalora: { ...own, rankPattern: masksFromFile(masks, refuse) }, r: own["initR"] ?? adaloraDefaults.initR } };
  }
  if (type === "VERA") {
    const rest = Object.fromEntries(Object.entries(json).filter(([key]) => !Object.hasOwn(veraKeys, key)).map(([key, v]) => [veraNames[key] ?? key, key === "bias" && v === "vera_only" ? "lora_only" : v]));
    return { json: { r: 256, ...rest }, given: { vera: picked(json, veraKeys) } };
  }
  return refuse("peft_type", type ?? null, "is not an adapter that adjoint reads", "it reads LORA, ADALORA and VERA; is this the directory of an adapter?");
}

/** LoRA's keys of a file as the config's kind has them. */
export function writeKind(c: LoraConfig, json: { readonly [key: string]: JsonValue }): { readonly [key: string]: JsonValue } {
  if (c.adalora !== null) {
    const own = c.adalora, alpha = own.scaling === "ranknum" ? c.loraAlpha : adaloraScale(own, c.loraAlpha) / adaloraScale({ ...own, scaling: "ranknum" }, 1);
    return { ...json, peft_type: "ADALORA", r: 8, lora_alpha: alpha, rank_pattern: masksToFile(own.rankPattern), ...Object.fromEntries(Object.entries(adaloraKeys).map(([key, field]) => [key, own[field]])), total_step: Math.max(own.totalStep, own.tinit + own.tfinal + 1) };
  }
  if (c.vera === null) return json;
  const shared = ["auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "modules_to_save", "peft_version", "r", "revision", "target_modules", "task_type"], own = c.vera;
  return {
    ...Object.fromEntries(shared.map((key) => [key, json[key]])), peft_type: "VERA", bias: c.bias === "lora_only" ? "vera_only" : c.bias, vera_dropout: c.loraDropout, init_weights: c.initLoraWeights !== false,
    ...Object.fromEntries(Object.entries(veraKeys).map(([key, field]) => [key, own[field]])),
  };
}
