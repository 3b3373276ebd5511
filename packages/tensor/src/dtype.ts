/** Element types: sizes, host arrays, conversions with round to nearest even. */
import { DTypeError } from "./errors.ts";

export type DType = "f64" | "f32" | "f16" | "bf16" | "i32" | "u32" | "u8" | "i8" | "bool";

/** Host storage of a tensor; f16 and bf16 are raw bits in a Uint16Array, bool is 0 or 1 in a Uint8Array. */
export type TypedArray = Float64Array | Float32Array | Uint16Array | Int32Array | Uint32Array | Uint8Array | Int8Array;

/** A tensor that lives on the host: what files hold and what devices read and write. */
export interface HostArray {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TypedArray;
}

export const dtypes: readonly DType[] = ["f64", "f32", "f16", "bf16", "i32", "u32", "u8", "i8", "bool"];
const sizes: Record<DType, number> = { f64: 8, f32: 4, f16: 2, bf16: 2, i32: 4, u32: 4, u8: 1, i8: 1, bool: 1 };

/** Bytes of one element. */
export const bytesOf = (dtype: DType): number => sizes[dtype];
export const isFloat = (dtype: DType): boolean => dtype === "f64" || dtype === "f32" || dtype === "f16" || dtype === "bf16";
export const isHalf = (dtype: DType): boolean => dtype === "f16" || dtype === "bf16";

/** A zeroed host array of `length` elements. */
export function hostArray(dtype: DType, length: number): TypedArray {
  switch (dtype) {
    case "f64": return new Float64Array(length);
    case "f32": return new Float32Array(length);
    case "f16": case "bf16": return new Uint16Array(length);
    case "i32": return new Int32Array(length);
    case "u32": return new Uint32Array(length);
    case "u8": case "bool": return new Uint8Array(length);
    case "i8": return new Int8Array(length);
    default: return dtype satisfies never;
  }
}

/** A typed view of bytes; `byteOffset` must be a multiple of the element size. */
export function viewBytes(dtype: DType, buffer: ArrayBufferLike, byteOffset: number, length: number): TypedArray {
  switch (dtype) {
    case "f64": return new Float64Array(buffer, byteOffset, length);
    case "f32": return new Float32Array(buffer, byteOffset, length);
    case "f16": case "bf16": return new Uint16Array(buffer, byteOffset, length);
    case "i32": return new Int32Array(buffer, byteOffset, length);
    case "u32": return new Uint32Array(buffer, byteOffset, length);
    case "u8": case "bool": return new Uint8Array(buffer, byteOffset, length);
    case "i8": return new Int8Array(buffer, byteOffset, length);
    default: return dtype satisfies never;
  }
}

/** The dtype that a typed array stands for by itself (a Uint16Array is ambiguous: say f16 or bf16). */
export function dtypeOfArray(data: TypedArray): DType {
  if (data instanceof Float32Array) return "f32";
  if (data instanceof Float64Array) return "f64";
  if (data instanceof Int32Array) return "i32";
  if (data instanceof Uint32Array) return "u32";
  if (data instanceof Int8Array) return "i8";
  if (data instanceof Uint8Array) return "u8";
  throw new DTypeError("a Uint16Array may hold f16 or bf16", { fix: 'pass the dtype: tensor(bits, { dtype: "f16" })' });
}

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

/** Number to IEEE binary16 bits, round to nearest, ties to even (one rounding from f64). */
export function toF16(x: number): number {
  if (Number.isNaN(x)) return 0x7e00;
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const a = Math.abs(x);
  if (a >= 65520) return sign | 0x7c00;
  if (a < 2 ** -14) return sign | roundEven(a * 2 ** 24);            // subnormal: units of 2^-24 (may carry into the first normal)
  const e = exponentOf(a);
  return sign | (((e + 15) << 10) + (roundEven(a * 2 ** (10 - e)) - 1024)); // a carry out of the mantissa raises the exponent
}

/** IEEE binary16 bits to number (exact). */
export function fromF16(bits: number): number {
  const s = bits & 0x8000 ? -1 : 1, e = (bits >> 10) & 31, m = bits & 1023;
  if (e === 31) return m ? NaN : s * Infinity;
  return e === 0 ? s * m * 2 ** -24 : s * (1024 + m) * 2 ** (e - 25);
}

/** Number to bfloat16 bits, round to nearest, ties to even (through f32, as every device does). */
export function toBf16(x: number): number {
  f32[0] = x;
  const b = u32[0];
  if ((b & 0x7fffffff) > 0x7f800000) return ((b >>> 16) | 0x40) & 0xffff;
  return ((b + 0x7fff + ((b >>> 16) & 1)) >>> 16) & 0xffff;
}

