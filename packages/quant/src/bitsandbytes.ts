/** Checkpoints of bitsandbytes: the keys of one 4-bit or 8-bit weight, both ways (`QuantState.as_dict(packed=True)`, `Linear8bitLt`). */
import { ConfigError, FormatError } from "@adjoint/tensor";
import type { HostArray } from "@adjoint/tensor";
import { formats } from "./format.ts";
import { called, checkQuantized } from "./quantized.ts";
import type { Named, Quantized } from "./quantized.ts";
import { parseState, stateText } from "./quant-state.ts";
import type { TensorSource } from "./source.ts";

const STATE = ".quant_state.bitsandbytes__";
const BESIDE = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];

/** Names of the weights that bitsandbytes quantized, each with all keys that belong to it (its own name first). */
export function bitsandbytesWeights(names: Iterable<string>): ReadonlyMap<string, readonly string[]> {
  const all = new Set(names), found = new Map<string, readonly string[]>();
  const there = (keys: readonly string[]): string[] => keys.filter((key) => all.has(key));
  for (const key of all) {
    const at = key.indexOf(STATE), weight = at >= 0 ? key.slice(0, at) : key.endsWith(".SCB") ? `${key.slice(0, -4)}.weight` : null;
    if (weight === null) continue;
    const beside = at >= 0 ? [...BESIDE.map((end) => weight + end), key] : [key, `${weight}_format`];
    found.set(weight, [weight, ...(found.get(weight)?.slice(1) ?? []), ...there(beside)].filter((name, i, list) => list.indexOf(name) === i));
  }
  return found;
}

/**
 * Reads one weight that bitsandbytes quantized: 4-bit (`quant_state.bitsandbytes__nf4` or `__fp4`, nested or not) or 8-bit rows (`SCB`).
 *
 * The 8-bit kind is int8 in blocks of a row, `scale = SCB`; bitsandbytes multiplies by SCB and then by 1/127, which may differ by an ulp.
 * @throws FormatError naming tensor and file: keys that are missing, a quant_state that contradicts keys, shape or data, an unknown kind
 */
export async function readBitsandbytes(source: TensorSource, name: string): Promise<Quantized> {
  const keys = bitsandbytesWeights(source.entries.keys()).get(name), named = { name, file: source.label };
  if (keys === undefined) throw new FormatError(`${called(named)}: is not quantized by bitsandbytes`, { key: name, file: source.label, fix: "read it as it is" });
  const states = keys.filter((key) => key.includes(STATE));
  if (states.length > 1) throw new FormatError(`${called(named)}: has ${states.length} quant_states`, { key: states[1], file: source.label, value: states, fix: "keep one of them" });
  return checkQuantized(states.length === 1 ? await readFour(source, name, states[0], named) : await readEight(source, name, named), named);
}

async function readFour(source: TensorSource, name: string, stateKey: string, named: Named): Promise<Quantized> {
  const state = parseState(bytesOf(await source.read(stateKey)), named), kind = stateKey.slice(name.length + STATE.length);
  const bad = (problem: string, key: string, value: unknown, fix: string): FormatError => new FormatError(`${called(named)}: ${problem}`, { key, file: named.file, value, fix });
  if (kind !== "nf4" && kind !== "fp4") throw bad(`quant_type "${kind}" is not known`, stateKey, kind, "use nf4 or fp4");
  if (state.quantType !== kind) throw bad(`quant_state says quant_type "${state.quantType}" under the key of ${kind}`, stateKey, state.quantType, "the file is damaged: get it again");
  const format = formats[kind], map = await floats(source, `${name}.quant_map`, named);
  if (format.blocks?.includes(state.block) !== true) throw bad(`quant_state says blocksize ${state.block}`, stateKey, state.block, `use one of ${format.blocks?.join(", ")}`);
  if (map.length !== 16 || map.some((value, code) => value !== format.table[code])) throw bad(`its quant_map is not that of ${kind}`, `${name}.quant_map`, [...map], "quantize the weight again");
  const absmax = await need(source, `${name}.absmax`, named), codes = bytesOf(await need(source, name, named));
  if (state.nested === undefined) {
    if (!(absmax.data instanceof Float32Array)) throw bad(`absmax is ${absmax.dtype} but quant_state says nothing of nested scales`, `${name}.absmax`, absmax.dtype, "the file is damaged: get it again");
    return { format, shape: state.shape, block: state.block, codes, scales: { values: absmax.data }, dtype: state.dtype };
  }
  if (!(absmax.data instanceof Uint8Array)) throw bad(`absmax is ${absmax.dtype} but quant_state says that scales are nested`, `${name}.absmax`, absmax.dtype, "the file is damaged: get it again");
  const table = await floats(source, `${name}.nested_quant_map`, named), values = await floats(source, `${name}.nested_absmax`, named);
  if (table.length !== 256) throw bad(`its nested_quant_map has ${table.length} entries`, `${name}.nested_quant_map`, table.length, "it has 256: get the file again");
  const odd = table.findIndex((value) => !Number.isFinite(value));
  if (odd >= 0) throw bad(`entry ${odd} of its nested_quant_map is ${table[odd]}`, `${name}.nested_quant_map`, table[odd], "the file is damaged: get it again");
  return { format, shape: state.shape, block: state.block, codes, scales: { values, nested: { codes: absmax.data, table, ...state.nested } }, dtype: state.dtype };
}

