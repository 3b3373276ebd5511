/** Laws of the host's linear algebra on small dyadic matrices: full rank, deficient, zero, graded, tall and wide. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  cholesky, ConfigError, eigSymmetric, hostOf, identityMatrix, kthvalue, lowRank, type Matrix, matrixOf, pinv, product, qr, quantile,
  ShapeError, scaleColumns, scaleRows, solve, svd, svdLowrank, sylvester, transposed, truncate,
} from "../src/index.ts";
import { diagonalise } from "../src/linalg/bidiagonal.ts";
import { Sweeps } from "../src/linalg/rotations.ts";

const numRuns = Number(process.env.ADJOINT_RUNS ?? 16) * 2, EPSILON = 2 ** -52;
const sixteenths = fc.integer({ min: -32, max: 32 }).map((k) => k / 16);
const filled = (rows: number, cols: number, entry: fc.Arbitrary<number> = sixteenths): fc.Arbitrary<Matrix> =>
  fc.array(entry, { minLength: rows * cols, maxLength: rows * cols }).map((x) => ({ rows, cols, data: Float64Array.from(x) }));
const size = fc.integer({ min: 1, max: 6 });
const graded = (a: Matrix, by: number): Matrix => ({ ...a, data: a.data.map((x, i) => x * 2 ** (by * Math.floor(i / a.cols) - by * (i % a.cols))) });

/** Matrices of every kind: any, zero, of rank 1 or 2, with tiny and huge rows, and all of it far from 1. */
const matrices: fc.Arbitrary<Matrix> = fc.tuple(size, size).chain(([m, n]) => fc.oneof(
  { weight: 4, arbitrary: filled(m, n) },
  { weight: 1, arbitrary: filled(m, n, fc.constant(0)) },
  { weight: 3, arbitrary: fc.integer({ min: 1, max: 2 }).chain((r) => fc.tuple(filled(m, r), filled(r, n)).map(([a, b]) => product(a, b))) },
  { weight: 2, arbitrary: fc.tuple(filled(m, n), fc.integer({ min: -9, max: 9 })).map(([a, by]) => graded(a, by)) },
  { weight: 1, arbitrary: filled(m, n, sixteenths.map((x) => x * 2 ** -700)) },
  { weight: 1, arbitrary: filled(m, n, sixteenths.map((x) => x * 2 ** 700)) },
));
/** Larger than a block of reflections and a tile of the product, with a known rank. */
const large: fc.Arbitrary<Matrix> = fc.tuple(fc.constantFrom([70, 41], [41, 70], [53, 53]), fc.constantFrom(3, 60)).chain(([[m, n], r]) =>
  fc.tuple(filled(m, r), filled(r, n)).map(([a, b]) => product(a, b)));

const biggest = (a: { readonly data: Float64Array }): number => a.data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
/** a = b, to rounding of numbers as large as `scale`. */
function near(a: Matrix, b: Matrix, scale = 1, slack = 64): void {
  expect([a.rows, a.cols]).toEqual([b.rows, b.cols]);
  const off = biggest({ data: a.data.map((x, i) => x - b.data[i]) }), allowed = slack * EPSILON * scale * Math.max(4, a.rows, a.cols);
  if (!(off <= allowed)) expect.fail(`off by ${off}, allowed ${allowed}\n${String(a.data)}\n${String(b.data)}`);
}
const plus = (a: Matrix, b: Matrix): Matrix => ({ ...a, data: a.data.map((x, i) => x + b.data[i]) });
const diagonal = (s: ArrayLike<number>): Matrix => scaleRows(identityMatrix(s.length), s);
const orthonormal = (q: Matrix): void => { near(product(q, q, { transposeA: true }), identityMatrix(q.cols)); };
/** In each column the first of the largest entries is positive. */
function largestPositive(u: Matrix): void {
  for (let j = 0; j < u.cols; j++) {
    const column = Float64Array.from({ length: u.rows }, (_, i) => u.data[i * u.cols + j]), most = biggest({ data: column });
    expect(column.find((x) => Math.abs(x) >= most * (1 - 1e-6))).toBeGreaterThan(0);
  }
}
const frobenius = (a: Matrix): number => { const most = biggest(a) || 1; return most * Math.sqrt(a.data.reduce((s, x) => s + (x / most) ** 2, 0)); };
const law = <T>(arbitrary: fc.Arbitrary<T>, holds: (x: T) => void, runs = numRuns): void => fc.assert(fc.property(arbitrary, (x) => { holds(x); }), { numRuns: runs });
const both = fc.oneof({ weight: 7, arbitrary: matrices }, { weight: 1, arbitrary: large });

