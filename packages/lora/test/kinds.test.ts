/** AdaLoRA and VeRA: PEFT's numbers and files, gradients, merging, and what is refused. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { type Context, Linear } from "@adjoint/nn";
import { assign, compile, ConfigError, convertArray, type DType, FormatError, type HostArray, hostArray, referenceBackend, setDevice, Store, store, type Tensor, tensor } from "@adjoint/tensor";
import { fixture, golden, goldenTensors } from "@adjoint/testing/fixtures";
import { wasm } from "@adjoint/wasm";
import { budgetAt, loadLora, lora, type LoraOptions, RankAllocator, readAdapterDirectory, readLoraConfig, type Tuned } from "../src/index.ts";

const of = (name: "adalora" | "vera"): ReadonlyMap<string, HostArray> => goldenTensors(name);
const numbers = async (t: Tensor | null): Promise<number[]> => (t === null ? [] : [...(await t.data())].map(Number));
const get = (tensors: ReadonlyMap<string, HostArray>, name: string): HostArray => { const a = tensors.get(name); if (a === undefined) throw new Error(`no ${name}`); return a; };
function near(got: ArrayLike<number>, want: ArrayLike<number>, to = 2e-6): void {
  expect(got.length).toBe(want.length);
  for (let i = 0; i < got.length; i++) expect(Math.abs(got[i] - want[i])).toBeLessThanOrEqual(to * (1 + Math.abs(want[i])));
}

/** y = c(tanh b(tanh a(x))), as in fixtures/generate/adalora.py. */
class Chain {
  readonly a: Linear; readonly b: Linear; readonly c: Linear;
  readonly config = { modelType: "llama" };
  constructor(tensors: ReadonlyMap<string, HostArray> = of("adalora"), dtype: DType = "f32") {
    const layer = (name: string): Linear => { const { shape, data } = get(tensors, `base/${name}.weight`); return new Linear(store({ dtype, shape, data: convertArray(data, "f32", dtype) }, name)); };
    this.a = layer("a"); this.b = layer("b"); this.c = layer("c");
  }
  forward(x: Tensor, context: Context = {}): Tensor { return this.c.forward(this.b.forward(this.a.forward(x, context).tanh(), context).tanh(), context); }
  loss(x: Tensor, context: Context = {}): Tensor { return this.forward(x, context).square().mean(); }
}
const input = (dtype: DType = "f32"): Tensor => { const { shape, data } = get(of("adalora"), "x"); return tensor(convertArray(data, "f32", dtype), { shape }); };
const g = golden<{ config: Record<string, number>; rate: number; loss: number; loss_plain: number; steps: { budget: number; mask: boolean; pattern: Record<string, boolean[]> | null; E: Record<string, number[]> }[] }>("adalora");
const options: LoraOptions = { loraAlpha: 6, targetModules: ["a", "b", "c"], adalora: { initR: 3, targetR: 1, tinit: 3, tfinal: 5, deltaT: 2, beta2: 0.7, orthRegWeight: 0.25, totalStep: 20 } };
const short = (key: string): string => key.replace("base_model.model.", "");
/** The adapter of the fixture before its first step. */
function begun(model = new Chain()): Tuned<Chain> {
  const tuned = lora(model, options);
  for (const [key, s] of tuned.tensors()) s.set(get(of("adalora"), `start/${short(key)}`));
  return tuned;
}

let scratch = "";
beforeAll(async () => { scratch = await mkdtemp(join(tmpdir(), "adjoint-kinds-")); });
afterAll(() => rm(scratch, { recursive: true, force: true }));

