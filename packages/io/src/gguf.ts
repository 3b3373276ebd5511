/** GGUF files: metadata and tensors in blocks, opened lazily and written piece by piece (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). */
import { FormatError } from "@adjoint/tensor";
import type { HostArray } from "@adjoint/tensor";
import { ggufBytes, ggufTypeOf, ggufTypes } from "./gguf-types.ts";
import type { GgufType } from "./gguf-types.ts";
import { GgufCursor, GgufWriter, MoreBytes } from "./gguf-values.ts";
import type { GgufValue } from "./gguf-values.ts";
import { writeFileAtomic } from "./files.ts";
import type { WriteOptions } from "./files.ts";
import { noTensor } from "./safetensors.ts";
import { sourceOf } from "./source.ts";
import type { ByteSource } from "./source.ts";
import { decodeStored, stored } from "./stored.ts";
import type { StoredDType } from "./stored.ts";

/** What a file says of one tensor. */
export interface GgufEntry {
  readonly type: GgufType;
  /** row-major: the file lists the axes from the fastest on, this is the other way round */
  readonly shape: readonly number[];
  /** bytes in the file */
  readonly byteLength: number;
  /** first byte, counted from the start of the file */
  readonly offset: number;
}

/** An open file, whose tensors are read one by one. */
export interface GgufFile {
  /** path or name, for errors */
  readonly label: string;
  readonly version: number;
  readonly alignment: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly entries: ReadonlyMap<string, GgufEntry>;
  /** The bytes of one tensor, as they lie in the file. */
  read(name: string): Promise<Uint8Array>;
  /** One tensor of a plain type (F32, F16, BF16, F64, integers); FormatError for quantized ones. */
  readArray(name: string): Promise<HostArray>;
  close(): Promise<void>;
}

const MAGIC = 0x46554747;
const VERSIONS = [2, 3];
const ALIGNMENT = 32;
/** First guess of a header's length. */
const FIRST = 1 << 16;

/**
 * Opens a GGUF file (versions 2 and 3): reads and checks metadata and tensor infos now, each tensor when it is asked for.
 *
 * @param source a path, a file: URL, a Blob, or any ByteSource
 * @throws FileError if the file cannot be read; FormatError naming file, key or tensor, value and fix if it is cut or damaged
 */
export async function openGguf(source: string | URL | Blob | ByteSource): Promise<GgufFile> {
  const from = await sourceOf(source);
  try {
    const header = await readHeader(from);
    const entryOf = (name: string): GgufEntry => {
      const entry = header.entries.get(name);
      if (entry === undefined) throw noTensor(name, from.label, header.entries.keys());
      return entry;
    };
    const read = (name: string): Promise<Uint8Array> => {
      const { offset, byteLength } = entryOf(name);
      return from.read(offset, byteLength);
    };
    return {
      label: from.label,
      ...header,
      read: async (name) => read(name),
      async readArray(name) {
        const { type, shape } = entryOf(name);
        return plain(type, shape, await read(name), name, from.label);
      },
      close: () => from.close(),
    };
  } catch (error) {
    await from.close();
    throw error;
  }
}

type Header = Pick<GgufFile, "version" | "alignment" | "metadata" | "entries">;

/** A header says its length nowhere: read four times as much until it fits. */
async function readHeader(from: ByteSource): Promise<Header> {
  for (let length = Math.min(FIRST, from.size); ; length = Math.min(4 * length, from.size)) {
    const cursor = new GgufCursor(await from.read(0, length), from.label);
    try {
      return parseHeader(cursor, from.size, from.label);
    } catch (error) {
      if (!(error instanceof MoreBytes)) throw error;
      if (length === from.size) {
        const { inside } = cursor;
        throw new FormatError(`${from.label}: the file ends after ${length} bytes, inside of its header${inside === null ? "" : ` ("${inside}")`}`, { file: from.label, key: inside ?? "file length", value: length, fix: "the file is cut: get it again" });
      }
    }
  }
}

