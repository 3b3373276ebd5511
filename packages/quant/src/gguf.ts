/** Blocks of GGUF files to quantized tensors and back, bit for bit: Q8_0, Q4_0, Q4_K, MXFP4 (layouts: ggml's ggml-common.h). */
import { ConfigError, FormatError, fromF16, toF16 } from "@adjoint/tensor";
import { codeAt } from "./dequantize.ts";
import { formats } from "./format.ts";
import type { FormatName } from "./format.ts";
import { called, checkQuantized, sizeOf } from "./quantized.ts";
import type { Named, Quantized, Scales } from "./quantized.ts";
import { identity } from "./tables.ts";

/** GGUF's element types that stay quantized here. */
export type GgufBlockType = "Q8_0" | "Q4_0" | "Q4_K" | "MXFP4";

interface Layout {
  readonly format: FormatName;
  /** elements and bytes of a block in the file */
  readonly elements: number;
  readonly bytes: number;
}

const layouts: Readonly<Record<GgufBlockType, Layout>> = {
  Q8_0: { format: "q8_0", elements: 32, bytes: 34 },
  Q4_0: { format: "q4_0", elements: 32, bytes: 18 },
  Q4_K: { format: "q4_k", elements: 256, bytes: 144 },
  MXFP4: { format: "mxfp4", elements: 32, bytes: 17 },
};

/** Whether tensors of this GGUF type stay quantized (fromGguf); others are decoded (decodeGguf). */
export const isGgufBlockType = (type: string): type is GgufBlockType => Object.hasOwn(layouts, type);

/** The GGUF type in which a quantized tensor is written without loss; null: its format is not one of GGUF's. */
export function ggufTypeOfQuantized({ format }: Quantized): GgufBlockType | null {
  for (const type of Object.keys(layouts)) if (isGgufBlockType(type) && layouts[type].format === format.name) return type;
  return null;
}

/**
 * A tensor of a GGUF file, re-packed: codes in row-major order, scales apart. The values are exactly those of the file.
 *
 * @param bytes the tensor's bytes as the file holds them
 * @param shape row-major; its last axis is a multiple of the type's block
 * @throws FormatError naming tensor and file: wrong number of bytes, a scale that is not finite
 */
export function fromGguf(type: GgufBlockType, bytes: Uint8Array, shape: readonly number[], named: Named = {}): Quantized {
  const { format, elements, bytes: size } = layouts[type], n = sizeOf(shape), blocks = n / elements;
  if (!Number.isInteger(blocks) || bytes.byteLength !== blocks * size) {
    throw new FormatError(`${called(named)}: has ${bytes.byteLength} bytes, ${type} [${shape.join(", ")}] needs ${(n * size) / elements}`, { key: named.name, file: named.file, value: bytes.byteLength, fix: "shape and data contradict each other: get the file again" });
  }
  const q = type === "Q4_K" ? fromQ4K(bytes, shape, blocks) : fromPlain(type, bytes, shape, blocks);
  return checkQuantized({ ...q, format: formats[format], shape, block: 32, dtype: "f32" }, named);
}

type Parts = Pick<Quantized, "codes" | "scales" | "mins">;

function fromPlain(type: Exclude<GgufBlockType, "Q4_K">, bytes: Uint8Array, shape: readonly number[], blocks: number): Parts {
  const { bytes: size } = layouts[type], values = new Float32Array(blocks), codes = new Uint8Array(type === "Q8_0" ? blocks * 32 : blocks * 16);
  const head = type === "MXFP4" ? 1 : 2;
  for (let b = 0, at = 0; b < blocks; b++, at += size) {
    values[b] = type === "MXFP4" ? fromE8m0(bytes[at]) : fromF16(bytes[at] | (bytes[at + 1] << 8));
    if (type === "Q8_0") codes.set(bytes.subarray(at + head, at + size), b * 32);
    else interleave(bytes, at + head, codes, b * 16);
  }
  return { codes, scales: { values } };
}

/** Sixteen bytes with elements j and j + 16 in their halves become sixteen with elements 2k and 2k + 1. */
function interleave(from: Uint8Array, at: number, to: Uint8Array, start: number): void {
  for (let k = 0; k < 8; k++) {
    const even = from[at + 2 * k], odd = from[at + 2 * k + 1];
    to[start + k] = ((even & 15) << 4) | (odd & 15);
    to[start + 8 + k] = (even & 0xf0) | (odd >> 4);
  }
}

/** 2^(byte - 127); 255 stands for NaN (OCP Microscaling Formats 1.0, section 5.4.1). */
const fromE8m0 = (byte: number): number => (byte === 255 ? NaN : 2 ** (byte - 127));

/** Where the 6 bits of scale k and min k lie in the 12 bytes after d and dmin: four whole ones, four cut into 4 and 2 bits. */
export function scaleAndMin(bytes: Uint8Array, at: number, k: number): readonly [number, number] {
  if (k < 4) return [bytes[at + k] & 63, bytes[at + k + 4] & 63];
  return [(bytes[at + k + 4] & 15) | ((bytes[at + k - 4] >> 6) << 4), (bytes[at + k + 4] >> 4) | ((bytes[at + k] >> 6) << 4)];
}

