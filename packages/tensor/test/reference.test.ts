import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { BufferSpec, Kernel, PlanSpec, View } from "../src/backend.ts";
import { hostArray, type DType, type TypedArray } from "../src/dtype.ts";
import { leaf, literal, type Expr } from "../src/expr.ts";
import { DTypeError } from "../src/errors.ts";
import { createReference } from "../src/reference/index.ts";
import { erf } from "../src/reference/math.ts";
import { rowMajor } from "../src/shape.ts";

const x = (i: number): Expr => leaf("load", i, "float");
const view = (buffer: number, strides: readonly number[], offset = 0, dtype: DType = "f64"): View => ({ buffer, dtype, offset, strides });

/** Runs one kernel whose buffers 0 ... inputs-1 are inputs and the rest outputs of the given dtypes and lengths. */
function run(kernel: Kernel, inputs: readonly [DType, TypedArray][], outputs: readonly [DType, number][], uniforms: readonly number[] = []): number[][] {
  const buffers: BufferSpec[] = [
    ...inputs.map(([dtype, data], position): BufferSpec => ({ kind: "input", dtype, length: data.length, offset: 0, position })),
    ...outputs.map(([dtype, length], position): BufferSpec => ({ kind: "output", dtype, length, offset: 0, position })),
  ];
  const plan: PlanSpec = { kernels: [kernel], buffers, uniforms: uniforms.map(() => "float" as const), arenaBytes: 0, inputs: inputs.length, outputs: outputs.length };
  const backend = createReference(), result = backend.run(backend.prepare(plan), { stores: [], inputs: inputs.map((i) => i[1]), uniforms });
  return outputs.map((_, i) => [...result.readSync?.(i) ?? []]);
}
const common = { affines: [], uniforms: [], label: "test" };
const dims = fc.constantFrom(1, 2, 3, 5, 300);

