import { describe, expect, it } from "vitest";
import fc from "fast-check";
import { type Tensor, createReference, crossEntropySum, planOf, scope, setDevice, store, tensor } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { linearCrossEntropy, rowsPerChunk } from "@adjoint/nn";

const kernels = (values: readonly (Tensor | null)[]): { count: number; products: number; arena: number } => {
  const { spec } = planOf(values.filter((t) => t !== null));
  return { count: spec.kernels.length, products: spec.kernels.filter((k) => k.kind === "contract").length, arena: spec.arenaBytes };
};

describe("linearCrossEntropy", () => {
  it("is the loss of all logits at once, and so are its gradients, whatever the chunk and whoever counts", () => fc.assert(fc.asyncProperty(
    fc.constantFrom(1, 2, 3, 5, 9), fc.constantFrom(1, 3), fc.constantFrom(1, 2, 7), fc.integer({ min: 1, max: 10 }), fc.constantFrom(1, -0.5, 3), fc.infiniteStream(fc.integer({ min: -24, max: 24 })),
    async (N, d, V, chunk, factor, stream) => {
      setDevice(createReference({ name: "fused", fuse: true, arena: true }));
      const next = (n: number): number[] => Array.from({ length: n }, () => (stream.next().value as number) / 16);
      const h = store(tensor(next(N * d), { shape: [N, d] })), w = store(tensor(next(V * d), { shape: [V, d] })), labels = tensor(Int32Array.from(next(N), (x) => (x > 1 ? -100 : x > 0.9 ? V : Math.abs(x * 16) % V)));
      const of = (f: () => { total: Tensor; count: Tensor }): Promise<number[][]> => {
        const { total, count, g } = scope(() => { const { total, count } = f(); return { total, count, g: gradients(total.mul(factor), [h, w]) }; });
        return Promise.all([total, count, ...g].map(async (x) => [...(await x!.data())]));
      };
      const whole = await of(() => crossEntropySum(h.current.matmul(w.T), labels)), cut = await of(() => linearCrossEntropy(h.current, w, labels, { chunk }));
      whole.forEach((x, i) => { x.forEach((v, j) => { expect(Math.abs(v - cut[i][j])).toBeLessThan(2e-6 * (1 + Math.abs(v))); }); });
    }), { numRuns: 25 }));
  it("computes no gradient that nobody asked for, and no chunk of logits twice", () => {
    setDevice(createReference({ name: "fused", fuse: true, arena: true }));
    const h = store(tensor(new Float32Array(96 * 8), { shape: [96, 8] })), w = store(tensor(new Float32Array(5000 * 8), { shape: [5000, 8] })), { total, count } = linearCrossEntropy(h.current, w, tensor(new Int32Array(96)), { chunk: 32 }), chunk = 4 * 32 * 5000, weight = 4 * 5000 * 8;
    const alone = kernels([total, count]), frozen = kernels([total, gradients(total, { h }).h]), both = kernels([total, ...Object.values(gradients(total, { h, w }))]);
    expect([alone.products, frozen.products, both.products]).toEqual([3, 6, 9]);
    expect(alone.arena).toBeLessThan(1.05 * chunk);
    expect(frozen.arena).toBeLessThan(3.05 * chunk);
    expect(both.arena).toBeLessThan(3.05 * chunk + 3 * weight);
  });
  it("cuts rows evenly into multiples of 64 that fit the limit", () => fc.assert(fc.property(fc.integer({ min: 1, max: 20_000 }), fc.integer({ min: 1, max: 300_000 }), (rows, vocabulary) => {
    const step = rowsPerChunk(rows, vocabulary);
    expect(step).toBeGreaterThan(0);
    expect(step).toBeLessThanOrEqual(rows);
    expect(step === 1 || step * vocabulary <= 2 ** 24).toBe(true);
    expect(step === rows || step % 64 === 0 || vocabulary * 64 > 2 ** 24).toBe(true);
  })));
  it("names what does not fit", () => {
    const h = tensor([[1, 2]]), w = tensor([[1, 2], [3, 4]]), y = tensor(Int32Array.of(1));
    expect(() => linearCrossEntropy(h, w, tensor(Int32Array.of(1, 2)))).toThrow("labels");
    expect(() => linearCrossEntropy(h, w, y, { chunk: 0 })).toThrow("chunk is 0");
  });
});
