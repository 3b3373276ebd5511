/**
 * Row kernels: statistics along the last axes, then stores.
 *
 * T invocations share a row (short rows: several rows a workgroup); each takes every T-th group of four neighbours (where the
 * length is no multiple of 4: positions t, t + T, t + 2T, t + 3T of every 4T, so that a load still takes neighbours at once),
 * with four running totals: the order of sums depends on the row's length only. Rows up to 16 T elements are held in registers: what
 * a later pass needs again is neither read nor computed twice. Few long rows are cut in chunks over many workgroups, one
 * dispatch for each statistic that depends on another, with partial totals in scratch memory.
 */
import { bytesMoved, operationsOf, type PlanSpec, type RowsKernel, walk } from "@adjoint/tensor";
import { mapDispatch } from "./map.ts";
import { Printer } from "./printer.ts";
import type { Dispatch, Lower, Target } from "./program.ts";
import { Fold, foldGroup } from "./reduce.ts";
import { Shader, spread } from "./shader.ts";
import { Access, ceilDiv, collapse, decompose, type IndexText, powerUp, product, type Space, stridesOf, withInner } from "./space.ts";
import { splitInto } from "./split.ts";

/** Elements of a chunk of a long row, and from which length rows count as long. */
const CHUNK = 8192, LONG = 8 * CHUNK;

export const lowerRows: Lower<RowsKernel> = (kernel, plan, target) => splitInto(kernel, plan, target, isLong(shapeOf(kernel), target) ? 1 : 0, rowsDispatches, mapDispatch);

/** Statistics by what they need: those of group g need totals of earlier groups only. */
function groupsOf(k: RowsKernel): number[][] {
  const level: number[] = [];
  for (const s of k.stats) {
    let own = 0;
    walk([s.value], (e) => { if (e.fn === "stat") own = Math.max(own, level[e.leaf] + 1); });
    level.push(own);
  }
  return Array.from({ length: Math.max(0, ...level.map((l) => l + 1)) }, (_, g) => level.flatMap((l, i) => (l === g ? [i] : [])));
}

interface Shape { readonly space: Space; readonly outer: readonly number[]; readonly row: readonly number[]; readonly rows: number; readonly length: number }
function shapeOf(k: RowsKernel): Shape {
  const outerAxes = k.shape.length - k.rowAxes, space = withInner(collapse(k.shape, [outerAxes, k.rowAxes], stridesOf(k)));
  const axes = space.shape.map((_, a) => a), outer = axes.slice(0, space.groups[0]), row = axes.slice(space.groups[0]);
  return { space, outer, row, rows: product(outer.map((a) => space.shape[a])), length: product(row.map((a) => space.shape[a])) };
}

const isLong = (s: Shape, target: Target): boolean => s.length >= LONG && s.rows * 4 <= target.units;

function rowsDispatches(k: RowsKernel, plan: PlanSpec, target: Target, scratch: (bytes: number) => number): Dispatch[] {
  const shape = shapeOf(k), groups = groupsOf(k), all = ceilDiv(shape.length, CHUNK), flops = operationsOf(k), bytes = bytesMoved(k, plan);
  if (!isLong(shape, target)) return [new Rows(k, plan, target, shape, { before: [], here: groups, stores: true }).dispatch(flops, bytes)];
  // one dispatch a group; each folds what the ones before have left
  const partials = scratch(4 * k.stats.length * shape.rows * all), wide = k.stores.some((s) => !s.perRow);
  const phases: Part[] = groups.map((group, g) => ({ before: groups.slice(0, g).flat(), here: [group], stores: false, long: { partials, chunks: all, all } }));
  phases.push({ before: groups.flat(), here: [], stores: true, long: { partials, chunks: wide ? all : 1, all } });
  return phases.map((p) => new Rows(k, plan, target, shape, p).dispatch(flops / phases.length, bytes / phases.length));
}

