/** The host's linear algebra against torch's (fixtures/generate/linalg.py): values, signs of R, order statistics, shapes. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { eigSymmetric, kthvalue, type Matrix, matrixOf, pinv, qr, quantile, solve, svd, svdLowrank } from "../src/index.ts";

type Rows = number[][];
interface Golden {
  matrices: { name: string; rank: number; a: Rows; s: number[]; r: Rows | null; q: Rows | null; pinv?: Rows }[];
  symmetric: { a: Rows; values: number[] }[];
  systems: { a: Rows; b: Rows; x: Rows }[];
  quantiles: { x: number[]; q: number[]; values: number[] }[];
  kthvalues: { x: number[]; values: number[] }[];
  lowrank: { m: number; n: number; q: number; u: number[]; s: number[]; v: number[] }[];
}
const golden = JSON.parse(readFileSync(new URL("../../../fixtures/data/linalg/golden.json", import.meta.url), "utf8")) as Golden;

/** Equal within 1e-12 of the largest number. */
function close(x: ArrayLike<number>, y: readonly number[], tolerance = 1e-12): void {
  const most = y.reduce((s, v) => Math.max(s, Math.abs(v)), 0);
  expect(x.length).toBe(y.length);
  for (let i = 0; i < y.length; i++) expect(Math.abs(x[i] - y[i]), `number ${i}: ${x[i]} for ${y[i]}`).toBeLessThanOrEqual(tolerance * most);
}
const full = golden.matrices.filter((c) => c.r !== null);

describe("torch 2.13 in f64", () => {
  test.each(golden.matrices)("singular values: $name", ({ a, s }) => { close(svd(matrixOf(a)).s, s); });
  test.each(full)("Q and R with LAPACK's signs: $name", ({ a, q, r, name }) => {
    const own = qr(matrixOf(a)), tolerance = name === "hilbert" ? 1e-9 : 1e-12; // condition 1.5e7
    close(own.q.data, (q ?? []).flat(), tolerance);
    close(own.r.data, (r ?? []).flat(), tolerance);
  });
  test("R keeps a last entry of either sign", () => { // else the convention would not be seen
    const last = full.filter((c) => c.a.length <= c.a[0].length).map((c) => Math.sign((c.r ?? []).at(-1)?.[c.a.length - 1] ?? 0));
    expect(new Set(last)).toEqual(new Set([1, -1]));
  });
  test.each(golden.matrices.filter((c) => c.pinv !== undefined))("pseudo-inverse: $name", ({ a, pinv: p = [] }) => { close(pinv(matrixOf(a)).data, p.flat(), 1e-11); });
  test.each(golden.symmetric)("eigenvalues %#", ({ a, values }) => { close(eigSymmetric(matrixOf(a)).values, values); });
  test.each(golden.systems)("solutions %#", ({ a, b, x }) => { close(solve(matrixOf(a), matrixOf(b)).data, x.flat(), 1e-11); });
  test.each(golden.quantiles)("quantiles %#", ({ x, q, values }) => { q.forEach((p, i) => { expect(Math.abs(quantile(x, p) - values[i])).toBeLessThanOrEqual(1e-15); }); });
  test.each(golden.kthvalues)("k-th values %#", ({ x, values }) => { expect(x.map((_, i) => kthvalue(x, i + 1))).toEqual(values); });
  test.each(golden.lowrank)("shapes of svd_lowrank: ($m, $n), q = $q", ({ m, n, q, u, s, v }) => {
    const a: Matrix = { rows: m, cols: n, data: Float64Array.from({ length: m * n }, (_, i) => ((i * 5) % 7) - 3) }, own = svdLowrank(a, { rank: q });
    expect([[own.u.rows, own.u.cols], [own.s.length], [own.vt.cols, own.vt.rows]]).toEqual([u, s, v]);
  });
});
