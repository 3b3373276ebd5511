/**
 * Column kernels: reduce axes that are not the last. Wide ones walk row after row over sums that lie in the first-level
 * cache; narrow ones keep 16 columns in registers while rows pass by.
 *
 * Order of sums: the reduced positions in row-major order are cut in chunks of 64; inside a chunk they are added one after
 * another, and chunks are added in order. Threads take (outer, column block) pairs. Both ways give the same bits.
 */
import { type ColsKernel, keyOf, type View } from "@adjoint/tensor";
import { type Func, type Local, op, v } from "./assembler.ts";
import { Dag } from "./dag.ts";
import { Frame, type Leaves } from "./frame.ts";
import { combine, emitLine, identity } from "./line.ts";
import { operandsOf } from "./map.ts";
import { type Recipe, type Target, WORKSPACE } from "./recipe.ts";
import { collapse, Layout, product, type Signature, type Space, signatureKey } from "./space.ts";

const CHUNK = 64;

/** [outer..., reduced..., inner...] with inner axes but the last moved before the reduced ones, as they are independent too. */
function arrange(k: ColsKernel, lists: readonly (readonly number[])[]): { space: Space; outer: number; reduced: number } {
  const inner = k.shape.length - k.outerAxes - k.reducedAxes;
  const s = collapse(k.shape, [k.outerAxes, k.reducedAxes, inner], lists);
  const [o, r, n] = s.groups;
  const total = o + r + n, order: number[] = [];
  for (let a = 0; a < o; a++) order.push(a);
  for (let a = o + r; a < total - 1; a++) order.push(a);
  for (let a = o; a < o + r; a++) order.push(a);
  if (n > 0) order.push(total - 1);
  const pick = (l: readonly number[], fill: number): number[] => [...order.map((a) => l[a]), ...(n === 0 ? [fill] : [])];
  return { space: { shape: pick(s.shape, 1), groups: s.groups, strides: s.strides.map((l) => pick(l, 0)) }, outer: o + Math.max(0, n - 1), reduced: r };
}

export function colsRecipe(k: ColsKernel, target: Target): Recipe {
  const views: View[] = [...k.loads, ...k.stores.map((s) => s.view)];
  const { space, outer, reduced } = arrange(k, [...views.map((w) => w.strides), ...k.affines.map((a) => a.strides)]);
  const rank = space.shape.length;
  const signature: Signature = {
    rank, views: operandsOf(views, space.strides, k.label), uniforms: k.uniforms.length, extras: ["outer", "reduced", "block", "work", "scratch"],
    affines: k.affines.map((_, i) => (space.strides[views.length + i][rank - 1] === 0 ? 0 : 2)),
  };
  const layout = new Layout(signature);
  const n = space.shape[rank - 1], wide = n >= 48, outers = product(space.shape.slice(0, outer)), t = target.threads;
  const block = Math.min(512, Math.ceil(n / (outers >= 2 * t ? 1 : t) / 16) * 16), scratch = wide ? 2 * (block * 4 + 64) : 0;
  return {
    key: `cols${wide ? "W" : ""}${outer},${reduced}|${signatureKey(signature)}|${k.loads.length}|${k.op}|${keyOf([k.value, ...k.stores.map((s) => s.value)])}`,
    layout, phases: 1, workspace: scratch * t, work: product(space.shape),
    fill: (words) => [
      ...layout.fill(words, space, views, k.affines, k.uniforms, { outer: outers, reduced: product(space.shape.slice(outer, outer + reduced)), block, scratch }),
      { word: layout.extra("work"), buffer: WORKSPACE, bytes: 0 },
    ],
    emit: (name) => [wide ? emitWide(k, signature, outer, reduced, name) : emitNarrow(k, signature, outer, reduced, name)],
  };
}

