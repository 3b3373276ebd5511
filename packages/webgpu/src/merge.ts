/**
 * Independent dispatches of one text become one dispatch: AdamW over a hundred adapter tensors is one launch.
 *
 * Every number of a kernel's text is data (`P`), so a merged text differs from the single one only in where a workgroup
 * looks: it finds its segment by its number, reads the segment's parameters, and adds the segment's displacement to
 * every index of a binding. For that the buffers at one position of all segments lie in one GPU buffer: a union.
 */
import type { Binding, Dispatch, Target } from "./program.ts";
import { spread } from "./shader.ts";

/** Vectors of four words that one merged dispatch may have for parameters (a uniform block of 64 KiB). */
const MOST_VECTORS = 4096;

/** Words of a segment: first workgroup and its own grid, then displacements in cells, then the parameters. */
export interface SegmentPlan { readonly vectors: number; readonly head: number; readonly cells: readonly number[] }

/** How segments of this dispatch look, or null where its text cannot be merged. */
export function segmentPlan(d: Dispatch): SegmentPlan | null {
  const cells: number[] = [];
  for (let i = 0; i < d.bindings.length; i++) {
    const found = new RegExp(`var<storage, \\w+> b${i}: array<([^;]*)>;`).exec(d.code), bytes = found === null ? undefined : cellBytes[found[1]];
    if (bytes === undefined) return null;
    cells.push(bytes);
  }
  // a pointer to a whole binding has no index to displace
  if (/&b\d+(?!\d*\[)/.test(d.code) || /\bP(?!\[\d+\]|:)/.test(d.code.replace(/var<uniform> P: [^;]*;/, ""))) return null;
  const head = 1 + Math.ceil(d.bindings.length / 4);
  return { vectors: head + d.params.length / 4, head, cells };
}
const cellBytes: Readonly<Record<string, number>> = {
  f32: 4, i32: 4, u32: 4, f16: 2, "vec4<f32>": 16, "vec4<f16>": 8, "vec4<u32>": 16, "vec4<i32>": 16, "vec2<f32>": 8, "vec2<u32>": 8, "atomic<u32>": 4,
};
/** How many segments one dispatch can have. */
export const mostSegments = (p: SegmentPlan): number => Math.floor(MOST_VECTORS / p.vectors);

/** The dispatch that does the work of all; its parameters are written by `segmentWords` once places are known. */
export function mergeDispatches(all: readonly Dispatch[], p: SegmentPlan, target: Target): Dispatch {
  const [first] = all, total = all.reduce((n, d) => n + groups(d), 0);
  const bindings: Binding[] = first.bindings.map((b, i) => ({ ...b, buffer: i }));
  return {
    code: mergeText(first.code, all.length, p), bindings, params: Array.from({ length: all.length * p.vectors * 4 }, () => 0), numbers: first.numbers, workgroups: spread(total, target).workgroups,
    label: `${first.label} x${all.length}`, flops: all.reduce((n, d) => n + d.flops, 0), bytes: all.reduce((n, d) => n + d.bytes, 0),
  };
}
const groups = (d: Dispatch): number => d.workgroups[0] * d.workgroups[1] * d.workgroups[2];

/** Parameters of all segments; `bytes[s][i]` is how far segment s's buffer at binding i is from the binding's start. */
export function segmentWords(all: readonly Dispatch[], p: SegmentPlan, bytes: readonly (readonly number[])[]): number[] {
  const out: number[] = [];
  let start = 0;
  all.forEach((d, s) => {
    const block = Array.from({ length: p.vectors * 4 }, () => 0);
    block.splice(0, 4, start, ...d.workgroups);
    p.cells.forEach((size, i) => { block[4 + i] = bytes[s][i] / size; });
    d.params.forEach((w, i) => { block[p.head * 4 + i] = w; });
    out.push(...block);
    start += groups(d);
  });
  return out;
}

/** The text of one segment turned into that of `count` segments. */
export function mergeText(code: string, count: number, { vectors, head }: SegmentPlan): string {
  const functions = functionsOf(code), touching = new Set<string>();
  const touches = (body: string): boolean => /\bP\[\d+\]|\bb\d+\[/.test(body) || [...touching].some((f) => new RegExp(`\\b${f}\\(`).test(body));
  for (let grew = true; grew;) {
    grew = false;
    for (const f of functions) if (f.name !== "main" && !touching.has(f.name) && touches(f.body)) { touching.add(f.name); grew = true; }
  }
  let out = "", at = 0;
  for (const f of functions) {
    out += code.slice(at, f.start);
    let signature = code.slice(f.start, f.open), body = displace(f.body, head);
    for (const name of touching) body = body.replace(new RegExp(`\\b${name}\\((\\s*\\))?`, "g"), (_, empty: string | undefined) => (empty === undefined ? `${name}(sP, ` : `${name}(sP)`));
    if (f.name === "main") {
      signature = signature.replace(/\b(wg|nwg|gid): vec3<u32>/g, "$1_: vec3<u32>");
      body = `{\n${find(count, vectors, head, sizeOf(code.slice(0, f.start)))}${body.slice(1)}`;
    } else if (touching.has(f.name)) signature = signature.replace(/\(\s*/, (m) => (/\(\s*\)/.test(signature) ? "(sP: u32" : `${m}sP: u32, `));
    out += signature + body;
    at = f.end;
  }
  return (out + code.slice(at)).replace(/(var<uniform> P: array<vec4<u32>, )\d+>/, `$1${count * vectors}>`);
}
/** The segment of this workgroup: the last whose first workgroup is not beyond it; then the single dispatch's own names. */
const find = (count: number, vectors: number, head: number, size: string): string => `let g_ = wg_.y * nwg_.x + wg_.x;
var lo_ = 0u;
for (var hi_ = ${count}u; hi_ - lo_ > 1u;) { let mid_ = (lo_ + hi_) >> 1u; if (P[mid_ * ${vectors}u].x <= g_) { lo_ = mid_; } else { hi_ = mid_; } }
let s_ = P[lo_ * ${vectors}u];
let sP = lo_ * ${vectors}u + ${head}u;
let own_ = g_ - s_.x;
let nwg = s_.yzw;
if (own_ >= nwg.x * nwg.y * nwg.z) { return; }
let wg = vec3<u32>(own_ % nwg.x, (own_ / nwg.x) % nwg.y, own_ / (nwg.x * nwg.y));
let gid = wg * vec3<u32>(${size}) + lid;
`;
const sizeOf = (before: string): string => /@workgroup_size\(([^)]*)\)[^@]*(@subgroup_size\(\d+\)\s*)?$/.exec(before)?.[1] ?? "1, 1, 1";

/** Parameters of the segment, and indices of bindings moved to the segment's part of the union. */
function displace(body: string, head: number): string {
  let out = "", at = 0;
  for (const m of body.matchAll(/\bb(\d+)\[/g)) {
    if (m.index < at) continue;                             // inside an index that is done
    const close = closing(body, m.index + m[0].length - 1), k = Number(m[1]), inner = displace(body.slice(m.index + m[0].length, close), head);
    out += `${parameters(body.slice(at, m.index))}${m[0]}P[sP - ${head - 1 - (k >> 2)}u].${"xyzw"[k & 3]} + (${inner})]`;
    at = close + 1;
  }
  return out + parameters(body.slice(at));
}
const parameters = (text: string): string => text.replace(/\bP\[(\d+)\]/g, "P[sP + $1u]");
function closing(text: string, open: number): number {
  const a = text[open], b = a === "[" ? "]" : "}";
  for (let i = open, depth = 0; i < text.length; i++) {
    if (text[i] === a) depth++;
    else if (text[i] === b && --depth === 0) return i;
  }
  return text.length;
}
/** Functions of a module: where each begins, its body with braces, and where it ends. */
function functionsOf(code: string): { readonly name: string; readonly start: number; readonly open: number; readonly end: number; readonly body: string }[] {
  return [...code.matchAll(/\bfn (\w+)\(/g)].map((m) => {
    const open = code.indexOf("{", m.index), end = closing(code, open) + 1;
    return { name: m[1], start: m.index, open, end, body: code.slice(open, end) };
  });
}
