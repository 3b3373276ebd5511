/** Reductions inside a workgroup: identities, combinations, and totals over groups of invocations in a fixed order. */
import type { ExprType, ReduceOp } from "@adjoint/tensor";
import type { Width } from "./intrinsics.ts";
import { convert, wgslType } from "./printer.ts";
import type { Shader } from "./shader.ts";

/** One statistic: how it combines, and the type in which it is held (bools count as u32). */
export class Fold {
  readonly op: "sum" | "max" | "min";
  readonly type: ExprType;
  readonly held: "float" | "i32" | "u32";
  readonly #shader: Shader;
  constructor(shader: Shader, op: ReduceOp, type: ExprType) { this.#shader = shader; this.op = op === "sum64" ? "sum" : op; this.type = type; this.held = type === "bool" ? "u32" : type; }

  wgsl(width: Width): string { return wgslType(this.held, width); }
  /** What changes nothing; infinities are no constants in WGSL, so they come from a parameter. */
  readonly identity: () => string = (() => {
    let text: string | undefined;
    return (): string => (text ??= this.#identity());
  })();
  #identity(): string {
    if (this.op === "sum") return this.held === "float" ? "0.0f" : this.held === "i32" ? "0i" : "0u";
    const low = this.op === "max";
    if (this.held === "float") return this.#shader.param(low ? -Infinity : Infinity, "f32");
    if (this.held === "i32") return low ? "bitcast<i32>(0x80000000u)" : "2147483647i";
    return low ? "0u" : "0xffffffffu";
  }
  combine(a: string, b: string): string { return this.op === "sum" ? `${a} + ${b}` : `${this.op}(${a}, ${b})`; }
  /** A formula's value as it is held, and back. */
  take(value: string, width: Width): string { return this.type === "bool" ? convert(this.#shader, width, "bool", "u32", value) : value; }
  give(text: string): string { return this.type === "bool" ? `(${text} != 0u)` : text; }
  /** A held scalar as a word of memory, and back. */
  toBits(text: string): string { return this.held === "u32" ? text : `bitcast<u32>(${text})`; }
  fromBits(text: string): string { return this.held === "u32" ? text : `bitcast<${this.wgsl(1)}>(${text})`; }
  /** The four parts of a vector as one. */
  across(v: string): string { return this.combine(`(${this.combine(`${v}.x`, `${v}.y`)})`, `(${this.combine(`${v}.z`, `${v}.w`)})`); }
}

/**
 * Lines that fold `parts[i]` (one value an invocation) over groups of `count` neighbours in `li` (a power of 2), and
 * leave the totals in `totals[i]` in every invocation of the group. `size` invocations form the workgroup; `step` is the distance
 * of neighbours in `li` (1, or the columns of a tile). Uniform control flow only.
 */
export function foldGroup(shader: Shader, folds: readonly Fold[], parts: readonly string[], totals: readonly string[], size: number, count: number, step = 1): string[] {
  if (count === 1) return totals.map((t, i) => `let ${t} = ${parts[i]};`);
  const { subgroups } = shader.target;
  if (subgroups !== null && subgroups.min === subgroups.max && step === 1 && count === size && size % subgroups.min === 0 && size > subgroups.min) return bySubgroups(shader, folds, parts, totals, size / subgroups.min, subgroups.min);
  const memory = folds.map((f, i) => share(shader, f, i, size)), out: string[] = [];
  const each = (line: (m: string, i: number) => string): void => { memory.forEach((m, i) => { out.push(line(m, i)); }); };
  each((m, i) => `${m}[li] = ${parts[i]};`);
  out.push("workgroupBarrier();");
  const place = step === 1 ? `(li & ${count - 1}u)` : `(li / ${step}u)`;
  for (let half = count / 2; half >= 1; half /= 2) {
    out.push(`if (${place} < ${half}u) {`);
    each((m, i) => `${m}[li] = ${folds[i].combine(`${m}[li]`, `${m}[li + ${half * step}u]`)};`);
    out.push("}", "workgroupBarrier();");
  }
  each((m, i) => `let ${totals[i]} = ${m}[li - ${place}${step === 1 ? "" : ` * ${step}u`}];`);
  out.push("workgroupBarrier();");
  return out;
}

/** Totals of subgroups, which are runs of `li`, added in order by every invocation. */
function bySubgroups(shader: Shader, folds: readonly Fold[], parts: readonly string[], totals: readonly string[], count: number, size: number): string[] {
  shader.enable("subgroups");
  const memory = folds.map((f, i) => share(shader, f, i, count, "g")), out: string[] = [];
  folds.forEach((f, i) => { out.push(`let ${totals[i]}s = subgroup${f.op === "sum" ? "Add" : f.op === "max" ? "Max" : "Min"}(${parts[i]});`); });
  out.push("if (sgi == 0u) {", ...memory.map((m, i) => `${m}[li / ${size}u] = ${totals[i]}s;`), "}", "workgroupBarrier();");
  folds.forEach((f, i) => {
    out.push(`var ${totals[i]} = ${memory[i]}[0];`);
    if (count <= 8) for (let k = 1; k < count; k++) out.push(`${totals[i]} = ${f.combine(totals[i], `${memory[i]}[${k}]`)};`);
    else out.push(`for (var k = 1u; k < ${count}u; k++) { ${totals[i]} = ${f.combine(totals[i], `${memory[i]}[k]`)}; }`);
  });
  out.push("workgroupBarrier();");
  return out;
}

const declared = new WeakMap<Shader, Set<string>>();
/** Workgroup memory for statistic `i` of a fold; reused by later folds of the same shader. */
function share(shader: Shader, f: Fold, i: number, size: number, prefix = "t"): string {
  const name = `${prefix}${i}_${f.held}`, names = declared.get(shader) ?? new Set<string>();
  declared.set(shader, names);
  if (!names.has(name)) { names.add(name); shader.workgroup(name, `array<${f.wgsl(1)}, ${size}>`); }
  return name;
}