describe("product", () => {
  test("is the sum over the inner index, with either factor transposed", () => {
    law(fc.tuple(fc.tuple(size, size, size), fc.boolean(), fc.boolean()).chain(([[m, n, k], ta, tb]) =>
      fc.tuple(filled(ta ? k : m, ta ? m : k), filled(tb ? n : k, tb ? k : n), fc.constant([ta, tb] as const))), ([a, b, [transposeA, transposeB]]) => {
      const x = transposeA ? transposed(a) : a, y = transposeB ? transposed(b) : b, c = product(a, b, { transposeA, transposeB });
      const sums = Array.from({ length: x.rows }, (_, i) => Array.from({ length: y.cols }, (_, j) => Array.from({ length: x.cols }, (_, p) => x.data[i * x.cols + p] * y.data[p * y.cols + j]).reduce((s, v) => s + v, 0)));
      expect(c).toEqual(matrixOf(sums)); // dyadic: exact
    });
  });
  test("crosses its blocks", () => { // more than 64 rows, 512 columns and 256 inner elements; integers are exact
    const fill = (rows: number, cols: number, f: (i: number, j: number) => number): Matrix => ({ rows, cols, data: Float64Array.from({ length: rows * cols }, (_, p) => f(Math.floor(p / cols), p % cols)) });
    const a = fill(67, 259, (i, j) => ((i * 31 + j * 17) % 13) - 6), b = fill(259, 515, (i, j) => ((i * 7 + j * 5) % 11) - 5), c = product(a, b);
    for (const [i, j] of [[0, 0], [66, 514], [63, 511], [64, 512], [5, 513], [65, 3]]) {
      let sum = 0;
      for (let p = 0; p < 259; p++) sum += a.data[i * 259 + p] * b.data[p * 515 + j];
      expect(c.data[i * 515 + j]).toBe(sum);
    }
    expect(product(transposed(b), transposed(a))).toEqual(transposed(c));
  });
  test("rows and columns scale", () => {
    law(matrices, (a) => {
      const s = Float64Array.from({ length: a.cols }, (_, i) => i - 1.5), t = Float64Array.from({ length: a.rows }, (_, i) => 2 - i);
      near(scaleColumns(a, s), product(a, diagonal(s)), 0);
      near(scaleRows(a, t), product(diagonal(t), a), 0);
    }, 8);
  });
});

describe("qr", () => {
  test("QᵀQ = I, QR = A, R is upper triangular", () => {
    law(both, (a) => {
      const { q, r } = qr(a), k = Math.min(a.rows, a.cols);
      expect([q.rows, q.cols, r.rows, r.cols]).toEqual([a.rows, k, k, a.cols]);
      orthonormal(q);
      near(product(q, r), a, biggest(a));
      for (let i = 0; i < k; i++) for (let j = 0; j < i; j++) expect(r.data[i * r.cols + j]).toBe(0);
    });
  });
  test("with a rank, the first columns of Q and rows of R", () => {
    law(fc.tuple(fc.constantFrom([6, 4], [4, 6], [5, 5]).chain(([m, n]) => filled(m, n)), fc.integer({ min: 1, max: 4 })), ([a, rank]) => {
      const whole = qr(a), { q, r } = qr(a, { rank });
      fc.pre(svd(a).s[3] > 1e-3);
      near(q, { rows: a.rows, cols: rank, data: Float64Array.from({ length: a.rows * rank }, (_, p) => whole.q.data[Math.floor(p / rank) * whole.q.cols + p % rank]) }, 1e3);
      near(r, { rows: rank, cols: a.cols, data: whole.r.data.slice(0, rank * a.cols) }, 1e4);
    });
  });
});