describe("reference kernels", () => {
  test("map: strided views, two stores, shared nodes", () => {
    // out0 = transpose of a [2, 3]; out1 = (a·2)²
    const a = Float64Array.of(1, 2, 3, 4, 5, 6), t = x(0).mul(2);
    const kernel: Kernel = { ...common, kind: "map", shape: [3, 2], loads: [view(0, [1, 3])], stores: [{ view: view(1, [2, 1]), value: x(0) }, { view: view(2, [1, 3]), value: t.mul(t) }] };
    expect(run(kernel, [["f64", a]], [["f64", 6], ["f64", 6]])).toEqual([[1, 4, 2, 5, 3, 6], [4, 16, 36, 64, 100, 144]]);
  });

  test("map: affines, uniforms, a start that is data", () => {
    const loads = [{ ...view(0, [1]), at: { uniform: 1, stride: 2 } }], affines = [{ offset: 10, strides: [3] }];
    const value = x(0).add(leaf("affine", 0, "i32").toF()).add(leaf("uniform", 0, "float"));
    const kernel: Kernel = { kind: "map", label: "at", shape: [2], loads, affines, uniforms: [1, 0], stores: [{ view: view(1, [1]), value }] };
    expect(run(kernel, [["f64", Float64Array.of(0, 100, 200, 300)]], [["f64", 2]], [1, 1000])).toEqual([[1210, 1313]]);
  });

  test("rows: softmax over two axes, a statistic per row", () => {
    fc.assert(fc.property(dims, dims, fc.constantFrom(1, 2, 3), (r, a, b) => {
      const n = r * a * b, data = Float64Array.from({ length: n }, (_, i) => ((i * 7) % 16) / 16);
      const e = x(0).sub(leaf("stat", 0, "float")).exp();
      const strides = rowMajor([r, a, b]);
      const kernel: Kernel = {
        ...common, kind: "rows", shape: [r, a, b], rowAxes: 2, loads: [view(0, strides)],
        stats: [{ op: "max", value: x(0) }, { op: "sum", value: e }],
        stores: [{ view: view(1, strides), value: e.div(leaf("stat", 1, "float")), perRow: false }, { view: view(2, [1, 0, 0]), value: leaf("stat", 1, "float").log().add(leaf("stat", 0, "float")), perRow: true }],
      };
      const [soft, lse] = run(kernel, [["f64", data]], [["f64", n], ["f64", r]]);
      for (let i = 0; i < r; i++) {
        const row = [...data.slice(i * a * b, (i + 1) * a * b)], sum = row.reduce((s, v) => s + Math.exp(v), 0);
        expect(lse[i]).toBeCloseTo(Math.log(sum), 10);
        row.forEach((v, j) => { expect(Math.abs(soft[i * a * b + j] - Math.exp(v) / sum)).toBeLessThan(1e-12); });
      }
    }), { numRuns: 20 });
  });

  test("cols: reduces the middle axes", () => {
    fc.assert(fc.property(dims, dims, dims, fc.constantFrom("sum" as const, "max" as const, "min" as const), (o, r, i, op) => {
      fc.pre(o * r * i < 1e5);
      const data = Float64Array.from({ length: o * r * i }, (_, p) => ((p * 5) % 32) - 16);
      const kernel: Kernel = { ...common, kind: "cols", shape: [o, r, i], outerAxes: 1, reducedAxes: 1, op, loads: [view(0, [r * i, i, 1])], value: x(0).mul(2), stores: [{ view: view(1, [i, 0, 1]), value: leaf("stat", 0, "float").add(1) }] };
      const [out] = run(kernel, [["f64", data]], [["f64", o * i]]);
      const expected = Array.from({ length: o * i }, (_, p) => {
        const column = Array.from({ length: r }, (_, y) => 2 * data[(Math.floor(p / i) * r + y) * i + (p % i)]);
        return 1 + (op === "sum" ? column.reduce((a, b) => a + b, 0) : op === "max" ? Math.max(...column) : Math.min(...column));
      });
      expect(out).toEqual(expected);
    }), { numRuns: 30 });
  });

  test("contract: batched, either side transposed or repeated, with an epilogue", () => {
    fc.assert(fc.property(fc.constantFrom(1, 2, 3), fc.constantFrom(1, 2, 3, 7), fc.constantFrom(1, 2, 3, 300), fc.constantFrom(1, 2, 3, 8), fc.boolean(), fc.boolean(), fc.boolean(), (z, m, n, k, ta, tb, shared) => {
      const a = Float64Array.from({ length: z * m * k }, (_, i) => (i % 9) - 4), b = Float64Array.from({ length: z * k * n }, (_, i) => (i % 7) - 3);
      const A = (s: number, i: number, j: number): number => a[s * m * k + (ta ? j * m + i : i * k + j)], B = (s: number, i: number, j: number): number => b[(shared ? 0 : s * k * n) + (tb ? j * k + i : i * n + j)];
      const kernel: Kernel = {
        ...common, kind: "contract", shape: [z, m, n], k, loads: [],
        a: view(0, ta ? [m * k, 1, m] : [m * k, k, 1]), b: view(1, [shared ? 0 : k * n, ...(tb ? [1, k] : [n, 1])]),
        stores: [{ view: view(2, rowMajor([z, m, n])), value: leaf("acc", 0, "float").mul(3) }],
      };
      const [out] = run(kernel, [["f64", a], ["f64", b]], [["f64", z * m * n]]);
      for (let s = 0, p = 0; s < z; s++) for (let i = 0; i < m; i++) for (let j = 0; j < n; j++, p++) {
        let sum = 0;
        for (let y = 0; y < k; y++) sum += A(s, i, y) * B(s, y, j);
        if (out[p] !== 3 * sum) throw new Error(`element ${p}: ${out[p]} instead of ${3 * sum}`);
      }
    }), { numRuns: 40 });
  });

  test("gather clamps, scatterAdd drops, each is the other's transpose", () => {
    const ids = Int32Array.of(2, 0, 9, -1), base = { ids: view(1, [1], 0, "i32"), rows: 4, cols: 2, limit: 3, label: "rows" };
    const table = Float64Array.of(1, 2, 3, 4, 5, 6);
    expect(run({ ...base, kind: "gather", table: view(0, [2, 1]), out: view(2, [2, 1], 0, "f32") }, [["f64", table], ["i32", ids]], [["f32", 8]])).toEqual([[5, 6, 1, 2, 5, 6, 1, 2]]);
    const source = Float64Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    expect(run({ ...base, kind: "scatterAdd", source: view(0, [2, 1]), out: view(2, [2, 1]) }, [["f64", source], ["i32", ids]], [["f64", 6]])).toEqual([[3, 4, 0, 0, 1, 2]]);
  });
});

