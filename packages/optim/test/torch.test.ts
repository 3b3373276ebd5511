/** torch's layout: names, the step, what torch and bitsandbytes need to go on, and what is refused. */
import { type HostArray, type Store, setDevice, store, tensor } from "@adjoint/tensor";
import { describe, expect, it } from "vitest";
import { type BoundOptimizer, type Optimizer, type TorchState, adagrad, adam, adamw, adamw8bit, linear, lion8bit, loraPlus, nadam, oneCycleMomentum, rmsprop8bit, sgd } from "@adjoint/optim";
import { devices } from "./golden.ts";
import { longTensors } from "./long.ts";

setDevice(devices[0]);
const f = (...x: number[]): HostArray => ({ dtype: "f32", shape: [x.length], data: Float32Array.from(x) }), number = (x: number): HostArray => ({ dtype: "f32", shape: [], data: Float32Array.of(x) });
interface Two { readonly a: Store; readonly b: Store }
const two = (): Two => ({ a: store(tensor([1, 1])), b: store(tensor([1, 1])) });
const g = tensor([1, -1]);
/** What torch.optim.Adam saves after two steps, for parameters of these names. */
const ofTorch = (...groups: (readonly string[] | null)[]): TorchState => ({
  state: { 0: { step: number(2), exp_avg: f(1, 2), exp_avg_sq: f(3, 4) }, 1: { step: number(2), exp_avg: f(5, 6), exp_avg_sq: f(7, 8) } },
  param_groups: groups.map((names, i) => ({ lr: 0.1, params: groups.length === 1 ? [0, 1] : [i], ...(names ? { param_names: names } : {}) })),
});
const loaded = async (o: BoundOptimizer<Two>, state: TorchState): Promise<number[]> => { o.loadStateDict(state); return [...await o.states.exp_avg.a.data(), ...await o.states.exp_avg.b.data()]; };
const refused = (act: () => void): unknown => { try { act(); return null; } catch (e) { return e; } };
const run = (o: BoundOptimizer<Two>, steps: number, b: (t: number) => boolean = () => true, a: (t: number) => boolean = () => true): void => { for (let t = 0; t < steps; t++) o.step({ a: a(t) ? g : null, b: b(t) ? g : null }); };

describe("names", () => {
  it("torch's param_names are followed, in whatever order", async () => {
    expect(await loaded(adam().for(two()), ofTorch(["a", "b"]))).toEqual([1, 2, 5, 6]);
    expect(await loaded(adam().for(two()), ofTorch(["b", "a"]))).toEqual([5, 6, 1, 2]);
    expect(await loaded(adam().for(two()), ofTorch(["b"], ["a"]))).toEqual([5, 6, 1, 2]);
  });
  it("what is written is read by torch under its name, and by us under the older one", async () => {
    const o = adamw().for(two());
    run(o, 2);
    const { state, param_groups } = await o.stateDict();
    expect(param_groups[0].param_names).toEqual(["a", "b"]);
    const older = param_groups.map(({ param_names, adjoint_offset: _, ...rest }) => ({ ...rest, names: param_names?.toReversed() ?? [] })), other = adamw().for(two());
    expect(await loaded(other, { state, param_groups: older })).toEqual([...await o.states.exp_avg.b.data(), ...await o.states.exp_avg.a.data()]);
    expect(other.counter.value).toBe(2);
  });
  it("names of another model, some names only, a name twice: refused, and nothing has changed", async () => {
    const o = adam().for(two()), before = await o.state();
    const error = refused(() => { o.loadStateDict(ofTorch(["x", "y"])); });
    expect(error).toMatchObject({ name: "FormatError", details: { key: "a", fix: expect.stringContaining("leave param_names out") } });
    expect(String(error)).toMatch(/missing \(2\): a, b[^]*unexpected \(2\): x, y/);
    expect(refused(() => { o.loadStateDict(ofTorch(["a", "y"])); })).toMatchObject({ details: { key: "b", fix: expect.not.stringContaining("leave") } });
    expect(refused(() => { o.loadStateDict(ofTorch(["a"])); })).toMatchObject({ details: { key: "param_names" } });
    expect(refused(() => { o.loadStateDict(ofTorch(["a"], null)); })).toMatchObject({ details: { key: "param_names" } });
    expect(refused(() => { o.loadStateDict(ofTorch(["a", "a"])); })).toMatchObject({ details: { key: "param_names" } });
    expect(refused(() => { o.loadStateDict({ ...ofTorch(null), param_groups: [{ params: [0, 0] }] }); })).toMatchObject({ details: { key: "params" } });
    expect(await o.state()).toEqual(before);
  });
  it("without names, several groups are the groups here, and as many", async () => {
    const grouped = (): BoundOptimizer<Two> => adam({ groups: [{ match: "a", learningRate: 1 }] }).for(two());
    expect(await loaded(grouped(), ofTorch(null, null))).toEqual([1, 2, 5, 6]);
    const later = adam({ weightDecay: 1, noDecay: (path) => path === "w1" }).for({ w0: store(tensor([0])), w1: store(tensor([0])), w2: store(tensor([0])) });
    const cell = (x: number): Record<string, HostArray> => ({ step: number(1), exp_avg: f(x), exp_avg_sq: f(x) });
    later.loadStateDict({ state: { 0: cell(1), 1: cell(2), 2: cell(3) }, param_groups: [{ params: [0, 1] }, { params: [2] }] });
    expect(await Promise.all(["w0", "w1", "w2"].map((k) => later.states.exp_avg[k].item()))).toEqual([1, 3, 2]);
    const turned = (first: number, second: number): TorchState => ({ ...ofTorch(null), param_groups: [{ params: [0], weight_decay: first }, { params: [1], weight_decay: second }] }), decaying = (): BoundOptimizer<Two> => adam({ weightDecay: 1, noDecay: (path) => path === "a" }).for(two());
    expect(await loaded(decaying(), turned(0, 0.5))).toEqual([1, 2, 5, 6]);
    expect(refused(() => { decaying().loadStateDict(turned(0.5, 0)); })).toMatchObject({ name: "FormatError", details: { key: "param_groups" } });
    expect(refused(() => { adam().for(two()).loadStateDict(ofTorch(null, null)); })).toMatchObject({ name: "FormatError", details: { key: "param_groups" } });
  });
});

