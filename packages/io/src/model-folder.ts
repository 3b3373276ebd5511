/** Model folders of Hugging Face: one model.safetensors, or shards with an index that says which tensor lies where. */
import { FormatError } from "@adjoint/tensor";
import type { HostArray } from "@adjoint/tensor";
import { FileError, fileSystem, node } from "./file-system.ts";
import { parseUniqueJson } from "./json.ts";
import { noTensor, openSafetensors, pairsOf, safetensorsParts } from "./safetensors.ts";
import type { NamedArrays, SafetensorsFile } from "./safetensors.ts";
import type { TensorEntry } from "./safetensors-header.ts";
import { pathOf, readText } from "./source.ts";

const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";

/**
 * Opens the weights of a model folder: `model.safetensors` if it is there, else the shards of `model.safetensors.index.json`.
 *
 * A tensor that the index puts into a shard must be there; one that the index leaves out is listed all the same.
 * @throws FileError if the folder or a shard is missing; FormatError naming file, tensor and fix if something is damaged
 */
export async function openModelFolder(dir: string | URL): Promise<SafetensorsFile> {
  const folder = pathOf(dir);
  const { join } = node().path;
  const names = await fileSystem().list(folder);
  if (names === null) throw new FileError(`${folder}: no such folder`, { file: folder, fix: "check the path" });
  if (names === "file") throw new FileError(`${folder}: is a file`, { file: folder, fix: "name the folder that holds config.json and model.safetensors" });
  if (names.includes(SINGLE)) return openSafetensors(join(folder, SINGLE));
  if (names.includes(INDEX)) return openShards(folder, names);
  const others = names.filter((name) => /\.(safetensors|bin|pth|pt|gguf|h5|msgpack)$/.test(name));
  throw new FileError(`${folder}: neither ${SINGLE} nor ${INDEX} is there`, {
    file: folder, key: SINGLE, value: others,
    fix: others.length > 0 ? `the folder holds ${others[0]}: save the model again with save_pretrained(safe_serialization=True)` : "name the folder that holds the weights",
  });
}

async function openShards(folder: string, names: readonly string[]): Promise<SafetensorsFile> {
  const { join } = node().path;
  const indexFile = join(folder, INDEX);
  const weightMap = checkIndex(parseUniqueJson(new TextEncoder().encode(await readText(indexFile)), indexFile), indexFile);
  const shardNames = [...new Set(weightMap.values())].sort();
  const missing = shardNames.filter((name) => !names.includes(name));
  if (missing.length > 0) {
    throw new FileError(`${folder}: ${missing.length} of ${shardNames.length} shards are missing: ${missing.slice(0, 3).join(", ")}`, { file: join(folder, missing[0]), value: missing, fix: "get the missing files" });
  }
  const shards = new Map<string, SafetensorsFile>();
  const close = async (): Promise<void> => {
    for (const shard of shards.values()) await shard.close();
  };
  try {
    for (const name of shardNames) shards.set(name, await openSafetensors(join(folder, name)));
    const homes = homesOf(weightMap, shards, indexFile);
    const entries = new Map([...homes].map(([name, home]) => [name, home.entry] as const));
    const shardOf = (name: string): SafetensorsFile => {
      const home = homes.get(name);
      if (home === undefined) throw noTensor(name, folder, homes.keys());
      return home.shard;
    };
    return {
      label: folder, entries, metadata: shards.get(shardNames[0])?.metadata ?? {},
      read: async (name) => shardOf(name).read(name), readPart: async (name, from, into) => shardOf(name).readPart(name, from, into), close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

interface Home {
  readonly shard: SafetensorsFile;
  readonly entry: TensorEntry;
}

/** Where each tensor lies: as the index says, and, for tensors that it leaves out, where they are found. */
function homesOf(weightMap: ReadonlyMap<string, string>, shards: ReadonlyMap<string, SafetensorsFile>, indexFile: string): Map<string, Home> {
  const homes = new Map<string, Home>();
  for (const [name, shardName] of weightMap) {
    const shard = shards.get(shardName);
    const entry = shard?.entries.get(name);
    if (shard === undefined || entry === undefined) {
      throw new FormatError(`${indexFile}: says that "${name}" is in ${shardName}, but it is not`, { file: indexFile, key: name, value: shardName, fix: "get this shard and the index again: they are not of one model" });
    }
    homes.set(name, { shard, entry });
  }
  for (const shard of shards.values()) {
    for (const [name, entry] of shard.entries) {
      if (weightMap.has(name)) continue;
      if (homes.has(name)) throw new FormatError(`${shard.label}: "${name}" is in another shard too, and the index does not say which one counts`, { file: indexFile, key: name, fix: "get the index again" });
      homes.set(name, { shard, entry });
    }
  }
  return homes;
}

function checkIndex(value: unknown, file: string): Map<string, string> {
  const bad = (key: string, at: unknown): FormatError => new FormatError(`${file}: ${key} is ${JSON.stringify(at)}`, { file, key, value: at, fix: "weight_map maps each tensor's name to a file name of this folder" });
  const map = typeof value === "object" && value !== null && "weight_map" in value ? value.weight_map : undefined;
  if (typeof map !== "object" || map === null || Array.isArray(map)) throw bad("weight_map", map);
  const checked = new Map<string, string>();
  for (const [name, shard] of Object.entries(map)) {
    if (typeof shard !== "string" || !/^[^/\\]+\.safetensors$/.test(shard)) throw bad(`weight_map."${name}"`, shard);
    checked.set(name, shard);
  }
  if (checked.size === 0) throw bad("weight_map", map);
  return checked;
}

export interface ShardOptions {
  /** a file larger than this is cut into shards, between tensors (default 5 GB, as transformers) */
  readonly maxShardBytes?: number;
  /** metadata of every file (default { format: "pt" }, which transformers asks for) */
  readonly metadata?: Readonly<Record<string, string>>;
}

/**
 * The weight files of a model folder, for writeDirectoryAtomic: one model.safetensors, or shards with their index.
 *
 * @throws FormatError as serializeSafetensors
 */
export function modelFiles(tensors: NamedArrays, { maxShardBytes = 5e9, metadata = { format: "pt" } }: ShardOptions = {}): Record<string, Uint8Array[] | string> {
  const shards: [string, HostArray][][] = [[]];
  let bytes = 0, total = 0;
  for (const [name, array] of pairsOf(tensors)) {
    const size = array.data.byteLength;
    if (bytes > 0 && bytes + size > maxShardBytes) {
      shards.push([]);
      bytes = 0;
    }
    shards[shards.length - 1].push([name, array]);
    bytes += size;
    total += size;
  }
  if (shards.length === 1) return { [SINGLE]: safetensorsParts(tensors, metadata) };
  const files: Record<string, Uint8Array[] | string> = {};
  const weightMap: [string, string][] = [];
  const number = (n: number): string => String(n).padStart(5, "0");
  shards.forEach((shard, i) => {
    const file = `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    files[file] = safetensorsParts(new Map(shard), metadata);
    for (const [name] of shard) weightMap.push([name, file]);
  });
  files[INDEX] = `${JSON.stringify({ metadata: { total_size: total }, weight_map: Object.fromEntries(weightMap.sort(([a], [b]) => (a < b ? -1 : 1))) }, null, 2)}\n`;
  return files;
}
