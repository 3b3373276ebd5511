/** Half-precision parameters, steps that stop, averages of weights, resets of states, samples of the curvature, frozen factors. */
import { type HostArray, type Store, type Tensor, compile, createReference, fromBf16, fromHost, planOf, setDevice, store, tensor, toBf16 } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { parseSafetensors, serializeSafetensors } from "@adjoint/io";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { accumulate, adafactor, adamw, averageWeights, estimateCurvature, gaussNewtonBartlett, hutchinson, loraFa, optimizer, rademacher, resetState, sgd, sophia, unclippedShare } from "@adjoint/optim";
import { devices, expectClose } from "./golden.ts";

const [reference, , , wasm] = devices;
const half = (xs: readonly number[]): HostArray => ({ dtype: "bf16", shape: [xs.length], data: Uint16Array.from(xs, toBf16) });
const f32 = (xs: readonly number[]): Tensor => fromHost({ dtype: "f32", shape: [xs.length], data: Float32Array.from(xs) });

describe("half-precision parameters", () => {
  it("masters: the same steps as in f32, rounded once; saved, resumed and compiled bit for bit", async () => {
    for (const device of [reference, wasm]) {
      setDevice(device);
      const start = [1, -0.5, 0.25], g = (t: number): Tensor => f32([0.5, -0.25, t / 8]), exact = store(f32(start)), plain = adamw({ learningRate: 0.01 }).for({ p: exact });
      const h = store(half(start)), o = adamw({ learningRate: 0.01, masterWeights: true }).for({ p: h }), step = compile((x: Tensor) => o.step({ p: x }).gradNorm);
      for (let t = 0; t < 4; t++) { plain.step({ p: g(t) }); await step(g(t)).item(); }
      expect([...await h.data()]).toEqual([...await exact.data()].map((x) => fromBf16(toBf16(x))));
      expect([...await o.states.master.p.data()]).toEqual([...await exact.data()]);
      const again = store(half([9, 9, 9])), resumed = adamw({ learningRate: 0.01, masterWeights: true }).for({ p: again });
      resumed.load(Object.fromEntries(parseSafetensors(serializeSafetensors(await o.state()), "memory").tensors));
      resumed.step({ p: g(4) }); o.step({ p: g(4) });
      expect([...await again.data()]).toEqual([...await h.data()]);
    }
  });
  it("a first step that is skipped leaves the parameter as it was, and the next one starts from it", async () => {
    setDevice(wasm);
    const h = store(half([1, 2])), o = sgd({ learningRate: 0.5, masterWeights: true }).for({ p: h });
    o.step({ p: f32([NaN, 1]) });
    expect([...await h.data()]).toEqual([1, 2]);
    o.step({ p: f32([1, 1]) });
    expect([...await h.data()]).toEqual([0.5, 1.5]);
  });
  it("gradients may be f32 or half; a step of chance depends on the seed and the step alone", async () => {
    setDevice(wasm);
    const run = async (seed: number): Promise<number[]> => { const h = store(half(new Array<number>(64).fill(1))), o = sgd({ learningRate: 2 ** -10, stochasticRounding: true, seed }).for({ p: h }); for (let t = 0; t < 3; t++) o.step({ p: fromHost(half(new Array<number>(64).fill(1))) }); return [...await h.data()]; };
    expect(await run(1)).toEqual(await run(1));
    expect(await run(1)).not.toEqual(await run(2));
  });
  it("micro-batches of half-precision parameters add up in f32", async () => {
    setDevice(wasm);
    const h = store(half([1])), o = sgd({ learningRate: 1, masterWeights: true }).for({ p: h }), sums = accumulate({ p: h });
    for (const g of [1, 2 ** -9, 2 ** -9, 2 ** -9]) sums.add({ p: f32([g]) }, tensor(1));
    o.step(sums.finish().gradients);
    expect(await o.states.master.p.item()).toBe(1 - (1 + 3 * 2 ** -9) / 4);
  });
  it("is refused otherwise, with both cures", () => { expect(() => adamw().for({ p: store(half([1])) })).toThrow(/bf16/); });
});

