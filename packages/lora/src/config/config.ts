/** `LoraConfig` and its file `adapter_config.json`: defaults, strict reading, reproducible writing. */
import { isRecord, parseJsonObject } from "@adjoint/io";
import { ConfigError } from "@adjoint/tensor";
import { fileDefaults, inertKeys, type JsonValue, refusedKeys, taskTypes } from "./config-keys.ts";
import { type CordaConfig, type EvaConfig, isPart, type LoftqConfig, type LoraGaConfig, partDefaults, type PartKey, partOf, partRules } from "../initial/configs.ts";
import { type InitLoraWeights, initWants, isInitLoraWeights } from "../initial/names.ts";
import { completeKinds, type KindKey, type Kinds, readKind, writeKind } from "./kinds.ts";
import { nearest } from "../targets/nearest.ts";
import type { Scaling } from "./scaling.ts";

/** Options of a low-rank adapter; names are PEFT's in camelCase. */
export interface LoraConfig extends Kinds {
  /** rank of B A */
  readonly r: number;
  readonly loraAlpha: number;
  /** probability that an input element of the adapter (not of the base) is dropped in training */
  readonly loraDropout: number;
  /** names or suffixes of modules, a regular expression for whole paths, "all-linear", or null for the model type's default */
  readonly targetModules: readonly string[] | string | null;
  readonly excludeModules: readonly string[] | string | null;
  readonly layersToTransform: readonly number[] | number | null;
  readonly layersPattern: readonly string[] | string | null;
  /** expression -> rank; the first that matches a module's path (or its end, after a dot) wins */
  readonly rankPattern: Readonly<Record<string, number>>;
  readonly alphaPattern: Readonly<Record<string, number>>;
  readonly useRslora: boolean;
  /** the rule behind s; files hold only `lora` and `rslora` */
  readonly scaling: Scaling;
  /** true: A uniform in 1/sqrt(in), B zero. "gaussian": A normal with deviation 1/r, B zero. false: both random (tests). Others look at the model: `createLora` */
  readonly initLoraWeights: InitLoraWeights;
  /** of "eva"; null for any other */
  readonly evaConfig: EvaConfig | null;
  /** of "corda" */
  readonly cordaConfig: CordaConfig | null;
  /** of "lora_ga" */
  readonly loraGaConfig: LoraGaConfig | null;
  /** of "loftq" */
  readonly loftqConfig: LoftqConfig | null;
  /** DoRA: the rows of W + s B A keep their direction, and a trained vector has their lengths */
  readonly useDora: boolean;
  /** a bias on B, times s; for layers, with initLoraWeights true or false */
  readonly loraBias: boolean;
  readonly fanInFanOut: boolean;
  /** base biases that train beside: none, all, or those of the adapted layers */
  readonly bias: "none" | "all" | "lora_only";
  /** modules that train in full beside the adapter, by name or end of path; null: none */
  readonly modulesToSave: readonly string[] | null;
  /** rows of the input embedding that train, or embedding name -> rows */
  readonly trainableTokenIndices: readonly number[] | Readonly<Record<string, readonly number[]>> | null;
  /** parameters adapted as matrices whatever their module does with them, such as "mlp.experts.gate_up_proj" */
  readonly targetParameters: readonly string[] | null;
  /** what adapts or replaces one of two layers that share a weight does so for both */
  readonly ensureWeightTying: boolean;
  readonly taskType: string | null;
  readonly baseModelNameOrPath: string | null;
  readonly revision: string | null;
  readonly autoMapping: JsonValue;
  readonly inferenceMode: boolean;
}

/** What a caller may leave out. */
export type LoraOptions = Partial<Omit<LoraConfig, PartKey | KindKey>> & { readonly [P in PartKey | KindKey]?: Partial<NonNullable<LoraConfig[P]>> | null };

