/** Adapter tensors against a model: exact comparison of names and shapes, and the directories that PEFT reads and writes. */
import { convertArray, FormatError, type HostArray, isFloat } from "@adjoint/tensor";
import { checkFinite, fileSystem, openSafetensors, readText, safetensorsParts, writeDirectoryAtomic } from "@adjoint/io";
import type { Role } from "../adapter.ts";
import { type Attachment, keyOf } from "../attachments.ts";
import { keepsOrigin } from "../initial/names.ts";
import { type LoraConfig, type ReadConfig, readLoraConfig, writeLoraConfig } from "../config/config.ts";
import { digestOf } from "./digest.ts";
import { type KeyMapping, mapKey } from "./key-mapping.ts";
import { parseKey, PREFIX } from "./peft-keys.ts";

/** One tensor that an adapter of this model has. */
export interface ExpectedTensor {
  readonly key: string;
  readonly path: string;
  readonly role: Role;
  readonly shape: readonly number[];
}

/** The tensors of an adapter's file: those of every site, in the model's order. */
export function expectedTensors(chosen: readonly Pick<Attachment, "site" | "method">[], config: LoraConfig): readonly ExpectedTensor[] {
  return chosen.flatMap(({ site, method }) => Object.entries({ ...method.shapes(site, config), ...method.fixed?.(site, config) }).map(([role, shape]) => ({ key: keyOf({ site, method }, role), path: site.path, role, shape })));
}

/** Names of tensors that PEFT's file holds besides: copies in tied layers, and of the base. */
export const echoedNames = (chosen: readonly Pick<Attachment, "site" | "method">[]): readonly string[] => chosen.flatMap(({ site, method }) => Object.keys(method.echoes?.(site) ?? {}));

/** What was found when a file met a model; names are as they stand in the file, or as PEFT would write them. */
export interface LoadReport {
  readonly file: string;
  readonly loaded: number;
  readonly missing: readonly string[];
  readonly unexpected: readonly string[];
  readonly mismatched: readonly { readonly key: string; readonly expected: readonly number[]; readonly found: readonly number[] }[];
  /** older spellings and mapped names that were understood */
  readonly renamed: readonly { readonly from: string; readonly to: string }[];
  readonly warnings: readonly string[];
}

export interface LoadedTensors {
  /** f32 factors by the name that PEFT writes */
  readonly factors: ReadonlyMap<string, HostArray>;
  /** frozen parameters of the base that PEFT saved along, by path: they must equal the model's */
  readonly base: ReadonlyMap<string, HostArray>;
  /** copies of other tensors, by name: they must equal those */
  readonly echoes: ReadonlyMap<string, HostArray>;
  readonly report: LoadReport;
}

const sameShape = (a: readonly number[], b: readonly number[]): boolean => a.length === b.length && a.every((n, i) => n === b[i]);

function list(title: string, lines: readonly string[]): string {
  const shown = lines.slice(0, 8).map((l) => `\n    ${l}`).join("");
  return lines.length === 0 ? "" : `\n  ${title} (${lines.length}):${shown}${lines.length > 8 ? `\n    and ${lines.length - 8} more` : ""}`;
}

function describe(report: LoadReport): string {
  const mismatched = report.mismatched.map((m) => `${m.key}  file [${m.found.join(", ")}], model [${m.expected.join(", ")}]`);
  return list("missing in the file", report.missing) + list("unexpected in the file", report.unexpected) + list("other shape", mismatched);
}

/** How a file's names are read. */
export interface MatchOptions {
  readonly strict?: boolean;
  readonly file?: string;
  /** names of copies that may be in the file (`echoedNames`) */
  readonly echoes?: readonly string[];
  /** paths of layers whose frozen parameters may be saved along although nothing is adapted there: embeddings and output heads */
  readonly embeddings?: readonly string[];
  readonly keyMapping?: KeyMapping;
}

/**
 * Matches a file's tensors to the expected ones; strict unless asked otherwise.
 * Throws FormatError with the whole LoadReport in `details.value` when a name is missing, unexpected or has another shape,
 * when two names mean the same tensor, or when a tensor does not hold floating-point numbers.
 */
