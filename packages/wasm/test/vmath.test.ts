/** Vector functions against f64, in units in the last place of the f32 result. */
import { type Expr, leaf } from "@adjoint/tensor";
import { expect, test } from "vitest";
import { wasmSync } from "../src/index.ts";
import { type Case, expected, runOn } from "./harness.ts";

const backend = wasmSync();
const x = leaf("load", 0, "float"), y = leaf("load", 1, "float");

/** Largest error in ulp of the result; equal infinities and NaNs count 0, results under `floor` are measured against it. */
function worst(value: Expr, xs: number[], ys: number[] = xs.map(() => 0), floor = 2 ** -126): { ulp: number; at: number } {
  const view = (buffer: number) => ({ buffer, dtype: "f32" as const, offset: 0, strides: [1] });
  const c: Case = { kernel: { kind: "map", label: "f", shape: [xs.length], loads: [view(0), view(1)], affines: [], uniforms: [], stores: [{ view: view(2), value }] }, buffers: [{ dtype: "f32", values: xs.map(Math.fround) }, { dtype: "f32", values: ys.map(Math.fround) }, { dtype: "f32", values: xs.map(() => 0) }], uniforms: [], types: [] };
  // the interpreter rounds to f32 at the store: a difference of n ulp here is at most n + 0.5 of the exact value
  const got = runOn(backend, c)[2], want = expected(c)[2].values;
  let ulp = 0, at = 0;
  for (let i = 0; i < xs.length; i++) {
    if (Object.is(got[i], want[i]) || got[i] === want[i] || (Number.isNaN(got[i]) && Number.isNaN(want[i]))) continue;
    const e = Math.abs(got[i] - want[i]) / 2 ** (Math.floor(Math.log2(Math.max(Math.abs(want[i]), floor))) - 23);
    if (!(e <= ulp)) { ulp = e; at = xs[i]; }
  }
  return { ulp, at };
}
const span = (lo: number, hi: number, n = 40000): number[] => Array.from({ length: n }, (_, i) => lo + ((hi - lo) * i) / (n - 1));
const tiny = [1e-3, 1e-5, 1e-8, 1e-20, 1e-30, 1e-38].flatMap((t) => [t, -t, 1.7 * t]);
const special = [0, -0, Infinity, -Infinity, NaN];

test.each<[string, Expr, number[], number]>([
  ["exp", x.exp(), [...span(-86.98, 88.7), ...span(-1, 1), ...tiny, ...special, 88.72, 89, 200, -104, -200], 2],
  ["tanh", x.tanh(), [...span(-12, 12), ...span(-0.7, 0.7), ...tiny, ...special, 100, -1e30], 3],
  ["log", x.log(), [...span(1e-3, 10), ...span(0.9, 1.1), ...span(1, 1e9), ...tiny, ...special, 1e-40, -1], 2],
  ["sin", x.sin(), [...span(-10, 10), ...span(-1e5, 1e5), ...tiny, NaN], 2],
  ["cos", x.cos(), [...span(-10, 10), ...span(-1e5, 1e5), ...tiny, NaN], 2],
  ["erf", x.erf(), [...span(-5, 5), ...span(-1.1, 1.1), ...tiny, ...special], 3],
  ["rsqrt", x.rsqrt(), [...span(1e-3, 100), ...tiny.filter((t) => t > 0)], 1],
  ["sqrt", x.sqrt(), span(0, 100), 0],
])("%s", (_name, value, xs, bound) => {
  const { ulp, at } = worst(value, xs);
  expect(ulp, `at ${at}`).toBeLessThanOrEqual(bound);
});

test("pow", () => {
  const xs: number[] = [], ys: number[] = [];
  for (const a of [0, 1e-30, 0.1, 0.5, 0.999, 1, 1.001, 2, 3.7, 10, 1e4, 1e30, Infinity, -2, -1.5, -3]) for (const b of [0, 1, 2, 3, 0.5, -1, -2, 0.1, 10, 33.3, -7.7, 100]) { xs.push(a); ys.push(b); }
  xs.push(...span(0.01, 20, 5000)); ys.push(...span(-10, 10, 5000));
  const { ulp, at } = worst(x.pow(y), xs, ys);
  expect(ulp, `at ${at}`).toBeLessThanOrEqual(1);
});
