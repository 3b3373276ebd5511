/** SGD, Adam, AdamW: torch's numbers, the specification's anchors, closed trajectories on quadratics, refusals. */
import { type DType, type HostArray, type Store, convertArray, fromHost, setDevice, store, tensor } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type AdamOptions, type Optimizer, type SgdOptions, adam, adamw, clipByGlobalNorm, globalNorm, isNormOrBias, optimizer, optimizerNames, sgd } from "@adjoint/optim";
import { golden, goldenTensors } from "@adjoint/testing/fixtures";
import { devices, expectClose } from "./golden.ts";

interface Options { readonly lr: number; readonly weight_decay: number; readonly momentum?: number; readonly dampening?: number; readonly nesterov?: boolean; readonly betas?: [number, number]; readonly eps?: number; readonly amsgrad?: boolean }
interface Case { readonly name: string; readonly class: string; readonly options: Options }
const cast = ({ dtype, shape, data }: HostArray, to: DType): HostArray => ({ dtype: to, shape, data: convertArray(data, dtype, to) });

function make({ class: kind, options: { lr, weight_decay, ...rest } }: Case): Optimizer {
  const options: SgdOptions & AdamOptions = { learningRate: lr, weightDecay: weight_decay, ...rest };
  return kind === "SGD" ? sgd(options) : kind === "Adam" ? adam(options) : adamw(options);
}

for (const device of devices) describe(`torch on ${device.name}`, () => {
  const tensors = goldenTensors("optim"), get = (name: string, dtype: DType): HostArray => cast(tensors.get(name)!, dtype);
  for (const c of golden<{ cases: Case[] }>("optim").cases) it.each(([["f64", 1e-12], ["f32", 1e-6]] satisfies [DType, number][]).filter(([dtype]) => device.dtypes.has(dtype)))(`${c.name} in %s`, async (dtype, bound) => {
    setDevice(device);
    const tree = { a: store(get("start/a", dtype)), b: store(get("start/b", dtype)), c: store(get("start/c", dtype)) }, bound_ = make(c).for(tree);
    for (let t = 1; t <= 5; t++) {
      const grad = (k: string): ReturnType<typeof fromHost> => fromHost(get(`grad/${t}/${k}`, dtype));
      bound_.step({ a: grad("a"), b: grad("b"), c: grad("c") });
      if (t === 1 || t === 5) for (const k of ["a", "b", "c"] as const) expectClose(await tree[k].data(), tensors.get(`${c.name}/${t}/${k}`)!.data, bound, `${c.name} step ${t} ${k}`);
    }
    const saved = await bound_.state();
    for (const [name, h] of tensors) {
      const state = /^(.*)\/state\/(.*)\/(.)$/.exec(name);
      if (state?.[1] === c.name) expectClose(saved[`${state[2]}.${state[3]}`].data, h.data, bound, name);
    }
    expect(saved["step.a"].data[0]).toBe(5);
  });
});

describe("clipping", () => {
  const tensors = goldenTensors("clip");
  for (const { case: i, max_norm, total } of golden<{ cases: { case: number; max_norm: number; total: number }[] }>("clip").cases) it(`a total of ${total} to ${max_norm}`, async () => {
    setDevice(devices[1]);
    const leaves = { a: fromHost(tensors.get(`${i}/grad/a`)!), b: fromHost(tensors.get(`${i}/grad/b`)!), c: fromHost(tensors.get(`${i}/grad/c`)!) };
    const none = { ofStep: () => tensor(0), ofUpdates: () => tensor(0), keep: (x: typeof leaves.a) => x, leaves };
    const { updates } = clipByGlobalNorm(max_norm).update(leaves, {}, leaves, none);
    expectClose([await globalNorm(leaves).item()], [total], 1e-6);
    for (const k of ["a", "b", "c"]) expectClose(await updates[k].data(), tensors.get(`${i}/clipped/${k}`)!.data, 1e-6, k);
    // the same through an optimizer: p = 0 - 1 · clipped
    const tree = { a: store({ ...tensors.get(`${i}/grad/a`)!, data: new Float32Array(5) }), b: store({ ...tensors.get(`${i}/grad/b`)!, data: new Float32Array(12) }), c: store({ ...tensors.get(`${i}/grad/c`)!, data: new Float32Array(24) }) };
    const { gradNorm } = sgd({ learningRate: 1, maxGradNorm: max_norm }).for(tree).step(leaves);
    for (const k of ["a", "b", "c"] as const) expectClose((await tree[k].data()).map((x) => -x), tensors.get(`${i}/clipped/${k}`)!.data, 1e-6, k);
    expectClose([await gradNorm.item()], [total], 1e-6);
  });
  it("a limit of 0 or less clips nothing", async () => {
    const p = store(tensor([1, 2]));
    sgd({ learningRate: 1, maxGradNorm: 0 }).for({ p }).step({ p: tensor([10, 20]) });
    expect([...await p.data()]).toEqual([-9, -18]);
  });
});

