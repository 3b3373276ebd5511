/** AdaLoRA and VeRA as plain LoRA: the same function, in memory, in files and in combinations. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Context, Linear } from "@adjoint/nn";
import { type HostArray, store, type Store, type Tensor, tensor } from "@adjoint/tensor";
import { fixture, goldenTensors } from "@adjoint/testing/fixtures";
import { adapterSet, combine, loadLora, lora, type LoraOptions, plainLora, type Tuned } from "../src/index.ts";
import { grid, gridNet, type Net, restart } from "./net.ts";

let scratch = "";
beforeAll(async () => { scratch = await mkdtemp(join(tmpdir(), "adjoint-plain-")); });
afterAll(() => rm(scratch, { recursive: true, force: true }));

const ids = tensor(Int32Array.from([0, 3, 1, 4, 2, 3]), { shape: [2, 3] });
const numbers = async (t: Tensor): Promise<number[]> => [...(await t.data())];
const error = (a: ArrayLike<number>, b: ArrayLike<number>): number => (a.length === b.length ? Math.max(0, ...Array.from(b, (v, i) => Math.abs(a[i] - v) / (1 + Math.abs(v)))) : Infinity);
const put = (s: Store, f: (i: number) => number): void => { s.set({ dtype: "f32", shape: s.shape, data: Float32Array.from({ length: s.size }, (_, i) => f(i)) }); };

/** Numbers on the grid; `left`: triplets that AdaLoRA has not given up, module by module. */
async function filled(tuned: Tuned<Net>, left: readonly (readonly boolean[])[] = []): Promise<Tuned<Net>> {
  for (const s of tuned.tensors().values()) s.set(await grid(s.shape, "f32").host());
  const E = tuned.attachments.flatMap((a) => ("E" in a.factors ? [a.factors["E"]] : []));
  E.forEach((s, n) => { put(s, (i) => (left[n]?.[i] === false ? 0 : (i + 2) / 4)); });
  return tuned;
}
const kinds: Readonly<Record<string, LoraOptions>> = {
  adalora: { loraAlpha: 4, adalora: { initR: 3, targetR: 2, scaling: 0.5 } },
  "adalora, ranknum": { loraAlpha: 4, adalora: { initR: 3, targetR: 2 } },
  "adalora with biases": { adalora: { initR: 3, targetR: 2, scaling: "sqrt" }, bias: "lora_only" },
  vera: { r: 4, vera: {} },
  "vera with biases and a copy": { r: 2, vera: { projectionPrngKey: 5 }, bias: "all", modulesToSave: ["embed"] },
};
const modules = ["up", "c_fc"];

