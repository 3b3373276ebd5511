/**
 * Row kernels: statistics along the last axis, then stores.
 *
 * Statistics that do not need one another share a pass. Values that a later pass needs again, and that take more than a
 * few instructions, are kept in a per-thread scratch row. Order of sums: a row is cut in chunks of 4096 elements; inside a
 * chunk 16 running sums (see line.ts) are folded, and chunks are added in order. A few long rows are cut among threads at
 * the same chunks, in one phase a pass, so the bits do not depend on the cut.
 */
import { keyOf, type RowsKernel, type StoreTo, type View } from "@adjoint/tensor";
import { type Func, type Local, op } from "./assembler.ts";
import { Dag } from "./dag.ts";
import { Frame } from "./frame.ts";
import { accumulators, combine, emitLine, fold, identity, type Root, settle, type Sink } from "./line.ts";
import { operandsOf } from "./map.ts";
import { type Recipe, type Target, WORKSPACE } from "./recipe.ts";
import { collapse, Layout, product, type Signature, type Space, signatureKey, withInner } from "./space.ts";

export const CHUNK = 4096;
/** Instructions from which on a value is kept rather than computed again. */
const DEAR = 10;

/** A line's worth of work: reductions of one group, values to keep, values kept before. */
interface Pass { readonly stats: readonly number[]; readonly spill: readonly number[] }
interface Plan { readonly dag: Dag; readonly stats: readonly number[]; readonly stores: readonly number[]; readonly passes: readonly Pass[]; readonly final: boolean; readonly spills: readonly number[] }

/** Groups statistics by what they need and chooses the values to keep. */
function plan(k: RowsKernel, keep: boolean): Plan {
  const dag = new Dag();
  const stats = k.stats.map((s) => dag.add(s.value)), stores = k.stores.map((s) => dag.add(s.value));
  const group: number[] = [];
  for (const root of stats) group.push(Math.max(-1, ...[...dag.stats(root)].map((s) => group[s])) + 1);
  const count = Math.max(-1, ...group) + 1;
  const final = k.stores.some((s) => !s.perRow);
  const wide = k.stores.flatMap((s, i) => (s.perRow ? [] : [stores[i]]));
  const rootsOf = (g: number): number[] => (g < count ? stats.filter((_, i) => group[i] === g) : wide);
  const spills: number[] = [];
  const passes: Pass[] = [];
  for (let g = 0; g < count; g++) {
    const spill: number[] = [];
    if (keep) {
      const known = new Set(spills);
      const now = dag.reach(rootsOf(g), (id) => known.has(id));
      const later = new Set<number>();
      for (let h = g + 1; h <= count; h++) for (const id of dag.reach(rootsOf(h), (x) => known.has(x))) later.add(id);
      // topmost dear values that both need: a dear node with no dear shared user
      const shared = [...now].filter((id) => later.has(id) && !known.has(id) && dag.nodes[id].type === "float" && dag.cost(dag.reach([id], (x) => known.has(x))) > DEAR && varies(dag, id, k));
      for (const id of shared) {
        const covered = shared.some((other) => other !== id && dag.nodes[other].args.includes(id));
        if (!covered) spill.push(id);
      }
      spills.push(...spill);
    }
    passes.push({ stats: k.stats.flatMap((_, i) => (group[i] === g ? [i] : [])), spill });
  }
  return { dag, stats, stores, passes, final, spills };
}
const varies = (dag: Dag, id: number, k: RowsKernel): boolean => [...dag.reach([id])].some((x) => {
  const n = dag.nodes[x];
  return (n.fn === "load" && k.loads[n.leaf].strides[k.shape.length - 1] !== 0) || (n.fn === "affine" && k.affines[n.leaf].strides[k.shape.length - 1] !== 0);
});

