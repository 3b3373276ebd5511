/** Every optimizer by name, on a LoRA pair and on an embedding's: three steps, state and back, compiled, bytes; and what is refused. */
import { type Store, type Tensor, compile, flushAll, fromHost, memory, setDevice, store, tensor } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { parseSafetensors, serializeSafetensors } from "@adjoint/io";
import { quantize, quantizedWeight } from "@adjoint/quant";
import { describe, expect, it, vi } from "vitest";
import { type BoundOptimizer, type Optimizer, adafactor, adafactorTorch, adamw, estimateCurvature, gaussNewtonBartlett, loraFa, loraPro, muon, optimizer, optimizerEntries, optimizerEntry, optimizerNames, packTorchState, riemannian, sgd, stateBytes, unpackTorchState } from "@adjoint/optim";
import { devices } from "./golden.ts";
import { Grid } from "./long.ts";

const wasm = devices[3];
const needed: Readonly<Record<string, object>> = { lorafa: { scaling: 2 }, lorapro: { scaling: 2 }, adam_8bit: { min8bitSize: 1 }, adamw_8bit: { min8bitSize: 1 }, lion_8bit: { min8bitSize: 1 }, rmsprop_bnb_8bit: { min8bitSize: 1 }, sophia: { bs: 4 } };
/** Rates at which three steps go downhill. */
const rates: Readonly<Record<string, number>> = { sgd: 0.05, adagrad: 0.05, muon: 0.05, adafactor_torch: 0.05 };
const made = (name: string): Optimizer => optimizer(name, { learningRate: rates[name] ?? 0.02, weightDecay: 0, ...needed[name] });

/** y = s B A x for a fresh adapter: B = 0 on a linear layer; on an embedding A = 0. */
interface Pairs { readonly linear: Record<"lora_A" | "lora_B", { weight: Store }>; readonly table: Record<"lora_embedding_A" | "lora_embedding_B", Store> }
type Kind = keyof Pairs;
function pair(kind: Kind): Pairs[Kind] {
  const grid = new Grid(7), r = 2, random = (shape: number[]): Store => store(grid.host(shape, 1, "f32")), zero = (shape: number[]): Store => store(grid.host(shape, 0, "f32"));
  return kind === "linear" ? { lora_A: { weight: random([r, 6]) }, lora_B: { weight: zero([5, r]) } } : { lora_embedding_A: zero([r, 6]), lora_embedding_B: random([5, r]) };
}
const factors = (p: Pairs[Kind]): [Tensor, Tensor] => ("lora_A" in p ? [p.lora_A.weight, p.lora_B.weight] : [p.lora_embedding_A, p.lora_embedding_B]);
const target = fromHost(new Grid(11).host([5, 6], 1, "f32"));
const loss = (p: Pairs[Kind]): Tensor => { const [A, B] = factors(p); return B.matmul(A).mul(2).sub(target).square().sum().mul(0.5); };
const stepOf = (p: Pairs[Kind], o: BoundOptimizer<Pairs[Kind]>): Tensor => {
  const l = loss(p), g = gradients(l, p);
  if ("hessian" in o.states && o.counter.value % 2 === 0) estimateCurvature(o, gaussNewtonBartlett(g));
  o.step(g);
  return l;
};
/** What of the device does not depend on the collector. */
const fixed = (): unknown => { const { plans, plansMade, pages, modules, pendingStores } = memory(); return { plans, plansMade, pages, modules, pendingStores }; };
const weights = async (o: BoundOptimizer<Pairs[Kind]>): Promise<number[][]> => Promise.all(Object.values(o.params).map(async (p) => [...await p.data()]));