describe("a step that is skipped", () => {
  it("is left out whole where its reader says so: with uncount, a run with bad steps equals the run without them, bit for bit", async () => {
    const made: readonly (readonly [string, object])[] = [["adamw", {}], ["nadam", {}], ["sgd", { momentum: 0.5, dampening: 0.5 }], ["adafactor", {}], ["adamw_8bit", { min8bitSize: 1 }]];
    for (const device of [reference, wasm]) for (const [name, options] of made) for (const compiled of [false, true]) {
      setDevice(device);
      await fc.assert(fc.asyncProperty(fc.array(fc.boolean(), { minLength: 2, maxLength: 6 }), async (bad) => {
        const run = async (steps: readonly boolean[]): Promise<[number[], number, number]> => {
          const p = store(f32([1, -2, 0.5])), rest = store(f32([1])), o = optimizer(name, { learningRate: 0.125, ...options }).for({ p, rest }), f = (g: Tensor): Tensor => o.step({ p: g, rest: null }).skipped, step = compiled ? compile(f) : f;
          let t = 0;
          for (const isBad of steps) {
            if (await step(f32(isBad ? [1, NaN, 1] : [0.5, ++t, -0.25])).item()) { o.uncount(); o.uncount(); }
          }
          return [[...await p.data()], o.updates.p.value, o.updates.rest.value];
        };
        expect(await run(bad)).toEqual(await run(bad.filter((x) => !x)));
      }), { numRuns: 3 });
    }
  });
  it("says nothing by itself: nobody waits, so the corrections are those of the steps tried, which soon is nothing", async () => {
    setDevice(reference);
    const skipped = store(tensor([0], { dtype: "f64" })), plain = store(tensor([0], { dtype: "f64" })), a = adamw({ learningRate: 1, weightDecay: 0, eps: 0 }).for({ p: skipped }), b = adamw({ learningRate: 1, weightDecay: 0, eps: 0 }).for({ p: plain }), one = tensor([1], { dtype: "f64" }), ratios: number[] = [];
    a.step({ p: tensor([NaN], { dtype: "f64" }) });
    for (let t = 1; t <= 60; t++) {
      const before = [await skipped.item(), await plain.item()];
      a.step({ p: one }); b.step({ p: one });
      ratios.push((await skipped.item() - before[0]) / (await plain.item() - before[1]));
      const left = (beta: number): number => (1 - beta ** t) / (1 - beta ** (t + 1));
      expect(Math.abs(ratios[t - 1] - left(0.9) / Math.sqrt(left(0.999)))).toBeLessThan(1e-6);
    }
    expect([ratios[0].toFixed(2), ratios[4].toFixed(2), Math.max(...ratios.slice(9).map((x) => Math.abs(x - 1))) < 0.0125]).toEqual(["0.74", "0.96", true]);
  });
});

describe("nonFinite: stop", () => {
  it("nothing changes from the first bad step on, and check says which it was", async () => {
    for (const device of [reference, wasm]) {
      setDevice(device);
      const p = store(tensor([1, 1])), o = adamw({ learningRate: 0.5, nonFinite: "stop" }).for({ p }), step = compile((g: Tensor) => o.step({ p: g }).skipped), skipped: number[] = [];
      for (const g of [[1, 1], [1, 2], [NaN, 1], [1, 1], [Infinity, 1]]) { if (skipped.length === 2) await o.check(); skipped.push(await step(f32(g)).item()); }
      expect(skipped).toEqual([0, 0, 1, 1, 1]);
      await expect(o.check()).rejects.toThrow(/step 3 were not finite/);
      const still = [...await p.data()], q = store(tensor([1, 1])), two = adamw({ learningRate: 0.5 }).for({ p: q });
      two.step({ p: f32([1, 1]) }); two.step({ p: f32([1, 2]) });
      expect(still).toEqual([...await q.data()]);
      const saved = await o.state(), fresh = adamw({ nonFinite: "stop" }).for({ p });
      fresh.load(saved);
      await expect(fresh.check()).rejects.toThrow(/step 3/);
    }
  });
  it("the others never throw", async () => { await expect(adamw().for({ p: store(tensor([1])) }).check()).resolves.toBeUndefined(); });
});

