/** Staging for matrix units: pieces of 16 bytes from global memory, rounded to the units' type, to padded rows in workgroup memory. */
import type { Source } from "./gemm-operand.ts";
import type { Stage, Tile } from "./gemm-stage.ts";
import type { Shader } from "./shader.ts";

/** Elements in 16 bytes. */
export const pieceOf = (component: "f16" | "f32"): 4 | 8 => (component === "f16" ? 8 : 4);
/** Rows of the staged tile run along k, unless the operand is contiguous across it. */
export const rowsAlong = (s: Source): boolean => s.operand.order !== "across";
/** vec4<u32>s from row to row (one is padding), and in all. */
export function rowLength(along: boolean, BX: number, BK: number, E: number): { row: number; words: number } {
  const row = (along ? BK : BX) / E + 1;
  return { row, words: row * (along ? BX : BK) };
}

const PACK = "fn packF16(a: vec4<f32>, b: vec4<f32>) -> vec4<u32> { return vec4<u32>(pack2x16float(a.xy), pack2x16float(a.zw), pack2x16float(b.xy), pack2x16float(b.zw)); }";
const BF16_F16 = "fn bf16ToF16(w: vec4<u32>) -> vec4<u32> { let lo = w << vec4<u32>(16u); let hi = w & vec4<u32>(0xffff0000u); return vec4<u32>(pack2x16float(bitcast<vec2<f32>>(vec2<u32>(lo.x, hi.x))), pack2x16float(bitcast<vec2<f32>>(vec2<u32>(lo.y, hi.y))), pack2x16float(bitcast<vec2<f32>>(vec2<u32>(lo.z, hi.z))), pack2x16float(bitcast<vec2<f32>>(vec2<u32>(lo.w, hi.w)))); }";

/** What one read gives, and how the reads of a piece become its 16 bytes. */
function assembly(shader: Shader, s: Source, component: "f16" | "f32"): { zero: string; join: (q: readonly string[]) => string } {
  const { dtype } = s.operand.view, vec = (q: readonly string[]): string => `vec4<f32>(${q.join(", ")})`;
  if (component === "f32") return s.unit === 1 ? { zero: "0.0f", join: (q) => `bitcast<vec4<u32>>(${vec(q)})` } : { zero: "vec4<f32>()", join: ([q]) => `bitcast<vec4<u32>>(${q})` };
  if (s.unit === 8) {
    if (dtype === "bf16") shader.use("bf16ToF16", BF16_F16);
    return { zero: "vec4<u32>()", join: ([q]) => (dtype === "bf16" ? `bf16ToF16(${q})` : q) };
  }
  if (s.unit === 4 && dtype !== "f32") {
    if (dtype === "bf16") shader.use("bf16ToF16", BF16_F16);
    return { zero: "vec2<u32>()", join: (q) => (dtype === "bf16" ? `bf16ToF16(vec4<u32>(${q.join(", ")}))` : `vec4<u32>(${q.join(", ")})`) };
  }
  shader.use("packF16", PACK);
  return s.unit === 4 ? { zero: "vec4<f32>()", join: (q) => `packF16(${q.join(", ")})` } : { zero: "0.0f", join: (q) => `packF16(${vec(q.slice(0, 4))}, ${vec(q.slice(4))})` };
}

/** `base` is where the operand's rows begin in `memory`. */
export function matrixStage(shader: Shader, s: Source, name: string, component: "f16" | "f32", base: number, { BX, BK, threads, memory, row, start, extent, end }: Tile): Stage {
  const E = pieceOf(component), along = rowsAlong(s), U = s.unit, parts = E / U, perRow = (along ? BK : BX) / E, count = perRow * (along ? BX : BK);
  const slots = Math.ceil(count / threads), setup: string[] = [], put: string[] = [], fetches: ((k0: string, checked: boolean) => string)[] = [];
  const { zero, join } = assembly(shader, s, component);
  for (let i = 0; i < slots; i++) {
    const p = `${name}p${i}`, x = `${name}x${i}`, k = `${name}k${i}`, r = `${name}r${i}`, inner = `${p} % ${perRow}u`, outer = `${p} / ${perRow}u`;
    // k and x in elements, at the piece's first one
    setup.push(`let ${p} = li + ${i * threads}u; let ${k} = (${along ? inner : outer})${along ? ` * ${E}u` : ""}; let ${x} = ${start} + (${along ? outer : inner})${along ? "" : ` * ${E}u`}; var ${r}: vec4<u32>;`);
    const guard = i === slots - 1 && count % threads !== 0 ? `${p} < ${count}u` : "";
    const address = (e: number): string => {
      if (along) {
        const rowAt = `${r}a`;
        return U === 1 ? `${rowAt} + (${k} + ${e}u) * ${s.along}` : `${rowAt} + ${k} / ${U}u + ${e}u`;
      }
      return U === 1 ? `${r}a + min(${x} + ${e}u, ${extent} - 1u) * ${s.across}` : `${r}a + min(${x} / ${U}u + ${e}u, ${extent} / ${U}u - 1u)`;
    };
    setup.push(along ? `let ${r}a = ${s.origin} + min(${x}, ${extent} - 1u) * ${s.across};` : `let ${r}a = ${s.origin} + ${k} * ${s.along};`);
    fetches.push((k0, checked) => {
      const q = Array.from({ length: parts }, (_, e) => `q${e}`);
      const reads = q.map((v, e) => {
        const read = `${v} = ${s.read(`${address(e)} + ${name}k`)};`;
        return checked ? `var ${v} = ${zero}; if (${k0} + ${k}${along && e > 0 ? ` + ${e * U}u` : ""} < ${end}) { ${read} }` : `let ${read}`;
      });
      return `${guard === "" ? "" : `if (${guard}) `}{ ${reads.join(" ")} ${r} = ${join(q)}; }`;
    });
    const at = along ? `((${x} - ${start}) * ${row}u + ${k} / ${E}u)` : `(${k} * ${row}u + (${x} - ${start}) / ${E}u)`;
    put.push(`${guard === "" ? "" : `if (${guard}) `}{ ${memory}[${base}u + ${at}] = ${r}; }`);
  }
  const fetch = (k0: string): string[] => [
    `let ${name}k = ${along && U > 1 ? `${k0} / ${U}u` : `${k0} * ${s.along}`};`,
    `if (${k0} + ${BK}u <= ${end}) { ${fetches.map((f) => f(k0, false)).join("\n")} } else { ${fetches.map((f) => f(k0, true)).join("\n")} }`,
  ];
  return { setup, fetch, put };
}
