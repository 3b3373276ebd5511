/** Laws of the engine: when things are computed never changes what is computed. */
import { inspect } from "node:util";
import fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import { type Store, type Tensor, StaleError, ConfigError, ShapeError, assign, compile, concat, counter, createReference, explain, explainNaN, gather, keep, live, memory, scalar, scope, setDevice, softmax, store, tensor, unary, update, zeroStore } from "@adjoint/tensor";
import { checkpoint, customGradient, grad, gradients, jvp, stopGradient, vjp } from "@adjoint/autograd";

beforeEach(() => { setDevice(createReference()); });

/** A step with momentum, a schedule and a metric: what a training loop does. */
function model(): { w: Store; m: Store; step(x: Tensor): { loss: Tensor; norm: Tensor } } {
  const w = store(tensor([[0.5, -0.25], [0.125, 1]]), "w"), m = zeroStore([2, 2]), c = counter();
  return {
    w, m,
    step(x) {
      c.tick();
      const loss = x.matmul(w).tanh().square().mean(), g = gradients(loss, { w }).w!;
      const m1 = m.mul(0.9).add(g);
      assign([m, w], [m1, w.sub(m1.mul(live(c, (t) => 1 / (t + 3))))]);
      return { loss, norm: g.square().sum().sqrt() };
    },
  };
}
const batch = (i: number): Tensor => tensor([[i % 3, 1], [2, (i % 5) / 4]]);
type Runner = (step: (x: Tensor) => { loss: Tensor; norm: Tensor }) => (x: Tensor) => { loss: Tensor; norm: Tensor };
const ways: Record<string, Runner> = { plain: (s) => s, scope: (s) => (x) => scope(() => s(x)), compile: (s) => compile(s) };