function fromQ4K(bytes: Uint8Array, shape: readonly number[], blocks: number): Parts {
  const d = new Float32Array(blocks), dmin = new Float32Array(blocks), scale = new Uint8Array(blocks * 8), min = new Uint8Array(blocks * 8), codes = new Uint8Array(blocks * 128);
  for (let b = 0, at = 0; b < blocks; b++, at += 144) {
    d[b] = fromF16(bytes[at] | (bytes[at + 1] << 8));
    dmin[b] = fromF16(bytes[at + 2] | (bytes[at + 3] << 8));
    for (let k = 0; k < 8; k++) [scale[b * 8 + k], min[b * 8 + k]] = scaleAndMin(bytes, at + 4, k);
    for (let group = 0; group < 4; group++) { // 32 bytes: the low halves are 32 elements, the high halves the next 32
      for (let k = 0; k < 16; k++) {
        const even = bytes[at + 16 + group * 32 + 2 * k], odd = bytes[at + 16 + group * 32 + 2 * k + 1];
        codes[b * 128 + group * 32 + k] = ((even & 15) << 4) | (odd & 15);
        codes[b * 128 + group * 32 + 16 + k] = (even & 0xf0) | (odd >> 4);
      }
    }
  }
  const nested = (values: Float32Array, six: Uint8Array): Scales => ({ values, nested: { codes: six, table: identity, block: 8, offset: 0 } });
  return { codes, scales: nested(d, scale), mins: nested(dmin, min) };
}

/**
 * The bytes of a quantized tensor in a GGUF file; `toGguf(fromGguf(bytes)) = bytes`.
 *
 * @throws ConfigError naming tensor and format if GGUF has no such format, or rows are no whole number of blocks
 */
export function toGguf(q: Quantized, named: Named = {}): { readonly type: GgufBlockType; readonly bytes: Uint8Array } {
  const type = ggufTypeOfQuantized(q);
  if (type === null) throw new ConfigError(`${called(named)}: ${q.format.name} is no GGUF type`, { op: "toGguf", key: named.name, value: q.format.name, fix: `quantize to q8_0, q4_0 or mxfp4 (GGUF holds ${Object.keys(layouts).join(", ")})` });
  const { elements, bytes: size } = layouts[type], row = q.shape.at(-1) ?? 1;
  if (row % elements !== 0) throw new ConfigError(`${called(named)}: rows of ${row} elements, ${type} has blocks of ${elements}`, { op: "toGguf", key: named.name, value: q.shape, fix: "store this tensor as F16" });
  checkQuantized(q, named);
  const blocks = sizeOf(q.shape) / elements, bytes = new Uint8Array(blocks * size);
  for (let b = 0, at = 0; b < blocks; b++, at += size) {
    if (type === "Q4_K") blockToQ4K(q, b, bytes, at);
    else blockToPlain(type, q, b, bytes, at);
  }
  return { type, bytes };
}

function blockToPlain(type: Exclude<GgufBlockType, "Q4_K">, q: Quantized, b: number, bytes: Uint8Array, at: number): void {
  const scale = q.scales.values[b];
  if (type === "MXFP4") bytes[at] = Math.log2(scale) + 127;
  else putF16(bytes, at, scale);
  if (type === "Q8_0") bytes.set(q.codes.subarray(b * 32, b * 32 + 32), at + 2);
  else for (let j = 0; j < 16; j++) bytes[at + (type === "MXFP4" ? 1 : 2) + j] = codeAt(q, b * 32 + j) | (codeAt(q, b * 32 + 16 + j) << 4);
}

function blockToQ4K(q: Quantized, b: number, bytes: Uint8Array, at: number): void {
  const scale = q.scales.nested?.codes, min = q.mins?.nested?.codes;
  if (scale === undefined || min === undefined || q.mins === undefined) throw new ConfigError("q4_k without nested scales and mins", { op: "toGguf", fix: "only tensors that were read from a GGUF file are written as Q4_K" });
  putF16(bytes, at, q.scales.values[b]);
  putF16(bytes, at + 2, q.mins.values[b]);
  for (let k = 0; k < 4; k++) {
    const [s, m, upper, above] = [scale[b * 8 + k], min[b * 8 + k], scale[b * 8 + k + 4], min[b * 8 + k + 4]];
    bytes[at + 4 + k] = s | ((upper >> 4) << 6);
    bytes[at + 8 + k] = m | ((above >> 4) << 6);
    bytes[at + 12 + k] = (upper & 15) | ((above & 15) << 4);
  }
  for (let i = 0; i < 128; i++) {
    const e = b * 256 + (i >> 5) * 64 + (i & 31);
    bytes[at + 16 + i] = codeAt(q, e) | (codeAt(q, e + 32) << 4);
  }
}

function putF16(bytes: Uint8Array, at: number, value: number): void {
  const half = toF16(value);
  bytes[at] = half & 255;
  bytes[at + 1] = half >> 8;
}
