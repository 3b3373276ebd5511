/** State: bit-exact resume, strict loading, torch's layout. */
import { type HostArray, type Store, type Tensor, compile, setDevice, store, tensor } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { parseSafetensors, serializeSafetensors } from "@adjoint/io";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type BoundOptimizer, type Optimizer, adam, adamw, cosine, sgd } from "@adjoint/optim";
import { devices } from "./golden.ts";

interface Net { readonly w: Store; readonly norm: { readonly weight: Store }; readonly far: Store }
const net = (): Net => ({ w: store(tensor([[0.5, -0.25], [0.25, 1]])), norm: { weight: store(tensor([0.125, -0.5])) }, far: store(tensor([1])) });
const loss = ({ w, norm }: Net, x: Tensor): Tensor => x.matmul(w.T).mul(norm.weight).tanh().square().sum();
const recipes: readonly (() => Optimizer)[] = [
  () => sgd({ learningRate: 0.25, momentum: 0.5, dampening: 0.25 }),
  () => adam({ learningRate: 0.125, amsgrad: true }),
  () => adamw({ learningRate: cosine({ peak: 0.25, warmup: 2, steps: 20 }), maxGradNorm: 0.5 }),
];
const input = (t: number): Tensor => tensor([[1, t / 4], [0.25, t - 1]]);
const weights = async (m: Net): Promise<HostArray[]> => Promise.all([m.w.host(), m.norm.weight.host(), m.far.host()]);
const copy = (hs: HostArray[]): HostArray[] => hs.map((h) => ({ ...h, data: h.data.slice() }));

describe("resume", () => {
  for (const device of devices) for (const compiled of [false, true]) it(`n + m steps equal n, a file, m steps, bit for bit (${device.name}${compiled ? ", compiled" : ""})`, async () => {
    setDevice(device);
    await fc.assert(fc.asyncProperty(fc.constantFrom(...recipes), fc.integer({ min: 0, max: 4 }), fc.integer({ min: 1, max: 4 }), async (make, n, m) => {
      const stepper = (t: Net, o: BoundOptimizer<Net>): ((x: Tensor) => Tensor) => { const f = (x: Tensor): Tensor => { const l = loss(t, x); o.step(gradients(l, t)); return l; }; return compiled ? compile(f) : f; };
      const straight = net(), so = make().for(straight), sf = stepper(straight, so);
      let kept: HostArray[] = copy(await weights(straight)), file = serializeSafetensors(await so.state());
      for (let t = 0; t < n + m; t++) {
        sf(input(t));
        if (t === n - 1) { kept = copy(await weights(straight)); file = serializeSafetensors(await so.state()); }
      }
      const cut = net(), co = make().for(cut), cf = stepper(cut, co);
      cf(input(9));                                      // whatever was there before must not show
      co.load(Object.fromEntries(parseSafetensors(file, "memory").tensors));
      [cut.w, cut.norm.weight, cut.far].forEach((s, i) => { s.set(kept[i]); });
      for (let t = n; t < n + m; t++) cf(input(t));
      expect(await weights(cut)).toEqual(await weights(straight));
      expect(await co.state()).toEqual(await so.state());
      expect(co.learningRate).toBe(so.learningRate);
    }), { numRuns: 6 });
  });
  it("a snapshot does not move with later steps", async () => {
    const m = net(), o = adamw().for(m);
    o.step(gradients(loss(m, input(1)), m));
    const pending = o.state();
    o.step(gradients(loss(m, input(2)), m));
    const early = await pending, text = JSON.stringify(early, (_, v: unknown) => (ArrayBuffer.isView(v) ? Array.from(v as Float32Array) : v));
    expect(early.step.data[0]).toBe(1);
    o.step(gradients(loss(m, input(3)), m));
    await o.state();
    expect(JSON.stringify(early, (_, v: unknown) => (ArrayBuffer.isView(v) ? Array.from(v as Float32Array) : v))).toBe(text);
  });
});

