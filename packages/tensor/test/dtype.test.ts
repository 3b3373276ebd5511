/** Half precision: rounding to nearest even, against PyTorch's bits; arrays keep their bits through a tensor. */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { convertArray, createReference, decode, encode, fromBf16, fromF16, setDevice, tensor, toBf16, toF16 } from "@adjoint/tensor";

interface Golden { narrow: [bits: number, bf16: number, f16: number, nan: boolean][]; widen_f16: [bits: number, f32: number][] }
const golden = JSON.parse(readFileSync(new URL("../../../fixtures/data/dtype/golden.json", import.meta.url), "utf8")) as Golden;
const bits = new Uint32Array(1), float = new Float32Array(bits.buffer);
const fromBits = (b: number): number => { bits[0] = b; return float[0]; };

describe("casts to f16 and bf16 round to nearest even", () => {
  it("torch's bits for ties, subnormals, overflow and NaN", () => {
    expect(golden.narrow.length).toBeGreaterThan(50);
    for (const [b, bf16, f16, nan] of golden.narrow) {
      const x = fromBits(b);
      if (nan) { expect(fromBf16(toBf16(x))).toBeNaN(); expect(fromF16(toF16(x))).toBeNaN(); continue; }
      expect(toBf16(x), `bf16 of ${x}`).toBe(bf16);
      expect(toF16(x), `f16 of ${x}`).toBe(f16);
    }
  });
  it("every f16 pattern widens and narrows to itself, and to torch's f32", () => {
    const changed = Array.from({ length: 65536 }, (_, b) => b).filter((b) => !Number.isNaN(fromF16(b)) && toF16(fromF16(b)) !== b);
    expect(changed).toEqual([]);
    for (const [b, f32] of golden.widen_f16) if (!Number.isNaN(fromBits(f32))) expect(Object.is(fromF16(b), fromBits(f32)), `f16 ${b}`).toBe(true);
  });
  it("law: no other half is nearer", () => {
    fc.assert(fc.property(fc.double({ min: -70000, max: 70000, noNaN: true }), (x) => {
      const b = toF16(x), d = Math.abs(fromF16(b) - x);
      if (!Number.isFinite(fromF16(b))) return Math.abs(x) >= 65520;
      return [b - 1, b + 1].every((n) => ((n ^ b) & 0x8000) !== 0 || !(Math.abs(fromF16(n & 0xffff) - x) < d));
    }));
  });
  it("the graph's cast is the host's", async () => {
    setDevice(createReference());
    const xs = golden.narrow.filter(([, , , nan]) => !nan).map(([b]) => fromBits(b)).filter((x) => Number.isFinite(x));
    for (const dtype of ["f16", "bf16"] as const) {
      const { data } = await tensor(new Float32Array(xs)).cast(dtype).host();
      expect([...data]).toEqual(xs.map((x) => encode(dtype, x)));
      expect([...(await tensor(new Float32Array(xs)).cast(dtype).data())]).toEqual([...data].map((b) => decode(dtype, b)));
    }
  });
});

describe("arrays are converted as their elements are", () => {
  const same = (found: ArrayLike<number>, wanted: readonly number[]): void => { const at = wanted.findIndex((v, i) => !Object.is(v, found[i])); if (at >= 0 || found.length !== wanted.length) throw new Error(`element ${at}: ${found[at]}, not ${wanted[at]}`); };
  it("every half, to f32 and f64", () => {
    const halves = Uint16Array.from({ length: 65536 }, (_, i) => i);
    for (const from of ["f16", "bf16"] as const) for (const to of ["f32", "f64"] as const) same(convertArray(halves, from, to), Array.from(halves, (h) => decode(from, h)));
  });
  it("f32 and f64 to halves and each other: every pattern beside every tie, subnormal numbers, what is not finite", () => {
    const words = new Uint32Array(3 * 65536), x = new Float32Array(words.buffer), low = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x5000];
    for (let i = 0; i < words.length; i++) words[i] = ((i & 65535) << 16) | low[((i >> 16) * 4 + (i % 4) + (i & 8)) % low.length];
    const doubles = Float64Array.from(x, (v) => v * (1 + 2 ** -30));
    for (const to of ["f16", "bf16", "f64", "f32"] as const) {
      same(convertArray(x, "f32", to), Array.from(x, (v) => encode(to, v)));
      same(convertArray(doubles, "f64", to), Array.from(doubles, (v) => encode(to, v)));
    }
  });
});
