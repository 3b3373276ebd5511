/**
 * Numbers out of codes, as one op: a backend may decode while it multiplies, so that a quantized matrix is never whole in memory.
 *
 * x(e) = table[code(e)]·scale(⌊e / block⌋) - min(⌊e / block⌋), e the row-major position; each operation is rounded to f32.
 */
import type { BlockNumbers, Decode, View } from "./backend.ts";
import { ConfigError, DTypeError, ShapeError } from "./errors.ts";
import { concat } from "./ops/concat.ts";
import { gather } from "./ops/indexing.ts";
import { add, bitAnd, cast, floor, mul, sub } from "./ops/pointwise.ts";
import { type Shape, checkShape, sameShape, show, sizeOf } from "./shape.ts";
import { internal } from "./state.ts";
import { type Op, type Tensor, record } from "./tensor.ts";

/** One number a block: `values` [blocks], or table[codes[b]]·values[⌊b / block⌋] + offset where they were quantized again (codes u8 [blocks], table [256], offset [1]). */
export interface BlockTensors { readonly values: Tensor; readonly nested?: { readonly codes: Tensor; readonly table: Tensor; readonly block: number; readonly offset: Tensor } }

/** What `dequantize` needs beside the codes. */
export interface DequantizeOptions {
  /** shape of the result */
  readonly shape: Shape;
  readonly bits: 4 | 8;
  /** elements that share a scale */
  readonly block: number;
  /** f32 [2^bits]: the value of each code */
  readonly table: Tensor;
  readonly scales: BlockTensors;
  readonly mins?: BlockTensors;
}

/** Structure of a `dequantize` node; `nested` is the block size of scales that were quantized again (0: they were not), `mins` likewise (null: there are none). */
export type DequantizeAttrs = { readonly shape: readonly number[]; readonly bits: 4 | 8; readonly block: number; readonly nested: number; readonly mins: number | null };

/** Inputs (or their views) by role: codes, table, then values (codes, table and offset if nested) of scales and of minima. */
function roles<T>(inputs: readonly T[], { nested, mins }: DequantizeAttrs): { codes: T; table: T; scales: Numbers<T>; mins?: Numbers<T> } {
  let at = 2;
  const numbers = (block: number): Numbers<T> => (block === 0 ? { values: inputs[at++] } : { values: inputs[at++], nested: { codes: inputs[at++], table: inputs[at++], block, offset: inputs[at++] } });
  return { codes: inputs[0], table: inputs[1], scales: numbers(nested), ...(mins === null ? {} : { mins: numbers(mins) }) };
}
interface Numbers<T> { readonly values: T; readonly nested?: { readonly codes: T; readonly table: T; readonly block: number; readonly offset: T } }

/** How a kernel decodes: of an operand of a product, or of a composite kernel `dequantize`, whose inputs these views are. */
export function decodeOf(attrs: DequantizeAttrs, views: readonly View[]): Decode {
  const { table, scales, mins }: { table: View; scales: BlockNumbers; mins?: BlockNumbers } = roles(views, attrs);
  return { bits: attrs.bits, block: attrs.block, table, scales, ...(mins ? { mins } : {}) };
}

/** table[codes], as long as the codes. */
const look = (table: Tensor, codes: Tensor): Tensor => gather(table.reshape([table.size, 1]), codes).reshape([codes.size]);
/** Codes as i32, two of each byte where there are 4 bits: the high half first. */
function unpack(codes: Tensor, { bits, shape }: DequantizeAttrs): Tensor {
  const whole = cast(codes, "i32");
  if (bits === 8) return whole;
  const high = cast(floor(mul(cast(codes, "f32"), 1 / 16)), "i32"), half = (x: Tensor): Tensor => x.reshape([x.size, 1]);
  return concat([half(high), half(bitAnd(whole, 15))], 1).reshape([2 * codes.size]).slice(0, 0, sizeOf(shape));
}
/** One number for each element. */
function spread({ values, nested }: Numbers<Tensor>, { shape, block }: DequantizeAttrs): Tensor {
  const wide = (x: Tensor, by: number, n: number): Tensor => x.reshape([x.size, 1]).expand([x.size, by]).reshape([x.size * by]).slice(0, 0, n);
  const one = nested ? add(mul(look(nested.table, cast(nested.codes, "i32")), wide(values, nested.block, nested.codes.size)), nested.offset.expand([nested.codes.size])) : values;
  return wide(one, block, sizeOf(shape));
}

