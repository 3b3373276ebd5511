/** Blocks of GGUF files to quantized tensors and back, bit for bit (where the bits lie: gguf-layouts.ts). */
import { ConfigError, FormatError, fromF16, toF16 } from "@adjoint/tensor";
import { dequantize } from "./dequantize.ts";
import { formats } from "./format.ts";
import type { FormatName } from "./format.ts";
import { bitsOf, ggufLayouts } from "./gguf-layouts.ts";
import type { Bits, GgufBlockType, GgufLayout } from "./gguf-layouts.ts";
import { called, checkQuantized, sizeOf } from "./quantized.ts";
import type { Named, Quantized, Scales } from "./quantized.ts";
import { identity } from "./tables.ts";

export type { GgufBlockType } from "./gguf-layouts.ts";

/** GGUF's quantized types that are read here. */
export const decodedGgufTypes: readonly string[] = Object.keys(ggufLayouts);

/** Whether tensors of this GGUF type can be read as codes (fromGguf). */
export const isGgufBlockType = (type: string): type is GgufBlockType => Object.hasOwn(ggufLayouts, type);

const typeOf: ReadonlyMap<FormatName, GgufBlockType> = new Map(decodedGgufTypes.filter(isGgufBlockType).map((type) => [ggufLayouts[type].format, type] as const));
/** The GGUF type in which a quantized tensor is written without loss; null: its format is not one of GGUF's. */
export const ggufTypeOfQuantized = ({ format }: Pick<Quantized, "format">): GgufBlockType | null => typeOf.get(format.name) ?? null;

/** How the numbers of a block are read and written. */
interface Codec { readonly code: Bits; readonly scale: Bits | null; readonly min: Bits | null; /** sub-blocks */ readonly parts: number }
const codecs = new Map<GgufBlockType, Codec>();
function codecOf(type: GgufBlockType): Codec {
  const known = codecs.get(type);
  if (known !== undefined) return known;
  const { format, elements, code, scale, min } = ggufLayouts[type], parts = elements / formats[format].block, made = { parts, code: bitsOf(code, elements), scale: scale === undefined ? null : bitsOf(scale, parts), min: min === undefined ? null : bitsOf(min, parts) };
  codecs.set(type, made);
  return made;
}

/**
 * A tensor of a GGUF file, re-packed: codes in row-major order, scales apart. The values are exactly those of the file.
 *
 * @param bytes the tensor's bytes as the file holds them
 * @param shape row-major; its last axis is a multiple of the type's block
 * @throws FormatError naming tensor and file: wrong number of bytes, a scale that is not finite
 */
export function fromGguf(type: GgufBlockType, bytes: Uint8Array, shape: readonly number[], named: Named = {}): Quantized {
  const { format: name, elements, bytes: size, d, dmin, adds, table = identity } = ggufLayouts[type], format = formats[name], n = sizeOf(shape), blocks = n / elements;
  if (!Number.isInteger(blocks) || (shape.at(-1) ?? 1) % elements !== 0 || bytes.byteLength !== blocks * size) {
    throw new FormatError(`${called(named)}: has ${bytes.byteLength} bytes, ${type} [${shape.join(", ")}] needs ${(n * size) / elements}`, { key: named.name, file: named.file, value: bytes.byteLength, fix: "shape and data contradict each other: get the file again" });
  }
  const { code, scale, min, parts } = codecOf(type), values = new Float32Array(blocks), least = new Float32Array(dmin === undefined ? 0 : blocks), codes = new Uint8Array((n * format.bits) / 8);
  const scales = new Uint8Array(scale === null ? 0 : blocks * parts), mins = new Uint8Array(min === null ? 0 : blocks * parts), wide = new Uint8Array(elements), inPairs = format.bits === 4;
  for (let b = 0, at = 0; b < blocks; b++, at += size) {
    values[b] = d === "e8m0" ? fromE8m0(bytes[at]) : half(bytes, at + d);
    if (dmin !== undefined) least[b] = adds ? -half(bytes, at + dmin) : half(bytes, at + dmin);
    scale?.read(bytes, at, scales, b * parts);
    min?.read(bytes, at, mins, b * parts);
    if (type === "Q8_0") codes.set(bytes.subarray(at + 2, at + size), b * elements);
    else if (!inPairs) code.read(bytes, at, codes, b * elements);
    else if (format.block === 32) pairUp(type, bytes, at, codes, (b * elements) / 2);
    else {
      code.read(bytes, at, wide, 0);
      for (let k = 0, to = (b * elements) / 2; k < elements; k += 2) codes[to++] = (wide[k] << 4) | wide[k + 1];
    }
  }
  const nested = (own: Float32Array, six: Uint8Array, stands: Float32Array): Scales => (six.length === 0 ? { values: own } : { values: own, nested: { codes: six, table: stands, block: parts, offset: 0 } });
  return checkQuantized({ format, shape, block: format.block, codes, scales: nested(values, scales, table), ...(dmin === undefined ? {} : { mins: nested(least, mins, identity) }), dtype: "f32" }, named);
}

/** Bytes that so many elements of a type take as a weight in memory: codes, tables, and scales and minima with their own codes (`quantizedWeight`). */
export function ggufBytesHeld(type: GgufBlockType, elements: number): number {
  const { format: name, elements: each, scale, dmin, min } = ggufLayouts[type], { bits, block, table } = formats[name], numbers = (own: boolean): number => 4 * Math.ceil(elements / each) + (own ? Math.ceil(elements / block) + identity.byteLength + 4 : 0);
  return Math.ceil((elements * bits) / 8) + table.byteLength + numbers(scale !== undefined) + (dmin === undefined ? 0 : numbers(min !== undefined));
}

