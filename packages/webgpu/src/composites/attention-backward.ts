/**
 * The backward pass of attention: one kernel over tiles of queries gives dq, one over tiles of keys gives dk and dv, and
 * both recompute the probabilities from each row's log Σ e^score. No sum is shared between workgroups, so runs repeat bit for bit.
 */
import { type CompositeKernel, DeviceError, type PlanSpec, sizeOf } from "@adjoint/tensor";
import type { Dispatch, Lower, Program, Target } from "../program.ts";
import { spread } from "../shader.ts";
import { type AttentionProblem, AttentionText, pairsOf, problemOf } from "./attention-problem.ts";
import { type AttentionKind, type AttentionTile, chooseTile, columns, memoryOf, threadsOf, TileText } from "./attention-tiles.ts";

export const attentionBackward: Lower<CompositeKernel> = (kernel, plan, target): Program => {
  const { sizes: { size, keys, batch, kvHeads }, rows } = problemOf(kernel), pairs = batch * kvHeads, queries = chooseTile("queries", size, { own: rows, passing: keys, pairs }, target), own = chooseTile("keys", size, { own: keys, passing: rows, pairs }, target);
  if (queries === null || own === null) throw new DeviceError(`webgpu: gradients of attention with heads of ${size} need more workgroup memory than this device has`, { op: kernel.name, key: "maxComputeWorkgroupStorageSize", value: target.limits.workgroupBytes });
  return backwardWith(kernel, plan, target, { queries, keys: own });
};

/** The kernels with given tiles. */
export function backwardWith(kernel: CompositeKernel, plan: PlanSpec, target: Target, tiles: { readonly queries: AttentionTile; readonly keys: AttentionTile }): Program {
  const p = problemOf(kernel), stats = plan.buffers.length, { batch, heads, queries } = p.sizes;
  // the kernel of queries makes the statistics of its rows itself, unless marks leave it no binding for them (8 is the least a device has)
  const apart = p.marks !== null && p.attrs.packed === 0 && target.limits.storageBuffers < 9;
  return {
    scratch: [8 * batch * heads * queries],
    dispatches: [...(apart ? [rowSums(kernel, p, plan, target, stats)] : []), ofQueries(kernel, p, plan, target, stats, tiles.queries, apart), ofKeys(kernel, p, plan, target, stats, tiles.keys)],
  };
}

/** stats[b, head, t] = (log Σ e^score, Σ dO ∘ O): eight threads a row. */
function rowSums(kernel: CompositeKernel, p: AttentionProblem, plan: PlanSpec, target: Target, stats: number): Dispatch {
  const { batch, heads, queries, size } = p.sizes, text = new AttentionText(p, plan, target, [stats]), { shader } = text, d = columns(size), count = batch * heads * queries;
  const { workgroups, linear } = spread(Math.ceil(count / 8), target), done = p.done!, start = done.offset + sizeOf(p.q.shape);
  const out = shader.bind(stats, "vec2f"), total = shader.param(count), place = "((b * H + h) * T + t)";
  const lse = p.vec ? `${shader.bind(done.buffer, "vec4f")}[at >> 2u][at & 3u]` : `${shader.bind(done.buffer, "f32")}[at]`;
  shader.workgroup("part", "array<f32, 64>");
  const body = [
    `let H = ${text.size("heads")}; let T = ${text.size("queries")};`,
    `let row = ${linear} * 8u + li / 8u; let i = min(row, ${total} - 1u); let h = i % H; let t = (i / H) % T; let b = i / (H * T);`,
    "var sum = vec4<f32>();",
    `for (var c = li % 8u; c < ${d}u; c += 8u) { sum = fma(${text.load(done, `(i * ${shader.param(size / text.unit)})`, "c")}, ${text.load(p.g!, `(i * ${shader.param(size / text.unit)})`, "c")}, sum); }`,
    "part[li] = (sum.x + sum.y) + (sum.z + sum.w);",
    "workgroupBarrier();",
    `if (li % 8u == 0u && row < ${total}) {`,
    `let at = ${shader.param(start)} + ${place};`,
    `${out}[${place}] = vec2<f32>(${lse}, ((part[li] + part[li + 1u]) + (part[li + 2u] + part[li + 3u])) + ((part[li + 4u] + part[li + 5u]) + (part[li + 6u] + part[li + 7u])));`,
    "}",
  ];
  return shader.dispatch(body.join("\n"), { size: [64, 1, 1], workgroups, label: `${kernel.label} rows`, flops: 2 * count * size, bytes: 4 * (2 * count * size + 3 * count) });
}

