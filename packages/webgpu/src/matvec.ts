/** Products of a few rows (decoding): every element of b is read once, sums of k-parts meet in workgroup memory. */
import type { Emit, Pair, Place } from "./gemm-tile.ts";
import type { Operand } from "./gemm-problem.ts";
import type { Shader } from "./shader.ts";
import type { VecVariant } from "./tiles.ts";

/** Columns of a workgroup: each group of `lanes` threads has four. */
export const vecColumns = (v: VecVariant): number => (v.threads / v.lanes) * 4;
/** Elements of k that a thread takes at once. */
export const vecStep = (v: VecVariant, { k, b }: { readonly k: number; readonly b: Operand }): 1 | 4 | 8 =>
  b.order !== "along" || b.width === 1 ? 1 : v.step === 8 && k % 8 === 0 ? 8 : 4;

/**
 * Neighbouring threads run along k where b is contiguous there (thread = group · lanes + lane), and along n otherwise
 * (thread = lane · groups + group). A thread has four columns and every `lanes`-th step of k.
 */
export function vecBody(shader: Shader, pairs: readonly Pair[], v: VecVariant, rows: number, place: Place, emit: Emit): string {
  const { lanes, threads } = v, groups = threads / lanes, alongK = pairs.every(({ b }) => b.operand.order === "along");
  shader.workgroup("sums", `array<vec4<f32>, ${rows * threads}>`);
  const lines = [alongK ? `let lane = li % ${lanes}u; let group = li / ${lanes}u;` : `let lane = li / ${groups}u; let group = li % ${groups}u;`, `let n = ${place.n0} + group * 4u;`];
  const all = Array.from({ length: rows }, (_, m) => m), four = [0, 1, 2, 3];
  for (const m of all) lines.push(`var d${m} = vec4<f32>();`);
  pairs.forEach(({ k, a, b }, i) => {
    const { order } = b.operand, step = b.unit === 1 ? 1 : vecStep(v, { k, b: b.operand }), wide = step > 1;
    lines.push("{", ...place.range(i), ...a.begin, ...b.begin);
    for (const m of all) lines.push(`let x${m} = ${a.origin}${m === 0 ? "" : ` + ${m}u * ${a.across}`};`);
    const column = (c: number): string => `min(n + ${c}u, ${place.N} - 1u)`;
    if (b.unit === 4 && order === "across") lines.push(`let w = ${b.origin} + min(n / 4u, ${place.N} / 4u - 1u);`);
    else for (const c of four) lines.push(`let w${c} = ${b.origin} + ${column(c)} * ${b.across};`);
    lines.push(`for (var k = kb + lane * ${step}u; k < ke; k += ${lanes * step}u) {`);
    if (wide) {
      // four at a time: `y0h1` is the second four of column 0
      const parts = step === 8 ? [0, 1] : [0];
      for (const c of four) {
        if (b.unit === 8) lines.push(`let y${c} = ${b.read(`w${c} + k / 8u`)}; ${parts.map((h) => `let y${c}h${h} = y${c}[${h}];`).join(" ")}`);
        else lines.push(...parts.map((h) => `let y${c}h${h} = ${b.read(`w${c} + k / 4u${h === 0 ? "" : " + 1u"}`)};`));
      }
      for (const m of all) for (const h of parts) {
        const x = a.unit === 4 ? a.read(`x${m} + k / 4u${h === 0 ? "" : " + 1u"}`) : `vec4<f32>(${four.map((e) => a.read(`x${m} + (k + ${4 * h + e}u) * ${a.along}`)).join(", ")})`;
        lines.push(`let a${m}h${h} = ${x}; d${m} += vec4<f32>(${four.map((c) => `dot(a${m}h${h}, y${c}h${h})`).join(", ")});`);
      }
    } else {
      lines.push(`let y = ${b.unit === 4 ? b.read(`w + k * ${b.along}`) : `vec4<f32>(${four.map((c) => b.read(`w${c} + k * ${b.along}`)).join(", ")})`};`);
      for (const m of all) lines.push(`d${m} = fma(vec4<f32>(${a.read(`x${m} + k * ${a.along}`)}), y, d${m});`);
    }
    lines.push("}", "}");
  });
  const stride = alongK ? 1 : groups;
  for (const m of all) lines.push(`sums[${m * threads}u + li] = d${m};`);
  lines.push("workgroupBarrier();");
  for (let h = lanes / 2; h >= 1; h /= 2) {
    lines.push(`if (lane < ${h}u) { ${all.map((m) => `sums[${m * threads}u + li] += sums[${m * threads}u + li + ${h * stride}u];`).join(" ")} }`, "workgroupBarrier();");
  }
  lines.push(`for (var m = lane; m < ${rows}u; m += ${lanes}u) { ${emit("m", "n", `sums[m * ${threads}u + group * ${alongK ? lanes : 1}u]`)} }`);
  return lines.join("\n");
}
/** Whether a must be read by elements: vectors of it serve only steps of four along k, and only where they lie along k. */
export const vecNeedsScalarA = ({ a, b }: { readonly a: { readonly order: string }; readonly b: { readonly order: string; readonly width: number } }): boolean =>
  !(b.order === "along" && b.width > 1 && a.order === "along");
