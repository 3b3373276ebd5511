/**
 * Products on matrix units (subgroup matrices): each subgroup keeps WM x WN result matrices; operands pass through padded
 * rows of workgroup memory, and so do the results on their way to the formulas.
 */
import type { Emit, Pair, Place } from "./gemm-tile.ts";
import { matrixStage, pieceOf, rowLength, rowsAlong } from "./matrix-stage.ts";
import type { MatrixConfig, Target } from "./program.ts";
import type { Shader } from "./shader.ts";
import type { MatrixVariant } from "./tiles.ts";

/** Invocations of a subgroup in these kernels, and whether the text must pin them; null where the device leaves it open. */
export function subgroupSize(target: Target): { readonly size: number; readonly pin: boolean } | null {
  const { subgroups: s } = target;
  if (s === null) return null;
  if (s.min === s.max) return { size: s.min, pin: false };
  return s.control ? { size: Math.max(s.min, Math.min(32, s.max)), pin: true } : null;
}
/** Invocations of an emulated subgroup; all of them do all of its work. */
const EMULATED = 4;
export const matrixThreads = (v: MatrixVariant, target: Target): number => v.SM * v.SN * (v.emulate === true ? EMULATED : subgroupSize(target)?.size ?? 0);
export function subgroupOf(v: MatrixVariant, target: Target): { subgroupSize?: number; subgroupId?: boolean } {
  const s = subgroupSize(target);
  return v.emulate === true || s === null ? {} : { subgroupId: true, ...(s.pin ? { subgroupSize: s.size } : {}) };
}

/** Bytes of workgroup memory: both operands' rows at their longest, or a band of results. */
export function matrixBytes(v: MatrixVariant): number {
  const { config: c } = v, E = pieceOf(c.component === "f16" ? "f16" : "f32"), BM = v.SM * v.WM * c.m, BN = v.SN * v.WN * c.n;
  const longest = (BX: number): number => Math.max(rowLength(true, BX, v.BK, E).words, rowLength(false, BX, v.BK, E).words);
  return 16 * Math.max(longest(BM) + longest(BN), v.SM * c.m * (BN / 4 + 1));
}

/** Printed operations on matrices; addresses and strides count vec4<u32>s of `tile`. `slot` numbers the values that live at once. */
interface Units {
  zero(slot: number): string;
  load(side: "left" | "right", slot: number, layout: "row" | "column", offset: string, stride: string): string;
  multiply(a: string, b: string, c: string): string;
  store(offset: string, matrix: string, stride: string): string;
}

function hardware(shader: Shader, c: MatrixConfig, pin: boolean): Units {
  shader.directive("diagnostic(off, chromium.subgroup_matrix_uniformity);");
  shader.enable("subgroups");
  shader.enable("chromium_experimental_subgroup_matrix");
  if (pin) shader.enable("subgroup_size_control");
  if (c.component === "f16") shader.enable("f16");
  const types = { left: `subgroup_matrix_left<${c.component}, ${c.k}, ${c.m}>`, right: `subgroup_matrix_right<${c.component}, ${c.n}, ${c.k}>` };
  return {
    zero: () => `subgroup_matrix_result<${c.result}, ${c.n}, ${c.m}>()`,
    load: (side, _, layout, offset, stride) => `subgroupMatrixLoad<${types[side]}, ${layout === "row" ? "row_major" : "col_major"}>(&tile, ${offset}, ${stride})`,
    multiply: (a, b, acc) => `subgroupMatrixMultiplyAccumulate(${a}, ${b}, ${acc})`,
    store: (offset, matrix, stride) => `subgroupMatrixStore<row_major>(&tile, ${offset}, ${matrix}, ${stride});`,
  };
}

/** The same in plain WGSL, on private memory: it shows on any device that staging, addresses and epilogues are right. */
function software(shader: Shader, c: MatrixConfig, slots: number): Units {
  const half = c.component === "f16", E = half ? 8 : 4, size = Math.max(c.m * c.n, c.m * c.k, c.k * c.n);
  shader.use("cells", `var<private> cells: array<f32, ${slots * size}>;`);
  shader.use("cellAt", half
    ? "fn cellAt(i: u32) -> f32 { return unpack2x16float(tile[i >> 3u][(i >> 1u) & 3u] >> ((i & 1u) << 4u)).x; }"
    : "fn cellAt(i: u32) -> f32 { return bitcast<f32>(tile[i >> 2u][i & 3u]); }");
  // a matrix is where its cells begin
  shader.use("zeroCells", `fn zeroCells(at: u32) -> u32 { for (var i = 0u; i < ${size}u; i++) { cells[at + i] = 0.0f; } return at; }`);
  shader.use("loadCells", `fn loadCells(at: u32, rows: u32, columns: u32, byRow: bool, offset: u32, stride: u32) -> u32 {
for (var r = 0u; r < rows; r++) { for (var q = 0u; q < columns; q++) { cells[at + r * columns + q] = cellAt((offset + select(q, r, byRow) * stride) * ${E}u + select(r, q, byRow)); } } return at; }`);
  shader.use("multiplyCells", `fn multiplyCells(x: u32, y: u32, d: u32) -> u32 {
for (var r = 0u; r < ${c.m}u; r++) { for (var q = 0u; q < ${c.n}u; q++) { var s = cells[d + r * ${c.n}u + q]; for (var k = 0u; k < ${c.k}u; k++) { s += cells[x + r * ${c.k}u + k] * cells[y + k * ${c.n}u + q]; } cells[d + r * ${c.n}u + q] = s; } } return d; }`);
  shader.use("storeCells", `fn storeCells(offset: u32, d: u32, stride: u32) {
for (var r = 0u; r < ${c.m}u; r++) { for (var q = 0u; q < ${c.n / 4}u; q++) { let i = d + r * ${c.n}u + q * 4u; tile[offset + r * stride + q] = bitcast<vec4<u32>>(vec4<f32>(cells[i], cells[i + 1u], cells[i + 2u], cells[i + 3u])); } } }`);
  return {
    zero: (slot) => `zeroCells(${slot * size}u)`,
    load: (side, slot, layout, offset, stride) => `loadCells(${slot * size}u, ${side === "left" ? `${c.m}u, ${c.k}u` : `${c.k}u, ${c.n}u`}, ${layout === "row"}, ${offset}, ${stride})`,
    multiply: (a, b, acc) => `multiplyCells(${a}, ${b}, ${acc})`,
    store: (offset, matrix, stride) => `storeCells(${offset}, ${matrix}, ${stride});`,
  };
}

