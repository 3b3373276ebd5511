/** fakeQuantize: the host's numbers, and the straight-through gradient. */
import { type Backend, createReference, fromHost, getDevice, setDevice, tensor } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { wasmSync } from "@adjoint/wasm";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { type FormatName, dequantize, fakeQuantize, formats, quantize, searchOf } from "../src/index.ts";

const before = getDevice();
afterAll(() => { setDevice(before); });
const grid = fc.integer({ min: -48, max: 48 }).map((k) => k / 16), names = ["nf4", "fp4", "int4", "int8", "dynamic8", "udynamic8"] as const;

describe.each<[string, () => Backend]>([["reference", () => createReference()], ["wasm", () => wasmSync()]])("%s", (_name, make) => {
  test("y = dequantize(quantize(x)); dx = dy between the ends of the code, 0 beyond", async () => {
    setDevice(make());
    await fc.assert(fc.asyncProperty(fc.constantFrom<FormatName>(...names), fc.array(grid, { minLength: 1, maxLength: 80 }), fc.constantFrom(32, 64), async (format, values, block) => {
      const x = Float32Array.from(values), t = fromHost({ dtype: "f32", shape: [x.length], data: x }), y = fakeQuantize(t, { format, block }), g = Float32Array.from(values, (_, i) => (i % 7) - 3.5);
      const dx = gradients(y.mul(fromHost({ dtype: "f32", shape: [g.length], data: g })).sum(), [t])[0]!;
      const want = dequantize(quantize(x, [x.length], { format, block })), got = await y.data();
      for (let i = 0; i < x.length; i++) expect(got[i] === want[i], `${format} ${x[i]}: ${got[i]}, want ${want[i]}`).toBe(true);
      const { table } = formats[format], least = Math.min(...table), largest = Math.max(...table);
      const inside = values.map((v, i) => { const scale = values.slice(i - (i % block), i - (i % block) + block).reduce((m, u) => Math.max(m, Math.abs(u)), 0); return v >= Math.fround(scale * least) && v <= Math.fround(scale * largest); });
      expect([...(await dx.data())]).toEqual(inside.map((yes, i) => (yes ? g[i] : 0)));
    }), { numRuns: 40, seed: 1 });
  });
  test("numbers off the grid too, and beside thresholds, where a short block divides and a whole one takes a product", async () => {
    setDevice(make());
    let differ = 0;
    for (const format of names) {
      const { above } = searchOf(formats[format].table), near = (a: number): number[] => [a, ...[...above.subarray(0, 15)].flatMap((t) => [Math.fround(t * a), Math.fround(t * a * (1 + 2 ** -23))]).filter((v) => Number.isFinite(v) && Math.abs(v) < a)].slice(0, 31);
      const x = Float32Array.from([...Array.from({ length: 160 }, (_, i) => Math.sin(1.7 * i) * Math.exp(Math.cos(i))), ...[3, 0.7, 11, 1.1, 5.3].flatMap((a) => [...near(a), ...Array<number>(31).fill(0)].slice(0, 31))]);
      for (const from of [0, 160, 191, 222, 253, 284]) {
        const part = x.slice(from, from === 0 ? 160 : from + 31), want = dequantize(quantize(part, [part.length], { format, block: 32 })), padded = Float32Array.of(...part, 0);
        expect(await fakeQuantize(fromHost({ dtype: "f32", shape: [part.length], data: part }), { format, block: 32 }).data()).toEqual(want);
        differ += from > 0 && dequantize(quantize(padded, [32], { format, block: 32 })).some((v, i) => i < 31 && v !== want[i]) ? 1 : 0;
      }
    }
    expect(differ).toBeGreaterThan(3);
  });
  test("a weight learns through its codes", async () => {
    setDevice(make());
    let w = tensor(Array.from({ length: 32 }, (_, i) => Math.cos(i)));
    const target = tensor(Array.from({ length: 32 }, (_, i) => Math.sin(i * 0.7))), losses: number[] = [];
    for (let step = 0; step < 60; step++) {
      const loss = fakeQuantize(w, { format: "int4", block: 32 }).sub(target).square().sum(), dw = gradients(loss, [w])[0]!;
      const next = w.sub(dw.mul(0.1));
      losses.push(await loss.item());
      w = tensor(Float32Array.from(await next.data()));
    }
    expect(losses.at(-1)!).toBeLessThan(losses[0] / 50);
  });
});
test("refuses what it cannot do", () => {
  expect(() => fakeQuantize(tensor([1]), { format: "q4_0" })).toThrow(/q4_0 is not offered/);
  expect(() => fakeQuantize(tensor([1]), { format: "nf4", block: 5 })).toThrow(/block 5 is not a block size of nf4/);
  expect(() => fakeQuantize(tensor(Int32Array.of(1)), { format: "nf4" })).toThrow(/i32 is not f32/);
});