function parseHeader(cursor: GgufCursor, size: number, label: string): Header {
  const magic = cursor.u32();
  if (magic !== MAGIC) throw new FormatError(`${label}: does not begin with "GGUF"`, { file: label, key: "magic", value: magic, fix: "this is no GGUF file: name another one" });
  const version = cursor.u32();
  if (!VERSIONS.includes(version)) throw new FormatError(`${label}: GGUF version ${version}`, { file: label, key: "version", value: version, fix: "versions 2 and 3 are read, little-endian: convert the file again" });
  const tensors = cursor.size("the number of tensors", size / 24), pairs = cursor.size("the number of metadata keys", size / 13);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < pairs; i++) {
    const key = cursor.text("a metadata key", 65535);
    if (metadata.has(key)) throw cursor.bad(key, `"${key}" is there twice`, i);
    metadata.set(key, cursor.value(key, size));
    cursor.inside = null;
  }
  const alignment = alignmentOf(metadata, label);
  const infos: [string, { readonly type: GgufType; readonly shape: readonly number[]; readonly at: number; readonly byteLength: number }][] = [];
  for (let i = 0; i < tensors; i++) infos.push(tensorInfo(cursor, size, alignment, label));
  const start = Math.ceil(cursor.at / alignment) * alignment;
  const entries = new Map<string, GgufEntry>();
  let next = 0;
  for (const [name, { type, shape, at, byteLength }] of infos) {
    if (entries.has(name)) throw cursor.bad(name, `tensor "${name}" is there twice`, name);
    const end = start + at + byteLength;
    if (end > size) throw new FormatError(`${label}: tensor "${name}" ends at byte ${end} but the file has ${size}`, { file: label, key: name, value: size, fix: "the file is cut: get it again" });
    // each begins where the one before it ends, padded, as llama.cpp asks for
    if (at !== next) throw new FormatError(`${label}: tensor "${name}" begins at byte ${at} of the data and ${at < next ? "overlaps the one before it" : "leaves a gap before it"}: ${next} was expected`, { file: label, key: name, value: at, fix: "the file is damaged, or its tensors are out of order: get it again" });
    next = padded(at + byteLength, alignment);
    entries.set(name, { type, shape, byteLength, offset: start + at });
  }
  return { version, alignment, metadata, entries };
}

function tensorInfo(cursor: GgufCursor, size: number, alignment: number, label: string): [string, { readonly type: GgufType; readonly shape: readonly number[]; readonly at: number; readonly byteLength: number }] {
  const name = cursor.text("a tensor's name", 65535), axes = cursor.u32();
  const bad = (problem: string, value: unknown, fix: string): FormatError => new FormatError(`${label}: tensor "${name}" ${problem}`, { file: label, key: name, value, fix });
  if (axes > 4) throw bad(`has ${axes} axes, GGUF allows 4`, axes, "the file is damaged: get it again");
  const shape: number[] = [];
  for (let i = 0; i < axes; i++) shape.unshift(cursor.size(`an axis of tensor "${name}"`, Number.MAX_SAFE_INTEGER));
  const id = cursor.u32(), type = ggufTypeOf(id), at = cursor.size(`the offset of tensor "${name}"`, size);
  if (type === undefined) throw bad(`has the unknown element type ${id}`, id, `known are ${Object.keys(ggufTypes).join(", ")}: convert the file to one of them`);
  const byteLength = ggufBytes(type, shape);
  if (byteLength === undefined) throw bad(`has rows of ${shape.at(-1)} elements, ${type} has blocks of ${ggufTypes[type].block}`, shape, "shape or type is wrong: get the file again");
  if (at % alignment !== 0) throw bad(`begins at byte ${at} of the data, which is no multiple of ${alignment}`, at, "the file is damaged: get it again");
  return [name, { type, shape, at, byteLength }];
}

function alignmentOf(metadata: ReadonlyMap<string, GgufValue>, label: string): number {
  const given = metadata.get("general.alignment");
  if (given === undefined) return ALIGNMENT;
  if (given.type === "u32" && typeof given.value === "number" && given.value > 0 && given.value % 8 === 0) return given.value;
  throw new FormatError(`${label}: general.alignment is ${String(given.value)}`, { file: label, key: "general.alignment", value: given.value, fix: "it is a u32, a multiple of 8" });
}

/** A plain type of GGUF as safetensors calls it. */
const storedOf: Partial<Record<GgufType, StoredDType>> = { F32: "F32", F16: "F16", BF16: "BF16", F64: "F64", I8: "I8", I16: "I16", I32: "I32", I64: "I64" };

