/** Recipes: YAML files and flags, read against one table of keys; what is wrong is named by file, key, value and fix. */
import { isRecord, readText } from "@adjoint/io";
import { nearest } from "@adjoint/lora";
import { ConfigError, FormatError } from "@adjoint/tensor";
import { parseDocument } from "yaml";
import { defaultRecipe, type Field, fields, inertKeys, type Recipe } from "./recipe-fields.ts";

export { defaultRecipe, fields, inertKeys, optimizers, schedules, type Field, type FieldKind, type Indices, type Recipe } from "./recipe-fields.ts";

/** Some keys of a recipe, checked, with where they came from. */
export interface RecipeLayer {
  readonly values: Partial<Recipe>;
  /** keys that were accepted and change nothing, one line each */
  readonly notes: readonly string[];
}

const isKey = (key: string): key is keyof Recipe => Object.hasOwn(fields, key);
const aliasOf: ReadonlyMap<string, keyof Recipe> = new Map(Object.entries(fields).flatMap(([key, { aliases }]) => (isKey(key) ? (aliases ?? []).map((a) => [a, key] as const) : [])));
const show = (v: unknown): string => JSON.stringify(v) ?? String(v);

/** The key that a name stands for (kebab-case, aliases), if any. */
export function recipeKey(name: string): keyof Recipe | undefined {
  const plain = name.replaceAll("-", "_");
  return isKey(plain) ? plain : aliasOf.get(plain);
}

const wants = (f: Field): string => {
  if (f.matches !== undefined) return `${f.boolean === true ? "true, false, or " : ""}one of ${f.matches.source.replace(/^\^\(|\)\$$/g, "").replace("\\d+", "K").split("|").join(", ")}`;
  const kinds = { text: "a text", texts: "a text or a list of texts", integer: "an integer", number: "a number", flag: "true or false", map: "a map of keys to numbers or words, or k=v,k=v", indices: `different numbers of at least 0${f.byName === true ? ", or a map of modules to such numbers" : ""}` };
  const bounds = [
    f.choices === undefined ? "" : `one of ${f.choices.join(", ")}${f.boolean === true ? ", true, false" : ""}`,
    f.min === undefined ? "" : `at least ${f.min}`, f.above === undefined ? "" : `above ${f.above}`,
    f.max === undefined ? "" : `at most ${f.max}`, f.below === undefined ? "" : `below ${f.below}`,
  ].filter((b) => b !== "");
  return [kinds[f.kind], ...bounds].join(", ") + (f.nullable === true ? ", or null" : "");
};

/** Checks one value and brings it into its field's form; the error names where it stands. */
function valueOf(key: keyof Recipe, given: unknown, origin: string): unknown {
  const f = fields[key];
  const refuse = (): never => {
    throw new ConfigError(`${origin}: ${key} = ${show(given)} is not valid`, { file: origin, key, value: given, fix: `use ${wants(f)}` });
  };
  if (given === null || given === undefined) return f.nullable === true ? null : f.kind === "map" ? {} : f.kind === "texts" ? [] : refuse();
  switch (f.kind) {
    case "text":
      if (f.boolean === true && (typeof given === "boolean" || given === "true" || given === "false")) return given === true || given === "true";
      return typeof given === "string" && given !== "" && (f.choices?.includes(given) ?? true) && (f.matches?.test(given) ?? true) ? given : refuse();
    case "texts": {
      const list: readonly unknown[] = Array.isArray(given) ? given : [given];
      return list.every((v) => typeof v === "string" && v !== "") ? list : refuse();
    }
    case "flag": return typeof given === "boolean" ? given : refuse();
    case "integer":
    case "number": {
      const ok = typeof given === "number" && Number.isFinite(given) && (f.kind === "number" || Number.isSafeInteger(given)) &&
        given >= (f.min ?? -Infinity) && given > (f.above ?? -Infinity) && given <= (f.max ?? Infinity) && given < (f.below ?? Infinity);
      return ok ? given : refuse();
    }
    case "map": {
      const map = typeof given === "string" ? mapOf(given, key, origin) : given;
      return isRecord(map) ? Object.fromEntries(Object.entries(map).map(([k, v]) => (typeof v === "object" ? refuse() : [k, typeof v === "string" ? v : JSON.stringify(v)]))) : refuse();
    }
    case "indices":
      if (isRecord(given)) return f.byName === true ? Object.fromEntries(Object.entries(given).map(([name, list]) => [name, indices(list) ?? refuse()])) : refuse();
      return indices(given) ?? refuse();
    default: return f.kind satisfies never;
  }
}
/** Numbers of things: whole, from 0 on, each once. */
function indices(given: unknown): readonly number[] | null {
  const list: readonly unknown[] = Array.isArray(given) ? given : [given];
  return new Set(list).size === list.length && list.every((v): v is number => Number.isSafeInteger(v) && Number(v) >= 0) ? list : null;
}

/**
 * Checks keys and values. Keys of TRL or transformers that say nothing here pass with a note when their value changes nothing.
 *
 * @param origin the file's name, or "flags", for errors
 * @throws ConfigError naming origin, key, value and fix; unknown keys with the nearest known one
 */
