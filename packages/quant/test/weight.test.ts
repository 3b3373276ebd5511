/** A quantized weight as a tensor: its numbers are the host's, it stays quantized whatever is done with it, and training never makes it whole. */
import { type Tensor, assign, clearPlans, explain, fromHost, getDevice, memory, setDevice, store, tensor } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { wasmSync } from "@adjoint/wasm";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ggufTypes } from "@adjoint/io";
import { type FormatName, type GgufBlockType, type Quantized, blocksOf, codeAt, decodedGgufTypes, dequantize, formats, fromGguf, ggufBytesHeld, isGgufBlockType, quantize, quantizedOf, quantizedWeight, scaleValues } from "../src/index.ts";

const before = getDevice();
beforeAll(() => { setDevice(wasmSync()); });
afterAll(() => { setDevice(before); });

const data = (n: number, seed = 1): Float32Array => Float32Array.from({ length: n }, (_, i) => Math.sin(seed + i * 1.7) * Math.exp(Math.cos(i * 0.31)));
const matrix = (m: number, n: number, seed: number): Tensor => fromHost({ dtype: "f32", shape: [m, n], data: data(m * n, seed) });
const names = (Object.keys(formats) as FormatName[]).filter((name) => formats[name].encodes);
/** [8, 256] of any bytes in a type of GGUF files; the bytes of f16 numbers are those of small ones. */
const ofGguf = (type: GgufBlockType): Quantized => {
  const { block, bytes: size } = ggufTypes[type], bytes = Uint8Array.from({ length: 2048 / block * size }, (_, i) => ((i * 2654435761) >>> 13) & 0x2f);
  return fromGguf(type, bytes, [8, 256]);
};

test.each(names.flatMap((format) => [[format, false], ...(formats[format].scale === "f32" ? [[format, true]] : [])] as [FormatName, boolean][]))("%s, double quantization %s: numbers, and what comes back", async (format, doubleQuant) => {
  const q = quantize(format === "udynamic8" ? data(96 * 3).map(Math.abs) : data(96 * 3), [3, 96], { format, doubleQuant }), w = quantizedWeight(q, "w");
  expect(await w.data()).toEqual(dequantize(q));
  expect(await quantizedOf(w)?.host()).toEqual(q);
  expect(await w.data()).toEqual(dequantize(q));
});
test.each(decodedGgufTypes.filter(isGgufBlockType))("%s: scales and minima; a product decodes as the host does", async (type) => {
  const q = ofGguf(type), w = quantizedWeight(q), x = matrix(3, 256, 5), s = scaleValues(q.scales, blocksOf(q)), m = q.mins === undefined ? null : scaleValues(q.mins, blocksOf(q));
  const own = Float32Array.from({ length: 2048 }, (_, e) => { const b = Math.floor(e / q.block), v = Math.fround(q.format.table[codeAt(q, e)] * s[b]); return m === null ? v : v - m[b]; });
  expect(own.some((v) => v !== 0)).toBe(true);
  expect(dequantize(q)).toEqual(own);
  expect(await w.data()).toEqual(own);
  expect(await quantizedOf(w)?.host()).toEqual(q);
  expect(quantizedOf(w)?.bytes).toBe(ggufBytesHeld(type, 2048));
  expect(await x.matmul(w.T).data()).toEqual(await x.matmul(fromHost({ dtype: "f32", shape: [8, 256], data: own }).T).data());
});

describe("training through a quantized weight", () => {
  const q = quantize(data(256 * 192), [256, 192], { format: "nf4", doubleQuant: true });
  const step = (w: Tensor, A: Tensor, B: Tensor, x: Tensor): { loss: Tensor; dA: Tensor; dB: Tensor; dx: Tensor } => {
    const y = x.matmul(w.T).add(x.matmul(A.T).matmul(B.T)), loss = y.square().mean(), g = gradients(loss, { A, B, x });
    return { loss, dA: g.A!, dB: g.B!, dx: g.x! };
  };
  test("value and gradients are those of the decoded weight, bit for bit", async () => {
    for (const m of [1, 3, 4, 9, 64]) {
      const x = matrix(m, 192, 3), A = matrix(4, 192, 4), B = matrix(256, 4, 5), coded = step(quantizedWeight(q), A, B, x), plain = step(fromHost({ dtype: "f32", shape: [256, 192], data: dequantize(q) }), A, B, x);
      for (const key of ["loss", "dA", "dB", "dx"] as const) expect(await coded[key].data(), `${key} of ${m} rows`).toEqual(await plain[key].data());
    }
  });
  test("no plan holds it whole, and a steady step moves no counter", async () => {
    const w = quantizedWeight(q), A = store(matrix(4, 192, 4), "A"), B = store(matrix(256, 4, 5), "B"), x = matrix(16, 192, 3);
    const run = async (): Promise<number> => { const { loss, dA, dB } = step(w, A, B, x); assign([A, B], [A.sub(dA.mul(1e-4)), B.sub(dB.mul(1e-4))]); return loss.item(); };
    const { plan, kernels } = explain(step(w, A, B, x).dA, step(w, A, B, x).dx);
    expect(plan.buffers.filter((b) => b.kind !== "store" && b.length >= 256 * 192)).toEqual([]);
    expect(plan.arenaBytes).toBeLessThan(4 * 256 * 192);
    expect(kernels).toMatch(/b in 4 bits/);
    const first = await run();
    await run();
    const { plansMade, modules, pages, arenaBytes, bufferBytes } = memory();
    await run();
    expect(await run()).toBeLessThan(first);
    expect(memory()).toMatchObject({ plansMade, modules, pages, arenaBytes, bufferBytes });
    expect(quantizedOf(w)?.bytes).toBe(256 * 192 / 2 + 256 * 192 / 64 + 4 * (16 + 3 + 256 + 1));
    clearPlans();
  });
});

test("other codes for the same weight", async () => {
  const w = quantizedWeight(quantize(data(256), [4, 64], { format: "nf4" }), "layer.weight"), next = quantize(data(256, 2), [4, 64], { format: "nf4" }), x = tensor([[1, 2, 3, 4]]);
  await x.matmul(w).data();
  quantizedOf(w)?.set(next);
  expect(await w.data()).toEqual(dequantize(next));
  expect(() => quantizedOf(w)?.set(quantize(data(256, 2), [4, 64], { format: "nf4", doubleQuant: true }))).toThrow(/layer.weight: nf4 \[4, 64\]/);
  expect(() => quantizedWeight({ ...next, codes: next.codes.slice(1) }, "layer.weight")).toThrow(/"layer.weight": has 127 bytes of codes/);
  expect(quantizedOf(x)).toBe(null);
});