describe.each(optimizerEntries.map((e) => e.name))("%s", (name) => {
  for (const kind of ["linear", "table"] satisfies Kind[]) it(`a fresh adapter (${kind}): three steps are finite and go down, and its state goes through a file and through torch's layout`, async () => {
    setDevice(wasm);
    const p = pair(kind), o = made(name).for(p), losses: number[] = [];
    for (let t = 0; t < 3; t++) losses.push(await stepOf(p, o).item());
    losses.push(await loss(p).item());
    expect(losses.every(Number.isFinite)).toBe(true);
    expect(losses[3]).toBeLessThan(losses[0]);
    expect((await weights(o)).flat().every(Number.isFinite)).toBe(true);

    const saved = await o.state(), torch = await o.stateDict(), packed = packTorchState(torch), again = pair(kind), other = made(name).for(again);
    const file = parseSafetensors(serializeSafetensors(packed.tensors, packed.metadata), "memory");
    const copy = async (): Promise<void> => { for (const [path, s] of Object.entries(other.params)) s.set({ dtype: "f32", shape: s.shape, data: (await o.params[path].data()).slice() }); };
    await copy();
    other.load(Object.fromEntries(parseSafetensors(serializeSafetensors(saved), "memory").tensors));
    expect(await other.state()).toEqual(saved);
    const third = made(name).for(pair(kind));
    third.loadStateDict(unpackTorchState(Object.fromEntries(file.tensors), file.metadata));
    expect(await third.state()).toEqual(saved);
    stepOf(p, o); stepOf(again, other);
    expect(await weights(other)).toEqual(await weights(o));
  });

  it("compiled steps equal plain ones, and nothing grows", async () => {
    setDevice(wasm);
    const run = async (wrap: (f: () => Tensor) => () => Tensor): Promise<number[][]> => {
      const p = pair("linear"), o = made(name).for(p), step = wrap(() => { const l = loss(p); o.step(gradients(l, p)); return l; });
      for (let t = 0; t < 2; t++) await step().item();
      const before = fixed();
      for (let t = 0; t < 3; t++) await step().item();
      expect(fixed()).toEqual(before);
      return weights(o);
    };
    expect(await run(compile)).toEqual(await run((f) => f));
  });

  it("no step reads anything back: on a device that cannot be read, the rate, the counts and the clip factor go on", () => {
    setDevice(wasm);
    const reads = [vi.spyOn(wasm, "read"), vi.spyOn(wasm, "readSync")];
    for (const r of reads) r.mockImplementation(() => { throw new Error("read back"); });
    try {
      const p = pair("linear"), o = optimizer(name, { ...(name === "sgd" ? { momentum: 0.5 } : {}), learningRate: (t: number) => 1 / (t + 1), maxGradNorm: 1, nonFinite: "stop", ...needed[name] }).for(p);
      for (let t = 0; t < 3; t++) o.step(gradients(loss(p), p));
      flushAll();
      expect(() => Object.values(o.params)[name === "lorafa" ? 1 : 0].dataSync()).toThrow("read back");
    } finally { for (const r of reads) r.mockRestore(); }
  });

  it("a gradient that is not finite leaves parameters and states alone", async () => {
    setDevice(wasm);
    const p = pair("linear"), o = made(name).for(p);
    stepOf(p, o);
    const before = [await weights(o), Object.entries(await o.state()).filter(([k]) => !k.startsWith("step"))];
    const bad = Object.fromEntries(Object.entries(gradients(loss(p), p)).map(([k, g]) => [k, k === (name === "lorafa" ? "lora_B" : "lora_A") ? { weight: tensor([NaN]).expand(name === "lorafa" ? [5, 2] : [2, 6]) } : g])) as typeof p;       // LoRA-FA looks at no gradient of A
    expect(await o.step(bad).skipped.item()).toBe(1);
    expect([await weights(o), Object.entries(await o.state()).filter(([k]) => !k.startsWith("step"))]).toEqual(before);
  });

  it("is told about: equations, its defaults are its options, names of its states", () => {
    const e = optimizerEntry(name), { scaling: _, ...defaults } = e.defaults;
    expect(e.equations.length).toBeGreaterThan(1);
    expect(() => e.make({ ...defaults, ...needed[name] })).not.toThrow();
    for (const alias of e.aliases) expect(optimizerEntry(alias)).toBe(e);
    for (const state of Object.keys(made(name).for(pair("linear")).states)) expect(Object.keys(e.state)).toContain(state);
  });
});