export const defaultConfig: LoraConfig = {
  r: 8,
  loraAlpha: 8,
  loraDropout: 0,
  targetModules: null,
  excludeModules: null,
  layersToTransform: null,
  layersPattern: null,
  rankPattern: {},
  alphaPattern: {},
  useRslora: false,
  scaling: "lora",
  initLoraWeights: true,
  evaConfig: null,
  cordaConfig: null,
  loraGaConfig: null,
  loftqConfig: null,
  useDora: false,
  loraBias: false,
  fanInFanOut: false,
  bias: "none",
  modulesToSave: null,
  trainableTokenIndices: null,
  targetParameters: null,
  ensureWeightTying: false,
  taskType: null,
  baseModelNameOrPath: null,
  revision: null,
  autoMapping: null,
  inferenceMode: false,
  adalora: null,
  vera: null,
};

export const snakeCase = (key: string): string => key.replaceAll(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
export const camelCase = (key: string): string => key.replaceAll(/_([a-z])/g, (_, c: string) => c.toUpperCase());

const isText = (v: unknown): v is string => typeof v === "string";
const isTexts = (v: unknown): v is readonly string[] => Array.isArray(v) && v.every(isText);
const isIndex = (v: unknown): v is number => Number.isInteger(v) && Number(v) >= 0;
const isRank = (v: unknown): v is number => Number.isSafeInteger(v) && Number(v) > 0;
const isAlpha = (v: unknown): v is number => Number.isFinite(v) && Number(v) > 0;

interface Rule {
  readonly accepts: (v: unknown) => boolean;
  readonly wants: string;
}

const namesRule: Rule = { accepts: (v) => v === null || isText(v) || isTexts(v), wants: "a list of module names, a regular expression, or null" };
const textRule: Rule = { accepts: (v) => v === null || isText(v), wants: "a text or null" };
const listRule: Rule = { accepts: (v) => v === null || isTexts(v), wants: "a list of names, or null" };
const isRows = (v: unknown): boolean => Array.isArray(v) && v.every(isIndex) && new Set(v).size === v.length;
const partRule: Rule = { accepts: (v) => v === null || isRecord(v), wants: "an object of its options, or null" };
const flagRule: Rule = { accepts: (v) => typeof v === "boolean", wants: "true or false" };

const rules: { readonly [K in keyof LoraConfig]: Rule } = {
  r: { accepts: isRank, wants: "an integer above 0, such as 8 or 16" },
  loraAlpha: { accepts: isAlpha, wants: "a number above 0, such as r or 2 r" },
  loraDropout: { accepts: (v) => Number.isFinite(v) && Number(v) >= 0 && Number(v) < 1, wants: "a probability from 0 to below 1" },
  targetModules: namesRule,
  excludeModules: namesRule,
  layersToTransform: { accepts: (v) => v === null || isIndex(v) || (Array.isArray(v) && v.every(isIndex)), wants: "a layer index, a list of them, or null" },
  layersPattern: { accepts: (v) => v === null || isText(v) || isTexts(v), wants: 'the name of the list of layers, such as "layers", a list of such names, or null' },
  rankPattern: { accepts: (v) => isRecord(v) && Object.values(v).every(isRank), wants: "an object from expressions to ranks (integers above 0)" },
  alphaPattern: { accepts: (v) => isRecord(v) && Object.values(v).every(isAlpha), wants: "an object from expressions to numbers above 0" },
  useRslora: flagRule,
  scaling: { accepts: (v) => v === "lora" || v === "rslora" || typeof v === "function", wants: '"lora", "rslora" or a function (alpha, r) => scale' },
  initLoraWeights: { accepts: isInitLoraWeights, wants: initWants },
  evaConfig: partRule,
  cordaConfig: partRule,
  loraGaConfig: partRule,
  loftqConfig: partRule,
  useDora: flagRule,
  loraBias: flagRule,
  fanInFanOut: flagRule,
  bias: { accepts: (v) => v === "none" || v === "all" || v === "lora_only", wants: '"none", "all" or "lora_only"' },
  modulesToSave: listRule,
  trainableTokenIndices: { accepts: (v) => v === null || isRows(v) || (isRecord(v) && Object.values(v).every(isRows)), wants: "a list of different token ids, an object from names of embeddings to such lists, or null" },
  targetParameters: listRule,
  ensureWeightTying: flagRule,
  taskType: { accepts: (v) => v === null || (isText(v) && taskTypes.includes(v)), wants: `null or one of ${taskTypes.join(", ")}` },
  baseModelNameOrPath: textRule,
  revision: textRule,
  autoMapping: { accepts: (v) => v === null || isRecord(v), wants: "an object or null" },
  inferenceMode: flagRule,
  adalora: partRule,
  vera: partRule,
};

const isKey = (key: string): key is keyof LoraConfig => Object.hasOwn(rules, key);
const show = (v: unknown): string => (typeof v === "function" ? "a function" : (JSON.stringify(v) ?? String(v)));

/** Throws the ConfigError for one key of a file (snake_case) or of the options (camelCase). */
function refuse(key: string, value: unknown, problem: string, fix: string, file?: string): never {
  const where = file === undefined ? "" : `${file}: `;
  throw new ConfigError(`${where}${key} = ${show(value)} ${problem}`, { ...(file === undefined ? {} : { file }), key, value, fix });
}

/** The options of one initialisation with what was left out. */
function completed(part: PartKey, given: Readonly<Record<string, unknown>>, name: (key: string) => string, file?: string): Readonly<Record<string, unknown>> {
  const own: Record<string, unknown> = { ...partDefaults[part] };
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined) continue;
    const known = file === undefined ? key : camelCase(key), rule = partRules[part][known], at = `${name(part)}.${key}`;
    if (rule === undefined) refuse(at, value, "is not an option", `options: ${Object.keys(partRules[part]).map(name).join(", ")}`, file);
    if (!rule.accepts(value)) refuse(at, value, "is not valid", `use ${rule.wants}`, file);
    own[known] = value;
  }
  return own;
}