describe("AdaLoRA and VeRA as plain LoRA", () => {
  it.each(Object.entries(kinds))("is the same function, in memory and through files: %s", async (name, options) => {
    let n = 0;
    const model = ((): Net => { restart(5); return gridNet("f32"); })(), triplets = fc.array(fc.boolean(), { minLength: 3, maxLength: 3 });
    await fc.assert(fc.asyncProperty(triplets, triplets, async (first, second) => {
      const left = [first, second], tuned = await filled(lora(model, { targetModules: modules, ...options }), left), plain = await plainLora(tuned), y = await numbers(tuned.forward(ids));
      expect(y).not.toEqual(await numbers(model.forward(ids)));
      expect(error(await numbers(plain.forward(ids)), y)).toBeLessThan(2e-6);
      expect(plain.targets.targets.map((t) => [t.path, t.scale])).toEqual(modules.map((path) => [path, 1]));
      expect(plain.targets.targets.map((t) => t.r)).toEqual(name.startsWith("vera") ? modules.map(() => options.r) : left.map((mask) => Math.max(1, mask.filter(Boolean).length)));
      expect(plain.loraConfig).toMatchObject({ adalora: null, vera: null, bias: options.bias ?? "none" });
      expect(new Set(plain.attachments.map((a) => a.method.name))).toEqual(new Set(tuned.attachments.map((a) => (["adalora", "vera"].includes(a.method.name) ? "lora" : a.method.name))));
      if (n++ > 0) return;
      const dir = join(scratch, name.replaceAll(/\W/g, "-"));
      await plain.save(dir);
      expect(JSON.parse(await readFile(join(dir, "adapter_config.json"), "utf8"))).toMatchObject({ peft_type: "LORA", use_rslora: false });
      const { tuned: again, report } = await loadLora(model, dir);
      expect(report).toMatchObject({ missing: [], unexpected: [], mismatched: [] });
      expect(await numbers(again.forward(ids))).toEqual(await numbers(plain.forward(ids)));
    }), { numRuns: 3 });
  });

  it("combine with LoRA, with their scales, where ranks may differ", async () => {
    restart(8);
    const set = adapterSet(gridNet("f32"));
    await filled(set.add("a", { targetModules: modules, ...kinds["adalora, ranknum"] }), [[true, false, true], [false, false, false]]);
    await filled(set.add("v", { targetModules: ["up"], r: 3, vera: {} }));
    await filled(set.add("l", { targetModules: ["embed", "c_fc"], r: 2 }));
    set.setScale("a", 0.5);
    const want = await numbers(set.with(["a", "v", "l"]).forward(ids));
    expect(error(await numbers((await set.combine("cat", { a: 1, v: 1, l: 1 }, { combinationType: "cat" })).forward(ids)), want)).toBeLessThan(4e-6);
    expect(set.get("cat").targets.targets.map((t) => [t.path, t.r])).toEqual([["embed", 2], ["up", 5], ["c_fc", 3]]);
    expect(error(await numbers((await set.combine("svd", { a: 1, v: 1, l: 1 }, { svdRank: 5 })).forward(ids)), want)).toBeLessThan(1e-5);
    const one = await combine(set.base, [{ name: "v", adapter: set.get("v"), weight: -0.5 }], { combinationType: "linear" }), up = set.base.up, x = grid([3, 4], "f32"), of = (t: Tuned<Net>): Promise<number[]> => numbers(up.forward(x, t.context()));
    const [base, minus, whole] = [await numbers(up.forward(x)), await of(one), await of(set.get("v"))];
    expect(error(minus, base.map((b, i) => b - 0.5 * (whole[i] - b)))).toBeLessThan(4e-6);
    await expect(set.combine("no", { a: 1, l: 1 }, { combinationType: "cat", compat: "peft" })).rejects.toThrow(/a is adalora, and PEFT combines LoRA alone[\s\S]*plainLora/);
    await expect(combine(set.base, [{ name: "a", adapter: await plainLora(set.get("a")), weight: 1 }, { name: "l", adapter: set.get("l"), weight: 1 }], { combinationType: "cat", compat: "peft" })).resolves.toBeDefined();
    // in a mixed batch beside the others
    await set.add("plain", await plainLora(set.get("v"))).snapshot();
    expect(error(await numbers(set.rows(["plain", "a"]).forward(ids)), await numbers(set.rows(["v", "a"]).forward(ids)))).toBeLessThan(4e-6);
  });

  it("of PEFT's own files: ranks given up, one module's whole", async () => {
    for (const name of ["adalora", "vera"] as const) {
      const tensors = goldenTensors(name), of = (key: string): HostArray => { const a = tensors.get(key); if (a === undefined) throw new Error(key); return a; }, layer = (key: string): Linear => new Linear(store(of(`base/${key}.weight`), key));
      const [a, b, c] = ["a", "b", "c"].map(layer), model = { a, b, c, forward: (x: Tensor, context: Context = {}): Tensor => c.forward(b.forward(a.forward(x, context).tanh(), context).tanh(), context) }, x = tensor(of("x").data, { shape: of("x").shape });
      const { tuned } = await loadLora(model, fixture(`${name}/adapter`)), plain = await plainLora(tuned);
      expect(error(await numbers(plain.forward(x)), of(name === "adalora" ? "y_end" : "y").data)).toBeLessThan(5e-6);
      if (name === "adalora") expect(plain.targets.targets.map((t) => t.r)).toEqual([1, 1, 2]);
    }
  });
});
