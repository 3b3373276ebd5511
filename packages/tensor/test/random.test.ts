import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createReference } from "../src/reference/index.ts";
import { leaf } from "../src/expr.ts";
import { ConfigError } from "../src/errors.ts";
import { hashName, hostInteger, hostNormal, hostUniform, permutation, threefry, threefryPair, uniformOf } from "../src/random.ts";

const word = fc.integer({ min: 0, max: 0xffffffff });

describe("threefry", () => {
  // Random123 1.14, tests/kat_vectors, rows "threefry2x32 20": counter, key, result
  test.each([
    [[0, 0], [0, 0], [0x6b200159, 0x99ba4efe]],
    [[0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff], [0x1cb996fc, 0xbb002be7]],
    [[0x243f6a88, 0x85a308d3], [0x13198a2e, 0x03707344], [0xc4923a9c, 0x483df7a0]],
  ])("known answer of counter %j", ([c0, c1], [k0, k1], result) => {
    expect(threefry(k0, k1, c0, c1)).toEqual(result);
  });

  test("the formula equals the host, bit for bit", () => {
    const words = [0, 1, 2, 3].map((i) => leaf("load", i, "u32")), [x, y] = threefryPair(words[0], words[1], words[2], words[3]);
    const n = 64, backend = createReference();
    const view = (buffer: number) => ({ buffer, dtype: "u32" as const, offset: 0, strides: [1] });
    const ready = backend.prepare({
      kernels: [{ kind: "map", shape: [n], loads: [0, 1, 2, 3].map(view), affines: [], uniforms: [], label: "bits", stores: [{ view: view(4), value: x }, { view: view(5), value: y }] }],
      buffers: Array.from({ length: 6 }, (_, i) => ({ kind: i < 4 ? "input" as const : "output" as const, dtype: "u32" as const, length: n, offset: 0, position: i < 4 ? i : i - 4 })),
      uniforms: [], arenaBytes: 0, inputs: 4, outputs: 2,
    });
    fc.assert(fc.property(fc.tuple(...[0, 1, 2, 3].map(() => fc.array(word, { minLength: n, maxLength: n }))), (columns) => {
      const run = backend.run(ready, { stores: [], inputs: columns.map((c) => Uint32Array.from(c)), uniforms: [] });
      const host = Array.from({ length: n }, (_, i) => threefry(columns[0][i], columns[1][i], columns[2][i], columns[3][i]));
      expect([...run.readSync?.(0) ?? []]).toEqual(host.map((h) => h[0]));
      expect([...run.readSync?.(1) ?? []]).toEqual(host.map((h) => h[1]));
    }), { numRuns: 10 });
  });
});

describe("draws", () => {
  test("uniforms fill [0, 1) evenly", () => {
    const { data, shape, dtype } = hostUniform(7, "w", [100, 200]);
    expect([dtype, shape]).toEqual(["f32", [100, 200]]);
    const bins = new Array<number>(16).fill(0);
    for (const x of data) bins[Math.floor(x * 16)]++;
    const chi2 = bins.reduce((s, b) => s + (b - 1250) ** 2 / 1250, 0);
    expect(chi2).toBeLessThan(37.7); // 0.999 quantile of chi-square with 15 degrees of freedom
    expect(uniformOf(0xffffffff)).toBe(1 - 2 ** -24);
  });

  test("normals have the moments asked for", () => {
    const n = 40_000, { data } = hostNormal(3, "w", [n], { mean: 1, std: 2 });
    const z = Float64Array.from(data, (x) => (x - 1) / 2), moment = (k: number): number => z.reduce((s, x) => s + x ** k, 0) / n;
    expect(Math.abs(moment(1))).toBeLessThan(4 / Math.sqrt(n));
    expect(Math.abs(moment(2) - 1)).toBeLessThan(4 * Math.sqrt(2 / n));
    expect(Math.abs(moment(3))).toBeLessThan(4 * Math.sqrt(15 / n));
    expect(Math.abs(moment(4) - 3)).toBeLessThan(4 * Math.sqrt(96 / n));
  });

  test("seed, stream and step each change the numbers; the shape does not", () => {
    const base = hostUniform(1, "a", [6]).data;
    expect(hostUniform(1, "a", [2, 3]).data).toEqual(base);
    for (const other of [hostUniform(2, "a", [6]), hostUniform(1, "b", [6]), hostUniform(1, "a", [6], { step: 1 })]) expect(other.data).not.toEqual(base);
  });

  test("a seed that does not fit in a word is refused", () => {
    for (const seed of [-1, 0.5, 2 ** 32, NaN]) expect(() => hostUniform(seed, "a", [1])).toThrow(ConfigError);
  });

  test("names hash as FNV-1a says", () => {
    expect([hashName(""), hashName("a"), hashName("foobar")]).toEqual([0x811c9dc5, 0xe40c292c, 0xbf9cf968]);
  });

  test("a permutation permutes", () => {
    fc.assert(fc.property(word, fc.string(), fc.integer({ min: 0, max: 60 }), (seed, stream, n) => {
      const p = permutation(seed, stream, n);
      expect(Int32Array.from(p).sort()).toEqual(Int32Array.from({ length: n }, (_, i) => i));
      expect(permutation(seed, stream, n)).toEqual(p);
    }));
  });

  test("every order of three is equally frequent", () => {
    const counts = new Map<string, number>();
    for (let seed = 0; seed < 6000; seed++) { const key = permutation(seed, "s", 3).join(""); counts.set(key, (counts.get(key) ?? 0) + 1); }
    expect(counts.size).toBe(6);
    for (const c of counts.values()) expect(Math.abs(c - 1000)).toBeLessThan(120);
  });

  test("integers stay in range", () => {
    fc.assert(fc.property(word, fc.nat(1000), fc.integer({ min: 1, max: 2 ** 32 - 1 }), (seed, i, n) => { const x = hostInteger(seed, "i", i, n); return x >= 0 && x < n && Number.isInteger(x); }));
  });
});
