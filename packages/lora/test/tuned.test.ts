import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import type { Context } from "@adjoint/nn";
import { assign, compile, ConfigError, type DType, flatten, FormatError, type HostArray, scalar, Store, Tensor, treePaths } from "@adjoint/tensor";
import { loadLora, lora, type LoraOptions, readAdapterDirectory, type Tuned } from "../src/index.ts";
import { ids, Toy } from "./toy.ts";

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;
const isStore = (x: unknown): x is Store => x instanceof Store;
const numbers = async (t: Tensor): Promise<number[]> => [...(await t.data())];
const bits = async (model: Toy): Promise<HostArray[]> => Promise.all([model.embed.weight, model.lm_head.weight, ...model.layers.flatMap((b) => [b.q_proj.weight, b.up_proj.weight])].map((s) => s.host()));
const copyOf = (arrays: readonly HostArray[]): HostArray[] => arrays.map((a) => ({ ...a, data: a.data.slice() }));

/** Gives both factors numbers, so that the adapter is not the identity. */
function fill<M>(tuned: Tuned<M>, start = 3): Tuned<M> {
  let k = start;
  for (const s of tuned.tensors().values()) s.set({ dtype: s.dtype, shape: s.shape, data: Float32Array.from({ length: s.size }, () => ((k = (k * 29 + 7) % 65) - 32) / 64) });
  return tuned;
}

const options: fc.Arbitrary<LoraOptions> = fc.record({
  r: fc.constantFrom(1, 2, 3),
  loraAlpha: fc.constantFrom(1, 4),
  useRslora: fc.boolean(),
  targetModules: fc.constantFrom("all-linear", ["q_proj"], ["embed", "up_proj", "lm_head"], ".*layers\\.1\\..*_proj"),
});

let scratch = "";
beforeAll(async () => { scratch = await mkdtemp(join(tmpdir(), "adjoint-tuned-")); });
afterAll(() => rm(scratch, { recursive: true, force: true }));