describe("the step", () => {
  const curve = linear({ peak: 1, steps: 1000 }), loadInto = (o: BoundOptimizer<Two>, state: TorchState, options?: { step: number }): [number, number, number] => { o.loadStateDict(state, options); return [o.counter.value, o.updates.a.value, o.updates.b.value]; };
  it("goes along where no leaf has had all updates, and further where torch has gone on", async () => {
    const make = (): BoundOptimizer<Two> => adamw({ learningRate: curve }).for(two()), o = make();
    run(o, 6, (t) => t % 2 === 0, (t) => t % 2 === 1);
    const saved = await o.stateDict();
    expect(loadInto(make(), saved)).toEqual([6, 3, 3]);
    const further = Object.fromEntries(Object.entries(saved.state).map(([id, cells]) => [id, { ...cells, step: number(5) }]));
    expect(loadInto(make(), { ...saved, state: further })).toEqual([8, 5, 5]);
    expect(loadInto(make(), saved, { step: 40 })).toEqual([40, 3, 3]);
  });
  it("of a leaf that came late is its own", async () => {
    const o = adamw({ learningRate: curve }).for(two()), other = adamw({ learningRate: curve }).for(two());
    run(o, 5, (t) => t > 3);
    expect(loadInto(other, await o.stateDict())).toEqual([5, 5, 1]);
    expect(await other.state()).toEqual(await o.state());
  });
  const bySgd: TorchState = { state: { 0: { momentum_buffer: f(1, 1) }, 1: { momentum_buffer: f(1, 1) } }, param_groups: [{ lr: 0.5, momentum: 0.9, params: [0, 1] }] }, empty: TorchState = { state: {}, param_groups: [{ lr: 0.5, params: [0, 1] }] };
  it.each<[string, () => Optimizer, TorchState]>([
    ["a momentum of torch's SGD and a schedule", () => sgd({ momentum: 0.9, learningRate: curve }), bySgd],
    ["a momentum of torch's SGD and a group's schedule", () => sgd({ momentum: 0.9, groups: [{ match: "a", schedule: curve }] }), bySgd],
    ["a momentum of torch's SGD and a momentum by step", () => sgd({ momentum: oneCycleMomentum({ steps: 9 }) }), bySgd],
    ["nothing at all of torch's plain SGD and a schedule", () => sgd({ learningRate: curve }), empty],
  ])("%s: refused without a step", (_, make, state) => {
    expect(refused(() => { make().for(two()).loadStateDict(state); })).toMatchObject({ name: "FormatError", details: { key: "step", fix: expect.stringContaining("{ step }") } });
    expect(loadInto(make().for(two()), state, { step: 500 })).toEqual([500, 500, 500]);
  });
  it("does not matter to a constant rate; a new optimizer's is 0", async () => {
    expect(loadInto(sgd({ momentum: 0.9 }).for(two()), bySgd)).toEqual([1, 1, 1]);
    expect(loadInto(sgd().for(two()), empty)).toEqual([0, 0, 0]);
    expect(loadInto(adam({ learningRate: curve }).for(two()), empty)).toEqual([0, 0, 0]);
    for (const make of [() => sgd({ learningRate: curve }), () => nadam({ learningRate: curve })]) expect(loadInto(make().for(two()), await make().for(two()).stateDict())).toEqual([0, 0, 0]);
    const o = sgd({ learningRate: curve }).for(two());
    run(o, 3);
    expect(loadInto(sgd({ learningRate: curve }).for(two()), await o.stateDict())).toEqual([3, 3, 3]);
  });
  it("must be a count, and the only option", () => {
    const o = sgd({ learningRate: curve }).for(two());
    expect(refused(() => { o.loadStateDict(empty, { step: -1 }); })).toMatchObject({ name: "ConfigError", details: { key: "step" } });
    expect(refused(() => { o.loadStateDict(empty, { steps: 1 } as object); })).toMatchObject({ name: "ConfigError", details: { key: "steps" } });
    expect(refused(() => { o.loadStateDict({ ...empty, param_groups: [{ params: [0, 1], adjoint_offset: -2 }] }); })).toMatchObject({ name: "FormatError", details: { key: "adjoint_offset" } });
  });
});