/** Options of initialisations: those of the chosen one are filled in; others are refused in options, and dropped from files, where PEFT leaves them and ignores them. */
function checkParts(config: Record<string, unknown>, name: (key: string) => string, file?: string): void {
  const rule = config["initLoraWeights"], own = typeof rule === "string" ? partOf[rule] : undefined;
  for (const part of Object.keys(partDefaults).filter(isPart)) {
    const given = config[part];
    if (isRecord(given) && Object.keys(given).length > 0 && (part === own || file === undefined)) {
      if (part !== own) refuse(name(part), given, `does nothing with ${name("initLoraWeights")} = ${show(rule)}`, "leave it out, or choose its initialisation", file);
      config[part] = completed(part, given, name, file);
    } else config[part] = part === own ? partDefaults[part] : null;
  }
}

function checkTogether(c: LoraConfig, name: (key: string) => string, file?: string): void {
  const text = isText(c.targetModules);
  const layers = Array.isArray(c.layersToTransform) ? c.layersToTransform.length > 0 : c.layersToTransform !== null;
  const pattern = c.layersPattern !== null && c.layersPattern.length > 0;
  const contradiction = (a: string, b: string, fix: string): never =>
    refuse(name(a), c[isKey(a) ? a : "r"], `cannot stand beside ${name(b)}`, fix, file);
  if (text && c.layersToTransform !== null) contradiction("layersToTransform", "targetModules", `write ${name("targetModules")} as a list, or put the layers into its expression`);
  if (text && c.layersPattern !== null) contradiction("layersPattern", "targetModules", `write ${name("targetModules")} as a list, or put the layers into its expression`);
  if (c.targetParameters !== null && c.targetParameters.length > 0) {
    if (c.loraDropout > 0) contradiction("loraDropout", "targetParameters", "use 0: what is added to a parameter has no input of its own to drop");
    for (const key of ["useDora", "loraBias"] as const) if (c[key]) contradiction(key, "targetParameters", "use plain LoRA for parameters, or name modules in " + name("targetModules"));
    if (typeof c.initLoraWeights === "string" && c.initLoraWeights !== "gaussian") contradiction("initLoraWeights", "targetParameters", 'use true, false or "gaussian" for parameters, or name modules in ' + name("targetModules"));
    if (c.fanInFanOut) contradiction("fanInFanOut", "targetParameters", "use false: a parameter is adapted as it is stored");
  }
  const rows = c.trainableTokenIndices;
  if (rows !== null && !Array.isArray(rows)) {
    for (const at of Object.keys(rows)) if (c.modulesToSave?.includes(at) === true) refuse(name("trainableTokenIndices"), at, `is also in ${name("modulesToSave")}, which trains all of it`, "name it in one of the two", file);
  }
  if (c.useDora && c.initLoraWeights === "mica") contradiction("useDora", "initLoraWeights", "use DoRA with another initialisation");
  if (c.loraBias && c.useDora) contradiction("loraBias", "useDora", `set ${name("loraBias")} to false`);
  if (c.loraBias && !(typeof c.initLoraWeights === "boolean")) contradiction("loraBias", "initLoraWeights", `set ${name("initLoraWeights")} to true or false, or ${name("loraBias")} to false`);
  if (pattern && !layers) refuse(name("layersPattern"), c.layersPattern, `does nothing without ${name("layersToTransform")}`, `add ${name("layersToTransform")}, or remove it`, file);
}

