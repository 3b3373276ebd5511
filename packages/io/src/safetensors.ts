/** Safetensors files: opened lazily, parsed from memory, written atomically (format: https://huggingface.co/docs/safetensors). */
import { bytesOf, FormatError } from "@adjoint/tensor";
import type { HostArray } from "@adjoint/tensor";
import { writeFileAtomic } from "./files.ts";
import type { WriteOptions } from "./files.ts";
import { buildHeader, headerLength, parseHeader, sortPlanned } from "./safetensors-header.ts";
import type { Header, Planned, TensorEntry } from "./safetensors-header.ts";
import { sourceOf } from "./source.ts";
import type { ByteSource } from "./source.ts";
import { bytesOfArray, decodeStored, hosted, storedAs } from "./stored.ts";

/** Tensors by name. */
export type NamedArrays = Readonly<Record<string, HostArray>> | ReadonlyMap<string, HostArray>;

/** An open file (or folder of shards) of tensors that are read one by one. */
export interface SafetensorsFile {
  /** path or name, for errors */
  readonly label: string;
  readonly entries: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Reads one tensor; FormatError if there is none of this name or its values cannot be held. */
  read(name: string): Promise<HostArray>;
  /** Reads bytes [from, from + into.length) of a tensor as the file has them (little-endian, row-major), into memory that is there already. Errors as read; FormatError beyond the tensor's end. */
  readPart(name: string, from: number, into: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/** A parsed file; its arrays may share memory with the bytes they came from. */
export interface ParsedSafetensors {
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, HostArray>;
}

/**
 * Opens a safetensors file: reads and checks the header now, each tensor when it is asked for.
 *
 * F64, F32, F16, BF16, I32, I8, U32, U8, BOOL come as they are (half floats as raw bits); I64, I16 come as i32, U64, U16 as u32.
 * @param source a path, a file: URL, a Blob, or any ByteSource
 * @throws FileError if the file cannot be read; FormatError naming file, tensor, value and fix if it is damaged
 */
export async function openSafetensors(source: string | URL | Blob | ByteSource): Promise<SafetensorsFile> {
  const from = await sourceOf(source);
  try {
    const start = await from.read(0, Math.min(8, from.size));
    const header = parseHeader(await from.read(8, headerLength(start, from.size, from.label)), from.size, from.label);
    return {
      label: from.label,
      ...header,
      async read(name) {
        const entry = entryOf(header, name, from.label);
        return decodeEntry(name, entry, await from.read(entry.offset, entry.byteLength), from.label);
      },
      async readPart(name, start, into) {
        const { offset, byteLength } = entryOf(header, name, from.label);
        if (start < 0 || start + into.length > byteLength) throw new FormatError(`${from.label}: tensor "${name}" has ${byteLength} bytes, [${start}, ${start + into.length}) were asked for`, { file: from.label, key: name, value: start, fix: "ask for bytes that it has" });
        if (from.readInto !== undefined) await from.readInto(offset + start, into);
        else into.set(await from.read(offset + start, into.length));
      },
      close: () => from.close(),
    };
  } catch (error) {
    await from.close();
    throw error;
  }
}

/**
 * Parses a whole safetensors file in memory; where a tensor is aligned its array is a view of `bytes`.
 *
 * @throws FormatError naming `label`, tensor, value and fix
 */
export function parseSafetensors(bytes: Uint8Array, label: string): ParsedSafetensors {
  const length = headerLength(bytes.subarray(0, 8), bytes.byteLength, label);
  const header = parseHeader(bytes.subarray(8, 8 + length), bytes.byteLength, label);
  const tensors = new Map<string, HostArray>();
  for (const [name, entry] of header.entries) {
    tensors.set(name, decodeEntry(name, entry, bytes.subarray(entry.offset, entry.offset + entry.byteLength), label));
  }
  return { metadata: header.metadata, tensors };
}

/**
 * The bytes of a safetensors file, in the layout of the Python library: widest element type first, then by name.
 *
 * @param metadata strings by key, such as { format: "pt" } which transformers asks for; none by default
 * @throws FormatError if a name is not allowed or an array's length is not that of its shape
 */
export function serializeSafetensors(tensors: NamedArrays, metadata?: Readonly<Record<string, string>>): Uint8Array {
  const parts = safetensorsParts(tensors, metadata);
  const file = new Uint8Array(parts.reduce((n, part) => n + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    file.set(part, at);
    at += part.byteLength;
  }
  return file;
}

/** Writes a safetensors file atomically, without a second copy in memory; errors of serializeSafetensors and writeFileAtomic. */
export async function saveSafetensors(path: string, tensors: NamedArrays, metadata?: Readonly<Record<string, string>>, options?: WriteOptions): Promise<void> {
  await writeFileAtomic(path, safetensorsParts(tensors, metadata), options);
}

/** Header and tensors as pieces for the writing functions; the pieces are views of the arrays. */
export function safetensorsParts(tensors: NamedArrays, metadata?: Readonly<Record<string, string>>): Uint8Array[] {
  const planned = sortPlanned([...pairsOf(tensors)].map(([name, array]) => ({ ...plan(name, array), array })));
  for (const [key, text] of Object.entries(metadata ?? {})) {
    if (typeof text !== "string") throw new FormatError(`safetensors: metadata "${key}" is not a string`, { op: "serializeSafetensors", key, value: text, fix: "metadata maps strings to strings" });
  }
  return [buildHeader(planned, metadata), ...planned.map(({ array }) => bytesOfArray(array.data))];
}

/** Name and array pairs of either kind of collection. */
export const pairsOf = (tensors: NamedArrays): Iterable<[string, HostArray]> => (isMap(tensors) ? tensors.entries() : Object.entries(tensors));
const isMap = (tensors: NamedArrays): tensors is ReadonlyMap<string, HostArray> => tensors instanceof Map;

function plan(name: string, array: HostArray): Planned {
  const { dtype, shape, data } = hosted(`safetensors: tensor "${name}"`, name, array);
  const bad = (problem: string, value: unknown, fix: string): FormatError => new FormatError(`safetensors: tensor "${name}" ${problem}`, { op: "serializeSafetensors", key: name, value, fix });
  if (name === "__metadata__") throw bad("has the name that the format keeps for metadata", name, "choose another name");
  if (/\p{Surrogate}/u.test(name)) throw bad("has half a surrogate pair in its name", name, "choose a name that UTF-8 can hold");
  const length = shape.reduce((n, d) => n * d, 1);
  if (length !== data.length || data.BYTES_PER_ELEMENT !== bytesOf(dtype)) {
    throw bad(`is ${dtype} [${shape.join(", ")}] but its array has ${data.length} elements of ${data.BYTES_PER_ELEMENT} bytes`, data.length, "pass an array of the shape's length and the dtype's width");
  }
  return { name, stored: storedAs[dtype], shape, byteLength: data.byteLength };
}

const decodeEntry = (name: string, entry: TensorEntry, bytes: Uint8Array, label: string): HostArray => ({
  dtype: entry.dtype,
  shape: entry.shape,
  data: decodeStored(entry.stored, bytes, entry.shape.reduce((n, d) => n * d, 1), { file: label, key: name }),
});

function entryOf(header: Header, name: string, label: string): TensorEntry {
  const entry = header.entries.get(name);
  if (entry === undefined) throw noTensor(name, label, header.entries.keys());
  return entry;
}

/** The error for a name that is not there, with the names that are most alike. */
export function noTensor(name: string, label: string, names: Iterable<string>): FormatError {
  const all = [...names];
  const last = name.split(".").slice(-2).join(".");
  const alike = all.filter((other) => other.endsWith(last));
  const shown = (alike.length > 0 ? alike : all).slice(0, 3).map((other) => `"${other}"`).join(", ");
  return new FormatError(`${label}: there is no tensor "${name}"`, { file: label, key: name, fix: all.length === 0 ? "the file holds no tensor at all" : `the file holds ${all.length} tensors, such as ${shown}` });
}