describe("what torch and bitsandbytes need to go on", () => {
  it("maps beside 8-bit states, bitsandbytes's to the last digit but one; others are refused", async () => {
    for (const [make, maps] of [[() => adamw8bit({ min8bitSize: 2 }), ["signed", "unsigned"]], [() => rmsprop8bit({ min8bitSize: 2 }), ["signed"]]] as const) {
      const tree = (): { big: Store; small: Store } => ({ big: store(tensor([1, 2, 3])), small: store(tensor([1])) }), o = make().for(tree()), other = make().for(tree());
      o.step({ big: tensor([1, -2, 3]), small: tensor([1]) });
      const { state, param_groups } = await o.stateDict();
      maps.forEach((map, i) => {
        const ours = state[0][`qmap${i + 1}`], theirs = longTensors.get(`map/${map}`)!.data;
        expect([ours.dtype, ours.shape]).toEqual(["f32", [256]]);
        expect(Math.max(...Array.from(ours.data, (x, k) => Math.abs(Number(x) - theirs[k]) / Math.max(1e-30, Math.abs(theirs[k]))))).toBeLessThan(2e-7);
      });
      expect(Object.keys(state[1]).some((key) => key.startsWith("qmap") || key.startsWith("absmax"))).toBe(false);
      other.loadStateDict({ state, param_groups });
      expect(await other.state()).toEqual(await o.state());
      const linearMap = { ...state[0].qmap1, data: Float32Array.from({ length: 256 }, (_, i) => i / 127.5 - 1) };
      expect(refused(() => { other.loadStateDict({ param_groups, state: { ...state, 0: { ...state[0], qmap1: linearMap } } }); })).toMatchObject({ name: "FormatError", details: { key: "qmap1.big" } });
      expect(refused(() => { other.loadStateDict({ param_groups, state: { ...state, 1: { ...state[1], qmap1: state[0].qmap1 } } }); })).toMatchObject({ name: "FormatError", details: { key: "qmap1.small" } });
    }
  });
  it("the options that bitsandbytes asks every group for", async () => {
    for (const [o, options] of [[adamw8bit(), { betas: [0.9, 0.999], eps: 1e-8 }], [lion8bit(), { betas: [0.9, 0.99], eps: 0 }], [rmsprop8bit(), { betas: [0.99, 0], eps: 1e-8 }]] as const) expect((await o.for(two()).stateDict()).param_groups).toMatchObject([options]);
  });
  it("Adagrad's sums of leaves that have had no update", async () => {
    const make = (): BoundOptimizer<Two> => adagrad({ initialAccumulatorValue: 0.5 }).for(two()), o = make(), other = make();
    run(o, 2, () => false);
    const saved = await o.stateDict();
    expect([saved.state[1].step.data[0], [...saved.state[1].sum.data]]).toEqual([0, [0.5, 0.5]]);
    other.loadStateDict(saved);
    expect(await other.state()).toEqual(await o.state());
  });
  it("betas and momentum of the step that was taken last", async () => {
    const beta = (t: number): number => [0.5, 0.75, 0.875][t], a = adamw({ betas: [beta, 0.999] }).for(two()), s = sgd({ momentum: beta }).for(two());
    for (let t = 0; t < 3; t++) {
      run(a, 1); run(s, 1);
      expect([(await a.stateDict()).param_groups[0]["betas"], (await s.stateDict()).param_groups[0]["momentum"]]).toEqual([[beta(t), 0.999], beta(t)]);
    }
  });
  it("groups that differ keep their rates", async () => {
    const tree = { q: { lora_A: store(tensor([1])), lora_B: store(tensor([1])) } }, { param_groups } = await adamw(loraPlus({ learningRate: 1, ratio: 4 })).for(tree).stateDict();
    expect(param_groups).toMatchObject([{ lr: 1, adjoint_offset: 0, param_names: ["q.lora_A"] }, { lr: 4, adjoint_offset: 0, param_names: ["q.lora_B"] }]);
  });
});
