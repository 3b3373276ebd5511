/** Formats as data: how many bits a code has, what it stands for, how many elements share a scale, how the scale is stored. */
import { ConfigError } from "@adjoint/tensor";
import * as tables from "./tables.ts";

/** The formats' names. */
export type FormatName = "nf4" | "fp4" | "int4" | "int8" | "dynamic8" | "udynamic8" | "q8_0" | "q4_0" | "q4_k" | "mxfp4";

/** One format: `value(e) = table[code(e)] * scale(e / block)`. */
export interface Format {
  readonly name: FormatName;
  /** of a code */
  readonly bits: 4 | 8;
  /** elements that share a scale, unless told otherwise */
  readonly block: number;
  /** the sizes that are allowed; null: any */
  readonly blocks: readonly number[] | null;
  /** value of each code: 16 or 256 entries */
  readonly table: Float32Array;
  /** how a block's scale is rounded, and stored in files */
  readonly scale: "f32" | "f16" | "e8m0";
  /** false: can be read but not made */
  readonly encodes: boolean;
}

const bitsandbytes = [32, 64, 128, 256, 512, 1024, 2048, 4096] as const;
const gguf = [32] as const;

/** Every format, by name. */
export const formats: Readonly<Record<FormatName, Format>> = {
  nf4: { name: "nf4", bits: 4, block: 64, blocks: bitsandbytes, table: tables.nf4, scale: "f32", encodes: true },
  fp4: { name: "fp4", bits: 4, block: 64, blocks: bitsandbytes, table: tables.fp4, scale: "f32", encodes: true },
  int4: { name: "int4", bits: 4, block: 64, blocks: null, table: tables.int4, scale: "f32", encodes: true },
  int8: { name: "int8", bits: 8, block: 64, blocks: null, table: tables.int8, scale: "f32", encodes: true },
  dynamic8: { name: "dynamic8", bits: 8, block: 256, blocks: null, table: tables.dynamicMap(true), scale: "f32", encodes: true },
  udynamic8: { name: "udynamic8", bits: 8, block: 256, blocks: null, table: tables.dynamicMap(false), scale: "f32", encodes: true },
  q8_0: { name: "q8_0", bits: 8, block: 32, blocks: gguf, table: tables.q8, scale: "f16", encodes: true },
  q4_0: { name: "q4_0", bits: 4, block: 32, blocks: gguf, table: tables.q4, scale: "f16", encodes: true },
  q4_k: { name: "q4_k", bits: 4, block: 32, blocks: gguf, table: tables.q4k, scale: "f16", encodes: false },
  mxfp4: { name: "mxfp4", bits: 4, block: 32, blocks: gguf, table: tables.e2m1, scale: "e8m0", encodes: true },
};

/** Whether a word is a format's name. */
export const isFormatName = (name: string): name is FormatName => Object.hasOwn(formats, name);

/**
 * The format of this name.
 *
 * @throws ConfigError naming the key and every known format
 */
export function formatOf(name: string, key = "format"): Format {
  if (isFormatName(name)) return formats[name];
  throw new ConfigError(`${key} "${name}" is not known`, { op: "quantize", key, value: name, fix: `use one of ${Object.keys(formats).join(", ")}` });
}

/**
 * Elements a scale: the asked size if the format allows it, else the format's own when none was asked.
 *
 * @throws ConfigError naming the key `block`, the value and the allowed sizes
 */
export function blockOf(format: Format, block: number | undefined): number {
  const chosen = block ?? format.block;
  const allowed = Number.isSafeInteger(chosen) && chosen > 0 && (format.blocks === null || format.blocks.includes(chosen));
  if (allowed) return chosen;
  throw new ConfigError(`block ${chosen} is not a block size of ${format.name}`, { op: "quantize", key: "block", value: chosen, fix: format.blocks === null ? "use a whole number above 0" : `use ${format.blocks.join(", ")}` });
}
