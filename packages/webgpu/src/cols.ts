/**
 * Column kernels: reduce axes that are not the last.
 *
 * A workgroup has X columns of invocations (each one column, or four neighbours) and Y slices of the reduced positions:
 * slice y takes y, y + Y, ..., and slices are folded as a tree. Where columns are few and rows many, the rows are cut in parts
 * over workgroups; a second dispatch reduces the parts in the same way. Y and the parts depend on sizes only, so sums have
 * the same order whatever the strides.
 */
import { bytesMoved, type ColsKernel, operationsOf, type PlanSpec, type StoreTo } from "@adjoint/tensor";
import type { Width } from "./intrinsics.ts";
import { mapDispatch } from "./map.ts";
import { Printer } from "./printer.ts";
import type { Dispatch, Lower, Target } from "./program.ts";
import { Fold, foldGroup } from "./reduce.ts";
import { Shader, spread } from "./shader.ts";
import { Access, aligned, ceilDiv, collapse, decompose, type IndexText, powerUp, product, type Space, stridesOf } from "./space.ts";
import { splitInto } from "./split.ts";

export const lowerCols: Lower<ColsKernel> = (kernel, plan, target) => splitInto(kernel, plan, target, cut(arrange(kernel), target).parts > 1 ? 1 : 0, colsDispatches, mapDispatch);

/** [outer..., reduced..., columns]: inner axes but the last stand before the reduced ones, as they are independent too. */
interface Arranged { readonly space: Space; readonly outer: number; readonly outers: number; readonly reduced: number; readonly columns: number }
function arrange(k: ColsKernel): Arranged {
  const s = collapse(k.shape, [k.outerAxes, k.reducedAxes, k.shape.length - k.outerAxes - k.reducedAxes], stridesOf(k)), [o, r, n] = s.groups, total = o + r + n;
  const axes = Array.from({ length: total }, (_, a) => a), order = [...axes.slice(0, o), ...axes.slice(o + r, Math.max(o + r, total - 1)), ...axes.slice(o, o + r), ...(n > 0 ? [total - 1] : [])];
  const pick = (l: readonly number[], fill: number): number[] => [...order.map((a) => l[a]), ...(n === 0 ? [fill] : [])], shape = pick(s.shape, 1), outer = o + Math.max(0, n - 1);
  return { space: { shape, groups: s.groups, strides: s.strides.map((l) => pick(l, 0)) }, outer, outers: product(shape.slice(0, outer)), reduced: product(shape.slice(outer, -1)), columns: shape[shape.length - 1] };
}

/** Slices of a workgroup, and parts of the rows (1 where workgroups are enough without). */
function cut(a: Arranged, target: Target): { slices: number; parts: number } {
  const slices = Math.min(64, Math.max(4, 1024 / Math.min(256, powerUp(a.columns)))), groups = a.outers * ceilDiv(a.columns, 64);
  const parts = Math.min(Math.ceil((4 * target.units) / groups), Math.floor(a.reduced / (8 * slices)));
  return { slices, parts: parts < 4 ? 1 : parts };
}

function colsDispatches(k: ColsKernel, plan: PlanSpec, target: Target, scratch: (bytes: number) => number): Dispatch[] {
  const a = arrange(k), { slices, parts } = cut(a, target), flops = operationsOf(k), bytes = bytesMoved(k, plan);
  if (parts === 1) return [new Cols(k, plan, target, a, slices).dispatch(flops, bytes)];
  const buffer = scratch(4 * parts * a.outers * a.columns);
  return [new Cols(k, plan, target, a, slices, { buffer, parts, second: false }).dispatch(flops, bytes), new Cols(k, plan, target, a, Math.min(32, powerUp(parts)), { buffer, parts, second: true }).dispatch(0, 0)];
}

/** Partial results [parts, outers, columns]: written by the first dispatch, reduced by the second. */
interface Parts { readonly buffer: number; readonly parts: number; readonly second: boolean }

