import { describe, expect, it } from "vitest";
import fc from "fast-check";
import { type Tensor, createReference, planOf, scope, setDevice, store, tensor } from "@adjoint/tensor";
import { checkpoint, gradients } from "@adjoint/autograd";
import { initModel } from "@adjoint/models";
import { type Context, Linear, nextTokenLossSum } from "@adjoint/nn";
import { chunkedLossSum } from "../src/chunked-loss.ts";

describe("chunkedLossSum", () => {
  it("is the loss of all logits at once, and so are its gradients, however it is cut and recomputed", () => fc.assert(fc.asyncProperty(
    fc.constantFrom(1, 2, 3), fc.constantFrom(1, 2, 5), fc.integer({ min: 4, max: 80 }), fc.constantFrom("pieces", "pieces again", "bare", "adapted"), fc.infiniteStream(fc.integer({ min: -24, max: 24 })),
    async (B, T, limit, way, stream) => {
      setDevice(createReference({ name: "fused", fuse: true }));
      const next = (n: number): number[] => Array.from({ length: n }, () => (stream.next().value as number) / 16);
      const h = store(tensor(next(B * T * 3), { shape: [B, T, 3] })), head = new Linear(store(tensor(next(12), { shape: [4, 3] }))), labels = tensor(Int32Array.from(next(B * T), (x) => (x > 1 ? -100 : Math.abs(x * 16) % 4)), { shape: [B, T] });
      const of = (f: () => { total: Tensor; count: Tensor }): Promise<number[][]> => {
        const { total, count, g } = scope(() => { const { total, count } = f(); return { total, count, g: gradients(total, [h, head.weight]) }; });
        return Promise.all([total, count, ...g].map(async (x) => (x ? [...(await x.data())] : [])));
      };
      // an adapter that adds to the head: then its gradient is no product of the bare weight's
      const context: Context = way === "adapted" ? { adapter: { output: (_, x, y) => y.add(x.sum(-1).mul(0.5)) } } : way === "pieces again" ? { checkpoint } : {}, bare = way === "bare" || way === "adapted" ? head : null;
      const whole = await of(() => nextTokenLossSum(head.forward(h.current, context), labels)), cut = await of(() => chunkedLossSum(h.current, labels, 4, (x, c) => head.forward(x, c), context, limit, bare));
      whole.forEach((x, i) => { x.forEach((v, j) => { expect(Math.abs(v - cut[i][j])).toBeLessThan(1e-5); }); });
    }), { numRuns: 20 }));
  it("keeps the memory of a large vocabulary down", () => {
    setDevice(createReference({ name: "fused", fuse: true, arena: true }));
    const model = initModel({ model_type: "llama", vocab_size: 150_000, hidden_size: 4, intermediate_size: 4, num_hidden_layers: 1, num_attention_heads: 2 }, 1), ids = tensor(new Int32Array(1024), { shape: [4, 256] });
    const bytes = (recompute: boolean): number => {
      const loss = model.loss({ inputIds: ids, labels: ids }, recompute ? { checkpoint } : {});
      return planOf([loss, ...Object.values(gradients(loss, { norm: model.parameters()["model.norm.weight"] }))].filter((t) => t !== null)).spec.arenaBytes;
    };
    const logits = 4 * 1024 * 150_000;
    expect(bytes(true)).toBeLessThan(0.35 * logits);
    expect(bytes(false)).toBeLessThan(1.35 * logits);
  });
});