describe("svd", () => {
  test("U diag(s) Vᵀ = A, orthonormal, sorted, never negative, signs fixed; the error of rank r is what is left", () => {
    law(both, (a) => {
      const parts = svd(a), { u, s, vt } = parts, k = Math.min(a.rows, a.cols);
      expect([u.rows, u.cols, s.length, vt.rows, vt.cols]).toEqual([a.rows, k, k, k, a.cols]);
      orthonormal(u);
      orthonormal(transposed(vt));
      near(lowRank(parts), a, s[0]);
      for (let i = 0; i < k; i++) expect(s[i] >= 0 && (i === 0 || s[i] <= s[i - 1])).toBe(true);
      largestPositive(u);
      const r = Math.ceil(k / 2), rest = frobenius({ rows: 1, cols: k - r, data: s.slice(r) });
      expect(Math.abs(frobenius(plus(lowRank(parts, r), { ...a, data: a.data.map((x) => -x) })) - rest)).toBeLessThanOrEqual(64 * EPSILON * k * s[0]);
    });
  });
  test("the transpose has the same values, and an orthogonal factor changes none", () => {
    law(both, (a) => {
      const { s } = svd(a), allowed = 64 * EPSILON * Math.max(a.rows, a.cols) * s[0];
      const same = (t: Float64Array): void => { s.forEach((x, i) => { expect(Math.abs(x - t[i])).toBeLessThanOrEqual(allowed); }); };
      same(svd(transposed(a)).s);
      same(svd(product(qr(filledWith(a.rows)).q, a)).s);
    }, 12);
  });
  test("bidiagonal matrices of every kind, with zeros anywhere: U diag(d) Vᵀ = B", () => {
    const entry = fc.tuple(fc.constantFrom(-2, -1, 0, 1, 1, 3), fc.constantFrom(0, 0, 0, -20, -60)).map(([x, by]) => x * 2 ** by);
    law(fc.tuple(fc.array(entry, { minLength: 1, maxLength: 7 }), fc.array(entry, { minLength: 6, maxLength: 6 })), ([across, above]) => {
      const n = across.length, d = Float64Array.from(across), e = Float64Array.from(above.slice(0, n - 1)), u = identityMatrix(n), v = identityMatrix(n);
      const b = matrixOf(across.map((x, i) => across.map((_, j) => (j === i ? x : j === i + 1 ? above[i] : 0))));
      diagonalise({ d, e, u, v });
      expect([...e]).toEqual([...e].fill(0));
      orthonormal(u);
      near(product(scaleColumns(u, d), v, { transposeB: true }), b, biggest(b));
    }, 4 * numRuns);
  });
  test("sweeps run from the larger end, so that graded matrices take half as many, from either side", () => {
    const n = 60, sweeps = (f: (i: number) => number): number => diagonalise({ d: Float64Array.from({ length: n }, (_, i) => f(i)), e: Float64Array.from({ length: n - 1 }, (_, i) => -0.4 * f(i)), u: identityMatrix(n), v: identityMatrix(n) });
    for (const f of [(i: number) => 0.9 ** i, (i: number) => 0.9 ** (n - i)]) expect(sweeps(f)).toBeLessThan(1.5 * n);
    expect(sweeps((i) => 1 + i % 2)).toBeLessThan(3 * n);
  });
  test("values of triangles keep their digits", () => {
    for (const d of [[1, 2 ** -20, 2 ** -40], [2 ** -40, 2 ** -20, 1], [1, 0, 1], [0, 0, 3], [2 ** -30, 1, 0]]) {
      const { s } = svd(matrixOf([[d[0], d[0] / 2, 0], [0, d[1], d[1] / 4], [0, 0, d[2]]])), determinant = d[0] * d[1] * d[2];
      expect(Math.abs(s[0] * s[1] * s[2] - determinant)).toBeLessThanOrEqual(1e-3 * determinant + 1e-30 * Number(determinant === 0));
    }
  });
});
const filledWith = (n: number): Matrix => ({ rows: n, cols: n, data: Float64Array.from({ length: n * n }, (_, i) => ((i + 1) ** 3 % 251 - 125) / 16) }); // of full rank

describe("rotations", () => {
  test("written down and applied later, more than the list holds, forwards and backwards", () => {
    for (const rows of [3, 5]) {
      const n = 3, x = new Float64Array(rows * n).map((_, i) => i % 5 - 2), y = x.slice(), sweeps = new Sweeps(x, n);
      for (let k = 0; k < 99; k++) {
        const step = k % 2 === 0 ? 1 : -1, first = step > 0 ? 0 : n - 1;
        sweeps.begin(first, step, 2);
        for (let i = 0; i < 2; i++) {
          const c = Math.cos(k + i), s = Math.sin(k + i), from = first + step * i;
          sweeps.push(c, s);
          for (let row = 0; row < rows; row++) {
            const p = y[row * n + from], q = y[row * n + from + step];
            y[row * n + from] = c * p + s * q;
            y[row * n + from + step] = c * q - s * p;
          }
        }
      }
      sweeps.flush();
      near({ rows, cols: n, data: x }, { rows, cols: n, data: y }, 4);
    }
  });
});

