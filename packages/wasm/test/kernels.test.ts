/** Laws of single kernels: printed code equals the interpreter for any shape, strides, dtype and formula. */
import { decode, type Kernel, leaf, type View } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { hasRelaxed, wasmSync } from "../src/index.ts";
import { type Case, check, close, expected, runOn, same } from "./harness.ts";
import type { Data } from "./interpret.ts";
import { common, drawCase, laws, show } from "./laws.ts";

const backend = wasmSync();

test.each(laws.map((l) => [l.name, l] as const))("%s", (_name, law) => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 2 ** 31 - 1 }), (seed) => {
    const c = drawCase(law, seed);
    try { check(backend, c, law.ulp ?? 64, law.scale ?? 8); } catch (e) { throw new Error(`${e instanceof Error ? e.message : String(e)}\n${show(c)}`); }
  }), { numRuns: law.runs ?? 150 });
});

describe("map", () => {
  test("stores happen after all loads of the same position", () => {
    const view = (buffer: number): View => ({ buffer, dtype: "f32", offset: 0, strides: [1] });
    const p = leaf("load", 0, "float"), m = leaf("load", 1, "float");
    check(backend, { kernel: { kind: "map", shape: [21], loads: [view(0), view(1)], affines: [], stores: [{ view: view(1), value: m.mul(0.5).add(p) }, { view: view(0), value: p.sub(m) }], ...common }, buffers: [0, 1].map((s) => ({ dtype: "f32", values: Array.from({ length: 21 }, (_, i) => (i + s) / 4) })), uniforms: [1, 1], types: ["float", "i32"] });
  });
  test("halves round to nearest even, subnormals and infinities included", () => {
    const xs = [0, -0, 1, 65504, 65519, 65520, 1e6, -1e9, 2 ** -14, 2 ** -24, 2 ** -25, 3 * 2 ** -25, 1.5 * 2 ** -24, 1 + 2 ** -11, 1 + 3 * 2 ** -11, Infinity, -Infinity, NaN, 6.1e-5, 3.3e38, 1e-40];
    for (const dtype of ["f16", "bf16"] as const) {
      const c: Case = { kernel: { kind: "map", shape: [xs.length], loads: [{ buffer: 0, dtype: "f32", offset: 0, strides: [1] }], affines: [], stores: [{ view: { buffer: 1, dtype, offset: 0, strides: [1] }, value: leaf("load", 0, "float") }], ...common }, buffers: [{ dtype: "f32", values: xs }, { dtype, values: xs.map(() => 0) }], uniforms: [0, 0], types: ["float", "i32"] };
      const got = runOn(backend, c)[1], want = expected(c)[1];
      close(got, want, 0, 0);
      const back: Case = { ...c, kernel: { ...c.kernel, loads: [{ buffer: 1, dtype, offset: 0, strides: [1] }], stores: [{ view: { buffer: 0, dtype: "f32", offset: 0, strides: [1] }, value: leaf("load", 0, "float") }] } as Kernel, buffers: [c.buffers[0], want] };
      close(runOn(backend, back)[0], expected(back)[0], 0, 0);
    }
  });
});

test("every f16 is widened exactly", () => {
  const n = 65536, bits = Uint16Array.from({ length: n }, (_, i) => i), view = (buffer: number, dtype: "f16" | "f32"): View => ({ buffer, dtype, offset: 0, strides: [1] });
  const plan = backend.prepare({
    kernels: [{ kind: "map", shape: [n], loads: [view(0, "f16")], affines: [], stores: [{ view: view(1, "f32"), value: leaf("load", 0, "float") }], uniforms: [], label: "widen" }],
    buffers: [{ kind: "input", dtype: "f16", length: n, offset: 0, position: 0 }, { kind: "output", dtype: "f32", length: n, offset: 2 * n, position: 0 }], uniforms: [], arenaBytes: 6 * n, inputs: 1, outputs: 1,
  });
  const got = backend.run(plan, { stores: [], inputs: [bits], uniforms: [] }).readSync?.(0) ?? [];
  for (let i = 0; i < n; i++) if (!Object.is(got[i], decode("f16", i))) expect.fail(`bits ${i.toString(16)}: ${got[i]}, want ${decode("f16", i)}`);
});