describe("averages of weights", () => {
  it("avg ← d avg + (1 - d)p from the first weights on; swap and swap back; a snapshot", async () => {
    setDevice(reference);
    await fc.assert(fc.asyncProperty(fc.array(fc.integer({ min: -8, max: 8 }), { minLength: 1, maxLength: 5 }), fc.constantFrom(0, 0.5, 0.875), async (list, decay) => {
      const p = store(tensor([0])), tree = { p, fixed: tensor([7]) }, ema = averageWeights(tree, { decay }), o = sgd({ learningRate: 1 }).for(tree);
      let at = 0, avg = 0;
      for (const [i, d] of list.entries()) { o.step({ p: tensor([d]), fixed: null }); ema.update(); at -= d; avg = i === 0 ? at : decay * avg + (1 - decay) * at; }
      expectClose(await ema.average.p.data(), [avg], 1e-6);
      expect(ema.average.fixed).toBe(tree.fixed);
      const kept = await p.item(), mean = await ema.average.p.item();
      ema.swap();
      expect([await p.item(), await ema.average.p.item()]).toEqual([mean, kept]);
      ema.swap();
      const other = averageWeights(tree, { decay });
      other.load(await ema.state());
      expect([await p.item(), await other.average.p.item(), other.counter.value]).toEqual([kept, mean, list.length]);
    }), { numRuns: 8 });
  });
  it("begin as a copy: swapped before the first update, and before the first flush, weights stay", async () => {
    for (const device of [reference, wasm]) {
      setDevice(device);
      const tree = { p: store(tensor([1, -2])), h: store(half([0.5])) }, ema = averageWeights(tree), o = sgd({ learningRate: 1, stochasticRounding: true }).for(tree);
      ema.swap();
      expect([[...await tree.p.data()], fromBf16((await tree.h.host()).data[0])]).toEqual([[1, -2], 0.5]);
      o.step({ p: tensor([1, 1]), h: f32([0.25]) });
      expect([[...await ema.average.p.data()], [...await ema.average.h.data()], [...await tree.p.data()]]).toEqual([[1, -2], [0.5], [0, -3]]);
      ema.update();
      expect([[...await ema.average.p.data()], [...await ema.average.h.data()]]).toEqual([[0, -3], [0.25]]);
    }
  });
  it("inside a compiled step; half weights are averaged in f32; bad decays are refused", async () => {
    setDevice(wasm);
    const p = store(half([1])), o = sgd({ learningRate: 0.25, masterWeights: true }).for({ p }), ema = averageWeights({ p }, { decay: 0.5 });
    const step = compile((g: Tensor) => { const r = o.step({ p: g }); ema.update(); return r.gradNorm; });
    for (let t = 0; t < 3; t++) await step(f32([1])).item();
    expect([ema.states.average.p.dtype, await ema.states.average.p.item()]).toEqual(["f32", 0.5 * (0.5 * 0.75 + 0.5 * 0.5) + 0.5 * 0.25]);
    expect(() => averageWeights({ p }, { decay: 1 })).toThrow(/decay/);
    expect(() => averageWeights({ x: tensor([1]) })).toThrow(/no store/);
  });
});