/** bfloat16 bits to number (exact). */
export function fromBf16(bits: number): number {
  u32[0] = (bits & 0xffff) << 16;
  return f32[0];
}

function exponentOf(a: number): number {
  f32[0] = a;
  let e = ((u32[0] >>> 23) & 255) - 127;
  if (a >= 2 ** (e + 1)) e++; else if (a < 2 ** e) e--;
  return e;
}
function roundEven(x: number): number {
  const f = Math.floor(x), d = x - f;
  return d > 0.5 || (d === 0.5 && (f & 1) === 1) ? f + 1 : f;
}

/** Rounds a number to what `dtype` can hold: floats to nearest even; f32 to integer truncates and saturates; NaN becomes 0. */
export function roundTo(dtype: DType, x: number): number {
  switch (dtype) {
    case "f64": return x;
    case "f32": return Math.fround(x);
    case "f16": return fromF16(toF16(x));
    case "bf16": return fromBf16(toBf16(x));
    case "i32": return saturate(x, -2147483648, 2147483647);
    case "u32": return saturate(x, 0, 4294967295);
    case "u8": return saturate(x, 0, 255);
    case "i8": return saturate(x, -128, 127);
    case "bool": return x !== 0 ? 1 : 0;
    default: return dtype satisfies never;
  }
}
const saturate = (x: number, lo: number, hi: number): number => (Number.isNaN(x) ? 0 : Math.min(hi, Math.max(lo, Math.trunc(x))));

/** Number to the element that a host array of this dtype stores. */
export function encode(dtype: DType, x: number): number {
  return dtype === "f16" ? toF16(x) : dtype === "bf16" ? toBf16(x) : roundTo(dtype, x);
}
/** Stored element to number. */
export function decode(dtype: DType, stored: number): number {
  return dtype === "f16" ? fromF16(stored) : dtype === "bf16" ? fromBf16(stored) : stored;
}

/** Converts a host array; same dtype returns a copy. Element by element `encode(to, decode(from, x))`, which pairs of float types have loops of their own for. */
export function convertArray(data: TypedArray, from: DType, to: DType): TypedArray {
  if (data instanceof Uint16Array && (from === "f16" || from === "bf16") && (to === "f32" || to === "f64")) {
    const wide = widenHalves(data, from);
    return to === "f32" ? wide : new Float64Array(wide);
  }
  const out = hostArray(to, data.length);
  if (from === to || (data instanceof Float32Array && to === "f64") || (data instanceof Float64Array && to === "f32")) out.set(data);
  else if (data instanceof Float32Array && out instanceof Uint16Array) (to === "f16" ? narrowF16 : narrowBf16)(new Uint32Array(data.buffer, data.byteOffset, data.length), out);
  else for (let i = 0; i < data.length; i++) out[i] = encode(to, decode(from, data[i]));
  return out;
}

let table: Float32Array | undefined;
/** The values of halves, exactly. */
export function widenHalves(data: Uint16Array, dtype: "f16" | "bf16"): Float32Array {
  const out = new Float32Array(data.length), bits = new Uint32Array(out.buffer);
  if (dtype === "bf16") for (let i = 0; i < data.length; i++) bits[i] = data[i] << 16;
  else for (let i = 0, value = (table ??= Float32Array.from({ length: 65536 }, (_, half) => fromF16(half))); i < data.length; i++) out[i] = value[data[i]];
  return out;
}

const NAN = 0x7f800000;
/** `toF16` of the bits of f32 numbers. */
function narrowF16(words: Uint32Array, out: Uint16Array): void {
  for (let i = 0; i < words.length; i++) {
    const a = words[i] & 0x7fffffff, sign = (words[i] >>> 16) & 0x8000;
    if (a >= 0x477ff000) out[i] = a > NAN ? 0x7e00 : sign | 0x7c00;           // from 65520 on
    else if (a >= 0x38800000) out[i] = sign | ((a + 0xfff + ((a >>> 13) & 1) - 0x38000000) >>> 13);
    else {                                                                   // below 2^-14, in units of 2^-24, which is what an f32 has left beside 1/2
      u32[0] = a;
      f32[0] += 0.5;
      out[i] = sign | (u32[0] - 0x3f000000);
    }
  }
}
/** `toBf16` of the bits of f32 numbers. */
function narrowBf16(words: Uint32Array, out: Uint16Array): void {
  for (let i = 0; i < words.length; i++) {
    const b = words[i];
    out[i] = (b & 0x7fffffff) > NAN ? (b >>> 16) | 0x40 : (b + 0x7fff + ((b >>> 16) & 1)) >>> 16;
  }
}
