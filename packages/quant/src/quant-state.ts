/** The JSON that bitsandbytes keeps beside a 4-bit weight, both ways, byte for byte. */
import { FormatError } from "@adjoint/tensor";
import type { DType } from "@adjoint/tensor";
import { called } from "./quantized.ts";
import type { Named } from "./quantized.ts";

/** What the JSON says. */
export interface QuantState {
  readonly quantType: string;
  readonly block: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly nested?: { readonly block: number; readonly offset: number };
}

const names = { float32: "f32", float16: "f16", bfloat16: "bf16" } as const;
const isName = (name: unknown): name is keyof typeof names => typeof name === "string" && Object.hasOwn(names, name);
const pythonName: Partial<Record<DType, string>> = { f32: "float32", f16: "float16", bf16: "bfloat16" };

/**
 * Reads the JSON.
 *
 * @throws FormatError naming tensor, file, key and value
 */
export function parseState(bytes: Uint8Array, named: Named): QuantState {
  const bad = (key: string, value: unknown, fix: string): FormatError =>
    new FormatError(`${called(named)}: quant_state says ${key} ${JSON.stringify(value)}`, { key: `${named.name ?? ""}.quant_state.${key}`, file: named.file, value, fix });
  const state = parsed(bytes, named);
  const { quant_type: quantType, blocksize: block, dtype, shape, nested_blocksize: nestedBlock, nested_offset: offset, nested_dtype: nestedDtype } = state;
  if (typeof quantType !== "string") throw bad("quant_type", quantType, "it is nf4 or fp4");
  if (!isSize(block) || block === 0) throw bad("blocksize", block, "it is a whole number above 0");
  if (!isName(dtype)) throw bad("dtype", dtype, `it is one of ${Object.keys(names).join(", ")}`);
  if (!Array.isArray(shape) || !shape.every(isSize)) throw bad("shape", shape, "it is a list of whole numbers");
  if (nestedBlock === undefined && offset === undefined) return { quantType, block, dtype: names[dtype], shape };
  if (!isSize(nestedBlock) || nestedBlock === 0) throw bad("nested_blocksize", nestedBlock, "it is a whole number above 0");
  if (typeof offset !== "number" || !Number.isFinite(offset)) throw bad("nested_offset", offset, "it is a number");
  if (nestedDtype !== "float32") throw bad("nested_dtype", nestedDtype, "it is float32");
  return { quantType, block, dtype: names[dtype], shape, nested: { block: nestedBlock, offset: Math.fround(offset) } };
}

function parsed(bytes: Uint8Array, named: Named): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return { ...value };
  } catch (cause) {
    throw new FormatError(`${called(named)}: its quant_state is no JSON`, { key: named.name, file: named.file, fix: "the file is damaged: get it again", cause });
  }
  throw new FormatError(`${called(named)}: its quant_state is no JSON object`, { key: named.name, file: named.file, fix: "the file is damaged: get it again" });
}
const isSize = (value: unknown): value is number => typeof value === "number" && Number.isSafeInteger(value) && value >= 0;

/** The JSON as Python's `json.dumps` prints it. */
export function stateText({ quantType, block, dtype, shape, nested }: QuantState): string {
  const pairs = [`"quant_type": "${quantType}"`, `"blocksize": ${block}`, `"dtype": "${pythonName[dtype] ?? "float32"}"`, `"shape": [${shape.join(", ")}]`];
  if (nested !== undefined) pairs.push(`"nested_blocksize": ${nested.block}`, `"nested_dtype": "float32"`, `"nested_offset": ${pythonFloat(nested.offset)}`);
  return `{${pairs.join(", ")}}`;
}

/** A float as Python's `repr`: the shortest digits, a point or an exponent always, exponents below -4 and from 16 on, of two digits at least. */
export function pythonFloat(x: number): string {
  if (x === 0) return Object.is(x, -0) ? "-0.0" : "0.0";
  const [digits, exponent] = Math.abs(x).toExponential().split("e"), e = Number(exponent), sign = x < 0 ? "-" : "";
  if (e < -4 || e >= 16) return `${sign}${digits}e${e < 0 ? "-" : "+"}${String(Math.abs(e)).padStart(2, "0")}`;
  const all = digits.replace(".", "");
  if (e < 0) return `${sign}0.${"0".repeat(-e - 1)}${all}`;
  return all.length <= e + 1 ? `${sign}${all.padEnd(e + 1, "0")}.0` : `${sign}${all.slice(0, e + 1)}.${all.slice(e + 1)}`;
}