export function rowsRecipe(k: RowsKernel, target: Target): Recipe {
  const outerAxes = k.shape.length - k.rowAxes;
  const views: View[] = [...k.loads, ...k.stores.map((s) => s.view)];
  const raw = collapse(k.shape, [outerAxes, k.rowAxes], [...views.map((w) => w.strides), ...k.affines.map((a) => a.strides)]);
  const space: Space = withInner(raw);
  const rank = space.shape.length, outer = space.groups[0], mid = space.groups[1] - 1;
  const rows = product(space.shape.slice(0, outer)), n = product(space.shape.slice(outer)), chunks = Math.ceil(n / CHUNK);
  const deep = mid > 0, long = !deep && target.threads > 1 && rows < 4 * target.threads && chunks >= 4 * target.threads;
  const p = plan(k, !long && !deep);
  const affines = k.affines.map((_, i) => (space.strides[views.length + i][rank - 1] === 0 ? 0 as const : 2 as const));
  const signature: Signature = { rank, views: operandsOf(views, space.strides, k.label), affines, uniforms: k.uniforms.length, extras: ["rows", "work", "scratch", "chunks", "row", "turn"] };
  const layout = new Layout(signature);
  const scratch = long ? 0 : ((deep ? k.stats.length : p.spills.length) * (n * 4 + 64) + 63) & ~63;
  return {
    key: `rows${long ? "L" : deep ? `D${outer}` : ""}|${signatureKey(signature)}|${k.loads.length}|${k.stats.map((s) => s.op).join()}|${k.stores.map((s) => (s.perRow ? 1 : 0)).join("")}|${keyOf([...k.stats.map((s) => s.value), ...k.stores.map((s) => s.value)])}`,
    layout, phases: long ? p.passes.length + 1 : 1, work: product(space.shape),
    ...(long ? {} : { turn: layout.extra("turn") }),
    workspace: long ? rows * chunks * k.stats.length * 16 : scratch * target.threads,
    ...(long ? {} : { share: scratch }),
    fill: (words) => [
      ...layout.fill(words, space, views, k.affines, k.uniforms, { rows, scratch, chunks, row: n, turn: 0 }),
      { word: layout.extra("work"), buffer: WORKSPACE, bytes: 0 },
    ],
    emit: (name) => (long ? emitLong(k, signature, outer, p, name) : deep ? [emitDeep(k, signature, outer, p, name)] : [emitShort(k, signature, outer, p, name)]),
  };
}

interface Context { readonly k: RowsKernel; readonly frame: Frame; readonly p: Plan; readonly stats: Local[]; readonly acc: Local[][] }
function context(k: RowsKernel, signature: Signature, p: Plan, name: string): Context {
  const frame = new Frame(name, 3, signature, p.dag);
  return { k, frame, p, stats: k.stats.map(() => frame.f.v128()), acc: k.stats.map((s, i) => Array.from({ length: accumulators(s.op, p.dag.nodes[p.stats[i]].type) }, () => frame.f.v128())) };
}
const typeOf = (c: Context, s: number): "float" | "i32" | "u32" | "bool" => c.p.dag.nodes[c.p.stats[s]].type;
const axesTo = (n: number): number[] => Array.from({ length: n }, (_, a) => a);

/** Reduces columns from..to of one pass into its accumulators and folds them into `out`. */
function emitChunk(c: Context, pass: Pass, from: Local, to: Local, kept: ReadonlyMap<number, Local>, out: (s: number) => Local): void {
  const f = c.frame.f;
  for (const s of pass.stats) for (const a of c.acc[s]) { identity(f, c.k.stats[s].op, typeOf(c, s)); f.set(a); }
  const reload = new Map([...kept].filter(([id]) => !pass.spill.includes(id)));
  const roots: Root[] = [
    ...pass.spill.map((id) => ({ node: id, sink: { kind: "spill", pointer: kept.get(id) ?? 0 } satisfies Sink })),
    ...pass.stats.map((s) => ({ node: c.p.stats[s], sink: { kind: "reduce", op: c.k.stats[s].op, accumulators: c.acc[s] } satisfies Sink })),
  ];
  emitLine(c.frame, { from, to, roots, stats: c.stats, reload });
  for (const s of pass.stats) fold(f, c.k.stats[s].op, typeOf(c, s), c.acc[s], out(s));
}

function storeRoots(c: Context): Root[] {
  return c.k.stores.flatMap((s, i) => (s.perRow ? [] : [{ node: c.p.stores[i], sink: { kind: "store", view: c.k.loads.length + i } satisfies Sink }]));
}
/** Values written once a row, at the cursors. */
function emitPerRow(c: Context): void {
  const { frame, k } = c, f = frame.f;
  const once = k.stores.flatMap((s: StoreTo & { perRow: boolean }, i) => (s.perRow ? [i] : []));
  if (once.length === 0) return;
  const q = f.i32(), one = f.i32();
  f.const(1).set(one);
  const made = frame.evaluate(once.map((i) => c.p.stores[i]), frame.lineLeaves(c.stats));
  for (const i of once) {
    const view = k.loads.length + i, t = f.v128();
    f.get(frame.printer.local(c.p.stores[i]));
    frame.convert.encode(frame.view(view).dtype, c.p.dag.nodes[c.p.stores[i]].type);
    f.set(t);
    frame.convert.scatterRaw(frame.view(view).dtype, t, frame.cursors[view], 0, q, one);
  }
  frame.printer.unbind(made);
}