describe("flushes", () => {
  it("plain loop = scope = compile, and reading each step, sometimes or never, bit for bit", async () => {
    const results: Record<string, number[]> = {};
    for (const [name, way] of Object.entries(ways)) for (const every of [1, 3, 1000]) {
      const m = model(), step = way(m.step);
      for (let i = 0; i < 7; i++) {
        const out = step(batch(i));
        if (i % every === every - 1) { await out.loss.item(); await out.norm.item(); }
      }
      results[`${name}/${every}`] = [...(await m.w.data()), ...(await m.m.data())];
    }
    const all = Object.entries(results);
    for (const [name, values] of all) expect(values, name).toEqual(all[0][1]);
  });
  it("the loss is readable after the step in all three ways", async () => {
    const losses: number[][] = [];
    for (const way of Object.values(ways)) {
      const m = model(), step = way(m.step), kept: Tensor[] = [];
      for (let i = 0; i < 4; i++) kept.push(step(batch(i)).loss);
      losses.push(await Promise.all(kept.map((t) => t.item())));
    }
    expect(losses[1]).toEqual(losses[0]);
    expect(losses[2]).toEqual(losses[0]);
  });
  it("from the third step on no plan is made, in any way, and interleaved loops keep the plans of separate ones", async () => {
    for (const way of Object.values(ways)) {
      const a = model(), b = model(), sa = way(a.step), sb = way(b.step);
      for (let i = 0; i < 3; i++) { await sa(batch(i)).loss.item(); await sb(batch(i)).loss.item(); }
      const before = memory();
      for (let i = 0; i < 5; i++) { await sa(batch(i)).loss.item(); await sb(batch(i)).loss.item(); }
      const after = memory();
      expect(after.plansMade).toBe(before.plansMade);
      expect(after.buffers).toBe(before.buffers);
      expect(await a.w.data()).toEqual(await b.w.data());
    }
  });
  it("x = x.add(1) in a loop is flat", async () => {
    let x = tensor([0, 1]);
    for (let i = 0; i < 3; i++) { x = x.add(1); await x.data(); }
    const before = memory();
    for (let i = 0; i < 100; i++) { x = x.add(1); await x.data(); }
    expect(await x.array()).toEqual([103, 104]);
    expect(memory().plansMade).toBe(before.plansMade);
  });
  it("two assignments chain; what was recorded before keeps the old value", async () => {
    const w = store(tensor([1, 2]));
    const old = w.mul(10);
    const got = scope(() => { assign([w], [w.add(1)]); const middle = w.mul(10); assign([w], [w.mul(3)]); return { old, middle, last: w.mul(10) }; });
    expect(await got.old.array()).toEqual([10, 20]);
    expect(await got.middle.array()).toEqual([20, 30]);
    expect(await got.last.array()).toEqual([60, 90]);
    expect(await w.array()).toEqual([6, 9]);
  });
  it("swaps two stores, transposes one in place, and stores one value twice", async () => {
    const a = store(tensor([[1, 2], [3, 4]])), b = store(tensor([[5, 6], [7, 8]]));
    assign([a, b], [b, a]);
    expect(await a.array()).toEqual([[5, 6], [7, 8]]);
    assign([a], [a.T]);
    expect(await a.array()).toEqual([[5, 7], [6, 8]]);
    const v = a.add(b);
    assign([a, b], [v, v]);
    expect(await b.array()).toEqual([[6, 9], [9, 12]]);
    expect(await a.array()).toEqual([[6, 9], [9, 12]]);
  });
  it("a recipe that reads an overwritten version is stale, never wrong", async () => {
    const big = Array.from({ length: 100 }, (_, i) => i), w = store(tensor(big), "w"), early = w.mul(2);
    assign([w], [w.add(1)]);
    await w.data();
    await expect(early.data()).rejects.toThrow(StaleError);
    await expect(early.data()).rejects.toThrow(/version 0.*version 1/s);
  });
  it("an assignment that can no longer be carried out fails for whoever asks for it, and for nobody else", async () => {
    const s = store(tensor([1, 2]), "s"), d = zeroStore([2], "f32", "d"), e = zeroStore([2]);
    assign([d], [s.mul(2)]);
    s.set({ dtype: "f32", shape: [2], data: Float32Array.of(5, 6) });
    assign([e], [s.add(1)]);
    expect(await scope(() => s.mul(3)).array()).toEqual([15, 18]);
    setDevice(createReference());                          // carries out all that waits
    expect(await e.array()).toEqual([6, 7]);
    await expect(d.data()).rejects.toThrow(/reads s at version 0/);
    await expect(d.add(1).data()).rejects.toThrow(StaleError);
    expect(memory().pendingStores).toBe(0);
    d.set({ dtype: "f32", shape: [2], data: Float32Array.of(7, 8) });
    expect(await d.add(1).array()).toEqual([8, 9]);
  });
  it("reading inside compile, promises from scope, and gradients of computed values are refused", async () => {
    const x = tensor([1, 2]);
    expect(() => compile(() => x.add(1).dataSync())()).toThrow(ConfigError);
    expect(() => scope(async () => Promise.resolve(1))).toThrow(/promise/);
    const w = store(tensor([1, 2])), loss = w.square().sum();
    await loss.item();
    expect(() => gradients(loss, { w })).toThrow(/before reading/);
    expect(() => gradients(tensor([1, 2]).sum().mul(2), { w })).toThrow(/no trainable parameter/);
  });
  it("ids are checked where they enter", () => {
    expect(() => gather(tensor([[1], [2]]), tensor(new Int32Array([0, 2])))).toThrow(ShapeError);
    const f = compile((ids: Tensor) => gather(tensor([[1], [2]]), ids));
    f(tensor(new Int32Array([1])));
    expect(() => f(tensor(new Int32Array([5])))).toThrow(/id 5 at position 0/);
  });
  it("a compiled step records again when shapes or plain arguments change, and counts with its own counter", async () => {
    const c = counter();
    let recorded = 0;
    const f = compile((x: Tensor, k: number) => { recorded++; c.tick(); return x.mul(live(c, (t) => t)).mul(k).sum(); });
    expect(await f(tensor([1, 1]), 2).item()).toBe(4);
    expect(await f(tensor([1, 1]), 2).item()).toBe(8);
    expect(await f(tensor([1, 1, 1]), 2).item()).toBe(18);
    expect(await f(tensor([1, 1]), 3).item()).toBe(24);
    expect(await f(tensor([1, 2]), 2).item()).toBe(30);
    expect(recorded).toBe(3);
    expect(c.value).toBe(5);
  });
  it("a compiled step may return live numbers and its own arguments", async () => {
    const c = counter(), f = compile((x: Tensor) => { c.tick(); return { x, rate: live(c, (t) => 1 / t), y: x.add(1) }; });
    for (let i = 1; i < 4; i++) {
      const out = f(tensor([i, 10]));
      expect([await out.x.array(), await out.rate.item(), await out.y.array()]).toEqual([[i, 10], Math.fround(1 / i), [i + 1, 11]]);
    }
  });
  it("writes at a position that is data, in place, with one plan", async () => {
    const cache = zeroStore([1, 4, 2]);
    const write = compile((v: Tensor, c: { at: Tensor }) => { assign([cache], [update(cache, v, c.at, 1)]); return cache.sum(); });
    void write;
    const c = counter(0);
    const put = compile((v: Tensor) => { const at = live(c, (t) => t, "i32"); c.tick(); assign([cache], [update(cache, v, at, 1)]); return cache.sum(); });
    for (let i = 0; i < 3; i++) await put(tensor([[[i + 1, 10]]])).item();
    expect(await cache.array()).toEqual([[[1, 10], [2, 10], [3, 10], [0, 0]]]);
    expect(await update(tensor([[1, 2, 3]]), tensor([[9]]), scalar(2, "i32"), 1).array()).toEqual([[1, 2, 9]]);
  });
});