async function readEight(source: TensorSource, name: string, named: Named): Promise<Quantized> {
  const weight = await need(source, name, named), scales = await floats(source, `${name.slice(0, -".weight".length)}.SCB`, named), layout = `${name}_format`;
  if (weight.dtype !== "i8" || weight.shape.length !== 2) throw new FormatError(`${called(named)}: is ${weight.dtype} [${weight.shape.join(", ")}] beside an SCB`, { key: name, file: named.file, value: weight.dtype, fix: "8-bit weights are I8 [out, in]: get the file again" });
  const code = source.entries.has(layout) ? Number((await source.read(layout)).data[0]) : 0;
  if (code !== 0) throw new FormatError(`${called(named)}: weight_format ${code}`, { key: layout, file: named.file, value: code, fix: "only rows (0) are read: save the model again with a newer bitsandbytes" });
  return { format: formats.int8, shape: weight.shape, block: Math.max(1, weight.shape[1]), codes: bytesOf(weight), scales: { values: scales }, dtype: "f16" };
}

async function need(source: TensorSource, key: string, named: Named): Promise<HostArray> {
  if (!source.entries.has(key)) throw new FormatError(`${called(named)}: "${key}" is missing`, { key, file: named.file, fix: "get the file again, or all of its shards" });
  return source.read(key);
}

async function floats(source: TensorSource, key: string, named: Named): Promise<Float32Array> {
  const { data, dtype } = await need(source, key, named);
  if (data instanceof Float32Array) return data;
  throw new FormatError(`${called(named)}: "${key}" is ${dtype}`, { key, file: named.file, value: dtype, fix: "it is F32: get the file again" });
}

/** The bytes of an array, whatever type they are stored as (bnb_4bit_quant_storage). */
const bytesOf = ({ data }: HostArray): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/**
 * The keys of a quantized weight as bitsandbytes saves them: nf4 and fp4, nested or not; int8 in blocks of a row as `Linear8bitLt`.
 *
 * @param name of the weight; an 8-bit one ends with ".weight"
 * @throws ConfigError naming tensor and format if bitsandbytes has no such kind
 */
export function bitsandbytesTensors(name: string, q: Quantized): Record<string, HostArray> {
  const { format, shape, block, codes, scales, dtype } = checkQuantized(q, { name });
  if (format.name === "nf4" || format.name === "fp4") {
    const u8 = (data: Uint8Array, ...axes: number[]): HostArray => ({ dtype: "u8", shape: axes, data }), f32 = (data: Float32Array): HostArray => ({ dtype: "f32", shape: [data.length], data });
    const { values, nested } = scales, state = stateText({ quantType: format.name, block, dtype, shape, nested });
    return {
      [name]: u8(codes, codes.length, 1),
      ...(nested === undefined ? { [`${name}.absmax`]: f32(values) } : { [`${name}.absmax`]: u8(nested.codes, nested.codes.length), [`${name}.nested_absmax`]: f32(values), [`${name}.nested_quant_map`]: f32(nested.table) }),
      [`${name}.quant_map`]: f32(format.table),
      [`${name}${STATE}${format.name}`]: u8(new TextEncoder().encode(state), state.length),
    };
  }
  const bad = (problem: string, value: unknown, fix: string): ConfigError => new ConfigError(`${called({ name })}: ${problem}`, { op: "bitsandbytesTensors", key: name, value, fix });
  if (format.name !== "int8") throw bad(`bitsandbytes has no ${format.name}`, format.name, "quantize to nf4, fp4, or int8 in blocks of a row; write GGUF's formats with toGguf");
  if (shape.length !== 2 || block !== shape[1] || scales.nested !== undefined) throw bad(`8-bit weights of bitsandbytes have one f32 scale a row, this one has blocks of ${block} in [${shape.join(", ")}]`, block, "quantize with block = columns, doubleQuant false");
  if (!name.endsWith(".weight")) throw bad('its name does not end with ".weight"', name, "rename it");
  return {
    [name]: { dtype: "i8", shape, data: new Int8Array(codes.buffer, codes.byteOffset, codes.length) },
    [`${name.slice(0, -".weight".length)}.SCB`]: { dtype: "f32", shape: [shape[0]], data: scales.values },
    [`${name}_format`]: { dtype: "u8", shape: [], data: Uint8Array.of(0) },
  };
}

/** `quantization_config` of config.json, as transformers writes it for a model whose weights bitsandbytesTensors made. */
export function bitsandbytesConfig({ format, doubleQuant = false, computeDtype = "float32", skip = ["lm_head"] }: { readonly format: "nf4" | "fp4" | "int8"; readonly doubleQuant?: boolean; readonly computeDtype?: "float32" | "float16" | "bfloat16"; readonly skip?: readonly string[] }): Record<string, unknown> {
  const eight = format === "int8";
  return {
    _load_in_4bit: !eight, _load_in_8bit: eight, bnb_4bit_compute_dtype: computeDtype, bnb_4bit_quant_storage: "uint8", bnb_4bit_quant_type: eight ? "fp4" : format, bnb_4bit_use_double_quant: doubleQuant,
    llm_int8_enable_fp32_cpu_offload: false, llm_int8_has_fp16_weight: false, llm_int8_skip_modules: skip, llm_int8_threshold: 6.0, load_in_4bit: !eight, load_in_8bit: eight, quant_method: "bitsandbytes",
  };
}