function build(given: Readonly<Record<string, unknown>>, name: (key: string) => string, file?: string): LoraConfig {
  const config: Record<string, unknown> = { ...defaultConfig };
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined || !isKey(key)) continue;
    if (!rules[key].accepts(value)) refuse(name(key), value, "is not valid", `use ${rules[key].wants}`, file);
    config[key] = value;
  }
  checkParts(config, name, file);
  completeKinds(config, given, name, (key, value, problem, fix) => refuse(key, value, problem, fix, file));
  const made = { ...defaultConfig, ...config };
  checkTogether(made, name, file);
  return made;
}

/** What people write first for options of another name. */
const shortNames: Readonly<Record<string, string>> = { rank: "r", alpha: "loraAlpha", dropout: "loraDropout", targets: "targetModules", modules: "targetModules", rslora: "useRslora", dora: "useDora", init: "initLoraWeights" };

/** Options with PEFT's defaults; throws ConfigError for unknown keys, bad values and contradictions, naming key, value and fix. */
export function loraConfig(options: LoraOptions = {}): LoraConfig {
  for (const [key, value] of Object.entries(options)) {
    if (isKey(key) || value === undefined) continue;
    const refused = refusedKeys[snakeCase(key)];
    if (refused !== undefined && neutral(value, refused.neutral)) continue;
    if (refused !== undefined) refuse(key, value, `asks for ${refused.what}, which is not implemented`, refused.fix);
    const near = isKey(camelCase(key)) ? [camelCase(key)] : Object.hasOwn(shortNames, key) ? [shortNames[key]] : nearest(key, Object.keys(rules));
    refuse(key, value, "is not an option of lora", near.length > 0 ? `did you mean ${near.join(" or ")}?` : `options: ${Object.keys(rules).join(", ")}`);
  }
  const { useRslora, scaling } = options;
  if (useRslora !== undefined && scaling !== undefined && (scaling === "rslora") !== useRslora) {
    refuse("scaling", scaling, `contradicts useRslora = ${show(useRslora)}`, "give one of the two");
  }
  const rule = scaling ?? (useRslora === true ? "rslora" : "lora");
  return build({ ...options, scaling: rule, useRslora: rule === "rslora" }, (key) => key);
}

/** A config from a file, and what was dropped on the way. */
export interface ReadConfig {
  readonly config: LoraConfig;
  /** one line each: unknown keys, with the value that was ignored */
  readonly warnings: readonly string[];
}

const neutral = (value: unknown, allowed: readonly JsonValue[]): boolean => allowed.some((a) => JSON.stringify(a) === JSON.stringify(value));

