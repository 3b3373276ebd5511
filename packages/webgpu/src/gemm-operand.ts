/** Reading an operand of a product from its buffer: addresses, widening of halves, decoding, four elements at once where they lie together. */
import { decoder, type Tables } from "./codes.ts";
import type { Operand } from "./gemm-problem.ts";
import type { Cell, Shader } from "./shader.ts";

/** An operand bound to a shader. Addresses count units of `unit` elements. */
export interface Source {
  readonly operand: Operand;
  readonly unit: 1 | 4 | 8;
  /** lines that define `origin`, the address of this batch's first element, from batch coordinates `z0`, `z1`, ... */
  readonly begin: readonly string[];
  readonly origin: string;
  /** strides in units; "1u" along the contiguous axis where a unit is more than one element */
  readonly across: string;
  readonly along: string;
  /** the element at an address (unit 1), the vec4<f32> (unit 4), a mat2x4<f32> of eight codes, or with `bits` eight halves as vec4<u32> */
  read(address: string): string;
}

const BF16 = "fn gemmBf16(w: vec2<u32>) -> vec4<f32> { return bitcast<vec4<f32>>(vec4<u32>(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u)); }";
const F16 = "fn gemmF16(w: vec2<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y)); }";

/** How an operand is read: at most `most` elements at once; `bits`: 16-bit elements as words where they come by four or eight; `tables` of codes. */
export interface Reading { readonly most: 1 | 4 | 8; readonly bits: boolean; readonly tables: Tables }

export function source(shader: Shader, operand: Operand, name: string, uniforms: readonly number[], { most, bits, tables }: Reading): Source {
  const { view } = operand, half = view.dtype !== "f32", unit = operand.width < most ? operand.width : most;
  const address = (read: (i: string) => string): Source => {
    const origin = `${name}o`, terms = [shader.param(view.offset / unit), ...operand.batch.flatMap((s, i) => (s === 0 ? [] : [`z${i} * ${shader.param(s / unit)}`]))];
    if (view.at !== undefined) terms.push(`${shader.number(uniforms[view.at.uniform], "u32")} * ${shader.param(view.at.stride / unit)}`);
    const step = (s: number, contiguous: boolean): string => (unit > 1 && contiguous ? "1u" : shader.param(s / unit));
    return { operand, unit, begin: [`let ${origin} = ${terms.join(" + ")};`], origin, across: step(operand.across, operand.order === "across"), along: step(operand.along, operand.order === "along"), read };
  };
  if (view.decode !== undefined) {
    const fn = decoder(shader, tables, view, view.decode, name, unit, bits);
    return address((i) => `${fn}(${i})`);
  }
  const native = view.dtype === "f16" && shader.target.f16 && !(bits && unit > 1);
  if (native) shader.enable("f16");
  const cell: Cell = unit === 8 ? "vec4u" : unit === 4 ? (!half ? "vec4f" : native ? "vec4h" : "vec2u") : !half ? "f32" : native ? "f16" : "u32";
  const b = shader.bind(view.buffer, cell);
  if (unit === 4 && half && !native && !bits) shader.use(view.dtype === "bf16" ? "gemmBf16" : "gemmF16", view.dtype === "bf16" ? BF16 : F16);
  if (unit === 1 && half && !native) {
    // two halves a word, the first one low
    shader.use(`half_${b}`, view.dtype === "bf16"
      ? `fn half_${b}(i: u32) -> f32 { return bitcast<f32>(select(${b}[i >> 1u] << 16u, ${b}[i >> 1u] & 0xffff0000u, (i & 1u) == 1u)); }`
      : `fn half_${b}(i: u32) -> f32 { return unpack2x16float(${b}[i >> 1u] >> ((i & 1u) * 16u)).x; }`);
  }
  return address((i) => {
    if (!half || (bits && unit > 1)) return `${b}[${i}]`;
    if (unit > 1) return native ? `vec4<f32>(${b}[${i}])` : view.dtype === "bf16" ? `gemmBf16(${b}[${i}])` : `gemmF16(${b}[${i}])`;
    return native ? `f32(${b}[${i}])` : `half_${b}(${i})`;
  });
}
