/**
 * Row kernels: statistics along the last axes, then stores.
 *
 * T invocations share a row (short rows: several rows a workgroup); each takes every T-th group of four neighbours, with four
 * running totals, so the order of sums depends on the row's length only. Rows up to 16 T elements are held in registers: what
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
const CHUNK = 8192, LONG = 4 * CHUNK;

export const lowerRows: Lower<RowsKernel> = (kernel, plan, target) => splitInto(kernel, plan, target, rowsDispatches, mapDispatch);

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

function rowsDispatches(k: RowsKernel, plan: PlanSpec, target: Target, scratch: (bytes: number) => number): Dispatch[] {
  const shape = shapeOf(k), groups = groupsOf(k), chunks = ceilDiv(shape.length, CHUNK);
  const flops = operationsOf(k), bytes = bytesMoved(k, plan);
  if (shape.length < LONG || shape.rows * 4 > target.units) return [new Rows(k, plan, target, shape).dispatch(groups, groups.length, flops, bytes)];
  // one dispatch a group; each folds what the ones before have left
  const partials = scratch(4 * k.stats.length * shape.rows * chunks), wide = k.stores.some((s) => !s.perRow), out: Dispatch[] = [];
  const phases = groups.length + (k.stores.length > 0 ? 1 : 0);
  for (let phase = 0; phase < phases; phase++) out.push(new Rows(k, plan, target, shape, { partials, chunks: phase < groups.length || wide ? chunks : 1, all: chunks }).dispatch(groups, phase, flops / phases, bytes / phases));
  return out;
}

/** Partial totals [statistic, row, chunk] as bits in one buffer. */
interface Long { readonly partials: number; /** workgroups a row here */ readonly chunks: number; /** partial totals a row */ readonly all: number }

