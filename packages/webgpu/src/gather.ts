/** Rows by id: four neighbours an invocation where rows are aligned; equal dtypes below 32 bits are copied as words. */
import { bytesOf, DeviceError, type DType, type GatherKernel, literal, type PlanSpec, type View } from "@adjoint/tensor";
import { bindLoads, bindStores, checkDType, loadElement, loadVec4, storeElement, storeVec4, typeOf } from "./element.ts";
import type { Lower } from "./program.ts";
import { Shader, spread } from "./shader.ts";
import { ceilDiv } from "./space.ts";

/** The i32 at `index` of a view of ids. */
export function idAt(shader: Shader, plan: PlanSpec, ids: View, index: string): string {
  const text = loadElement(shader, plan, ids, index);
  return typeOf(ids.dtype) === "u32" ? `i32(min(${text}, 0x7fffffffu))` : text;
}
/** Starts that are data are not part of these kernels. */
export function refuseStarts(label: string, views: readonly View[]): void {
  for (const v of views) {
    checkDType(v.dtype, label);
    if (v.at !== undefined) throw new DeviceError(`webgpu: ${label} with a start that is data`);
  }
}

export const lowerGather: Lower<GatherKernel> = (k, plan, target) => {
  refuseStarts(k.label, [k.table, k.ids, k.out]);
  const part = 4 / bytesOf(k.table.dtype), words = k.table.dtype === k.out.dtype && part > 1 && [k.cols, k.table.offset, k.out.offset].every((n) => n % part === 0);
  const as = (v: View): View => (words ? { ...v, dtype: "u32" satisfies DType, offset: v.offset / part } : v);
  const table = as(k.table), out = as(k.out), cols = words ? k.cols / part : k.cols;
  const width = [cols, table.offset, out.offset].every((n) => n % 4 === 0) ? 4 : 1, items = cols / width;

  const shader = new Shader(plan, target, { writes: new Set([out.buffer]) });
  bindStores(shader, [{ view: out, value: literal(0) }], () => width === 4);
  bindLoads(shader, [table, k.ids], (i) => i === 0 && width === 4);
  const { workgroups, linear } = spread(ceilDiv(k.rows * items, 256), target), per = shader.param(items);
  const from = `${shader.param(table.offset)} + row * ${shader.param(cols)} + c`, to = `${shader.param(out.offset)} + point * ${width}u`;
  const type = typeOf(table.dtype);
  const body = [
    `let point = ${linear} * 256u + li;`,
    `if (point < ${shader.param(k.rows * items)}) {`,
    `let r = point / ${per};`, `let c = (point % ${per})${width === 4 ? " * 4u" : ""};`,
    `let row = u32(clamp(${idAt(shader, plan, k.ids, `${shader.param(k.ids.offset)} + r`)}, 0i, ${shader.param(k.limit - 1, "i32")}));`,
    ...(width === 4 ? [`let x = ${loadVec4(shader, plan, table, from)};`, storeVec4(shader, plan, out, to, "x", type)] : [`let x = ${loadElement(shader, plan, table, from)};`, storeElement(shader, plan, out, to, "x", type)]),
    "}",
  ];
  const bytes = k.rows * (k.cols * (bytesOf(k.table.dtype) + bytesOf(k.out.dtype)) + bytesOf(k.ids.dtype));
  return { dispatches: [shader.dispatch(body.join("\n"), { size: [256, 1, 1], workgroups, label: k.label, flops: 0, bytes })], scratch: [] };
};
