/** Generators of kernels: any shape, strides, dtypes and formulas, from one seed. */
import { type Affine, type DType, type Expr, type Kernel, leaf, literal, type StoreTo, type View } from "@adjoint/tensor";
import type { Case } from "./harness.ts";
import type { Data } from "./interpret.ts";

export const sizes: readonly number[] = [1, 1, 2, 3, 4, 5, 7, 16, 17, 33, 70];
export const product = (xs: readonly number[]): number => xs.reduce((a, b) => a * b, 1);

/** Draws buffers and views; a deterministic source of choices from fast-check. */
export class Draw {
  readonly buffers: Data[] = [];
  readonly #pick: (n: number) => number;
  constructor(seed: number) { let s = seed >>> 0; this.#pick = (n) => { s = (Math.imul(s ^ (s >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0; return ((s ^ (s >>> 13)) >>> 0) % n; }; }
  int(n: number): number { return this.#pick(n); }
  of<T>(xs: readonly T[]): T { return xs[this.#pick(xs.length)]; }
  number(): number { return (this.#pick(129) - 64) / 16; }
  value(dtype: DType): number {
    switch (dtype) {
      case "i32": return this.#pick(201) - 100;
      case "u32": case "u8": return this.#pick(200);
      case "i8": return this.#pick(200) - 100;
      case "bool": return this.#pick(2);
      default: return this.number();
    }
  }
  /** a view over `shape` of a fresh buffer: row-major, permuted, strided, or repeated along some axes */
  view(shape: readonly number[], dtype: DType, store = false): View {
    const order = shape.map((_, a) => a);
    if (this.int(3) === 0) order.sort(() => this.int(3) - 1);
    const strides = shape.map(() => 0);
    let step = this.int(4) === 0 ? 2 : 1;
    for (const a of [...order].reverse()) {
      if (!store && this.int(4) === 0) continue;
      strides[a] = step;
      step *= shape[a] + (this.int(6) === 0 ? 1 : 0);
    }
    const offset = this.int(5), length = offset + 1 + shape.reduce((t, n, a) => t + (n - 1) * strides[a], 0);
    const buffer = this.buffers.push({ dtype, values: Array.from({ length }, () => this.value(dtype)) }) - 1;
    return { buffer, dtype, offset, strides };
  }
  affine(shape: readonly number[]): Affine { return { offset: this.int(7), strides: shape.map((_, i) => (this.int(3) === 0 ? 0 : product(shape.slice(i + 1)))) }; }
}

export const floatTypes: readonly DType[] = ["f32", "f32", "f32", "f16", "bf16"];
/** A formula over the float loads 0..loads-1, uniform 0 (float), affine 0 (i32). */
export function formula(d: Draw, loads: number, depth: number, extra: readonly Expr[] = []): Expr {
  const leaves = (more = extra.length): Expr => {
    const k = d.int(loads + 3 + more);
    if (k < loads) return leaf("load", k, "float");
    if (k === loads) return leaf("uniform", 0, "float");
    if (k === loads + 1) return leaf("affine", 0, "i32").toF().mul(1 / 64);
    if (k === loads + 2) return literal(d.number());
    return extra[k - loads - 3];
  };
  if (depth === 0) return leaves();
  const a = formula(d, loads, depth - 1, extra), b = d.int(2) === 0 ? a : formula(d, loads, depth - 1, extra);
  switch (d.int(12)) {
    case 0: return a.add(b);
    case 1: return a.sub(b.mul(0.5));
    case 2: return a.mul(0.25).add(b.tanh());
    case 3: return a.max(b).min(3);
    case 4: return a.tanh();
    case 5: return a.min(2).max(-2).exp();
    // jumps stand on values without rounding only: beside a jump, one rounding is another answer
    case 6: return leaves(0).lt(leaves(0)).select(a, b.neg());
    case 7: return a.abs().add(1).sqrt().add(b);
    case 8: return a.abs().add(0.5).rsqrt();
    case 9: return a.abs().add(0.5).log();
    case 10: return leaves(0).floor().add(b);
    default: return a.erf().add(b.mul(0.125));
  }
}
export const shapeOf = (d: Draw, rank: number, limit = 3000): number[] => {
  for (;;) { const s = Array.from({ length: rank }, () => d.of(sizes)); if (product(s) <= limit) return s; }
};
export const common: { readonly uniforms: readonly number[]; readonly label: string } = { uniforms: [0, 1], label: "law" };

function rowsKernel(d: Draw, rowAxes: number): Kernel {
    const shape = shapeOf(d, rowAxes + d.int(3)), outer = shape.length - rowAxes, n = 1 + d.int(2);
    const loads = Array.from({ length: n }, () => d.view(shape, d.of(floatTypes)));
    const ops = Array.from({ length: 1 + d.int(3) }, () => d.of(["sum", "sum64", "max", "min"] as const));
    const known: Expr[] = [], stats = ops.map((o, i) => {
      const value = formula(d, n, d.int(3), known.map((k) => k.mul(1 / 64)));
      known.push(leaf("stat", i, "float"));
      return { op: o, value };
    });
    const stores = Array.from({ length: 1 + d.int(2) }, () => {
      const perRow = d.int(3) === 0, value = formula(d, n, 1 + d.int(2), known.map((k) => k.mul(1 / 64)));
      const view = d.view(perRow ? [...shape.slice(0, outer), ...shape.slice(outer).map(() => 1)] : shape, d.of(floatTypes), true);
      return perRow ? { view: { ...view, strides: view.strides.map((s, a) => (a < outer ? s : 0)) }, value: known[0].mul(0.5).add(leaf("uniform", 0, "float")), perRow } : { view, value, perRow };
    });
    return { kind: "rows", rowAxes, shape, loads, affines: [d.affine(shape)], stats, stores, ...common };
  }

/** A law: kernels drawn by `make` equal the interpreter within `ulp` units of max(|value|, scale). */
export interface Law { readonly name: string; readonly make: (d: Draw) => Kernel; readonly ulp?: number; readonly scale?: number; readonly runs?: number }
export const laws: readonly Law[] = [
  { name: "any shape, strides, float dtypes and formulas", make: (d) => {
    const shape = shapeOf(d, 1 + d.int(5)), n = 1 + d.int(3);
    const loads = Array.from({ length: n }, () => d.view(shape, d.of(floatTypes)));
    const affines = [d.affine(shape)];
    const stores: StoreTo[] = Array.from({ length: 1 + d.int(2) }, () => ({ view: d.view(shape, d.of(floatTypes), true), value: formula(d, n, d.int(4)) }));
    return { kind: "map", shape, loads, affines, stores, ...common };
  } },
  { name: "integers wrap, compare and convert", make: (d) => {
    const shape = shapeOf(d, 1 + d.int(3)), type = d.of(["i32", "u32"] as const);
    const loads = [d.view(shape, d.of(type === "i32" ? ["i32", "i8"] as const : ["u32", "u8"] as const)), d.view(shape, type)];
    const a = leaf("load", 0, type), b = leaf("load", 1, type), big = literal(0x7ffffff1, type);
    const value = d.of<() => Expr>([
      () => a.mul(big).add(b), () => a.div(b), () => a.xor(b.shl(7)).shr(3), () => a.shl(b.and(31)), () => a.and(b).or(a.not()), () => a.min(b), () => a.max(b).sub(b.mul(a)),
      () => a.lt(b).select(a, b), () => a.gt(b).and(b.ne(3)).toI().toU(), () => a.toF().mul(0.5).toI().toU(), () => a.toF().toB().not().toI().toU(), () => a.neg().toI().toU(),
    ])();
    const out: DType = value.type === "u32" ? "u32" : "i32";
    return { kind: "map", shape, loads, affines: [], stores: [{ view: d.view(shape, out, true), value }], ...common };
  } },
  { name: "bool, u8 and i8 results", make: (d) => {
    const shape = shapeOf(d, 1 + d.int(3));
    const loads = [d.view(shape, "f32"), d.view(shape, "bool"), d.view(shape, "i8")];
    const x = leaf("load", 0, "float"), p = leaf("load", 1, "bool"), i = leaf("load", 2, "i32");
    const [out, value] = d.of<() => [DType, Expr]>([
      () => ["bool", x.gt(0).and(p)], () => ["bool", p.not().or(i.lt(3))], () => ["u8", x.mul(100)], () => ["i8", x.mul(100)], () => ["f16", p.toF().add(i.toF())], () => ["i8", i], () => ["bf16", x.roundF16().add(x.roundBf16())],
    ])();
    return { kind: "map", shape, loads, affines: [], stores: [{ view: d.view(shape, out, true), value }], ...common };
  } },
  { name: "a start that is data", make: (d) => {
    const shape = shapeOf(d, 2), v = d.view(shape, "f32"), room = 3 * 7;
    d.buffers[v.buffer].values.push(...Array.from({ length: room }, () => d.number()));
    return { kind: "map", shape, loads: [{ ...v, at: { uniform: 1, stride: 7 } }], affines: [], stores: [{ view: d.view(shape, "f32", true), value: leaf("load", 0, "float") }], ...common };
  } },
  { name: "dependent statistics and any stores", make: (d) => rowsKernel(d, 1), scale: 64, ulp: 128 },
  { name: "rows of two axes that do not merge", make: (d) => rowsKernel(d, 2), scale: 64, ulp: 128, runs: 80 },
  { name: "any axes reduced before the last", make: (d) => {
    const outerAxes = d.int(2), reducedAxes = 1 + d.int(2), shape = shapeOf(d, outerAxes + reducedAxes + 1 + d.int(2), 6000), n = 1 + d.int(2);
    const loads = Array.from({ length: n }, () => d.view(shape, d.of(floatTypes)));
    const kept = shape.map((s, a) => (a >= outerAxes && a < outerAxes + reducedAxes ? 1 : s));
    const stores = Array.from({ length: 1 + d.int(2) }, () => {
      const view = d.view(kept, d.of(floatTypes), true);
      return { view: { ...view, strides: view.strides.map((s, a) => (kept[a] === 1 && shape[a] !== 1 ? 0 : s)) }, value: leaf("stat", 0, "float").mul(0.5).add(leaf("uniform", 0, "float")) };
    });
    return { kind: "cols", outerAxes, reducedAxes, shape, loads, affines: [d.affine(shape)], op: d.of(["sum", "sum", "max", "min"] as const), value: formula(d, n, d.int(3)), stores, ...common };
  }, scale: 256, ulp: 128 },
  { name: "any sizes, strides, batches, float dtypes and epilogues", make: (d) => {
    const batch = Array.from({ length: d.int(3) }, () => d.of([1, 2, 3])), m = d.of(sizes), n = d.of(sizes), k = d.of([1, 2, 3, 5, 8, 31, 64, 65, 257, 300]);
    const shape = [...batch, m, n];
    const a = d.view([...batch, m, k], d.of(floatTypes)), b = d.view([...batch, k, n], d.of(floatTypes));
    const plain = d.int(2) === 0, loads = plain ? [] : [d.view(shape, d.of(floatTypes))];
    const acc = leaf("acc", 0, "float");
    const stores: StoreTo[] = plain ? [{ view: d.view(shape, "f32", true), value: acc }] : Array.from({ length: 1 + d.int(2) }, () => ({ view: d.view(shape, d.of(floatTypes), true), value: acc.mul(0.25).add(formula(d, 1, d.int(2))) }));
    return { kind: "contract", shape, k, a, b, loads, affines: [d.affine(shape)], stores, ...common };
  }, scale: 1024, ulp: 32, runs: 250 },
  { name: "matrices and rows that start where data says", make: (d) => {
    const moved = (v: View, stride: number): View => { d.buffers[v.buffer].values.push(...Array.from({ length: 3 * stride }, () => d.number())); return { ...v, at: { uniform: 1, stride } }; };
    const m = d.of(sizes), n = d.of(sizes), k = d.of([1, 4, 30, 257]), shape = [m, n], out = moved(d.view(shape, "f32", true), 3);
    if (d.int(2) === 0) {
      const stats = [{ op: "sum" as const, value: leaf("load", 0, "float") }], stores = [{ view: out, value: leaf("load", 0, "float").sub(leaf("stat", 0, "float").mul(1 / 64)), perRow: false }];
      return { kind: "rows", rowAxes: 1, shape, loads: [moved(d.view(shape, d.of(floatTypes)), 5)], affines: [], stats, stores, ...common };
    }
    return { kind: "contract", shape, k, a: moved(d.view([m, k], d.of(floatTypes)), 7), b: moved(d.view([k, n], d.of(floatTypes)), 11), loads: [moved(d.view(shape, "f32"), 2)], affines: [], stores: [{ view: out, value: d.int(2) === 0 ? leaf("acc", 0, "float") : leaf("acc", 0, "float").add(leaf("load", 0, "float")) }], ...common };
  }, scale: 1024, ulp: 32 },
  { name: "matrices that are row-major, column-major or wider than one block", make: (d) => {
    const m = d.of([1, 2, 4, 9, 70]), n = d.of([1, 3, 8, 40, 530]), k = d.of([7, 256, 520]);
    const matrix = (r: number, c: number): View => {
      const buffer = d.buffers.push({ dtype: "f32", values: Array.from({ length: r * c }, () => d.number()) }) - 1;
      return { buffer, dtype: "f32", offset: 0, strides: d.int(2) === 0 ? [c, 1] : [1, r] };
    };
    const a = matrix(m, k), b = matrix(k, n), c = matrix(m, n), bias = matrix(1, n);
    const plain = d.int(2) === 0;
    return { kind: "contract", shape: [m, n], k, a, b, loads: plain ? [] : [{ ...bias, strides: [0, bias.strides[1]] }], affines: [], stores: [{ view: c, value: plain ? leaf("acc", 0, "float") : leaf("acc", 0, "float").add(leaf("load", 0, "float")).tanh() }], ...common };
  }, scale: 1024, ulp: 64, runs: 40 },
  { name: "gather clamps and converts", make: (d) => {
    const rows = d.of(sizes), cols = d.of(sizes), limit = d.of(sizes), from = d.of(floatTypes);
    const table = d.view([limit * cols], "f32"), ids = d.view([rows], "i32"), out = d.view([rows * cols], "f32", true);
    const put = (v: View, dtype: DType, length: number, make: () => number): View => { d.buffers[v.buffer] = { dtype, values: Array.from({ length: length + v.offset }, make) }; return { ...v, dtype }; };
    return {
      kind: "gather", label: "law", rows, cols, limit, table: { ...put(table, from, limit * cols, () => d.number()), strides: [1] },
      ids: put(ids, "i32", rows, () => d.int(limit + 4) - 2), out: put(out, d.of([from, "f32"] as const), rows * cols, () => 0),
    };
  } },
  { name: "scatter-add adds rows in order and skips ids outside", make: (d) => {
    const rows = d.of(sizes), cols = d.of(sizes), limit = d.of(sizes), dtype = d.of(floatTypes);
    const fresh = (t: DType, n: number, make: () => number): View => ({ buffer: d.buffers.push({ dtype: t, values: Array.from({ length: n }, make) }) - 1, dtype: t, offset: 0, strides: [1] });
    return { kind: "scatterAdd", label: "law", rows, cols, limit, source: fresh(dtype, rows * cols, () => d.number()), ids: fresh("i32", rows, () => d.int(limit + 4) - 2), out: fresh("f32", limit * cols, () => 9) };
  }, ulp: 128 },
];

/** The case of a law for a seed. */
export function drawCase(law: Law, seed: number): Case {
  const d = new Draw(seed), kernel = law.make(d);
  return { kernel, buffers: d.buffers, uniforms: [0.375, 3], types: ["float", "i32"] };
}
/** A case without its numbers. */
export const show = (c: Case): string => JSON.stringify({ ...c, buffers: c.buffers.map((b) => [b.dtype, b.values.length]) }, (k, x: unknown) => (k === "value" ? "..." : x)).slice(0, 1500);