class Rows {
  readonly #k: RowsKernel;
  readonly #plan: PlanSpec;
  readonly #target: Target;
  readonly #s: Shape;
  readonly #long: Long | undefined;
  constructor(k: RowsKernel, plan: PlanSpec, target: Target, s: Shape, long?: Long) { this.#k = k; this.#plan = plan; this.#target = target; this.#s = s; this.#long = long; }

  /** `phase` < groups: reduces that group (long rows); else everything that is left. */
  dispatch(groups: readonly (readonly number[])[], phase: number, flops: number, bytes: number): Dispatch {
    const k = this.#k, { space, outer, row, rows, length } = this.#s, long = this.#long, target = this.#target;
    const quads = ceilDiv(long ? Math.min(CHUNK, length) : length, 4), most = Math.min(256, target.limits.invocations);
    const threads = Math.min(most, Math.max(powerUp(ceilDiv(quads, 4)), Math.min(powerUp(quads), 32))), perGroup = long ? 1 : Math.max(1, 64 / threads), size = threads * perGroup;
    const trips = ceilDiv(quads, threads), last = phase === groups.length, here = last ? (long ? [] : groups) : [groups[phase]];
    const wide = last ? k.stores.flatMap((s, i) => (s.perRow ? [] : [i])) : [], narrow = last ? k.stores.flatMap((s, i) => (s.perRow ? [i] : [])) : [];
    const roots = [...here.flat().map((i) => k.stats[i].value), ...[...wide, ...narrow].map((i) => k.stores[i].value)];

    const written = last ? k.stores.map((s) => s.view.buffer) : [long?.partials ?? -1];
    const shader = new Shader(this.#plan, target, { writes: new Set(written) });
    const operands = last ? k : { ...k, stores: [] };
    const lists = { ...space, strides: last ? space.strides : [...space.strides.slice(0, k.loads.length), ...space.strides.slice(k.loads.length + k.stores.length)] };
    const inner = space.shape[space.shape.length - 1], even = inner % 4 === 0;
    const access = new Access(shader, this.#plan, operands, lists, roots, even, k.label);
    const folds = k.stats.map((s) => new Fold(shader, s.op, s.value.type));
    const body: string[] = [];

    // which row, which part of it
    const { workgroups, linear } = spread(ceilDiv(rows, perGroup) * (long ? long.chunks : 1), target);
    const rowCount = shader.param(rows), total = shader.param(length);
    body.push(`let group = ${linear};`, `let t = li & ${threads - 1}u;`);
    if (long) {
      const chunks = shader.param(long.chunks);
      body.push(`let real = group / ${chunks};`, `let chunk = group % ${chunks};`, `let start = chunk * ${CHUNK}u;`, `let stop = min(start + ${CHUNK}u, ${total});`);
    } else body.push(`let real = group * ${perGroup}u + li / ${threads}u;`, "let start = 0u;", `let stop = ${total};`);
    body.push(`let row = min(real, ${rowCount} - 1u);`);
    const place = decompose("row", outer, (a) => access.size(a), "i");
    body.push(...place.lines);

    const statText = new Map<number, string>();
    const stat = (i: number): string => statText.get(i) ?? "";
    // totals that earlier dispatches left in parts
    if (long) {
      const before = groups.slice(0, phase).flat(), all = shader.param(long.all);
      for (const i of before) {
        const cell = `${shader.bind(long.partials, "u32")}[(${i}u * ${rowCount} + row) * ${all} + j]`;
        body.push(`var q${i} = ${folds[i].identity()};`, `for (var j = t; j < ${all}; j += ${threads}u) { q${i} = ${folds[i].combine(`q${i}`, folds[i].fromBits(cell))}; }`);
      }
      if (before.length > 0) body.push(...foldGroup(shader, before.map((i) => folds[i]), before.map((i) => `q${i}`), before.map((i) => `p${i}`), size, threads));
      for (const i of before) statText.set(i, folds[i].give(`p${i}`));
    }

    /** Prints at the quad of positions that begins at `c`; `ready` bounds what may be read. */
    const printerAt = (c: string, prefix: string, sink: string[]): { printer: Printer; lanes: IndexText[]; bind: (t: string) => string } => {
      const lanes = this.#lanes(c, access, even, place.index, prefix, sink);
      const printer: Printer = new Printer(shader, access.leaves(lanes, (text) => printer.let(text), 4, { stat: (i) => `vec4<${folds[i].type === "bool" ? "bool" : folds[i].wgsl(1)}>(${stat(i)})` }), { width: 4, prefix });
      return { printer, lanes, bind: (text) => printer.let(text) };
    };
    const lead = `${threads * 4}u`;
    const mask = (c: string, i: number, value: string): string => {
      const f = folds[i], none = `${f.wgsl(4)}(${f.identity()})`;
      return even ? `select(${none}, ${f.take(value, 4)}, ${c} < stop)` : `select(${none}, ${f.take(value, 4)}, (vec4<u32>(${c}) + vec4<u32>(0u, 1u, 2u, 3u)) < vec4<u32>(stop))`;
    };
    const write = (c: string, at: ReturnType<typeof printerAt>, sink: string[]): void => {
      const values = wide.map((i) => at.printer.let(at.printer.value(k.stores[i].value)));
      const guards = [0, 1, 2, 3].map((j) => `real < ${rowCount} && ${c}${j === 0 ? "" : ` + ${j}u`} < stop`);
      const statements = wide.flatMap((i, j) => access.store(i, at.lanes, values[j], k.stores[i].value.type, 4, at.bind, guards));
      sink.push(...at.printer.lines.splice(0), ...statements);
    };

    const held = trips <= 4 && trips * k.loads.length <= 12;
    const pass = (group: readonly number[], each: (add: (c: string, at: ReturnType<typeof printerAt>, sink: string[]) => void) => void): void => {
      for (const i of group) body.push(`var a${i} = ${folds[i].wgsl(4)}(${folds[i].identity()});`);
      each((c, at, sink) => {
        const values = group.map((i) => at.printer.value(k.stats[i].value));
        sink.push(...at.printer.lines.splice(0), ...group.map((i, j) => `a${i} = ${folds[i].combine(`a${i}`, mask(c, i, values[j]))};`));
      });
      body.push(...foldGroup(shader, group.map((i) => folds[i]), group.map((i) => `(${folds[i].across(`a${i}`)})`), group.map((i) => `p${i}`), size, threads));
      for (const i of group) statText.set(i, folds[i].give(`p${i}`));
    };
    const loop = (each: (c: string, at: ReturnType<typeof printerAt>, sink: string[]) => void): void => {
      const lines: string[] = [], at = printerAt("c", "v", lines);
      body.push(`for (var c = start + t * 4u; c < stop; c += ${lead}) {`);
      each("c", at, lines);
      body.push(...lines, ...at.printer.lines, "}");
    };
    if (held) {
      const parts = Array.from({ length: trips }, (_, j) => {
        body.push(`let c${j} = start + t * 4u + ${j * threads * 4}u;`);
        const lines: string[] = [], at = printerAt(even ? `min(c${j}, stop - 4u)` : `c${j}`, `v${j}_`, lines);
        body.push(...lines);
        return { c: `c${j}`, at };
      });
      for (const group of here) pass(group, (add) => { for (const { c, at } of parts) add(c, at, body); });
      if (wide.length > 0) for (const { c, at } of parts) write(c, at, body);
    } else {
      for (const group of here) pass(group, loop);
      if (wide.length > 0) loop(write);
    }

    if (!last && long) {
      body.push("if (t == 0u) {");
      const chunks = shader.param(long.all);
      for (const i of groups[phase]) body.push(`${shader.bind(long.partials, "u32")}[(${i}u * ${rowCount} + row) * ${chunks} + chunk] = ${folds[i].toBits(`p${i}`)};`);
      body.push("}");
    }
    if (narrow.length > 0) {
      const index: IndexText[] = [this.#s.space.shape.map((_, a) => (row.includes(a) ? "" : place.index.get(a) ?? "0u"))];
      const printer: Printer = new Printer(shader, access.leaves(index, (text) => printer.let(text), 1, { stat: (i) => stat(i) }), { width: 1, prefix: "w" });
      const values = narrow.map((i) => printer.let(printer.value(k.stores[i].value)));
      const statements = narrow.flatMap((i, j) => access.store(i, index, values[j], k.stores[i].value.type, 1, (text) => printer.let(text)));
      body.push(`if (t == 0u && real < ${rowCount}${long ? " && chunk == 0u" : ""}) {`, ...printer.lines, ...statements, "}");
    }
    return shader.dispatch(body.join("\n"), { size: [size, 1, 1], workgroups, label: k.label, flops, bytes });
  }

  /** Indices of four positions of the row from `c` on; positions past the end stand on the last one. */
  #lanes(c: string, access: Access, even: boolean, outer: ReadonlyMap<number, string>, prefix: string, sink: string[]): IndexText[] {
    const { space, row } = this.#s, index = (own: ReadonlyMap<number, string>): IndexText => space.shape.map((_, a) => own.get(a) ?? outer.get(a) ?? "0u");
    if (even) {
      sink.push(`let ${prefix}c = ${c};`);
      const { lines, index: at } = decompose(`${prefix}c`, row, (a) => access.size(a), `${prefix}i`), last = row[row.length - 1];
      sink.push(...lines);
      return [0, 1, 2, 3].map((j) => { const own = new Map(at); if (j > 0) own.set(last, `(${at.get(last) ?? "0u"} + ${j}u)`); return index(own); });
    }
    return [0, 1, 2, 3].map((j) => {
      const name = `${prefix}c${j}`;
      sink.push(`let ${name} = min(${c} + ${j}u, stop - 1u);`);
      const { lines, index: at } = decompose(name, row, (a) => access.size(a), `${name}i`);
      sink.push(...lines);
      return index(at);
    });
  }
}