export function matchTensors(found: ReadonlyMap<string, HostArray>, expected: readonly ExpectedTensor[], options: MatchOptions = {}): LoadedTensors {
  const file = options.file ?? "adapter_model.safetensors";
  const wanted = new Map(expected.map((e) => [e.key, e])), echoed = new Set(options.echoes);
  const adapted = new Set([...expected.map((e) => e.path), ...(options.embeddings ?? [])]);
  const factors = new Map<string, HostArray>(), base = new Map<string, HostArray>(), echoes = new Map<string, HostArray>();
  const unexpected: string[] = [];
  const mismatched: { key: string; expected: readonly number[]; found: readonly number[] }[] = [];
  const renamed: { from: string; to: string }[] = [];
  const from = new Map<string, string>();
  /** where a frozen parameter that PEFT saved along belongs; null: nowhere */
  const frozenAt = (names: readonly string[]): string | null => {
    for (const name of names) {
      const path = name.slice(PREFIX.length), owner = path.slice(0, path.lastIndexOf("."));
      if (options.embeddings?.includes(owner) === true) return path;
    }
    return null;
  };
  for (const [key, array] of found) {
    const name = options.keyMapping === undefined ? key : mapKey(key, options.keyMapping), parsed = parseKey(name);
    const names = [name, ...(parsed.kind === "factor" ? [parsed.canonical] : parsed.kind === "plain" ? parsed.names : [])];
    const known = names.find((n) => wanted.has(n) || echoed.has(n));
    if (known === undefined) {
      const at = parsed.kind === "base" ? (adapted.has(parsed.path) ? `${parsed.path}.${parsed.parameter}` : null) : parsed.kind === "plain" ? frozenAt(parsed.names) : null;
      if (at === null) unexpected.push(key);
      else base.set(at, array);
      continue;
    }
    const twin = from.get(known);
    if (twin !== undefined) {
      throw new FormatError(`${file}: ${twin} and ${key} are the same tensor`, { file, key, value: known, fix: "keep one of them (does the file hold two adapters?)" });
    }
    from.set(known, key);
    if (key !== known) renamed.push({ from: key, to: known });
    if (!isFloat(array.dtype)) throw new FormatError(`${file}: ${key} has dtype ${array.dtype}`, { file, key, value: array.dtype, fix: "adapters hold f32, f16 or bf16" });
    const target = wanted.get(known);
    if (target === undefined) echoes.set(known, array);
    else if (sameShape(array.shape, target.shape)) factors.set(target.key, { dtype: "f32", shape: array.shape, data: convertArray(array.data, array.dtype, "f32") });
    else mismatched.push({ key, expected: target.shape, found: array.shape });
  }
  const missing = expected.filter((e) => !from.has(e.key)).map((e) => e.key);
  const old = renamed.filter((r) => options.keyMapping === undefined || mapKey(r.from, options.keyMapping) !== r.to);
  const warnings = old.length === 0 ? [] : [`${file}: ${old.length} names in an older spelling, such as ${old[0].from}`];
  const report: LoadReport = { file, loaded: factors.size, missing, unexpected, mismatched, renamed, warnings };
  if ((options.strict ?? true) && missing.length + unexpected.length + mismatched.length > 0) {
    throw new FormatError(`${file} does not fit the model${describe(report)}`, {
      file,
      key: missing[0] ?? unexpected[0] ?? mismatched[0].key,
      value: report,
      fix: "load it onto the base model that it was made for (base_model_name_or_path in adapter_config.json), or pass strict: false to take what fits",
    });
  }
  return { factors, base, echoes, report };
}

/** A directory as it lies on the disk. */
export interface AdapterDirectory extends ReadConfig {
  readonly tensors: ReadonlyMap<string, HostArray>;
  readonly file: string;
  /** first factors of an adapter that was saved as it trains */
  readonly origin?: ReadonlyMap<string, HostArray>;
}