describe("muon beside Adam", () => {
  it("vectors, embeddings and heads take AdamW's steps, hidden matrices Muon's; states go through torch's layout", async () => {
    setDevice(wasm);
    const shapes = { "embed_tokens.weight": [6, 3], "layers.0.q.weight": [3, 5], "layers.0.norm.weight": [3], "lm_head.weight": [4, 3] } as const, names = Object.keys(shapes) as (keyof typeof shapes)[];
    const tree = (): Record<string, Store> => { const grid = new Grid(3); return Object.fromEntries(names.map((n) => [n, store(grid.host(shapes[n], 1, "f32"))])); }, options = { learningRate: 0.05, weightDecay: 0.25 };
    const run = async (o: Optimizer, only: readonly string[], t: Record<string, Store>): Promise<BoundOptimizer<Record<string, Store>>> => {
      const bound = o.for(t), grid = new Grid(5);
      for (let i = 0; i < 3; i++) { const g = Object.fromEntries(names.map((n) => [n, fromHost(grid.host(shapes[n], 2, "f32"))])); bound.step(Object.fromEntries(only.map((n) => [n, g[n]]))); }
      return Promise.resolve(bound);
    };
    const both = tree(), adam = tree(), hidden = tree(), o = await run(muon({ ...options, others: "adam" }), names, both), rest = names.filter((n) => n !== "layers.0.q.weight");
    await run(adamw(options), rest, adam);
    await run(muon(options), ["layers.0.q.weight"], { "layers.0.q.weight": hidden["layers.0.q.weight"] });
    for (const n of names) expect([n, [...await both[n].data()]]).toEqual([n, [...await (n === "layers.0.q.weight" ? hidden : adam)[n].data()]]);
    const again = muon({ ...options, others: "adam" }).for(tree());
    again.loadStateDict(await o.stateDict());
    expect(await again.state()).toEqual(await o.state());
    expect([Object.keys(o.states.momentum_buffer), Object.keys(o.states.exp_avg)]).toEqual([["layers.0.q.weight"], rest]);
    expect(() => muon(options).for(tree())).toThrow(/layers\.0\.norm\.weight has shape \[3\]/);
  });
});

describe("beside a quantized base", () => {
  const x = fromHost(new Grid(5).host([4, 64], 1, "f32")), want = fromHost(new Grid(6).host([4, 8], 1, "f32"));
  it.each(optimizerEntries.map((e) => e.name))("%s: three steps are finite and go down, and the codes stay", async (name) => {
    setDevice(wasm);
    const w = quantizedWeight(quantize(Float32Array.from(new Grid(8).host([8, 64], 0.25, "f32").data), [8, 64], { format: "nf4", block: 64 })), grid = new Grid(7);
    const p = { lora_A: { weight: store(grid.host([2, 64], 0.25, "f32")) }, lora_B: { weight: store(grid.host([8, 2], 0, "f32")) } }, o = optimizer(name, { learningRate: 0.002, weightDecay: 0, ...needed[name] }).for(p), before = await w.mul(1).data();
    const l = (): Tensor => x.matmul(w.T).add(x.matmul(p.lora_A.weight.T).matmul(p.lora_B.weight.T).mul(2)).sub(want).square().sum().mul(0.5), losses: number[] = [];
    for (let t = 0; t < 3; t++) { const now = l(); o.step(gradients(now, p)); losses.push(await now.item()); }
    losses.push(await l().item());
    expect(losses.every(Number.isFinite)).toBe(true);
    expect(losses[3]).toBeLessThan(losses[0]);
    expect(await w.mul(1).data()).toEqual(before);
  });
});