/** Sixteen bytes with elements j and j + 16 in their halves (or, of Q4_K, 32 with j and j + 32) become pairs of neighbours: faster than bit by bit. */
function pairUp(type: GgufBlockType, from: Uint8Array, at: number, to: Uint8Array, start: number): void {
  const { elements, bytes } = ggufLayouts[type], run = type === "Q4_K" ? 16 : 8;
  for (let byte = at + bytes - elements / 2, end = at + bytes; byte < end; byte += 2 * run, start += 2 * run) {
    for (let k = 0; k < run; k++) {
      const even = from[byte + 2 * k], odd = from[byte + 2 * k + 1];
      to[start + k] = ((even & 15) << 4) | (odd & 15);
      to[start + run + k] = (even & 0xf0) | (odd >> 4);
    }
  }
}

const half = (bytes: Uint8Array, at: number): number => fromF16(bytes[at] | (bytes[at + 1] << 8));
/** 2^(byte - 127); 255 stands for NaN (OCP Microscaling Formats 1.0, section 5.4.1). */
const fromE8m0 = (byte: number): number => (byte === 255 ? NaN : 2 ** (byte - 127));

/**
 * Values of a quantized tensor of a GGUF file, row-major, in the f32 arithmetic of gguf-py.
 *
 * @throws FormatError naming tensor, file and type if the type is not known here, the number of bytes contradicts the shape, or a scale is not finite
 */
export function decodeGguf(type: string, bytes: Uint8Array, shape: readonly number[], named: Named = {}): Float32Array {
  if (isGgufBlockType(type)) return dequantize(fromGguf(type, bytes, shape, named));
  throw new FormatError(`${called(named)}: GGUF type ${type} cannot be decoded`, { key: named.name, file: named.file, value: type, fix: `known are ${decodedGgufTypes.join(", ")}: get the model in one of them` });
}

/**
 * The bytes of a quantized tensor in a GGUF file; `toGguf(fromGguf(bytes)) = bytes`.
 *
 * @throws ConfigError naming tensor and format if GGUF has no such format, or rows are no whole number of blocks
 */
export function toGguf(q: Quantized, named: Named = {}): { readonly type: GgufBlockType; readonly bytes: Uint8Array } {
  const type = ggufTypeOfQuantized(q);
  if (type === null) throw new ConfigError(`${called(named)}: ${q.format.name} is no GGUF type`, { op: "toGguf", key: named.name, value: q.format.name, fix: "quantize to q8_0, q4_0 or mxfp4" });
  const layout = ggufLayouts[type], { elements, bytes: size, d, dmin, adds } = layout, row = q.shape.at(-1) ?? 1;
  if (row % elements !== 0) throw new ConfigError(`${called(named)}: rows of ${row} elements, ${type} has blocks of ${elements}`, { op: "toGguf", key: named.name, value: q.shape, fix: "leave this layer as it is (skip), or use nf4 in a safetensors folder" });
  checkQuantized(q, named);
  const { code, scale, min, parts } = codecOf(type), blocks = sizeOf(q.shape) / elements, bytes = new Uint8Array(blocks * size), wide = new Uint8Array(elements), { scales, least } = partsOf(q, layout, named);
  for (let b = 0, at = 0; b < blocks; b++, at += size) {
    if (d === "e8m0") bytes[at] = Math.log2(q.scales.values[b]) + 127;
    else putHalf(bytes, at + d, q.scales.values[b]);
    if (dmin !== undefined && least !== null) putHalf(bytes, at + dmin, adds ? -least.values[b] : least.values[b]);
    if (scale !== null && scales !== undefined) scale.write(scales, b * parts, bytes, at);
    if (min !== null && least?.nested !== undefined) min.write(least.nested.codes, b * parts, bytes, at);
    if (q.format.bits === 4) for (let k = 0, from = (b * elements) / 2; k < elements; from++) { wide[k++] = q.codes[from] >> 4; wide[k++] = q.codes[from] & 15; }
    code.write(q.format.bits === 4 ? wide : q.codes, q.format.bits === 4 ? 0 : b * elements, bytes, at);
  }
  return { type, bytes };
}

/** The scales' own codes and the minima, where the type has such. */
function partsOf({ format, scales, mins }: Quantized, { scale, dmin, min }: GgufLayout, named: Named): { readonly scales: Uint8Array | undefined; readonly least: Scales | null } {
  const bad = (what: string): ConfigError => new ConfigError(`${called(named)}: ${format.name} without ${what}`, { op: "toGguf", key: named.name, value: format.name, fix: "only tensors that were read from a GGUF file are written in this type" });
  if (scale !== undefined && scales.nested === undefined) throw bad("scales of its sub-blocks");
  if (dmin !== undefined && (mins === undefined || (min !== undefined && mins.nested === undefined))) throw bad("minima");
  return { scales: scales.nested?.codes, least: mins ?? null };
}

function putHalf(bytes: Uint8Array, at: number, value: number): void {
  const bits = toF16(value);
  bytes[at] = bits & 255;
  bytes[at + 1] = bits >> 8;
}
