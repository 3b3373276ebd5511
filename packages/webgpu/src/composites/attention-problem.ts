/** Sizes, addresses and visibility of one attention, as WGSL around a builder; sizes are data, head size and structure are text. */
import { type AttentionAttrs, type AttentionSizes, attentionSizes, type CompositeKernel, DeviceError, type PlanSpec, sizeOf } from "@adjoint/tensor";
import type { Target } from "../program.ts";
import { Shader } from "../shader.ts";
import type { AttentionTile } from "./attention-tiles.ts";

type Input = CompositeKernel["inputs"][number];

export interface AttentionProblem {
  readonly attrs: AttentionAttrs;
  readonly sizes: AttentionSizes;
  /** query heads that share a key head, and rows of queries of all of them */
  readonly groups: number;
  readonly rows: number;
  readonly q: Input; readonly k: Input; readonly v: Input;
  /** backward: the flat forward result and the gradient of o */
  readonly done: Input | null;
  readonly g: Input | null;
  readonly marks: { readonly queries: Input; readonly keys: Input } | null;
  readonly out: Input;
  /** elements from one token's queries to the next token's; likewise of keys; and where dk and dv begin in the backward result */
  readonly steps: { readonly query: number; readonly key: number; readonly dk: number; readonly dv: number };
  /** position of the offset among the plan's numbers */
  readonly offset: number | null;
  /** heads are read as vec4s */
  readonly vec: boolean;
}

export function problemOf(kernel: CompositeKernel): AttentionProblem {
  const attrs = kernel.attrs as AttentionAttrs, { inputs } = kernel, backward = kernel.name === "attentionBackward";   // the op of this name has these attributes
  const { packed } = attrs, own = packed > 0 ? 1 : 3, rest = inputs.slice(backward ? own + 2 : own), sizes = attentionSizes(inputs[0].shape, packed > 0 ? inputs[0].shape : inputs[1].shape, attrs);
  const { heads, kvHeads, size, batch, queries } = sizes, groups = heads / kvHeads, width = (heads + 2 * kvHeads) * size, tokens = attrs.keys === "tokens";
  const within = (from: number, n: number): Input => ({ ...inputs[0], offset: inputs[0].offset + from * size, shape: [batch, queries, n, size] });
  const [q, k, v] = packed > 0 ? [within(0, heads), within(heads, kvHeads), within(heads + kvHeads, kvHeads)] : inputs;
  const steps = packed > 0 ? { query: width, key: width, dk: heads * size, dv: (heads + kvHeads) * size } : { query: heads * size, key: tokens ? kvHeads * size : size, dk: sizeOf(q.shape), dv: sizeOf(q.shape) + sizeOf(k.shape) };
  for (const x of [...inputs.slice(0, backward ? own + 2 : own), ...kernel.outputs]) if (x.dtype !== "f32") throw new DeviceError(`webgpu: attention of ${x.dtype}`, { op: kernel.name, value: x.dtype, fix: "cast to f32" });
  if (Math.max(sizeOf(q.shape), sizeOf(k.shape)) * 3 >= 2 ** 32) throw new DeviceError("webgpu: attention over more than 2^32 numbers", { op: kernel.name, shapes: [q.shape, k.shape] });
  return {
    attrs, sizes, groups, rows: sizes.queries * groups, q, k, v, done: backward ? inputs[own] : null, g: backward ? inputs[own + 1] : null, steps,
    marks: attrs.marks ? { queries: rest[0], keys: rest[1] } : null, out: kernel.outputs[0], offset: attrs.offset ? kernel.uniforms[0] : null,
    vec: sizes.size % 4 === 0 && [...inputs, ...kernel.outputs].every((x) => x.offset % 4 === 0),
  };
}

/** Pairs of a query and a key that see each other, about: what a kernel's arithmetic is counted by. */
export function pairsOf({ attrs, sizes: { queries: T, keys: S, batch, heads } }: AttentionProblem): number {
  const wide = attrs.window > 0 ? Math.min(S, attrs.window) : S;
  return batch * heads * T * (attrs.causal && T > 1 ? Math.min(wide, (S + 1) / 2) : wide);
}

