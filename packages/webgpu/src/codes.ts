/** Numbers out of codes inside a kernel: tables in workgroup memory, one number a block, and functions that decode one element, four, or the eight of a word. */
import { type BlockNumbers, type Decode, type Factor, type PlanSpec, type View } from "@adjoint/tensor";
import { loadElement } from "./element.ts";
import type { Shader } from "./shader.ts";

const numbersBuffers = ({ values, nested }: BlockNumbers): number[] => [values.buffer, ...(nested === undefined ? [] : [nested.codes.buffer, nested.table.buffer, nested.offset.buffer])];
/** Buffers that decoding reads besides the codes. */
export const decodeBuffers = ({ table, scales, mins }: Decode): number[] => [table.buffer, ...numbersBuffers(scales), ...(mins === undefined ? [] : numbersBuffers(mins))];
/** Words of workgroup memory that a table takes. */
export const tableWords = ({ bits }: Decode): number => 2 ** bits + 2;

/** Bytes an element, with its share of the block's numbers. */
export function codeBytes({ bits, block, scales, mins }: Decode): number {
  const one = ({ nested }: BlockNumbers): number => (nested === undefined ? 4 : 1 + 4 / nested.block);
  return bits / 8 + (one(scales) + (mins === undefined ? 0 : one(mins))) / block;
}
/** How many neighbours come out of one word: all of them in one block, and never across words. */
export const codeWidth = ({ bits, block }: Decode, divides: (w: number) => boolean): 1 | 4 | 8 =>
  bits === 4 && block % 8 === 0 && divides(8) ? 8 : block % 4 === 0 && divides(4) ? 4 : 1;

/** ⌊x / by⌋ for a size that is data; the text knows whether it is a power of two. */
const divided = (shader: Shader, x: string, by: number): string => (Number.isInteger(Math.log2(by)) ? `(${x} >> ${shader.param(Math.log2(by))})` : `(${x} / ${shader.param(by)})`);
const element = (shader: Shader, plan: PlanSpec, view: View, i: string): string => {
  const step = view.strides[view.strides.length - 1] ?? 1;
  return loadElement(shader, plan, view, `${shader.param(view.offset)} + ${i}${step === 1 ? "" : ` * ${shader.param(step)}`}`);
};
/** A product that no compiler may fuse with what follows: its bits pass through an exclusive or with a zero that is data. */
const rounded = (shader: Shader, x: string, width: 1 | 4): string => {
  const [f, u] = width === 1 ? ["f32", "u32"] : ["vec4<f32>", "vec4<u32>"], zero = shader.param(0);
  return `bitcast<${f}>(bitcast<${u}>(${x}) ^ ${width === 1 ? zero : `vec4<u32>(${zero})`})`;
};

/** The number of block `b`; `offset`: the WGSL of the number that is added to nested ones. */
export function blockNumber(shader: Shader, plan: PlanSpec, { values, nested }: BlockNumbers, b: string, offset: (view: View) => string): string {
  if (nested === undefined) return element(shader, plan, values, b);
  const entry = element(shader, plan, nested.table, `u32(${element(shader, plan, nested.codes, b)})`), group = element(shader, plan, values, divided(shader, b, nested.block));
  return `(${rounded(shader, `${entry} * ${group}`, 1)} + ${offset(nested.offset)})`;
}
/** A number that is the same for all blocks. */
export const offsetOf = (shader: Shader, plan: PlanSpec, view: View): string => element(shader, plan, view, "0u");