const some = (t: Tensor | null): Tensor => { if (!t) throw new Error("no gradient"); return t; };
const values = async (t: Tensor | null): Promise<unknown> => some(t).array();

describe("autograd", () => {
  it("checkpoint and plain give equal bits; customGradient and stopGradient change only the backward pass", async () => {
    const w = store(tensor([[0.5, -1], [0.25, 2]])), x = tensor([[1, 2], [3, 4]]);
    const f = (h: Tensor): Tensor => h.matmul(w).tanh().matmul(w).exp();
    const plain = gradients(f(x).sum(), { w }).w!, again = gradients(checkpoint(f)(x).sum(), { w }).w!;
    expect(await again.data()).toEqual(await plain.data());
    const twice = customGradient((a) => a.square(), (g, _y, [a]) => [g.mul(a).mul(100)]);
    expect(await values(grad((a: Tensor) => twice(a).sum())(tensor([1, 2])))).toEqual([100, 200]);
    expect(await values(grad((a: Tensor) => a.mul(stopGradient(a)).sum())(tensor([3, 5])))).toEqual([3, 5]);
  });
  it("null for what is not reached, forward over reverse, and orders two and three", async () => {
    const a = tensor([2, 3]), b = tensor([1, 1]);
    expect(gradients(a.sum(), { a, b }).b).toBeNull();
    const [, tangent] = jvp((x) => x.mul(x).mul(x), [a], [tensor([1, 10])]);
    expect(await tangent.array()).toEqual([12, 270]);
    const [, back] = vjp((x) => x.mul(x), a);
    expect(await back(tensor([1, 1]))[0]?.array()).toEqual([4, 6]);
    const cube = (x: Tensor): Tensor => x.mul(x).mul(x).sum();
    const second = (x: Tensor): Tensor | null => grad((z: Tensor) => some(grad(cube)(z)).sum())(x);
    expect(await values(second(a))).toEqual([12, 18]);
    expect(await values(grad((x: Tensor) => some(second(x)).sum())(a))).toEqual([6, 6]);
  });
  it("a gradient in a tree has the tree's shape (property)", async () => {
    await fc.assert(fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 3 }), async (shape) => {
      const n = shape.reduce((p, q) => p * q, 1), x = store(tensor(Array.from({ length: n }, (_, i) => i / 4), { dtype: "f64", shape }));
      const g = gradients(x.square().sum(), { deep: [{ x }] });
      expect(g.deep[0].x!.shape).toEqual(shape);
      expect([...(await g.deep[0].x!.data())]).toEqual(Array.from({ length: n }, (_, i) => i / 2));
    }), { numRuns: 15 });
  });
});

