import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { loadModel } from "@adjoint/models";
import { type Context, Conv2d, Linear } from "@adjoint/nn";
import { quantize, quantizedWeight } from "@adjoint/quant";
import { accesses, type Backend, ConfigError, createReference, flatten, FormatError, getDevice, type HostArray, hostArray, planOf, scope, setDevice, Store, store, Tensor, tensor } from "@adjoint/tensor";
import { fixture } from "@adjoint/testing/fixtures";
import { wasm } from "@adjoint/wasm";
import { loadLora, lora, type LoraOptions, mapKey, moduleInfos, readAdapterDirectory, type TargetTable, type Tuned } from "../src/index.ts";
import { describeTargets } from "../src/targets/targets.ts";
import { batchOf } from "./batch.ts";
import { ids, Rich } from "./rich.ts";

const numRuns = Number(process.env["ADJOINT_RUNS"] ?? 7);
const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;
const numbers = async (t: Tensor): Promise<number[]> => [...(await t.data())];
const storesOf = (model: Rich): readonly Tensor[] => flatten(model, isTensor).leaves;
const bits = async (model: Rich): Promise<HostArray[]> => Promise.all(storesOf(model).map(async (s) => { const h = await s.host(); return { ...h, data: h.data.slice() }; }));

/** Every trained tensor moves away from where it starts. */
async function moved<M>(tuned: Tuned<M>, start = 5): Promise<Tuned<M>> {
  let k = start;
  for (const s of tuned.tensors().values()) {
    const data = hostArray(s.dtype, s.size), now = await s.data();
    for (let i = 0; i < data.length; i++) data[i] = now[i] + (((k = (Math.imul(k, 1664525) + 1013904223) >>> 0) >>> 8) % 65 - 32) / 64;
    s.set({ dtype: s.dtype, shape: s.shape, data });
  }
  return tuned;
}

const beside: fc.Arbitrary<LoraOptions> = fc.constantFrom<LoraOptions>(
  { bias: "all" },
  { bias: "lora_only" },
  { bias: "all", loraBias: true },
  { bias: "lora_only", useDora: true },
  { modulesToSave: ["lm_head", "norm"] },
  { modulesToSave: ["embed_tokens", "ln_1", "c_fc"] },
  { modulesToSave: ["mlp"], bias: "all" },
  { trainableTokenIndices: [3, 6, 0] },
  { trainableTokenIndices: { embed_tokens: [1], lm_head: [5, 2] } },
  { targetParameters: ["embed_tokens.weight", "c_fc.weight", "down_proj.weight"] },
  { targetParameters: ["lm_head.weight"], trainableTokenIndices: [2], modulesToSave: ["ln_1"], bias: "all" },
);
const options = fc.record({ r: fc.constantFrom(1, 2), loraAlpha: fc.constantFrom(1, 3), targetModules: fc.constant(["q_proj"]) }).chain((o) => beside.map((b): LoraOptions => ({ ...o, ...b })));
/** Tied layers, together or only in part. */
const tied: fc.Arbitrary<LoraOptions> = fc.constantFrom<LoraOptions>(
  { targetModules: ["q_proj"], modulesToSave: ["embed_tokens"], ensureWeightTying: true },
  { targetModules: ["q_proj"], modulesToSave: ["lm_head"], ensureWeightTying: true },
  { targetModules: ["q_proj", "embed_tokens"], ensureWeightTying: true },
  { targetModules: ["lm_head"], ensureWeightTying: true, r: 3 },
  { targetModules: ["q_proj"], trainableTokenIndices: [3, 6, 0] },
);

/** Rows of the head that train as tokens. */
const ofHead = ({ trainableTokenIndices: of = null }: LoraOptions, isTied: boolean): readonly number[] => (of === null ? [] : isList(of) ? (isTied ? of : []) : of["lm_head"] ?? []);
const isList = (of: readonly number[] | Readonly<Record<string, readonly number[]>>): of is readonly number[] => Array.isArray(of);

let scratch = "", before: Backend;
const devices: [string, () => Promise<Backend>][] = [["reference", () => Promise.resolve(createReference())], ["wasm", () => wasm({ threads: 1 })]];
beforeAll(async () => { before = getDevice(); scratch = await mkdtemp(join(tmpdir(), "adjoint-extras-")); });
afterAll(async () => { setDevice(before); await rm(scratch, { recursive: true, force: true }); });

