/** Laws of single kernels on a software GPU: printed WGSL equals the interpreter for any shape, strides, dtype and formula. */
import { decode, type DType, type Kernel, leaf, loopOf, type PlanSpec, type View } from "@adjoint/tensor";
import { ulpsOf } from "@adjoint/testing";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Case, close, expected, planOf, toHost } from "../../wasm/test/harness.ts";
import { drawCase, laws, type Law, show } from "../../wasm/test/laws.ts";
import { typeOf } from "../src/element.ts";
import { lower } from "../src/lower.ts";
import type { Program, Target } from "../src/program.ts";
import { type Bench, compile, execute, open } from "./execute.ts";

const gpu = await open(), compiler = await open("backend=null");
const runs = (law: Law): number => Math.ceil(Math.min(law.runs ?? 150, 150) / 6);
const mine = laws.filter((l) => !/matrices|epilogues/.test(l.name));

const encoded = (dtype: DType, values: readonly number[]) => { const host = toHost({ dtype, values: [...values] }); return host; };
async function check(bench: Bench, c: Case, n: number, scale: number, target: Target = bench.target): Promise<Program> {
  const plan: PlanSpec = planOf(c), program = lower(c.kernel, plan, target);
  const want = expected(c), got = await execute(bench, plan, program, c.buffers.map((b) => ({ dtype: b.dtype, values: [...b.values] })), c.uniforms);
  want.forEach((w, i) => { close(encoded(w.dtype, got[i]), w, n, scale); });
  return program;
}
const explain = (e: unknown, c: Case): Error => new Error(`${e instanceof Error ? e.message : String(e)}\n${show(c)}`);

