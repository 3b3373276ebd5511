/**
 * Column kernels: reduce axes that are not the last; blocks of 16 columns stay in registers while rows pass by.
 *
 * Order of sums: the reduced positions in row-major order are cut in chunks of 64; inside a chunk they are added one after
 * another, and chunks are added in order. Threads take (outer, column block) pairs.
 */
import { type ColsKernel, keyOf, type View } from "@adjoint/tensor";
import { type Local, op, v } from "./assembler.ts";
import { Dag } from "./dag.ts";
import { Frame, type Leaves } from "./frame.ts";
import { combine, identity } from "./line.ts";
import { operandsOf } from "./map.ts";
import type { Recipe } from "./recipe.ts";
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

export function colsRecipe(k: ColsKernel): Recipe {
  const views: View[] = [...k.loads, ...k.stores.map((s) => s.view)];
  const { space, outer, reduced } = arrange(k, [...views.map((w) => w.strides), ...k.affines.map((a) => a.strides)]);
  const rank = space.shape.length;
  const signature: Signature = {
    rank, views: operandsOf(views, space.strides, k.label), uniforms: k.uniforms.length, extras: ["outer", "reduced"],
    affines: k.affines.map((_, i) => (space.strides[views.length + i][rank - 1] === 0 ? 0 : 2)),
  };
  const layout = new Layout(signature);
  return {
    key: `cols${outer},${reduced}|${signatureKey(signature)}|${k.loads.length}|${k.op}|${keyOf([k.value, ...k.stores.map((s) => s.value)])}`,
    layout, phases: 1, workspace: 0, work: product(space.shape),
    fill: (words) => layout.fill(words, space, views, k.affines, k.uniforms, { outer: product(space.shape.slice(0, outer)), reduced: product(space.shape.slice(outer, outer + reduced)) }),
    emit: (name) => {
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
      return [f];
    },
  };
}