/** Texts that both kernels share. */
function setup(kind: AttentionKind, p: AttentionProblem, plan: PlanSpec, target: Target, stats: number, t: AttentionTile, writes: readonly number[]): { text: AttentionText; w: TileText; stat: string } {
  const text = new AttentionText(p, plan, target, writes), { shader } = text, m = memoryOf(kind, t, p.sizes.size);
  for (const name of ["own_a", "own_b"]) shader.workgroup(name, `array<vec4<f32>, ${m.own}>`);
  shader.workgroup("passing", `array<vec4<f32>, ${m.passing}>`);
  shader.workgroup("shared_p", `array<vec4<f32>, ${m.scores}>`);
  return { text, w: new TileText(t, p.sizes.size), stat: shader.bind(stats, "vec2f") };
}

/** logs and means of a thread's own rows: threads side by side share the columns; the first of them writes both down for the other kernel. */
function ownSums(text: AttentionText, w: TileText, stat: string): string[] {
  const { p, shader } = text, done = p.done!, start = shader.param(done.offset + sizeOf(p.q.shape)), { R, TX } = w.t, at = (i: number): string => `(${start} + place${i})`, column = (n: number): string => `tx + ${n * TX}u`;
  const lse = (i: number): string => (p.vec ? `${shader.bind(done.buffer, "vec4f")}[${at(i)} >> 2u][${at(i)} & 3u]` : `${shader.bind(done.buffer, "f32")}[${at(i)}]`);
  return [
    "var part = vec4<f32>();",
    ...w.each(4, (i) => [`{ let row = ${text.outputAt(`each.${"xyzw"[i]}`)};`, ...w.each(w.cols, (n) =>
      `${(n + 1) * TX <= w.d ? "" : `if (${column(n)} < ${w.d}u) `}{ part.${"xyzw"[i]} += dot(${text.load(done, "row", `(${column(n)})`)}, ${text.load(p.g!, "row", `(${column(n)})`)}); }`), "}"]).flat(),
    `shared_p[tx * ${R / 4}u + ty] = part;`,
    "workgroupBarrier();",
    "var means = vec4<f32>();",
    `for (var x = 0u; x < ${TX}u; x++) { means += shared_p[x * ${R / 4}u + ty]; }`,
    `let logs = vec4<f32>(${w.each(4, lse).join(", ")});`,
    "if (tx == 0u) {",
    ...w.each(4, (i) => `if (mine + ${i}u < ${text.rows}) { ${stat}[place${i}] = vec2<f32>(logs.${"xyzw"[i]}, means.${"xyzw"[i]}); }`),
    "}",
  ];
}

