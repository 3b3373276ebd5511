/** From f32 to codes and scales, a block at a time. */
import { ConfigError, FormatError, ShapeError, knownOptions } from "@adjoint/tensor";
import type { DType, OptionNames } from "@adjoint/tensor";
import { encodeChunks } from "./chunks.ts";
import { doubleQuantize } from "./double.ts";
import { encoders } from "./encode.ts";
import { blockOf, formatOf } from "./format.ts";
import type { FormatName } from "./format.ts";
import { called, codeBytes, sizeOf } from "./quantized.ts";
import type { Named, Quantized } from "./quantized.ts";
import type { Elements, Input } from "./simd.ts";
import { widen } from "./widen.ts";

export interface QuantizeOptions {
  readonly format: FormatName;
  /** elements a scale (default: the format's) */
  readonly block?: number;
  /** quantize the scales too: 8 bits a scale, f32 a 256 scales (default false; formats with f32 scales) */
  readonly doubleQuant?: boolean;
  /** whose codes and scales are written over: of this format, block size and number of elements (default: arrays of their own, whose fresh memory may cost as much as the encoding) */
  readonly into?: Quantized;
  /** of the tensor from which x was widened (default f32); kept, not used */
  readonly dtype?: DType;
  /** tensor and file, for errors */
  readonly name?: string;
  readonly file?: string;
}

const optionNames: OptionNames<Required<QuantizeOptions>> = { format: true, block: true, doubleQuant: true, into: true, dtype: true, name: true, file: true };

const INFINITE = 0x7f800000;

/**
 * Quantizes: each block of elements (row-major order, the last one may be short) gets a scale and a code an element.
 *
 * nf4, fp4, dynamic8, udynamic8: `scale = max|x|`, `code = argmin |table[code] - x / scale|`; int4, int8: `round(x * levels / scale)`;
 * q8_0, q4_0, mxfp4: as ggml. Codes are the same on every machine.
 * @param x the values, row-major; views are copied into this order by the caller
 * @throws FormatError naming tensor and file if a value is NaN or infinite or a scale does not fit its type; ConfigError for format, block, doubleQuant; ShapeError
 * @example dequantize(quantize(Float32Array.of(0.5, -1), [2], { format: "nf4" })) // [0.44070983, -1]
 */
export const quantize = (x: Float32Array, shape: readonly number[], options: QuantizeOptions): Quantized => encoded(x, "f32", shape, options);

/** `quantize` of f32 numbers, or of the bits of f16 and bf16 ones, which are widened in the cache. */
export function encoded(x: Elements, input: Input, shape: readonly number[], options: QuantizeOptions): Quantized {
  const n = sizeOf(shape), encoding = encode(input, shape, options);
  if (x.length !== n) throw new ShapeError(`quantize: ${called(options)} has ${x.length} values, [${shape.join(", ")}] needs ${n}`, { op: "quantize", key: options.name, shapes: [shape] });
  encoding.put(x);
  return encoding.done();
}

/** A tensor that is quantized part after part. */
export interface Encoding {
  readonly block: number;
  /** The next elements: a multiple of two blocks, or the last ones. */
  put(x: Elements): void;
  done(): Quantized;
}