describe.each(devices)("what trains beside the targets, on %s", (device, open) => {
  beforeAll(async () => { setDevice(await open()); });

  it.each([["untied", false, options], ["tied", true, tied]] as const)("starts as the base, leaves it alone, merges to the same function and comes out bit for bit: %s", async (_, isTied, which) => {
    await fc.assert(
      fc.asyncProperty(which, async (o) => {
        const model = new Rich({ tied: isTied }), base = await numbers(model.forward(ids)), held = await bits(model);
        const tuned = lora(model, o);
        const started = await numbers(tuned.forward(ids));
        if (o.useDora === true) started.forEach((v, i) => { expect(v).toBeCloseTo(base[i], 5); }); // the length over itself may round
        else {
          // a token's row of the head is a product of its own, which may round otherwise where the other kernel fuses; everything else is the base's bits
          const tokens = ofHead(o, isTied), vocabulary = tuned.forward(ids).shape.at(-1) ?? 1;
          started.forEach((v, i) => { if (tokens.includes(i % vocabulary)) expect(Math.abs(v - base[i])).toBeLessThan(2.5e-7 * (1 + Math.abs(base[i]))); else expect(v).toBe(base[i]); });
        }
        await moved(tuned);
        const y = await numbers(tuned.forward(ids));
        expect(y).not.toEqual(base);
        expect(await numbers(tuned.forward(ids, { adapter: null }))).toEqual(base);
        expect(await bits(model)).toEqual(held);
        await tuned.merge();
        (await numbers(model.forward(ids))).forEach((v, i) => { expect(Math.abs(v - y[i])).toBeLessThan(2e-5 * (1 + Math.abs(y[i]))); });
        await tuned.unmerge();
        expect(await bits(model)).toEqual(held);
        expect(await numbers(tuned.forward(ids))).toEqual(y);
      }),
      { numRuns },
    );
  });

  if (device === "reference") it("has the gradients of its numbers, and merges exactly, in f64", async () => {
    await fc.assert(
      fc.asyncProperty(fc.oneof(options.map((o) => [o, false] as const), tied.map((o) => [o, true] as const)), async ([o, isTied]) => {
        const tuned = await moved(lora(new Rich({ dtype: "f64", tied: isTied }), o));
        const grads = flatten(gradients(tuned.loss(ids), tuned.adapter), isTensor), stores = new Map([...tuned.tensors()]);
        const values = await Promise.all(grads.leaves.map(numbers));
        for (const [i, path] of grads.paths.entries()) {
          if (o.useDora === true && path.includes(".lora_")) continue; // DoRA holds its lengths constant
          const s = stores.get(path), g = values[i];
          if (s === undefined) throw new Error(path);
          const at = Math.floor(s.size / 2), now = Float64Array.from(await s.data());
          const loss = async (step: number): Promise<number> => { s.set({ dtype: "f64", shape: s.shape, data: now.map((v, j) => (j === at ? v + step : v)) }); return tuned.loss(ids).item(); };
          const slope = ((await loss(1e-5)) - (await loss(-1e-5))) / 2e-5;
          s.set({ dtype: "f64", shape: s.shape, data: now });
          expect(Math.abs(g[at] - slope), path).toBeLessThan(1e-6 * (1 + Math.abs(slope)));
        }
        const y = await numbers(tuned.forward(ids));
        await tuned.merge();
        (await numbers(tuned.forward(ids))).forEach((v, i) => { expect(Math.abs(v - y[i])).toBeLessThan(1e-12 * (1 + Math.abs(y[i]))); });
      }),
      { numRuns },
    );
  });
});