/** The rows of this thread: r up to r1. */
function emitShare(frame: Frame, rows: Local, r: Local, r1: Local): void {
  const f = frame.f, t = f.i32();
  f.get(1); frame.word(frame.layout.extra("turn")); f.i(op.add).get(2).i(op.remU).set(t);
  f.get(rows).get(t).i(op.mul).get(2).i(op.divU).set(r);
  f.get(rows).get(t).const(1).i(op.add).i(op.mul).get(2).i(op.divU).set(r1);
}
/** Each thread takes whole rows. */
function emitShort(k: RowsKernel, signature: Signature, outer: number, p: Plan, name: string): Func {
  const c = context(k, signature, p, `${name}.0`), { frame } = c, f = frame.f, layout = frame.layout;
  const rows = frame.wordLocal(layout.extra("rows")), n = frame.wordLocal(layout.size(signature.rank - 1));
  const r = f.i32(), r1 = f.i32(), zero = f.i32(), from = f.i32(), to = f.i32(), left = f.i32(), slot = f.i32();
  emitShare(frame, rows, r, r1);
  f.get(r).get(r1).i(op.geU).if(() => f.i(op.ret));
  const kept = new Map<number, Local>();
  frame.word(layout.extra("work"));
  frame.word(layout.extra("scratch")).get(1).i(op.mul).i(op.add).set(slot);
  for (const id of p.spills) {
    const l = f.i32();
    f.get(slot).set(l);
    f.get(slot).get(n).const(2).i(op.shl).const(64).i(op.add).i(op.add).set(slot);
    kept.set(id, l);
  }
  const place = (): void => {
    frame.place(r, axesTo(outer));
    if (outer > 1) { frame.word(layout.size(outer - 1)); f.get(r); frame.word(layout.size(outer - 1)); f.i(op.remU).i(op.sub).set(left); }
  };
  place();
  const part = k.stats.map(() => f.v128());
  f.while(() => f.get(r).get(r1).i(op.ltU), () => {
    const ready = new Map<number, Local>();
    for (const pass of p.passes) {
      for (const id of pass.spill) ready.set(id, kept.get(id) ?? 0);
      for (const s of pass.stats) { identity(f, k.stats[s].op, typeOf(c, s)); f.set(c.stats[s]); }
      // the pass's own statistics are totals so far; formulas of this pass use earlier ones only
      f.const(0).set(from);
      f.while(() => f.get(from).get(n).i(op.ltU), () => {
        f.get(from).const(CHUNK).i(op.add).set(to);
        f.min(to, n).set(to);
        emitChunk(c, pass, from, to, ready, (s) => part[s]);
        for (const s of pass.stats) { f.get(c.stats[s]).get(part[s]); combine(f, k.stats[s].op, typeOf(c, s)); f.set(c.stats[s]); }
        f.get(to).set(from);
      });
      for (const s of pass.stats) settle(f, k.stats[s].op, typeOf(c, s), c.stats[s]);
    }
    if (p.final) emitLine(frame, { from: zero, to: n, roots: storeRoots(c), stats: c.stats, reload: ready });
    emitPerRow(c);
    f.add(r, 1);
    if (outer === 1) frame.step(0);
    if (outer > 1) { f.add(left, -1); f.get(left).if(() => frame.step(outer - 1), place); }
  });
  return f;
}

