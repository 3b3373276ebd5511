/** A step as a recording: nulls, non-finite gradients, compiled equals plain, few kernels, steady memory, refusals. */
import { type Backend, type PlanSpec, type Store, type Tensor, compile, memory, planOf, scope, setDevice, store, tensor, zeroStore } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Optimizer, adam, adamw, adamw8bit, chain, optimizerOf, cosine, lion8bit, scaleByLearningRate, sgd, trace } from "@adjoint/optim";
import { devices, expectSame } from "./golden.ts";

const recipes: readonly [string, () => Optimizer][] = [
  ["sgd", () => sgd({ learningRate: 0.25, momentum: 0.5, dampening: 0.25, weightDecay: 0.125 })],
  ["nesterov", () => sgd({ learningRate: cosine({ peak: 0.5, warmup: 1, steps: 9 }), momentum: 0.5, nesterov: true, maxGradNorm: 1 })],
  ["adam", () => adam({ learningRate: 0.125, weightDecay: 0.125, amsgrad: true })],
  ["adamw", () => adamw({ learningRate: cosine({ peak: 0.25, warmup: 1, steps: 9 }), maxGradNorm: 0.5 })],
];
interface Net { readonly w: Store; readonly b: Store; readonly far: Store }
const net = (): Net => ({ w: store(tensor([[0.5, -0.25, 0.125], [0.25, 1, -0.5]])), b: store(tensor([0.125, -0.5])), far: store(tensor([1, 2, 3])) });
const loss = ({ w, b }: Net, x: Tensor): Tensor => x.matmul(w.T).add(b).tanh().square().sum();
const numbers = async (o: { params: Readonly<Record<string, Store>>; state(): Promise<Record<string, { data: ArrayLike<number> }>> }): Promise<Record<string, number[]>> => {
  const out: Record<string, number[]> = {};
  for (const [path, p] of Object.entries(o.params)) out[path] = [...await p.data()];
  for (const [name, { data }] of Object.entries(await o.state())) out[name] = Array.from(data);
  return out;
};
const inputs = [0, 1, 2, 3, 4].map((t) => tensor([[1, t / 4, -0.5], [0.25, 0.5, t - 1]]));