describe("layers of other kinds", () => {
  const grid = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => (((i * 37) % 33) - 16) / 16);
  it("train their biases and copies: convolutions", async () => {
    setDevice(before);
    class Net {
      readonly conv: Conv2d = new Conv2d(store({ dtype: "f32", shape: [3, 2, 2, 2], data: grid(24) }), store({ dtype: "f32", shape: [3], data: grid(3) }), { padding: 1 });
      readonly out: Linear = new Linear(store({ dtype: "f32", shape: [2, 4], data: grid(8) }));
      forward(x: Tensor, context: Context = {}): Tensor { return this.out.forward(this.conv.forward(x, context), context); }
    }
    const x = tensor(grid(36), { shape: [2, 2, 3, 3] });
    for (const o of [{ bias: "all" }, { modulesToSave: ["conv"] }] as const) {
      const net = new Net(), base = await numbers(net.forward(x)), tuned = lora(net, { targetModules: ["out"], modelType: null, ...o });
      expect(await numbers(tuned.forward(x))).toEqual(base);
      await moved(tuned);
      const y = await numbers(tuned.forward(x));
      await tuned.merge();
      (await numbers(net.forward(x))).forEach((v, i) => { expect(Math.abs(v - y[i])).toBeLessThan(1e-4); });
      expect(y).not.toEqual(base);
    }
  });

  it("are copied out of codes, and merged back into them only when that is allowed", async () => {
    const net = { q_proj: new Linear(quantizedWeight(quantize(grid(64 * 64), [64, 64], { format: "nf4", block: 64 }))), out: new Linear(store({ dtype: "f32", shape: [2, 64], data: grid(128) })), forward(x: Tensor, context: Context = {}): Tensor { return this.out.forward(this.q_proj.forward(x, context), context); } };
    const x = tensor(grid(128), { shape: [2, 64] }), base = await numbers(net.forward(x)), tuned = lora(net, { targetModules: ["out"], modulesToSave: ["q_proj"] });
    expect(tuned.tensors().get("base_model.model.q_proj.weight")?.dtype).toBe("f32");
    (await numbers(tuned.forward(x))).forEach((v, i) => { expect(v).toBeCloseTo(base[i], 3); });
    await expect(tuned.merge()).rejects.toThrow(/allowRequantize/);
  });

  it("keep what their class computes: Gemma's norms and scaled embedding", async () => {
    const model = await loadModel(fixture("families/gemma")), batch = batchOf([[3, 1, 4, 1, 5]]), base = await model.loss(batch).item();
    const tuned = lora(model, { targetModules: ["q_proj"], modulesToSave: ["embed_tokens", "input_layernorm", "model.norm"], ensureWeightTying: true });
    expect(await tuned.loss(batch).item()).toBe(base);
    await moved(tuned);
    const loss = await tuned.loss(batch).item();
    expect(loss).not.toBe(base);
    await tuned.merge();
    expect(await model.loss(batch).item()).toBeCloseTo(loss, 4);
    await tuned.unmerge();
    expect(await model.loss(batch).item()).toBe(base);
  });
});

/** Names of stores that kernels of a plan read. */
function readsOf(values: readonly Tensor[]): readonly string[] {
  const { kernels, buffers } = planOf(values).spec;
  return kernels.flatMap((k) => [...new Set(accesses(k).reads.map((v) => v.buffer))].flatMap((b) => buffers[b].name ?? []));
}
/** The largest value that a plan writes. */
const largest = (values: readonly Tensor[]): number => {
  const { kernels, buffers } = planOf(values).spec;
  return Math.max(...kernels.flatMap((k) => accesses(k).writes.map((v) => buffers[v.buffer].length)));
};

describe("the backward pass", () => {
  it("does not reach below the lowest adapted layer", async () => {
    setDevice(before);
    const model = await loadModel(fixture("llama/tiny")), batch = batchOf([[3, 1, 4, 1, 5]]);
    const extras: LoraOptions[] = [{}, { bias: "all" }, { modulesToSave: ["model.norm"] }];
    for (const o of extras) {
      const tuned = lora(model, { targetModules: ["q_proj", "down_proj"], layersToTransform: [1], ...o }), below = (name: string): boolean => name.includes("layers.0.") || name.includes("embed_tokens");
      const [forward, both] = scope(() => {
        const loss = tuned.loss(batch);
        return [readsOf([loss]), readsOf([loss, ...flatten(gradients(loss, tuned.adapter), isTensor).leaves])];
      });
      expect(forward.filter(below).length).toBeGreaterThan(8);
      expect(both.filter(below).toSorted()).toEqual(forward.filter(below).toSorted());
      expect(both.length).toBeGreaterThan(forward.length);
    }
    const all = lora(model, { targetModules: ["q_proj"] });
    const counts = scope(() => { const loss = all.loss(batch); return [readsOf([loss]), readsOf([loss, ...flatten(gradients(loss, all.adapter), isTensor).leaves])].map((names) => names.filter((n) => n.includes("layers.0.")).length); });
    expect(counts[1]).toBeGreaterThan(counts[0]); // the law can fail
  });

  it("of token rows writes nothing of the table's size, nor does the forward pass", () => {
    const V = 4096, data = new Float32Array(V * 4), model = new Rich();
    const table = store({ dtype: "f32", shape: [V, 4], data }, "table"), wide = Object.assign(Object.create(Rich.prototype), model, { embed_tokens: Object.assign(Object.create(Reflect.getPrototypeOf(model.embed_tokens)), { weight: table }) }) as Rich;
    const tuned = lora(wide, { targetModules: ["q_proj"], trainableTokenIndices: { embed_tokens: [5, 4000] } });
    const loss = tuned.loss(ids);
    expect(largest([loss, ...flatten(gradients(loss, tuned.adapter), isTensor).leaves])).toBeLessThan(V);
  });
});

