/**
 * One line of a kernel: columns c0 to c1 of the inner axis, four at a time, stored, kept or reduced.
 *
 * Order of sums: vector v of a line is added to accumulator v mod 4, lane by lane, whatever else the kernel computes; a
 * last vector that is not full adds the identity in its spare lanes, and the fold starts at the accumulator after it. Loads may read up to 15 bytes past a
 * line's end (the memory ends with a margin); spare lanes are never stored.
 */
import type { ExprType, ReduceOp } from "@adjoint/tensor";
import { type Func, type Local, op, v } from "./assembler.ts";
import type { Frame, Leaves } from "./frame.ts";

/** What becomes of a value at each column. */
export type Sink =
  | { readonly kind: "store"; readonly view: number }
  /** f32x4 kept at `pointer` + 4·column, to be loaded again by a later line */
  | { readonly kind: "spill"; readonly pointer: Local }
  /** added to what lies at `pointer` + 4·column (a column reduction, one row at a time) */
  | { readonly kind: "add"; readonly op: ReduceOp; readonly pointer: Local }
  | { readonly kind: "reduce"; readonly op: ReduceOp; readonly accumulators: readonly Local[] };
export interface Root { readonly node: number; readonly sink: Sink }

export interface LineOptions {
  readonly from: Local;
  readonly to: Local;
  readonly roots: readonly Root[];
  readonly stats?: readonly Local[];
  /** nodes whose values lie at pointer + 4·column */
  readonly reload?: ReadonlyMap<number, Local>;
  /** the matmul result: f32 at pointer + 4·column */
  readonly acc?: Local;
}

/** Whether a reduction's totals are f64x2 in every accumulator, two for each vector of four floats. */
export const wide = (reduce: ReduceOp, type: ExprType): boolean => reduce === "sum64" && type === "float";
/** Accumulators of a reduction. */
export const accumulators = (reduce: ReduceOp, type: ExprType): number => (wide(reduce, type) ? 8 : 4);
const adds = (reduce: ReduceOp): boolean => reduce === "sum" || reduce === "sum64";

/** Pushes the neutral value of a reduction; zero is the same in f32 and f64. */
export function identity(f: Func, reduce: ReduceOp, type: ExprType): void {
  if (type === "float") { f.f32x4(adds(reduce) ? 0 : reduce === "max" ? -Infinity : Infinity); return; }
  if (type === "u32") f.i32x4(reduce === "min" ? -1 : 0);
  else f.i32x4(adds(reduce) ? 0 : reduce === "max" ? -2147483648 : 2147483647);
}
/** a, b on the stack -> a ∘ b */
export function combine(f: Func, reduce: ReduceOp, type: ExprType): void {
  if (wide(reduce, type)) f.simd(v.addD);
  else if (type === "float") f.simd(reduce === "sum" ? v.addF : reduce === "max" ? v.pmaxF : v.pminF);
  else if (type === "u32") f.simd(adds(reduce) ? v.addI : reduce === "max" ? v.maxU : v.minU);
  else f.simd(adds(reduce) ? v.addI : reduce === "max" ? v.maxS : v.minS);
}
/** Four accumulators to one value in every lane: ((a0+a1)+(a2+a3)), then lanes (0+2)+(1+3); eight of two lanes likewise. */
export function fold(f: Func, reduce: ReduceOp, type: ExprType, acc: readonly Local[], out: Local): void {
  for (let i = 4; i < acc.length; i++) { f.get(acc[i - 4]).get(acc[i]); combine(f, reduce, type); f.set(acc[i - 4]); }
  f.get(acc[0]).get(acc[1]); combine(f, reduce, type);
  f.get(acc[2]).get(acc[3]); combine(f, reduce, type);
  combine(f, reduce, type);
  f.set(out).get(out).get(out).get(out).shuffle32(2, 3, 0, 1); combine(f, reduce, type);
  f.set(out);
  if (wide(reduce, type)) return;
  f.get(out).get(out).get(out).shuffle32(1, 0, 3, 2); combine(f, reduce, type);
  f.set(out);
}
/** A total of chunks as formulas use it: f32 in every lane. */
export function settle(f: Func, reduce: ReduceOp, type: ExprType, total: Local): void {
  if (!wide(reduce, type)) return;
  f.get(total).simd(v.demote).set(total).get(total).get(total).shuffle32(0, 0, 0, 0).set(total);
}