for (const device of devices) describe(device.name, () => {
  for (const [name, make] of recipes) it(`${name}: plain, scope and compile agree, norm and rate included`, async () => {
    setDevice(device);
    const run = async (wrap: (f: (x: Tensor) => { l: Tensor; gradNorm: Tensor; skipped: Tensor }) => (x: Tensor) => { l: Tensor; gradNorm: Tensor; skipped: Tensor }): Promise<number[]> => {
      const m = net(), o = make().for(m), reports: number[][] = [];
      const step = wrap((x) => { const l = loss(m, x); return { l, ...o.step(gradients(l, m)) }; });
      for (const x of inputs) { const r = step(x); reports.push([await r.l.item(), await r.gradNorm.item(), await r.skipped.item(), o.learningRate]); }
      return [...reports.flat(), ...Object.values(await numbers(o)).flat()];
    };
    const plain = await run((f) => f);
    expect(await run((f) => (x) => scope(() => f(x)))).toEqual(plain);
    expectSame(device, await run(compile), plain);
  });

  it("reading every step, sometimes or never gives the same parameters", async () => {
    setDevice(device);
    const run = async (every: number): Promise<unknown> => {
      const m = net(), o = recipes[3][1]().for(m);
      for (const [t, x] of inputs.entries()) { const l = loss(m, x), r = o.step(gradients(l, m)); if (t % every === 0) { await l.item(); await r.gradNorm.item(); } }
      return numbers(o);
    };
    const often = await run(1);
    expect(await run(2)).toEqual(often);
    expect(await run(9)).toEqual(often);
  });

  it("a norm that was not read at once is still there after the next step", async () => {
    setDevice(device);
    const m = net(), o = recipes[3][1]().for(m), norms: Tensor[] = [];
    for (const x of inputs) norms.push(o.step(gradients(loss(m, x), m)).gradNorm);
    const late = await Promise.all(norms.map((n) => n.item()));
    const again = net(), o2 = recipes[3][1]().for(again), now: number[] = [];
    for (const x of inputs) now.push(await o2.step(gradients(loss(again, x), again)).gradNorm.item());
    expect(late).toEqual(now);
    expect(Math.min(...now)).toBeGreaterThan(0);
  });

  for (const [name, make] of recipes) it(`${name}: a null gradient leaves parameter, state and count alone`, async () => {
    setDevice(device);
    const m = net(), o = make().for(m), before = await numbers(o);
    for (const x of inputs) o.step(gradients(loss(m, x), m));           // the loss never sees `far`
    const after = await numbers(o);
    for (const key of Object.keys(before)) expect([key, key.endsWith("far")]).toEqual([key, before[key].every((v, i) => v === after[key][i])]);
  });

  it("a leaf that joins late starts its own count: as if it were alone from then on", async () => {
    setDevice(device);
    await fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 3 }), fc.constantFrom<() => Optimizer>(() => adamw({ learningRate: 0.25 }), () => adam({ learningRate: 0.25, amsgrad: true }), () => sgd({ learningRate: 0.25, momentum: 0.5, dampening: 0.25 })), async (late, make) => {
      const g = tensor([1, -2]), early = store(tensor([1, 1])), joined = store(tensor([1, 1])), alone = store(tensor([1, 1]));
      const both = make().for({ early, joined }), one = make().for({ alone });
      for (let t = 0; t < late; t++) both.step({ early: g, joined: null });
      for (let t = 0; t < 3; t++) { both.step({ early: g, joined: g.mul(t + 1) }); one.step({ alone: g.mul(t + 1) }); }
      expect([...await joined.data()]).toEqual([...await alone.data()]);
      expect([both.updates.early.value, both.updates.joined.value, both.counter.value]).toEqual([late + 3, 3, late + 3]);
    }), { numRuns: 6 });
  });

  for (const [name, make] of recipes) it.each([NaN, Infinity, -Infinity])(`${name}: a gradient of %d skips the step`, async (bad) => {
    setDevice(device);
    await fc.assert(fc.asyncProperty(fc.integer({ min: 0, max: 5 }), fc.integer({ min: 0, max: 2 }), async (at, when) => {
      const m = net(), o = make().for(m);
      const good = { w: tensor([[1, 2, 3], [4, 5, 6]]), b: tensor([0.5, -1]), far: null };
      for (let t = 0; t < when; t++) o.step(good);
      const before = await numbers(o);
      const { skipped, gradNorm } = o.step({ ...good, w: tensor([0, 1, 2, 3, 4, 5].map((i) => (i === at ? bad : 1)), { shape: [2, 3] }) });
      expect([await skipped.item(), Number.isFinite(await gradNorm.item())]).toEqual([1, false]);
      const after = await numbers(o);
      for (const key of Object.keys(before)) expect([key, after[key]]).toEqual([key, key === "step" || key === "step.w" || key === "step.b" ? [before[key][0] + 1] : before[key]]);
      expect(await o.step(good).skipped.item()).toBe(0);
      expect((await numbers(o)).w.every(Number.isFinite)).toBe(true);
    }), { numRuns: 5 });
  });

  it("a transform that forgets to keep is kept from harm", async () => {
    setDevice(device);
    const p = store(tensor([1])), careless = trace({ momentum: 0.5 });
    const o = optimizerOf("careless", chain({ ...careless, update: (u, s, q, context) => careless.update(u, s, q, { ...context, keep: (next) => next }) }, scaleByLearningRate(0.5))).for({ p });
    o.step({ p: tensor([1]) });
    o.step({ p: tensor([NaN]) });
    expect([await p.item(), await o.states.momentum_buffer.p.item()]).toEqual([0.5, 1]);
    expect(() => o.learningRate).toThrow(/no single learning rate/);
  });

  it("a chain of one's own, with a schedule", async () => {
    setDevice(device);
    const p = store(tensor([8])), o = optimizerOf("halving", scaleByLearningRate((t) => 2 ** -t)).for({ p });
    for (let t = 0; t < 3; t++) o.step({ p: tensor([4]) });
    expect(await p.item()).toBe(1);
  });

  it("one leaf alone is a tree, a store in two places is one parameter, a plain tensor is left alone", async () => {
    setDevice(device);
    const p = store(tensor([1, 2]));
    sgd({ learningRate: 1 }).for(p).step(tensor([1, 1]));
    expect([...await p.data()]).toEqual([0, 1]);
    const tied = { a: p, b: { again: p, fixed: tensor([5]) } }, o = sgd({ learningRate: 1 }).for(tied);
    expect(Object.keys(o.params)).toEqual(["a"]);
    o.step(gradients(tied.a.mul(2).sum().add(tied.b.again.sum()).add(tied.b.fixed.sum()), tied));
    expect([...await p.data()]).toEqual([-3, -2]);
  });
});

