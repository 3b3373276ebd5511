/**
 * The loops in SIMD equal the encoders bit for bit: on ties, thresholds and beside them, on zeros of both signs, tiny and huge blocks, over the end of a chunk and in a short last block;
 * halves get the codes of what they widen to; and decoding is one look-up, one product and one difference an element.
 */
import { FormatError, ShapeError, fromBf16, fromF16 } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { blocksOf, codeAt, dequantize, formats, fromGguf, midpoints, quantize, quantizeArray, scaleValues, searchOf } from "../src/index.ts";
import type { Quantized } from "../src/index.ts";
import { encoders } from "../src/encode.ts";
import { CHUNK, fast, fastDecode } from "../src/simd.ts";
import type { FastName } from "../src/simd.ts";

const sizes: Readonly<Record<FastName, readonly number[]>> = { nf4: [64, 4096], fp4: [32, 64], int4: [64, 96], int8: [32, 11008], dynamic8: [32, 256], q8_0: [32], q4_0: [32], mxfp4: [32] };
const names = ["nf4", "fp4", "int4", "int8", "dynamic8", "q8_0", "q4_0", "mxfp4"] as const satisfies readonly FastName[];

/** Scales with the sign of zeros, and codes, of `quantize` and of the encoder alone. */
function compare(x: Float32Array, name: FastName, block: number, which: string): void {
  const q = quantize(x, [x.length], { format: name, block }), codes = new Uint8Array(x.length), scaled = new Float32Array(block), bits = new Uint32Array(scaled.buffer);
  for (let from = 0, b = 0; from < x.length; from += block, b++) {
    const to = Math.min(x.length, from + block), absmax = x.subarray(from, to).reduce((m, v) => Math.max(m, Math.abs(v)), 0);
    const scale = encoders[name]?.({ x, from, to, absmax, short: to - from < block, scaled, bits, codes: codes.subarray(from, to) });
    if (!Object.is(scale, q.scales.values[b])) throw new Error(`${name}, ${which}: scale ${b} is ${q.scales.values[b]}, not ${scale}`);
  }
  for (let e = 0; e < x.length; e++) {
    if (codes[e] !== codeAt(q, e)) throw new Error(`${name}, ${which}: element ${e}, ${x[e]}, got code ${codeAt(q, e)}, not ${codes[e]}`);
  }
}
const word = new Uint32Array(1), float = new Float32Array(word.buffer);
const beside = (v: number, ulps: number): number => { float[0] = v; word[0] += ulps; return float[0]; };
/** Where a format's code changes, for a block whose largest magnitude is `top`. */
const edges: Readonly<Record<FastName, readonly number[]>> = {
  nf4: [...midpoints(formats.nf4.table)].filter(Number.isFinite), fp4: [...searchOf(formats.fp4.table).above].filter(Number.isFinite),
  dynamic8: [...midpoints(formats.dynamic8.table)].filter(Number.isFinite), int4: Array.from({ length: 14 }, (_, i) => (i - 6.5) / 7), int8: Array.from({ length: 254 }, (_, i) => (i - 126.5) / 127), q8_0: Array.from({ length: 254 }, (_, i) => (i - 126.5) / 127), q4_0: Array.from({ length: 16 }, (_, i) => (i - 7.5) / 8),
  mxfp4: [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5].flatMap((v) => [v / 4, -v / 4, v / 7, -v / 7]),
};

/** Largest magnitudes at which a rule of scales changes. */
const special = [1.5 * 2 ** -124, 2 ** -123, -(2 ** -126), 2 ** -117, -1.5 * 2 ** -110, 2 ** -102, beside(1, -1), beside(0.25, -300), -beside(2 ** -30, -511), beside(8, -513), 2 ** -25 * 127, 1.01 * 2 ** -25 * 127, 2 ** -22, -1.01 * 2 ** -22, 2 ** -14 * 127, beside(2 ** -11, -1), 65519 * 8, -3e5];

