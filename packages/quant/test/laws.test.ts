/** What holds of every format: bounds of the error, idempotence, independence of blocks, the nearest value, and which format wins where. */
import { ShapeError, fromF16, tensor, toF16 } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { bytesOfQuantized, codeAt, dequantize, formats, midpoints, quantize, scaleValues, searchOf } from "../src/index.ts";
import type { FormatName, Quantized } from "../src/index.ts";
import { roundF16 } from "../src/encode.ts";

const names = ["nf4", "fp4", "int4", "int8", "dynamic8", "udynamic8", "q8_0", "q4_0", "mxfp4"] as const;
type Name = (typeof names)[number];
const block = (name: FormatName): fc.Arbitrary<number> => (formats[name].blocks === null ? fc.constantFrom(1, 2, 3, 8, 31) : fc.constantFrom(...formats[name].blocks.filter((size) => size <= 128)));

const finite = fc.oneof(
  fc.integer({ min: -64, max: 64 }).map((k) => k / 16),
  fc.float({ noNaN: true, min: Math.fround(-60000), max: Math.fround(60000) }),
  fc.integer({ min: -127, max: 8 }).map((e) => 2 ** e),
);
/** A format, a block size and values that suit it (none negative for the unsigned map). */
const drawn = fc.constantFrom<Name>(...names).chain((name) => fc.record({ name: fc.constant(name), block: block(name), x: fc.array(finite, { maxLength: 140 }).map((list) => Float32Array.from(name === "udynamic8" ? list.map(Math.abs) : list)) }));
const make = (x: Float32Array, name: FormatName, size?: number): Quantized => quantize(x, [x.length], { format: name, block: size });
const absmaxOf = (x: Float32Array, b: number, size: number): number => x.subarray(b * size, (b + 1) * size).reduce((m, v) => Math.max(m, Math.abs(v)), 0);

/** Half the widest gap of the codebook, in units of the largest magnitude. */
const half: Partial<Record<Name, number>> = { nf4: (1 - 0.6961928009986877) / 2, fp4: 1 / 6, int4: 1 / 14, int8: 1 / 254, dynamic8: 0.0070313, udynamic8: 0.0035157 };
/** The closed form of each format's bound. a: largest magnitude of the block. */
function bound(name: Name, x: number, a: number): number {
  const h = half[name], rounding = a * 2 ** -22 + 2 ** -149;
  if (h !== undefined) return a * h + rounding;
  const f16 = 2 ** -11 * a + 2 ** -25 * 127; // d is rounded to f16: relative, and absolute where it is subnormal
  if (name === "q8_0") return a / 254 + f16 + rounding;
  if (name === "q4_0") return a / 8 + f16 + rounding; // values opposite to the largest end at 7 of 8 steps
  const s = 2 ** Math.max(-127, Math.floor(Math.log2(Math.fround(a) || 2 ** -149) + 1e-6) - 2);
  return Math.max(s, Math.abs(x) - 6 * s, Math.abs(x) - 3 * s > s ? a / 4 : 0) + rounding;
}

