/** NumPy's .npy files, both ways (format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html). */
import { bytesOf, FormatError, hostArray } from "@adjoint/tensor";
import type { DType, HostArray, TypedArray } from "@adjoint/tensor";
import { writeFileAtomic } from "./files.ts";
import type { WriteOptions } from "./files.ts";
import { fileSource } from "./source.ts";
import { bytesOfArray, decodeStored, hosted, stored } from "./stored.ts";
import type { StoredDType } from "./stored.ts";

const descriptors: Readonly<Record<string, StoredDType>> = {
  "<f8": "F64", "<f4": "F32", "<f2": "F16", "<i8": "I64", "<i4": "I32", "<i2": "I16", "|i1": "I8", "<u8": "U64", "<u4": "U32", "<u2": "U16", "|u1": "U8", "|b1": "BOOL",
};
const written: Readonly<Record<DType, string | undefined>> = { f64: "<f8", f32: "<f4", f16: "<f2", bf16: undefined, i32: "<i4", u32: "<u4", u8: "|u1", i8: "|i1", bool: "|b1" };
const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];

/**
 * Parses an .npy file; Fortran order is put into row-major order, I64 and I16 become i32, U64 and U16 u32.
 *
 * @throws FormatError naming `label`, value and fix
 */
export function parseNpy(bytes: Uint8Array, label: string): HostArray {
  const bad = (key: string, value: unknown, problem: string, fix: string): FormatError => new FormatError(`${label}: ${problem}`, { file: label, key, value, fix });
  if (bytes.byteLength < 10 || MAGIC.some((byte, i) => bytes[i] !== byte)) throw bad("magic", undefined, "does not begin as an .npy file does", "name an .npy file (an .npz is a zip of them)");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = bytes[6];
  if (version < 1 || version > 3) throw bad("version", version, `has .npy version ${version}`, "known are 1, 2 and 3");
  const begin = version === 1 ? 10 : 12;
  const cut = (at: number): FormatError => bad("file length", bytes.byteLength, `has ${bytes.byteLength} bytes, ${at} were expected`, "the file is cut or has bytes added: get it again");
  if (bytes.byteLength < begin) throw cut(begin);
  const start = begin + (version === 1 ? view.getUint16(8, true) : view.getUint32(8, true));
  if (bytes.byteLength < start) throw cut(start);
  const header = new TextDecoder("utf-8").decode(bytes.subarray(begin, start));
  const { type, fortran, shape } = parseNpyHeader(header, label);
  const length = shape.reduce((n, d) => n * d, 1);
  if (bytes.byteLength !== start + length * stored[type].size) throw cut(start + length * stored[type].size);
  const data = decodeStored(type, bytes.subarray(start), length, { file: label, key: "data" });
  return { dtype: stored[type].dtype, shape, data: fortran && shape.length > 1 ? toRowMajor(stored[type].dtype, data, shape) : data };
}

/** The bytes of an .npy file (version 1); bf16 has no such type and throws FormatError. */
export function serializeNpy(array: HostArray): Uint8Array {
  const parts = npyParts(array);
  const file = new Uint8Array(parts[0].byteLength + parts[1].byteLength);
  file.set(parts[0]);
  file.set(parts[1], parts[0].byteLength);
  return file;
}

/** Reads an .npy file; FileError if it cannot be read, FormatError if it is damaged. */
export async function readNpy(path: string | URL): Promise<HostArray> {
  const source = await fileSource(path);
  try {
    return parseNpy(await source.read(0, source.size), source.label);
  } finally {
    await source.close();
  }
}

/** Writes an .npy file atomically. */
export async function saveNpy(path: string, array: HostArray, options?: WriteOptions): Promise<void> {
  await writeFileAtomic(path, npyParts(array), options);
}

function npyParts(array: HostArray): [Uint8Array, Uint8Array] {
  const { dtype, shape, data } = hosted("npy: what is written", "array", array);
  const descriptor = written[dtype];
  if (descriptor === undefined) throw new FormatError(`npy: NumPy has no ${dtype}`, { op: "serializeNpy", key: "dtype", value: dtype, fix: "convert to f32, or write safetensors" });
  const length = shape.reduce((n, d) => n * d, 1);
  if (length !== data.length || data.BYTES_PER_ELEMENT !== bytesOf(dtype)) {
    throw new FormatError(`npy: ${dtype} [${shape.join(", ")}] but the array has ${data.length} elements of ${data.BYTES_PER_ELEMENT} bytes`, { op: "serializeNpy", key: "shape", value: data.length, fix: "pass an array of the shape's length and the dtype's width" });
  }
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(", ")})`;
  const text = `{'descr': '${descriptor}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const total = Math.max(128, Math.ceil((10 + text.length + 1) / 64) * 64); // as NumPy: aligned to 64 bytes, with room to grow
  const header = new Uint8Array(total).fill(0x20);
  header.set(MAGIC);
  header.set([1, 0], 6);
  new DataView(header.buffer).setUint16(8, total - 10, true);
  header.set(new TextEncoder().encode(text), 10);
  header[total - 1] = 0x0a;
  return [header, bytesOfArray(data)];
}

function parseNpyHeader(header: string, label: string): { type: StoredDType; fortran: boolean; shape: number[] } {
  const bad = (key: string, value: unknown, fix: string): FormatError => new FormatError(`${label}: the header's ${key} is ${JSON.stringify(value)}`, { file: label, key, value, fix });
  const match = /^\{\s*((?:'(?:descr|fortran_order|shape)':\s*(?:'[^']*'|True|False|\([\d, ]*\)),?\s*){3})\}\s*$/.exec(header);
  if (match === null) throw bad("text", header.slice(0, 120), "structured and object arrays cannot be read: save a plain array");
  const descr = /'descr':\s*'([^']*)'/.exec(match[1])?.[1];
  const fortran = /'fortran_order':\s*(True|False)/.exec(match[1])?.[1];
  const sizes = /'shape':\s*\(([\d, ]*)\)/.exec(match[1])?.[1];
  if (descr === undefined || !Object.hasOwn(descriptors, descr)) throw bad("descr", descr, `save it as one of ${Object.keys(descriptors).join(" ")}, for example with array.astype("<f4")`);
  if (fortran === undefined) throw bad("fortran_order", fortran, "True or False");
  if (sizes === undefined) throw bad("shape", sizes, "a tuple of whole numbers");
  const parts = sizes.split(",").map((part) => part.trim());
  if (parts[parts.length - 1] === "") parts.pop(); // (3,) and ()
  const shape = parts.map((part) => (/^\d+$/.test(part) ? Number(part) : NaN));
  if (!shape.every(Number.isSafeInteger)) throw bad("shape", sizes, "a tuple of whole numbers");
  return { type: descriptors[descr], fortran: fortran === "True", shape };
}

/** Column-major to row-major: element i of the result has row-major index i. */
function toRowMajor(dtype: DType, data: TypedArray, shape: readonly number[]): TypedArray {
  const out = hostArray(dtype, data.length);
  const index = shape.map(() => 0);
  const strides = shape.map((_, axis) => shape.slice(0, axis).reduce((n, d) => n * d, 1));
  for (let i = 0, from = 0; i < out.length; i++) {
    out[i] = data[from];
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis];
      if (++index[axis] < shape[axis]) break;
      from -= strides[axis] * shape[axis];
      index[axis] = 0;
    }
  }
  return out;
}
