/** Map kernels: every store's formula at every point; threads take rows, or 16-column chunks where rows are few. */
import { keyOf, type MapKernel, type View } from "@adjoint/tensor";
import { type Local, op } from "./assembler.ts";
import { Dag } from "./dag.ts";
import { checkDType } from "./element.ts";
import { Frame } from "./frame.ts";
import { emitLine, type Root } from "./line.ts";
import type { Recipe } from "./recipe.ts";
import { classOf, collapse, Layout, product, type Operand, type Signature, signatureKey, withInner } from "./space.ts";

/** Operands of views over a collapsed space. */
export function operandsOf(views: readonly View[], strides: readonly (readonly number[])[], label: string): Operand[] {
  return views.map((view, i) => {
    checkDType(view.dtype, label);
    return { dtype: view.dtype, inner: classOf(strides[i][strides[i].length - 1]), at: view.at?.uniform };
  });
}

/** Rows r0 to r1 and columns c0 to c1 of a space whose last axis is the inner one. */
export function emitSweep(frame: Frame, r0: Local, r1: Local, c0: Local, c1: Local, roots: readonly Root[], acc?: { readonly pointer: Local; readonly step: Local }): void {
  const f = frame.f, outer = Array.from({ length: frame.layout.signature.rank - 1 }, (_, a) => a);
  const r = f.i32(), left = f.i32();
  f.get(r0).set(r);
  const place = (): void => {
    frame.place(r, outer);
    if (outer.length > 1) { frame.word(frame.layout.size(outer.length - 1)); f.get(r); frame.word(frame.layout.size(outer.length - 1)); f.i(op.remU).i(op.sub).set(left); }
  };
  place();
  f.while(() => f.get(r).get(r1).i(op.ltU), () => {
    emitLine(frame, { from: c0, to: c1, roots, ...(acc ? { acc: acc.pointer } : {}) });
    f.add(r, 1);
    if (acc) f.addTo(acc.pointer, acc.step);
    if (outer.length === 1) frame.step(0);
    if (outer.length > 1) {
      f.add(left, -1);
      f.get(left).if(() => frame.step(outer.length - 1), place);
    }
  });
}

/** Splits rows x columns among threads: rows when there are enough of them or lines are short, else chunks of 16 columns. */
export function emitSplit(frame: Frame, rows: Local, columns: Local, body: (r0: Local, r1: Local, c0: Local, c1: Local) => void): void {
  const f = frame.f, tid = 1, threads = 2;
  const r0 = f.i32(), r1 = f.i32(), c0 = f.i32(), c1 = f.i32();
  f.get(rows).get(threads).const(8).i(op.mul).i(op.geU).get(columns).const(1024).i(op.ltU).i(op.or).if(() => {
    f.get(rows).get(tid).i(op.mul).get(threads).i(op.divU).set(r0);
    f.get(rows).get(tid).const(1).i(op.add).i(op.mul).get(threads).i(op.divU).set(r1);
    f.get(columns).set(c1);
  }, () => {
    f.get(rows).set(r1);
    f.get(columns).get(threads).i(op.add).const(1).i(op.sub).get(threads).i(op.divU).const(15).i(op.add).const(-16).i(op.and).set(c0);
    f.get(c0).get(tid).const(1).i(op.add).i(op.mul).set(c1);
    f.min(c1, columns).set(c1);
    f.get(c0).get(tid).i(op.mul).set(c0);
    f.min(c0, columns).set(c0);
  });
  f.get(c0).get(c1).i(op.ltU).get(r0).get(r1).i(op.ltU).i(op.and).if(() => body(r0, r1, c0, c1));
}

export function mapRecipe(k: MapKernel): Recipe {
  const views = [...k.loads, ...k.stores.map((s) => s.view)];
  const space = withInner(collapse(k.shape, [k.shape.length], [...views.map((w) => w.strides), ...k.affines.map((a) => a.strides)]));
  const rank = space.shape.length;
  const signature: Signature = {
    rank, views: operandsOf(views, space.strides, k.label), uniforms: k.uniforms.length, extras: ["rows"],
    affines: k.affines.map((_, i) => (space.strides[views.length + i][rank - 1] === 0 ? 0 : 2)),
  };
  const layout = new Layout(signature);
  return {
    key: `map|${signatureKey(signature)}|${k.loads.length}|${keyOf(k.stores.map((s) => s.value))}`,
    layout, phases: 1, workspace: 0, work: product(space.shape),
    fill: (words) => layout.fill(words, space, views, k.affines, k.uniforms, { rows: product(space.shape.slice(0, -1)) }),
    emit: (name) => {
      const dag = new Dag();
      const roots: Root[] = k.stores.map((s, i) => ({ node: dag.add(s.value), sink: { kind: "store", view: k.loads.length + i } }));
      const frame = new Frame(`${name}.0`, 3, signature, dag);
      const rows = frame.wordLocal(layout.extra("rows")), columns = frame.wordLocal(layout.size(rank - 1));
      emitSplit(frame, rows, columns, (r0, r1, c0, c1) => emitSweep(frame, r0, r1, c0, c1, roots));
      return [frame.f];
    },
  };
}
