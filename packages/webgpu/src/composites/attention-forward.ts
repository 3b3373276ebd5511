/** The forward pass of attention: each workgroup keeps a tile of queries and its running softmax, and passes over the keys. */
import { type CompositeKernel, DeviceError, sizeOf } from "@adjoint/tensor";
import { intrinsic } from "../intrinsics.ts";
import type { Lower, Program } from "../program.ts";
import { spread } from "../shader.ts";
import { AttentionText, pairsOf, problemOf } from "./attention-problem.ts";
import { type AttentionTile, chooseTile, memoryOf, threadsOf, TileText } from "./attention-tiles.ts";

/** Less than any score, and finite: implementations may assume that there is no infinity. */
export const HIDDEN = "-3.0e38f";

export const attentionForward: Lower<CompositeKernel> = (kernel, plan, target): Program => {
  const p = problemOf(kernel), t = chooseTile("forward", p.sizes.size, { own: p.rows, passing: p.sizes.keys, pairs: p.sizes.batch * p.sizes.kvHeads }, target);
  if (t === null) throw new DeviceError(`webgpu: attention with heads of ${p.sizes.size} needs more workgroup memory than this device has`, { op: kernel.name, key: "maxComputeWorkgroupStorageSize", value: target.limits.workgroupBytes });
  return forwardWith(kernel, plan, target, t);
};

/** The kernel with a given tile. */
export function forwardWith(kernel: CompositeKernel, plan: Parameters<typeof attentionForward>[1], target: Parameters<typeof attentionForward>[2], t: AttentionTile): Program {
  const p = problemOf(kernel), { batch, kvHeads, size } = p.sizes, text = new AttentionText(p, plan, target, [p.out.buffer]), { shader } = text, m = memoryOf("forward", t, size), w = new TileText(t, size);
  const tiles = Math.ceil(p.rows / t.R), { workgroups, linear } = spread(tiles * batch * kvHeads, target);
  shader.workgroup("own", `array<vec4<f32>, ${m.own}>`);
  shader.workgroup("passing", `array<vec4<f32>, ${m.passing}>`);
  shader.workgroup("shared_p", `array<vec4<f32>, ${m.scores}>`);
  shader.workgroup("exchange", `array<vec4<f32>, ${m.exchange}>`);
  const { rows } = text, last = `(${rows} - 1u)`, exchange = (x: string): string => `exchange[${x} * ${t.R / 4}u + ty]`, key = (j: number): string => `(k0 + tx + ${j * t.TX}u)`;
  const S = text.size("keys"), start = shader.param(p.out.offset), pass = (memory: string, view: typeof p.k): string[] => w.pass(memory, "x", (r, c) => text.load(view, text.keyAt(`min(k0 + ${r}, ${S} - 1u)`), c));
  const body = [
    ...text.begin(tiles, linear, true), ...w.place(),
    ...text.ownQueries(t),
    ...text.keyRange("low", "high", t),
    ...w.keepOwn("own", (r, c) => text.load(p.q, text.queryAt(`min(r0 + ${r}, ${last})`), c), ` * ${shader.param(p.attrs.scale, "f32")}`),
    ...w.sums("o"),
    `var most = vec4<f32>(${HIDDEN}); var total = vec4<f32>();`,
    `for (var k0 = begin; k0 < end; k0 += ${t.C}u) {`,
    "{", ...pass("passing", p.k), "}",
    "workgroupBarrier();",
    ...w.score("s", "own", "passing"),
    `if (${text.edge("low", "high", "i32(k0)", `i32(k0) + ${t.C - 1}`, `k0 + ${t.C}u > ${S}`)}) {`,
    ...w.each(w.scores, (j) => `s${j} = select(vec4<f32>(${HIDDEN}), s${j}, ${text.visible("position", `i32(${key(j)})`, "mark", p.marks ? text.mark("keys", `min(${key(j)}, ${S} - 1u)`) : "", `${key(j)} < ${S}`)});`),
    "}",
    `${exchange("tx")} = ${w.each(w.scores, (j) => `s${j}`).reduce((a, b) => `max(${a}, ${b})`)};`,
    "workgroupBarrier();",
    "{", ...pass("passing", p.v), "}",
    "var top = most;",
    `for (var x = 0u; x < ${t.TX}u; x++) { top = max(top, ${exchange("x")}); }`,
    "let shrink = exp(max(most - top, vec4<f32>(-80.0f)));",
    "most = top; total = total * shrink;",
    ...w.each(w.scores, (j) => `let e${j} = select(vec4<f32>(), exp(s${j} - top), s${j} > vec4<f32>(-1.0e38f)); total += e${j};`),
    ...w.share("shared_p", (j) => `e${j}`),
    ...w.each(4, (i) => w.each(w.cols, (n) => `o${i}_${n} *= shrink.${"xyzw"[i]};`)).flat(),
    "workgroupBarrier();",
    ...w.accumulate([{ out: "o", scores: "shared_p", passing: "passing" }]),
    "workgroupBarrier();",
    "}",
    `${exchange("tx")} = total;`,
    "workgroupBarrier();",
    "var whole = vec4<f32>();",
    `for (var x = 0u; x < ${t.TX}u; x++) { whole += ${exchange("x")}; }`,
    "let seen = whole > vec4<f32>();",
    "let share = select(vec4<f32>(), 1.0f / max(whole, vec4<f32>(1.0e-30f)), seen);",
    ...w.results("o", (i) => `mine + ${i}u < ${rows}`, (i) => `${start} + ${text.outputAt(`mine + ${i}u`)} * ${text.unit}u`, (i, column, sum) => text.scalars(`address + ${column} * 4u`, column, `${sum} * share.${"xyzw"[i]}`, size)),
    "if (tx == 0u) {",
    `let log_sum = select(vec4<f32>(), most + ${intrinsic(shader, "log", 4)}(max(whole, vec4<f32>(1.0e-30f))), seen);`,
    ...w.each(4, (i) => `if (mine + ${i}u < ${rows}) { ${shader.bind(p.out.buffer, "f32")}[${shader.param(p.out.offset + sizeOf(p.q.shape))} + ${text.rowAt(`(mine + ${i}u)`)}] = log_sum.${"xyzw"[i]}; }`),
    "}",
  ];
  const pairs = pairsOf(p);
  return { scratch: [], dispatches: [shader.dispatch(body.join("\n"), { size: [threadsOf(t), 1, 1], workgroups, label: kernel.label, flops: 4 * pairs * size, bytes: 4 * (2 * sizeOf(p.q.shape) + 2 * sizeOf(p.k.shape)) })] };
}