/** x = table[code]·scale - min; nothing in it has a gradient. */
export const dequantizeOp: Op = {
  name: "dequantize", kind: "composite",
  define: (inputs, given) => internal(() => {
    const attrs = given as DequantizeAttrs, { codes, table, scales, mins } = roles(inputs, attrs);
    const x = mul(look(table, unpack(codes, attrs)), spread(scales, attrs));
    return (mins ? sub(x, spread(mins, attrs)) : x).reshape(attrs.shape);
  }),
  vjp: (_g, { inputs }) => inputs.map(() => null),
  doc: "numbers out of codes, one scale a block",
};

/**
 * x(e) = table[code(e)]·scale(⌊e / block⌋) - min(⌊e / block⌋) in f32, e the row-major position in `shape`.
 *
 * codes: u8, one a byte with 8 bits; with 4 bits element 2i lies in the high half of byte i and element 2i + 1 in the low one (an odd
 * last half is not read). As an operand of `matmul` the codes are decoded inside the product where the device can (`Backend.decodes`).
 * @throws ShapeError, DTypeError, ConfigError naming the tensor whose size, dtype or block is wrong
 */
export function dequantize(codes: Tensor, { shape, bits, block, table, scales, mins }: DequantizeOptions): Tensor {
  const name = codes.name || "codes", n = sizeOf(checkShape("dequantize", shape)), blocks = Math.ceil(n / block);
  const wrong = (what: string, x: Tensor, want: number): ShapeError => new ShapeError(`dequantize ${name}: ${what} must be ${show([want])} for ${show(shape)} with ${bits} bits in blocks of ${block}, got ${show(x.shape)}`, { op: "dequantize", key: x.name, shapes: [x.shape, shape], fix: "check the block size and the shape that the codes were made for" });
  const fits = (what: string, x: Tensor, want: number, dtype: "u8" | "f32"): void => {
    if (!sameShape(x.shape, [want])) throw wrong(what, x, want);
    if (x.dtype !== dtype) throw new DTypeError(`dequantize ${name}: ${what} must be ${dtype}, got ${x.dtype}`, { op: "dequantize", key: x.name, value: x.dtype, fix: `make them ${dtype}` });
  };
  const size = (what: string, b: number): void => { if (!Number.isInteger(b) || b < 1) throw new ConfigError(`dequantize ${name}: ${what} must be a whole number of elements, got ${b}`, { op: "dequantize", key: name, value: b, fix: "64 is usual" }); };
  if (![4, 8].includes(bits)) throw new ConfigError(`dequantize ${name}: codes have 4 or 8 bits, not ${String(bits)}`, { op: "dequantize", key: name, value: bits, fix: "repack them" });
  size("block", block);
  fits("codes", codes, Math.ceil((n * bits) / 8), "u8");
  fits("table", table, 2 ** bits, "f32");
  const list = (what: string, { values, nested }: BlockTensors): Tensor[] => {
    if (!nested) { fits(what, values, blocks, "f32"); return [values]; }
    size(`block of ${what}`, nested.block);
    fits(`codes of ${what}`, nested.codes, blocks, "u8");
    fits(`table of ${what}`, nested.table, 256, "f32");
    fits(`offset of ${what}`, nested.offset, 1, "f32");
    fits(what, values, Math.ceil(blocks / nested.block), "f32");
    return [values, nested.codes, nested.table, nested.offset];
  };
  const attrs: DequantizeAttrs = { shape: [...shape], bits, block, nested: scales.nested?.block ?? 0, mins: mins ? mins.nested?.block ?? 0 : null };
  return record(dequantizeOp, [codes, table, ...list("scales", scales), ...(mins ? list("minima", mins) : [])], attrs, shape, "f32");
}