describe("resetState", () => {
  const tree = (n: number): { x: { lora_A: { weight: Store }; lora_B: { weight: Store } }; norm: Store } => ({ x: { lora_A: { weight: store(fromHost({ dtype: "f32", shape: [1, n], data: new Float32Array(n).fill(1) })) }, lora_B: { weight: store(fromHost({ dtype: "f32", shape: [n, 1], data: new Float32Array(n).fill(1) })) } }, norm: store(tensor([1])) });
  const stepped = async (n: number, name: string, options: object = {}): Promise<{ o: ReturnType<ReturnType<typeof optimizer>["for"]>; read: (k: string) => Promise<number[]> }> => {
    setDevice(wasm);
    const t = tree(n), o = optimizer(name, options).for(t), g = Float32Array.from({ length: n }, (_, i) => ((i * 7) % n) - n / 2 + 0.25);
    o.step({ x: { lora_A: { weight: fromHost({ dtype: "f32", shape: [1, n], data: g }) }, lora_B: { weight: fromHost({ dtype: "f32", shape: [n, 1], data: g }) } }, norm: tensor([1]) });
    return { o, read: async (k) => Array.from((await o.state())[k].data) };
  };
  it("zero: moments of factors only; counts stay", async () => {
    const { o, read } = await stepped(8, "adamw");
    await resetState(o, { mode: "zero" });
    expect([await read("exp_avg.x.lora_A.weight"), await read("exp_avg_sq.x.lora_B.weight")]).toEqual([new Array(8).fill(0), new Array(8).fill(0)]);
    expect([(await read("exp_avg.norm"))[0] > 0, await read("step.x.lora_A.weight")]).toEqual([true, [1]]);
  });
  it("magnitude: the numbers up to the quantile of each tensor (torch.quantile's), no others", async () => {
    for (const [n, ratio, want] of [[8, 0.5, 4], [10, 0.9, 9], [5, 0, 1], [8, 0.8, 6]] as const) {
      const { o, read } = await stepped(n, "adamw"), before = await read("exp_avg.x.lora_A.weight");
      await resetState(o, { mode: "magnitude", ratio });
      const after = await read("exp_avg.x.lora_A.weight"), gone = before.filter((_, i) => after[i] === 0), left = after.filter((x) => x !== 0);
      expect([gone.length, after.every((x, i) => x === 0 || x === before[i])]).toEqual([want, true]);
      expect(Math.max(...gone.map(Math.abs))).toBeLessThanOrEqual(Math.min(...left.map(Math.abs), Infinity));
    }
  });
  it("random: about the share, the same for the same seed and step; other leaves by a match", async () => {
    const share = async (seed: number): Promise<number[]> => { const { o, read } = await stepped(1000, "lion"); await resetState(o, { mode: "random", ratio: 0.75, seed, match: "lora_B.weight" }); expect((await read("exp_avg.x.lora_A.weight")).every((x) => x !== 0)).toBe(true); return read("exp_avg.x.lora_B.weight"); };
    const a = await share(1);
    expect(Math.abs(a.filter((x) => x === 0).length / 1000 - 0.75)).toBeLessThan(0.06);
    expect([await share(1), await share(2)].map((b) => b.every((x, i) => x === a[i]))).toEqual([true, false]);
  });
  it("8-bit states by what they decode to", async () => {
    const { o, read } = await stepped(512, "adamw_8bit", { min8bitSize: 256 });
    await resetState(o, { mode: "magnitude", ratio: 0.5 });
    const zeros = (await read("state1.x.lora_A.weight")).filter((c) => c === 127).length, scales = await read("absmax1.x.lora_A.weight");
    expect([zeros > 240 && zeros < 300, scales.every((x) => x > 0)]).toEqual([true, true]);
  });
  it("refuses a ratio of 1, none at all, another mode", async () => {
    const { o } = await stepped(4, "adamw");
    await expect(resetState(o, { mode: "random", ratio: 1 })).rejects.toThrow(/ratio/);
    await expect(resetState(o, { mode: "magnitude" })).rejects.toThrow(/ratio/);
    await expect(resetState(o, { mode: "half" as "zero" })).rejects.toThrow(/mode/);
    await expect(resetState(o, { mode: "zero", ratio: 0.5 })).rejects.toThrow(/forgets all, and ratio is 0.5/);
    await expect(resetState(o, { mode: "zero", match: "lora_C" })).rejects.toThrow(/match takes no parameter[^]*x\.lora_A\.weight/);
    await expect(resetState(adamw().for({ w: store(tensor([1])) }), { mode: "zero" })).rejects.toThrow(/no factors of an adapter[^]*named like w/);
  });
});

describe("Sophia's curvature", () => {
  it("Hutchinson's samples of a diagonal quadratic are its diagonal, and steps are Newton's where they are not clipped", async () => {
    setDevice(reference);
    const d = tensor([2, 8], { dtype: "f64" }), p = store(tensor([0.5, 0.25], { dtype: "f64" })), o = sophia({ learningRate: 1, betas: [0, 0.5], rho: 1, weightDecay: 0 }).for({ p });
    const g = gradients(p.square().mul(d).sum().mul(0.5), { p }), v = rademacher({ p }, { seed: 1, stream: "v" }), hv = gradients(g.p!.mul(v.p!).sum(), { p });
    estimateCurvature(o, hutchinson(v, hv), 0);
    o.step(g);
    expectClose(await o.states.hessian.p.data(), [2, 8], 1e-12);
    expectClose(await p.data(), [0, 0], 1e-9);
    expect(await unclippedShare(o, { rho: 1 }).item()).toBe(1);
  });
  it("goes downhill by a full step where the curvature is negative", async () => {
    setDevice(reference);
    // -p⁴ + 8 p at 1: slope 4, curvature -12
    const p = store(tensor([1], { dtype: "f64" })), o = sophia({ learningRate: 0.25, betas: [0, 0.5], rho: 1, weightDecay: 0 }).for({ p });
    const g = gradients(p.mul(8).sub(p.square().square()).sum(), { p }), v = rademacher({ p }, { seed: 1, stream: "v" });
    estimateCurvature(o, hutchinson(v, gradients(g.p!.mul(v.p!).sum(), { p })), 0);
    o.step(g);
    expectClose(await o.states.hessian.p.data(), [-12], 1e-12);
    expectClose(await p.data(), [0.75], 1e-12);
  });
  it("Gauss-Newton-Bartlett: squares of gradients, averaged; no count ticks; a sample that is not finite changes nothing", async () => {
    setDevice(wasm);
    const p = store(tensor([1, 2])), o = sophia({ bs: 4 }).for({ p });
    estimateCurvature(o, gaussNewtonBartlett({ p: tensor([3, 4]) }), 0.5);
    estimateCurvature(o, gaussNewtonBartlett({ p: tensor([NaN, 4]) }), 0.5);
    expect([[...await o.states.hessian.p.data()], o.counter.value, o.updates.p.value]).toEqual([[4.5, 8], 0, 0]);
  });
});