/** Rows of several axes that do not merge: values are laid out in a scratch row first, so that sums have the order of one axis. */
function emitDeep(k: RowsKernel, signature: Signature, outer: number, p: Plan, name: string): Func {
  const c = context(k, signature, p, `${name}.0`), { frame } = c, f = frame.f, layout = frame.layout;
  const rows = frame.wordLocal(layout.extra("rows")), n = frame.wordLocal(layout.size(signature.rank - 1)), row = frame.wordLocal(layout.extra("row"));
  const r = f.i32(), r1 = f.i32(), zero = f.i32(), from = f.i32(), to = f.i32(), j = f.i32(), lines = f.i32(), slot = f.i32();
  const starts = frame.cursors.map(() => f.i32()), midAxes = axesTo(signature.rank - 1).slice(outer);
  emitShare(frame, rows, r, r1);
  f.get(row).get(n).i(op.divU).set(lines);
  const begin = k.stats.map(() => f.i32()), pointer = k.stats.map(() => f.i32()), part = k.stats.map(() => f.v128());
  frame.word(layout.extra("work"));
  frame.word(layout.extra("scratch")).get(1).i(op.mul).i(op.add).set(slot);
  for (const l of begin) { f.get(slot).set(l); f.get(slot).get(row).const(2).i(op.shl).const(64).i(op.add).i(op.add).set(slot); }
  const eachLine = (body: () => void): void => {
    f.const(0).set(j);
    f.for(j, undefined, lines, 1, () => { frame.place(j, midAxes, starts, frame.cursors); body(); });
  };
  f.for(r, undefined, r1, 1, () => {
    frame.place(r, axesTo(outer), frame.bases, starts);
    for (const pass of p.passes) {
      for (const s of pass.stats) f.get(begin[s]).set(pointer[s]);
      eachLine(() => {
        emitLine(frame, { from: zero, to: n, stats: c.stats, roots: pass.stats.map((s) => ({ node: p.stats[s], sink: { kind: "spill", pointer: pointer[s] } })) });
        for (const s of pass.stats) f.get(pointer[s]).get(n).const(2).i(op.shl).i(op.add).set(pointer[s]);
      });
      for (const s of pass.stats) { identity(f, k.stats[s].op, typeOf(c, s)); f.set(c.stats[s]); }
      f.const(0).set(from);
      f.while(() => f.get(from).get(row).i(op.ltU), () => {
        f.get(from).const(CHUNK).i(op.add).set(to).min(to, row).set(to);
        emitChunk(c, { stats: pass.stats, spill: [] }, from, to, new Map(pass.stats.map((s) => [p.stats[s], begin[s]])), (s) => part[s]);
        for (const s of pass.stats) { f.get(c.stats[s]).get(part[s]); combine(f, k.stats[s].op, typeOf(c, s)); f.set(c.stats[s]); }
        f.get(to).set(from);
      });
      for (const s of pass.stats) settle(f, k.stats[s].op, typeOf(c, s), c.stats[s]);
    }
    if (p.final) eachLine(() => emitLine(frame, { from: zero, to: n, roots: storeRoots(c), stats: c.stats }));
    starts.forEach((l, i) => f.get(l).set(frame.cursors[i]));
    emitPerRow(c);
  });
  return f;
}

/** Few long rows: threads take chunks; partial results go through the workspace, phase after phase. */
function emitLong(k: RowsKernel, signature: Signature, outer: number, p: Plan, name: string): Func[] {
  const count = k.stats.length;
  return [...p.passes, undefined].map((pass, phase) => {
    const c = context(k, signature, p, `${name}.${phase}`), { frame } = c, f = frame.f, layout = frame.layout;
    const rows = frame.wordLocal(layout.extra("rows")), n = frame.wordLocal(layout.size(signature.rank - 1)), chunks = frame.wordLocal(layout.extra("chunks")), work = frame.wordLocal(layout.extra("work"));
    const item = f.i32(), end = f.i32(), row = f.i32(), before = f.i32(), chunk = f.i32(), from = f.i32(), to = f.i32(), j = f.i32(), a = f.i32();
    f.get(rows).get(chunks).i(op.mul).get(1).i(op.mul).get(2).i(op.divU).set(item);
    f.get(rows).get(chunks).i(op.mul).get(1).const(1).i(op.add).i(op.mul).get(2).i(op.divU).set(end);
    f.const(-1).set(before);
    const part = k.stats.map(() => f.v128());
    f.while(() => f.get(item).get(end).i(op.ltU), () => {
      f.get(item).get(chunks).i(op.divU).set(row);
      f.get(item).get(chunks).i(op.remU).set(chunk);
      f.get(row).get(before).i(op.ne).if(() => {
        f.get(row).set(before);
        frame.place(row, axesTo(outer));
        for (const s of p.passes.slice(0, phase).flatMap((q) => q.stats)) {
          identity(f, k.stats[s].op, typeOf(c, s)); f.set(c.stats[s]);
          f.get(work).get(row).get(chunks).i(op.mul).const(count * 16).i(op.mul).i(op.add).set(a);
          f.const(0).set(j);
          f.for(j, undefined, chunks, 1, () => {
            f.get(c.stats[s]).get(a).vload(s * 16); combine(f, k.stats[s].op, typeOf(c, s)); f.set(c.stats[s]);
            f.add(a, count * 16);
          });
          settle(f, k.stats[s].op, typeOf(c, s), c.stats[s]);
        }
        if (pass === undefined) f.get(chunk).i(op.eqz).if(() => emitPerRow(c));
      });
      f.get(chunk).const(CHUNK).i(op.mul).tee(from).const(CHUNK).i(op.add).set(to);
      f.min(to, n).set(to);
      if (pass === undefined) { if (p.final) emitLine(frame, { from, to, roots: storeRoots(c), stats: c.stats }); }
      else {
        emitChunk(c, pass, from, to, new Map(), (s) => part[s]);
        f.get(work).get(item).const(count * 16).i(op.mul).i(op.add).set(a);
        for (const s of pass.stats) f.get(a).get(part[s]).vstore(s * 16);
      }
      f.add(item, 1);
    });
    return f;
  });
}
