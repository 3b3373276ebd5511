/** A quantized tensor on the host: codes, scales, and what must hold between them. */
import { FormatError } from "@adjoint/tensor";
import type { DType } from "@adjoint/tensor";
import type { Format } from "./format.ts";

/** A scale a block. Nested (double quantization): `scale(b) = fround(fround(table[codes[b]] * values[floor(b / block)]) + offset)`. */
export interface Scales {
  /** f32; a scale a block, or a scale `nested.block` blocks */
  readonly values: Float32Array;
  readonly nested?: {
    readonly codes: Uint8Array;
    readonly table: Float32Array;
    readonly block: number;
    readonly offset: number;
  };
}

/**
 * A quantized tensor: `value(e) = fround(fround(table[code(e)] * scale(b)) - min(b))`, `b = floor(e / block)`, elements in row-major order.
 *
 * Codes of 4 bits lie two in a byte, element 2k in the high half, 2k + 1 in the low half; an odd number of elements ends with the code of a value of 0.
 */
export interface Quantized {
  readonly format: Format;
  readonly shape: readonly number[];
  /** elements that share a scale; the last block may be short */
  readonly block: number;
  readonly codes: Uint8Array;
  readonly scales: Scales;
  /** only where the format subtracts one (q4_k) */
  readonly mins?: Scales;
  /** of the tensor that was quantized; decoding gives f32 */
  readonly dtype: DType;
}

/** What a tensor is called, for errors. */
export interface Named {
  readonly name?: string;
  readonly file?: string;
}

/** `file: tensor "name"`, as far as they are known. */
export const called = ({ name, file }: Named): string => `${file === undefined ? "" : `${file}: `}tensor ${name === undefined ? "" : `"${name}"`}`.trimEnd();

/** Elements of a shape. */
export const sizeOf = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);

/** Blocks of a quantized tensor: `ceil(elements / block)`. */
export const blocksOf = ({ shape, block }: Pick<Quantized, "shape" | "block">): number => Math.ceil(sizeOf(shape) / block);

/** Bytes of the codes of n elements. */
export const codeBytes = (format: Format, n: number): number => Math.ceil((n * format.bits) / 8);

/** Bytes that a quantized tensor takes on the host: codes and scales. Bits a parameter: `8 * bytes / elements`. */
export function bytesOfQuantized({ codes, scales, mins }: Quantized): number {
  const of = (s: Scales | undefined): number => (s === undefined ? 0 : s.values.byteLength + (s.nested === undefined ? 0 : s.nested.codes.byteLength));
  return codes.byteLength + of(scales) + of(mins);
}

/** The scale of every block, as f32. */
export function scaleValues({ values, nested }: Scales, blocks: number): Float32Array {
  if (nested === undefined) return values;
  const { codes, table, block, offset } = nested;
  const all = new Float32Array(blocks);
  for (let b = 0; b < blocks; b++) all[b] = Math.fround(table[codes[b]] * values[Math.floor(b / block)]) + offset;
  return all;
}

/**
 * Gives `q` back if its parts fit together.
 *
 * @throws FormatError naming tensor and file: number of codes or scales that contradicts the shape, scales that are not finite
 */
export function checkQuantized(q: Quantized, named: Named = {}): Quantized {
  const { format, shape, block, codes, scales, mins } = q;
  const bad = (problem: string, value: unknown, fix: string): FormatError => new FormatError(`${called(named)}: ${problem}`, { key: named.name, file: named.file, value, fix });
  const n = sizeOf(shape), blocks = blocksOf(q), bytes = codeBytes(format, n);
  if (!Number.isSafeInteger(block) || block < 1) throw bad(`block size ${block}`, block, "a block has 1 element or more");
  if (codes.length !== bytes) throw bad(`has ${codes.length} bytes of codes, ${format.name} [${shape.join(", ")}] needs ${bytes}`, codes.length, "shape and data contradict each other: get the file again");
  for (const [what, { values, nested }] of [["scales", scales], ...(mins === undefined ? [] : [["mins", mins] as const])] as const) {
    if (nested !== undefined && nested.codes.length !== blocks) throw bad(`has ${nested.codes.length} nested ${what}, [${shape.join(", ")}] in blocks of ${block} needs ${blocks}`, nested.codes.length, "shape, block size and data contradict each other: get the file again");
    const expected = nested === undefined ? blocks : Math.ceil(blocks / nested.block);
    if (values.length !== expected) throw bad(`has ${values.length} ${what}, [${shape.join(", ")}] in blocks of ${nested === undefined ? block : `${block} and ${nested.block}`} needs ${expected}`, values.length, "shape, block size and data contradict each other: get the file again");
    let at = 0;
    while (at < values.length && Number.isFinite(values[at])) at++;
    if (at < values.length) throw bad(`${what.slice(0, -1)} ${at} is ${values[at]}`, values[at], "the weights were not finite when they were quantized, or the file is damaged: get it again");
  }
  return q;
}