describe("tied weights", () => {
  it("train as one: the gradient of an embedding's copy has both places", async () => {
    setDevice(before);
    const tuned = await moved(lora(new Rich({ dtype: "f64", tied: true }), { targetModules: ["q_proj"], modulesToSave: ["embed_tokens"], ensureWeightTying: true }));
    expect([...tuned.tensors().keys()].filter((k) => k.includes("embed") || k.includes("head"))).toEqual(["base_model.model.embed_tokens.weight"]);
    const apart = lora(new Rich({ dtype: "f64" }), { targetModules: ["q_proj"], modulesToSave: ["embed_tokens", "lm_head"] });
    for (const [key, s] of apart.tensors()) {
      const own = tuned.tensors().get(key.replace("lm_head", "embed_tokens"));
      if (own !== undefined) s.set({ dtype: "f64", shape: s.shape, data: Float64Array.from(await own.data()) });
    }
    const gradientOf = async (t: Tuned<Rich>, key: string): Promise<number[]> => { const { paths, leaves } = flatten(gradients(t.loss(ids), t.adapter), isTensor); return numbers(leaves[paths.indexOf(`base_model.model.${key}.weight`)]); };
    const [one, embed, head] = [await gradientOf(tuned, "embed_tokens"), await gradientOf(apart, "embed_tokens"), await gradientOf(apart, "lm_head")];
    one.forEach((v, i) => { expect(Math.abs(v - embed[i] - head[i])).toBeLessThan(1e-12); });
  });

  it("may be written apart, each with what it computes", async () => {
    await fc.assert(
      fc.asyncProperty(tied, async (o) => {
        const tuned = await moved(lora(new Rich({ tied: true }), o)), y = await numbers(tuned.forward(ids)), apart = new Rich(), model = new Rich({ tied: true });
        const merged = tuned.mergedWeights({ untied: true }), weights = new Map(flatten(apart, isTensor).paths.map((p, i) => [p, storesOf(apart)[i]]));
        for (const [name, s] of weights) {
          const own = merged.get(name), at = name === "lm_head.weight" ? model.lm_head.weight : flatten(model, isTensor).leaves[flatten(model, isTensor).paths.indexOf(name)];
          if (s instanceof Store) s.set({ dtype: "f32", shape: s.shape, data: Float32Array.from(await (own ?? at).data()) });
        }
        (await numbers(apart.forward(ids))).forEach((v, i) => { expect(Math.abs(v - y[i])).toBeLessThan(2e-5 * (1 + Math.abs(y[i]))); });
      }),
      { numRuns },
    );
  });

  it("are parted only knowingly", async () => {
    const model = new Rich({ tied: true }), save = { targetModules: ["q_proj"], modulesToSave: ["embed_tokens"] };
    expect(() => lora(model, save)).toThrow(/embed_tokens and lm_head share one weight/);
    expect(describeTargets(save, moduleInfos(model)).warnings.join()).toContain("share one weight");
    expect(lora(model, { targetModules: ["lm_head"] }).targets.warnings.join()).toContain("ensure_weight_tying: true adapts both");
    expect(() => lora(model, { targetModules: ["lm_head"], useDora: true, ensureWeightTying: true })).toThrow(/DoRA on embed_tokens and lm_head/);
    expect(() => lora(model, { targetModules: ["q_proj"], trainableTokenIndices: { embed_tokens: [1], lm_head: [2] }, ensureWeightTying: true })).toThrow(/other rows are named for each/);
    const rows = lora(model, { targetModules: ["q_proj"], trainableTokenIndices: { embed_tokens: [1], lm_head: [2] } });
    expect(rows.targets.warnings.join()).toContain("with this adapter they do not");
    await expect((await moved(rows)).merge()).rejects.toThrow(/shares its weight/);
    expect(lora(new Rich(), { targetModules: ["q_proj"], ensureWeightTying: true }).targets.warnings.join()).toContain("changes nothing");
  });

  it("must be equal in a file", async () => {
    const dir = join(scratch, "tied");
    await (await moved(lora(new Rich({ tied: true }), { targetModules: ["lm_head"], ensureWeightTying: true }))).save(dir);
    const directory = await readAdapterDirectory(dir), key = "base_model.model.lm_head.lora_A.weight", copy = directory.tensors.get(key);
    if (copy === undefined) throw new Error("no copy");
    expect((await loadLora(new Rich({ tied: true }), directory)).report.missing).toEqual([]);
    const other = { ...copy, data: copy.data.map((v) => v + 1) };
    await expect(loadLora(new Rich({ tied: true }), { ...directory, tensors: new Map([...directory.tensors, [key, other]]) })).rejects.toThrow(FormatError);
  });
});