/** Partial totals [statistic, row, chunk] of long rows, as bits in one buffer. */
interface Long { readonly partials: number; /** workgroups a row here */ readonly chunks: number; /** partial totals a row */ readonly all: number }
/** What a dispatch does: statistics that lie in partial totals, groups to reduce, and whether it stores. */
interface Part { readonly before: readonly number[]; readonly here: readonly (readonly number[])[]; readonly stores: boolean; readonly long?: Long }
/** Four positions of the row from `c` on, and where they are printed. */
interface Quad { readonly c: string; readonly printer: Printer; readonly lanes: readonly IndexText[] }
const bindIn = (printer: Printer) => (text: string): string => printer.let(text);

class Rows {
  readonly #k: RowsKernel;
  readonly #s: Shape;
  readonly #part: Part;
  readonly #shader: Shader;
  readonly #access: Access;
  readonly #folds: readonly Fold[];
  readonly #body: string[] = [];
  /** WGSL text of the statistics that are known */
  readonly #stats = new Map<number, string>();
  /** invocations a row, rows a workgroup, groups of four an invocation */
  readonly #threads: number;
  readonly #perGroup: number;
  readonly #trips: number;
  /** four neighbours lie in one line, and the row ends with one */
  readonly #even: boolean;
  /** distance in the row of an invocation's first positions from those of the next, and of its four positions */
  readonly #lead: number;
  readonly #step: number;
  readonly #wide: readonly number[];
  readonly #narrow: readonly number[];
  readonly #rowCount: string;
  #outer: ReadonlyMap<number, string> = new Map();