/** Own rows are queries: dP = dO Vᵀ, P = e^(S - lse), dS = P ∘ (dP - D), dQ = scale dS K. */
function ofQueries(kernel: CompositeKernel, p: AttentionProblem, plan: PlanSpec, target: Target, stats: number, t: AttentionTile, apart: boolean): Dispatch {
  const { text, w, stat } = setup("queries", p, plan, target, stats, t, apart ? [p.out.buffer] : [p.out.buffer, stats]), { shader, rows } = text, { batch, kvHeads, size } = p.sizes;
  const tiles = Math.ceil(p.rows / t.R), { workgroups, linear } = spread(tiles * batch * kvHeads, target), S = text.size("keys"), last = `(${rows} - 1u)`, scale = shader.param(p.attrs.scale, "f32");
  const pass = (view: typeof p.k): string[] => w.pass("passing", "x", (r, c) => text.load(view, text.keyAt(`min(k0 + ${r}, ${S} - 1u)`), c)), key = (j: number): string => `(k0 + tx + ${j * t.TX}u)`;
  const body = [
    ...text.begin(tiles, linear, true), ...w.place(),
    ...text.ownQueries(t),
    ...w.each(4, (i) => `let place${i} = ${text.rowAt(`each.${"xyzw"[i]}`)};`),
    ...(apart ? [
      ...w.each(4, (i) => `let stat${i} = ${stat}[place${i}];`),
      "let logs = vec4<f32>(stat0.x, stat1.x, stat2.x, stat3.x); let means = vec4<f32>(stat0.y, stat1.y, stat2.y, stat3.y);",
    ] : ownSums(text, w, stat)),
    ...text.keyRange("low", "high", t),
    ...w.keepOwn("own_a", (r, c) => text.load(p.q, text.queryAt(`min(r0 + ${r}, ${last})`), c), ` * ${scale}`),
    ...w.keepOwn("own_b", (r, c) => text.load(p.g!, text.outputAt(`min(r0 + ${r}, ${last})`), c)),
    ...w.sums("o"),
    `for (var k0 = begin; k0 < end; k0 += ${t.C}u) {`,
    "{", ...pass(p.v), "}",
    "workgroupBarrier();",
    ...w.score("u", "own_b", "passing"),
    "workgroupBarrier();",
    "{", ...pass(p.k), "}",
    "workgroupBarrier();",
    ...w.score("s", "own_a", "passing"),
    ...w.each(w.scores, (j) => `s${j} = exp(min(s${j} - logs, vec4<f32>(1.0f)));`),
    `if (${text.edge("low", "high", "i32(k0)", `i32(k0) + ${t.C - 1}`, `k0 + ${t.C}u > ${S}`)}) {`,
    ...w.each(w.scores, (j) => `s${j} = select(vec4<f32>(), s${j}, ${text.visible("position", `i32(${key(j)})`, "mark", p.marks ? text.mark("keys", `min(${key(j)}, ${S} - 1u)`) : "", `${key(j)} < ${S}`)});`),
    "}",
    ...w.share("shared_p", (j) => `s${j} * (u${j} - means)`),
    "workgroupBarrier();",
    ...w.accumulate([{ out: "o", scores: "shared_p", passing: "passing" }]),
    "workgroupBarrier();",
    "}",
    ...w.results("o", (i) => `mine + ${i}u < ${rows}`, (i) => text.result(0, text.queryAt(`mine + ${i}u`)), (_, column, sum) => text.store(column, `${sum} * ${scale}`)),
  ];
  return shader.dispatch(body.join("\n"), { size: [threadsOf(t), 1, 1], workgroups, label: `${kernel.label} queries`, flops: 6 * pairsOf(p) * size, bytes: 4 * (3 * sizeOf(p.q.shape) + 2 * sizeOf(p.k.shape)) });
}