describe("bytes a parameter (specification 4.9)", () => {
  const tree = { w: store(fromHost({ dtype: "f32", shape: [64, 128], data: new Float32Array(8192) })), b: store(tensor([1, 2, 3])) }, N = 8192, n = 3;
  it.each<[string, Optimizer, number]>([
    ["sgd", sgd(), 0], ["sgd with momentum", sgd({ momentum: 0.9 }), 4 * (N + n)], ["adamw", adamw(), 8 * (N + n)], ["lion", optimizer("lion"), 4 * (N + n)], ["sophia", optimizer("sophia"), 8 * (N + n)], ["rmsprop", optimizer("rmsprop"), 4 * (N + n)],
    ["8-bit adamw", optimizer("adamw_8bit"), 2.03125 * N + 8 * n], ["8-bit lion", optimizer("lion_8bit"), 1.015625 * N + 4 * n], ["8-bit adamw that keeps one leaf in f32", optimizer("adamw_8bit", { keep32bit: "w" }), 8 * (N + n)], ["adafactor", adafactor(), 4 * (64 + 128) + 4 * n], ["adafactor with beta1", adafactor({ beta1: 0.9 }), 4 * (64 + 128) + 4 * n + 4 * (N + n)], ["torch's adafactor", adafactorTorch(), 4 * (64 + 128) + 4 * n],
  ])("%s", (_, o, bytes) => { expect(stateBytes(o, tree)).toBe(bytes); });
  it("master weights: 4 more for half-precision parameters", () => {
    const half = { w: store({ dtype: "bf16", shape: [10], data: new Uint16Array(10) }), f: store(tensor([1, 2])) };
    expect(stateBytes(adamw({ masterWeights: true }), half)).toBe(8 * 12 + 4 * 10);
  });
  it("LoRA-FA keeps nothing for A; LoRA-Pro in full keeps moments of the whole matrix", () => {
    const p = pair("linear");
    expect([stateBytes(loraFa({ scaling: 1 }), p), stateBytes(loraPro({ scaling: 1 }), p), stateBytes(loraPro({ scaling: 1, full: true }), p)]).toEqual([8 * 10, 8 * 22, 8 * 30]);
  });
});

