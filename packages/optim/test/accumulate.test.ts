/** Accumulation: micro-batches of unequal length equal the big batch, compiled or not; a cut one leaves no trace. */
import { type Store, type Tensor, compile, crossEntropySum, gather, memory, setDevice, store, tensor } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Accumulated, accumulate, adamw } from "@adjoint/optim";
import { devices, expectClose, expectSame } from "./golden.ts";

interface Net { readonly e: Store; readonly w: Store; readonly far: Store }
const net = (): Net => ({ e: store(tensor([[0.5, -0.25, 0.125], [0.25, 1, -0.5], [0, 0.75, 0.5], [1, -1, 0.25]])), w: store(tensor([[0.5, 0.25, -1], [0.125, -0.5, 0.5]])), far: store(tensor([1])) });
interface Row { readonly ids: number[]; readonly labels: number[] }
const sums = (m: Net, rows: readonly Row[]): { total: Tensor; count: Tensor } => {
  const ids = tensor(Int32Array.from(rows.flatMap((r) => r.ids))), labels = tensor(Int32Array.from(rows.flatMap((r) => r.labels)));
  return sumsOf(m, ids, labels);
};
const sumsOf = (m: Net, ids: Tensor, labels: Tensor): { total: Tensor; count: Tensor } => crossEntropySum(gather(m.e, ids).matmul(m.w.T), labels);
const row = fc.array(fc.tuple(fc.integer({ min: 0, max: 3 }), fc.constantFrom(-100, 0, 1, 1)), { minLength: 1, maxLength: 5 }).map((ts): Row => ({ ids: ts.map((t) => t[0]), labels: ts.map((t) => t[1]) }));
const batch = fc.array(row, { minLength: 2, maxLength: 6 }).filter((rows) => rows.some((r) => r.labels.some((y) => y >= 0)));
const read = async (a: Accumulated<Net>): Promise<number[]> => [...await a.gradients.e!.data(), ...await a.gradients.w!.data(), await a.loss.item(), await a.count.item()];