describe("svdLowrank", () => {
  test("is exact where the rank is at most rank + oversample", () => {
    law(fc.tuple(size, size, fc.integer({ min: 1, max: 3 }), fc.integer({ min: 0, max: 2 }), fc.integer({ min: 0, max: 2 })).chain(([m, n, rank, oversample, iterations]) =>
      fc.tuple(filled(m, rank), filled(rank, n), fc.constant({ rank, oversample, iterations }))), ([b, c, options]) => {
      const a = product(b, c), parts = svdLowrank(a, options), k = Math.min(options.rank, a.rows, a.cols);
      expect([parts.u.rows, parts.u.cols, parts.s.length, parts.vt.rows, parts.vt.cols]).toEqual([a.rows, k, k, k, a.cols]);
      orthonormal(parts.u);
      orthonormal(transposed(parts.vt));
      near(lowRank(parts), a, Math.max(parts.s[0], 1));
    });
  });
  test("finds the first values of a falling spectrum, never above the truth, better with iterations", () => {
    const { q: u } = qr(filledWith(40)), { q: v } = qr(product(filledWith(24), filledWith(24)));
    const s = Float64Array.from({ length: 24 }, (_, i) => 1 / (1 + i)), a = product(scaleColumns(lowColumns(u, 24), s), v, { transposeB: true });
    for (const m of [a, transposed(a)]) {
      const few = svdLowrank(m, { rank: 4, oversample: 4, iterations: 12 });
      near({ rows: 4, cols: 4, data: product(few.u, lowColumns(svd(m).u, 4), { transposeA: true }).data }, identityMatrix(4), 1e4); // svd's signs
      const worst = [0, 1, 8].map((iterations) => {
        const found = svdLowrank(m, { rank: 4, oversample: 4, iterations, seed: 3 });
        found.s.forEach((x, i) => { expect(x).toBeLessThanOrEqual(s[i] * (1 + 1e-12)); });
        return 1 - found.s[3] / s[3];
      });
      expect(worst[2]).toBeLessThan(1e-6);
      expect(worst[1]).toBeLessThan(worst[0]);
      expect(svdLowrank(m, { rank: 4, seed: 3 })).toEqual(svdLowrank(m, { rank: 4, seed: 3, oversample: 0, iterations: 2 }));
      expect(svdLowrank(m, { rank: 4, seed: 3 })).not.toEqual(svdLowrank(m, { rank: 4, seed: 4 }));
    }
  });
});
const lowColumns = (a: Matrix, k: number): Matrix => ({ rows: a.rows, cols: k, data: Float64Array.from({ length: a.rows * k }, (_, p) => a.data[Math.floor(p / k) * a.cols + p % k]) });

