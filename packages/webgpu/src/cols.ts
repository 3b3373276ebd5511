/**
 * Column kernels: reduce axes that are not the last.
 *
 * A workgroup has X columns of invocations (each one column, or four neighbours) and Y slices of the reduced positions:
 * slice y takes y, y + Y, ..., and slices are folded as a tree. Where columns are few and rows many, the rows are cut in parts
 * over workgroups; a second dispatch reduces the parts in the same way. Y and the parts depend on sizes only, so sums have
 * the same order whatever the strides.
 */
import { bytesMoved, type ColsKernel, operationsOf, type PlanSpec, type StoreTo } from "@adjoint/tensor";
import { mapDispatch } from "./map.ts";
import { Printer } from "./printer.ts";
import type { Dispatch, Lower, Target } from "./program.ts";
import { Fold, foldGroup } from "./reduce.ts";
import { Shader, spread } from "./shader.ts";
import { Access, aligned, ceilDiv, collapse, decompose, type IndexText, powerUp, product, type Space, stridesOf } from "./space.ts";
import { splitInto } from "./split.ts";

export const lowerCols: Lower<ColsKernel> = (kernel, plan, target) => splitInto(kernel, plan, target, colsDispatches, mapDispatch);

/** [outer..., reduced..., columns]: inner axes but the last stand before the reduced ones, as they are independent too. */
interface Arranged { readonly space: Space; readonly outer: number; readonly outers: number; readonly reduced: number; readonly columns: number }
function arrange(k: ColsKernel): Arranged {
  const s = collapse(k.shape, [k.outerAxes, k.reducedAxes, k.shape.length - k.outerAxes - k.reducedAxes], stridesOf(k)), [o, r, n] = s.groups, total = o + r + n;
  const axes = Array.from({ length: total }, (_, a) => a), order = [...axes.slice(0, o), ...axes.slice(o + r, Math.max(o + r, total - 1)), ...axes.slice(o, o + r), ...(n > 0 ? [total - 1] : [])];
  const pick = (l: readonly number[], fill: number): number[] => [...order.map((a) => l[a]), ...(n === 0 ? [fill] : [])], shape = pick(s.shape, 1), outer = o + Math.max(0, n - 1);
  return { space: { shape, groups: s.groups, strides: s.strides.map((l) => pick(l, 0)) }, outer, outers: product(shape.slice(0, outer)), reduced: product(shape.slice(outer, -1)), columns: shape[shape.length - 1] };
}

function colsDispatches(k: ColsKernel, plan: PlanSpec, target: Target, scratch: (bytes: number) => number): Dispatch[] {
  const a = arrange(k), slices = Math.min(64, Math.max(4, 1024 / Math.min(256, powerUp(a.columns)))), groups = a.outers * ceilDiv(a.columns, 64);
  const parts = Math.min(Math.ceil((4 * target.units) / groups), Math.floor(a.reduced / (8 * slices))), flops = operationsOf(k), bytes = bytesMoved(k, plan);
  if (parts < 4) return [new Cols(k, plan, target, a, slices).dispatch(flops, bytes)];
  const buffer = scratch(4 * parts * a.outers * a.columns);
  return [new Cols(k, plan, target, a, slices, { buffer, parts, second: false }).dispatch(flops, bytes), new Cols(k, plan, target, a, Math.min(32, powerUp(parts)), { buffer, parts, second: true }).dispatch(0, 0)];
}

/** Partial results [parts, outers, columns]: written by the first dispatch, reduced by the second. */
interface Parts { readonly buffer: number; readonly parts: number; readonly second: boolean }