export function matrixBody(shader: Shader, pairs: readonly Pair[], v: MatrixVariant, place: Place, emit: Emit): string {
  const { config: c, SM, SN, WM, WN, BK } = v, component = c.component === "f16" ? "f16" : "f32", E = pieceOf(component), { target } = shader, threads = matrixThreads(v, target);
  const BM = SM * WM * c.m, BN = SN * WN * c.n, units = v.emulate === true ? software(shader, c, WM * WN + WM + WN) : hardware(shader, c, subgroupSize(target)?.pin === true);
  const rows = pairs.map(({ a, b }) => ({ a: rowLength(rowsAlong(a), BM, BK, E), b: rowLength(rowsAlong(b), BN, BK, E) })), baseB = Math.max(...rows.map((r) => r.a.words));
  const band = BN / 4 + 1;
  shader.workgroup("tile", `array<vec4<u32>, ${Math.max(baseB + Math.max(...rows.map((r) => r.b.words)), SM * c.m * band)}>`);
  const own = v.emulate === true ? `(li / ${EMULATED}u)` : "sgn", lines = [`let sm = ${own} % ${SM}u; let sn = ${own} / ${SM}u;`];
  for (let i = 0; i < WM; i++) for (let j = 0; j < WN; j++) lines.push(`var c${i}_${j} = ${units.zero(i * WN + j)};`);
  pairs.forEach(({ a, b }, i) => {
    const rowA = rows[i].a.row, rowB = rows[i].b.row, alongA = rowsAlong(a), alongB = rowsAlong(b);
    const A = matrixStage(shader, a, `a${i}_`, component, 0, { BX: BM, BK, threads, memory: "tile", row: rowA, start: place.m0, extent: place.M, end: "ke" });
    const B = matrixStage(shader, b, `b${i}_`, component, baseB, { BX: BN, BK, threads, memory: "tile", row: rowB, start: place.n0, extent: place.N, end: "ke" });
    const multiply: string[] = [];
    for (let k = 0; k < BK; k += c.k) {
      multiply.push("{");
      for (let w = 0; w < WM; w++) {
        const x = `(sm * ${WM * c.m}u + ${w * c.m}u)`;
        multiply.push(`let a${w} = ${units.load("left", WM * WN + w, alongA ? "row" : "column", alongA ? `${x} * ${rowA}u + ${k / E}u` : `${k * rowA}u + ${x} / ${E}u`, `${rowA}u`)};`);
      }
      for (let w = 0; w < WN; w++) {
        const x = `(sn * ${WN * c.n}u + ${w * c.n}u)`;
        multiply.push(`let b${w} = ${units.load("right", WM * WN + WM + w, alongB ? "column" : "row", alongB ? `${baseB}u + ${x} * ${rowB}u + ${k / E}u` : `${baseB + k * rowB}u + ${x} / ${E}u`, `${rowB}u`)};`);
        for (let u = 0; u < WM; u++) multiply.push(`c${u}_${w} = ${units.multiply(`a${u}`, `b${w}`, `c${u}_${w}`)};`);
      }
      multiply.push("}");
    }
    lines.push("{", ...place.range(i), ...a.begin, ...b.begin, ...A.setup, ...B.setup);
    if (v.prefetch) {
      lines.push("for (var k0 = kb; ; ) {", "if (k0 < ke) {", ...A.fetch("k0"), ...B.fetch("k0"), "}", "if (k0 > kb) {", ...multiply, "}",
        "if (k0 >= ke) { break; }", "workgroupBarrier();", ...A.put, ...B.put, "workgroupBarrier();", `k0 += ${BK}u;`, "}");
    } else {
      lines.push(`for (var k0 = kb; k0 < ke; k0 += ${BK}u) {`, ...A.fetch("k0"), ...B.fetch("k0"), "workgroupBarrier();", ...A.put, ...B.put, "workgroupBarrier();", ...multiply, "}");
    }
    lines.push("}");
  });
  // bands of SM x m rows pass through workgroup memory
  const pieces = BN / 4;
  for (let i = 0; i < WM; i++) {
    lines.push("workgroupBarrier();");
    for (let j = 0; j < WN; j++) lines.push(units.store(`sm * ${c.m * band}u + (sn * ${WN * c.n}u + ${j * c.n}u) / 4u`, `c${i}_${j}`, `${band}u`));
    lines.push("workgroupBarrier();", `for (var p = li; p < ${SM * c.m * pieces}u; p += ${threads}u) {`, `let r = p / ${pieces}u; let q = p % ${pieces}u;`,
      emit(`${place.m0} + (r / ${c.m}u) * ${WM * c.m}u + ${i * c.m}u + r % ${c.m}u`, `${place.n0} + q * 4u`, `bitcast<vec4<f32>>(tile[r * ${band}u + q])`), "}");
  }
  return lines.join("\n");
}
