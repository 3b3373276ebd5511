/** What follows a product: the kernel's formulas on four neighbouring sums at once, and its stores. */
import { type ContractKernel, type ExprType, type PlanSpec, type View, walk } from "@adjoint/tensor";
import { bindLoads, bindStores, loadElement, loadVec4, storeElement, storeVec4, typeOf } from "./element.ts";
import type { Problem } from "./gemm-problem.ts";
import type { Emit } from "./gemm-tile.ts";
import { convert, Printer, wgslType } from "./printer.ts";
import type { Shader } from "./shader.ts";

/** `lines` come once, where the batch coordinates `z0`... are known; then `emit` for every four sums. */
export interface Sink { readonly lines: readonly string[]; readonly emit: Emit }

/** Loads that the formulas use. */
export function loadsOf(kernel: ContractKernel): ReadonlySet<number> {
  const used = new Set<number>();
  walk(kernel.stores.map((s) => s.value), (e) => { if (e.fn === "load") used.add(e.leaf); });
  return used;
}
/** Distinct buffers of the stores and of the loads that are used. */
export const epilogueBuffers = (kernel: ContractKernel): ReadonlySet<number> => new Set([...kernel.stores.map((s) => s.view.buffer), ...[...loadsOf(kernel)].map((i) => kernel.loads[i].buffer)]);

export function epilogue(shader: Shader, kernel: ContractKernel, plan: PlanSpec, problem: Problem): Sink {
  const nb = problem.batch.length, { n } = problem, used = [...loadsOf(kernel)].sort((a, b) => a - b);
  // four neighbours along n at once
  const four = (v: View): boolean => {
    const s = problem.strides(v.strides);
    return n % 4 === 0 && s[nb + 1] === 1 && v.offset % 4 === 0 && (v.at?.stride ?? 0) % 4 === 0 && s.slice(0, nb + 1).every((x) => x % 4 === 0);
  };
  bindStores(shader, kernel.stores, (i) => four(kernel.stores[i].view));
  bindLoads(shader, used.map((i) => kernel.loads[i]), (i) => four(kernel.loads[used[i]]));

  const lines: string[] = [], formal: string[] = [], actual: string[] = [];
  /** the address of (m, 0) of this batch, in a function that has `m` */
  const row = (v: View, name: string): string => {
    const s = problem.strides(v.strides), terms = [shader.param(v.offset), ...problem.batch.flatMap((_, i) => (s[i] === 0 ? [] : [`z${i} * ${shader.param(s[i])}`]))];
    if (v.at !== undefined) terms.push(`${shader.number(kernel.uniforms[v.at.uniform], "u32")} * ${shader.param(v.at.stride)}`);
    lines.push(`let ${name} = ${terms.join(" + ")};`);
    formal.push(`${name}: u32`);
    actual.push(name);
    return s[nb] === 0 ? name : `${name} + m * ${shader.param(s[nb])}`;
  };
  const N = shader.param(n), column = (e: number): string => (n % 4 === 0 ? `n + ${e}u` : `min(n + ${e}u, ${N} - 1u)`);
  const rows = new Map(used.map((i) => [i, row(kernel.loads[i], `l${i}`)]));
  const load = (i: number, type: ExprType): string => {
    const v = kernel.loads[i], base = rows.get(i) ?? "", s = problem.strides(v.strides)[nb + 1], own = typeOf(v.dtype), to = (x: string): string => convert(shader, 4, own, type, x);
    if (s === 0) return to(`${wgslType(own, 4)}(${loadElement(shader, plan, v, base)})`);
    if (four(v)) return to(loadVec4(shader, plan, v, `${base} + n`));
    const step = s === 1 ? "" : ` * ${shader.param(s)}`;
    return to(`${wgslType(own, 4)}(${[0, 1, 2, 3].map((e) => loadElement(shader, plan, v, `${base} + (${column(e)})${step}`)).join(", ")})`);
  };
  const affine = (i: number, type: ExprType): string => {
    const a = kernel.affines[i], s = problem.strides(a.strides), name = `i${i}`;
    if (!formal.includes(`${name}: u32`)) {
      lines.push(`let ${name} = ${[shader.param(a.offset), ...problem.batch.flatMap((_, x) => (s[x] === 0 ? [] : [`z${x} * ${shader.param(s[x])}`]))].join(" + ")};`);
      formal.push(`${name}: u32`);
      actual.push(name);
    }
    const first = `${name}${s[nb] === 0 ? "" : ` + m * ${shader.param(s[nb])}`}${s[nb + 1] === 0 ? "" : ` + n * ${shader.param(s[nb + 1])}`}`;
    const all = s[nb + 1] === 0 ? `vec4<u32>(${first})` : `(${first} + vec4<u32>(0u, 1u, 2u, 3u) * ${shader.param(s[nb + 1])})`;
    return convert(shader, 4, "u32", type, all);
  };
  const printer = new Printer(shader, { uniforms: kernel.uniforms, load, affine, acc: () => "x" }, { width: 4, prefix: "e" });
  const values = kernel.stores.map((s) => printer.value(s.value)), writes: string[] = [];
  kernel.stores.forEach((s, i) => {
    const v = s.view, base = row(v, `s${i}`), type: ExprType = s.value.type;
    if (four(v)) { writes.push(storeVec4(shader, plan, v, `${base} + n`, values[i], type)); return; }
    const step = problem.strides(v.strides)[nb + 1], value = `v${i}`;
    writes.push(`let ${value} = ${values[i]};`);
    for (let e = 0; e < 4; e++) {
      const put = storeElement(shader, plan, v, `${base} + (n + ${e}u)${step === 1 ? "" : ` * ${shader.param(step)}`}`, `${value}.${"xyzw"[e]}`, type);
      writes.push(n % 4 === 0 ? put : `if (n + ${e}u < ${N}) { ${put} }`);
    }
  });
  shader.use("finish", `fn finish(m: u32, n: u32, x: vec4<f32>, ${formal.join(", ")}) {
if (m >= ${shader.param(problem.m)} || n >= ${N}) { return; }
${[...printer.lines, ...writes].join("\n")}
}`);
  return { lines, emit: (m, at, acc) => `finish(${m}, ${at}, ${acc}, ${actual.join(", ")});` };
}

/** Sums of parts of k as they are: scratch over [part, batch, m, n in fours]; `first`: part that these begin with. */
export function toScratch(shader: Shader, buffer: number, problem: Problem, zz: string, first: number): Sink {
  const out = shader.bind(buffer, "vec4f"), columns = shader.param(Math.ceil(problem.n / 4)), M = shader.param(problem.m);
  shader.use("finish", `fn finish(m: u32, n: u32, x: vec4<f32>, row: u32) { if (m < ${M} && n < ${shader.param(problem.n)}) { ${out}[(row + m) * ${columns} + n / 4u] = x; } }`);
  return { lines: [`let row = ${zz} * ${M}${first === 0 ? "" : ` + ${shader.param(first * problem.batch.reduce((t, x) => t * x, 1) * problem.m)}`};`], emit: (m, n, acc) => `finish(${m}, ${n}, ${acc}, row);` };
}
