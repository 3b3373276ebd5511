/** Updates of several stores over the same points are one kernel, in place, and change no number. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { type Backend, type PlanSpec, type Store, type Tensor, assign, createReference, scope, setDevice, store, tensor } from "@adjoint/tensor";
import { wasmSync } from "@adjoint/wasm";

const grid = (n: number, k: number): Float32Array => Float32Array.from({ length: n }, (_, i) => ((i * 37 + k * 11) % 33 - 16) / 16);
/** A backend that keeps the plans it is given. */
function watched(): { device: Backend; plans: PlanSpec[] } {
  const device = wasmSync(), plans: PlanSpec[] = [], prepare = device.prepare.bind(device);
  device.prepare = (plan) => { plans.push(plan); return prepare(plan); };
  return { device, plans };
}
const lion = (p: Store, m: Store, g: Store): [Store[], Tensor[]] => {
  const u = m.mul(0.9).add(g.mul(0.1)), next = m.mul(0.99).add(g.mul(0.01));
  return [[m, p], [next, p.sub(u.gt(0).cast("f32").sub(u.lt(0).cast("f32")).mul(0.25))]];
};

test.each([false, true])("Lion's momentum and parameter are one kernel that writes both stores in place (other order: %s)", async (flip) => {
  const { device, plans } = watched();
  setDevice(device);
  const [p, m, g] = [1, 2, 3].map((k) => store(tensor(grid(600, k), { shape: [20, 30] })));
  const before = { p: [...await p.data()], m: [...await m.data()], g: [...await g.data()] };
  plans.length = 0;
  scope(() => { const [stores, values] = lion(p, m, g); assign(flip ? stores.reverse() : stores, flip ? values.reverse() : values); });
  const want = before.p.map((x, i) => Math.fround(x - 0.25 * Math.sign(Math.fround(Math.fround(before.m[i] * Math.fround(0.9)) + Math.fround(before.g[i] * Math.fround(0.1))))));
  expect([...await p.data()]).toEqual(want);
  expect(plans[0].kernels.map((k) => k.kind)).toEqual(["map"]);
  expect(plans[0].arenaBytes).toBe(0);
});

test("not where one needs the other's result, or another shape, or reads the store elsewhere", async () => {
  const { device, plans } = watched();
  setDevice(device);
  const [p, m, q] = [store(tensor(grid(9, 1), { shape: [3, 3] })), store(tensor(grid(9, 2), { shape: [3, 3] })), store(tensor(grid(3, 3)))];
  await p.data();
  const kernels = (stores: Store[], values: () => Tensor[]): number => { plans.length = 0; scope(() => { assign(stores, values()); }); return plans[0].kernels.length; };
  expect(kernels([m, p], () => { const next = m.add(1); return [next, p.sub(next.sum().expand([3, 3]))]; })).toBeGreaterThan(1);       // p needs all of m
  expect(kernels([m, q], () => [m.add(1), q.add(m.slice(0, 0, 1).reshape([3]))])).toBeGreaterThan(1);                                   // other points
  expect(kernels([m, p], () => [m.add(1), p.add(m.T)])).toBeGreaterThan(1);                                                            // m is read elsewhere too
});

test("law: any updates that read each other's stores give the numbers of separate kernels", async () => {
  const unfused = createReference(), fused = wasmSync();
  await fc.assert(fc.asyncProperty(fc.array(fc.tuple(fc.nat(4), fc.nat(4), fc.nat(4), fc.nat(3)), { minLength: 1, maxLength: 8 }), fc.constantFrom([4, 4], [2, 3], [17]), async (steps, shape) => {
    const run = async (device: Backend): Promise<number[][]> => {
      setDevice(device);
      const n = shape.reduce((a, b) => a * b, 1), stores = [0, 1, 2, 3, 4].map((k) => store(tensor(grid(n, k), { shape })));
      for (let round = 0; round < 2; round++) scope(() => {
        const old = stores.map((s) => s.add(0)), values = new Map<Store, Tensor>();
        for (const [to, a, b, kind] of steps) {
          const [x, y] = [stores[a], kind === 1 && shape[0] === shape[1] ? stores[b].T : stores[b]];
          values.set(stores[to], kind === 2 ? old[a].sub(y.sum().mul(0.125)) : kind === 3 ? x.mul(0.5).add(values.get(stores[b]) ?? y) : x.mul(0.5).add(y.mul(0.25)));
        }
        assign([...values.keys()], [...values.values()]);
      });
      return Promise.all(stores.map(async (s) => [...await s.data()]));
    };
    const want = await run(unfused), got = await run(fused);
    got.forEach((xs, k) => { xs.forEach((x, i) => { expect(x).toBeCloseTo(want[k][i], 4); }); });
  }), { numRuns: 60 });
});