describe("strict loading", () => {
  it("names what is missing and what is unexpected, and changes nothing", async () => {
    const m = net(), o = adamw().for(m);
    o.step(gradients(loss(m, input(1)), m));
    const before = await o.state();
    const { "exp_avg.w": moved, ...rest } = before;
    const refused = (state: Record<string, HostArray>): unknown => { try { o.load(state); return null; } catch (e) { return e; } };
    expect(refused({ ...rest, "exp_avg.v": moved })).toMatchObject({ name: "FormatError", details: { value: { missing: ["exp_avg.w"], unexpected: ["exp_avg.v"] } } });
    expect(refused({ ...before, "exp_avg_sq.w": { ...before["exp_avg_sq.w"], shape: [4] } })).toMatchObject({ name: "FormatError", details: { key: "exp_avg_sq.w" } });
    expect(refused({ ...before, "exp_avg_sq.w": { dtype: "f64", shape: [2, 2], data: new Float64Array(4) } })).toMatchObject({ name: "FormatError", details: { key: "exp_avg_sq.w" } });
    expect(refused({ ...before, step: { dtype: "i32", shape: [], data: new Int32Array([-1]) } })).toMatchObject({ name: "FormatError", details: { key: "step" } });
    expect(refused(await sgd({ momentum: 0.5 }).for(m).state())).toMatchObject({ name: "FormatError" });
    expect(refused({ ...before, step: 1 as unknown as HostArray })).toMatchObject({ name: "FormatError", details: { key: "step" } });
    expect(refused(null as unknown as typeof before)).toMatchObject({ name: "FormatError" });
    expect(await o.state()).toEqual(before);
  });
});

it("torch's layout: what is none, and a count that is missing, are refused by name; SGD alone may do without", async () => {
  const m = net(), o = adamw().for(m), g = (): ReturnType<typeof gradients<Net>> => gradients(loss(m, input(1)), m);
  o.step(g());
  const before = await o.state(), good = await o.stateDict(), refused = (state: unknown): unknown => { try { o.loadStateDict(state as typeof good); return null; } catch (e) { return e; } };
  const cells = good.state[0], { step: _, ...uncounted } = cells;
  const bad: readonly [unknown, string][] = [
    [null, "param_groups"], [{}, "param_groups"], [{ param_groups: good.param_groups }, "param_groups"], [{ state: {}, param_groups: [{}] }, "param_groups"], [{ state: good.state, param_groups: {} }, "param_groups"],
    [{ ...good, state: { ...good.state, 0: { ...cells, step: 1 } } }, "state.0.step"], [{ ...good, state: { ...good.state, 0: { ...cells, exp_avg: [1, 2] } } }, "state.0.exp_avg"],
    [{ ...good, state: { ...good.state, 0: { ...cells, exp_avg: { ...cells.exp_avg, data: new Float32Array(1) } } } }, "state.0.exp_avg"], [{ ...good, state: { ...good.state, 0: null } }, "state.0.state"],
    [{ ...good, state: { ...good.state, 0: uncounted } }, "step.w"],
  ];
  for (const [state, key] of bad) expect([key, refused(state)]).toEqual([key, expect.objectContaining({ name: "FormatError", details: expect.objectContaining({ key }) })]);
  expect(await o.state()).toEqual(before);
  o.loadStateDict({ ...good, state: { ...good.state, 0: uncounted } }, { step: 7 });
  expect([o.updates.w.value, o.counter.value]).toEqual([7, 7]);
});

it("torch's layout: groups by decay, numbers in their order, no state without an update", async () => {
  const m = net(), o = adamw({ learningRate: 0.5, weightDecay: 0.25 }).for(m);
  o.step(gradients(loss(m, input(1)), m));
  const { state, param_groups } = await o.stateDict();
  expect(param_groups).toMatchObject([
    { lr: 0.5, weight_decay: 0.25, betas: [0.9, 0.999], eps: 1e-8, amsgrad: false, maximize: false, params: [0, 1], param_names: ["w", "far"] },
    { lr: 0.5, weight_decay: 0, params: [2], param_names: ["norm.weight"] },
  ]);
  expect(Object.keys(state)).toEqual(["0", "2"]);
  expect(state[0].step.data[0]).toBe(1);
  expect(state[2].exp_avg).toEqual((await o.state())["exp_avg.norm.weight"]);
});