describe("laws of every format", () => {
  it("|x - dq(q(x))| within the block's bound", () => {
    fc.assert(fc.property(drawn, ({ name, block: size, x }) => {
      dequantize(make(x, name, size)).forEach((v, e) => {
        const b = bound(name, x[e], absmaxOf(x, Math.floor(e / size), size));
        if (Math.abs(v - x[e]) > b) throw new Error(`${name}: ${x[e]} became ${v}, bound ${b}`);
      });
    }), { numRuns: 300 });
  });

  it("q(dq(q(x))) = q(x); of the signed map where the largest magnitude is positive (it has no -1)", () => {
    fc.assert(fc.property(drawn, ({ name, block: size, x }) => {
      if (name === "dynamic8") for (let b = 0; b * size < x.length; b++) x[b * size] = absmaxOf(x, b, size);
      for (let b = 0; b * size < x.length; b++) { const a = absmaxOf(x, b, size); fc.pre(a === 0 || a >= 2 ** -110); }       // shares of a smaller scale are no f32
      const q = make(x, name, size), again = make(dequantize(q), name, size);
      expect(again.codes).toEqual(q.codes);
      expect(again.scales.values.map((v) => v + 0)).toEqual(q.scales.values.map((v) => v + 0)); // -0 and 0 are one scale
    }), { numRuns: 300 });
  });

  it("double quantization keeps the codes: q(dq(q(x))) has the codes of q(x)", () => {
    const x = normal(64 * 40, 5), q = quantize(x, [40, 64], { format: "nf4", doubleQuant: true });
    expect(quantize(dequantize(q), [40, 64], { format: "nf4" }).codes).toEqual(q.codes);
  });

  it("int4 and int8: code = round(x * fround(levels / max|x|)), ties to even, of both signs", () => {
    const half = (v: number): number => { const low = Math.floor(v); return v - low === 0.5 ? low + (low & 1) : Math.round(v); };
    fc.assert(fc.property(fc.constantFrom(...([["int4", 7, 8], ["int8", 127, 0]] as const)), fc.constantFrom(32, 5), fc.array(finite, { minLength: 1, maxLength: 70 }), ([name, levels, zero], size, list) => {
      const x = Float32Array.from(list), q = make(x, name, size);
      x.forEach((v, e) => {
        const a = absmaxOf(x, Math.floor(e / size), size), code = a === 0 ? 0 : a < 2 ** -118 ? half((v / a) * levels) : half(Math.fround(v * Math.fround(levels / a)));
        expect(codeAt(q, e)).toBe((code + zero) & (name === "int4" ? 15 : 255));
      });
    }), { numRuns: 100 });
  });

  it("blocks are independent: a block alone has the same codes and scale, wherever it lies and however odd its size", () => {
    fc.assert(fc.property(drawn, ({ name, block: size, x }) => {
      const q = make(x, name, size);
      for (let b = 0; (b + 1) * size <= x.length; b++) {
        const alone = make(x.slice(b * size, (b + 1) * size), name, size);
        expect(alone.scales.values[0]).toBe(q.scales.values[b]);
        for (let e = 0; e < size; e++) expect(codeAt(q, b * size + e)).toBe(codeAt(alone, e));
      }
    }), { numRuns: 100 });
  });

  it("element 2k lies in the high half of byte k, 2k + 1 in the low half, and an odd end is followed by the code of 0", () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 0, max: 15 }), { minLength: 1, maxLength: 32 }), (codes) => {
      const q = make(Float32Array.from([...codes.map((c) => formats.nf4.table[c])]), "nf4", 32);
      fc.pre(codes.includes(0) || codes.includes(15));
      const digits = codes.map((c) => c.toString(16)).join("");
      expect(Buffer.from(q.codes).toString("hex")).toBe(digits.length % 2 === 1 ? `${digits}7` : digits);
    }));
  });

  it("values are the nearest of the codebook, ties to the lower one", () => {
    for (const name of ["nf4", "fp4", "dynamic8", "udynamic8"] as const) {
      const { codes, above, start } = searchOf(formats[name].table), values = Float32Array.from(codes, (c) => formats[name].table[c]), bits = new Uint32Array(1), s = new Float32Array(bits.buffer);
      const around = [...midpoints(values)].filter(Number.isFinite).flatMap((t) => { s[0] = t; const b = bits[0]; return [-1, 0, 1].map((by) => { bits[0] = b + by; return s[0]; }); });
      const check = (v: number): void => {
        s[0] = v;
        const low = start[bits[0] >>> 16], rank = s[0] > above[low] ? low + 1 : low;
        const naive = values.findIndex((_, r) => r === values.length - 1 || s[0] <= Math.fround(values[r] + values[r + 1]) / 2);
        if (rank !== naive) throw new Error(`${name}: ${s[0]} found ${values[rank]}, nearest is ${values[naive]}`);
      };
      around.forEach(check);
      fc.assert(fc.property(fc.float({ noNaN: true, min: -1, max: 1 }), check), { numRuns: 200 });
    }
  });

  it("views quantize like their copies: parts of arrays, and permuted and sliced tensors", async () => {
    const whole = normal(12 * 70, 3), sub = whole.subarray(13, 13 + 700);
    for (const name of names.filter((each) => each !== "udynamic8")) expect(make(sub, name), name).toEqual(make(sub.slice(), name));
    const x = tensor(whole, { shape: [12, 70] }), copy = new Float32Array(9 * 70);
    for (let i = 0; i < 70; i++) for (let j = 0; j < 9; j++) copy[i * 9 + j] = whole[(j + 2) * 70 + i];
    const view = await x.slice(0, 2, 11).permute([1, 0]).data();
    expect(quantize(Float32Array.from(view), [70, 9], { format: "nf4" })).toEqual(quantize(copy, [70, 9], { format: "nf4" }));
  });

  it("scales are rounded to f16 as everywhere", () => {
    fc.assert(fc.property(fc.oneof(fc.float({ noNaN: true, min: -70000, max: 70000 }), fc.float({ noNaN: true, min: Math.fround(-1e-4), max: Math.fround(1e-4) }), fc.nat(2 ** 16 - 1).map((bits) => fromF16(bits)).filter(Number.isFinite).chain((d) => fc.constantFrom(d, Math.fround(d * (1 + 2 ** -11)), Math.fround(d * (1 - 2 ** -12))))), (d) => {
      if (!Object.is(roundF16(d), fromF16(toF16(d)))) throw new Error(`${d}: ${roundF16(d)} is not ${fromF16(toF16(d))}`);
    }), { numRuns: 2000 });
  });

  it("MXFP4's scale is 2^(floor(fround(log2 a)) - 2)", () => {
    fc.assert(fc.property(fc.integer({ min: -140, max: 125 }), fc.integer({ min: -600, max: 600 }), (e, ulps) => {
      const a = Math.fround(2 ** e * (1 + ulps * 2 ** -24));
      fc.pre(a > 0);
      expect(make(Float32Array.of(a), "mxfp4").scales.values[0]).toBe(2 ** Math.max(-127, Math.floor(Math.fround(Math.log2(a))) - 2));
    }), { numRuns: 500 });
  });

  it("an all-zero block has scale 0 and becomes zeros", () => {
    for (const name of names) expect(dequantize(make(new Float32Array(64), name)).map((v) => v + 0), name).toEqual(new Float32Array(64));
    expect(make(new Float32Array(2), "nf4").codes).toEqual(Uint8Array.of(0x77));
  });
});

