/**
 * Pointwise kernels: an invocation computes one point, or four neighbours along the last axis where that axis is a multiple
 * of 4 and most operands are aligned. Long last axes are cut in two dimensions of the grid, so that no index is divided.
 */
import { bytesMoved, type MapKernel, operationsOf, type PlanSpec } from "@adjoint/tensor";
import { Printer } from "./printer.ts";
import type { Dispatch, Lower, Target } from "./program.ts";
import { Shader, spread } from "./shader.ts";
import { Access, aligned, ceilDiv, collapse, decompose, type IndexText, product, stridesOf, withInner } from "./space.ts";
import { splitMap } from "./split.ts";

/** Columns and rows of invocations in a workgroup where the grid has two dimensions. */
const TILE = { x: 64, y: 4 };

export const lowerMap: Lower<MapKernel> = (kernel, plan, target) => splitMap(kernel, plan, target, mapDispatch);

/** One dispatch; the kernel's buffers must fit the target's bindings. */
export function mapDispatch(kernel: MapKernel, plan: PlanSpec, target: Target): Dispatch {
  const { loads, stores } = kernel, space = withInner(collapse(kernel.shape, [kernel.shape.length], stridesOf(kernel)));
  const rank = space.shape.length, inner = rank - 1, n = space.shape[inner], rows = product(space.shape.slice(0, -1));
  const views = [...loads, ...stores.map((s) => s.view)];
  const counted = views.map((v, i) => ({ vec: aligned(v, space.strides[i]), varies: space.strides[i][inner] !== 0 })).filter((c) => c.varies);
  const width = n % 4 === 0 && counted.filter((c) => c.vec).length * 2 >= counted.length ? 4 : 1;
  const items = n / width, wide = rank > 1 && items >= 0.7 * ceilDiv(items, TILE.x) * TILE.x;

  const shader = new Shader(plan, target, { writes: new Set(stores.map((s) => s.view.buffer)) });
  const access = new Access(shader, plan, kernel, space, stores.map((s) => s.value), width === 4, kernel.label);
  const body: string[] = [], index: string[] = [];
  let workgroups: [number, number, number], live: string;
  if (wide) {
    const x = ceilDiv(items, TILE.x), down = ceilDiv(rows, TILE.y), z = ceilDiv(down, target.limits.workgroups);
    workgroups = [x, ceilDiv(down, z), z];
    body.push(`let item = gid.x;`, `let row = (wg.z * nwg.y + wg.y) * ${TILE.y}u + lid.y;`);
    live = `item < ${shader.param(items)} && row < ${shader.param(rows)}`;
    const { lines, index: at } = decompose("row", space.shape.slice(0, -1).map((_, a) => a), (a) => access.size(a), "i");
    body.push(...lines);
    for (let a = 0; a < inner; a++) index.push(at.get(a) ?? "0u");
    index.push("c");
  } else {
    const { workgroups: grid, linear } = spread(ceilDiv(rows * items, 256), target);
    workgroups = grid;
    body.push(`let point = ${linear} * 256u + li;`);
    live = `point < ${shader.param(rows * items)}`;
    if (rank === 1) body.push("let item = point;");
    else {
      const per = shader.param(items);
      body.push(`let item = point % ${per};`, `let row = point / ${per};`);
      const { lines, index: at } = decompose("row", space.shape.slice(0, -1).map((_, a) => a), (a) => access.size(a), "i");
      body.push(...lines);
      for (let a = 0; a < inner; a++) index.push(at.get(a) ?? "0u");
    }
    index.push("c");
  }
  body.push(`if (${live}) {`, `let c = item${width === 4 ? " * 4u" : ""};`);
  const lanes: IndexText[] = Array.from({ length: width }, (_, k) => [...index.slice(0, -1), k === 0 ? "c" : `(c + ${k}u)`]);
  const bind = (text: string): string => printer.let(text);
  const printer: Printer = new Printer(shader, access.leaves(lanes, bind, width), { width, prefix: "v" });
  const values = stores.map((s) => printer.value(s.value));
  const writes = stores.flatMap((s, i) => access.store(i, lanes, printer.let(values[i]), s.value.type, width, bind));
  body.push(...printer.lines, ...writes, "}");
  return shader.dispatch(body.join("\n"), { size: wide ? [TILE.x, TILE.y, 1] : [256, 1, 1], workgroups, label: kernel.label, flops: operationsOf(kernel), bytes: bytesMoved(kernel, plan) });
}