/** Own rows are keys: the same P and dS, transposed; dV = Pᵀ dO, dK = scale dSᵀ Q, over queries of all heads of the group. */
function ofKeys(kernel: CompositeKernel, p: AttentionProblem, plan: PlanSpec, target: Target, stats: number, t: AttentionTile): Dispatch {
  const { text, w, stat } = setup("keys", p, plan, target, stats, t, [p.out.buffer]), { shader, rows } = text, { batch, kvHeads, keys, size } = p.sizes, m = memoryOf("keys", t, size);
  shader.workgroup("passing_g", `array<vec4<f32>, ${m.passing}>`);
  shader.workgroup("shared_d", `array<vec4<f32>, ${m.scores}>`);
  const tiles = Math.ceil(keys / t.R), { workgroups, linear } = spread(tiles * batch * kvHeads, target), S = text.size("keys"), scale = shader.param(p.attrs.scale, "f32");
  const row = (r: string): string => `min(r0 + ${r}, ${rows} - 1u)`;
  const body = [
    ...text.begin(tiles, linear, false), ...w.place(),
    `let k0 = tile * ${t.R}u; let mine = k0 + ty * 4u;`,
    `let each = min(vec4<u32>(mine, mine + 1u, mine + 2u, mine + 3u), vec4<u32>(${S} - 1u)); let key = vec4<i32>(each);`,
    `let inside = vec4<u32>(mine, mine + 1u, mine + 2u, mine + 3u) < vec4<u32>(${S});`,
    ...(p.marks ? [`let mark = vec4<i32>(${[..."xyzw"].map((e) => text.mark("keys", `each.${e}`)).join(", ")});`] : []),
    ...text.rowRange("i32(k0)", `i32(min(k0 + ${t.R - 1}u, ${S} - 1u))`, t),
    ...w.keepOwn("own_a", (r, c) => text.load(p.k, text.keyAt(`min(k0 + ${r}, ${S} - 1u)`), c), ` * ${scale}`),
    ...w.keepOwn("own_b", (r, c) => text.load(p.v, text.keyAt(`min(k0 + ${r}, ${S} - 1u)`), c)),
    ...w.sums("dk"), ...w.sums("dv"),
    `for (var r0 = begin; r0 < end; r0 += ${t.C}u) {`,
    "{", ...w.pass("passing", "x", (r, c) => text.load(p.q, text.queryAt(row(r)), c)), ...w.pass("passing_g", "g", (r, c) => text.load(p.g!, text.outputAt(row(r)), c)), "}",
    ...w.each(w.scores, (j) => [`let row${j} = min(r0 + tx + ${j * t.TX}u, ${rows} - 1u); let stat${j} = ${stat}[${text.rowAt(`row${j}`)}];`]).flat(),
    `let low = i32(${text.time("r0")}) + at; let high = i32(${text.time(`min(r0 + ${t.C - 1}u, ${rows} - 1u)`)}) + at;`,
    "workgroupBarrier();",
    ...w.score("s", "own_a", "passing"), ...w.score("u", "own_b", "passing_g"),
    ...w.each(w.scores, (j) => `s${j} = exp(min(s${j} - vec4<f32>(stat${j}.x), vec4<f32>(1.0f)));`),
    `if (${text.edge("low", "high", "i32(k0)", `i32(k0) + ${t.R - 1}`, `k0 + ${t.R}u > ${S} || r0 + ${t.C}u > ${rows}`)}) {`,
    ...w.each(w.scores, (j) => `s${j} = select(vec4<f32>(), s${j}, ${text.visible(`(i32(${text.time(`row${j}`)}) + at)`, "key", p.marks ? text.mark("queries", text.time(`row${j}`)) : "", "mark", `r0 + tx + ${j * t.TX}u < ${rows}`)} & inside);`),
    "}",
    ...w.share("shared_p", (j) => `s${j}`), ...w.share("shared_d", (j) => `s${j} * (u${j} - vec4<f32>(stat${j}.y))`),
    "workgroupBarrier();",
    ...w.accumulate([{ out: "dv", scores: "shared_p", passing: "passing_g" }, { out: "dk", scores: "shared_d", passing: "passing" }]),
    "workgroupBarrier();",
    "}",
    ...w.results("dk", (i) => `mine + ${i}u < ${S}`, (i) => text.result(p.steps.dk, text.keyAt(`mine + ${i}u`)), (_, column, sum) => text.store(column, `${sum} * ${scale}`)),
    ...w.results("dv", (i) => `mine + ${i}u < ${S}`, (i) => text.result(p.steps.dv, text.keyAt(`mine + ${i}u`)), (_, column, sum) => text.store(column, sum)),
  ];
  return shader.dispatch(body.join("\n"), { size: [threadsOf(t), 1, 1], workgroups, label: `${kernel.label} keys`, flops: 8 * pairsOf(p) * size, bytes: 4 * (2 * sizeOf(p.q.shape) + 4 * sizeOf(p.k.shape)) });
}