describe("solve, cholesky, pinv", () => {
  test("A X = B, to rounding of |A| |X|", () => {
    law(size.chain((n) => fc.tuple(filled(n, n), filled(n, 2))), ([a, b]) => {
      const { s } = svd(a);
      if (s[s.length - 1] < 1e-9) { expect(() => solve(a, b)).toThrow(ConfigError); return; }
      const x = solve(a, b);
      near(product(a, x), b, s[0] * biggest(x) + 1);
    });
  });
  test("a matrix is not singular because its rows or columns are small", () => {
    for (const a of [[[1, 0], [0, 1e-20]], [[1e20, 1], [1e20, 2]], [[1e20, 1e20], [1, 2]], [[0, 1], [1, 0]], [[1e-20, 1], [1, 1]]]) near(product(matrixOf(a), solve(matrixOf(a), identityMatrix(2))), identityMatrix(2));
    expect(() => solve(matrixOf([[1, 2, 3], [4, 5, 6], [7, 8, 9]]), identityMatrix(3))).toThrow(ConfigError);
  });
  test("L Lᵀ = A of a Gram matrix, L lower triangular with a positive diagonal", () => {
    law(matrices, (b) => {
      fc.pre(biggest(b) < 1e6 && biggest(b) > 1e-6);
      const a = plus(product(b, b, { transposeA: true }), identityMatrix(b.cols)), l = cholesky(a);
      near(product(l, l, { transposeB: true }), a, biggest(a));
      for (let i = 0; i < l.rows; i++) for (let j = 0; j < l.cols; j++) expect(j > i ? l.data[i * l.cols + j] === 0 : j < i || l.data[i * l.cols + j] > 0).toBe(true);
      expect(() => cholesky(plus(a, scaleRows(identityMatrix(b.cols), new Float64Array(b.cols).fill(-2 * frobenius(a)))))).toThrow(ConfigError);
    });
  });
  test("Penrose's four conditions", () => {
    law(matrices.filter((a) => biggest(a) < 1e6 && (biggest(a) === 0 || biggest(a) > 1e-6)), (a) => {
      const { s } = svd(a), limit = s.findLast((x) => x > s[0] * 1e-10) ?? 1;
      fc.pre(s.every((x) => x >= limit || x <= s[0] * Math.max(a.rows, a.cols) * EPSILON)); // no value between: its condition would be the test's
      const p = pinv(a), scale = Math.max(1, s[0] / limit), ap = product(a, p), pa = product(p, a);
      expect([p.rows, p.cols]).toEqual([a.cols, a.rows]);
      near(product(ap, a), a, scale * s[0]);
      near(product(pa, p), p, scale / limit);
      near(transposed(ap), ap, scale);
      near(transposed(pa), pa, scale);
    });
    expect([...pinv(matrixOf([[2, 0], [0, 1]]), { rtol: 0.5 }).data]).toEqual([0.5, 0, 0, 0]);
  });
});

describe("eigSymmetric and sylvester", () => {
  test("A V = V diag(values), V orthogonal, values from the smallest", () => {
    law(both, (b) => {
      const a = b.rows === b.cols ? plus(b, transposed(b)) : product(scaleRows(b, new Float64Array(b.rows).fill(1 / (biggest(b) || 1))), b, { transposeA: true }), { values, vectors } = eigSymmetric(a);
      orthonormal(vectors);
      largestPositive(vectors);
      near(product(a, vectors), scaleColumns(vectors, values), biggest(a) * a.rows);
      values.forEach((x, i) => { expect(i === 0 || x >= values[i - 1]).toBe(true); });
    });
  });
  test("A X + X B = C: symmetric of any size, general where small; cancelling eigenvalues are refused", () => {
    law(fc.tuple(size, size, fc.boolean()).chain(([m, n, even]) => fc.tuple(filled(m, m), filled(n, n), filled(m, n), fc.constant(even))), ([p, q, c, even]) => {
      const shift = (x: Matrix): Matrix => plus(x, diagonal(new Float64Array(x.rows).fill(16))); // eigenvalues within 12 of 16: none cancel
      const a = shift(even ? plus(p, transposed(p)) : p), b = shift(even ? plus(q, transposed(q)) : q);
      fc.pre(!even || [...eigSymmetric(a).values].every((x) => [...eigSymmetric(b).values].every((y) => Math.abs(x + y) > 0.1)));
      const x = sylvester(a, b, c);
      near(plus(product(a, x), product(x, b)), c, 1e3 * (1 + biggest(x)));
    });
    const one = identityMatrix(3), minus = scaleRows(one, [-1, -1, -1]);
    expect(() => sylvester(one, minus, one)).toThrow(/cancel/);
    expect(() => sylvester(matrixOf([[1, 1], [0, 1]]), matrixOf([[-1]]), matrixOf([[1], [1]]))).toThrow(ConfigError);
  });
});

describe("quantile and kthvalue", () => {
  test("equal their definitions by sorting", () => {
    law(fc.tuple(fc.array(fc.oneof(sixteenths, fc.constantFrom(-1, 0, 1)), { minLength: 1, maxLength: 40 }), fc.oneof(fc.constantFrom(0, 0.25, 0.5, 1), fc.integer({ min: 0, max: 16 }).map((k) => k / 16))), ([x, q]) => {
      const sorted = [...x].sort((a, b) => a - b), at = q * (x.length - 1), low = Math.floor(at), high = Math.ceil(at);
      expect(Math.abs(quantile(x, q) - (sorted[low] + (at - low) * (sorted[high] - sorted[low])))).toBeLessThanOrEqual(4 * EPSILON);
      sorted.forEach((v, i) => { expect(kthvalue(x, i + 1) === v).toBe(true); });
    }, 2 * numRuns);
  });
  test("leave their argument alone; NaN and infinity as in torch", () => {
    const x = Float32Array.of(3, 1, 2);
    expect([quantile(x, 0.25), kthvalue(x, 3), [...x]]).toEqual([1.5, 3, [3, 1, 2]]);
    expect([quantile([1, NaN, 0], 0.5), kthvalue([1, NaN, 0], 2), kthvalue([1, NaN, 0], 3), quantile([-Infinity, 1, Infinity], 0.5), quantile([Infinity, Infinity], 0.3)]).toEqual([NaN, 1, NaN, 1, Infinity]);
  });
});