describe("a model with an adapter", () => {
  it("starts as the base, bit for bit, and adapter: null always is the base", async () => {
    await fc.assert(
      fc.asyncProperty(options, async (o) => {
        const model = new Toy();
        const base = await numbers(model.forward(ids));
        const tuned = lora(model, o);
        expect(await numbers(tuned.forward(ids))).toEqual(base);
        fill(tuned);
        expect(await numbers(tuned.forward(ids, { adapter: null }))).toEqual(base);
        expect(await numbers(model.forward(ids))).toEqual(base);
        expect(await numbers(tuned.forward(ids))).not.toEqual(base);
      }),
      { numRuns: 12 },
    );
  });

  it.each<DType>(["f32", "bf16", "f16"])("merges to the same function and unmerges bit for bit: %s", async (dtype) => {
    await fc.assert(
      fc.asyncProperty(options, async (o) => {
        const model = new Toy({ dtype });
        const tuned = fill(lora(model, o));
        const before = copyOf(await bits(model));
        const y = await numbers(tuned.forward(ids));
        await tuned.merge();
        expect(tuned.merged).toBe(true);
        const tolerance = dtype === "f32" ? 1e-5 : dtype === "f16" ? 2e-2 : 2e-1;
        (await numbers(tuned.forward(ids))).forEach((v, i) => { expect(Math.abs(v - y[i])).toBeLessThan(tolerance * (1 + Math.abs(y[i]))); });
        expect(await numbers(model.forward(ids))).toEqual(await numbers(tuned.forward(ids)));
        expect(() => tuned.forward(ids, { adapter: null })).toThrow(ConfigError);
        await expect(tuned.merge()).rejects.toThrow(ConfigError);
        await tuned.unmerge();
        expect(await bits(model)).toEqual(before);
        expect(await numbers(tuned.forward(ids))).toEqual(y);
        await expect(tuned.unmerge()).rejects.toThrow(ConfigError);
      }),
      { numRuns: 6 },
    );
  });

  it("leaves everything alone when a sum would not be finite", async () => {
    const model = new Toy();
    const tuned = fill(lora(model, { targetModules: ["q_proj"] }));
    const before = copyOf(await bits(model));
    const B = [...tuned.tensors().values()].at(-1);
    B?.set({ dtype: "f32", shape: B.shape, data: new Float32Array(B.size).fill(Number.NaN) });
    await expect(tuned.merge()).rejects.toThrow(/not be finite/);
    expect(await bits(model)).toEqual(before);
    expect(tuned.merged).toBe(false);
  });

  it("refuses to merge into a weight that two modules share", async () => {
    const tuned = fill(lora(new Toy({ tied: true }), { targetModules: ["lm_head"] }));
    await expect(tuned.merge()).rejects.toThrow(/lm_head shares its weight with embed/);
    expect(() => tuned.mergedWeights()).toThrow(/shares its weight/);
    expect([...tuned.mergedWeights({ untied: true }).keys()]).toEqual(["lm_head.weight"]);
  });

  it("has a tree whose paths are PEFT's names, and trains through it", async () => {
    const model = new Toy();
    const tuned = lora(model, { r: 2, targetModules: ["q_proj", "embed"], seed: 5 });
    expect(treePaths(tuned.adapter, isStore).toSorted()).toEqual([...tuned.tensors().keys()].toSorted());
    expect(treePaths(tuned.adapter, isStore)).toContain("base_model.model.layers.1.q_proj.lora_A.weight");
    expect(treePaths(tuned.adapter, isStore)).toContain("base_model.model.embed.lora_embedding_B");
    const weights = copyOf(await bits(model));
    const stores = flatten(tuned.adapter, isStore).leaves;
    const step = (): Tensor => {
      const loss = tuned.loss(ids);
      const grads = flatten(gradients(loss, tuned.adapter), isTensor).leaves;
      expect(grads.map((g) => g.shape)).toEqual(stores.map((p) => p.shape));
      assign(stores, stores.map((p, i) => p.sub(grads[i].mul(0.01))));
      return loss;
    };
    const fast = compile(step);
    const losses: number[] = [];
    for (let i = 0; i < 12; i++) losses.push(await fast().item());
    expect(losses[11]).toBeLessThan(losses[0] * 0.9);
    expect(await bits(model)).toEqual(weights);
  });

  it("records compiled steps again after merge and unmerge", async () => {
    const tuned = fill(lora(new Toy(), { targetModules: "all-linear" }));
    const f = compile((x: Tensor) => tuned.forward(x));
    const first = await numbers(f(ids));
    await tuned.merge();
    (await numbers(f(ids))).forEach((v, i) => { expect(v).toBeCloseTo(first[i], 4); });
    await tuned.unmerge();
    expect(await numbers(f(ids))).toEqual(first);
  });

  it("frozen holds the numbers of its making, whatever trains: an optimizer's step, compiled, leaves it alone", async () => {
    for (const options of [{}, { modulesToSave: ["lm_head"], bias: "lora_only" }, { vera: {}, r: 4 }, { adalora: { initR: 3, targetR: 2 }, initLoraWeights: false }] as const) {
      const tuned = lora(new Toy(), { targetModules: ["q_proj", "up_proj"], ...options }), frozen = tuned.frozen(), y = await numbers(frozen.forward(ids)), stores = [...tuned.tensors().values()];
      const use = compile((x: Tensor) => frozen.forward(x)), step = compile(() => { assign(stores, stores.map((s) => s.add(0.25))); return stores[0].sum(); });
      expect(await numbers(use(ids))).toEqual(y);
      for (let i = 0; i < 2; i++) await step().data();
      expect(await numbers(tuned.forward(ids))).not.toEqual(y);
      for (const now of [frozen.forward(ids), use(ids)]) expect(await numbers(now)).toEqual(y);
      const saved = await frozen.snapshot(), live = await tuned.snapshot();
      expect([...saved.keys()]).toEqual([...live.keys()]);
      expect(saved).not.toEqual(live);
      expect(await numbers(tuned.frozen().forward(ids))).toEqual(await numbers(tuned.forward(ids)));
    }
  });

  it("tells adapters apart that are arguments of a compiled step", async () => {
    const model = new Toy();
    const [one, two] = [fill(lora(model, { targetModules: ["q_proj"] }), 3), fill(lora(model, { targetModules: ["q_proj"] }), 11)];
    const f = compile((x: Tensor, context: Context) => model.forward(x, context));
    for (const context of [one.context(), two.context(), {}, one.context(), { adapter: null }]) expect(await numbers(f(ids, context))).toEqual(await numbers(model.forward(ids, context)));
    expect(await numbers(f(ids, one.context()))).not.toEqual(await numbers(f(ids, two.context())));
  });

  it("drops while training only, needs random numbers for it, and never guesses", async () => {
    const tuned = fill(lora(new Toy(), { loraDropout: 0.5, targetModules: "all-linear" }));
    const y = await numbers(tuned.forward(ids));
    const at = (step: number): Promise<number[]> => numbers(tuned.forward(ids, { train: true, key: { seed: 1, stream: "dropout", step: scalar(step, "u32") } }));
    expect(await at(0)).not.toEqual(y);
    expect(await at(0)).toEqual(await at(0));
    expect(await at(0)).not.toEqual(await at(1));
    expect(await numbers(tuned.forward(ids, { train: false }))).toEqual(y);
    expect(() => tuned.forward(ids, { train: true })).toThrow(/random numbers/);
    expect(() => tuned.loss(ids)).toThrow(/whether it trains|does not say/);
    expect(await tuned.loss(ids, { train: false }).item()).toBeGreaterThan(0);
    const without = fill(lora(new Toy(), { targetModules: "all-linear" }));
    expect(await numbers(without.forward(ids, { train: true }))).toEqual(await numbers(without.forward(ids)));
  });

  it("gives the same first numbers for the same seed, whatever else is adapted", async () => {
    const of = async (o: LoraOptions & { seed?: number }): Promise<HostArray | undefined> => (await lora(new Toy(), o).snapshot()).get("base_model.model.layers.0.q_proj.lora_A.weight");
    const one = await of({ targetModules: ["q_proj"], seed: 9 });
    expect(one).toEqual(await of({ targetModules: "all-linear", seed: 9 }));
    expect(one).not.toEqual(await of({ targetModules: ["q_proj"], seed: 10 }));
  });

  it("prints what trains", () => {
    expect(lora(new Toy(), { r: 4, loraAlpha: 8, useRslora: true, targetModules: "all-linear" }).summary()).toBe(
      [
        "rsLoRA: 4 of 5 linear layers, 192 of 222 parameters train (86.5 %)",
        "module                count  r  alpha  scale  parameters  matched by",
        "layers.{0-1}.q_proj       2  4      8      4          96  all-linear",
        "layers.{0-1}.up_proj      2  4      8      4          96  all-linear",
        "4 modules, 192 parameters",
        "linear layers not adapted: lm_head",
      ].join("\n"),
    );
    expect(lora(new Toy(), { r: 64, loraAlpha: 64, useRslora: true, targetModules: ["q_proj"] }).summary()).toContain("warning: use_rslora with r 64");
  });

  it("refuses a model without layers, bad options and targets that match nothing", () => {
    expect(() => lora({}, {})).toThrow(/no linear layer/);
    expect(() => lora(new Toy(), { targetModules: ["qproj"] })).toThrow(/q_proj/);
    expect(() => lora(new Toy(), { targetModules: ["norm"] })).toThrow(/cannot be adapted/);
    expect(() => lora(new Toy(), { r: -1 })).toThrow(/r = -1/);
    expect(lora(new Toy()).targets.targets.map((t) => t.path)).toEqual(["layers.0.q_proj", "layers.1.q_proj"]); // model_type's default
  });
});

