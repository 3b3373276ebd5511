/** GGUF's other quantized types, which are only decoded to f32: Q4_1, Q5_0, Q5_1, Q5_K, Q6_K (layouts: ggml's ggml-common.h). */
import { FormatError, fromF16 } from "@adjoint/tensor";
import { dequantize } from "./dequantize.ts";
import { fromGguf, isGgufBlockType, scaleAndMin } from "./gguf.ts";
import { called, sizeOf } from "./quantized.ts";
import type { Named } from "./quantized.ts";

interface Decoder {
  readonly elements: number;
  readonly bytes: number;
  /** where in a block its f16 scales and minima lie */
  readonly halves: readonly number[];
  /** writes one block's values */
  readonly block: (from: Uint8Array, at: number, x: Float32Array, to: number) => void;
}

const f = Math.fround;
const half = (bytes: Uint8Array, at: number): number => fromF16(bytes[at] | (bytes[at + 1] << 8));
/** Bit i of four bytes. */
const bit = (bytes: Uint8Array, at: number, i: number): number => (bytes[at + (i >> 3)] >> (i & 7)) & 1;
/** Element i of 16 bytes that hold i and i + 16 in their halves. */
const nibble = (bytes: Uint8Array, at: number, i: number): number => (i < 16 ? bytes[at + i] & 15 : bytes[at + i - 16] >> 4);

const decoders: Readonly<Record<string, Decoder>> = {
  /** `d q + m` */
  Q4_1: { elements: 32, bytes: 20, halves: [0, 2], block(from, at, x, to) {
    const d = half(from, at), m = half(from, at + 2);
    for (let i = 0; i < 32; i++) x[to + i] = f(d * nibble(from, at + 4, i)) + m;
  } },
  /** `d (q - 16)`, the fifth bits in four bytes of their own */
  Q5_0: { elements: 32, bytes: 22, halves: [0], block(from, at, x, to) {
    const d = half(from, at);
    for (let i = 0; i < 32; i++) x[to + i] = d * ((nibble(from, at + 6, i) | (bit(from, at + 2, i) << 4)) - 16);
  } },
  /** `d q + m` */
  Q5_1: { elements: 32, bytes: 24, halves: [0, 2], block(from, at, x, to) {
    const d = half(from, at), m = half(from, at + 2);
    for (let i = 0; i < 32; i++) x[to + i] = f(d * (nibble(from, at + 8, i) | (bit(from, at + 4, i) << 4))) + m;
  } },
  /** `d scale q - dmin min`, as Q4_K with fifth bits: bit k of byte l belongs to element l of sub-block k */
  Q5_K: { elements: 256, bytes: 176, halves: [0, 2], block(from, at, x, to) {
    const d = half(from, at), dmin = half(from, at + 2);
    for (let k = 0; k < 8; k++) {
      const [scale, min] = scaleAndMin(from, at + 4, k), s = f(d * scale), m = f(dmin * min);
      for (let l = 0; l < 32; l++) {
        const byte = from[at + 48 + (k >> 1) * 32 + l], q = ((k & 1) === 0 ? byte & 15 : byte >> 4) | (((from[at + 16 + l] >> k) & 1) << 4);
        x[to + k * 32 + l] = f(s * q) - m;
      }
    }
  } },
  /** `d scale (q - 32)`: 4 lower bits, 2 upper bits, an int8 scale for 16 elements, d at the end */
  Q6_K: { elements: 256, bytes: 210, halves: [208], block(from, at, x, to) {
    const d = half(from, at + 208);
    for (let i = 0; i < 256; i++) {
      const part = i >> 7, quarter = (i >> 5) & 3, l = i & 31;
      const low = from[at + part * 64 + (quarter & 1) * 32 + l], q = (quarter < 2 ? low & 15 : low >> 4) | (((from[at + 128 + part * 32 + l] >> (2 * quarter)) & 3) << 4);
      x[to + i] = f(d * ((from[at + 192 + (i >> 4)] << 24) >> 24)) * (q - 32);
    }
  } },
};

/** GGUF's quantized types that decodeGguf knows. */
export const decodedGgufTypes: readonly string[] = ["Q8_0", "Q4_0", "Q4_K", "MXFP4", ...Object.keys(decoders)];

/**
 * Values of a quantized tensor of a GGUF file, row-major, in the f32 arithmetic of gguf-py.
 *
 * @throws FormatError naming tensor, file and type if the type is not known here, the number of bytes contradicts the shape, or a scale is not finite
 */
export function decodeGguf(type: string, bytes: Uint8Array, shape: readonly number[], named: Named = {}): Float32Array {
  if (isGgufBlockType(type)) return dequantize(fromGguf(type, bytes, shape, named));
  if (!Object.hasOwn(decoders, type)) throw new FormatError(`${called(named)}: GGUF type ${type} cannot be decoded`, { key: named.name, file: named.file, value: type, fix: `known are ${decodedGgufTypes.join(", ")}: get the model in one of them` });
  const { elements, bytes: size, halves, block } = decoders[type], n = sizeOf(shape), blocks = n / elements;
  if (!Number.isInteger(blocks) || bytes.byteLength !== blocks * size) {
    throw new FormatError(`${called(named)}: has ${bytes.byteLength} bytes, ${type} [${shape.join(", ")}] needs ${(n * size) / elements}`, { key: named.name, file: named.file, value: bytes.byteLength, fix: "shape and data contradict each other: get the file again" });
  }
  const x = new Float32Array(n);
  for (let b = 0; b < blocks; b++) {
    for (const at of halves) {
      if ((bytes[b * size + at + 1] & 0x7c) === 0x7c) throw new FormatError(`${called(named)}: a scale of block ${b} is ${half(bytes, b * size + at)}`, { key: named.name, file: named.file, value: half(bytes, b * size + at), fix: "the weights were not finite when they were quantized, or the file is damaged: get it again" });
    }
    block(bytes, b * size, x, b * elements);
  }
  return x;
}