describe("conversions and errors", () => {
  test("matrices come from host arrays and nested numbers, and go back rounded once", () => {
    const a = matrixOf({ dtype: "bf16", shape: [2, 1], data: Uint16Array.of(0x3f80, 0xc000) });
    expect(a).toEqual(matrixOf([[1], [-2]]));
    expect(hostOf(matrixOf([[1 / 3]]))).toEqual({ dtype: "f32", shape: [1, 1], data: Float32Array.of(1 / 3) });
    expect(hostOf(a, "bf16").data).toEqual(Uint16Array.of(0x3f80, 0xc000));
    const own = Float64Array.of(1, 2), copy = matrixOf({ dtype: "f64", shape: [1, 2], data: own });
    copy.data[0] = 7;
    expect(own[0]).toBe(1);
  });
  test("no function changes its arguments", () => {
    const a = filledWith(5), before = a.data.slice();
    for (const f of [qr, svd, pinv, (x: Matrix) => solve(x, x), (x: Matrix) => eigSymmetric(plus(x, transposed(x))), (x: Matrix) => svdLowrank(x, { rank: 2 }), (x: Matrix) => sylvester(x, x, x), (x: Matrix) => product(x, x)]) f(a);
    expect(a.data).toEqual(before);
  });
  const a23 = matrixOf([[1, 2, 3], [4, 5, 6]]), bad = matrixOf([[1, NaN]]), i2 = identityMatrix(2);
  test.each<[string, () => unknown, typeof ShapeError | typeof ConfigError]>([
    ["three axes", () => matrixOf({ dtype: "f32", shape: [1, 1, 1], data: new Float32Array(1) }), ShapeError],
    ["ragged rows", () => matrixOf([[1], [1, 2]]), ShapeError],
    ["no rows", () => matrixOf([]), ShapeError],
    ["inner sizes", () => product(a23, a23), ShapeError],
    ["scales", () => scaleColumns(a23, [1, 2]), ShapeError],
    ["scales of rows", () => scaleRows(a23, [1]), ShapeError],
    ["short data", () => svd({ rows: 2, cols: 2, data: new Float64Array(3) }), ShapeError],
    ["NaN in svd", () => svd(bad), ConfigError],
    ["NaN in qr", () => qr(bad), ConfigError],
    ["rank of qr", () => qr(a23, { rank: 3 }), ConfigError],
    ["rank of svdLowrank", () => svdLowrank(a23, { rank: 0 }), ConfigError],
    ["oversample", () => svdLowrank(a23, { rank: 1, oversample: -1 }), ConfigError],
    ["iterations", () => svdLowrank(a23, { rank: 1, iterations: 0.5 }), ConfigError],
    ["rank of truncate", () => truncate(svd(a23), 3), ConfigError],
    ["rtol", () => pinv(a23, { rtol: -1 }), ConfigError],
    ["not square", () => solve(a23, a23), ShapeError],
    ["rows of B", () => solve(i2, matrixOf([[1]])), ShapeError],
    ["singular", () => solve(matrixOf([[1, 1], [1, 1]]), i2), ConfigError],
    ["not definite", () => cholesky(matrixOf([[1, 2], [2, 1]])), ConfigError],
    ["not symmetric", () => eigSymmetric(matrixOf([[1, 2], [3, 1]])), ConfigError],
    ["C of sylvester", () => sylvester(i2, i2, a23), ShapeError],
    ["a large general sylvester", () => sylvester(qr(filledWith(33)).q, identityMatrix(33), identityMatrix(33)), ConfigError],
    ["q", () => quantile([1], 1.5), ConfigError],
    ["no numbers", () => quantile([], 0.5), ShapeError],
    ["k", () => kthvalue([1], 0), ConfigError],
    ["none to choose from", () => kthvalue([], 1), ShapeError],
  ])("%s", (_, call, error) => { expect(call).toThrow(error); });
});