describe("AdaLoRA equals PEFT", () => {
  it("forward, penalty and gradients", async () => {
    const tensors = of("adalora"), tuned = begun(), p = Object.fromEntries(tuned.tensors()), penalty = tuned.penalty();
    near(await numbers(tuned.forward(input())), get(tensors, "y").data);
    expect(await tuned.loss(input()).item()).toBeCloseTo(g.loss_plain, 6);
    if (penalty === null) throw new Error("no penalty");
    const loss = tuned.loss(input()).add(penalty), d = gradients(loss, p);
    expect(await loss.item()).toBeCloseTo(g.loss, 6);
    for (const [key, s] of Object.entries(d)) near(await numbers(s), get(tensors, `grad/${short(key)}`).data, 1e-5);
  });

  it("budget at every step, importance, masks, E, and the files at the end", async () => {
    const tensors = of("adalora"), tuned = begun(), p = Object.fromEntries(tuned.tensors()), keys = Object.keys(p), allocator = new RankAllocator(tuned, 20);
    const step = compile((...gs: readonly Tensor[]) => {
      const d = Object.fromEntries(keys.map((key, i) => [key, gs[i]]));
      assign(keys.map((key) => p[key]), keys.map((key, i) => p[key].sub(gs[i].mul(g.rate))));
      allocator.observe(d);
    });
    for (const [t, want] of g.steps.entries()) {
      step(...keys.map((key) => { const { shape, data } = get(tensors, `steps/${short(key)}`), [, ...axes] = shape, n = axes[0] * axes[1]; return tensor(data.slice(t * n, t * n + n), { shape: axes }); }));
      expect(budgetAt(allocator.config, 3, t)).toEqual({ budget: want.budget, allocate: want.mask });
      if (t === 14) {
        const { arrays } = await allocator.state();
        for (const key of keys) { near(arrays[`mean.${key}`].data, get(tensors, `ipt/${short(key)}`).data); near(arrays[`deviation.${key}`].data, get(tensors, `unc/${short(key)}`).data); }
      }
      const left = await allocator.allocate(t), pattern = want.pattern;
      if (left !== null && pattern !== null) expect(left).toBe(Object.values(pattern).flat().filter(Boolean).length);
      for (const [name, values] of Object.entries(want.E)) near(await numbers(p[`base_model.model.${name}`]), values);
      expect(allocator.final).toBe(t >= 15);
    }
    expect(await allocator.ranks()).toEqual({ a: 0, b: 1, c: 2 });
    for (const key of keys) near(await numbers(p[key]), get(tensors, `end/${short(key)}`).data);
    near(await numbers(tuned.forward(input())), get(tensors, "y_end").data);
    await tuned.save(join(scratch, "adalora"));
    const ours = await readAdapterDirectory(join(scratch, "adalora")), theirs = await readAdapterDirectory(fixture("adalora/adapter"));
    expect(new Set(ours.tensors.keys())).toEqual(new Set(theirs.tensors.keys()));
    for (const [key, { shape, data }] of theirs.tensors) { expect(ours.tensors.get(key)?.shape).toEqual(shape); near(ours.tensors.get(key)?.data ?? [], data); }
    const [a, b] = await Promise.all([join(scratch, "adalora"), fixture("adalora/adapter")].map(async (f) => JSON.parse(await readFile(join(f, "adapter_config.json"), "utf8")) as Record<string, unknown>));
    expect({ ...a, task_type: null }).toEqual({ ...b, auto_mapping: null, target_modules: ["a", "b", "c"] });
  });

  it("reads PEFT's folder: ranks that were given up, one of them whole, and writes it again", async () => {
    const { tuned, report } = await loadLora(new Chain(), fixture("adalora/adapter"));
    expect(report.warnings).toEqual([]);
    near(await numbers(tuned.forward(input())), get(of("adalora"), "y_end").data);
    await tuned.save(join(scratch, "again"));
    const again = await readAdapterDirectory(join(scratch, "again"));
    expect(again.tensors.get("base_model.model.a.lora_A")?.shape).toEqual([0, 4]);
    expect(again.config.adalora?.rankPattern).toEqual({ a: [false, false, false], b: [false, true, false], c: [true, true, false] });
    const y = await numbers(tuned.forward(input()));
    await tuned.merge();
    near(await numbers(tuned.forward(input())), y, 1e-5);
    await tuned.unmerge();
  });
});

