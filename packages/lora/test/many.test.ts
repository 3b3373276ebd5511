import { mkdtemp, readdir, readFile, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { type CausalLM, generateIds, loadModel } from "@adjoint/models";
import { type Backend, clearPlans, compile, ConfigError, flatten, getDevice, type HostArray, memory, scalar, scope, setDevice, Tensor, tensor } from "@adjoint/tensor";
import { fixture, golden, goldenTensors } from "@adjoint/testing/fixtures";
import { wasm } from "@adjoint/wasm";
import { adapterSet, type AdapterSet, foldScale, loadAdapters, lora, type NewLoraOptions } from "../src/index.ts";
import { batchOf } from "./batch.ts";
import { goldenNet, grid, gridNet, type Net, restart } from "./net.ts";
import { Rich } from "./rich.ts";

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;
const numbers = async (t: Tensor): Promise<number[]> => [...(await t.data())];
const error = (a: ArrayLike<number>, b: ArrayLike<number>): number => (a.length === b.length ? Math.max(...Array.from(b, (v, i) => Math.abs(a[i] - v))) : Infinity);
const ids = tensor(Int32Array.from([0, 3, 1, 4, 2, 3]), { shape: [2, 3] });

let scratch = "", before: Backend;
beforeAll(async () => { scratch = await mkdtemp(join(tmpdir(), "adjoint-many-")); before = getDevice(); setDevice(await wasm({ threads: 1 })); });
afterAll(async () => { clearPlans(); setDevice(before); await rm(scratch, { recursive: true, force: true }); });

/** Adapters a (all layers), b (rsLoRA) and c with numbers in both factors. */
async function setOf(more: NewLoraOptions = {}): Promise<AdapterSet<Net>> {
  restart(5);
  const set = adapterSet(gridNet("f32")), options: Readonly<Record<string, NewLoraOptions>> = { a: { r: 2, loraAlpha: 4, targetModules: ["embed", "up", "c_fc"] }, b: { r: 3, loraAlpha: 2, useRslora: true, targetModules: ["up"] }, c: { r: 1, targetModules: ["up", "c_fc"] } };
  for (const [name, o] of Object.entries(options)) for (const s of set.add(name, { ...o, ...more }).tensors().values()) s.set(await grid(s.shape, "f32").host());
  return set;
}

describe("a set of adapters", () => {
  it("adds contributions in order, per call; the base and other views are as they were", async () => {
    const set = await setOf(), base = await numbers(set.base.forward(ids)), a = await numbers(set.with("a").forward(ids)), view = set.with(["a", "b"]);
    expect(await numbers(set.with([]).forward(ids))).toEqual(base);
    expect(a).toEqual(await numbers(set.get("a").forward(ids)));
    const x = grid([4, 4], "f32"), of = async (choice: string[]): Promise<number[]> => numbers(set.base.up.forward(x, set.with(choice).context()));
    const [none, one, two, both] = [await of([]), await of(["a"]), await of(["b"]), await of(["a", "b"])];
    expect(error(both, one.map((v, i) => v + two[i] - none[i]))).toBeLessThan(1e-5);
    const [first, second] = await Promise.all([numbers(view.forward(ids)), numbers(set.with("c").forward(ids))]);
    expect(await numbers(view.forward(ids))).toEqual(first);
    expect(await numbers(set.with("c").forward(ids))).toEqual(second);
    expect(await numbers(view.forward(ids, { adapter: null }))).toEqual(base);
    expect(() => view.forward(ids, { adapter: set.with("c").moduleAdapter })).toThrow(/another adapter/);
  });
  it("trains what is asked for: the adapters that are on, or some of them", async () => {
    const set = await setOf(), one = set.with("a"), two = set.with(["a", "b"]), part = set.with(["a", "b"], { train: ["b"] });
    expect(one.adapter).toBe(set.get("a").adapter);
    expect(Object.keys(two.adapter)).toEqual(["a", "b"]);
    expect(Object.keys(part.adapter)).toEqual(["b"]);
    const own = flatten(gradients(two.forward(ids).square().sum(), two.adapter), isTensor), some = flatten(gradients(part.forward(ids).square().sum(), part.adapter), isTensor);
    for (const [i, path] of some.paths.entries()) expect(await numbers(some.leaves[i])).toEqual(await numbers(own.leaves[own.paths.indexOf(path)]));
    expect(() => set.with(["a"], { train: ["b"] })).toThrow(/b cannot train/);
    expect(String(part)).toBe(
      ["adapter  method  r  scale  modules  parameters  merged  on   trains", "a        lora    2      2        3          56  -       yes  -", "b        lora    3  1.155        1          30  -       yes  yes", "c        lora    1      8        2          19  -       -    -"].join("\n"),
    );
  });
  it("has masks of their own for adapters that act together, and an adapter's own mask where it acts alone", async () => {
    const set = await setOf({ loraDropout: 0.5 }), context = { train: true, key: { seed: 1, stream: "d", step: scalar(0, "u32") } };
    expect(await numbers(set.with("a").forward(ids, context))).toEqual(await numbers(set.get("a").forward(ids, context)));
    // two adapters of the same numbers: if their masks were one, it would not matter which of them is at zero
    const off = (name: string): Promise<number[]> => numbers(set.base.up.forward(x, set.with({ p: 1, q: 1, [name]: 0 }).context(context))), x = grid([16, 4], "f32");
    for (const name of ["p", "q"]) for (const [key, s] of set.add(name, { r: 2, loraDropout: 0.5, targetModules: ["up"] }).tensors()) if (key.includes("lora_B")) s.set({ dtype: "f32", shape: s.shape, data: new Float32Array(s.size).fill(1) });
    expect(await off("p")).not.toEqual(await off("q"));
  });
  it("holds scales as data: no plan and no recording is made anew when one changes", async () => {
    const set = await setOf(), y = async (): Promise<number[]> => numbers(set.with(["a", "b"]).forward(ids));
    set.setScale("a", 0.5);
    const half = await y(), f = compile((x: Tensor) => set.with(["a", "b"]).forward(x));
    expect(await numbers(f(ids))).toEqual(half);
    const { plans } = memory(getDevice());
    set.scaleAdapter("a", 4);
    expect(set.scale("a")).toBe(2);
    const twice = await y();
    expect(twice).not.toEqual(half);
    expect(await numbers(f(ids))).toEqual(twice);
    expect(memory(getDevice()).plans).toBe(plans);
    const g = compile((x: Tensor, context: object) => set.base.forward(x, context));
    for (const k of [0.5, 2, 0]) expect(await numbers(g(ids, set.with({ a: 1, b: k }).context()))).toEqual(await numbers(set.with({ a: 1, b: k }).forward(ids)));
    expect(error(await numbers(set.with({ a: 1, b: 0 }).forward(ids)), await numbers(set.with("a").forward(ids)))).toBeLessThan(1e-6);
    set.unscaleAdapter("a", 4);
    expect(await y()).toEqual(half);
    set.unscaleAdapter("a");
    expect(set.scale("a")).toBe(1);
    expect(error(await numbers(set.with({ a: tensor([1]) }).forward(ids)), await numbers(set.get("a").forward(ids)))).toBe(0);
    expect(() => { set.setScale("a", NaN); }).toThrow(/finite/);
    expect(() => set.with({ a: tensor([1, 2]) })).toThrow(/2 elements/);
  });
  it("scales DoRA as its alpha would, also where a frozen one has its factor ready; VeRA has no scale", async () => {
    const set = await setOf(), options = { r: 2, useDora: true, targetModules: ["up"] }, d = set.add("d", { ...options, loraAlpha: 2 }), half = set.add("half", { ...options, loraAlpha: 1 });
    for (const [key, s] of d.tensors()) {
      await Promise.all([s.data(), half.tensors().get(key)?.data()]);
      const value = await (key.endsWith("vector") ? s : grid(s.shape, "f32")).host();
      for (const t of [s, half.tensors().get(key)]) t?.set(value);
    }
    set.add("frozen", d.frozen());
    for (const name of ["d", "frozen"]) {
      set.setScale(name, 0.5);
      expect(error(await numbers(set.with(name).forward(ids)), await numbers(set.with("half").forward(ids))), name).toBeLessThan(1e-6);
    }
    await set.merge("d");
    expect(error(await numbers(set.base.forward(ids)), await numbers(set.with(["d"]).forward(ids)))).toBe(0);
    await set.unmerge();
    set.add("v", { vera: {}, targetModules: ["up"] });
    expect(() => { set.setScale("v", 2); }).toThrow(/no scale/);
  });
  it("merges and takes out last in, first out, with the scales of the set; what is merged cannot be left out", async () => {
    const set = await setOf(), base = await numbers(set.base.forward(ids)), weights = await set.base.up.weight.host(), copy = { ...weights, data: weights.data.slice() };
    set.setScale("b", 0.5);
    const want = await numbers(set.with(["a", "b"]).forward(ids)), view = set.with(["a", "b"]);
    await set.merge(["a", "b"]);
    expect(set.merged).toEqual(["a", "b"]);
    expect(error(await numbers(set.base.forward(ids)), want)).toBeLessThan(2e-5);
    expect(error(await numbers(set.with(["a", "b"]).forward(ids)), want)).toBeLessThan(2e-5);
    expect(() => set.with([]).forward(ids)).toThrow(/a is merged/);
    expect(() => view.forward(ids)).toThrow(/after this view was made/);
    expect(() => set.rows(["a", "c"])).toThrow(/merged/);
    expect(() => { set.delete("a"); }).toThrow(/merged/);
    await expect(set.unmerge("a")).rejects.toThrow(/b was merged later/);
    await set.unmerge("b");
    set.rename("a", "z");
    await set.unmerge();
    expect(await set.base.up.weight.host()).toEqual(copy);
    expect(await numbers(set.base.forward(ids))).toEqual(base);
    await expect(set.unmerge("z")).rejects.toThrow(/not merged/);
  });
  it("sees merges of an adapter itself, and never lets one act twice", async () => {
    const set = await setOf(), want = await numbers(set.with("a").forward(ids)), view = set.with("b"), frozen = set.get("a").frozen();
    await set.get("a").merge();
    expect(set.merged).toEqual(["a"]);
    expect(error(await numbers(set.with("a").forward(ids)), want)).toBeLessThan(2e-5);
    expect(set.get("a").frozen()).toBe(set.get("a"));
    expect(() => view.forward(ids)).toThrow(/a is merged/);
    expect(() => frozen.forward(ids)).toThrow(/a copy of it is merged/);
    await set.unmerge();
    set.setScale("a", 2);
    await set.merge("a");
    expect(() => set.get("a").forward(ids)).toThrow(/a copy of it is merged/);
    await expect(set.get("a").merge()).rejects.toThrow(/a copy of it is merged/);
  });
  it("records compiled steps again when an adapter comes, goes or takes another's name", async () => {
    const set = await setOf(), one = compile((x: Tensor) => set.with("a").forward(x)), mixed = compile((x: Tensor, index: Tensor) => set.rows(index).forward(x)), check = async (): Promise<void> => {
      expect(await numbers(one(ids))).toEqual(await numbers(set.with("a").forward(ids)));
      expect(await numbers(mixed(ids, set.index(["c", "a"])))).toEqual(await numbers(set.rows(["c", "a"]).forward(ids)));
    };
    await check();
    set.delete("a");
    set.rename("b", "a");
    await check();
    for (const s of set.add("d", { r: 1, targetModules: ["up"] }).tensors().values()) s.set(await grid(s.shape, "f32").host());
    set.delete("c");
    set.rename("d", "c");
    await check();
  });
  it("refuses an order in which a contribution would be lost, or differ when merged", async () => {
    const set = await setOf();
    set.add("s", { r: 1, targetModules: ["up"], modulesToSave: ["c_fc"] });
    set.add("d", { r: 1, targetModules: ["up"], useDora: true });
    expect(() => set.with(["c", "s"])).toThrow(/s computes c_fc anew \(full\), and what adapter c does there would be lost/);
    await expect(set.merge(["c", "s"])).rejects.toThrow(/would be lost/);
    expect(() => set.with(["b", "d"])).toThrow(/d multiplies the rows of the weight of up, and adapter b/);
    set.with(["s", "c"]);
    const want = await numbers(set.with(["d", "b"]).forward(ids));
    await set.merge(["d", "b"]);
    expect(error(await numbers(set.base.forward(ids)), want)).toBeLessThan(2e-5);
    await set.unmerge();
    await set.merge("b");
    await set.merge("d"); // it takes the base that holds b as it is
    await set.unmerge();
    expect(() => set.rows(["a"], { among: ["a", "a"] })).toThrow(/twice/);
    expect(() => set.rows(tensor(Int32Array.of(0, 9)))).toThrow(/names adapter 9, and there are 5/);
  });
  it("merges all or none when a sum would not be finite", async () => {
    const set = await setOf(), { data } = await set.base.up.weight.host(), copy = data.slice(), [B] = [...set.get("c").tensors().values()].slice(-1);
    B.set({ dtype: "f32", shape: B.shape, data: new Float32Array(B.size).fill(NaN) });
    await expect(set.merge(["a", "c"])).rejects.toThrow(/finite/);
    expect(set.merged).toEqual([]);
    expect((await set.base.up.weight.host()).data).toEqual(copy);
  });
  it("refuses names that files or PEFT cannot have, and names what is near", async () => {
    const set = await setOf();
    for (const bad of ["", "a.b", "my_lora_x", "a", "__base__", "__proto__", "x/y"]) expect(() => set.add(bad), bad).toThrow(ConfigError);
    expect(() => set.with("aa")).toThrow(/no adapter "aa"/);
    expect(() => set.with(JSON.parse("null"))).toThrow(/no adapter is chosen/);
    expect(() => set.with("a", JSON.parse('{"trains":["a"]}'))).toThrow(/with: trains is not an option[\s\S]*train/);
    expect(() => set.rows(["a"], JSON.parse('{"amng":["a"]}'))).toThrow(/rows: amng is not an option/);
    for (const model of [set, set.with("a"), set.get("a")]) {
      expect(() => lora(model, { targetModules: ["up"] })).toThrow(/a model with adapters already/);
      expect(() => adapterSet(model)).toThrow(/a model with adapters already/);
    }
    expect(() => set.with(["a", "a"])).toThrow(/twice/);
    expect(() => set.add("d", lora(gridNet("f32"), { targetModules: ["up"] }))).toThrow(/another model/);
    expect(() => set.add("d", set.get("a"))).toThrow(/already, as a/);
    set.delete("b");
    expect(set.names).toEqual(["a", "c"]);
  });
  it("writes PEFT's layout: default at the root, others below it", async () => {
    const set = await setOf(), dir = join(scratch, "set");
    set.rename("a", "default");
    set.setScale("b", 2);
    await set.save(dir);
    expect((await readdir(dir)).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors", "b", "c"]);
    const again = await loadAdapters(set.base, dir);
    expect(again.names).toEqual(["default", "b", "c"]);
    for (const name of set.names) expect(error(await numbers(again.with(name).forward(ids)), await numbers(set.with(name).forward(ids)))).toBeLessThan(1e-6);
    const { lora_alpha: alpha, use_rslora: rs } = JSON.parse(await readFile(join(dir, "b/adapter_config.json"), "utf8")) as Record<string, unknown>;
    expect([alpha, rs]).toEqual([2 * 2 / Math.sqrt(3) * 3, false]);
    set.setScale("b", -1);
    await expect(set.save(dir)).rejects.toThrow(/scales above 0/);
    await expect(loadAdapters(set.base, join(scratch, "nothing"))).rejects.toThrow(/holds no adapter/);
  });
  it("folds the scale into B for serving", async () => {
    const set = await setOf();
    for (const name of set.names) {
      const folded = await foldScale(set.get(name));
      expect(folded.targets.targets.every((t) => t.scale === 1 && t.alpha === t.r)).toBe(true);
      expect(error(await numbers(folded.forward(ids)), await numbers(set.get(name).forward(ids)))).toBeLessThan(2e-6);
    }
  });
});

it("a language model gives each row its adapter down to an adapted head, and a view generates", async () => {
  const base = await loadModel(fixture("llama/tiny")), set = adapterSet(base);
  for (const [name, targetModules] of [["a", ["q_proj", "lm_head"]], ["b", ["up_proj", "embed_tokens", "lm_head"]]] as const) for (const s of set.add(name, { r: 2, targetModules }).tensors().values()) s.set(await grid(s.shape, "f32").host());
  const rows = [[1, 5, 3, 2], [4, 4, 1], [2, 7, 3, 3]], names = ["b", "__base__", "a"], mixed = set.rows(names), model: CausalLM = mixed, { total, count } = model.lossSum(batchOf(rows)), own = scope(() => gradients(mixed.lossSum(batchOf(rows)).total, mixed.adapter));
  const each = await Promise.all(rows.map((row, i) => set.with(names[i] === "__base__" ? [] : names[i]).lossSum(batchOf([row])).total.item()));
  expect(Math.abs((await total.item()) - each.reduce((a, b) => a + b, 0))).toBeLessThan(1e-3);
  expect(await count.item()).toBe(8);
  const alone = scope(() => gradients(set.with("a").lossSum(batchOf([rows[2]])).total, set.get("a").adapter)), flat = (tree: unknown): Map<string, Tensor> => { const { paths, leaves } = flatten(tree, isTensor); return new Map(paths.map((path, i) => [path, leaves[i]])); }, ours = flat(own);
  for (const [path, g] of flat(alone)) { const want = await numbers(g), size = Math.max(...want.map(Math.abs)); expect(error(await numbers(ours.get(`a.${path}`) ?? g.mul(NaN)), want), path).toBeLessThan(1e-4 * size); }
  expect(await generateIds(set.with("a"), [1, 5, 3], { maxNewTokens: 4, temperature: 0 })).toEqual(await generateIds(set.get("a"), [1, 5, 3], { maxNewTokens: 4, temperature: 0 }));
});

describe("against PEFT", () => {
  const g = golden<{ readonly ids: number[][]; readonly names: string[]; readonly nan: string }>("many"), tensors = goldenTensors("many"), rows = tensor(Int32Array.from(g.ids.flat()), { shape: [6, 3] });
  const theirs = (key: string): HostArray => tensors.get(key) ?? { dtype: "f32", shape: [], data: new Float32Array(0) };
  it("reads its folders; sums, a mixed batch, and scales agree", async () => {
    const set = await loadAdapters(goldenNet(), fixture("many/adapters")), check = async (y: Tensor, key: string): Promise<void> => { expect(error(await numbers(y), theirs(key).data), key).toBeLessThan(5e-6); };
    expect(set.names).toEqual(["default", "b", "c"]);
    await check(set.rows(g.names).forward(rows), "mixed");
    await check(set.rows(g.names, { form: "gathered" }).forward(rows), "mixed");
    await check(set.with(["default", "b"]).forward(rows), "both");
    set.setScale("b", 0.5);
    await check(set.with("b").forward(rows), "set_scale");
    set.scaleAdapter("b", 3);
    await check(set.with("b").forward(rows), "scale_layer");
    set.unscaleAdapter("b", 2);
    await check(set.with("b").forward(rows), "unscale_layer");
    set.unscaleAdapter("b");
    await check(set.with("b").forward(rows), "unscaled");
  });
  it("says which folder's name cannot be an adapter's, and how to load it, before anything is read", async () => {
    const set = adapterSet(goldenNet()), at = join(scratch, "versions");
    await set.load("v1", join(fixture("many/adapters"), "b"));
    await set.save(at);
    await rename(join(at, "v1"), join(at, "v1.2"));
    await expect(loadAdapters(goldenNet(), at)).rejects.toThrow(/versions\/v1\.2: an adapter cannot be called "v1\.2".*rename the folder, or .*\.load\("v1_2", ".*versions\/v1\.2"\)/s);
    await rename(join(at, "v1.2"), join(at, "v1_2"));
    expect((await loadAdapters(goldenNet(), at)).names).toEqual(["v1_2"]);
  });
  it.each(["f32", "bf16"] as const)("merges two adapters to its weights: %s", async (dtype) => {
    const set = await loadAdapters(goldenNet(dtype), fixture("many/adapters"));
    await set.merge(["default", "b"]);
    for (const path of ["embed", "up", "c_fc"] as const) {
      const mine = await numbers(set.base[path].weight), { data } = theirs(`merged/${dtype === "f32" ? "float32" : "bfloat16"}/${path}`);
      const want = dtype === "f32" ? [...data] : Array.from(new Float32Array(Uint32Array.from(data, (v) => v << 16).buffer));
      want.forEach((v, i) => { expect(Math.abs(mine[i] - v)).toBeLessThanOrEqual(dtype === "f32" ? 1e-6 : 2 ** -8 * (1 + Math.abs(v))); }); // PEFT rounds each ΔW to bf16 before it adds
    }
  });
  it("refuses the sum that its safe merge refuses", async () => {
    expect(g.nan).toMatch(/NaNs detected/);
    const set = await loadAdapters(goldenNet(), fixture("many/adapters")), B = [...set.get("b").tensors()].find(([key]) => key.includes("c_fc.lora_B"))?.[1], data = Float32Array.from((await B?.host())?.data ?? []);
    data[0] = NaN;
    B?.set({ dtype: "f32", shape: B.shape, data });
    await expect(set.merge(["default", "b"])).rejects.toThrow(/finite/);
    expect(set.merged).toEqual([]);
  });
});

describe("biases of several adapters", () => {
  it("add up beside the base; a merge, which would put one in the other's place, is refused with nothing changed", async () => {
    const model = new Rich(), set = adapterSet(model), before = await numbers(model.forward(ids));
    for (const name of ["a", "b"]) set.add(name, { targetModules: ["q_proj"], bias: "lora_only" });
    await expect(set.merge(["a", "b"])).rejects.toThrow(/adapters a and b both train the bias of q_proj/);
    expect([set.merged, await numbers(model.forward(ids))]).toEqual([[], before]);
    await set.merge("a");
    expect(set.merged).toEqual(["a"]);
  });
});