/** WGSL of one problem in one dispatch. */
export class AttentionText {
  readonly p: AttentionProblem;
  readonly shader: Shader;
  /** elements of a unit of address: 4 where heads are vec4s */
  readonly unit: number;
  constructor(p: AttentionProblem, plan: PlanSpec, target: Target, writes: readonly number[]) {
    this.p = p; this.unit = p.vec ? 4 : 1;
    this.shader = new Shader(plan, target, { writes: new Set(writes) });
  }
  size(name: "queries" | "keys" | "kvHeads" | "heads"): string { return this.#param(name, this.p.sizes[name]); }
  get rows(): string { return this.#param("rows", this.p.rows); }
  get groups(): string { return this.#param("groups", this.p.groups); }
  readonly #params = new Map<string, string>();
  #param(name: string, value: number): string {
    let text = this.#params.get(name);
    if (text === undefined) this.#params.set(name, (text = this.shader.param(value)));
    return text;
  }

  /** Workgroups: `tiles` for each row of the batch and key head. Defines b, kv, tile and at; the last tile first where `descending`, as causal ones have the most work. */
  begin(tiles: number, linear: string, descending: boolean): string[] {
    const { batch, kvHeads } = this.p.sizes, pairs = this.shader.param(batch * kvHeads), count = this.shader.param(tiles);
    return [`let group = ${linear};`, `if (group >= ${pairs} * ${count}) { return; }`, `let pair = group % ${pairs};`,
      `let tile = ${descending ? `${count} - 1u - group / ${pairs}` : `group / ${pairs}`};`, `let b = pair / ${this.size("kvHeads")}; let kv = pair % ${this.size("kvHeads")};`,
      `let at = ${this.p.offset === null ? "0i" : this.shader.number(this.p.offset, "i32")};`];
  }
  /** A thread's own four rows of queries, clamped into range: defines r0, mine, each, their positions, the tile's lowest and highest one, and their marks. */
  ownQueries({ R }: AttentionTile): string[] {
    const last = `(${this.rows} - 1u)`;
    return [
      `let r0 = tile * ${R}u; let mine = r0 + ty * 4u;`,
      `let each = min(vec4<u32>(mine, mine + 1u, mine + 2u, mine + 3u), vec4<u32>(${last}));`,
      `let position = vec4<i32>(${this.p.groups === 1 ? "each" : `each / vec4<u32>(${this.groups})`}) + vec4<i32>(at);`,
      `let low = i32(${this.time("r0")}) + at; let high = i32(${this.time(`min(r0 + ${R - 1}u, ${last})`)}) + at;`,
      ...(this.p.marks ? [`let mark = vec4<i32>(${[..."xyzw"].map((e) => this.mark("queries", this.time(`each.${e}`))).join(", ")});`] : []),
    ];
  }
  /** Position among queries of a row (t·groups + head of the group). */
  time(row: string): string { return this.p.groups === 1 ? `(${row})` : `((${row}) / ${this.groups})`; }
  head(row: string): string { return this.p.groups === 1 ? "kv" : `(kv * ${this.groups} + (${row}) % ${this.groups})`; }
  /** Address of a row of queries, in units from the start of q (or dq). */
  queryAt(row: string): string { return this.#rowAt(row, "q", this.p.steps.query); }
  /** The same in the output and its gradient, [batch, queries, heads, size]. */
  outputAt(row: string): string { const { heads, size } = this.p.sizes; return this.p.steps.query === heads * size ? this.queryAt(row) : this.#rowAt(row, "o", heads * size); }
  #rowAt(row: string, name: string, time: number): string {
    const { queries, size } = this.p.sizes, step = (what: string, n: number): string => this.#param(`${name} ${what}`, n / this.unit);
    return `(b * ${step("batch", queries * time)} + ${this.time(row)} * ${step("time", time)} + ${this.head(row)} * ${step("head", size)})`;
  }
  /** Address of a key, likewise. */
  keyAt(key: string): string {
    const { keys, kvHeads, size } = this.p.sizes, { key: step } = this.p.steps, param = (name: string, n: number): string => this.#param(name, n / this.unit), tokens = this.p.attrs.keys === "tokens";
    return `(b * ${param("k batch", tokens ? keys * step : keys * kvHeads * size)} + (${key}) * ${param("k key", step)} + kv * ${param("k head", tokens ? size : keys * size)})`;
  }
  /** Place of a row among numbers of queries, [batch, heads, queries]. */
  rowAt(row: string): string { return `((b * ${this.size("heads")} + ${this.head(row)}) * ${this.size("queries")} + ${this.time(row)})`; }

  /** Column c (a vec4) of the head at `address`; numbers beyond the head's size are 0. */
  load(view: Input, address: string, c: string): string {
    const { size } = this.p.sizes, from = view.offset === 0 ? address : `${address} + ${this.shader.param(view.offset / this.unit)}`;
    if (this.p.vec) return `${this.shader.bind(view.buffer, "vec4f")}[${from} + ${c}]`;
    const name = this.shader.bind(view.buffer, "f32"), fn = `head_${name}`;
    const at = (e: number): string => (size % 4 > e || size % 4 === 0 ? `${name}[i + ${e}u]` : `select(0.0f, ${name}[i + min(${e}u, ${size - 1}u - c * 4u)], c * 4u + ${e}u < ${size}u)`);
    this.shader.use(fn, `fn ${fn}(a: u32, c: u32) -> vec4<f32> { let i = a + c * 4u; return vec4<f32>(${[0, 1, 2, 3].map(at).join(", ")}); }`);
    return `${fn}(${from}, ${c})`;
  }
  /** Address in the result of a part that begins at element `start`. */
  result(start: number, address: string): string { return `${this.#param(`out ${start}`, (this.p.out.offset + start) / this.unit)} + ${address}`; }
  /** Writes column c of the head at `address`, a WGSL value in units. */
  store(c: string, value: string): string {
    if (this.p.vec) return `${this.shader.bind(this.p.out.buffer, "vec4f")}[address + ${c}] = ${value};`;
    return this.scalars(`address + ${c} * 4u`, c, value, this.p.sizes.size);
  }
  /** The same one number at a time, for a result that is bound as numbers. */
  scalars(at: string, c: string, value: string, size: number): string {
    const name = this.shader.bind(this.p.out.buffer, "f32");
    return `{ let o = ${at}; let x = ${value}; ${[0, 1, 2, 3].map((e) => `${e < (size % 4 || 4) ? "" : `if (${c} * 4u + ${e}u < ${size}u) `}{ ${name}[o + ${e}u] = x.${"xyzw"[e]}; }`).join(" ")} }`;
  }
  /** A query's or key's mark. */
  mark(side: "queries" | "keys", index: string): string {
    const { marks } = this.p, view = marks![side];
    return `${this.shader.bind(view.buffer, "i32")}[b * ${this.size(side)} + ${index}${view.offset === 0 ? "" : ` + ${this.shader.param(view.offset)}`}]`;
  }

  /** How far ahead of its position a query sees, and how far back: beyond every length where nothing limits it. */
  get ahead(): string { return `bitcast<i32>(${this.#param("ahead", this.p.attrs.causal ? 0 : FAR)})`; }
  get window(): string { return `bitcast<i32>(${this.#param("window", this.p.attrs.window > 0 ? this.p.attrs.window : FAR)})`; }
  /**
   * Whether queries at positions `position` see the keys `key` (i32 or vec4<i32>, one of them a vec4; likewise marks), as a
   * vec4<bool>; `inside` says that both exist.
   */
  visible(position: string, key: string, queryMark: string, keyMark: string, inside: string): string {
    const wide = (x: string): string => `vec4<i32>(${x})`, distance = `${wide(position)} - ${wide(key)}`;
    return [`vec4<bool>(${inside})`, `(${distance} >= vec4<i32>(-${this.ahead}))`, `(${distance} < vec4<i32>(${this.window}))`, ...(this.p.marks ? [`(${wide(queryMark)} == ${wide(keyMark)})`] : [])].join(" & ");
  }
  /** Own rows stand at positions `low` ... `high` (i32); defines `begin` and `end`, the passing keys. */
  keyRange(low: string, high: string, { C }: AttentionTile): string[] {
    const S = this.size("keys");
    return [`let end = u32(clamp(${high} + ${this.ahead} + 1, 0, i32(${S})));`, `let begin = u32(clamp(${low} - ${this.window} + 1, 0, i32(${S}))) / ${C}u * ${C}u;`];
  }
  /** Own keys first ... last (i32); defines `begin` and `end`, the passing rows. */
  rowRange(first: string, last: string, { C }: AttentionTile): string[] {
    const row = (position: string): string => `u32(clamp(${position} - at, 0, i32(${this.size("queries")}))) * ${this.groups}`;
    return [`let begin = ${row(`${first} - ${this.ahead}`)} / ${C}u * ${C}u;`, `let end = ${row(`${last} + ${this.window}`)};`];
  }
  /** Whether some pair of rows at positions low ... high and keys first ... last (all i32) may be hidden; `beyond`: or does not exist. */
  edge(low: string, high: string, first: string, last: string, beyond: string): string {
    return this.p.marks ? "true" : `${beyond} || ${last} - ${low} > ${this.ahead} || ${high} - ${first} >= ${this.window}`;
  }
}
/** More than any position; sums with positions stay i32. */
const FAR = 2 ** 29;