/** Begins a tensor of this shape. Errors of quantize, those of the values from `put`. */
export function encode(input: Input, shape: readonly number[], options: QuantizeOptions): Encoding {
  knownOptions("quantize", options, optionNames);
  const { format: name, block: asked, doubleQuant = false, into, dtype = "f32", ...named } = options;
  const format = formatOf(name), block = blockOf(format, asked), encoder = encoders[format.name];
  if (encoder === null) throw new ConfigError(`${format.name} can be read but not made`, { op: "quantize", key: "format", value: name, fix: "use q4_0, q8_0 or mxfp4 for GGUF files" });
  if (doubleQuant && format.scale !== "f32") throw new ConfigError(`doubleQuant: the scales of ${format.name} are ${format.scale}`, { op: "quantize", key: "doubleQuant", value: true, fix: "use nf4, fp4, int4 or int8" });
  const n = sizeOf(shape), blocks = Math.ceil(n / block);
  if (into !== undefined && (into.format !== format || into.block !== block || sizeOf(into.shape) !== n)) throw new ShapeError(`quantize: into is ${into.format.name} [${into.shape.join(", ")}] in blocks of ${into.block}, and ${called(named)} becomes ${name} [${shape.join(", ")}] in blocks of ${block}`, { op: "quantize", key: "into", shapes: [into.shape, shape] });

  const packed = into?.codes ?? new Uint8Array(codeBytes(format, n)), values = into === undefined || doubleQuant || into.scales.nested !== undefined ? new Float32Array(blocks) : into.scales.values, widest = Math.min(block, n);
  const scaled = new Float32Array(widest), bits = new Uint32Array(scaled.buffer), blockCodes = new Uint8Array(widest + 1), halves = input === "f32" ? null : new Float32Array(widest), largest = new Uint32Array(1), absmax = new Float32Array(largest.buffer);
  let before = 0;
  const put = (x: Elements): void => {
    const count = Math.ceil(x.length / block), first = before / block, scales = values.subarray(first, first + count), codes = packed.subarray((before * format.bits) / 8, (before * format.bits) / 8 + codeBytes(format, x.length));
    const wide = x instanceof Float32Array ? x : (halves ?? new Float32Array(widest)), words = new Uint32Array(wide.buffer, wide.byteOffset, wide.length);
    const one = (b: number): void => {
      const begin = b * block, end = Math.min(x.length, begin + block), from = x === wide ? begin : 0, to = from + end - begin;
      if (x !== wide) widen(x, input, begin, end, wide, words);
      largest[0] = maxMagnitude(words, from, to);
      if (largest[0] >= INFINITE) throw notFinite(wide, from, before + begin - from, named);
      scales[b] = encoder({ x: wide, from, to, absmax: absmax[0], short: end - begin < block, scaled, bits, codes: format.bits === 8 ? codes.subarray(begin, end) : blockCodes });
      if (!Number.isFinite(scales[b])) throw tooLarge(absmax[0], first + b, format.scale, named);
      if (format.bits === 4) pack(blockCodes, codes, begin, end);
    };
    for (let b = encodeChunks(x, input, format, block, scales, codes, one); b < count; b++) one(b);
    before += x.length;
  };
  const done = (): Quantized => {
    if (format.bits === 4 && (n & 1) === 1) packed[packed.length - 1] |= format.table.indexOf(0); // bitsandbytes pads with a value of 0
    return { format, shape, block, codes: packed, scales: doubleQuant ? doubleQuantize(values) : { values }, dtype };
  };
  return { block, put, done };
}

/** Bits of the largest magnitude: without their sign, floats are ordered like integers, and NaN and infinity are the largest. */
function maxMagnitude(words: Uint32Array, from: number, to: number): number {
  let largest = 0;
  for (let i = from; i < to; i++) {
    const word = words[i] & 0x7fffffff;
    largest = word > largest ? word : largest;
  }
  return largest;
}

/** Puts the codes of elements [from, to) into their halves of bytes. */
function pack(codes: Uint8Array, packed: Uint8Array, from: number, to: number): void {
  let e = from;
  if ((e & 1) === 1) packed[e >> 1] |= codes[e++ - from]; // a block of odd size began in the middle of a byte
  for (; e + 1 < to; e += 2) packed[e >> 1] = (codes[e - from] << 4) | codes[e - from + 1];
  if (e < to) packed[e >> 1] = codes[e - from] << 4;
}

/** `before`: elements of the tensor before the first of x. */
function notFinite(x: Float32Array, from: number, before: number, named: Named): FormatError {
  let at = from;
  while (Number.isFinite(x[at])) at++;
  return new FormatError(`${called(named)}: element ${before + at} is ${x[at]}`, { op: "quantize", key: named.name, file: named.file, value: x[at], fix: "weights must be finite: get the file again, or find the step that broke them" });
}

function tooLarge(absmax: number, block: number, scale: string, named: Named): FormatError {
  return new FormatError(`${called(named)}: block ${block} reaches ${absmax}, whose scale does not fit in ${scale}`, { op: "quantize", key: named.name, file: named.file, value: absmax, fix: "use a format with f32 scales (nf4, int8), or scale the weights" });
}
