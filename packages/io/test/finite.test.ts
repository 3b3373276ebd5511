/** Numbers of files are finite: the bits say what the values say, wherever they lie. */
import { convertArray, FormatError, type HostArray, hostArray, type TypedArray } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checkFinite } from "../src/index.ts";
import { firstNotFinite } from "../src/finite.ts";

const bits = { f16: [0, 0x8000, 0x7bff, 0xfbff, 0x3ff, 0x7c00, 0xfc00, 0x7c01, 0xfe00], bf16: [0, 0x8000, 0x7f7f, 0xff7f, 0x7f, 0x7f80, 0xff80, 0x7f81, 0xffff] } as const;
const numbers = [0, -0, 1.5, -3, 3.4e38, -3.4e38, 1e-45, NaN, Infinity, -Infinity];

describe("finite", () => {
  it.each(["f32", "f64", "f16", "bf16"] as const)("law: %s, from any start, is looked at as its values are", (dtype) => {
    fc.assert(fc.property(fc.array(fc.nat(8), { maxLength: 9 }), fc.nat(3), (picks, skip) => {
      const whole: TypedArray = hostArray(dtype, skip + picks.length);
      picks.forEach((p, i) => { whole[skip + i] = dtype === "f16" || dtype === "bf16" ? bits[dtype][p] : numbers[p]; });
      const data = whole.subarray(skip), values = Array.from(convertArray(data, dtype, "f64"));
      expect(firstNotFinite({ dtype, shape: [picks.length], data })).toBe(values.findIndex((x) => !Number.isFinite(x)));
    }), { numRuns: 100 });
  });
  it("finds one among many, and names it", () => {
    for (const [dtype, bad] of [["f32", NaN], ["f16", 0xfc00], ["bf16", 0x7f80]] as const) {
      for (const at of [0, 16383, 16384, 49998, 50000]) {
        const array: HostArray = { dtype, shape: [50001], data: hostArray(dtype, 50001).fill(dtype === "f32" ? -3.4e38 : 0x7b7f) };
        expect(checkFinite(array, { file: "m.safetensors", key: "w" })).toBe(array);
        array.data[at] = bad;
        expect(() => checkFinite(array, { file: "m.safetensors", key: "w" })).toThrow(FormatError);
        expect(() => checkFinite(array, { file: "m.safetensors", key: "w" })).toThrow(`m.safetensors: tensor "w": element ${at} is `);
      }
    }
    expect(checkFinite({ dtype: "i32", shape: [1], data: Int32Array.of(0x7f800000) }, { file: "", key: "" })).toBeDefined();
  });
});
