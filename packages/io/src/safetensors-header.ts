/** The header of a safetensors file, both ways: 8 bytes of length, JSON, then the tensors without a gap. */
import { FormatError } from "@adjoint/tensor";
import type { DType } from "@adjoint/tensor";
import { parseUniqueJson } from "./json.ts";
import { isStoredDType, stored } from "./stored.ts";
import type { StoredDType } from "./stored.ts";

/** What a file says of one tensor. */
export interface TensorEntry {
  /** element type that reading gives */
  readonly dtype: DType;
  /** element type in the file */
  readonly stored: StoredDType;
  readonly shape: readonly number[];
  /** bytes in the file */
  readonly byteLength: number;
  /** first byte, counted from the start of the file */
  readonly offset: number;
}

/** A checked header. */
export interface Header {
  /** in the order in which they lie in the file */
  readonly entries: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
}

/** The format's limit (the Rust library's MAX_HEADER_SIZE). */
const MAX_HEADER = 100_000_000;
const METADATA = "__metadata__";

/** Length of the JSON part, from the file's first 8 bytes; FormatError if it cannot be that of a file of `size` bytes. */
export function headerLength(first8: Uint8Array, size: number, label: string): number {
  const bad = (problem: string, value: unknown, fix: string): FormatError => new FormatError(`${label}: ${problem}`, { file: label, key: "header length", value, fix });
  if (size < 8) throw bad(`has ${size} bytes, a safetensors file has at least 8`, size, "the file is cut or no safetensors file: get it again");
  const length = new DataView(first8.buffer, first8.byteOffset, 8).getBigUint64(0, true);
  if (length > MAX_HEADER) throw bad(`says that its header has ${length} bytes, the limit is ${MAX_HEADER}`, length, "this is no safetensors file (a PyTorch .bin must be converted first)");
  if (8 + Number(length) > size) throw bad(`says that its header has ${length} bytes but the whole file has ${size}`, length, "the file is cut: get it again");
  return Number(length);
}

/** Parses and checks the JSON part; `size` is that of the whole file. */
export function parseHeader(json: Uint8Array, size: number, label: string): Header {
  const root = asObject(parseUniqueJson(json, label), label, "the header");
  const start = 8 + json.byteLength;
  const named: [string, TensorEntry][] = [];
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(root)) {
    if (name === METADATA) metadata = checkMetadata(value, label);
    else named.push([name, checkEntry(name, value, start, label)]);
  }
  named.sort(([, a], [, b]) => a.offset - b.offset || a.byteLength - b.byteLength);
  checkContiguous(named, start, size, label);
  return { entries: new Map(named), metadata };
}

function checkEntry(name: string, value: unknown, start: number, label: string): TensorEntry {
  const bad = (problem: string, at: unknown, fix: string): FormatError =>
    new FormatError(`${label}: tensor "${name}" ${problem}`, { file: label, key: name, value: at, fix });
  const { dtype: type, shape, data_offsets: offsets, ...rest } = asObject(value, label, `tensor "${name}"`);
  const extra = Object.keys(rest);
  if (extra.length > 0) throw bad(`has the unknown key "${extra[0]}"`, rest, "known are dtype, shape, data_offsets");
  if (!isStoredDType(type)) throw bad(`has dtype ${JSON.stringify(type)}, which cannot be read`, type, `convert it to one of ${Object.keys(stored).join(", ")}`);
  if (!isSizes(shape)) throw bad(`has shape ${JSON.stringify(shape)}`, shape, "a shape is a list of whole numbers, 0 or more");
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[1] < offsets[0]) throw bad(`has data_offsets ${JSON.stringify(offsets)}`, offsets, "data_offsets are [begin, end] in bytes");
  const byteLength = offsets[1] - offsets[0];
  const expected = shape.reduce((n, d) => n * d, stored[type].size);
  if (expected !== byteLength) {
    throw bad(`takes ${byteLength} bytes but ${type} [${shape.join(", ")}] needs ${expected}`, byteLength, "shape, dtype or data_offsets are wrong: get the file again or write it anew");
  }
  return { dtype: stored[type].dtype, stored: type, shape, byteLength, offset: start + offsets[0] };
}