/** The tables of a dispatch in workgroup memory, each once; the offsets of nested numbers stand behind a table's entries. */
export class Tables {
  readonly #shader: Shader;
  readonly #plan: PlanSpec;
  readonly #names = new Map<string, string>();
  readonly #lines: string[] = [];
  constructor(shader: Shader, plan: PlanSpec) { this.#shader = shader; this.#plan = plan; }
  get plan(): PlanSpec { return this.#plan; }

  /** The name of a decode's table. */
  of({ bits, table, scales, mins }: Decode): string {
    const offsets = [scales, mins].map((x) => x?.nested?.offset), key = [table, ...offsets].map((v) => (v === undefined ? "" : `${v.buffer}.${v.offset}`)).join();
    let name = this.#names.get(key);
    if (name !== undefined) return name;
    this.#names.set(key, (name = `codes${this.#names.size}`));
    this.#shader.workgroup(name, `array<f32, ${2 ** bits + 2}>`);
    this.#lines.push(`for (var e = li; e < ${2 ** bits}u; e += THREADSu) { ${name}[e] = ${element(this.#shader, this.#plan, table, "e")}; }`);
    offsets.forEach((v, i) => { if (v !== undefined) this.#lines.push(`if (li == 0u) { ${name}[${2 ** bits + i}] = ${offsetOf(this.#shader, this.#plan, v)}; }`); });
    return name;
  }
  /** Statements that fill the tables, with a barrier; none where there are no codes. */
  fill(threads: number): readonly string[] { return this.#lines.length === 0 ? [] : [...this.#lines.map((l) => l.replace("THREADS", String(threads))), "workgroupBarrier();"]; }
}

const nibbles = (w: string, from: readonly number[]): string[] => from.map((s) => `${s === 0 ? w : `(${w} >> ${s}u)`} & 15u`);
/** Where elements 0 to 7 of a word of halves lie: the high half of a byte first. */
const HALVES = [4, 0, 12, 8, 20, 16, 28, 24] as const;

/**
 * The name of a function that decodes `unit` neighbours at an address that counts units: f32, vec4<f32>, or for eight
 * mat2x4<f32>, and with `pack` their halves as vec4<u32>. The codes begin at element `start` of their buffer.
 */
export function decoder(shader: Shader, tables: Tables, factor: Factor, decode: Decode, name: string, unit: 1 | 4 | 8, pack: boolean, start = 0): string {
  const { bits, block, scales, mins } = decode, { plan } = tables, table = tables.of(decode), codes = shader.bind(factor.buffer, "u32"), fn = `decode_${name}`;
  const at = start === 0 ? "a" : `(a + ${shader.param(start / unit)})`, size = 2 ** bits, numbers = (x: BlockNumbers, i: number): string => blockNumber(shader, plan, x, "block", () => `${table}[${size + i}]`);
  const lines = [`let block = ${divided(shader, "a", block / unit)};`, `let scale = ${numbers(scales, 0)};`, ...(mins === undefined ? [] : [`let least = ${numbers(mins, 1)};`])];
  /** codes as the table's entries times the scale, minus the minimum */
  const one = (code: string): string => { const x = `${table}[${code}] * scale`; return mins === undefined ? x : `${rounded(shader, x, 1)} - least`; };
  const four = (list: readonly string[]): string => { const x = `vec4<f32>(${list.map((c) => `${table}[${c}]`).join(", ")}) * scale`; return mins === undefined ? x : `${rounded(shader, x, 4)} - least`; };
  if (unit === 1) {
    const code = bits === 4 ? `(${codes}[${at} >> 3u] >> (((${at} & 7u) ^ 1u) << 2u)) & 15u` : `(${codes}[${at} >> 2u] >> ((${at} & 3u) << 3u)) & 255u`;
    shader.use(fn, `fn ${fn}(a: u32) -> f32 { ${lines.join(" ")} return ${one(code)}; }`);
  } else if (unit === 4) {
    const word = bits === 4 ? `${codes}[${at} >> 1u] >> ((${at} & 1u) << 4u)` : `${codes}[${at}]`, list = bits === 4 ? nibbles("w", HALVES.slice(0, 4)) : ["w & 255u", "(w >> 8u) & 255u", "(w >> 16u) & 255u", "w >> 24u"];
    shader.use(fn, `fn ${fn}(a: u32) -> vec4<f32> { let w = ${word}; ${lines.join(" ")} return ${four(list)}; }`);
  } else {
    const result = pack ? "vec4<u32>(pack2x16float(x.xy), pack2x16float(x.zw), pack2x16float(y.xy), pack2x16float(y.zw))" : "mat2x4<f32>(x, y)";
    shader.use(fn, `fn ${fn}(a: u32) -> ${pack ? "vec4<u32>" : "mat2x4<f32>"} { let w = ${codes}[${at}]; ${lines.join(" ")} let x = ${four(nibbles("w", HALVES.slice(0, 4)))}; let y = ${four(nibbles("w", HALVES.slice(4)))}; return ${result}; }`);
  }
  return fn;
}