describe("loops in SIMD", () => {
  it("are those that run here: Node has SIMD", () => {
    for (const name of names) for (const input of ["f32", "f16", "bf16"] as const) expect(fast(name, input), name).not.toBe(null);
    for (const key of ["4", "8", "4 mins"] as const) expect(fastDecode(key), key).not.toBe(null);
  });

  it("equal the encoders over the end of a chunk and in a short last block", () => {
    const n = CHUNK + 1024 + 77;
    for (const name of names) {
      const t = edges[name], tops = [1, 7, 127, -8, 0.02];
      const inputs: Readonly<Record<string, (i: number) => number>> = {
        "thresholds": (i) => (i % 32 === 0 ? tops[(i >> 5) % 5] : t[i % t.length] * tops[(i >> 5) % 5]),
        "beside thresholds": (i) => (i % 32 === 31 ? 1 : beside(t[i % t.length], ((i >> 4) % 5) - 2)),
        "waves": (i) => Math.sin(i * 12.9898) * 2 ** ((i >> 6) % 30 - 20),
        "special tops": (i) => special[(i >> 5) % special.length] * (i % 32 === 17 ? 1 : t[(i * 7) % t.length]),
        "tiny blocks and zeros": (i) => Math.sin(i) * [2 ** -130, 0, 2 ** -24, 0.02, 2 ** -122, -0, 2 ** -14 * 127][(i >> 6) % 7],
      };
      for (const [which, input] of Object.entries(inputs)) for (const block of sizes[name]) compare(Float32Array.from({ length: n }, (_, i) => input(i)), name, block, which);
    }
  });

  it("equal the encoders on whatever is drawn: ties of largest magnitudes, zeros, subnormal numbers, scales at the ends of f16", () => {
    const value = fc.oneof(fc.integer({ min: -128, max: 128 }).map((k) => k / 16), fc.constantFrom(0, -0, 8, -8, 2 ** -149, -(2 ** -126), 65520, 2 ** -25 * 127), fc.float({ noNaN: true, min: -60000, max: 60000 }));
    fc.assert(fc.property(fc.constantFrom(...names), fc.array(value, { minLength: 32, maxLength: 140 }), fc.constantFrom(0, 0, -20, 13), fc.integer({ min: -150, max: 100 }), (name, list, by, far) => {
      const e = name === "q8_0" || name === "q4_0" ? Math.min(by, 1) : by === 13 ? far : by;
      compare(Float32Array.from(list, (v) => v * 2 ** e), name, 32, "drawn");
    }), { numRuns: 600 });
  });

  it("leave what is not finite, and scales beyond f16, to the error that names the element", () => {
    for (const name of names) {
      for (const [at, bad] of [[70, NaN], [33, -Infinity], [CHUNK + 40, Infinity]] as const) {
        const x = new Float32Array(CHUNK + 96).fill(0.5);
        x[at] = bad;
        expect(() => quantize(x, [x.length], { format: name, name: "W" }), name).toThrow(new RegExp(`"W": element ${at} is ${bad}`));
      }
    }
    for (const [name, v] of [["q8_0", 65520 * 127], ["q4_0", -65520 * 8]] as const) {
      const x = new Float32Array(96).fill(0.5);
      x[40] = v;
      expect(() => quantize(x, [96], { format: name }), name).toThrow(FormatError);
    }
  });
});

/** Codes and scales of halves beside those of what they widen to. */
function compareHalves(data: Uint16Array, dtype: "f16" | "bf16", format: FastName, block: number): void {
  const q = quantizeArray({ dtype, shape: [data.length], data }, { format, block }), wide = quantize(Float32Array.from(data, dtype === "f16" ? fromF16 : fromBf16), [data.length], { format, block, dtype });
  const bits = (v: Float32Array): Buffer => Buffer.from(v.buffer, v.byteOffset, v.byteLength);
  if (Buffer.compare(q.codes, wide.codes) !== 0 || Buffer.compare(bits(q.scales.values), bits(wide.scales.values)) !== 0) throw new Error(`${format} of ${dtype}, blocks of ${block}: codes or scales differ`);
}