export function checkRecipe(given: unknown, origin: string): RecipeLayer {
  if (given === null || given === undefined) return { values: {}, notes: [] };
  if (!isRecord(given)) throw new ConfigError(`${origin}: a recipe is a map of keys to values`, { file: origin, value: given, fix: "write lines such as `learning_rate: 2e-3`" });
  const values: Record<string, unknown> = {}, notes: string[] = [];
  for (const [name, value] of Object.entries(given)) {
    const key = recipeKey(name);
    if (key !== undefined) {
      if (Object.hasOwn(values, key)) throw new ConfigError(`${origin}: ${name} gives ${key} a second time`, { file: origin, key: name, value, fix: "remove one of the two" });
      values[key] = valueOf(key, value, origin);
      continue;
    }
    const inert = Object.hasOwn(inertKeys, name) ? inertKeys[name] : undefined;
    if (inert === undefined) throw unknownKey(name, value, origin);
    if (inert.values !== "any" && !inert.values.some((v) => show(v) === show(value))) {
      throw new ConfigError(`${origin}: ${name} = ${show(value)} is not implemented (${inert.why})`, { file: origin, key: name, value, fix: `remove the key, or set it to ${show(inert.values[0])}` });
    }
    notes.push(`${name} has no effect: ${inert.why}`);
  }
  return { values, notes };
}

/** The error for a key that nobody knows. */
export function unknownKey(name: string, value: unknown, origin: string, more: readonly string[] = []): ConfigError {
  const near = nearest(name.replaceAll("-", "_"), [...Object.keys(fields), ...aliasOf.keys(), ...more], 1);
  return new ConfigError(`${origin}: "${name}" is not a known key`, {
    file: origin, key: name, value,
    fix: near.length > 0 ? `did you mean ${near[0]}?` : "adjoint finetune --help lists all keys",
  });
}

/** Reads the text of a recipe. @throws ConfigError with the line for text that is not YAML */
export function parseRecipe(text: string, origin: string): RecipeLayer {
  const document = parseDocument(text, { prettyErrors: true });
  const [error] = document.errors;
  if (error !== undefined) throw new ConfigError(`${origin} is not YAML: ${error.message.split("\n")[0]}`, { file: origin, cause: error, fix: "write lines such as `learning_rate: 2e-3`" });
  return checkRecipe(document.toJS({ maxAliasCount: 100 }), origin);
}

/** Reads a recipe file. @throws ConfigError */
export async function readRecipe(path: string): Promise<RecipeLayer> {
  let text: string;
  try {
    text = await readText(path);
  } catch (cause) {
    if (cause instanceof FormatError) throw cause;   // not UTF-8
    throw new ConfigError(`${path}: there is no such recipe`, { file: path, cause, fix: "give the path of a YAML file" });
  }
  return parseRecipe(text, path);
}

/** A map written as JSON; what is none stays a text, which its field refuses. */
function parsedMap(text: string): unknown {
  try { return JSON.parse(text) as unknown; } catch { return text; }
}

/** The value of a flag's text, as the same key in a file would have it. @throws ConfigError */
export function flagValue(key: keyof Recipe, text: string): unknown {
  const { kind, nullable } = fields[key];
  const origin = `--${key.replaceAll("_", "-")}`;
  if (nullable === true && (text === "null" || text === "none")) return null;
  if (kind === "indices") return valueOf(key, text.trim().startsWith("{") ? parsedMap(text) : text.split(",").filter((part) => part.trim() !== "").map((part) => (/^\s*\d+\s*$/.test(part) ? Number(part) : part)), origin);
  const expression = key === "lora_target_modules" && /[()[\]{}\\|*+?^$]/.test(text);
  if (kind === "texts") return valueOf(key, expression ? [text] : text.split(",").map((part) => part.trim()).filter((part) => part !== ""), origin);
  if (kind === "flag") return valueOf(key, text === "true" ? true : text === "false" ? false : text, origin);
  if (kind === "integer" || kind === "number") return valueOf(key, /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text.trim()) ? Number(text) : text, origin);
  return valueOf(key, text, origin);
}

/** A map that is written as text, as Transformers has it: k=v,k=v, or JSON. */
function mapOf(text: string, key: keyof Recipe, origin: string): unknown {
  if (text.trim().startsWith("{")) return parsedMap(text);
  const map = new Map<string, string>();
  for (const part of text.split(",").filter((p) => p.trim() !== "")) {
    const at = part.lastIndexOf("="), name = part.slice(0, Math.max(0, at)).trim();
    if (name === "") throw new ConfigError(`${origin}: "${part.trim()}" is not of the form key=value`, { file: origin, key, value: text, fix: origin.startsWith("--") ? `write ${origin} a=1,b=2` : `write ${key}: a=1,b=2, or a map` });
    if (map.has(name)) throw new ConfigError(`${origin}: ${key} has ${name} twice`, { file: origin, key, value: text, fix: "remove one of the two" });
    map.set(name, part.slice(at + 1).trim());
  }
  return Object.fromEntries(map);
}

/** Defaults below, later layers above. */
export const mergeRecipe = (...layers: readonly Partial<Recipe>[]): Recipe => layers.reduce<Recipe>((all, layer) => ({ ...all, ...layer }), defaultRecipe);

/** What differs from the defaults: short enough to read, complete enough to repeat the run. */
export const compactRecipe = (recipe: Recipe): Partial<Recipe> =>
  Object.fromEntries(Object.entries(recipe).filter(([key, value]) => isKey(key) && show(value) !== show(defaultRecipe[key])));