/** Sums of a block of columns in memory: a chunk's and the total. */
function emitWide(k: ColsKernel, signature: Signature, outer: number, reduced: number, name: string): Func {
  const dag = new Dag(), value = dag.add(k.value), stores = k.stores.map((s) => dag.add(s.value)), type = dag.nodes[value].type;
  const frame = new Frame(`${name}.0`, 3, signature, dag, true, 2), f = frame.f, layout = frame.layout;
  const axes = Array.from({ length: outer }, (_, a) => a), rowAxes = Array.from({ length: reduced }, (_, a) => outer + a);
  const columns = frame.wordLocal(layout.size(signature.rank - 1)), rowCount = frame.wordLocal(layout.extra("reduced")), width = frame.wordLocal(layout.extra("block"));
  const blocks = f.i32(), item = f.i32(), end = f.i32(), c = f.i32(), stop = f.i32(), o = f.i32(), r = f.i32(), to = f.i32(), p = f.i32(), last = f.i32();
  const chunk = f.i32(), total = f.i32(), chunk0 = f.i32(), total0 = f.i32(), bytes = f.i32(), starts = frame.cursors.map(() => f.i32());
  frame.word(layout.extra("work"));
  frame.word(layout.extra("scratch")).get(1).i(op.mul).i(op.add).set(chunk0);
  f.get(chunk0).get(width).const(2).i(op.shl).const(64).i(op.add).i(op.add).set(total0);
  f.get(columns).get(width).i(op.add).const(1).i(op.sub).get(width).i(op.divU).set(blocks);
  const share = (n: () => void): void => { frame.word(layout.extra("outer")).get(blocks).i(op.mul); n(); f.i(op.mul).get(2).i(op.divU); };
  share(() => f.get(1)); f.set(item);
  share(() => f.get(1).const(1).i(op.add)); f.set(end);
  /** every vector of a scratch block */
  const sweep = (from: Local, body: () => void): void => {
    f.get(from).set(p).get(from).get(bytes).i(op.add).set(last);
    f.for(p, undefined, last, 16, body);
  };
  const clear = (from: Local): void => sweep(from, () => { f.get(p); identity(f, k.op, type); f.vstore(); });
  f.while(() => f.get(item).get(end).i(op.ltU), () => {
    f.get(item).get(blocks).i(op.divU).set(o);
    f.get(item).get(blocks).i(op.remU).get(width).i(op.mul).tee(c).get(width).i(op.add).set(stop).min(stop, columns).set(stop);
    f.get(stop).get(c).i(op.sub).const(2).i(op.shl).set(bytes);
    frame.place(o, axes, frame.bases, starts);
    starts.forEach((s, j) => f.get(s).set(frame.cursors[j]));
    // lines address scratch by column: pointers to where column 0 would lie
    f.get(chunk0).get(c).const(2).i(op.shl).i(op.sub).set(chunk);
    f.get(total0).get(c).const(2).i(op.shl).i(op.sub).set(total);
    clear(total0);
    f.const(0).set(r);
    f.while(() => f.get(r).get(rowCount).i(op.ltU), () => {
      clear(chunk0);
      f.get(r).const(CHUNK).i(op.add).set(to).min(to, rowCount).set(to);
      f.while(() => f.get(r).get(to).i(op.ltU), () => {
        emitLine(frame, { from: c, to: stop, roots: [{ node: value, sink: { kind: "add", op: k.op, pointer: chunk } }] });
        f.add(r, 1);
        if (reduced === 1) frame.step(rowAxes[0]);
        if (reduced > 1) frame.place(r, rowAxes, starts, frame.cursors);
      });
      sweep(total0, () => {
        f.get(p).get(p).vload().get(p).get(chunk0).get(total0).i(op.sub).i(op.add).vload();
        combine(f, k.op, type);
        f.vstore();
      });
    });
    starts.forEach((s, j) => f.get(s).set(frame.cursors[j]));
    const stats = new Map(dag.nodes.filter((n) => n.fn === "stat").map((n) => [n.id, total]));
    emitLine(frame, { from: c, to: stop, reload: stats, roots: stores.map((node, i) => ({ node, sink: { kind: "store", view: k.loads.length + i } })) });
    f.add(item, 1);
  });
  return f;
}