describe("the anchors of the specification (A.8)", () => {
  it.each<[string, Optimizer, [number, number]]>([
    ["sgd", sgd({ learningRate: 0.1 }), [1.02, -1.985]],
    ["momentum", sgd({ learningRate: 0.1, momentum: 0.9 }), [1.011, -1.967]],
    ["dampening", sgd({ learningRate: 0.1, momentum: 0.9, dampening: 0.1 }), [1.008, -1.9665]],
    ["nesterov", sgd({ learningRate: 0.1, momentum: 0.9, nesterov: true, weightDecay: 0.01 }), [1.02532971, -1.94615942]],
    ["adam", adam({ learningRate: 0.01 }), [0.9949418991, -1.9853053191]],
    ["adam with decay", adam({ learningRate: 0.01, weightDecay: 0.1 }), [0.9905512515, -1.9811225968]],
    ["adamw", adamw({ learningRate: 0.01, weightDecay: 0.1 }), [0.9929528991, -1.9813173191]],
  ])("%s", async (_, recipe, want) => {
    setDevice(devices[0]);
    const p = store(tensor([1, -2], { dtype: "f64" })), o = recipe.for({ p });
    for (const g of [[0.1, -0.2], [-0.3, 0.05]]) o.step({ p: tensor(g, { dtype: "f64" }) });
    expectClose(await p.data(), want, 1e-9);
  });
});

/** k/16: exact in binary, never tiny. */
const dyadic = (low: number, high: number): fc.Arbitrary<number> => fc.integer({ min: low * 16, max: high * 16 }).map((k) => k / 16);
const starts = fc.array(dyadic(-4, 4), { minLength: 1, maxLength: 5 });
const quadratic = async (o: (tree: { p: Store }) => { step(g: { p: ReturnType<typeof tensor> | null }): unknown }, start: number[], c: number, steps: number): Promise<number[]> => {
  const p = store(tensor(start, { dtype: "f64" })), bound = o({ p });
  for (let t = 0; t < steps; t++) bound.step(gradients(p.mul(p).sum().mul(c / 2), { p }));
  return [...await p.data()];
};

describe("closed trajectories on c/2 ‖p‖²", () => {
  const steps = fc.integer({ min: 1, max: 12 });
  it("sgd: p_t = (1 - lr (c + λ))^t p_0", async () => {
    await fc.assert(fc.asyncProperty(starts, dyadic(0.0625, 2), dyadic(0, 0.5), dyadic(0, 0.5), steps, async (start, c, lr, weightDecay, t) => {
      expectClose(await quadratic((tree) => sgd({ learningRate: lr, weightDecay }).for(tree), start, c, t), start.map((x) => (1 - lr * (c + weightDecay)) ** t * x), 1e-12);
    }), { numRuns: 40 });
  });
  it("momentum: powers of its two by two matrix", async () => {
    await fc.assert(fc.asyncProperty(starts, dyadic(0.0625, 2), dyadic(0, 0.5), dyadic(0.0625, 0.9375), steps, async (start, c, lr, mu, n) => {
      const want = start.map((x0) => { let p = x0, buf = 0; for (let t = 0; t < n; t++) [p, buf] = [p - lr * (mu * buf + c * p), mu * buf + c * p]; return p; });
      expectClose(await quadratic((tree) => sgd({ learningRate: lr, momentum: mu }).for(tree), start, c, n), want, 1e-12);
    }), { numRuns: 40 });
  });
  it("adamw's first step: (1 - lr λ) p - lr g / (|g| + eps)", async () => {
    await fc.assert(fc.asyncProperty(starts, dyadic(0.0625, 2), dyadic(0.0625, 0.5), dyadic(0, 0.5), fc.constantFrom(0, 0.5, 0.9), fc.constantFrom(0.5, 0.999), async (start, c, lr, weightDecay, b1, b2) => {
      const eps = 1e-8, want = start.map((p) => { const g = c * p; return p * (1 - lr * weightDecay) - (lr * g) / (Math.abs(g) + eps); });
      expectClose(await quadratic((tree) => adamw({ learningRate: lr, weightDecay, betas: [b1, b2], eps }).for(tree), start, c, 1), want, 1e-12);
    }), { numRuns: 40 });
  });
  it("adamw with a constant gradient moves lr a step, whatever the gradient's size", async () => {
    await fc.assert(fc.asyncProperty(dyadic(0.0625, 4), dyadic(0.0625, 0.5), steps, async (size, lr, n) => {
      const p = store(tensor([0, 0], { dtype: "f64" })), o = adamw({ learningRate: lr, eps: 0, weightDecay: 0 }).for({ p });
      for (let t = 0; t < n; t++) o.step({ p: tensor([size, -size], { dtype: "f64" }) });
      expectClose(await p.data(), [-lr * n, lr * n], 1e-11);
    }), { numRuns: 30 });
  });
  it("a schedule is read at the steps 0, 1, 2, ...", async () => {
    const p = store(tensor([0], { dtype: "f64" })), asked: number[] = [], o = sgd({ learningRate: (t) => { asked.push(t); return t; } }).for({ p });
    for (let t = 0; t < 4; t++) { o.step({ p: tensor([1], { dtype: "f64" }) }); expect(o.learningRate).toBe(t); }
    expect([...await p.data()]).toEqual([-6]);
    expect(new Set(asked)).toEqual(new Set([0, 1, 2, 3]));
  });
  it("maximize climbs", async () => {
    const p = store(tensor([1]));
    sgd({ learningRate: 0.5, maximize: true }).for({ p }).step({ p: tensor([2]) });
    expect([...await p.data()]).toEqual([2]);
  });
});