describe("seeing inside", () => {
  it("explain prints the plan that runs; keep, explainNaN and console.log answer", async () => {
    setDevice(createReference({ fuse: true }));
    const x = tensor([[1, 2], [3, 4]]).named("x"), y = softmax(x.matmul(x.T).mul(0.1)).named("y"), e = explain(y);
    expect(e.graph).toMatch(/matmul\(%0, %1\) {2}f32 \[2, 2\]/);
    expect(e.plan.kernels.map((k) => k.kind)).toEqual(["contract", "rows"]);
    expect(e.kernels).toContain("contract [2, 2] k=2");
    expect(inspect(x)).toContain("[[1., 2.],");
    expect(inspect(y)).toMatch(/Tensor f32 \[2, 2\] y = softmax\(mul \[2, 2\]\)/);
    expect(explainNaN(tensor([1, -1]).log().add(1).sum())).toMatchObject({ op: "log", position: 1 });
    expect(explainNaN(tensor([1, 2]).log().sum())).toBeNull();
    const w = store(tensor(Array.from({ length: 100 }, (_, i) => i)), "w"), before = keep(w.mul(2));
    assign([w], [w.mul(2).add(1)]);
    await w.data();
    expect((await before.data())[3]).toBe(6);
    expect(() => JSON.stringify(x)).toThrow(/not JSON/);
    expect(() => Number(x)).toThrow(/not a number/);
  });
});

describe("gradients that are written wrong", () => {
  it("name the op whose vjp has another shape than its input", () => {
    const bad = unary("bad", { forward: (x) => x.mul(x), vjp: (g, { inputs: [x] }) => [g.mul(x).sum()] }), w = store(tensor([1, 2]), "w");
    expect(() => gradients(bad(w).sum(), { w })).toThrow(/^bad: its vjp gives an input of \[2\] \(w\) a gradient of \[\]/);
    const y = customGradient((t) => t.mul(2), (g) => [g.sum()])(w);
    expect(() => gradients(y.sum(), { w })).toThrow(/its vjp gives an input of \[2\] \(w\) a gradient of \[\]/);
  });
  it("the loss comes first", () => {
    const w = store(tensor([1, 2])), swapped: (...args: readonly unknown[]) => unknown = (a, b) => Reflect.apply(gradients, null, [b, a]);
    expect(() => swapped(w.sum(), { w })).toThrow("gradients(loss, tree): the loss first");
  });
});

describe("explain is read by people", () => {
  it("says the numbers of scalars, the axes of ops and what a reduction sums, in 100 columns", () => {
    setDevice(createReference({ name: "fused", fuse: true }));
    const xs = Array.from({ length: 40 }, (_, i) => store(tensor([[i, 1], [2, 3]]), `weight.of.layer.${i}`));
    const text = String(explain(concat(xs.map((x) => x.T), 0).square().sum(1).mul(0.25), tensor([[1, 2]]).tanh().square().mean(0)));
    expect(text).toMatch(/= scalar\(0\.25\) {2}f32 \[\]/);
    expect(text).toMatch(/= permute\(%\d+\) {2}axes=\[1, 0\]/);
    expect(text).toMatch(/r0 = sum of mul\(/);
    expect(Math.max(...text.split("\n").map((l) => l.length))).toBeLessThanOrEqual(100);
  });
});