describe("AdaLoRA", () => {
  it("meets its budget to the triplet, whatever the options", async () => {
    await fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 0, max: 2 }), fc.integer({ min: 0, max: 2 }), fc.integer({ min: 0, max: 3 }), fc.integer({ min: 1, max: 3 }), async (targetR, more, tinit, tfinal, deltaT) => {
      const tuned = lora(new Chain(), { targetModules: ["a", "c"], adalora: { initR: targetR + more, targetR, tinit, tfinal, deltaT } }), steps = tinit + tfinal + 3, allocator = new RankAllocator(tuned, steps);
      for (let t = 0; t < steps; t++) { allocator.observe(Object.fromEntries([...tuned.tensors()].map(([key, s]) => [key, s.mul(t % 2 === 0 ? 1 : -0.5)]))); await allocator.allocate(t); }
      expect(Object.values(await allocator.ranks()).reduce((n, r) => n + r, 0)).toBe(2 * targetR);
      expect(allocator.final).toBe(true);
    }), { numRuns: 4 });
  });

  it("is the identity at first, equals its merged weights, and has a scale of its own", async () => {
    for (const [scaling, s] of [["ranknum", 6 / (3 + 1e-5)], ["sqrt", 6 / Math.sqrt(3)], [0.5, 0.5]] as const) {
      const model = new Chain(of("adalora"), "f64"), tuned = lora(model, { ...options, adalora: { ...options.adalora, scaling } });
      expect(tuned.targets.targets[0].scale).toBe(s);
      expect(tuned.summary()).toMatch(/^AdaLoRA: /);
      const base = await numbers(model.forward(input("f64")));
      near(await numbers(tuned.forward(input("f64"))), base, 1e-15);
      for (const [key, f] of tuned.tensors()) f.set({ dtype: "f64", shape: f.shape, data: convertArray(get(of("adalora"), `start/${short(key)}`).data, "f32", "f64") });
      const y = await numbers(tuned.forward(input("f64")));
      expect(y).not.toEqual(base);
      await tuned.save(join(scratch, String(scaling)));
      const { tuned: read } = await loadLora(new Chain(), join(scratch, String(scaling)));
      near(await numbers(read.forward(input())), y, 1e-5);
      await tuned.merge();
      near(await numbers(tuned.forward(input("f64"))), y, 1e-12);
    }
  });

  it("refuses what does not go with it", async () => {
    const fails = (o: LoraOptions, text: RegExp): void => { expect(() => lora(new Chain(), { ...options, ...o })).toThrow(text); expect(() => lora(new Chain(), { ...options, ...o })).toThrow(ConfigError); };
    fails({ useDora: true }, /useDora = true is not for AdaLoRA/);
    fails({ useRslora: true }, /useRslora = true is not for AdaLoRA/);
    fails({ r: 4 }, /r = 4 is not for AdaLoRA/);
    fails({ rankPattern: { a: 2 } }, /rankPattern/);
    fails({ adalora: { initR: 2, targetR: 4 } }, /below targetR/);
    fails({ adalora: { totalStep: 10, tinit: 5, tfinal: 5 } }, /leave none/);
    fails({ adalora: { ...options.adalora, beta1: 1 } }, /adalora.beta1 = 1 is not valid/);
    expect(() => new RankAllocator(lora(new Chain(), { targetModules: ["a"] }), 5)).toThrow(ConfigError);
    await expect(Promise.resolve().then(() => readLoraConfig('{"peft_type": "LOHA"}'))).rejects.toThrow(/LORA, ADALORA and VERA/);
  });
});