function plain(type: GgufType, shape: readonly number[], bytes: Uint8Array, name: string, label: string): HostArray {
  const as = storedOf[type];
  if (as === undefined) throw new FormatError(`${label}: tensor "${name}" is ${type}`, { file: label, key: name, value: type, fix: "read its blocks and decode them: fromGguf or decodeGguf of @adjoint/quant" });
  return { dtype: stored[as].dtype, shape, data: decodeStored(as, bytes, shape.reduce((n, d) => n * d, 1), { file: label, key: name }) };
}

/** A tensor that is to be written: its bytes are those of `type`, row by row. */
export interface GgufTensor {
  readonly name: string;
  readonly type: GgufType;
  /** row-major */
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** Metadata to write: values with their types, or strings and truth values, which say it themselves. */
export type GgufMetadata = Readonly<Record<string, GgufValue | string | boolean>> | ReadonlyMap<string, GgufValue>;

/**
 * The pieces of a GGUF file, version 3: header, then each tensor padded to the alignment; the bytes are those that gguf-py writes.
 *
 * @param metadata `general.alignment` is obeyed where it is given (default 32)
 * @throws FormatError naming the tensor if its bytes are not those of its type and shape; ConfigError naming a key whose value its type cannot hold
 */
export function ggufParts(metadata: GgufMetadata, tensors: readonly GgufTensor[]): Uint8Array[] {
  const pairs = new Map([...(isMap(metadata) ? metadata : Object.entries(metadata))].map(([key, value]) => [key, typed(value)] as const));
  const alignment = alignmentOf(pairs, "gguf"), header = new GgufWriter(), names = new Set<string>();
  header.u32(MAGIC);
  header.u32(3);
  header.size(tensors.length);
  header.size(pairs.size);
  for (const [key, value] of pairs) {
    header.text(key);
    header.value(key, value);
  }
  let at = 0;
  for (const { name, type, shape, bytes } of tensors) {
    const bad = (problem: string, value: unknown, fix: string): FormatError => new FormatError(`gguf: tensor "${name}" ${problem}`, { op: "ggufParts", key: name, value, fix });
    if (names.has(name)) throw bad("is there twice", name, "choose another name");
    names.add(name);
    const expected = ggufBytes(type, shape);
    if (expected === undefined) throw bad(`has rows of ${shape.at(-1)} elements, ${type} has blocks of ${ggufTypes[type].block}`, shape, "store it as F16 or F32");
    if (expected !== bytes.byteLength) throw bad(`has ${bytes.byteLength} bytes, ${type} [${shape.join(", ")}] needs ${expected}`, bytes.byteLength, "pass the bytes of this type and shape");
    if (shape.length > 4) throw bad(`has ${shape.length} axes, GGUF allows 4`, shape, "join some of its axes");
    header.text(name);
    header.u32(shape.length);
    for (const axis of [...shape].reverse()) header.size(axis);
    header.u32(ggufTypes[type].id);
    header.size(at);
    at += padded(expected, alignment);
  }
  const parts = [pad(header.bytes(), alignment)];
  for (const { bytes } of tensors) {
    parts.push(bytes);
    if (bytes.byteLength % alignment !== 0) parts.push(new Uint8Array(padded(bytes.byteLength, alignment) - bytes.byteLength));
  }
  return parts;
}

const isMap = (metadata: GgufMetadata): metadata is ReadonlyMap<string, GgufValue> => metadata instanceof Map;
const typed = (value: GgufValue | string | boolean): GgufValue => (typeof value === "string" ? { type: "string", value } : typeof value === "boolean" ? { type: "bool", value } : value);
const padded = (length: number, alignment: number): number => Math.ceil(length / alignment) * alignment;
function pad(bytes: Uint8Array, alignment: number): Uint8Array {
  const whole = new Uint8Array(padded(bytes.byteLength, alignment));
  whole.set(bytes);
  return whole;
}

/** Writes a GGUF file atomically; errors of ggufParts and writeFileAtomic. */
export async function saveGguf(path: string, metadata: GgufMetadata, tensors: readonly GgufTensor[], options?: WriteOptions): Promise<void> {
  await writeFileAtomic(path, ggufParts(metadata, tensors), options);
}