for (const device of devices) describe(device.name, () => {
  it("micro-batches of any sizes give the big batch's mean gradient, loss and count", async () => {
    setDevice(device);
    await fc.assert(fc.asyncProperty(batch, fc.integer({ min: 1, max: 3 }), fc.boolean(), async (rows, size, dirty) => {
      const m = net(), acc = accumulate(m), big = sums(m, rows), n = big.count.maximum(1);
      const mean = gradients(big.total.div(n), m), want = [...await mean.e!.data(), ...await mean.w!.data(), await big.total.div(n).item(), await big.count.item()];
      if (dirty) { const { total, count } = sums(m, rows.slice(0, 1)); acc.add(gradients(total, m), count, total); acc.reset(); }
      for (let i = 0; i < rows.length; i += size) { const { total, count } = sums(m, rows.slice(i, i + size)); acc.add(gradients(total, m), count, total); }
      const a = acc.finish();
      expect(a.gradients.far).toBeNull();
      expectClose(await read(a), want, 1e-6);
    }), { numRuns: 15 });
  });

  it("compiled micro-steps and a compiled end train like plain ones, step after step", async () => {
    setDevice(device);
    const data = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => [tensor(new Int32Array([i % 4, (i + 1) % 4, 3])), tensor(new Int32Array([i % 2, i % 3 === 0 ? -100 : 1, -100]))] as const);
    const run = async (how: <A extends readonly unknown[], R>(f: (...a: A) => R) => (...a: A) => R): Promise<number[]> => {
      const m = net(), acc = accumulate(m), o = adamw({ learningRate: 0.125, maxGradNorm: 0.5 }).for(m), out: number[] = [];
      const micro = how((ids: Tensor, labels: Tensor) => { const { total, count } = sumsOf(m, ids, labels); acc.add(gradients(total, m), count, total); });
      const end = how(() => { const { gradients: g, loss, count } = acc.finish(), { gradNorm } = o.step(g); return { loss, count, gradNorm }; });
      for (let step = 0; step < 4; step++) {
        micro(...data[2 * step]);
        micro(...data[2 * step + 1]);
        const r = end();
        out.push(await r.loss.item(), await r.count.item(), await r.gradNorm.item());
      }
      expect(await m.far.item()).toBe(1);
      return [...out, ...await m.e.data(), ...await m.w.data()];
    };
    const plain = await run((f) => f);
    expectSame(device, await run(compile), plain);
  });

  it("a NaN in a cut accumulation does not survive the reset", async () => {
    setDevice(device);
    const m = net(), acc = accumulate(m), bad = { e: tensor(new Float32Array(12).fill(NaN), { shape: [4, 3] }), w: tensor(new Float32Array(6).fill(NaN), { shape: [2, 3] }), far: null };
    acc.add(bad, tensor(3), tensor(NaN));
    acc.reset();
    acc.add({ e: tensor(new Float32Array(12).fill(4), { shape: [4, 3] }), w: tensor(new Float32Array(6).fill(2), { shape: [2, 3] }), far: null }, tensor(2), tensor(6));
    expect(await read(acc.finish())).toEqual([...new Array<number>(12).fill(2), ...new Array<number>(6).fill(1), 3, 2]);
  });

  it("a count may be a sum of weights below 1; where nothing counts, means are 0 and not NaN", async () => {
    setDevice(device);
    const p = store(tensor([1, 2])), acc = accumulate({ p });
    for (const [w, g] of [[0.25, [1, 3]], [0.25, [2, 0]]] as const) acc.add({ p: tensor(g) }, tensor(w), tensor(w));
    const a = acc.finish();
    expect([[...await a.gradients.p!.data()], await a.loss.item(), await a.count.item()]).toEqual([[6, 6], 1, 0.5]);
    acc.add({ p: tensor([0, 0]) }, tensor(0), tensor(0));
    const none = acc.finish();
    expect([[...await none.gradients.p!.data()], await none.loss.item(), await none.count.item()]).toEqual([[0, 0], 0, 0]);
  });

  it("a leaf that only some micro-batches reach counts with those", async () => {
    setDevice(device);
    const p = store(tensor([1])), q = store(tensor([1])), acc = accumulate({ p, q });
    const micro = compile((x: Tensor, both: boolean) => { acc.add({ p: x, q: both ? x : null }, tensor(1)); });
    const cycle = async (xs: readonly [number, boolean][]): Promise<(number | null)[]> => {
      for (const [x, both] of xs) micro(tensor([x]), both);
      const { gradients: g } = acc.finish();
      return [await g.p!.item(), g.q && await g.q.item()];
    };
    expect(await cycle([[1, false], [3, false]])).toEqual([2, null]);
    expect(await cycle([[1, false], [3, true]])).toEqual([2, 1.5]);
    expect(await cycle([[4, false], [8, false]])).toEqual([6, 0]);
    expect(await cycle([[4, true], [8, false]])).toEqual([6, 2]);
  });

  it("nothing grows over steps", async () => {
    setDevice(device);
    const m = net(), acc = accumulate(m), o = adamw().for(m);
    const ids = tensor(new Int32Array([0, 1])), labels = tensor(new Int32Array([1, 0]));
    const micro = compile((i: Tensor, y: Tensor) => { const { total, count } = sumsOf(m, i, y); acc.add(gradients(total, m), count); });
    const end = compile(() => o.step(acc.finish().gradients).gradNorm);
    const step = async (): Promise<void> => { micro(ids, labels); micro(ids, labels); await end().item(); };
    for (let i = 0; i < 3; i++) await step();
    const { flushes: _f, kernels: _k, ...before } = memory();
    for (let i = 0; i < 10; i++) await step();
    const { flushes: _g, kernels: _l, ...after } = memory();
    expect(after).toEqual(before);
  });
});

describe("refusals", () => {
  it("a shape, an empty micro-batch, an end without a beginning, a tree without stores", () => {
    const p = store(tensor([1, 2]));
    expect(() => { accumulate({ p }).add({ p: tensor([1]) }, tensor(1)); }).toThrow(/gradient of p has shape/);
    expect(() => { accumulate({ p }).add({ p: null }, tensor(1)); }).toThrow(/no parameter has a gradient/);
    expect(() => { accumulate({ p }).add({ p: tensor([1, 1]) }, tensor([1, 1])); }).toThrow(/not one number/);
    expect(() => accumulate({ p }).finish()).toThrow(/finish before any add/);
    expect(() => accumulate({ p: tensor([1]) })).toThrow(/no store/);
  });
});