function checkContiguous(named: readonly [string, TensorEntry][], start: number, size: number, label: string): void {
  let end = start;
  for (const [name, entry] of named) {
    if (entry.offset !== end) {
      const problem = entry.offset < end ? "overlaps the one before it" : "leaves a gap before it";
      throw new FormatError(`${label}: tensor "${name}" begins at byte ${entry.offset - start} of the data and ${problem}, which ends at ${end - start}`, {
        file: label, key: name, value: entry.offset - start, fix: "write the file anew with a safetensors library",
      });
    }
    end += entry.byteLength;
    if (end > size) {
      throw new FormatError(`${label}: tensor "${name}" ends at byte ${end} but the file has ${size}`, { file: label, key: name, value: size, fix: "the file is cut: get it again" });
    }
  }
  if (end !== size) {
    throw new FormatError(`${label}: the file has ${size} bytes, its tensors end at ${end}`, { file: label, key: "file length", value: size, fix: "bytes were added at the end: get the file again" });
  }
}

function checkMetadata(value: unknown, label: string): Record<string, string> {
  const metadata: Record<string, string> = {};
  for (const [key, text] of Object.entries(asObject(value, label, METADATA))) {
    if (typeof text !== "string") {
      throw new FormatError(`${label}: ${METADATA}."${key}" is ${JSON.stringify(text)}, not a string`, { file: label, key: `${METADATA}.${key}`, value: text, fix: "metadata maps strings to strings" });
    }
    Object.defineProperty(metadata, key, { value: text, enumerable: true, configurable: true, writable: true }); // "__proto__" is a key like any other
  }
  return metadata;
}

function asObject(value: unknown, label: string, what: string): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return { ...value };
  throw new FormatError(`${label}: ${what} is not a JSON object`, { file: label, key: what, value, fix: "get the file again or write it anew" });
}

const isSizes = (value: unknown): value is number[] => Array.isArray(value) && value.every((n) => typeof n === "number" && Number.isSafeInteger(n) && n >= 0 && !Object.is(n, -0));

/** A tensor that is to be written. */
export interface Planned {
  readonly name: string;
  readonly stored: StoredDType;
  readonly shape: readonly number[];
  readonly byteLength: number;
}

/** Puts tensors into the order of the Rust library: widest element type first, then by name in UTF-8 order. */
export function sortPlanned<T extends Planned>(tensors: readonly T[]): T[] {
  return [...tensors].sort((a, b) => stored[a.stored].rank - stored[b.stored].rank || compareUtf8(a.name, b.name));
}

/** The header's bytes: length, then JSON padded with spaces to a multiple of 8, so that the data begins aligned. */
export function buildHeader(tensors: readonly Planned[], metadata: Readonly<Record<string, string>> | undefined): Uint8Array {
  const parts: string[] = [];
  if (metadata !== undefined) {
    const pairs = Object.entries(metadata).sort(([a], [b]) => compareUtf8(a, b)).map(([key, text]) => `${JSON.stringify(key)}:${JSON.stringify(text)}`);
    parts.push(`"${METADATA}":{${pairs.join(",")}}`);
  }
  let end = 0;
  for (const { name, stored: type, shape, byteLength } of tensors) {
    const begin = end;
    end += byteLength;
    parts.push(`${JSON.stringify(name)}:{"dtype":"${type}","shape":[${shape.join(",")}],"data_offsets":[${begin},${end}]}`);
  }
  const json = new TextEncoder().encode(`{${parts.join(",")}}`);
  const header = new Uint8Array(8 + Math.ceil(json.byteLength / 8) * 8).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(header.byteLength - 8), true);
  header.set(json, 8);
  return header;
}

/** UTF-8 order is code point order; JavaScript compares UTF-16 units, which differs for surrogates. */
function compareUtf8(a: string, b: string): number {
  const x = Array.from(a, codePoint), y = Array.from(b, codePoint);
  const i = x.findIndex((point, k) => point !== y[k]);
  if (i < 0) return x.length - y.length;
  return i >= y.length ? 1 : x[i] - y[i];
}
const codePoint = (s: string): number => s.codePointAt(0) ?? 0;