/**
 * Reads the text of `adapter_config.json`. Missing keys take PEFT's defaults (old files lack many), unknown keys are reported,
 * known keys that adjoint does not implement throw ConfigError unless neutral; FormatError when it is not a JSON object.
 */
export function readLoraConfig(text: string, file = "adapter_config.json"): ReadConfig {
  const whole = parseJsonObject(text, file, "copy the file again from where the adapter was saved");
  const warnings: string[] = [];
  const { json, given: ofKind } = readKind(whole, (key, value, problem, fix) => refuse(key, value, problem, fix, file)), given: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(json)) {
    const refused = refusedKeys[key];
    if (refused !== undefined) {
      if (!neutral(value, refused.neutral)) refuse(key, value, `asks for ${refused.what}, which is not implemented`, refused.fix, file);
    } else if (isKey(camelCase(key)) && Object.hasOwn(fileDefaults, key)) given[camelCase(key)] = value;
    else if (key !== "peft_type" && !inertKeys.includes(key)) {
      const near = nearest(key, Object.keys(fileDefaults), 1);
      warnings.push(`${file}: unknown key ${key} = ${show(value).slice(0, 80)} is ignored${near.length > 0 ? ` (did you mean ${near[0]}?)` : ""}`);
    }
  }
  // PEFT writes null for an empty pattern in some versions
  for (const key of ["rankPattern", "alphaPattern"]) if (given[key] === null) given[key] = {};
  if (given["ensureWeightTying"] === null) given["ensureWeightTying"] = false;
  const scaling = given["useRslora"] === true ? "rslora" : "lora";
  return { config: build({ ...given, ...ofKind, scaling }, snakeCase, file), warnings };
}

/** Options of an initialisation as files name them. */
const part = (v: LoraConfig[PartKey]): JsonValue => (v === null ? null : Object.fromEntries(Object.entries(v).map(([key, value]: [string, JsonValue]) => [snakeCase(key), value])));
const sorted = (v: readonly string[] | string | null): JsonValue => (Array.isArray(v) ? [...new Set<string>(v)].sort() : v === null || isText(v) ? v : null);

/**
 * Text of `adapter_config.json`: the 41 keys of PEFT sorted, sets as sorted lists, inference_mode true. Equal configs give equal bytes.
 * Patterns keep their order, because the first expression that matches wins (PEFT sorts them when it saves).
 */
export function writeLoraConfig(c: LoraConfig): string {
  if (typeof c.scaling === "function") {
    refuse("scaling", c.scaling, "cannot be written to adapter_config.json", "bake the scale into loraAlpha and alphaPattern first (bakeScale)");
  }
  const json: { readonly [key: string]: JsonValue } = {
    ...fileDefaults,
    alpha_pattern: c.alphaPattern,
    auto_mapping: c.autoMapping,
    base_model_name_or_path: c.baseModelNameOrPath,
    bias: c.bias,
    corda_config: part(c.cordaConfig),
    ensure_weight_tying: c.ensureWeightTying,
    eva_config: part(c.evaConfig),
    exclude_modules: sorted(c.excludeModules),
    fan_in_fan_out: c.fanInFanOut,
    inference_mode: true,
    init_lora_weights: c.initLoraWeights,
    layers_pattern: c.layersPattern,
    layers_to_transform: c.layersToTransform,
    loftq_config: part(c.loftqConfig) ?? {},
    lora_alpha: c.loraAlpha,
    lora_dropout: c.loraDropout,
    lora_ga_config: part(c.loraGaConfig),
    modules_to_save: c.modulesToSave,
    r: c.r,
    rank_pattern: c.rankPattern,
    revision: c.revision,
    target_modules: sorted(c.targetModules),
    target_parameters: c.targetParameters,
    trainable_token_indices: c.trainableTokenIndices,
    task_type: c.taskType,
    lora_bias: c.loraBias,
    use_dora: c.useDora,
    use_rslora: c.scaling === "rslora",
  };
  return JSON.stringify(Object.fromEntries(Object.entries(writeKind(c, json)).sort(([a], [b]) => (a < b ? -1 : 1))), null, 2);
}