describe("VeRA", () => {
  const tensors = of("vera"), open = async (): Promise<Tuned<Chain>> => (await loadLora(new Chain(tensors), fixture("vera/adapter"))).tuned;
  const x = tensor(get(tensors, "x").data, { shape: get(tensors, "x").shape });

  it("equals PEFT: forward, gradients, merged weights, and the files both ways", async () => {
    const tuned = await open(), p = Object.fromEntries(tuned.tensors()), d = gradients(tuned.loss(x), p);
    near(await numbers(tuned.forward(x)), get(tensors, "y").data);
    expect(Object.keys(p).length).toBe(6);
    for (const [key, s] of Object.entries(d)) near(await numbers(s), get(tensors, `grad/${short(key)}`).data, 1e-5);
    for (const [name, w] of tuned.mergedWeights()) near(await numbers(w), get(tensors, `merged/${name}`).data, 1e-5);
    await tuned.save(join(scratch, "vera"));
    const ours = await readAdapterDirectory(join(scratch, "vera")), theirs = await readAdapterDirectory(fixture("vera/adapter"));
    expect(new Set(ours.tensors.keys())).toEqual(new Set(theirs.tensors.keys()));
    for (const [key, { data }] of theirs.tensors) expect([...(ours.tensors.get(key)?.data ?? [])]).toEqual([...data]);
    const [a, b] = await Promise.all([join(scratch, "vera"), fixture("vera/adapter")].map(async (f) => JSON.parse(await readFile(join(f, "adapter_config.json"), "utf8")) as Record<string, unknown>));
    expect({ ...a, auto_mapping: null }).toEqual({ ...b, auto_mapping: null, target_modules: ["a", "b", "c"] });
  });

  it("has one pair of projections for all modules, the same in f32 and on wasm, and is the identity at first", async () => {
    const model = new Chain(tensors), tuned = lora(model, { r: 5, targetModules: ["a", "b", "c"], vera: { projectionPrngKey: 3 } }), [first, ...rest] = tuned.attachments;
    for (const a of rest) expect(a.beside?.["A"]).toBe(first.beside?.["A"]);
    expect(first.beside?.["A"].shape).toEqual([5, 6]);
    expect(first.beside?.["B"].shape).toEqual([6, 5]);
    near(await numbers(tuned.forward(x)), await numbers(model.forward(x)), 0);
    for (const [key, s] of tuned.tensors()) if (key.endsWith("lambda_b")) s.set({ dtype: "f32", shape: s.shape, data: hostArray("f32", s.size).fill(0.5) });
    const y = await numbers(tuned.forward(x)), device = await wasm({ threads: 1 });
    setDevice(device);
    try { near(await numbers(tuned.forward(x)), y, 1e-5); } finally { setDevice(referenceBackend); }
    await tuned.save(join(scratch, "own"));
    near(await numbers((await loadLora(new Chain(tensors), join(scratch, "own"))).tuned.forward(x)), y, 1e-6);
    expect(lora(model, { targetModules: ["a"], vera: {} }).loraConfig.r).toBe(256);
    expect([...tuned.tensors().values()].every((s) => s instanceof Store)).toBe(true);
  });

  it("refuses a file without projections, and what does not go with it", async () => {
    const directory = await readAdapterDirectory(fixture("vera/adapter")), without = new Map([...directory.tensors].filter(([key]) => !key.startsWith("base_model.vera_")));
    await expect(loadLora(new Chain(tensors), { ...directory, tensors: without })).rejects.toThrow(FormatError);
    await expect(loadLora(new Chain(tensors), { ...directory, tensors: without })).rejects.toThrow(/projections are not in it/);
    expect(() => lora(new Chain(), { targetModules: ["a"], vera: { saveProjection: false } })).toThrow(/saveProjection/);
    expect(() => lora(new Chain(), { targetModules: ["a"], loraAlpha: 4, vera: {} })).toThrow(/loraAlpha = 4 is not for VeRA/);
    for (const scaling of [-2, 0, NaN]) expect(() => lora(new Chain(), { targetModules: ["a"], adalora: { scaling } })).toThrow(/adalora\.scaling.*a number above 0/s);
  });

  it("writes what it leaves out as paths of its targets, which its files have keys for", async () => {
    const chain = (): Chain => new Chain(tensors), block = (): { forward: Chain["forward"]; a: Linear; inner: { a: Linear; b: Linear } } => { const c = chain(); return { a: c.a, inner: { a: c.b, b: c.c }, forward: (x, context) => c.forward(x, context) }; };
    for (const [o, written] of [
      [{ targetModules: ["a", "b"], excludeModules: ["inner.b"] }, ["a", "inner.a"]],
      [{ targetModules: "all-linear", excludeModules: ".*b" }, ["a", "inner.a"]],
      [{ targetModules: ["a", "b"], excludeModules: ["inner.a"] }, "(?:a|inner\\.b)"],
    ] as const) {
      const tuned = lora(block(), { r: 3, vera: {}, ...o }), dir = join(scratch, "vera-leaves-out");
      for (const s of tuned.tensors().values()) s.set({ dtype: "f32", shape: s.shape, data: Float32Array.from({ length: s.size }, (_, i) => (i % 5) / 8) });
      await tuned.save(dir);
      const directory = await readAdapterDirectory(dir), { tuned: back } = await loadLora(block(), directory);
      expect(directory.warnings).toEqual([]);
      expect([directory.config.targetModules, directory.config.excludeModules]).toEqual([written, null]);
      expect(back.targets.targets.map((t) => t.path)).toEqual(tuned.targets.targets.map((t) => t.path));
      expect(await numbers(back.forward(input()))).toEqual(await numbers(tuned.forward(input())));
    }
    expect(() => lora(chain(), { targetModules: ["a"], vera: {}, ensureWeightTying: true })).toThrow(/ensureWeightTying = true is not for VeRA/);
  });
});