const CONFIG = "adapter_config.json";
const WEIGHTS = "adapter_model.safetensors";
const ORIGIN = "adapter_origin.safetensors";
/** metadata of the third file: the digest of the second, which it belongs to */
const OF = "adapter_digest";

/** Reads `adapter_config.json` and `adapter_model.safetensors`; FormatError if either is not there, with what to do for pickles and subfolders, or for a number that is not finite. */
export async function readAdapterDirectory(directory: string): Promise<AdapterDirectory> {
  const names = await fileSystem().list(directory);
  const fail = (message: string, value: unknown, fix: string): never => {
    throw new FormatError(`${directory}: ${message}`, { file: directory, value, fix });
  };
  if (names === null) fail("there is no such directory", null, "pass the directory that holds adapter_config.json");
  if (names === "file" || names === null) return fail("is a file", names, "pass the directory that holds adapter_config.json");
  if (!names.includes(CONFIG)) {
    const hint = names.includes("config.json") ? "this looks like a model, not an adapter" : `an adapter other than the default lies in a subfolder of its name${names.some((n) => !n.includes(".")) ? ` (here: ${names.filter((n) => !n.includes(".")).join(", ")})` : ""}`;
    fail(`holds no ${CONFIG}`, names, hint);
  }
  if (!names.includes(WEIGHTS)) {
    if (names.includes("adapter_model.bin")) {
      fail("adapter_model.bin is a Python pickle, which can run code when it is read", "adapter_model.bin", "load it in PEFT once and save it again: model.save_pretrained(dir) writes adapter_model.safetensors");
    }
    fail(`holds no ${WEIGHTS}`, names, "copy the directory again from where the adapter was saved");
  }
  const read = readLoraConfig(await readText(`${directory}/${CONFIG}`), `${directory}/${CONFIG}`);
  const file = `${directory}/${WEIGHTS}`, { tensors } = await contentsOf(file);
  if (!names.includes(ORIGIN) || !keepsOrigin(read.config.initLoraWeights)) return { ...read, tensors, file };
  const origin = await contentsOf(`${directory}/${ORIGIN}`);
  if (origin.metadata[OF] !== digestOf(tensors)) {
    throw new FormatError(`${directory}: ${ORIGIN} was not written with this ${WEIGHTS}`, {
      file: `${directory}/${ORIGIN}`, key: OF, value: origin.metadata[OF],
      fix: `copy the three files again from where the adapter was saved; or, if ${WEIGHTS} is of another run, delete ${ORIGIN} (PiSSA and OLoRA are then computed from the base)`,
    });
  }
  return { ...read, tensors, file, origin: origin.tensors };
}

async function contentsOf(file: string): Promise<{ readonly tensors: ReadonlyMap<string, HostArray>; readonly metadata: Readonly<Record<string, string>> }> {
  const open = await openSafetensors(file);
  try {
    const tensors = new Map<string, HostArray>();
    for (const name of open.entries.keys()) tensors.set(name, checkFinite(await open.read(name), { file, key: name }));
    return { tensors, metadata: open.metadata };
  } finally {
    await open.close();
  }
}

/** The two files of an adapter, ready to be written, and a third where there are first factors. */
export function adapterFiles(config: LoraConfig, tensors: ReadonlyMap<string, HostArray>, origin: ReadonlyMap<string, HostArray> = new Map()): Readonly<Record<string, string | readonly Uint8Array[]>> {
  return { [CONFIG]: writeLoraConfig(config), [WEIGHTS]: safetensorsParts(tensors, { format: "pt" }), ...(origin.size > 0 ? { [ORIGIN]: safetensorsParts(origin, { format: "pt", [OF]: digestOf(tensors) }) } : {}) };
}

/** Writes an adapter's directory so that it holds either all of the old or all of the new files. */
export async function writeAdapterDirectory(directory: string, config: LoraConfig, tensors: ReadonlyMap<string, HostArray>): Promise<void> {
  await writeDirectoryAtomic(directory, adapterFiles(config, tensors), { replaceAll: false });
}