describe("LoRA-FA", () => {
  it("leaves the gradient of A out of norm and step: nothing of it is computed", async () => {
    setDevice(createReference({ fuse: true }));
    const tree = { lora_A: { weight: store(tensor([[1, 0, 1], [0, 2, 0]])) }, lora_B: { weight: store(tensor([[1, -1]])) } }, x = tensor([[1, 2, 3], [2, 0, 1]]);
    const l = x.matmul(tree.lora_A.weight.T).matmul(tree.lora_B.weight.T).square().sum(), g = gradients(l, tree), size = await g.lora_B.weight!.square().sum().sqrt().item();
    const kernels = (o: typeof tree.lora_A.weight, all: boolean): number => planOf([loraFa({ scaling: 1 }).for(tree).step(all ? g : { ...g, lora_A: { weight: null } }).gradNorm, o]).spec.kernels.length;
    expect(await loraFa({ scaling: 1, learningRate: 0 }).for(tree).step(g).gradNorm.item()).toBeCloseTo(size, 5);
    expect(kernels(tree.lora_B.weight, true)).toBe(kernels(tree.lora_B.weight, false));
    expect(await loraFa({ scaling: 1, learningRate: 0 }).for(tree).step({ ...g, lora_A: { weight: tensor([[NaN, 0, 0], [0, 0, 0]]) } }).skipped.item()).toBe(0);
  });
  it("A may be a plain tensor without a gradient; B alone is updated and counted; clipping sees B alone", async () => {
    setDevice(wasm);
    const A = tensor([[1, 0, 1], [0, 2, 0]]), tree = { lora_A: { weight: A }, lora_B: { weight: store(tensor([[0, 0]])) } }, o = loraFa({ scaling: 1, learningRate: 0.5, maxGradNorm: 1 }).for(tree);
    o.step({ lora_A: { weight: null }, lora_B: { weight: tensor([[3, 4]]) } });
    expectClose(await tree.lora_B.weight.data(), [-0.5, -0.5], 1e-4);
    expectClose(await o.states.exp_avg["lora_B.weight"].data(), [0.1 * 0.6 / 2, 0.1 * 0.8 / 4], 1e-6);
    const both = { lora_A: store(A), lora_B: store(tensor([[0, 0]])) }, two = loraFa({ scaling: 1 }).for(both);
    two.step({ lora_A: tensor([[1, 1, 1], [1, 1, 1]]), lora_B: tensor([[3, 4]]) });
    expect([[...await both.lora_A.data()], two.updates.lora_A.value, two.updates.lora_B.value, Object.keys(two.states.exp_avg)]).toEqual([[1, 0, 1, 0, 2, 0], 0, 1, ["lora_B"]]);
  });
  it("B without its partner is refused", () => {
    const o = loraFa({ scaling: 1 }).for({ lora_B: store(tensor([[0, 0]])) });
    expect(() => o.step({ lora_B: tensor([[1, 1]]) })).toThrow(/no partner/);
  });
});

it("a momentum that is a schedule, and adafactor's rate as it is read", async () => {
  setDevice(wasm);
  const p = store(tensor([0])), o = sgd({ learningRate: 1, momentum: (t) => t / 4 }).for({ p });
  for (let t = 0; t < 3; t++) o.step({ p: tensor([1]) });
  expect(await p.item()).toBe(-(1 + (1 + 0.25) + (1 + 0.5 * 1.25)));
  expect(adafactor().for({ p }).learningRate).toBe(1e-2);
});
