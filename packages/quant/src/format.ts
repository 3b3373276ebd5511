/** Formats as data: how many bits a code has, what it stands for, how many elements share a scale, how the scale is stored. */
import { ConfigError } from "@adjoint/tensor";
import * as tables from "./tables.ts";

/** The formats' names. */
export type FormatName = "nf4" | "fp4" | "int4" | "int8" | "dynamic8" | "udynamic8" | "q8_0" | "q4_0" | "mxfp4"
  | "q2_k" | "q3_k" | "q4_k" | "q5_k" | "q6_k" | "q4_1" | "q5_0" | "q5_1" | "iq4_nl" | "iq4_xs";

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
/** A format of GGUF files that is read and not made; codes of five and six bits have a byte each in memory. */
const read = (name: FormatName, bits: 4 | 8, block: 16 | 32, table: Float32Array): Format => ({ name, bits, block, blocks: [block], table, scale: "f16", encodes: false });

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
  mxfp4: { name: "mxfp4", bits: 4, block: 32, blocks: gguf, table: tables.e2m1, scale: "e8m0", encodes: true },
  q2_k: read("q2_k", 4, 16, tables.q4k), q3_k: read("q3_k", 4, 16, tables.q3k), q4_k: read("q4_k", 4, 32, tables.q4k), q5_k: read("q5_k", 8, 32, tables.identity), q6_k: read("q6_k", 8, 16, tables.six),
  q4_1: read("q4_1", 4, 32, tables.q4k), q5_0: read("q5_0", 8, 32, tables.q5), q5_1: read("q5_1", 8, 32, tables.identity), iq4_nl: read("iq4_nl", 4, 32, tables.iq4), iq4_xs: read("iq4_xs", 4, 32, tables.iq4),
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