describe("halves in SIMD", () => {
  it("every f16 and every bf16 that a format takes gets the codes of its value", () => {
    for (const name of names) {
      const halves = Uint16Array.from({ length: 65536 }, (_, i) => (i * 40503) & 65535), finite = halves.filter((h) => (h & 0x7c00) !== 0x7c00), ordinary = halves.filter((h) => (h & 0x7f80) < (name.startsWith("q") ? 0x4700 : 0x7f80));
      for (const block of sizes[name]) {
        compareHalves(finite, "f16", name, block);
        compareHalves(finite.map((h) => h & 0x83ff), "f16", name, block); // below 2^-14
        compareHalves(ordinary, "bf16", name, block);
        compareHalves(ordinary.map((h) => (h & 0x81ff) | 0x3c00), "bf16", name, block);
      }
    }
  });

  it("leave what is not finite to the error that names the element", () => {
    for (const name of names) {
      for (const [dtype, bits, value] of [["bf16", 0x7f80, "Infinity"], ["bf16", 0xffc1, "NaN"], ["f16", 0xfc00, "-Infinity"], ["f16", 0x7c01, "NaN"]] as const) {
        const data = new Uint16Array(CHUNK + 96).fill(0x3800);
        data[CHUNK + 40] = bits;
        expect(() => quantizeArray({ dtype, shape: [data.length], data }, { format: name, name: "W" }), name).toThrow(new RegExp(`"W": element ${CHUNK + 40} is ${value}`));
      }
    }
  });
});

describe("decoding in SIMD", () => {
  const plain = (q: Quantized): Float32Array => {
    const s = scaleValues(q.scales, blocksOf(q)), m = q.mins === undefined ? null : scaleValues(q.mins, blocksOf(q)), x = new Float32Array(q.shape.reduce((n, d) => n * d, 1));
    for (let e = 0; e < x.length; e++) {
      const b = Math.floor(e / q.block), v = Math.fround(q.format.table[codeAt(q, e)] * s[b]);
      x[e] = m === null ? v : v - m[b];
    }
    return x;
  };
  const check = (q: Quantized): void => {
    const words = new Uint32Array(dequantize(q).buffer), wanted = new Uint32Array(plain(q).buffer), at = words.findIndex((w, e) => w !== wanted[e]);
    if (at >= 0 || words.length !== wanted.length) throw new Error(`${q.format.name}, blocks of ${q.block}: element ${at} of ${wanted.length} differs`);
  };

  it("is one look-up, one product and one difference, in every format, block size and length", () => {
    const n = 2 * CHUNK + 1000;
    for (const format of Object.values(formats)) {
      for (const block of format.blocks ?? [32, 96, 77, 11008, CHUNK + 32]) {
        for (const short of [0, 1, 37]) {
          const shape = [n - short], blocks = Math.ceil(shape[0] / block), values = Float32Array.from({ length: blocks }, (_, b) => [0.02, -3, 0, -0, 2 ** -140, 1e30][b % 6] * Math.cos(b));
          const q = { format, shape, block, codes: Uint8Array.from({ length: Math.ceil((shape[0] * format.bits) / 8) }, (_, i) => (i * 2654435761) >>> 13), scales: { values }, dtype: "f32" as const };
          check(format.bits === 8 ? q : block === 32 ? { ...q, mins: { values: values.toReversed() } } : q);
          if (block === format.block && format.scale === "f32") check(quantize(plain({ ...q, scales: { values: values.map((v) => Math.min(1, Math.abs(v))) } }), shape, { format: format.encodes ? format.name : "nf4", doubleQuant: true }));
        }
      }
    }
    check(fromGguf("Q4_K", Uint8Array.from({ length: 144 * 5 }, (_, i) => (i % 144 < 4 ? [1, 0x2c, 3, 0x30][i % 144] : (i * 2654435761) >>> 13)), [5, 256]));
  });

  it("goes into an array that is given, and only there", () => {
    const q = quantize(Float32Array.from({ length: 200 }, (_, i) => Math.sin(i)), [2, 100], { format: "nf4" }), room = new Float32Array(204).fill(7), into = room.subarray(2, 202);
    expect(dequantize(q, into)).toBe(into);
    expect([...room]).toEqual([7, 7, ...plain(q), 7, 7]);
    expect(() => dequantize(q, room)).toThrow(ShapeError);
  });
});