describe.runIf(gpu !== null)("on a software GPU", () => {
  const bench = gpu as Bench;
  test.each(mine.map((l) => [l.name, l] as const))("%s", async (_name, law) => {
    await fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 2 ** 31 - 1 }), async (seed) => {
      const c = drawCase(law, seed);
      try { await check(bench, c, law.ulp ?? 64, law.scale ?? 8); } catch (e) { throw explain(e, c); }
    }), { numRuns: runs(law), seed: 1 });
  }, 120_000);

  const x = leaf("load", 0, "float"), one = (buffer: number, dtype: DType, strides: readonly number[] = [1]): View => ({ buffer, dtype, offset: 0, strides });
  const numbers = { uniforms: [0, 1], label: "test" } as const;
  const simple = (kernel: Kernel, buffers: Case["buffers"]): Case => ({ kernel, buffers, uniforms: [0.375, 3], types: ["float", "i32"] });
  const mapCase = (from: DType, to: DType, values: number[]): Case =>
    simple({ kind: "map", shape: [values.length], loads: [one(0, from)], affines: [], stores: [{ view: one(1, to), value: leaf("load", 0, typeOf(from)) }], ...numbers }, [{ dtype: from, values }, { dtype: to, values: values.map(() => 0) }]);

  describe("halves", () => {
    const edge = [0, -0, 1, 65504, 65519, 65520, 1e6, -1e9, 2 ** -14, 2 ** -24, 2 ** -25, 3 * 2 ** -25, 1.5 * 2 ** -24, 1 + 2 ** -11, 1 + 3 * 2 ** -11, Infinity, -Infinity, NaN, 6.1e-5, 3.3e38];
    test.each(["f16", "bf16"] as const)("%s rounds to nearest even, one by one and by four", async (dtype) => {
      for (const values of [[...edge, 0.1], [...edge, ...edge]]) await check(bench, mapCase("f32", dtype, values), 0, 0);
    });
    test.each(["f16", "bf16"] as const)("every %s is widened exactly", async (dtype) => {
      // subnormal floats may be flushed to zero, as all bf16 below 2^-126 are
      const bits = Array.from({ length: 65536 }, (_, i) => decode(dtype, i)).map((v) => (Math.abs(v) < 2 ** -126 ? 0 : v));
      await check(bench, mapCase(dtype, "f32", bits), 0, 0);
    });
    test("rounding inside a formula stays", async () => {
      for (const round of [x.roundF16(), x.roundBf16()]) {
        const values = [...edge.filter(Number.isFinite), 0.1, 1 / 3, 70000, 1e-7];
        await check(bench, simple({ kind: "map", shape: [values.length], loads: [one(0, "f32")], affines: [], stores: [{ view: one(1, "f32"), value: round }], ...numbers }, [{ dtype: "f32", values }, { dtype: "f32", values: values.map(() => 0) }]), 0, 0);
      }
    });
  });

  test("floats saturate to integers, NaN is 0", async () => {
    const values = [NaN, Infinity, -Infinity, 3e9, -3e9, 2147483520, 2147483648, -2147483648, 4294967040, 4294967296, 1.9, -1.9, -0.5, 127.5, 128, 255, 256, -128, -129, 0];
    for (const dtype of ["i32", "u32", "u8", "i8", "bool"] as const) await check(bench, mapCase("f32", dtype, values), 0, 0);
    for (const dtype of ["f32", "i8"] as const) await check(bench, mapCase("i32", dtype, [-2147483648, 2147483647, 16777217, 16777219, -1, 0, 255, 128]), 0, 0);
    await check(bench, mapCase("u32", "f32", [4294967295, 4294967040, 16777217, 16777219, 2147483649, 0]), 0, 0);
  });

  test.each([
    ["exp", [-88, -86.5, -50, -20, -1, -1e-3, -1e-8, 0, 1e-6, 0.5, 1, 20, 80, 88.5, 88.72, 89, 1000, Infinity, -Infinity, NaN]],
    ["log", [0, -0, -1, -Infinity, NaN, Infinity, 1, 1 + 2 ** -23, 1 - 2 ** -24, 0.5, 2, 0.70710678, 1e-38, 1e38, 3.4e38, 0.9999, 1.0001]],
    ["tanh", [0, 1e-30, 1e-8, 1e-4, 1e-3, 0.01, 0.1, 0.5, 1, 3, 9, 10, 88.8, 1e30, Infinity, NaN]],
    ["erf", [0, 1e-30, 1e-8, 1e-3, 0.5, 0.999, 1, 1.001, 2, 3, 3.9, 4, 10, Infinity, NaN]],
    ["sin", [0, 1e-8, 0.1, 1, 1.5707964, 3.1415927, 6.2831855, 10, 100, 1000, 12345.678, 1e5]],
    ["cos", [0, 1e-8, 0.1, 1, 1.5707964, 3.1415927, 6.2831855, 10, 100, 1000, 12345.678, 1e5]],
    ["rsqrt", [1e-30, 1e-3, 1, 2, 3, 1e30]], ["sqrt", [0, 1e-30, 1e-3, 1, 2, 3, 1e30]],
  ] as const)("%s everywhere, relative to the value itself", async (fn, some) => {
    const values = [...some, ...some.filter((v) => fn !== "log" && fn !== "rsqrt" && fn !== "sqrt" && fn !== "exp" && v > 0).map((v) => -v)].map(Math.fround);
    while (values.length % 4 !== 1) values.push(1);
    for (const list of [values, values.slice(0, -1)]) {
      const c = simple({ kind: "map", shape: [list.length], loads: [one(0, "f32")], affines: [], stores: [{ view: one(1, "f32"), value: x[fn]() }], ...numbers }, [{ dtype: "f32", values: list }, { dtype: "f32", values: list.map(() => 0) }]);
      // 3 ulp of the value; sin and cos lose what the range reduction loses, 1e-12 of x
      await check(bench, c, 3, fn === "exp" ? 2 ** -104 : fn === "sin" || fn === "cos" ? 2 ** -20 : 0);
    }
  });

  test.each([
    ["exp", -86, 88, false], ["log", -80, 80, true], ["tanh", -30, 3, true], ["erf", -30, 2, true], ["sin", -20, 10, true], ["cos", -20, 10, true], ["rsqrt", -60, 60, true], ["sqrt", -60, 60, true],
  ] as const)("%s stays within its bound of ulps", async (fn, low, high, scaled) => {
    const n = 4096, values = Array.from({ length: n }, (_, i) => { const t = low + ((high - low) * (i + 0.37)) / n; return Math.fround(scaled ? Math.exp(t) : t); });
    const c = simple({ kind: "map", shape: [n], loads: [one(0, "f32")], affines: [], stores: [{ view: one(1, "f32"), value: x[fn]() }], ...numbers }, [{ dtype: "f32", values }, { dtype: "f32", values: values.map(() => 0) }]);
    const got = (await execute(bench, planOf(c), lower(c.kernel, planOf(c), bench.target), c.buffers.map((b) => ({ dtype: b.dtype, values: [...b.values] })), c.uniforms))[1];
    const exact = loopOf(fn, "float"), out = new Float64Array(n);
    exact(out, n, Float64Array.from(values), out, out);
    let worst = 0, at = 0;
    out.forEach((w, i) => {
      // near a zero of sin or cos an ulp of the argument's rest counts
      const ulp = 2 ** (Math.floor(Math.log2(Math.max(Math.abs(w), fn === "sin" || fn === "cos" ? Math.min(Math.abs(values[i]), 2 ** -10) : 2 ** -126))) - 23), off = Math.abs(got[i] - w) / ulp;
      if (off > worst) { worst = off; at = i; }
    });
    if (!(worst <= ulpsOf("webgpu")[fn] + 0.5)) expect.fail(`${fn}(${values[at]}) is ${got[at]}, want ${out[at]}, off by ${worst} ulp`);
  });

  test("pow of any signs and sizes", async () => {
    const xs = [0, -0, 1, -1, 2, -2, 0.5, -0.5, 3, 10, -10, 1e-5, 1e5, 1.0000001, 0.9999999, 1e30, Infinity, -Infinity, NaN], ys = [0, 1, -1, 2, 3, -3, 0.5, 1.5, -2.5, 10, 20, -20, 31.7, 1e-3, NaN];
    const a = xs.flatMap((v) => ys.map(() => Math.fround(v))), b = xs.flatMap(() => ys.map(Math.fround)), n = a.length;
    const view = (buffer: number): View => one(buffer, "f32");
    await check(bench, simple({ kind: "map", shape: [n], loads: [view(0), view(1)], affines: [], stores: [{ view: view(2), value: x.pow(leaf("load", 1, "float")) }], ...numbers }, [a, b, a.map(() => 0)].map((values) => ({ dtype: "f32" as const, values }))), 4, 2 ** -126);
  });

  test("NaN is seen by comparing a value with itself", async () => {
    const values = [1, NaN, Infinity, 0];
    await check(bench, simple({ kind: "map", shape: [4], loads: [one(0, "f32")], affines: [], stores: [{ view: one(1, "i32"), value: x.ne(x).toI() }, { view: one(2, "i32"), value: x.eq(x).toI() }], ...numbers }, [{ dtype: "f32", values }, ...[1, 2].map(() => ({ dtype: "i32" as const, values: [0, 0, 0, 0] }))]), 0, 0);
  });

  test("a few long rows go through partial totals", async () => {
    for (const n of [65536, 70001]) {
      const values = Array.from({ length: 2 * n }, (_, i) => ((i * 7919) % 257 - 128) / 16), m = leaf("stat", 0, "float");
      const program = await check(bench, simple({ kind: "rows", rowAxes: 1, shape: [2, n], loads: [one(0, "f32", [n, 1])], affines: [], stats: [{ op: "max", value: x }, { op: "sum", value: x.sub(m) }], stores: [{ perRow: true, value: leaf("stat", 1, "float"), view: one(1, "f32", [1, 0]) }, { perRow: false, value: x.sub(m), view: one(2, "f32", [n, 1]) }], ...numbers }, [{ dtype: "f32", values }, { dtype: "f32", values: [0, 0] }, { dtype: "f32", values: values.map(() => 0) }]), 64, n);
      expect(program.dispatches.length).toBe(3);
    }
  });
  test("columns of many rows go through partial totals", async () => {
    for (const n of [1, 3, 8]) {
      const rows = 5000, values = Array.from({ length: rows * n }, (_, i) => ((i * 7919) % 257 - 128) / 16);
      for (const op of ["sum", "max"] as const) {
        const program = await check(bench, simple({ kind: "cols", outerAxes: 0, reducedAxes: 1, op, shape: [rows, n], loads: [one(0, "f32", [n, 1])], affines: [], value: x.mul(0.5), stores: [{ value: leaf("stat", 0, "float"), view: one(1, "f32", [0, 1]) }], ...numbers }, [{ dtype: "f32", values }, { dtype: "f32", values: Array.from({ length: n }, () => 0) }]), 64, rows);
        expect(program.dispatches.length).toBe(2);
      }
    }
  });
  test.each([48, 49])("sums of %i have the same bits however the operands lie", async (n) => {
    const m = 40, values = Array.from({ length: n * m + 8 }, (_, i) => Math.sin(i)), bits = new Set<string>();
    for (const offset of [0, 1, 4]) {
      const stores = [{ perRow: true, value: leaf("stat", 0, "float"), view: one(1, "f32", [1, 0]) }], loads = [{ ...one(0, "f32", [n, 1]), offset }];
      const data = values.slice(0, n * m), c = simple({ kind: "rows", rowAxes: 1, shape: [m, n], loads, affines: [], stats: [{ op: "sum", value: x }], stores, ...numbers }, [{ dtype: "f32", values: [...Array.from({ length: offset }, () => 0), ...data, ...Array.from({ length: 8 - offset }, () => 0)] }, { dtype: "f32", values: Array.from({ length: m }, () => 0) }]);
      bits.add((await execute(bench, planOf(c), lower(c.kernel, planOf(c), bench.target), c.buffers.map((b) => ({ dtype: b.dtype, values: [...b.values] })), c.uniforms))[1].join());
    }
    expect(bits.size).toBe(1);
  });

  test("more rows than a grid dimension has workgroups", async () => {
    const target: Target = { ...bench.target, limits: { ...bench.target.limits, workgroups: 40 } };
    await fc.assert(fc.asyncProperty(fc.constantFrom(...mine), fc.integer({ min: 1, max: 2 ** 31 - 1 }), async (law, seed) => {
      const c = drawCase(law, seed), cells = "shape" in c.kernel ? c.kernel.shape.reduce((a, b) => a * b, 1) : "rows" in c.kernel ? c.kernel.rows * c.kernel.cols : 0;
      fc.pre(cells < 900);
      try { await check(bench, c, law.ulp ?? 64, law.scale ?? 8, target); } catch (e) { throw explain(e, c); }
    }), { numRuns: 30, seed: 2 });
  }, 120_000);
  test("kernels with more buffers than a dispatch may bind are cut", async () => {
    const target: Target = { ...bench.target, limits: { ...bench.target.limits, storageBuffers: 4 } };
    let cut = 0;
    await fc.assert(fc.asyncProperty(fc.constantFrom(...mine), fc.integer({ min: 1, max: 2 ** 31 - 1 }), async (law, seed) => {
      const c = drawCase(law, seed);
      try { const p = await check(bench, c, law.ulp ?? 64, law.scale ?? 8, target); if (p.dispatches.length > 1) cut++; } catch (e) { throw explain(e, c); }
    }), { numRuns: 40, seed: 3 });
    expect(cut).toBeGreaterThan(5);
  }, 120_000);
  test("results that read one another's old values are cut through scratch memory", async () => {
    const target: Target = { ...bench.target, limits: { ...bench.target.limits, storageBuffers: 3 } }, n = 21;
    const [a, b, c, d] = [0, 1, 2, 3].map((i) => leaf("load", i, "float")), view = (buffer: number): View => one(buffer, "f32");
    await check(bench, simple({ kind: "map", shape: [n], loads: [0, 1, 2, 3].map(view), affines: [], stores: [{ view: view(0), value: a.mul(0.5).add(b.mul(c).add(d)) }, { view: view(1), value: b.sub(a).mul(c) }, { view: view(2), value: c.add(a).min(b.max(d)) }], ...numbers }, [0, 1, 2, 3].map((s) => ({ dtype: "f32" as const, values: Array.from({ length: n }, (_, i) => ((i * 7 + s * 3) % 13) / 4) }))), 16, 8, target);
  });
});

