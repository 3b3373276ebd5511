/** The values of a GGUF file's metadata, both ways, and the reader of its header. */
import { ConfigError, FormatError } from "@adjoint/tensor";

/** Types of numbers, in the order of their codes 0 to 12 ("bool", "string" and "array" among them). */
const kinds = ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"] as const;
export type GgufKind = (typeof kinds)[number];
export type GgufScalar = Exclude<GgufKind, "array">;

/** A value with its type. 64-bit integers are numbers where these are exact, else bigints. */
export type GgufValue =
  | { readonly type: GgufScalar; readonly value: GgufPlain }
  | { readonly type: "array"; readonly of: GgufScalar; readonly value: readonly GgufPlain[] };
export type GgufPlain = number | bigint | boolean | string;

/** Bytes of one number. */
const widths: Readonly<Record<Exclude<GgufScalar, "string">, number>> = { u8: 1, i8: 1, u16: 2, i16: 2, u32: 4, i32: 4, f32: 4, bool: 1, u64: 8, i64: 8, f64: 8 };

/** Thrown when the bytes at hand end before the header does; the caller reads more. */
export class MoreBytes extends Error {}

/** Reads a header from its first bytes on. */
export class GgufCursor {
  at = 0;
  /** the key whose value is being read, for errors */
  inside: string | null = null;
  private readonly view: DataView;
  private readonly decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  private readonly bytes: Uint8Array;
  private readonly label: string;
  constructor(bytes: Uint8Array, label: string) {
    this.bytes = bytes;
    this.label = label;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
  private take(length: number): number {
    const from = this.at;
    if (from + length > this.bytes.byteLength) throw new MoreBytes();
    this.at = from + length;
    return from;
  }
  bad(key: string, problem: string, value: unknown): FormatError {
    return new FormatError(`${this.label}: ${problem}`, { file: this.label, key, value, fix: "the file is cut or damaged: get it again" });
  }
  number(type: Exclude<GgufScalar, "string">, key: string): number | bigint | boolean {
    const at = this.take(widths[type]), { view } = this;
    switch (type) {
      case "u8": return view.getUint8(at);
      case "i8": return view.getInt8(at);
      case "u16": return view.getUint16(at, true);
      case "i16": return view.getInt16(at, true);
      case "u32": return view.getUint32(at, true);
      case "i32": return view.getInt32(at, true);
      case "f32": return view.getFloat32(at, true);
      case "f64": return view.getFloat64(at, true);
      case "u64": return exact(view.getBigUint64(at, true));
      case "i64": return exact(view.getBigInt64(at, true));
      case "bool": {
        const byte = view.getUint8(at);
        if (byte > 1) throw this.bad(key, `"${key}" is a truth value and holds ${byte}`, byte);
        return byte === 1;
      }
      default: return type satisfies never;
    }
  }
  u32(): number {
    return this.view.getUint32(this.take(4), true);
  }
  /** A count or size; more than `limit` cannot be. */
  size(key: string, limit: number): number {
    const value = this.view.getBigUint64(this.take(8), true);
    if (value > BigInt(Math.floor(limit))) throw this.bad(key, `${key} is ${value}, more than the file can hold`, value);
    return Number(value);
  }
  text(key: string, limit: number): string {
    const length = this.size(`the length of ${key}`, limit), from = this.take(length);
    try {
      return this.decoder.decode(this.bytes.subarray(from, from + length));
    } catch {
      throw this.bad(key, `${key} is not UTF-8`, length);
    }
  }
  value(key: string, limit: number): GgufValue {
    this.inside = key;
    const type = this.kind(key);
    if (type !== "array") return { type, value: this.scalar(type, key, limit) };
    const of = this.kind(key);
    if (of === "array") throw new FormatError(`${this.label}: "${key}" is an array of arrays`, { file: this.label, key, fix: "write it as one array: nested ones are not supported" });
    const count = this.size(`the length of "${key}"`, limit / (of === "string" ? 8 : widths[of]));
    if (of === "string") return { type, of, value: this.texts(key, count) };
    const value: GgufPlain[] = [];
    for (let i = 0; i < count; i++) value.push(this.number(of, key));
    return { type, of, value };
  }
  /** Many strings: their bytes are gathered, decoded at once and cut again, since a decoder's call costs more than a short string. */
  private texts(key: string, count: number): string[] {
    const { bytes, view } = this, ends = new Uint32Array(count), from = this.at;
    let at = from;
    for (let i = 0; i < count; i++) {
      if (at + 8 > bytes.byteLength) throw new MoreBytes();
      const length = view.getUint32(at, true);
      if (view.getUint32(at + 4, true) !== 0) throw this.bad(key, `entry ${i} of "${key}" is longer than the file`, view.getBigUint64(at, true));
      at += 8 + length;
      if (at > bytes.byteLength) throw new MoreBytes();
    }
    const all = new Uint8Array(at - from - 8 * count);
    let to = 0;
    at = from;
    for (let i = 0, units = 0; i < count; i++) {
      const end = at + 8 + view.getUint32(at, true);
      if (end > at + 8 && (bytes[at + 8] & 0xc0) === 0x80) throw this.bad(key, `entry ${i} of "${key}" is not UTF-8`, i);
      for (at += 8; at < end; at++) {
        const byte = bytes[at];
        all[to++] = byte;
        if ((byte & 0xc0) !== 0x80) units += byte >= 0xf0 ? 2 : 1;                // UTF-16 units of the character that begins here
      }
      ends[i] = units;
    }
    this.at = at;
    let text: string;
    try {
      text = this.decoder.decode(all);
    } catch {
      throw this.bad(key, `"${key}" is not UTF-8`, count);
    }
    const found: string[] = [];
    for (let i = 0, start = 0; i < count; start = ends[i++]) found.push(text.slice(start, ends[i]));
    return found;
  }
  private scalar(type: GgufScalar, key: string, limit: number): GgufPlain {
    return type === "string" ? this.text(`"${key}"`, limit) : this.number(type, key);
  }
  private kind(key: string): GgufKind {
    const code = this.u32();
    if (code >= kinds.length) throw this.bad(key, `"${key}" has a value of the unknown type ${code}`, code);
    return kinds[code];
  }
}
const exact = (value: bigint): number | bigint => (value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value);

/** Writes a header. */
export class GgufWriter {
  private readonly parts: Uint8Array[] = [];
  private put(length: number, set: (view: DataView) => void): void {
    const bytes = new Uint8Array(length);
    set(new DataView(bytes.buffer));
    this.parts.push(bytes);
  }
  u32(value: number): void {
    this.put(4, (view) => view.setUint32(0, value, true));
  }
  size(value: number): void {
    this.put(8, (view) => view.setBigUint64(0, BigInt(value), true));
  }
  text(value: string): void {
    const bytes = new TextEncoder().encode(value);
    this.size(bytes.byteLength);
    this.parts.push(bytes);
  }
  value(key: string, given: GgufValue): void {
    this.u32(kinds.indexOf(given.type));
    if (given.type !== "array") return this.scalar(key, given.type, given.value);
    this.u32(kinds.indexOf(given.of));
    this.size(given.value.length);
    if (given.of === "string") return this.texts(key, given.value);
    for (const value of given.value) this.scalar(key, given.of, value);
  }
  /** Many strings into one piece, of at most three bytes a UTF-16 unit. */
  private texts(key: string, values: readonly GgufPlain[]): void {
    let most = 0;
    for (const value of values) {
      if (typeof value !== "string") throw notOf(key, "string", value);
      most += 8 + 3 * value.length;
    }
    const all = new Uint8Array(most), view = new DataView(all.buffer), encoder = new TextEncoder();
    let at = 0;
    for (const value of values) {
      const { written } = encoder.encodeInto(String(value), all.subarray(at + 8));
      view.setBigUint64(at, BigInt(written), true);
      at += 8 + written;
    }
    this.parts.push(all.subarray(0, at));
  }
  private scalar(key: string, type: GgufScalar, value: GgufPlain): void {
    if (type === "string") {
      if (typeof value !== "string") throw notOf(key, type, value);
      return this.text(value);
    }
    if (typeof value === "string" || (typeof value === "boolean") !== (type === "bool") || !holds(type, value)) throw notOf(key, type, value);
    this.put(widths[type], (view) => {
      switch (type) {
        case "u8": case "bool": return view.setUint8(0, Number(value));
        case "i8": return view.setInt8(0, Number(value));
        case "u16": return view.setUint16(0, Number(value), true);
        case "i16": return view.setInt16(0, Number(value), true);
        case "u32": return view.setUint32(0, Number(value), true);
        case "i32": return view.setInt32(0, Number(value), true);
        case "f32": return view.setFloat32(0, Number(value), true);
        case "f64": return view.setFloat64(0, Number(value), true);
        case "u64": return view.setBigUint64(0, BigInt(value), true);
        case "i64": return view.setBigInt64(0, BigInt(value), true);
        default: return type satisfies never;
      }
    });
  }
  bytes(): Uint8Array {
    const all = new Uint8Array(this.parts.reduce((n, part) => n + part.byteLength, 0));
    let at = 0;
    for (const part of this.parts) {
      all.set(part, at);
      at += part.byteLength;
    }
    return all;
  }
}

const notOf = (key: string, type: GgufScalar, value: GgufPlain): ConfigError => new ConfigError(`gguf: "${key}" is ${String(value)}, no ${type}`, { op: "ggufParts", key, value, fix: `give a value that ${type} can hold` });

/** Whether an integer type holds this value; floats hold any. */
function holds(type: Exclude<GgufScalar, "string">, value: number | bigint | boolean): boolean {
  if (type === "bool" || type === "f32" || type === "f64") return typeof value !== "bigint";
  if (typeof value === "number" && !Number.isSafeInteger(value)) return false;
  const bits = BigInt(widths[type] * 8), low = type.startsWith("i") ? -(1n << (bits - 1n)) : 0n, high = type.startsWith("i") ? (1n << (bits - 1n)) - 1n : (1n << bits) - 1n;
  return BigInt(value) >= low && BigInt(value) <= high;
}
