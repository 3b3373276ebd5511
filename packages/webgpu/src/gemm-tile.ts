/** Register-tiled products: every thread keeps TM x TN sums in vec4 registers and reads both operands as vec4 from workgroup memory. */
import type { Source } from "./gemm-operand.ts";
import { stage } from "./gemm-stage.ts";
import type { Shader } from "./shader.ts";
import { threadsOf, type TileVariant } from "./tiles.ts";

/** Where a workgroup stands: names of WGSL values that the frame (gemm.ts) defines. */
export interface Place {
  readonly M: string; readonly N: string;
  /** first row and column of the tile */
  readonly m0: string; readonly n0: string;
  /** lines that define `kb` and `ke`, the range of k of this workgroup, for product i */
  readonly range: (product: number) => readonly string[];
}
/** The operands of one product over k. */
export interface Pair { readonly k: number; readonly a: Source; readonly b: Source }
/** What the sums become: one call for four neighbours of a row; `acc` is a vec4<f32>, `n` a multiple of 4; guards are the callee's. */
export type Emit = (m: string, n: string, acc: string) => string;

export function tileBody(shader: Shader, sources: readonly Pair[], v: TileVariant, place: Place, emit: Emit): string {
  const { BM, BN, BK, TM, TN, KG } = v, threads = threadsOf(v), tx = BN / TN, ty = BM / TM, rowA = BM / 4 + 1, rowB = BN / 4 + 1;
  shader.workgroup("As", `array<vec4<f32>, ${BK * rowA}>`);
  shader.workgroup("Bs", `array<vec4<f32>, ${BK * rowB}>`);
  if (KG > 1) shader.workgroup("Sums", `array<vec4<f32>, ${(BM * BN) / 4}>`);
  const lines: string[] = [`let tx = li % ${tx}u; let ty = li / ${tx}u${KG > 1 ? ` % ${ty}u; let own = li % ${tx * ty}u; let group = li / ${tx * ty}u` : ""};`];
  for (let i = 0; i < TM; i++) for (let j = 0; j < TN / 4; j++) lines.push(`var c${i}_${j} = vec4<f32>();`);
  const compute: string[] = [KG > 1 ? `for (var k = group * ${BK / KG}u; k < (group + 1u) * ${BK / KG}u; k++) {` : `for (var k = 0u; k < ${BK}u; k++) {`];
  for (let i = 0; i < TM / 4; i++) compute.push(`let a${i} = As[k * ${rowA}u + ty + ${i * ty}u];`);
  for (let j = 0; j < TN / 4; j++) compute.push(`let b${j} = Bs[k * ${rowB}u + tx + ${j * tx}u];`);
  for (let i = 0; i < TM; i++) for (let j = 0; j < TN / 4; j++) compute.push(`c${i}_${j} = fma(vec4<f32>(a${i >> 2}.${"xyzw"[i & 3]}), b${j}, c${i}_${j});`);
  compute.push("}");
  sources.forEach(({ a, b }, i) => {
    const A = stage(a, `a${i}_`, { BX: BM, BK, threads, memory: "As", row: rowA, start: place.m0, extent: place.M, end: "ke" });
    const B = stage(b, `b${i}_`, { BX: BN, BK, threads, memory: "Bs", row: rowB, start: place.n0, extent: place.N, end: "ke" });
    lines.push("{", ...place.range(i), ...a.begin, ...b.begin, ...A.setup, ...B.setup);
    if (v.prefetch) {
      // the next tile is on its way while this one is multiplied
      lines.push("for (var k0 = kb; ; ) {", "if (k0 < ke) {", ...A.fetch("k0"), ...B.fetch("k0"), "}", "if (k0 > kb) {", ...compute, "}",
        "if (k0 >= ke) { break; }", "workgroupBarrier();", ...A.put, ...B.put, "workgroupBarrier();", `k0 += ${BK}u;`, "}");
    } else {
      lines.push(`for (var k0 = kb; k0 < ke; k0 += ${BK}u) {`, ...A.fetch("k0"), ...B.fetch("k0"), ...A.put, ...B.put, "workgroupBarrier();", ...compute, "workgroupBarrier();", "}");
    }
    lines.push("}");
  });
  const sums = Array.from({ length: TM * (TN / 4) }, (_, i) => ({ name: `c${Math.floor(i / (TN / 4))}_${i % (TN / 4)}`, place: `Sums[${i * tx * ty}u + own]` }));
  if (KG > 1) {
    // in the order of the groups, so that runs repeat bit for bit
    lines.push(`for (var g = 1u; g < ${KG}u; g++) {`, "if (group == g) {", ...sums.map(({ name, place: at }) => `${at} = ${name};`), "}", "workgroupBarrier();",
      "if (group == 0u) {", ...sums.map(({ name, place: at }) => `${name} += ${at};`), "}", "workgroupBarrier();", "}", "if (group == 0u) {");
  }
  for (let i = 0; i < TM; i++) for (let j = 0; j < TN / 4; j++) {
    lines.push(emit(`${place.m0} + (ty + ${(i >> 2) * ty}u) * 4u + ${i & 3}u`, `${place.n0} + (tx + ${j * tx}u) * 4u`, `c${i}_${j}`));
  }
  if (KG > 1) lines.push("}");
  return lines.join("\n");
}
