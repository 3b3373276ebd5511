/** How each element type of a file becomes a host array: widths, exact widening, range checks, alignment. */
import { bytesOf, ConfigError, FormatError, hostArray, viewBytes } from "@adjoint/tensor";
import type { DType, HostArray, TypedArray } from "@adjoint/tensor";

/** Element types of safetensors that can be read. */
export type StoredDType = "F64" | "F32" | "F16" | "BF16" | "I64" | "I32" | "I16" | "I8" | "U64" | "U32" | "U16" | "U8" | "BOOL";

interface Stored {
  /** bytes of one stored element */
  readonly size: number;
  /** what a read gives */
  readonly dtype: DType;
  /** place in the order in which writers lay out tensors (the Rust library's: widest first) */
  readonly rank: number;
  /** reads one element where the stored form is not the host form */
  readonly widen?: (view: DataView, at: number) => number | bigint;
}

/** One row an element type; U64 and I64 become 32-bit integers when every value fits. */
export const stored: Readonly<Record<StoredDType, Stored>> = {
  U64: { size: 8, dtype: "u32", rank: 0, widen: (view, at) => view.getBigUint64(at, true) },
  I64: { size: 8, dtype: "i32", rank: 1, widen: (view, at) => view.getBigInt64(at, true) },
  F64: { size: 8, dtype: "f64", rank: 2 },
  F32: { size: 4, dtype: "f32", rank: 3 },
  U32: { size: 4, dtype: "u32", rank: 4 },
  I32: { size: 4, dtype: "i32", rank: 5 },
  BF16: { size: 2, dtype: "bf16", rank: 6 },
  F16: { size: 2, dtype: "f16", rank: 7 },
  U16: { size: 2, dtype: "u32", rank: 8, widen: (view, at) => view.getUint16(at, true) },
  I16: { size: 2, dtype: "i32", rank: 9, widen: (view, at) => view.getInt16(at, true) },
  I8: { size: 1, dtype: "i8", rank: 10 },
  U8: { size: 1, dtype: "u8", rank: 11 },
  BOOL: { size: 1, dtype: "bool", rank: 12 },
};

/** The stored type of each host type. */
export const storedAs: Readonly<Record<DType, StoredDType>> = {
  f64: "F64", f32: "F32", f16: "F16", bf16: "BF16", i32: "I32", u32: "U32", u8: "U8", i8: "I8", bool: "BOOL",
};

/** Whether a name in a header is an element type that can be read. */
export const isStoredDType = (name: unknown): name is StoredDType => typeof name === "string" && Object.hasOwn(stored, name);

/** Names what is read, for errors. */
export interface Place {
  readonly file: string;
  readonly key: string;
}

/**
 * Little-endian bytes as a host array of `length` elements: a view where the form is the host's and aligned, else a copy.
 *
 * Integers of 16 and 64 bits become 32-bit ones.
 * @throws FormatError if a 64-bit integer does not fit in 32 bits or a BOOL is neither 0 nor 1
 */
export function decodeStored(type: StoredDType, bytes: Uint8Array, length: number, place: Place): TypedArray {
  const { dtype, widen } = stored[type];
  if (widen === undefined) {
    const data = aligned(dtype, bytes, length);
    if (dtype === "bool") checkBooleans(data, place);
    return data;
  }
  const { size } = stored[type];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [low, high] = dtype === "i32" ? [-2147483648, 2147483647] : [0, 4294967295];
  const data = hostArray(dtype, length);
  for (let i = 0; i < length; i++) {
    const value = widen(view, i * size);
    if (value < low || value > high) {
      throw new FormatError(`${place.file}: tensor "${place.key}" is ${type} and element ${i} is ${value}, outside of ${dtype}'s [${low}, ${high}]`, {
        ...place, value, fix: `store values that fit in 32 bits (${dtype === "i32" ? "I32" : "U32"})`,
      });
    }
    data[i] = Number(value);
  }
  return data;
}

/** The bytes of a host array, without a copy. */
export function bytesOfArray(data: TypedArray): Uint8Array {
  return littleEndian() ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : refuseBigEndian();
}

function aligned(dtype: DType, bytes: Uint8Array, length: number): TypedArray {
  if (!littleEndian()) refuseBigEndian();
  const { buffer, byteOffset } = bytes.byteOffset % bytesOf(dtype) === 0 ? bytes : bytes.slice();
  return viewBytes(dtype, buffer, byteOffset, length);
}

function checkBooleans(data: TypedArray, place: Place): void {
  const bad = data.findIndex((value) => value > 1);
  if (bad >= 0) throw new FormatError(`${place.file}: tensor "${place.key}" is BOOL and element ${bad} is ${data[bad]}`, { ...place, value: data[bad], fix: "store 0 or 1, or use U8" });
}

const littleEndian = (): boolean => new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;
function refuseBigEndian(): never {
  throw new FormatError("tensor files are little-endian and this machine is not", { fix: "use a little-endian machine" });
}

/** Refuses what is no array of the host: tensors above all. @throws ConfigError */
export function hosted(what: string, key: string, array: HostArray): HostArray {
  const given: unknown = array, data: unknown = typeof given === "object" && given !== null && "data" in given ? given.data : undefined;
  if (ArrayBuffer.isView(data)) return array;
  throw new ConfigError(`${what} is no array of the host`, { op: "write", key, fix: "pass { dtype, shape, data }; of a tensor or a store, await t.host()" });
}
