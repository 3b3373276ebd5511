import { leaf, literal } from "@adjoint/tensor";
import { expect, test } from "vitest";
import { wasmSync } from "../src/index.ts";
import { check } from "./harness.ts";

const x = leaf("load", 0, "float");
test("a map adds one", () => {
  const b = wasmSync();
  const values = Array.from({ length: 37 }, (_, i) => i / 16);
  check(b, { kernel: { kind: "map", label: "add", shape: [37], loads: [{ buffer: 0, dtype: "f32", offset: 0, strides: [1] }], affines: [], uniforms: [], stores: [{ view: { buffer: 1, dtype: "f32", offset: 0, strides: [1] }, value: x.add(literal(1)) }] }, buffers: [{ dtype: "f32", values }, { dtype: "f32", values: values.map(() => -5) }], uniforms: [], types: [] });
  expect(b.counters.modules).toBeGreaterThan(1);
});
test("softmax rows", () => {
  const b = wasmSync(), n = 37, r = 5;
  const values = Array.from({ length: n * r }, (_, i) => ((i * 7919) % 101) / 16);
  const view = (buffer: number) => ({ buffer, dtype: "f32" as const, offset: 0, strides: [n, 1] });
  const m = leaf("stat", 0, "float"), s = leaf("stat", 1, "float"), e = x.sub(m).exp();
  check(b, { kernel: { kind: "rows", rowAxes: 1, label: "softmax", shape: [r, n], loads: [view(0)], affines: [], uniforms: [], stats: [{ op: "max", value: x }, { op: "sum", value: e }], stores: [{ view: view(1), value: e.div(s), perRow: false }] }, buffers: [{ dtype: "f32", values }, { dtype: "f32", values: values.map(() => -5) }], uniforms: [], types: [] });
});
test("column sums", () => {
  const b = wasmSync(), n = 37, r = 150;
  const values = Array.from({ length: n * r }, (_, i) => ((i * 7919) % 101) / 16);
  check(b, { kernel: { kind: "cols", outerAxes: 0, reducedAxes: 1, op: "sum", label: "sum", shape: [r, n], loads: [{ buffer: 0, dtype: "f32", offset: 0, strides: [n, 1] }], affines: [], uniforms: [], value: x, stores: [{ view: { buffer: 1, dtype: "f32", offset: 0, strides: [0, 1] }, value: leaf("stat", 0, "float") }] }, buffers: [{ dtype: "f32", values }, { dtype: "f32", values: Array(n).fill(-5) }], uniforms: [], types: [] }, 16, 100);
});
test.each([[37, 50, 29], [1, 300, 40], [40, 300, 1], [2, 3, 5], [8, 600, 8], [5, 1, 9]])("matmul %d %d %d", (m, k, n) => {
  const b = wasmSync();
  const values = (len: number, seed: number) => Array.from({ length: len }, (_, i) => ((i * 7919 + seed) % 101 - 50) / 16);
  for (const nt of [false, true]) for (const tn of [false, true]) for (const epi of [false, true]) {
    check(b, { kernel: { kind: "contract", label: "mm", shape: [m, n], k, a: { buffer: 0, dtype: "f32", offset: 0, strides: tn ? [1, m] : [k, 1] }, b: { buffer: 1, dtype: "f32", offset: 0, strides: nt ? [1, k] : [n, 1] }, loads: epi ? [{ buffer: 3, dtype: "f32", offset: 0, strides: [0, 1] }] : [], affines: [], uniforms: [], stores: [{ view: { buffer: 2, dtype: "f32", offset: 0, strides: [n, 1] }, value: epi ? leaf("acc", 0, "float").add(x) : leaf("acc", 0, "float") }] }, buffers: [{ dtype: "f32", values: values(m * k, 1) }, { dtype: "f32", values: values(k * n, 2) }, { dtype: "f32", values: Array(m * n).fill(-5) }, { dtype: "f32", values: values(n, 3) }], uniforms: [], types: [] }, 16, k);
  }
});