class Cols {
  readonly #k: ColsKernel;
  readonly #a: Arranged;
  readonly #parts: Parts | undefined;
  /** reads the kernel's operands, not partial results; writes its stores, not partial results */
  readonly #first: boolean;
  readonly #stores: readonly StoreTo[];
  readonly #slices: number;
  /** columns an invocation, invocations across, workgroups across */
  readonly #width: Width;
  readonly #x: number;
  readonly #blocks: number;
  readonly #shader: Shader;
  readonly #fold: Fold;
  readonly #access: Access;
  readonly #partial: string;
  readonly #body: string[] = [];
  readonly #columns: string;
  readonly #outers: string;
  #outer: ReadonlyMap<number, string> = new Map();

  constructor(k: ColsKernel, plan: PlanSpec, target: Target, a: Arranged, slices: number, parts?: Parts) {
    this.#k = k; this.#a = a; this.#slices = slices; this.#parts = parts;
    this.#first = parts?.second !== true;
    const stores = (this.#stores = parts === undefined || parts.second ? k.stores : []), { space, columns } = a, inner = space.shape.length - 1;
    const lists: Space = { ...space, strides: stores.length > 0 ? space.strides : [...space.strides.slice(0, k.loads.length), ...space.strides.slice(k.loads.length + k.stores.length)] };
    const views = [...k.loads, ...stores.map((s) => s.view)].map((v, i) => ({ vec: aligned(v, lists.strides[i]), varies: lists.strides[i][inner] !== 0 })).filter((v) => v.varies);
    this.#width = columns % 4 === 0 && (!this.#first || views.filter((v) => v.vec).length * 2 >= views.length) ? 4 : 1;
    this.#x = Math.min(powerUp(ceilDiv(columns, this.#width)), Math.max(1, 256 / slices));
    this.#blocks = ceilDiv(columns, this.#x * this.#width);
    this.#shader = new Shader(plan, target, { writes: new Set(stores.length > 0 ? stores.map((s) => s.view.buffer) : [parts?.buffer ?? -1]) });
    this.#fold = new Fold(this.#shader, k.op, k.value.type);
    this.#access = new Access(this.#shader, plan, { ...k, stores }, lists, [...(this.#first ? [k.value] : []), ...stores.map((s) => s.value)], this.#width === 4, k.label);
    const cells = { float: ["f32", "vec4f"], i32: ["i32", "vec4i"], u32: ["u32", "vec4u"] } as const;
    this.#partial = parts ? this.#shader.bind(parts.buffer, cells[this.#fold.held][this.#width === 4 ? 1 : 0]) : "";
    this.#columns = this.#shader.param(columns);
    this.#outers = this.#shader.param(a.outers);
  }

  dispatch(flops: number, bytes: number): Dispatch {
    const size = this.#x * this.#slices, split = this.#first ? this.#parts?.parts ?? 1 : 1;
    const { workgroups, linear } = spread(this.#a.outers * this.#blocks * split, this.#shader.target);
    this.#begin(linear);
    if (this.#first) this.#sum(); else this.#sumParts();
    // slices are folded lane by lane
    const fold = this.#fold, lanes = this.#width === 4 ? ["x", "y", "z", "w"].map((l) => `total.${l}`) : ["total"];
    this.#body.push(...foldGroup(this.#shader, lanes.map(() => fold), lanes, lanes.map((_, j) => `s${j}`), size, this.#slices, this.#x));
    this.#finish(this.#width === 4 ? `${fold.wgsl(4)}(s0, s1, s2, s3)` : "s0");
    return this.#shader.dispatch(this.#body.join("\n"), { size: [size, 1, 1], workgroups, label: this.#k.label, flops, bytes });
  }

  /** `real` columns may lie past the last one, `c` does not; `whole` is the outer position, `part` the part of the rows. */
  #begin(linear: string): void {
    const { outer } = this.#a, shader = this.#shader, across = shader.param(this.#blocks), body = this.#body;
    body.push(`let group = ${linear};`, `let column = (group % ${across}) * ${this.#x * this.#width}u + (li % ${this.#x}u)${this.#width === 4 ? " * 4u" : ""};`, `let slice = li / ${this.#x}u;`);
    const parted = this.#first && this.#parts;
    if (parted) body.push(`let part = group / ${across} / ${this.#outers};`, `let whole = group / ${across} % ${this.#outers};`, `let real = part < ${shader.param(parted.parts)} && column < ${this.#columns};`);
    else body.push(`let whole = min(group / ${across}, ${this.#outers} - 1u);`, `let real = group / ${across} < ${this.#outers} && column < ${this.#columns};`);
    body.push(`let c = min(column, ${this.#columns} - ${this.#width}u);`);
    const { lines, index } = decompose("whole", Array.from({ length: outer }, (_, a) => a), (a) => this.#access.size(a), "i");
    body.push(...lines, `var total = ${this.#fold.wgsl(this.#width)}(${this.#fold.identity()});`);
    this.#outer = index;
  }
  #indices(reduced: ReadonlyMap<number, string>): IndexText[] {
    const { shape } = this.#a.space, inner = shape.length - 1;
    return Array.from({ length: this.#width }, (_, j) => shape.map((_n, a) => (a === inner ? (j === 0 ? "c" : `(c + ${j}u)`) : reduced.get(a) ?? this.#outer.get(a) ?? "")));
  }
  /** Adds the formula at the slice's positions. */
  #sum(): void {
    const { outer, space, reduced } = this.#a, shader = this.#shader, width = this.#width, parts = this.#parts, rows = shader.param(reduced);
    if (parts) {
      const per = shader.param(ceilDiv(reduced, parts.parts));
      this.#body.push(`let start = part * ${per} + slice;`, `let stop = min((part + 1u) * ${per}, ${rows});`);
    } else this.#body.push("let start = slice;", `let stop = ${rows};`);
    const { lines, index } = decompose("r", Array.from({ length: space.shape.length - 1 - outer }, (_, a) => outer + a), (a) => this.#access.size(a), "j");
    const printer: Printer = new Printer(shader, this.#access.leaves(this.#indices(index), (text) => printer.let(text), width), { width, prefix: "v" }), value = printer.value(this.#k.value);
    this.#body.push(`for (var r = start; r < stop; r += ${this.#slices}u) {`, ...lines, ...printer.lines, `total = ${this.#fold.combine("total", this.#fold.take(value, width))};`, "}");
  }
  #cell(part: string): string { return `${this.#partial}[(${part} * ${this.#outers} + whole) * ${this.#shader.param(this.#a.columns / this.#width)} + c / ${this.#width}u]`; }
  #sumParts(): void {
    this.#body.push(`for (var r = slice; r < ${this.#shader.param(this.#parts?.parts ?? 0)}; r += ${this.#slices}u) {`, `total = ${this.#fold.combine("total", this.#cell("r"))};`, "}");
  }
  #finish(sum: string): void {
    const width = this.#width, stores = this.#stores, fold = this.#fold;
    this.#body.push("if (real && slice == 0u) {");
    if (this.#first && this.#parts) this.#body.push(`${this.#cell("part")} = ${sum};`);
    else {
      const lanes = this.#indices(new Map()), stat = fold.type === "bool" ? `(${sum} != ${fold.wgsl(width)}(0u))` : sum;
      const printer: Printer = new Printer(this.#shader, this.#access.leaves(lanes, (text) => printer.let(text), width, { stat: () => stat }), { width, prefix: "w" });
      const values = stores.map((s) => printer.let(printer.value(s.value))), writes = stores.flatMap((s, i) => this.#access.store(i, lanes, values[i], s.value.type, width, (text) => printer.let(text)));
      this.#body.push(...printer.lines, ...writes);
    }
    this.#body.push("}");
  }
}