/** A deterministic stream of numbers in (0, 1). */
function* uniform(seed: number): Generator<number, never> {
  for (let state = seed >>> 0; ; ) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield ((state >>> 8) + 0.5) / 2 ** 24;
  }
}
function normal(n: number, seed: number): Float32Array {
  const u = uniform(seed);
  return Float32Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(u.next().value)) * Math.cos(2 * Math.PI * u.next().value));
}
const rms = (x: Float32Array, q: Quantized): number => Math.sqrt(dequantize(q).reduce((sum, v, e) => sum + (v - x[e]) ** 2, 0) / x.length);

describe("which format wins", () => {
  const n = 1 << 16, bell = normal(n, 1), u = uniform(2), flat = Float32Array.from({ length: n }, () => 2 * u.next().value - 1);
  it.each([32, 64, 128])("block %d: NF4 beats int4 and FP4 on normal data and loses to int4 on uniform data", (size) => {
    expect(rms(bell, make(bell, "nf4", size))).toBeLessThan(rms(bell, make(bell, "int4", size)));
    expect(rms(bell, make(bell, "nf4", size))).toBeLessThan(rms(bell, make(bell, "fp4", size)));
    expect(rms(flat, make(flat, "nf4", size))).toBeGreaterThan(rms(flat, make(flat, "int4", size)));
  });

  it("double quantization adds under 0.1 % to the error and saves 0.37 bit a parameter", () => {
    const plain = make(bell, "nf4"), nested = quantize(bell, [n], { format: "nf4", doubleQuant: true });
    expect(rms(bell, nested) / rms(bell, plain) - 1).toBeLessThan(0.001);
    expect((8 * bytesOfQuantized(plain)) / n).toBe(4.5);
    expect((8 * bytesOfQuantized(nested)) / n).toBe(4 + 8 / 64 + 32 / (64 * 256));
    scaleValues(nested.scales, n / 64).forEach((s, b) => expect(Math.abs(s - plain.scales.values[b])).toBeLessThan(0.01 * plain.scales.values[b]));
  });
});

describe("arrays that are given", () => {
  it("hold the codes and scales afterwards, whatever they held, and only of the same form", () => {
    fc.assert(fc.property(drawn, ({ name, block: size, x }) => {
      const q = make(x, name, size), into = { ...q, codes: q.codes.map((c) => ~c), scales: { values: q.scales.values.map((s) => s + 1) } };
      expect(quantize(x, [x.length], { format: name, block: size, into })).toEqual(q);
      expect(into.codes).toEqual(q.codes);
    }), { numRuns: 100 });
    const q = make(new Float32Array(64), "nf4");
    expect(() => quantize(new Float32Array(65), [65], { format: "nf4", into: q })).toThrow(ShapeError);
    expect(() => quantize(new Float32Array(64), [64], { format: "nf4", block: 32, into: q })).toThrow(ShapeError);
    expect(() => quantize(new Float32Array(64), [64], { format: "fp4", into: q })).toThrow(/into is nf4 \[64\] in blocks of 64/);
  });
});
