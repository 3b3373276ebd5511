import { describe, expect, it } from "vitest";
import { tensor, store, assign, compile, softmax, rmsNorm, crossEntropy, type Tensor, setDevice, createReference, memory, counter, live, gather } from "@adjoint/tensor";
import { gradients, checkpoint } from "@adjoint/autograd";
for (const device of [createReference(), createReference({ name: "fused", fuse: true }), createReference({ name: "arena", fuse: true, arena: true })])
describe(device.name, () => {
  it("adds", async () => {
    setDevice(device);
    expect(await tensor([1, 2, 3]).mul(2).sum().item()).toBe(12);
    expect(await tensor([[1, 2], [3, 4]]).matmul(tensor([[1, 2], [3, 4]]).T).add(1).array()).toEqual([[6, 12], [12, 26]]);
    expect(await tensor([[1, 2, 3], [4, 5, 6]]).permute([1, 0]).reshape([2, 3]).array()).toEqual([[1, 4, 2], [5, 3, 6]]);
    expect(await tensor([[1, 2, 3], [4, 5, 6]]).exp().permute([1, 0]).reshape([6]).log().array()).toMatchObject([1, 4, 2, 5, 3, 6].map((x) => expect.closeTo(x, 5) as number));
  });
  it("trains", async () => {
    setDevice(device);
    const run = async (how: "plain" | "compile", cp: boolean): Promise<number[]> => {
      const w = store(tensor([[0.5, -0.25, 0.1], [0.3, 0.2, -0.4]])), v = store(tensor([[0.1, 0.2], [0.3, -0.1]])), e = store(tensor([[0.1, 0.2, 0.3], [0.4, -0.5, 0.6], [-0.7, 0.8, 0.9], [0.2, 0.2, 0.1]])), n = store(tensor([1, 1.5, 0.5]));
      const c = counter();
      const step = (ids: Tensor, y: Tensor): Tensor => {
        c.tick();
        const block = (h: Tensor): Tensor => softmax(rmsNorm(h, n).matmul(w.T)).tanh();
        const h = (cp ? checkpoint(block) : block)(gather(e, ids));
        const loss = crossEntropy(h.matmul(v.T), y);
        const g = gradients(loss, { w, v, e, n });
        const lr = live(c, (t) => 0.5 / t);
        assign([w, v, e, n], [w.sub(g.w!.mul(lr)), v.sub(g.v!.mul(lr)), e.sub(g.e!.mul(lr)), n.sub(g.n!.mul(lr))]);
        return loss;
      };
      const f = how === "compile" ? compile(step) : step;
      const out: number[] = [];
      for (let i = 0; i < 6; i++) {
        const loss = f(tensor(new Int32Array([i % 4, 1, 2, 3, 3]), { shape: [5] }), tensor(new Int32Array([0, 1, 0, -100, 1])));
        out.push(await loss.item());
      }
      return [...out, ...(await w.data()), ...(await e.data()), ...(await n.data())];
    };
    const a = await run("plain", false);
    const made = memory().plansMade;
    const b = await run("compile", false), c = await run("plain", true);
    expect(a[4]).toBeLessThan(a[0]);
    b.forEach((x, i) => { expect(x).toBeCloseTo(a[i], 6); });
    c.forEach((x, i) => { expect(x).toBeCloseTo(a[i], 6); });      // the fused reference rounds less often
    if (device.name === "reference") { expect(b).toEqual(a); expect(c).toEqual(a); }
    expect(memory().plansMade - made).toBeLessThan(5);
  });
});