describe("groups", () => {
  const tree = (): { A: { weight: Store }; B: { weight: Store }; input_layernorm: { weight: Store } } => ({ A: { weight: store(tensor([1])) }, B: { weight: store(tensor([1])) }, input_layernorm: { weight: store(tensor([1])) } });
  const ones = { A: { weight: tensor([0]) }, B: { weight: tensor([0]) }, input_layernorm: { weight: tensor([0]) } };
  it("norms and biases do not decay, unless a group or noDecay says so", async () => {
    const decayed = async (options: SgdOptions): Promise<number[]> => {
      const t = tree();
      sgd({ learningRate: 1, weightDecay: 0.5, ...options }).for(t).step(ones);
      return Promise.all([t.A, t.B, t.input_layernorm].map(async ({ weight }) => weight.item()));
    };
    expect(await decayed({})).toEqual([0.5, 0.5, 1]);
    expect(await decayed({ noDecay: null })).toEqual([0.5, 0.5, 0.5]);
    expect(await decayed({ groups: [{ match: "input_layernorm.weight", weightDecay: 0.25 }] })).toEqual([0.5, 0.5, 0.75]);
    expect(await decayed({ groups: [{ match: "B.weight", learningRate: 0.25 }] })).toEqual([0.5, 0.875, 1]);
    expect(await decayed({ schedule: () => 0.5, groups: [{ match: (p) => p.startsWith("B."), learningRate: 0.25 }] })).toEqual([0.75, 0.9375, 1]);
    expect(await decayed({ groups: [{ match: "weight", schedule: () => 0 }] })).toEqual([1, 1, 1]);
  });
  it("the rule of names", () => {
    expect(["model.norm.weight", "x.q_norm.weight", "input_layernorm.weight", "RMSNorm.g", "q_proj.bias"].every(isNormOrBias)).toBe(true);
    expect(["lm_head.weight", "normal.weight", "lora_A.weight", "abnorm.w"].some(isNormOrBias)).toBe(false);
  });
  it("a group that takes nothing is refused", () => {
    expect(() => sgd({ groups: [{ match: "C.weight" }] }).for(tree())).toThrow(/groups\[0\] takes no parameter[^]*A\.weight/);
    expect(() => sgd({ groups: [{ match: "weight" }, { match: "A.weight" }] }).for(tree())).toThrow(/groups\[1\]/);
    expect(() => sgd({ groups: [{ match: "eight" }] }).for(tree())).toThrow(/groups\[0\]/);
  });
});

describe("refusals", () => {
  it.each<[string, () => unknown, string]>([
    ["a negative rate", () => adamw({ learningRate: -1 }), "learningRate"],
    ["a rate that is no number", () => sgd({ learningRate: NaN }), "learningRate"],
    ["a negative decay", () => adamw({ weightDecay: -0.1 }), "weightDecay"],
    ["a beta of 1", () => adamw({ betas: [0.9, 1] }), "betas[1]"],
    ["a negative beta", () => adam({ betas: [-0.1, 0.9] }), "betas[0]"],
    ["a negative eps", () => adamw({ eps: -1 }), "eps"],
    ["a negative momentum", () => sgd({ momentum: -0.9 }), "momentum"],
    ["nesterov without momentum", () => sgd({ nesterov: true }), "nesterov"],
    ["nesterov with dampening", () => sgd({ nesterov: true, momentum: 0.9, dampening: 0.1 }), "nesterov"],
    ["a clip of NaN", () => sgd({ maxGradNorm: NaN }), "maxGradNorm"],
    ["a group's negative rate", () => sgd({ groups: [{ match: "p", learningRate: -1 }] }), "groups[0].learningRate"],
    ["a group's negative decay", () => sgd({ groups: [{ match: "p", weightDecay: -1 }] }), "groups[0].weightDecay"],
    ["an option of another optimizer", () => optimizer("sgd", { betas: [0.9, 0.99] }), "betas"],
    ["an unknown optimizer", () => optimizer("adamx"), "optim"],
  ])("%s", (_, build, key) => {
    expect(build).toThrow(expect.objectContaining({ name: "ConfigError", details: expect.objectContaining({ key }) }));
  });
  it("an unknown name lists the known ones", () => { expect(() => optimizer("adamx")).toThrow(new RegExp(optimizerNames.join(", "))); });
  it("a schedule that gives NaN is refused at the step that asks for it, before anything has changed", async () => {
    const p = store(tensor([1])), o = sgd({ learningRate: (t) => (t === 1 ? NaN : 0.5) }).for({ p });
    o.step({ p: tensor([1]) });
    expect(() => o.step({ p: tensor([1]) })).toThrow(/step 1 is NaN/);
    expect([o.counter.value, await p.item()]).toEqual([1, 0.5]);
  });
});
