/** Attention as a device with kernels for it gets it: the same values and gradients as the composition, wherever a query sees anything. */
import { describe, expect, it } from "vitest";
import fc from "fast-check";
import { type Backend, type Tensor, attentionKernels, createReference, fromHost, planOf, scalar, setDevice, store, tensor } from "@adjoint/tensor";
import { checkpoint, gradients } from "@adjoint/autograd";
import { type Draw, draws, evaluate, forward, hostOf } from "@adjoint/testing";
import { CausalMask, attention } from "@adjoint/nn";

const plain: Backend = createReference({ name: "fused", fuse: true, arena: true });
/** Says that it has the kernels; nothing runs on it. */
const claims: Backend = { ...forward(plain), name: "claims", composites: new Set(attentionKernels), prepare: (plan) => ({ plan }) };
const small = fc.constantFrom(1, 2, 3), flags = { low: 0, high: 1, integer: true, dtype: "i32" } as const;

describe("attention on a device with kernels for it", () => {
  it("is the composition, and so are its gradients, for every mask with structure", () => fc.assert(fc.asyncProperty(
    fc.tuple(small, small, small, fc.constantFrom(1, 2, 5), fc.constantFrom(1, 4)).chain(([B, KV, G, T, d]) => fc.record({
      xs: fc.tuple(draws([B, T, KV, G, d]), draws([B, T, KV, d]), draws([B, T, KV, d])), real: fc.option(draws([B, T], flags)), segments: fc.option(draws([B, T], flags)), window: fc.option(fc.constantFrom(1, 2)), offset: fc.option(fc.nat(2)), causal: fc.boolean(), cached: fc.boolean(),
    })),
    async ({ xs, real, segments, window, offset, causal, cached }) => {
      const host = (x: Draw): Tensor => fromHost(hostOf(x, "f32"));
      const of = (device: Backend): { values: Tensor[]; composites: number } => {
        setDevice(device);
        const leaves = xs.map(host), [a, b, c] = leaves, q = a.permute([0, 2, 3, 1, 4]), [k, v] = cached ? [b, c].map((x) => x.reshape([x.shape[0], x.shape[2], x.shape[1], x.shape[3]])) : [b, c].map((x) => x.permute([0, 2, 1, 3]));
        const T = q.shape[3], mask = causal ? new CausalMask({ queries: T, window, offset: offset === null ? null : scalar(offset, "i32"), padding: real && host(real), segments: segments && host(segments) }) : null;
        const y = attention(q, k, v, { mask }), seen = mask ? y.mul(mask.dense.cast("f32").amax(-1)) : y, weights = tensor(Float32Array.from({ length: y.size }, (_, i) => ((i * 5) % 11) / 4 - 1), { shape: y.shape });
        const values = [seen, ...gradients(seen.mul(weights).sum(), leaves).map((g) => g!)];
        return { values, composites: planOf(values).spec.kernels.filter((x) => x.kind === "composite").length };
      };
      const want = of(plain), got = of(claims);
      setDevice(plain);
      expect([want.composites, got.composites]).toEqual([0, 2]);
      const [x, y] = [await evaluate(want.values, plain), await evaluate(got.values, plain)];
      x.forEach((row, i) => { row.forEach((e, j) => { expect(Math.abs(e - y[i][j])).toBeLessThan(1e-4); }); });
    }), { numRuns: 40 }));
  it("is computed again by a checkpoint, with the same gradients", async () => {
    setDevice(claims);
    const noise = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => ((i * 37) % 23) / 8 - 1.4), x = tensor(noise(2 * 5 * 8), { shape: [2, 5, 8] }), mask = new CausalMask({ queries: 5 });
    const block = (h: Tensor): Tensor => { const y = h.reshape([2, 5, 2, 1, 4]).permute([0, 2, 3, 1, 4]), kv = y.squeeze(2); return attention(y.mul(2), kv, kv.tanh(), { mask }).mul(h.reshape([2, 5, 2, 1, 4]).permute([0, 2, 3, 1, 4])); };
    const of = (f: (h: Tensor) => Tensor): Tensor => gradients(f(x).mul(0.5).sum(), { x }).x!, [once, again] = [of(block), of(checkpoint(block))];
    expect(planOf([again]).spec.kernels.filter((k) => k.kind === "composite").length).toBe(2);
    setDevice(plain);
    const [a, b] = await evaluate([once, again], plain);
    expect(b).toEqual(a);
  });
  it("copies nothing that a projection made, and reads a cache as it lies there", () => {
    setDevice(claims);
    const [B, T, KV, G, d] = [2, 6, 2, 3, 4], x = store(tensor(new Float32Array(B * T * 8), { shape: [B * T, 8] })), w = (n: number): Tensor => store(tensor(new Float32Array(n * 8), { shape: [n, 8] })).current;
    const project = (n: number): Tensor => x.current.matmul(w(n).T), y = attention(project(KV * G * d).reshape([B, T, KV, G, d]).permute([0, 2, 3, 1, 4]), project(KV * d).reshape([B, T, KV, d]).permute([0, 2, 1, 3]), project(KV * d).reshape([B, T, KV, d]).permute([0, 2, 1, 3]), { mask: new CausalMask({ queries: T }) });
    const out = y.permute([0, 3, 1, 2, 4]).reshape([B * T, KV * G * d]).matmul(store(tensor(new Float32Array(KV * G * d * 3), { shape: [KV * G * d, 3] })).current);
    expect(planOf([out]).spec.kernels.map((k) => k.kind)).toEqual(["contract", "contract", "contract", "composite", "contract"]);
    const cache = (): Tensor => store(tensor(new Float32Array(B * KV * 16 * d), { shape: [B, KV, 16, d] })).current;
    const step = attention(project(KV * G * d).reshape([B, T, KV, G, d]).permute([0, 2, 3, 1, 4]), cache(), cache(), { mask: new CausalMask({ queries: T, keys: 16, offset: scalar(3, "i32") }) });
    expect(planOf([step.permute([0, 3, 1, 2, 4]).reshape([B, T, KV * G * d])]).spec.kernels.map((k) => k.kind)).toEqual(["contract", "composite", "map"]);
    setDevice(plain);
  });
  it("takes the composition for dropout, for free masks, and for values of another width", () => {
    setDevice(claims);
    const z = (...shape: number[]): Tensor => tensor(new Float32Array(shape.reduce((a, b) => a * b, 1)), { shape }), q = z(1, 1, 1, 2, 2), kinds = (y: Tensor): boolean => planOf([y]).spec.kernels.some((k) => k.kind === "composite");
    expect(kinds(attention(q, z(1, 1, 2, 2), z(1, 1, 2, 2)))).toBe(true);
    expect(kinds(attention(q, z(1, 1, 2, 2), z(1, 1, 2, 3)))).toBe(false);
    expect(kinds(attention(q, z(1, 1, 2, 2), z(1, 1, 2, 2), { mask: tensor([true, false], { shape: [1, 1, 1, 1, 2] }) }))).toBe(false);
    expect(kinds(attention(q, z(1, 1, 2, 2), z(1, 1, 2, 2), { dropout: { p: 0.5, key: { seed: 1, stream: "x" } } }))).toBe(false);
    setDevice(plain);
    expect(() => attention(q, z(1, 1, 2, 2), z(1, 1, 2, 2), { mask: new CausalMask({ queries: 3 }) })).toThrow("does not fit");
  });
});