test("codes, a scale a row and what is made of them are one rows kernel, in place, in any order and whatever the stores' shapes", async () => {
  for (const order of [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]) for (const shape of [[40, 20], [20, 40], [800]]) {
    const { device, plans } = watched();
    setDevice(device);
    const p = store(tensor(grid(800, 1), { shape })), m = store(tensor(grid(800, 2), { shape })), scale = store(tensor(grid(80, 3)));
    const before = { p: [...await p.data()], m: [...await m.data()], scale: [...await scale.data()] };
    plans.length = 0;
    scope(() => {
      const old = m.reshape([80, 10]).mul(scale.reshape([80, 1])), next = old.mul(0.5).add(p.reshape([80, 10])), largest = next.abs().amax(-1);
      const stores = [m, scale, p], values = [next.div(largest.maximum(1)).reshape(shape), largest.reshape([80]), p.reshape([80, 10]).sub(next.mul(0.25)).reshape(shape)];
      assign(order.map((i) => stores[i]), order.map((i) => values[i]));
    });
    const next = before.m.map((x, i) => Math.fround(Math.fround(Math.fround(x * before.scale[Math.floor(i / 10)]) * 0.5) + before.p[i])), largest = before.scale.map((_, r) => Math.max(...next.slice(10 * r, 10 * r + 10).map(Math.abs)));
    expect([...await m.data()]).toEqual(next.map((x, i) => Math.fround(x / Math.max(largest[Math.floor(i / 10)], 1))));
    expect([...await scale.data()]).toEqual(largest);
    expect([...await p.data()]).toEqual(before.p.map((x, i) => Math.fround(x - Math.fround(next[i] * 0.25))));
    expect(plans[0].kernels.map((k) => k.kind)).toEqual(["rows"]);
    expect(plans[0].arenaBytes).toBe(0);
  }
});

test("law: updates that share rows, their statistics and each other's stores give the numbers of separate kernels", async () => {
  const unfused = createReference(), fused = wasmSync(), shape = [4, 6];
  await fc.assert(fc.asyncProperty(fc.array(fc.tuple(fc.nat(5), fc.nat(3), fc.nat(3), fc.nat(4)), { minLength: 1, maxLength: 7 }), async (steps) => {
    const run = async (device: Backend): Promise<number[][]> => {
      setDevice(device);
      const wide = [0, 1, 2, 3].map((k) => store(tensor(grid(24, k), { shape: k === 3 ? [8, 3] : shape }))), narrow = [4, 5].map((k) => store(tensor(grid(4, k)))), stores = [...wide, ...narrow];
      for (let round = 0; round < 2; round++) scope(() => {
        const values = new Map<Store, Tensor>(), rows = (s: Store): Tensor => (values.get(s) ?? s).reshape(shape);
        for (const [to, a, b, kind] of steps) {
          const x = rows(wide[a]), y = (kind > 2 ? wide[b] : rows(wide[b])).reshape(shape), mixed = x.mul(0.5).add(kind === 1 ? y.mul(narrow[0].reshape([4, 1])) : y.mul(0.25)), top = mixed.abs().amax(-1);
          values.set(stores[to], to > 3 ? top.reshape([4]).mul(0.5) : (kind === 2 ? mixed.div(top.maximum(1)) : kind === 4 ? mixed.sub(top) : mixed).reshape(stores[to].shape));
        }
        assign([...values.keys()], [...values.values()]);
      });
      return Promise.all(stores.map(async (s) => [...await s.data()]));
    };
    const want = await run(unfused), got = await run(fused);
    got.forEach((xs, k) => { xs.forEach((x, i) => { expect(x).toBeCloseTo(want[k][i], 4); }); });
  }), { numRuns: 80 });
});