describe("files of an adapter", () => {
  it("hold the adapter, bit for bit", async () => {
    let n = 0;
    await fc.assert(
      fc.asyncProperty(options, async (o) => {
        const tuned = fill(lora(new Toy(), o));
        const dir = join(scratch, `a${n++}`);
        await tuned.save(dir);
        const { tuned: again, report } = await loadLora(new Toy(), dir);
        expect(report).toMatchObject({ missing: [], unexpected: [], mismatched: [], renamed: [], warnings: [] });
        expect(await again.snapshot()).toEqual(await tuned.snapshot());
        expect(await numbers(again.forward(ids))).toEqual(await numbers(tuned.forward(ids)));
        const second = join(scratch, `b${n}`);
        await again.save(second);
        for (const f of ["adapter_config.json", "adapter_model.safetensors"]) expect(await readFile(join(second, f))).toEqual(await readFile(join(dir, f)));
      }),
      { numRuns: 10 },
    );
  });

  it("hold an own scale rule as alpha", async () => {
    const tuned = fill(lora(new Toy(), { r: 3, loraAlpha: 5, rankPattern: { up_proj: 2 }, scaling: (alpha, r) => alpha * r, targetModules: "all-linear" }));
    const dir = join(scratch, "own");
    await tuned.save(dir);
    const { tuned: again } = await loadLora(new Toy(), dir);
    expect(again.targets.targets.map((t) => t.scale)).toEqual([15, 10, 15, 10]);
    expect(await numbers(again.forward(ids))).toEqual(await numbers(tuned.forward(ids)));
  });

  it("are refused by another model, and taken in part when asked", async () => {
    const dir = join(scratch, "strict");
    await fill(lora(new Toy(), { targetModules: ["q_proj"] })).save(dir);
    const directory = await readAdapterDirectory(dir);
    const tensors = new Map(directory.tensors);
    const [gone] = tensors.keys();
    tensors.delete(gone);
    await expect(loadLora(new Toy(), { ...directory, tensors })).rejects.toThrow(FormatError);
    const { report } = await loadLora(new Toy(), { ...directory, tensors }, { strict: false });
    expect(report.missing).toEqual([gone]);
  });

  it("are refused when the embedding that PEFT saved along is not the model's", async () => {
    const model = new Toy();
    const tuned = fill(lora(model, { targetModules: ["embed"] }));
    const dir = join(scratch, "embed");
    await tuned.save(dir);
    const directory = await readAdapterDirectory(dir);
    const own = await model.embed.weight.host();
    const key = "base_model.model.embed.base_layer.weight";
    await loadLora(new Toy(), { ...directory, tensors: new Map([...directory.tensors, [key, own]]) });
    await expect(loadLora(new Toy({ start: 2 }), { ...directory, tensors: new Map([...directory.tensors, [key, own]]) })).rejects.toThrow(/differs from the model's/);
  });
});
