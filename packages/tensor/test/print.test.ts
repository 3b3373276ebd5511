import { describe, expect, test } from "vitest";
import { printArray } from "../src/print.ts";

const f32 = (shape: number[], values: number[]): string => printArray({ dtype: "f32", shape, data: Float32Array.from(values) });

describe("printArray", () => {
  test("scalars, vectors, matrices", () => {
    expect(f32([], [2.5])).toBe("2.5");
    expect(f32([3], [1, 2, -3])).toBe("[ 1.,  2., -3.]");
    expect(f32([2, 2], [1, 2.5, 0.25, -3])).toBe("[[ 1.00,  2.50],\n [ 0.25, -3.00]]");
    expect(f32([2, 1, 2], [1, 2, 3, 4])).toBe("[[[1., 2.]],\n\n [[3., 4.]]]");
  });
  test("integers, bools, halves", () => {
    expect(printArray({ dtype: "i32", shape: [2], data: Int32Array.of(7, -12) })).toBe("[  7, -12]");
    expect(printArray({ dtype: "bool", shape: [2], data: Uint8Array.of(1, 0) })).toBe("[ true, false]");
    expect(printArray({ dtype: "bf16", shape: [2], data: Uint16Array.of(0x3fc0, 0xbf80) })).toBe("[ 1.5, -1.0]");
  });
  test("not a number, infinite, tiny, huge", () => {
    expect(f32([3], [NaN, Infinity, -1])).toBe("[nan, inf, -1.]");
    expect(f32([2], [1e-6, 1])).toBe("[1.0000e-6, 1.0000e+0]");
    expect(f32([2], [3e20, 1])).toBe("[3.0000e+20,  1.0000e+0]");
  });
  test("long arrays show their edges, long rows wrap", () => {
    expect(f32([2000], Array.from({ length: 2000 }, (_, i) => i))).toBe("[   0.,    1.,    2., ..., 1997., 1998., 1999.]");
    const lines = f32([40], new Array<number>(40).fill(1.25)).split("\n");
    expect(lines.length).toBeGreaterThan(1);
    expect(Math.max(...lines.map((l) => l.length))).toBeLessThanOrEqual(102);
  });
});