describe("refusals", () => {
  const plain = { w: store(tensor([[1, 2], [3, 4]])) };
  const group = { match: "weight", learningRate: 1 };
  it.each<[string, () => unknown, string]>([
    ["adafactor: a rate and relative steps", () => adafactor({ learningRate: 1e-3 }), "learningRate"],
    ["adafactor: a schedule and relative steps", () => adafactor({ schedule: () => 1 }), "schedule"],
    ["adafactor: a group's rate and relative steps", () => adafactor({ groups: [group] }), "groups[0].learningRate"],
    ["adafactor: neither", () => adafactor({ relativeStep: false }), "learningRate"],
    ["adafactor: warm-up of nothing", () => adafactor({ warmupInit: true, relativeStep: false, learningRate: 1 }), "warmupInit"],
    ["adafactor: a first moment of 1", () => adafactor({ beta1: 1 }), "beta1"],
    ["adafactor: a growing decay", () => adafactor({ decayRate: 0.8 }), "decayRate"],
    ["adafactor of torch: d below 1", () => adafactorTorch({ d: 0.5 }), "d"],
    ["muon: a vector", () => muon().for({ b: store(tensor([1, 2])) }), "b"],
    ["muon: a hundred steps", () => muon({ nsSteps: 100 }), "nsSteps"],
    ["muon: another adjustment", () => optimizer("muon", { adjustLrFn: "other" }), "adjustLrFn"],
    ["lorafa without a scale", () => optimizer("lorafa"), "scaling"],
    ["lorapro with a scale of 0", () => loraPro({ scaling: 0 }), "scaling"],
    ["lorapro: another mode", () => optimizer("lorapro", { scaling: 1, mode: "best" }), "mode"],
    ["lorapro on a tree without pairs", () => loraPro({ scaling: 1 }).for(plain), "lora_A"],
    ["lorafa on a tree without pairs", () => loraFa({ scaling: 1 }).for(plain), "lora_A"],
    ["riemannian on a tree without pairs", () => riemannian().for(plain), "lora_A"],
    ["riemannian: an option of the other base", () => riemannian({ base: "sgd", eps: 1 }), "eps"],
    ["riemannian: betas of the other base", () => riemannian({ base: "sgd", betas: [0.5, 0.5] }), "betas"],
    ["riemannian: a momentum of the other base", () => riemannian({ momentum: 0.5 }), "momentum"],
    ["8 bits: a size of -1", () => optimizer("adamw_8bit", { min8bitSize: -1 }), "min8bitSize"],
    ["a beta of 1, by name", () => optimizer("lion", { betas: [0.9, 1] }), "betas[1]"],
    ["sophia: a negative rho", () => optimizer("sophia", { rho: -1 }), "rho"],
    ["rmsprop: alpha 1", () => optimizer("rmsprop", { alpha: 1 }), "alpha"],
    ["two cures of rounding", () => adamw({ masterWeights: true, stochasticRounding: true }), "stochasticRounding"],
    ["another way with bad gradients", () => optimizer("adamw", { nonFinite: "ignore" }), "nonFinite"],
    ["a negative limit", () => adamw({ maxGradValue: -1 }), "maxGradValue"],
    ["a flag that is no flag", () => optimizer("adam", { amsgrad: "yes" }), "amsgrad"],
    ["an unknown name", () => optimizer("adamx"), "optim"],
  ])("%s", (_, build, key) => { expect(build).toThrow(expect.objectContaining({ name: "ConfigError", details: expect.objectContaining({ key }) })); });
  it("adafactor by name takes a relative step where it is asked for one", () => {
    expect(optimizer("adafactor", { relativeStep: true }).for(plain).learningRate).toBe(1e-2);
    expect(optimizer("adafactor").for(plain).learningRate).toBe(1e-3);
    expect(() => optimizer("adafactor", { relativeStep: true, learningRate: 1 })).toThrow(/do not go together/);
  });
  it("an unknown name lists the known ones", () => { expect(() => optimizer("adan")).toThrow(new RegExp(optimizerNames.slice(0, 5).join(", "))); });
  it("one factor with a gradient, the other without", () => {
    const p = pair("linear"), o = loraPro({ scaling: 1 }).for(p), g = gradients(loss(p), p);
    expect(() => o.step({ ...g, lora_A: { weight: null } })).toThrow(/lora_A\.weight has no gradient/);
  });
  it("the curvature of an optimizer that has none", () => {
    const p = pair("linear"), o = adamw().for(p);
    expect(() => { estimateCurvature(o, gaussNewtonBartlett(gradients(loss(p), p))); }).toThrow(/does not remember hessian/);
  });
  it("torch's layout of another model, another optimizer, another shape: named, and nothing has changed", async () => {
    setDevice(wasm);
    const tree = (n: number): { w: Store; v: Store } => ({ w: store(tensor([1, 2])), v: store(tensor(Array.from({ length: n }, () => 1))) });
    const one = { w: tensor([1, 1]), v: tensor([1, 1, 1]) }, o = adamw().for(tree(3)), away = adamw().for(tree(4)), less = adamw().for({ w: store(tensor([1, 2])) }), still = sgd({ momentum: 0.5 }).for(tree(3));
    o.step(one); still.step(one);
    const before = await o.state(), refused = (state: Parameters<typeof o.loadStateDict>[0]): unknown => { try { o.loadStateDict(state); return null; } catch (e) { return e; } };
    away.step({ w: tensor([1, 1]), v: tensor([1, 1, 1, 1]) }); less.step({ w: tensor([1, 1]) });
    expect(refused(await away.stateDict())).toMatchObject({ name: "FormatError", details: { key: "exp_avg.v" } });
    expect(refused(await less.stateDict())).toMatchObject({ name: "FormatError", details: { key: "v" } });
    expect(refused(await still.stateDict())).toMatchObject({ name: "FormatError", details: { key: "exp_avg.w" } });
    expect(String(refused(await less.stateDict()))).toMatch(/of 1 parameters, this optimizer trains 2[^]*missing \(1\): v/);
    expect(await o.state()).toEqual(before);
    expect(() => unpackTorchState({ other: before["exp_avg.w"] }, {})).toThrow(/state\.<parameter>/);
    expect(() => unpackTorchState({}, {})).toThrow(/param_groups/);
  });
  it("torch's layout without names goes by the order of the tree, and leaves without a state start anew", async () => {
    setDevice(wasm);
    const o = adamw().for({ w: store(tensor([1, 2])), v: store(tensor([3])) }), other = adamw().for({ w: store(tensor([1, 2])), v: store(tensor([3])) });
    o.step({ w: tensor([1, -1]), v: null });
    const { state, param_groups } = await o.stateDict();
    other.loadStateDict({ state, param_groups: param_groups.map(({ names: _, ...g }) => g) });
    expect(await other.state()).toEqual(await o.state());
    expect([other.counter.value, other.updates.w.value, other.updates.v.value]).toEqual([1, 1, 0]);
  });
});