export function emitLine(frame: Frame, o: LineOptions): void {
  const { f, printer, dag, convert } = frame;
  const reload = o.reload ?? new Map<number, Local>();
  const roots = o.roots.map((r) => r.node);
  const hoisted = frame.evaluate(frame.frontier(roots, (id) => reload.has(id)), frame.lineLeaves(o.stats));
  const stop = (id: number): boolean => printer.isBound(id) || reload.has(id);
  const inside = dag.reach(roots, stop);
  const cost = dag.cost(new Set([...inside].filter((id) => !stop(id))));
  const views = frame.layout.signature.views.length;

  // which positions the loop keeps
  const loads = new Set<number>(), affines = new Set<number>();
  for (const id of inside) {
    const n = dag.nodes[id];
    if (stop(id)) continue;
    if (n.fn === "load") loads.add(n.leaf);
    if (n.fn === "affine") affines.add(n.leaf);
  }
  const stores = o.roots.flatMap((r) => (r.sink.kind === "store" ? [r.sink.view] : []));
  const touched = [...loads, ...stores];
  const sizes = new Set<number>(touched.filter((i) => frame.view(i).inner === 1).map((i) => frame.bytes(i)));
  const reduces = o.roots.filter((r) => r.sink.kind === "reduce");
  if (o.acc !== undefined || o.roots.some((r) => r.sink.kind === "spill" || r.sink.kind === "add") || [...inside].some((id) => reload.has(id))) sizes.add(4);

  const i = f.i32(), rest = f.i32(), q = f.i32();
  const byteAt = new Map<number, Local>([...sizes].map((b) => [b, b === 1 ? i : f.i32()]));
  f.get(o.from).set(i);
  for (const [b, l] of byteAt) if (b > 1) f.get(i).const(b).i(op.mul).set(l);
  const strided = new Map<number, { p: Local; s: Local }>();
  for (const view of touched) {
    if (frame.view(view).inner === 1 || strided.has(view)) continue;
    const p = f.i32(), s = frame.wordLocal(frame.strideWord(view, frame.layout.signature.rank - 1));
    f.get(frame.cursors[view]).get(i).get(s).i(op.mul).i(op.add).set(p);
    strided.set(view, { p, s });
  }
  const indices = new Map<number, { value: Local; step: Local }>();
  for (const a of affines) {
    const value = f.v128(), step = f.v128(), s = frame.wordLocal(frame.strideWord(views + a, frame.layout.signature.rank - 1));
    f.get(frame.cursors[views + a]).get(i).get(s).i(op.mul).i(op.add).simd(v.splatI).get(s).simd(v.splatI).i32x4(0, 1, 2, 3).simd(v.mulI).simd(v.addI).set(value);
    f.get(s).const(2).i(op.shl).simd(v.splatI).set(step);
    indices.set(a, { value, step });
  }

  const at = (bytes: number): Local => byteAt.get(bytes) ?? i;
  const mask = reduces.length > 0 ? f.v128() : -1;
  /** one vector at column i + 4u; `lanes` when it may not be full */
  const vector = (u: number, lanes: Local | undefined): void => {
    const leaves: Leaves = {
      load: (view, n) => {
        const { dtype, inner } = frame.view(view), b = frame.bytes(view), st = strided.get(view);
        if (inner === 1) { f.get(frame.cursors[view]).get(at(b)).i(op.add); convert.loadRaw(dtype, 4 * u * b); }
        else if (st !== undefined) convert.gatherRaw(dtype, st.p, st.s, q, lanes);
        convert.decode(dtype, n.type);
      },
      affine: (a) => { f.get(indices.get(a)?.value ?? 0); },
      acc: () => { f.get(o.acc ?? 0).get(at(4)).i(op.add).vload(16 * u); },
    };
    const again = [...inside].filter((id) => reload.has(id) && !printer.isBound(id));
    for (const id of again) { f.get(reload.get(id) ?? 0).get(at(4)).i(op.add).vload(16 * u); printer.bind(id); }
    const made = frame.evaluate(roots, leaves);
    const encoded: Local[] = [];
    for (const r of o.roots) {
      if (r.sink.kind !== "store") { encoded.push(-1); continue; }
      const { dtype } = frame.view(r.sink.view), type = dag.nodes[r.node].type;
      if ((dtype === "f32" && type === "float") || (dtype === "i32" && type === "i32") || (dtype === "u32" && type === "u32")) { encoded.push(printer.local(r.node)); continue; }
      const t = f.v128();
      f.get(printer.local(r.node)); convert.encode(dtype, type); f.set(t);
      encoded.push(t);
    }
    o.roots.forEach((r, k) => {
      const value = printer.local(r.node), sink = r.sink;
      if (sink.kind === "spill") { f.get(sink.pointer).get(at(4)).i(op.add).get(value).vstore(16 * u); return; }
      if (sink.kind === "add") {
        f.get(sink.pointer).get(at(4)).i(op.add).get(sink.pointer).get(at(4)).i(op.add).vload(16 * u).get(value);
        combine(f, sink.op, dag.nodes[r.node].type);
        f.vstore(16 * u);
        return;
      }
      if (sink.kind === "store") {
        const { dtype, inner } = frame.view(sink.view), b = frame.bytes(sink.view), st = strided.get(sink.view);
        if (st !== undefined) { convert.scatterRaw(dtype, encoded[k], st.p, { local: st.s }, q, lanes); return; }
        if (inner !== 1) return;
        const full = (): void => { f.get(frame.cursors[sink.view]).get(at(b)).i(op.add).get(encoded[k]); convert.storeRaw(dtype, 4 * u * b); };
        if (lanes === undefined) { full(); return; }
        f.get(lanes).const(4).i(op.eq).if(full, () => {
          const p = f.i32();
          f.get(frame.cursors[sink.view]).get(at(b)).i(op.add).set(p);
          convert.scatterRaw(dtype, encoded[k], p, b, q, lanes);
        });
        return;
      }
      const type = dag.nodes[r.node].type, a = sink.accumulators;
      const pushed = (): void => {
        f.get(value);
        if (lanes !== undefined) { identity(f, sink.op, type); f.get(mask).simd(v.bitselect); }
      };
      const take = (u: number): void => {
        if (!wide(sink.op, type)) { f.get(a[u]); pushed(); combine(f, sink.op, type); f.set(a[u]); return; }
        const x = f.v128();
        pushed(); f.set(x);
        f.get(a[u]).get(x).simd(v.promote).simd(v.addD).set(a[u]);
        f.get(a[u + 4]).get(x).get(x).shuffle32(2, 3, 0, 1).simd(v.promote).simd(v.addD).set(a[u + 4]);
      };
      if (lanes === undefined && fourfold) { take(u); return; }
      take(0);
      for (let i = 0; i < a.length; i += 4) f.get(a[i]).get(a[i + 1]).set(a[i]).get(a[i + 2]).set(a[i + 1]).get(a[i + 3]).set(a[i + 2]).set(a[i + 3]);
    });
    printer.unbind([...made, ...again]);
    for (const st of strided.values()) f.get(st.p).get(st.s).const(2).i(op.shl).i(op.add).set(st.p);
    for (const x of indices.values()) f.get(x.value).get(x.step).simd(v.addI).set(x.value);
  };
  const advance = (n: number): void => { f.add(i, n); for (const [b, l] of byteAt) if (b > 1) f.add(l, n * b); };

  const fourfold = reduces.length > 0 && cost * (1 + reduces.length) <= 40;
  const unroll = fourfold ? 4 : reduces.length === 0 && cost <= 8 && touched.length <= 4 ? 4 : 1;
  if (cost <= 400) {
    f.get(o.to).get(o.from).i(op.sub).const(-4 * unroll).i(op.and).get(o.from).i(op.add).set(rest);
    f.while(() => f.get(i).get(rest).i(op.ltU), () => {
      for (let u = 0; u < unroll; u++) vector(u, undefined);
      advance(4 * unroll);
    });
  }
  const lanes = f.i32();
  f.while(() => f.get(i).get(o.to).i(op.ltU), () => {
    f.get(o.to).get(i).i(op.sub).set(lanes);
    f.const(4).get(lanes).get(lanes).const(4).i(op.gtU).i(op.select).set(lanes);
    if (reduces.length > 0) f.get(lanes).simd(v.splatI).i32x4(0, 1, 2, 3).simd(v.gtS).set(mask);
    vector(0, lanes);
    advance(4);
  });
  printer.unbind(hoisted);
}