describe("reference numbers", () => {
  const one = (value: Expr, dtype: DType, to: DType, input: number[]): number[] => {
    const data = hostArray(dtype, input.length);
    data.set(input);
    const kernel: Kernel = { ...common, kind: "map", shape: [input.length], loads: [view(0, [1], 0, dtype)], stores: [{ view: view(1, [1], 0, to), value }] };
    return run(kernel, [[dtype, data]], [[to, input.length]])[0];
  };
  const i = leaf("load", 0, "i32"), u = leaf("load", 0, "u32");

  test("integers wrap, shifts differ by sign", () => {
    expect(one(i.mul(literal(0x10001, "i32")), "i32", "i32", [0x10001, -1])).toEqual([Math.imul(0x10001, 0x10001), -0x10001]);
    expect(one(u.add(literal(1, "u32")), "u32", "u32", [0xffffffff, 7])).toEqual([0, 8]);
    expect(one(i.shr(4), "i32", "i32", [-256])).toEqual([-16]);
    expect(one(u.shr(4), "u32", "u32", [0xffffff00])).toEqual([0x0ffffff0]);
    expect(one(i.div(literal(0, "i32")), "i32", "i32", [5])).toEqual([0]);
    expect(one(u.not(), "u32", "u32", [0])).toEqual([0xffffffff]);
  });

  test("casts truncate, saturate, wrap between integers", () => {
    expect(one(x(0), "f64", "i32", [2.9, -2.9, 1e20, NaN])).toEqual([2, -2, 2147483647, 0]);
    expect(one(x(0).toU(), "f64", "u32", [-1, 5e9, 3.5, NaN])).toEqual([0, 4294967295, 3, 0]);
    expect(one(x(0), "f64", "u8", [300, -1])).toEqual([255, 0]);
    expect(one(i, "i32", "u8", [300, -1])).toEqual([44, 255]);
    expect(one(i.toB(), "i32", "bool", [0, -3])).toEqual([0, 1]);
    expect(one(x(0), "f64", "f16", [1, 65519, 1e-9])).toEqual([0x3c00, 0x7bff, 0]);
  });

  test("a store rounds to its dtype, arithmetic does not", () => {
    expect(one(x(0).add(2 ** -30).sub(1), "f64", "f32", [1])).toEqual([2 ** -30]);
    expect(one(x(0), "f64", "f32", [0.1])).toEqual([Math.fround(0.1)]);
    expect(one(x(0).roundBf16(), "f64", "f64", [1 + 2 ** -9])).toEqual([1]);
  });

  test("a formula without meaning is refused", () => { expect(() => one(i.exp(), "i32", "i32", [1])).toThrow(DTypeError); });

  test("erf", () => {
    // Abramowitz & Stegun table 7.1 and odd symmetry; around the switch at 2 both sides agree
    const table: [number, number][] = [[0, 0], [0.5, 0.5204998778130465], [1, 0.8427007929497149], [2, 0.9953222650189527], [3, 0.9999779095030014]];
    for (const [a, y] of table) { expect(Math.abs(erf(a) - y)).toBeLessThan(4e-16); expect(erf(-a) + y).toBeCloseTo(0, 15); }
    expect(Math.abs(erf(2 - 1e-12) - erf(2 + 1e-12))).toBeLessThan(1e-13);
    expect([erf(Infinity), erf(-7), erf(NaN)]).toEqual([1, -1, NaN]);
  });
});

describe("reference backend", () => {
  test("counters return to where they began; freed buffers are refused", () => {
    const backend = createReference(), before = { ...backend.counters };
    const b = backend.alloc("f32", 4);
    backend.write(b, Float32Array.of(1, 2, 3, 4));
    expect(backend.readSync?.(b)).toEqual(Float32Array.of(1, 2, 3, 4));
    const plan = backend.prepare({ kernels: [], buffers: [{ kind: "slot", dtype: "f32", length: 8, offset: 0, position: 0 }], uniforms: [], arenaBytes: 64, inputs: 0, outputs: 0 });
    expect(backend.counters).toMatchObject({ buffers: 1, bufferBytes: 16, arenaBytes: 32 });
    backend.free(b);
    backend.release(plan);
    expect(backend.counters).toEqual(before);
    expect(() => backend.write(b, new Float32Array(4))).toThrow("freed");
  });
});