describe("rows", () => {
  test("rows longer than a chunk", () => {
    for (const n of [4095, 4096, 4097, 9001]) {
      const values = Array.from({ length: 2 * n }, (_, i) => ((i * 7919) % 257 - 128) / 16), x = leaf("load", 0, "float"), m = leaf("stat", 0, "float");
      check(backend, { kernel: { kind: "rows", rowAxes: 1, shape: [2, n], loads: [{ buffer: 0, dtype: "f32", offset: 0, strides: [n, 1] }], affines: [], stats: [{ op: "sum", value: x }, { op: "sum", value: x.sub(m.mul(1 / n)).mul(x) }], stores: [{ perRow: true, value: leaf("stat", 1, "float"), view: { buffer: 1, dtype: "f32", offset: 0, strides: [1, 0] } }], ...common }, buffers: [{ dtype: "f32", values }, { dtype: "f32", values: [0, 0] }], uniforms: [0, 0], types: ["float", "i32"] }, 64, n);
    }
  });
  test("several values are kept for later passes", () => {
    const n = 53, x = leaf("load", 0, "float"), y = leaf("load", 1, "float"), e = x.exp(), t = y.tanh(), [a, b, c] = [0, 1, 2].map((i) => leaf("stat", i, "float"));
    const view = (buffer: number): View => ({ buffer, dtype: "f32", offset: 0, strides: [n, 1] });
    check(backend, {
      kernel: { kind: "rows", rowAxes: 1, shape: [4, n], loads: [view(0), view(1)], affines: [], stats: [{ op: "sum", value: e }, { op: "sum", value: t }, { op: "sum", value: e.mul(t).sub(a.mul(b)).mul(e.log()) }], stores: [{ perRow: false, value: e.div(a).add(t.mul(b)).add(c.mul(1 / 1024)), view: view(2) }], ...common },
      buffers: [0, 1, 2].map((k) => ({ dtype: "f32" as const, values: Array.from({ length: 4 * n }, (_, i) => ((i * 7919 + k * 31) % 61 - 30) / 16) })), uniforms: [0, 0], types: ["float", "i32"],
    }, 64, 256);
  });
  test("a row's sum has the same bits whatever else the kernel computes", () => {
    const n = 1003, values = Array.from({ length: 3 * n }, (_, i) => Math.sin(i)), x = leaf("load", 0, "float"), sum = leaf("stat", 0, "float");
    const view = (buffer: number, strides: number[]): View => ({ buffer, dtype: "f32", offset: 0, strides });
    const buffers: Data[] = [{ dtype: "f32", values }, { dtype: "f32", values: [0, 0, 0] }, { dtype: "f32", values }];
    const base = { kind: "rows", rowAxes: 1, shape: [3, n], loads: [view(0, [n, 1])], affines: [], ...common } as const;
    const perRow = { perRow: true, value: sum, view: view(1, [1, 0]) };
    const alone = runOn(backend, { kernel: { ...base, stats: [{ op: "sum", value: x }], stores: [perRow] }, buffers, uniforms: [0, 0], types: ["float", "i32"] })[1];
    const fused = runOn(backend, { kernel: { ...base, stats: [{ op: "sum", value: x }, { op: "max", value: x.exp() }, { op: "sum", value: x.mul(x).tanh() }], stores: [perRow, { perRow: false, value: x.exp().sub(sum).mul(leaf("stat", 2, "float")), view: view(2, [n, 1]) }] }, buffers, uniforms: [0, 0], types: ["float", "i32"] })[1];
    expect(Array.from(fused)).toEqual(Array.from(alone));
  });
});

describe("tiles", () => {
  const plain = wasmSync({ fma: false }), wide = wasmSync({ fma: false, wide: true }), fused = wasmSync(), wideFused = wasmSync({ wide: true });
  test("every tile sums in the same order: equal bits, or equal up to fused rounding", () => {
    for (const law of laws.filter((l) => l.name.includes("sizes, strides, batches") || l.name.includes("matrices"))) {
      fc.assert(fc.property(fc.integer({ min: 1, max: 2 ** 31 - 1 }), (seed) => {
        const c = drawCase(law, seed);
        same(plain, wide, c);
        if (fused.tile.fma) { same(fused, wideFused, c); check(fused, c, law.ulp ?? 64, law.scale ?? 8); }
      }), { numRuns: 30 });
    }
  });
  test("tiles are chosen by the engine", () => {
    expect(plain.tile.fma).toBe(false);
    expect(wide.tile.nr).toBe(16);
    expect(fused.tile.fma).toBe(hasRelaxed());
  });
});