class Cols {
  readonly #k: ColsKernel;
  readonly #plan: PlanSpec;
  readonly #target: Target;
  readonly #a: Arranged;
  readonly #slices: number;
  readonly #parts: Parts | undefined;
  constructor(k: ColsKernel, plan: PlanSpec, target: Target, a: Arranged, slices: number, parts?: Parts) { this.#k = k; this.#plan = plan; this.#target = target; this.#a = a; this.#slices = slices; this.#parts = parts; }

  dispatch(flops: number, bytes: number): Dispatch {
    const k = this.#k, target = this.#target, parts = this.#parts, slices = this.#slices, { space, outer, outers, reduced, columns } = this.#a;
    const first = parts?.second !== true, final = parts === undefined || parts.second, inner = space.shape.length - 1;
    const stores: readonly StoreTo[] = final ? k.stores : [], operands = { ...k, stores };
    const lists: Space = { ...space, strides: final ? space.strides : [...space.strides.slice(0, k.loads.length), ...space.strides.slice(k.loads.length + k.stores.length)] };
    const views = [...k.loads, ...stores.map((s) => s.view)].map((v, i) => ({ vec: aligned(v, lists.strides[i]), varies: lists.strides[i][inner] !== 0 })).filter((v) => v.varies);
    const width = columns % 4 === 0 && (!first || views.filter((v) => v.vec).length * 2 >= views.length) ? 4 : 1;
    const x = Math.min(powerUp(ceilDiv(columns, width)), Math.max(1, 256 / slices)), size = x * slices, blocks = ceilDiv(columns, x * width);

    const written = [...(final ? k.stores.map((s) => s.view.buffer) : []), ...(first && parts ? [parts.buffer] : [])];
    const shader = new Shader(this.#plan, target, { writes: new Set(written) }), fold = new Fold(shader, k.op, k.value.type);
    const access = new Access(shader, this.#plan, operands, lists, [...(first ? [k.value] : []), ...stores.map((s) => s.value)], width === 4, k.label);
    const cell = fold.held === "float" ? (width === 4 ? "vec4f" : "f32") : fold.held === "i32" ? (width === 4 ? "vec4i" : "i32") : width === 4 ? "vec4u" : "u32";
    const partial = parts ? shader.bind(parts.buffer, cell) : "";

    const split = first && parts ? parts.parts : 1, { workgroups, linear } = spread(outers * blocks * split, target);
    const blockCount = shader.param(blocks), columnCount = shader.param(columns), body: string[] = [];
    body.push(`let group = ${linear};`, `let column = (group % ${blockCount}) * ${x * width}u + (li % ${x}u)${width === 4 ? " * 4u" : ""};`, `let slice = li / ${x}u;`);
    const outerCount = shader.param(outers);
    if (first && parts) body.push(`let part = group / ${blockCount} / ${outerCount};`, `let whole = group / ${blockCount} % ${outerCount};`, `let real = part < ${shader.param(parts.parts)} && column < ${columnCount};`);
    else body.push(`let whole = min(group / ${blockCount}, ${outerCount} - 1u);`, `let real = group / ${blockCount} < ${outerCount} && column < ${columnCount};`);
    body.push(`let c = min(column, ${columnCount} - ${width}u);`);
    const place = decompose("whole", Array.from({ length: outer }, (_, a) => a), (a) => access.size(a), "i");
    body.push(...place.lines, `var total = ${fold.wgsl(width)}(${fold.identity()});`);

    const indices = (own: ReadonlyMap<number, string>): IndexText[] => Array.from({ length: width }, (_, j) => space.shape.map((_n, a) => (a === inner ? (j === 0 ? "c" : `(c + ${j}u)`) : own.get(a) ?? place.index.get(a) ?? "")));
    if (first) {
      const rows = shader.param(reduced);
      let stop = rows, start = "slice";
      if (parts) {
        const per = shader.param(ceilDiv(reduced, parts.parts));
        body.push(`let stop = min((part + 1u) * ${per}, ${rows});`);
        stop = "stop"; start = `part * ${per} + slice`;
      }
      const at = decompose("r", Array.from({ length: inner - outer }, (_, a) => outer + a), (a) => access.size(a), "j");
      const printer: Printer = new Printer(shader, access.leaves(indices(at.index), (text) => printer.let(text), width), { width, prefix: "v" }), value = printer.value(k.value);
      body.push(`for (var r = ${start}; r < ${stop}; r += ${slices}u) {`, ...at.lines, ...printer.lines, `total = ${fold.combine("total", fold.take(value, width))};`, "}");
    } else if (parts) {
      body.push(`for (var r = slice; r < ${shader.param(parts.parts)}; r += ${slices}u) {`, `total = ${fold.combine("total", `${partial}[(r * ${outerCount} + whole) * ${shader.param(columns / width)} + c / ${width}u]`)};`, "}");
    }
    // slices are folded lane by lane
    const lanes = width === 4 ? ["x", "y", "z", "w"].map((l) => `total.${l}`) : ["total"];
    body.push(...foldGroup(shader, lanes.map(() => fold), lanes, lanes.map((_, j) => `s${j}`), size, slices, x));
    const sum = width === 4 ? `${fold.wgsl(4)}(s0, s1, s2, s3)` : "s0";
    body.push("if (real && slice == 0u) {");
    if (!final && parts) body.push(`${partial}[(part * ${outerCount} + whole) * ${shader.param(columns / width)} + c / ${width}u] = ${sum};`);
    else {
      const lane = indices(new Map()), printer: Printer = new Printer(shader, access.leaves(lane, (text) => printer.let(text), width, { stat: () => (fold.type === "bool" ? `(${sum} != ${fold.wgsl(width)}(0u))` : sum) }), { width, prefix: "w" });
      const values = stores.map((s) => printer.let(printer.value(s.value))), statements = stores.flatMap((s, i) => access.store(i, lane, values[i], s.value.type, width, (text) => printer.let(text)));
      body.push(...printer.lines, ...statements);
    }
    body.push("}");
    return shader.dispatch(body.join("\n"), { size: [size, 1, 1], workgroups, label: k.label, flops, bytes });
  }
}