describe("names and refusals", () => {
  const message = (o: LoraOptions): string => {
    try {
      if (o.layersToTransform === undefined) lora(new Rich(), { targetModules: ["q_proj"], ...o });
      else lora({ layers: [{ x: new Rich().q_proj }, { y: new Rich().q_proj }] }, { ...o, modelType: null });
    } catch (error) {
      if (error instanceof ConfigError) return error.message + String(error.details.key);
      throw error;
    }
    return "nothing was thrown";
  };
  it.each<[LoraOptions, RegExp]>([
    [{ modulesToSave: ["head"] }, /"head" is no module[^]*PEFT would take lm_head/],
    [{ modulesToSave: ["classifier"] }, /"classifier" is no module/],
    [{ targetModules: ["q_proj", "v_proj"] }, /"v_proj" matches no module[^]*q_proj/],
    [{ layersToTransform: [0, 9], targetModules: ["x"] }, /layer 9 holds no target[^]*layers with targets: 0/],
    [{ trainableTokenIndices: [7] }, /has 7 rows, and no row 7/],
    [{ trainableTokenIndices: { wte: [1] } }, /"wte" is no embedding/],
    [{ trainableTokenIndices: [1, 1] }, /different token ids/],
    [{ trainableTokenIndices: { embed_tokens: [1] }, modulesToSave: ["embed_tokens"] }, /is also in modulesToSave/],
    [{ trainableTokenIndices: [1], modulesToSave: ["embed_tokens"] }, /is also in modules_to_save/],
    [{ trainableTokenIndices: [1], targetModules: ["embed_tokens"] }, /is also in target_modules/],
    [{ targetParameters: ["q_proj.weight"] }, /is also in target_modules/],
    [{ targetParameters: ["q_proj.bias"] }, /cannot be adapted as a parameter/],
    [{ targetParameters: ["experts.gate_up_proj"] }, /is no parameter of the model/],
    [{ targetParameters: ["c_fc.weight"], loraDropout: 0.1 }, /cannot stand beside targetParameters/],
    [{ targetParameters: ["c_fc.weight"], useDora: true }, /cannot stand beside targetParameters/],
    [{ targetParameters: ["c_fc.weight"], loraBias: true }, /cannot stand beside targetParameters/],
    [{ targetParameters: ["c_fc.weight"], initLoraWeights: "pissa" }, /cannot stand beside targetParameters/],
    [{ targetParameters: ["c_fc.weight"], fanInFanOut: true }, /cannot stand beside targetParameters/],
    [JSON.parse('{"bias": "some"}'), /use "none", "all" or "lora_only"/],
    [JSON.parse('{"layerReplication": [[0, 1]]}'), /layer replication/],
  ])("refuses %j", (o, expected) => { expect(message(o)).toMatch(expected); });

  it("reads a file's names as PEFT does, with warnings", () => {
    const infos = moduleInfos(new Rich()), warnings = (o: LoraOptions): string => describeTargets({ targetModules: ["q_proj"], ...o }, infos).warnings.join("\n");
    expect(warnings({ modulesToSave: ["classifier"] })).toContain('modules_to_save: "classifier" is no module');
    expect(warnings({ modulesToSave: ["norm"] })).toBe("");
    expect(warnings({ targetModules: ["q_proj", "v_proj"] })).toContain('target_modules: "v_proj" matches no module');
    expect(warnings({ excludeModules: ".*v_proj" })).toContain('exclude_modules: ".*v_proj" matches no module');
    expect(warnings({ excludeModules: ["v_proj"] })).toContain('exclude_modules: "v_proj" matches no module');
    const more = moduleInfos({ a: new Rich(), my_norm: new Rich().norm });
    const saved = (names: string[], origin: "new" | "file"): string[] => describeTargets({ targetModules: ["q_proj"], modulesToSave: names }, more, null, origin).beside.map((b) => b.site.path);
    expect(saved(["norm"], "file")).toEqual(["a.norm", "my_norm"]);
    expect(saved(["m"], "file")).toEqual(["a.norm", "my_norm"]);
    expect(saved(["norm"], "new")).toEqual(["a.norm"]);
  });

  it("writes names of whole modules that PEFT's rule reads as what trains, and reads them so", async () => {
    const one = (): object => ({ norm: new Rich().norm, pre_norm: new Rich().norm, q_proj: new Rich().q_proj }), tree = { model: { layers: [one(), one()], norm: new Rich().norm, lm_norm: new Rich().norm }, norm: new Rich().norm }, infos = moduleInfos(tree);
    const paths = (t: TargetTable): string[] => t.beside.map((b) => b.site.path).toSorted();
    for (const [names, written] of [
      [["pre_norm"], ["pre_norm"]],
      [["0.norm"], ["0.norm"]],
      [["layers.0", "model.norm", "lm_norm"], ["layers.0", "model.norm", "lm_norm"]],
      [["pre_norm", "lm_norm", "norm"], ["pre_norm", "lm_norm", "norm"]],
      [["model.norm", "pre_norm"], ["model.norm", "pre_norm"]],
    ] as const) {
      const o = { targetModules: ["q_proj"], modulesToSave: names }, made = describeTargets(o, infos, null, "new");
      expect(made.modulesToSave).toEqual(written);
      expect(paths(describeTargets({ ...o, modulesToSave: made.modulesToSave }, infos))).toEqual(paths(made));
    }
    const inner = moduleInfos({ model: tree.model }), o = { targetModules: ["q_proj"], modulesToSave: ["norm"] }, made = describeTargets(o, inner, null, "new");
    expect(made.modulesToSave).toEqual(["0.norm", "1.norm", "model.norm"]);
    expect(made.warnings.join()).toContain("PEFT would take model.layers.0.pre_norm too");
    expect(paths(describeTargets({ ...o, modulesToSave: made.modulesToSave }, inner))).toEqual(["model.layers.0.norm", "model.layers.1.norm", "model.norm"]);
    expect(paths(describeTargets(o, inner))).toHaveLength(6);
    expect(() => describeTargets(o, infos, null, "new")).toThrow(/model\.layers\.0\.pre_norm ends in norm too.*name both/s);
    const model = await loadModel(fixture("llama/tiny")), dir = join(scratch, "norms"), tuned = await moved(lora(model, { targetModules: ["q_proj"], modulesToSave: ["input_layernorm", "norm"] })), y = await numbers(tuned.loss(batchOf([[3, 1, 4]])));
    await tuned.save(dir);
    const directory = await readAdapterDirectory(dir);
    expect(directory.config.modulesToSave).toEqual(["input_layernorm", "model.norm"]);
    expect(await numbers((await loadLora(model, directory)).tuned.loss(batchOf([[3, 1, 4]])))).toEqual(y);
  });

  it("adapts nothing that is saved whole, and parameters alone", () => {
    const paths = (o: LoraOptions): readonly string[] => lora(new Rich(), o).targets.targets.map((t) => t.path);
    expect(paths({ targetModules: "all-linear", modulesToSave: ["mlp"] })).toEqual(["q_proj", "c_fc"]);
    expect(paths({ targetModules: [], targetParameters: ["c_fc.weight"] })).toEqual([]);
    expect(() => paths({ targetModules: ["lm_head"], modulesToSave: ["lm_head"] })).toThrow(/matches no module/);
  });

  it("prints what trains beside", () => {
    const table = lora(new Rich(), { r: 2, targetModules: ["q_proj"], bias: "lora_only", modulesToSave: ["ln_1"], trainableTokenIndices: [1, 4], targetParameters: ["c_fc.weight"], rankPattern: { "c_fc.weight": 1 } }).targets;
    expect(table.toString()).toBe(
      [
        "module  count  r  alpha  scale  parameters  matched by",
        "q_proj      1  2      8      4          16  q_proj",
        "1 modules, 16 parameters",
        "beside them, 36 parameters:",
        "  ln_1: in full, 8 parameters, by ln_1",
        "  embed_tokens: 2 rows, 8 parameters, by trainable_token_indices",
        "  c_fc: parameter, r 1, alpha 8, scale 8, 10 parameters, by c_fc.weight",
        "  q_proj: bias, 4 parameters, by bias = lora_only",
        "  c_fc: bias, 6 parameters, by bias = lora_only",
        "linear layers not adapted: mlp.down_proj, lm_head",
      ].join("\n"),
    );
    expect(table.parameters).toBe(52);
  });
});