describe.runIf(compiler !== null)("on the null device, which has every feature", () => {
  const bench = compiler as Bench;
  test("every text compiles, with and without f16 and subgroups", async () => {
    const texts = new Set<string>();
    expect(bench.target.f16).toBe(true);
    for (const f16 of [true, false]) for (const subgroups of [bench.target.subgroups, null, { min: 32, max: 32, control: false }]) for (const law of mine) for (let seed = 1; seed <= 12; seed++) {
      const c = drawCase(law, seed * 7919), plan = planOf(c);
      for (const d of lower(c.kernel, plan, { ...bench.target, f16, subgroups }).dispatches) if (!texts.has(d.code)) { texts.add(d.code); await compile(bench, d.code); }
    }
    expect(texts.size).toBeGreaterThan(60);
  }, 120_000);
  test("sizes, strides and offsets are not in the text", () => {
    const of = (n: number, m: number, offset: number): string[] => {
      const x = leaf("load", 0, "float"), kernels: Kernel[] = [
        { kind: "map", shape: [n, m], loads: [{ buffer: 0, dtype: "f32", offset, strides: [m + 4, 1] }], affines: [], stores: [{ view: { buffer: 1, dtype: "f32", offset: 0, strides: [m, 1] }, value: x.exp() }], uniforms: [], label: "map" },
        { kind: "rows", rowAxes: 1, shape: [n, m], loads: [{ buffer: 0, dtype: "f32", offset, strides: [m + 4, 1] }], affines: [], stats: [{ op: "sum", value: x }], stores: [{ perRow: true, view: { buffer: 1, dtype: "f32", offset: 0, strides: [1, 0] }, value: leaf("stat", 0, "float") }], uniforms: [], label: "rows" },
        { kind: "cols", outerAxes: 0, reducedAxes: 1, op: "sum", shape: [n, m], loads: [{ buffer: 0, dtype: "f32", offset, strides: [m + 4, 1] }], affines: [], value: x, stores: [{ view: { buffer: 1, dtype: "f32", offset: 0, strides: [0, 1] }, value: leaf("stat", 0, "float") }], uniforms: [], label: "cols" },
      ];
      const plan: PlanSpec = { kernels, uniforms: [], arenaBytes: 0, inputs: 0, outputs: 0, buffers: [0, 1].map((position) => ({ kind: "store", dtype: "f32", length: 1 << 20, offset: 0, position })) };
      return kernels.flatMap((k) => lower(k, plan, bench.target).dispatches.map((d) => d.code));
    };
    expect(of(100, 768, 0)).toEqual(of(172, 764, 8));
  });
});
