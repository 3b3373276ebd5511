/** Gather (rows of a table by index) and scatter-add (rows added into a table, in order); everything contiguous. */
import { bytesOf, DTypeError, type GatherKernel, leaf, type ScatterAddKernel, type View } from "@adjoint/tensor";
import { type Local, op, v } from "./assembler.ts";
import { Dag } from "./dag.ts";
import { typeOf } from "./element.ts";
import { Frame } from "./frame.ts";
import { emitLine } from "./line.ts";
import { operandsOf } from "./map.ts";
import type { Recipe } from "./recipe.ts";
import { Layout, type Signature, signatureKey, type Space } from "./space.ts";

/** Pushes ids[r]; ids are 32-bit (i32 or u32). */
function pushId(frame: Frame, view: number, r: Local): void {
  frame.f.get(frame.bases[view]).get(r).const(2).i(op.shl).i(op.add).load();
}
function checkIds(ids: View, label: string): void {
  if (bytesOf(ids.dtype) !== 4 || ids.dtype === "f32") throw new DTypeError(`${label}: ids must be i32 or u32`, { op: label, value: ids.dtype, fix: "cast the ids to i32" });
}
function spaceOf(views: readonly View[], rows: number, cols: number): { space: Space; signature: (label: string, extras: readonly string[]) => Signature } {
  const space: Space = { shape: [rows, cols], groups: [1, 1], strides: [[cols, 1], [1, 0], [cols, 1]] };
  return { space, signature: (label, extras) => ({ rank: 2, views: operandsOf(views, space.strides, label), affines: [], uniforms: 0, extras }) };
}

export function gatherRecipe(k: GatherKernel): Recipe {
  checkIds(k.ids, k.label);
  const views = [k.table, k.ids, k.out], { space, signature: make } = spaceOf(views, k.rows, k.cols), signature = make(k.label, ["limit"]);
  const layout = new Layout(signature);
  return {
    key: `gather|${signatureKey(signature)}`, layout, phases: 1, workspace: 0, work: k.rows * k.cols,
    fill: (words) => layout.fill(words, space, views, [], [], { limit: k.limit }),
    emit: (name) => {
      const dag = new Dag(), node = dag.add(leaf("load", 0, typeOf(k.table.dtype)));
      const frame = new Frame(`${name}.0`, 3, signature, dag), f = frame.f;
      const r = f.i32(), end = f.i32(), id = f.i32(), zero = f.i32(), top = f.i32(), cols = frame.wordLocal(layout.size(1)), rows = frame.wordLocal(layout.size(0));
      f.get(rows).get(1).i(op.mul).get(2).i(op.divU).set(r);
      f.get(rows).get(1).const(1).i(op.add).i(op.mul).get(2).i(op.divU).set(end);
      frame.word(layout.extra("limit")).const(1).i(op.sub).set(top);
      f.for(r, undefined, end, 1, () => {
        pushId(frame, 1, r);
        f.set(id);
        if (k.ids.dtype === "i32") f.const(0).get(id).get(id).const(0).i(op.ltS).i(op.select).set(id);
        f.min(id, top).set(id);
        f.get(frame.bases[0]).get(id); frame.word(frame.strideWord(0, 0)).i(op.mul).i(op.add).set(frame.cursors[0]);
        f.get(frame.bases[2]).get(r); frame.word(frame.strideWord(2, 0)).i(op.mul).i(op.add).set(frame.cursors[2]);
        if (k.table.dtype === k.out.dtype) f.get(frame.cursors[2]).get(frame.cursors[0]).get(cols).const(bytesOf(k.out.dtype)).i(op.mul).copy();
        else emitLine(frame, { from: zero, to: cols, roots: [{ node, sink: { kind: "store", view: 2 } }] });
      });
      return [f];
    },
  };
}

export function scatterAddRecipe(k: ScatterAddKernel): Recipe {
  checkIds(k.ids, k.label);
  const type = typeOf(k.out.dtype);
  if (bytesOf(k.out.dtype) !== 4) throw new DTypeError(`${k.label}: scatterAdd sums into f32, i32 or u32`, { op: k.label, value: k.out.dtype, fix: "scatter into f32 and cast the result" });
  const views = [k.source, k.ids, k.out], { space, signature: make } = spaceOf(views, k.rows, k.cols), signature = make(k.label, ["limit"]);
  const layout = new Layout(signature);
  return {
    key: `scatterAdd|${signatureKey(signature)}`, layout, phases: 1, workspace: 0, work: k.rows * k.cols + k.limit * k.cols,
    fill: (words) => layout.fill(words, space, views, [], [], { limit: k.limit }),
    emit: (name) => {
      const dag = new Dag();
      const frame = new Frame(`${name}.0`, 3, signature, dag), f = frame.f;
      const cols = frame.wordLocal(layout.size(1)), rows = frame.wordLocal(layout.size(0)), limit = frame.wordLocal(layout.extra("limit"));
      const chunk = f.i32(), c0 = f.i32(), c1 = f.i32(), r = f.i32(), id = f.i32(), d = f.i32(), s = f.i32(), c = f.i32(), lanes = f.i32(), q = f.i32(), sum = f.v128(), b = bytesOf(k.source.dtype);
      f.get(cols).get(2).i(op.add).const(1).i(op.sub).get(2).i(op.divU).const(15).i(op.add).const(-16).i(op.and).set(chunk);
      f.get(chunk).get(1).i(op.mul).set(c0).min(c0, cols).set(c0);
      f.get(c0).get(chunk).i(op.add).set(c1).min(c1, cols).set(c1);
      f.get(c0).get(c1).i(op.ltU).if(() => {
        f.for(r, undefined, limit, 1, () => {
          f.get(frame.bases[2]).get(r).get(cols).i(op.mul).get(c0).i(op.add).const(2).i(op.shl).i(op.add);
          f.const(0).get(c1).get(c0).i(op.sub).const(2).i(op.shl).fill();
        });
        f.const(0).set(r);
        f.for(r, undefined, rows, 1, () => {
          pushId(frame, 1, r);
          f.set(id);
          f.get(id).get(limit).i(op.ltU).if(() => {
            f.get(frame.bases[0]).get(r).get(cols).i(op.mul).get(c0).i(op.add).const(b).i(op.mul).i(op.add).set(s);
            f.get(frame.bases[2]).get(id).get(cols).i(op.mul).get(c0).i(op.add).const(2).i(op.shl).i(op.add).set(d);
            f.get(c0).set(c);
            f.for(c, undefined, c1, 4, () => {
              f.get(c1).get(c).i(op.sub).set(lanes);
              f.get(d).vload().get(s);
              frame.convert.loadRaw(k.source.dtype, 0); frame.convert.decode(k.source.dtype, type);
              f.simd(type === "float" ? v.addF : v.addI).set(sum);
              f.get(lanes).const(4).i(op.geU).if(() => f.get(d).get(sum).vstore(), () => frame.convert.scatterRaw(k.out.dtype, sum, d, 4, q, lanes));
              f.add(d, 16).add(s, 4 * b);
            });
          });
        });
      });
      return [f];
    },
  };
}