describe("files", () => {
  const all: LoraOptions = { r: 1, targetModules: ["q_proj"], bias: "all", modulesToSave: ["norm", "ln_1"], trainableTokenIndices: [1, 4], targetParameters: ["c_fc.weight"] };

  it("keep what a loose load does not find as the base has it", async () => {
    setDevice(before);
    const dir = join(scratch, "loose"), model = new Rich();
    await (await moved(lora(model, all))).save(dir);
    const directory = await readAdapterDirectory(dir), tensors = new Map([...directory.tensors].filter(([k]) => k.includes("lora_A")));
    await expect(loadLora(new Rich(), { ...directory, tensors })).rejects.toThrow(/norm\.weight/);
    const { tuned, report } = await loadLora(new Rich(), { ...directory, tensors }, { strict: false });
    expect(report.missing).toContain("base_model.model.embed_tokens.token_adapter.trainable_tokens_delta");
    expect(await numbers(tuned.forward(ids))).toEqual(await numbers(model.forward(ids)));
  });

  it("are read under older names and mapped ones", async () => {
    const dir = join(scratch, "names"), tuned = await moved(lora(new Rich(), all));
    await tuned.save(dir);
    const directory = await readAdapterDirectory(dir), y = await numbers(tuned.forward(ids));
    const old = (key: string): string => key.replace("base_model.model.norm.weight", "norm.modules_to_save.default.weight").replace(/delta$/, "delta.default").replace("lora_A.weight", "lora_A.default.weight");
    const aged = await loadLora(new Rich(), { ...directory, tensors: new Map([...directory.tensors].map(([k, v]) => [old(k), v])) });
    expect(aged.report.renamed).toHaveLength(4);
    expect(await numbers(aged.tuned.forward(ids))).toEqual(y);
    const other = new Map([...directory.tensors].map(([k, v]) => [k.replace("model.q_proj", "model.block.0.query").replace("ln_1", "norm_1"), v]));
    await expect(loadLora(new Rich(), { ...directory, tensors: other })).rejects.toThrow(FormatError);
    const mapped = await loadLora(new Rich(), { ...directory, tensors: other }, { keyMapping: { "^block\\.\\d+\\.query": "q_proj", "^norm_(?P<n>\\d)": "ln_\\g<n>" } });
    expect(mapped.report).toMatchObject({ missing: [], unexpected: [], warnings: expect.not.arrayContaining([expect.stringContaining("older")]) });
    expect(await numbers(mapped.tuned.forward(ids))).toEqual(y);
  });

  it("whose expression cannot be run in linear time are read by the modules that their tensors name, with a warning", async () => {
    const dir = join(scratch, "look-ahead");
    for (const o of [{ useDora: true, modulesToSave: ["norm"] }, { bias: "lora_only" }, { adalora: { initR: 3, targetR: 2 } }, { r: 3, vera: {} }, { trainableTokenIndices: [1] }] as const) {
      const tuned = await moved(lora(new Rich(), { targetModules: ["q_proj", "c_fc"], ...o })), y = await numbers(tuned.forward(ids));
      await tuned.save(dir);
      const directory = await readAdapterDirectory(dir);
      for (const config of [{ ...directory.config, targetModules: "(?!lm_head).*(q_proj|c_fc)" }, ...(o.vera === undefined ? [{ ...directory.config, targetModules: "all-linear", excludeModules: ".*(?<!q_proj|c_fc)" }] : [])]) {
        const { tuned: back, report } = await loadLora(new Rich(), { ...directory, config });
        expect(report.warnings.join()).toMatch(/(target|exclude)_modules: .*look-(ahead|behind).*is not supported.*the 2 modules of the file's tensors are taken/);
        expect(await numbers(back.forward(ids))).toEqual(y);
        expect(back.fileConfig()).toMatchObject({ targetModules: ["c_fc", "q_proj"], excludeModules: null });
      }
      await expect(loadLora(new Rich(), { ...directory, config: { ...directory.config, targetModules: "(q_proj" } })).rejects.toThrow(/regular expression/);
    }
    const directory = await readAdapterDirectory(dir);
    await expect(loadLora(new Rich(), { ...directory, config: { ...directory.config, targetModules: "(?!x)q_proj", targetParameters: ["c_fc.weight"] } })).rejects.toThrow(/negative look-ahead/);
  });

  it("save frozen embeddings only when asked or needed, and say why", async () => {
    const plain = lora(new Rich(), { targetModules: ["q_proj"] }), resized = lora(new Rich({ vocabSize: 5 }), { targetModules: ["q_proj"] }), head = lora(new Rich(), { targetModules: ["lm_head"] });
    const keys = (t: Tuned<Rich>, option: "auto" | boolean): [string[], string] => { const { parameters, reason } = t.savedEmbeddings(option); return [[...parameters.keys()].map((k) => k.slice("base_model.model.".length)), reason]; };
    expect(keys(plain, "auto")).toEqual([[], "embeddings are not saved: their 7 rows are the base's"]);
    expect(keys(head, "auto")).toEqual([[], "embeddings are not saved: their 7 rows are the base's"]);
    expect(keys(resized, "auto")).toEqual([["embed_tokens.weight", "lm_head.weight"], "embeddings are saved along (embed_tokens, lm_head): embed_tokens has 7 rows, and the base's config says 5"]);
    expect(keys(resized, false)[1]).toContain("though embed_tokens has 7 rows");
    expect([plain, head].map((t) => t.summary().includes("when saved: embeddings are not saved"))).toEqual([false, true]);
    expect(keys(plain, true)[0]).toEqual(["embed_tokens.weight", "lm_head.weight"]);
    expect(keys(head, true)[0]).toEqual(["lm_head.base_layer.weight"]);
    const dir = join(scratch, "resized");
    await resized.save(dir);
    expect((await loadLora(new Rich(), dir)).report.unexpected).toEqual([]);
    await expect(loadLora(new Rich({ seed: 2 }), dir)).rejects.toThrow(/differs from the model's/);
  });

  it("may bring other embeddings than the base has, which then stand in their place", async () => {
    const dir = join(scratch, "brought"), again = join(scratch, "brought-again"), tuned = await moved(lora(new Rich(), { targetModules: ["embed_tokens"] }));
    await tuned.save(dir, { saveEmbeddings: true });
    const other = new Rich(), y = await numbers(tuned.forward(ids));
    const set = other.embed_tokens.weight;
    set.set({ dtype: "f32", shape: set.shape, data: new Float32Array(set.size).fill(0.5) });
    await expect(loadLora(other, dir)).rejects.toThrow(/differs from the model's/);
    const { tuned: brought } = await loadLora(other, dir, { savedEmbeddings: "use" });
    expect(await numbers(brought.forward(ids))).toEqual(y);
    expect(await numbers(brought.forward(ids, { adapter: null }))).toEqual(await numbers(other.forward(ids)));
    expect(brought.savedEmbeddings().reason).toContain("have others than the base");
    await brought.save(again);
    expect((await readAdapterDirectory(again)).tensors).toEqual((await readAdapterDirectory(dir)).tensors);
    await brought.merge();
    (await numbers(other.forward(ids))).forEach((v, i) => { expect(Math.abs(v - y[i])).toBeLessThan(1e-5 * (1 + Math.abs(y[i]))); });
  });

  it.each<LoraOptions>([{ targetModules: ["embed_tokens"] }, { targetModules: ["q_proj"] }, { targetModules: ["embed_tokens"], modulesToSave: ["ln_1"], bias: "all" }])("hold the base's own numbers, whoever is merged while they are written and read: %j", async (o) => {
    const dir = join(scratch, "while-merged"), model = new Rich({ vocabSize: 5 }), other = await moved(lora(model, { r: 2, targetModules: ["embed_tokens", "lm_head"], seed: 3 })), tuned = await moved(lora(model, o)), y = await numbers(tuned.forward(ids));
    await other.merge();
    await tuned.merge();
    await tuned.save(dir, { saveEmbeddings: true });
    await tuned.unmerge();
    const { tuned: over } = await loadLora(model, dir);
    await other.unmerge();
    expect(await numbers(over.forward(ids))).toEqual(y);
    expect(await numbers((await loadLora(new Rich({ vocabSize: 5 }), dir)).tuned.forward(ids))).toEqual(y);
    await other.merge({ keep: false });
    await expect(tuned.save(dir)).rejects.toThrow(/needs the base's own .*outside of sets \(lora on embed_tokens and 1 more\) is merged into it.*was not kept/);
    await tuned.save(dir, { saveEmbeddings: false });
  });
});

describe("key mapping", () => {
  it("rewrites as Python's re.subn, the first expression that is found alone", () => {
    expect(mapKey("base_model.model.a.b.a.weight", { a: "x" })).toBe("base_model.model.x.b.x.weight");
    expect(mapKey("base_model.model.a.b.a.weight", { "^a": "x" })).toBe("base_model.model.x.b.a.weight");
    expect(mapKey("base_model.model.a.1.w", { "^z": "q", "a\\.(\\d)": "b.\\1\\g<1>", w: "never" })).toBe("base_model.model.b.11.w");
    expect(mapKey("a.w", { z: "q" })).toBe("a.w");
    for (const [mapping, problem] of [[{ "x*": "y" }, /matches nothing/], [{ a: "\\1" }, /group 1/], [{ a: "\\g<n>" }, /group n/], [{ "(?<=a)b": "c" }, /"\(\?<=a\)b": look-behind/], [{ a: "\\q" }, /stands for nothing/]] as const) expect(() => mapKey("a.b", mapping)).toThrow(problem);
  });
});

