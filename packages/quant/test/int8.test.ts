/** LLM.int8 on the device: the host's numbers, outliers in full precision, and the gradient of the decoded weight. */
import { type Backend, convertArray, createReference, fromHost, getDevice, type HostArray, setDevice, tensor } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { wasmSync } from "@adjoint/wasm";
import { goldenTensors } from "@adjoint/testing/fixtures";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { dequantize, int8Linear, int8Matmul, quantize, quantizeArray, quantizedWeight } from "../src/index.ts";

const before = getDevice();
afterAll(() => { setDevice(before); });
const matrix = (data: Float32Array, ...shape: number[]): ReturnType<typeof fromHost> => fromHost({ dtype: "f32", shape, data });

describe.each<[string, () => Backend]>([["reference", () => createReference()], ["wasm", () => wasmSync()]])("%s", (_name, make) => {
  test("int8Matmul is int8Linear, whatever the outliers; dx = g dq(W)", async () => {
    setDevice(make());
    const number = fc.integer({ min: -120, max: 120 }).map((k) => k / 16);
    await fc.assert(fc.asyncProperty(fc.constantFrom(1, 2, 5), fc.constantFrom(1, 3, 8, 33), fc.constantFrom(1, 4, 7), fc.constantFrom(0, 2, 6), fc.infiniteStream(number), async (rows, columns, out, threshold, stream) => {
      const draw = (n: number): Float32Array => Float32Array.from({ length: n }, () => stream.next().value ?? 0);
      const x = draw(rows * columns), q = quantize(draw(out * columns), [out, columns], { format: "int8", block: columns }), w = quantizedWeight(q), t = matrix(x, 1, rows, columns), g = draw(rows * out);
      const y = int8Matmul(t, w, { threshold }), want = int8Linear(x, rows, q, { threshold }), dx = gradients(y.mul(matrix(g, 1, rows, out)).sum(), [t])[0]!, got = await y.data();
      want.forEach((v, i) => { if (!(Math.abs(got[i] - v) <= 5e-7 * 64 * columns)) throw new Error(`element ${i}: ${got[i]}, want ${v}`); });
      expect(await dx.data()).toEqual(await matrix(g, 1, rows, out).matmul(matrix(dequantize(q), out, columns)).data());
    }), { numRuns: 25, seed: 1 });
  });
});

test("bitsandbytes's product of the fixture, with outliers and without", async () => {
  setDevice(wasmSync());
  const all = goldenTensors("quant"), get = (name: string): HostArray => { const found = all.get(name); if (found === undefined) throw new Error(name); return found; };
  const f32 = (name: string): Float32Array => { const { data, dtype } = get(name); return Float32Array.from(convertArray(data, dtype, "f32")); };
  const x = f32("int8/x"), bias = f32("int8/bias"), out = bias.length, q = quantizeArray(get("int8/weight"), { format: "int8", block: 32 });
  for (const threshold of [0, 6]) {
    const y = await int8Matmul(matrix(x, 4, 32), quantizedWeight(q), { threshold }).add(matrix(bias, out)).data(), want = f32(`int8/${threshold}/y`);
    want.forEach((v, i) => { expect(Math.abs((y[i]) - v)).toBeLessThan(2e-3 * Math.max(1, Math.abs(v))); });       // the library rounds to f16
  }
});

test("refuses what it cannot do", () => {
  const w = quantizedWeight(quantize(new Float32Array(8).fill(1), [2, 4], { format: "int8", block: 4 }), "layer.weight"), x = tensor([[1, 2, 3]]);
  expect(() => int8Matmul(x, w)).toThrow(/rows of 3, and the weight has 4 columns/);
  expect(() => int8Matmul(x, w, { threshold: -1 })).toThrow(/threshold -1/);
  expect(() => int8Matmul(x, tensor([[1, 2, 3]]))).toThrow(/the weight is f32/);
  expect(() => int8Matmul(x, quantizedWeight(quantize(new Float32Array(8).fill(1), [2, 4], { format: "int8", block: 2 }), "layer.weight"))).toThrow(/layer\.weight is int8 in blocks of 2/);
  expect(() => int8Linear(new Float32Array(4), 1, quantize(new Float32Array(8), [2, 4], { format: "int8", block: 4 }), { bias: new Float32Array(3) })).toThrow(/bias has 3 numbers, the weight 2 rows/);
});
