/**
 * Sums of rows by id, the same bits at every run: rows are ranked by (id, position), results are cleared, then one workgroup
 * for each run of equal ids sums its rows in a fixed order. No float atomics.
 */
import { bytesOf, literal, type PlanSpec, type ScatterAddKernel } from "@adjoint/tensor";
import { bindLoads, bindStores, loadElement, loadVec4, storeElement, storeVec4, typeOf } from "./element.ts";
import { idAt, refuseStarts } from "./gather.ts";
import { mapDispatch } from "./map.ts";
import { convert } from "./printer.ts";
import type { Dispatch, Lower, Target } from "./program.ts";
import { Fold, foldGroup } from "./reduce.ts";
import { Shader, spread } from "./shader.ts";
import { ceilDiv, powerUp } from "./space.ts";

/** Words of scratch memory: for each sorted position the row, the length of the run that begins there (0: none), the id. */
const WORDS = 3;

export const lowerScatterAdd: Lower<ScatterAddKernel> = (k, plan, target) => {
  refuseStarts(k.label, [k.source, k.ids, k.out]);
  const sorted = plan.buffers.length;
  const clear = mapDispatch({ kind: "map", shape: [k.limit * k.cols], loads: [], affines: [], uniforms: [], label: `${k.label}: clear`, stores: [{ view: { ...k.out, strides: [1] }, value: literal(0) }] }, plan, target);
  return { dispatches: [rank(k, plan, target, sorted), clear, total(k, plan, target, sorted)], scratch: [4 * WORDS * k.rows] };
};

/** rank = number of (id, row) pairs below one's own; ids outside [0, limit) come last and begin no run. */
function rank(k: ScatterAddKernel, plan: PlanSpec, target: Target, sorted: number): Dispatch {
  const shader = new Shader(plan, target, { writes: new Set([sorted]) });
  bindLoads(shader, [k.ids], () => false);
  const out = shader.bind(sorted, "u32"), { workgroups, linear } = spread(ceilDiv(k.rows, 256), target), rows = shader.param(k.rows);
  shader.workgroup("keys", "array<u32, 256>");
  // a negative id is large as u32
  const key = (r: string): string => `select(0xffffffffu, bitcast<u32>(${idAt(shader, plan, k.ids, `${shader.param(k.ids.offset)} + min(${r}, ${rows} - 1u)`)}), ${r} < ${rows})`;
  const limit = shader.param(k.limit);
  const body = `let r = ${linear} * 256u + li;
let own = min(${key("r")}, ${limit});
var below = 0u;
var before = 0u;
var equal = 0u;
for (var first = 0u; first < ${rows}; first += 256u) {
  keys[li] = min(${key("(first + li)")}, ${limit});
  workgroupBarrier();
  let count = min(256u, ${rows} - first);
  for (var j = 0u; j < count; j++) {
    let other = keys[j];
    below += select(0u, 1u, other < own);
    let same = other == own;
    equal += select(0u, 1u, same);
    before += select(0u, 1u, same && first + j < r);
  }
  workgroupBarrier();
}
if (r < ${rows}) {
  let place = below + before;
  ${out}[place] = r;
  ${out}[${rows} + place] = select(0u, equal, before == 0u && own < ${limit});
  ${out}[2u * ${rows} + place] = own;
}`;
  return shader.dispatch(body, { size: [256, 1, 1], workgroups, label: `${k.label}: order`, flops: 0, bytes: k.rows * (4 + 4 * WORDS) });
}

/** One workgroup for each sorted position and block of columns; those that begin a run add its rows, every Y-th in one slice. */
function total(k: ScatterAddKernel, plan: PlanSpec, target: Target, sorted: number): Dispatch {
  const width = [k.cols, k.source.offset, k.out.offset].every((n) => n % 4 === 0) ? 4 : 1, items = k.cols / width;
  const x = Math.min(64, powerUp(items)), slices = Math.min(8, 256 / x), size = x * slices, blocks = ceilDiv(items, x);
  const shader = new Shader(plan, target, { writes: new Set([k.out.buffer]) }), fold = new Fold(shader, "sum", "float");
  bindStores(shader, [{ view: k.out, value: literal(0) }], () => width === 4);
  bindLoads(shader, [k.source], () => width === 4);
  const order = shader.bind(sorted, "u32"), { workgroups, linear } = spread(k.rows * blocks, target);
  const rows = shader.param(k.rows), cols = shader.param(k.cols), per = shader.param(blocks);
  const address = `${shader.param(k.source.offset)} + ${order}[place + j] * ${cols} + c`, lanes = width === 4 ? ["x", "y", "z", "w"].map((l) => `sum.${l}`) : ["sum"];
  const element = width === 4 ? loadVec4(shader, plan, k.source, address) : loadElement(shader, plan, k.source, address);
  const result = width === 4 ? "vec4<f32>(s0, s1, s2, s3)" : "s0", to = `${shader.param(k.out.offset)} + ${order}[2u * ${rows} + place] * ${cols} + c`;
  const body = [
    `let group = ${linear};`, `let place = min(group / ${per}, ${rows} - 1u);`, `let column = ((group % ${per}) * ${x}u + (li % ${x}u)) * ${width}u;`, `let slice = li / ${x}u;`,
    `let real = group / ${per} < ${rows} && column < ${cols};`, `let c = min(column, ${cols} - ${width}u);`, `let length = ${order}[${rows} + place];`,
    `var sum = ${fold.wgsl(width)}(0.0f);`,
    `for (var j = slice; j < length; j += ${slices}u) { sum += ${convert(shader, width, typeOf(k.source.dtype), "float", element)}; }`,
    ...foldGroup(shader, lanes.map(() => fold), lanes, lanes.map((_, j) => `s${j}`), size, slices, x),
    `if (real && slice == 0u && length > 0u) {`,
    width === 4 ? storeVec4(shader, plan, k.out, to, result, "float") : storeElement(shader, plan, k.out, to, result, "float"),
    "}",
  ].join("\n");
  return shader.dispatch(body, { size: [size, 1, 1], workgroups, label: k.label, flops: k.rows * k.cols, bytes: k.rows * k.cols * bytesOf(k.source.dtype) + k.limit * k.cols * bytesOf(k.out.dtype) });
}