/** Sums of 16 columns (or of 4, where formulas are heavy) in registers. */
function emitNarrow(k: ColsKernel, signature: Signature, outer: number, reduced: number, name: string): Func {
  const layout = new Layout(signature), rank = signature.rank, views = signature.views;
  const dag = new Dag();
  const value = dag.add(k.value), stores = k.stores.map((s) => dag.add(s.value));
  const frame = new Frame(`${name}.0`, 3, signature, dag), f = frame.f;
  const axes = Array.from({ length: outer }, (_, a) => a), rowAxes = Array.from({ length: reduced }, (_, a) => outer + a);
  const columns = frame.wordLocal(layout.size(rank - 1)), rowCount = frame.wordLocal(layout.extra("reduced"));
  const blocks = f.i32(), items = f.i32(), item = f.i32(), end = f.i32(), c = f.i32(), stop = f.i32(), o = f.i32(), lanes = f.i32(), r = f.i32(), to = f.i32(), q = f.i32();
  const starts = frame.cursors.map(() => f.i32()), type = dag.nodes[value].type;
  const light = dag.cost(dag.reach([value])) <= 16 && signature.affines.length === 0;
  const inner = rank - 1, viewCount = views.length;

  /** Leaves at column c + 4w, with the cursors at the current row. */
  const leaves = (w: number, part: Local | undefined): Leaves => ({
    load: (i, node) => {
      const view = frame.view(i), b = frame.bytes(i);
      if (view.inner === 0) { f.get(frame.cursors[i]); frame.convert.splatRaw(view.dtype); }
      else if (view.inner === 1) { f.get(frame.cursors[i]).get(c).const(b).i(op.mul).i(op.add); frame.convert.loadRaw(view.dtype, 4 * w * b); }
      else {
        const p = f.i32(), s = frame.wordLocal(frame.strideWord(i, inner));
        f.get(frame.cursors[i]).get(c).const(4 * w).i(op.add).get(s).i(op.mul).i(op.add).set(p);
        frame.convert.gatherRaw(view.dtype, p, s, q, part);
      }
      frame.convert.decode(view.dtype, node.type);
    },
    affine: (i) => {
      const s = frame.strideWord(viewCount + i, inner);
      f.get(frame.cursors[viewCount + i]).get(c).const(4 * w).i(op.add);
      frame.word(s).i(op.mul).i(op.add).simd(v.splatI);
      frame.word(s).simd(v.splatI).i32x4(0, 1, 2, 3).simd(v.mulI).simd(v.addI);
    },
    stat: () => { f.get(totals[w]); },
  });
  const totals = [0, 1, 2, 3].map(() => f.v128()), acc = [0, 1, 2, 3].map(() => f.v128());

  const block = (width: number, part: Local | undefined): void => {
    for (let w = 0; w < width; w++) { identity(f, k.op, type); f.set(totals[w]); }
    f.const(0).set(r);
    frame.place(o, axes, frame.bases, starts);
    starts.forEach((s, j) => f.get(s).set(frame.cursors[j]));
    f.while(() => f.get(r).get(rowCount).i(op.ltU), () => {
      for (let w = 0; w < width; w++) { identity(f, k.op, type); f.set(acc[w]); }
      f.get(r).const(CHUNK).i(op.add).set(to);
      f.min(to, rowCount).set(to);
      f.while(() => f.get(r).get(to).i(op.ltU), () => {
        for (let w = 0; w < width; w++) {
          const made = frame.evaluate([value], leaves(w, part));
          f.get(acc[w]).get(frame.printer.local(value)); combine(f, k.op, type); f.set(acc[w]);
          frame.printer.unbind(made);
        }
        f.add(r, 1);
        if (reduced === 1) frame.step(rowAxes[0]);
        if (reduced > 1) frame.place(r, rowAxes, starts, frame.cursors);
      });
      for (let w = 0; w < width; w++) { f.get(totals[w]).get(acc[w]); combine(f, k.op, type); f.set(totals[w]); }
    });
    starts.forEach((s, j) => f.get(s).set(frame.cursors[j]));
    for (let w = 0; w < width; w++) emitStores(w, part);
  };
  const emitStores = (w: number, part: Local | undefined): void => {
    const made = frame.evaluate(stores, leaves(w, part));
    const encoded = k.stores.map((s, i) => {
      const t = f.v128();
      f.get(frame.printer.local(stores[i]));
      frame.convert.encode(s.view.dtype, dag.nodes[stores[i]].type);
      f.set(t);
      return t;
    });
    k.stores.forEach((s, i) => {
      const view = k.loads.length + i, p = f.i32(), step = frame.wordLocal(frame.strideWord(view, inner));
      f.get(frame.cursors[view]).get(c).const(4 * w).i(op.add).get(step).i(op.mul).i(op.add).set(p);
      if (frame.view(view).inner === 1 && part === undefined) { f.get(p).get(encoded[i]); frame.convert.storeRaw(s.view.dtype, 0); }
      else frame.convert.scatterRaw(s.view.dtype, encoded[i], p, { local: step }, q, part);
    });
    frame.printer.unbind(made);
  };

  f.get(columns).const(15).i(op.add).const(4).i(op.shrU).set(blocks);
  frame.word(layout.extra("outer")).get(blocks).i(op.mul).set(items);
  f.get(items).get(1).i(op.mul).get(2).i(op.divU).set(item);
  f.get(items).get(1).const(1).i(op.add).i(op.mul).get(2).i(op.divU).set(end);
  f.while(() => f.get(item).get(end).i(op.ltU), () => {
    f.get(item).get(blocks).i(op.divU).set(o);
    f.get(item).get(blocks).i(op.remU).const(4).i(op.shl).tee(c).const(16).i(op.add).set(stop);
    f.min(stop, columns).set(stop);
    if (light) f.get(stop).get(c).i(op.sub).const(16).i(op.eq).if(() => { block(4, undefined); f.add(c, 16); });
    f.while(() => f.get(c).get(stop).i(op.ltU), () => {
      f.get(stop).get(c).i(op.sub).set(lanes);
      f.const(4).get(lanes).get(lanes).const(4).i(op.gtU).i(op.select).set(lanes);
      block(1, lanes);
      f.add(c, 4);
    });
    f.add(item, 1);
  });
  return f;
}