  constructor(k: RowsKernel, plan: PlanSpec, target: Target, s: Shape, part: Part) {
    this.#k = k; this.#s = s; this.#part = part;
    const { long, stores } = part, { space } = s, quads = ceilDiv(long ? Math.min(CHUNK, s.length) : s.length, 4);
    this.#threads = Math.min(256, target.limits.invocations, Math.max(powerUp(ceilDiv(quads, 4)), Math.min(powerUp(quads), 32)));
    this.#perGroup = long ? 1 : Math.max(1, 64 / this.#threads);
    this.#trips = ceilDiv(quads, this.#threads);
    this.#even = space.shape[space.shape.length - 1] % 4 === 0;
    this.#lead = s.length % 4 === 0 ? 4 : 1;
    this.#step = this.#lead === 4 ? 1 : this.#threads;
    const which = (perRow: boolean): number[] => (stores ? k.stores.flatMap((x, i) => (x.perRow === perRow ? [i] : [])) : []);
    this.#wide = which(false);
    this.#narrow = which(true);
    this.#shader = new Shader(plan, target, { writes: new Set(stores ? k.stores.map((x) => x.view.buffer) : [long?.partials ?? -1]) });
    const roots = [...part.here.flat().map((i) => k.stats[i].value), ...[...this.#wide, ...this.#narrow].map((i) => k.stores[i].value)];
    const lists = stores ? space : { ...space, strides: [...space.strides.slice(0, k.loads.length), ...space.strides.slice(k.loads.length + k.stores.length)] };
    this.#access = new Access(this.#shader, plan, stores ? k : { ...k, stores: [] }, lists, roots, this.#even, k.label);
    this.#folds = k.stats.map((x) => new Fold(this.#shader, x.op, x.value.type));
    this.#rowCount = this.#shader.param(s.rows);
  }

  dispatch(flops: number, bytes: number): Dispatch {
    const { here, long } = this.#part, size = this.#threads * this.#perGroup;
    const { workgroups, linear } = spread(ceilDiv(this.#s.rows, this.#perGroup) * (long?.chunks ?? 1), this.#shader.target);
    this.#begin(linear);
    if (long) this.#foldPartials(long);
    const along = this.#k.loads.filter((_, i) => this.#s.row.some((a) => this.#s.space.strides[i][a] !== 0)).length;       // what is one number for the row is cheap to hold
    if (this.#trips <= 4 && this.#trips * along <= 12) this.#held(); else this.#looped();
    if (long && here.length > 0) this.#leavePartials(long, here.flat());
    this.#storeOnce();
    return this.#shader.dispatch(this.#body.join("\n"), { size: [size, 1, 1], workgroups, label: this.#k.label, flops, bytes });
  }

  /** Which row, and which part of it: `real` may lie past the last row, `row` does not; positions `start` to `stop`. */
  #begin(linear: string): void {
    const { long } = this.#part, body = this.#body, total = this.#shader.param(this.#s.length);
    body.push(`let group = ${linear};`, `let t = li & ${this.#threads - 1}u;`);
    if (long) {
      const chunks = this.#shader.param(long.chunks);
      body.push(`let real = group / ${chunks};`, `let chunk = group % ${chunks};`, `let start = chunk * ${CHUNK}u;`, `let stop = min(start + ${CHUNK}u, ${total});`);
    } else body.push(`let real = group * ${this.#perGroup}u + li / ${this.#threads}u;`, "let start = 0u;", `let stop = ${total};`);
    body.push(`let row = min(real, ${this.#rowCount} - 1u);`);
    const { lines, index } = decompose("row", this.#s.outer, (a) => this.#access.size(a), "i");
    body.push(...lines);
    this.#outer = index;
  }

  /** Every value in registers, so that each load and each shared formula happens once. */
  #held(): void {
    const quads = Array.from({ length: this.#trips }, (_, j) => {
      this.#body.push(`let c${j} = start + t * ${this.#lead}u + ${j * this.#threads * 4}u;`);
      return this.#quad(`c${j}`, this.#even ? `min(c${j}, stop - 4u)` : `c${j}`, `v${j}_`, this.#body);
    });
    for (const group of this.#part.here) this.#reduce(group, () => { for (const q of quads) this.#body.push(...this.#accumulate(group, q)); });
    for (const q of quads) this.#body.push(...this.#storeWide(q));
  }
  /** One loop over the row for each group of statistics, and one for the stores. */
  #looped(): void {
    const loop = (each: (q: Quad) => string[]): void => {
      const lines: string[] = [], quad = this.#quad("c", "c", "v", lines);
      this.#body.push(`for (var c = start + t * ${this.#lead}u; c < stop; c += ${this.#threads * 4}u) {`);
      lines.push(...each(quad));
      this.#body.push(...lines, "}");
    };
    for (const group of this.#part.here) this.#reduce(group, () => { loop((q) => this.#accumulate(group, q)); });
    if (this.#wide.length > 0) loop((q) => this.#storeWide(q));
  }

  /** A printer for the positions from `at` on; lines that place them go to `sink`. */
  #quad(c: string, at: string, prefix: string, sink: string[]): Quad {
    const lanes = this.#lanes(at, prefix, sink), stat = (i: number): string => `${this.#k.stats[i].value.type === "bool" ? "vec4<bool>" : this.#folds[i].wgsl(4)}(${this.#stats.get(i) ?? ""})`;
    const printer: Printer = new Printer(this.#shader, this.#access.leaves(lanes, (text) => printer.let(text), 4, { stat }), { width: 4, prefix });
    return { c, printer, lanes };
  }
  /** Indices of four positions of the row; where rows do not end with a group of four, those past the end stand on the last one. */
  #lanes(c: string, prefix: string, sink: string[]): IndexText[] {
    const { space, row } = this.#s, index = (own: ReadonlyMap<number, string>): IndexText => space.shape.map((_, a) => own.get(a) ?? this.#outer.get(a) ?? "0u");
    const place = (name: string, text: string): Map<number, string> => {
      sink.push(`let ${name} = ${text};`);
      const { lines, index: at } = decompose(name, row, (a) => this.#access.size(a), `${name}i`);
      sink.push(...lines);
      return at;
    };
    if (!this.#even) return [0, 1, 2, 3].map((j) => index(place(`${prefix}c${j}`, `min(${c} + ${j * this.#step}u, stop - 1u)`)));
    const at = place(`${prefix}c`, c), last = row[row.length - 1];
    return [0, 1, 2, 3].map((j) => index(j === 0 ? at : new Map(at).set(last, `(${at.get(last) ?? "0u"} + ${j}u)`)));
  }

  /** Running totals `a`, what `body` adds to them, and the row's totals `p`. */
  #reduce(group: readonly number[], body: () => void): void {
    const folds = group.map((i) => this.#folds[i]);
    group.forEach((i, j) => this.#body.push(`var a${i} = ${folds[j].wgsl(4)}(${folds[j].identity()});`));
    body();
    this.#total(group, group.map((i, j) => `(${folds[j].across(`a${i}`)})`));
  }
  #total(group: readonly number[], parts: readonly string[]): void {
    this.#body.push(...foldGroup(this.#shader, group.map((i) => this.#folds[i]), parts, group.map((i) => `p${i}`), this.#threads * this.#perGroup, this.#threads));
    for (const i of group) this.#stats.set(i, this.#folds[i].give(`p${i}`));
  }
  #accumulate(group: readonly number[], { c, printer }: Quad): string[] {
    const values = group.map((i) => printer.value(this.#k.stats[i].value)), inside = this.#even ? `${c} < stop` : `(vec4<u32>(${c}) + vec4<u32>(${[0, 1, 2, 3].map((j) => `${j * this.#step}u`).join(", ")})) < vec4<u32>(stop)`;
    const adds = group.map((i, j) => {
      const f = this.#folds[i];
      return `a${i} = ${f.combine(`a${i}`, `select(${f.wgsl(4)}(${f.identity()}), ${f.take(values[j], 4)}, ${inside})`)};`;
    });
    return [...printer.lines.splice(0), ...adds];
  }

  #storeWide({ c, printer, lanes }: Quad): string[] {
    const values = this.#wide.map((i) => printer.let(printer.value(this.#k.stores[i].value)));
    const guards = [0, 1, 2, 3].map((j) => `real < ${this.#rowCount} && ${c}${j === 0 ? "" : ` + ${j * this.#step}u`} < stop`);
    const writes = this.#wide.flatMap((i, j) => this.#access.store(i, lanes, values[j], this.#k.stores[i].value.type, 4, bindIn(printer), guards));
    return [...printer.lines.splice(0), ...writes];
  }
  #storeOnce(): void {
    if (this.#narrow.length === 0) return;
    const { space, row } = this.#s, lanes: IndexText[] = [space.shape.map((_, a) => (row.includes(a) ? "" : this.#outer.get(a) ?? "0u"))];
    const printer: Printer = new Printer(this.#shader, this.#access.leaves(lanes, (text) => printer.let(text), 1, { stat: (i) => this.#stats.get(i) ?? "" }), { width: 1, prefix: "w" });
    const values = this.#narrow.map((i) => printer.let(printer.value(this.#k.stores[i].value)));
    const writes = this.#narrow.flatMap((i, j) => this.#access.store(i, lanes, values[j], this.#k.stores[i].value.type, 1, bindIn(printer)));
    // a number a row is written only when all who share the row have read the old one
    if (this.#narrow.some((i) => this.#k.loads.some((v) => v.buffer === this.#k.stores[i].view.buffer))) this.#body.push("storageBarrier();");
    this.#body.push(`if (t == 0u && real < ${this.#rowCount}${this.#part.long ? " && chunk == 0u" : ""}) {`, ...printer.lines, ...writes, "}");
  }

  #cell(long: Long, i: number, chunk: string): string { return `${this.#shader.bind(long.partials, "u32")}[(${i}u * ${this.#rowCount} + row) * ${this.#shader.param(long.all)} + ${chunk}]`; }
  /** Totals that earlier dispatches left in parts. */
  #foldPartials(long: Long): void {
    const { before } = this.#part;
    for (const i of before) {
      const f = this.#folds[i];
      this.#body.push(`var q${i} = ${f.identity()};`, `for (var j = t; j < ${this.#shader.param(long.all)}; j += ${this.#threads}u) { q${i} = ${f.combine(`q${i}`, f.fromBits(this.#cell(long, i, "j")))}; }`);
    }
    if (before.length > 0) this.#total(before, before.map((i) => `q${i}`));
  }
  #leavePartials(long: Long, group: readonly number[]): void {
    this.#body.push("if (t == 0u) {", ...group.map((i) => `${this.#cell(long, i, "chunk")} = ${this.#folds[i].toBits(`p${i}`)};`), "}");
  }
}