describe("the plan of a step", () => {
  const stepPlan = (device: Backend, make: () => Optimizer, leaves: number, shape: readonly number[]): PlanSpec => {
    setDevice(device);
    const tree = Array.from({ length: leaves }, (_, i) => zeroStore(shape, "f32", `p${i}`)), o = make().for(tree);
    const { gradNorm } = o.step(tree.map((_, i) => tensor(new Float32Array(shape.reduce((a, b) => a * b)).fill(i + 1), { shape })));
    return planOf([gradNorm]).spec;
  };
  it("adamw: per parameter one kernel for the norm and one that writes p, m and v in place, and one that adds the norms up", () => {
    for (const device of devices.slice(1)) for (const maxGradNorm of [undefined, 1]) for (const n of [1, 7, 40]) {
      const { kernels, buffers } = stepPlan(device, () => adamw({ maxGradNorm }), n, [3, 5]);
      const written = kernels.map((k) => `${k.kind} ${"stores" in k ? k.stores.map((x) => buffers[x.view.buffer].kind).join(" ") : ""}`);
      const count = (what: string): number => written.filter((w) => w === what).length;
      expect([kernels.length, count("map store store store")]).toEqual([n === 1 ? 2 : 2 * n + 1, n]);
      expect(written.filter((w) => w.startsWith("rows ")).length).toBe(n === 1 ? 1 : n + 1);
    }
  });
  it("8-bit: codes, scales and p of a leaf are one kernel, in place, whatever its shape and clipping; nothing lies in memory in between", () => {
    for (const device of devices.slice(1)) for (const maxGradNorm of [undefined, 1]) for (const shape of [[8, 576], [768, 16], [5120]]) {
      for (const [make, writes] of [[() => adamw8bit({ maxGradNorm }), 5], [() => lion8bit({ maxGradNorm }), 3]] as const) {
        const { kernels, buffers, arenaBytes } = stepPlan(device, make, 2, shape), updates = kernels.filter((k) => "stores" in k && k.stores.some(({ view }) => buffers[view.buffer].kind === "store"));
        expect(kernels.length).toBe(5);
        expect(updates.map((k) => [k.kind, "stores" in k && k.stores.map(({ view }) => buffers[view.buffer].kind)])).toEqual([["rows", Array(writes).fill("store")], ["rows", Array(writes).fill("store")]]);
        expect(arenaBytes - 2 * 4 * shape.reduce((a, b) => a * b)).toBeLessThanOrEqual(4 * 64);            // the gradients, and a few numbers
      }
    }
  });
  it("the same holds inside a training step: no number of the optimizer makes a new plan, nothing grows", async () => {
    for (const device of devices) {
      setDevice(device);
      const m = net(), o = recipes[3][1]().for(m), step = compile((x: Tensor) => { const l = loss(m, x); o.step(gradients(l, m)); return l; });
      for (const x of inputs.slice(0, 3)) await step(x).item();
      const { flushes: _f, kernels: _k, ...before } = memory();
      for (const x of [...inputs, ...inputs]) await step(x).item();
      const { flushes: _g, kernels: _l, ...after } = memory();
      expect(after).toEqual(before);
      expect(o.counter.value).toBe(13);
    }
  });
});

describe("refusals", () => {
  const p = store(tensor([1, 2])), o = sgd().for({ p });
  it("gradients of another tree", () => { expect(() => o.step({ p: tensor([1, 1]), q: tensor([1]) } as { p: Tensor })).toThrow(/hold q, which is no parameter/); });
  it("a shape that disagrees", () => { expect(() => o.step({ p: tensor([1]) })).toThrow(expect.objectContaining({ name: "ShapeError", details: expect.objectContaining({ key: "p" }) })); });
  it("a dtype that disagrees", () => { expect(() => o.step({ p: tensor([1, 2], { dtype: "f64" }) })).toThrow(expect.objectContaining({ name: "DTypeError", details: expect.objectContaining({ key: "p" }) })); });
  it("no gradient at all", () => { expect(() => o.step({ p: null })).toThrow(/no parameter has a gradient/); });
  it("nothing of this counts as a step", () => { expect(o.counter.value).toBe(0); });
  it("half precision, by name", () => { expect(() => adamw().for({ layer: { weight: zeroStore([2], "bf16") } })).toThrow(expect.objectContaining({ name: "ConfigError", details: expect.objectContaining({ key: "layer.weight", value: "bf16" }) })); });
  it("a tree without stores", () => { expect(() => adamw().for({ x: tensor([1]) })).toThrow(/no store/); });
  it("two transforms with one memory", () => { expect(() => optimizerOf("twice", chain(trace({ momentum: 0.5 }), trace({ momentum: 0.9 }))).for({ p })).toThrow(/two transforms remember momentum_buffer/); });
});
