import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Context, Conv2d } from "@adjoint/nn";
import { type Tensor, tensor } from "@adjoint/tensor";
import { fixture, golden, goldenTensors } from "@adjoint/testing/fixtures";
import { adapterSet, type AdapterSet, combine, type CombineOptions, createLora, electedMean, keepLargest, keepRandom, loadAdapters, loadLora, lora, type Tuned, weightedSum } from "../src/index.ts";
import { goldenNet, grid, gridNet, type Net, restart } from "./net.ts";

let scratch = "";
beforeAll(async () => { scratch = await mkdtemp(join(tmpdir(), "adjoint-combine-")); });
afterAll(() => rm(scratch, { recursive: true, force: true }));

interface Delta { readonly r: number; readonly A: readonly number[]; readonly B: readonly number[]; readonly delta: readonly number[] }
const product = (A: ArrayLike<number>, B: ArrayLike<number>, r: number, s: number): number[] => {
  const inputs = A.length / r, outputs = B.length / r;
  return Array.from({ length: inputs * outputs }, (_, k) => { let sum = 0; for (let j = 0; j < r; j++) sum += B[Math.floor(k / inputs) * r + j] * A[j * inputs + (k % inputs)]; return s * sum; });
};
/** s B A of each module, (out, in), in f64. */
async function deltas(tuned: Tuned<Net>): Promise<Map<string, Delta>> {
  const out = new Map<string, Delta>();
  for (const { site, factors } of tuned.attachments) {
    const A = [...(await factors["A"].data())], B = [...(await factors["B"].data())], [r] = factors["A"].shape;
    out.set(site.path, { r, A, B, delta: product(A, B, r, site.scale) });
  }
  return out;
}
const error = (a: ArrayLike<number>, b: ArrayLike<number>): number => (a.length === b.length ? Math.max(0, ...Array.from(b, (v, i) => Math.abs(a[i] - v))) : Infinity);

describe("combinations with compat: peft", () => {
  interface Case { readonly name: string; readonly weights: Record<string, number>; readonly options: Readonly<Record<string, string | number>>; readonly scales: Record<string, number> }
  const g = golden<{ readonly seed: number; readonly cases: readonly Case[] }>("many"), tensors = goldenTensors("many");
  it.each(g.cases.map((c) => [c.name, c] as const))("have the numbers of add_weighted_adapter: %s", async (_, { name, weights, options, scales }) => {
    const set = await loadAdapters(goldenNet(), fixture("many/adapters")), camel = Object.fromEntries(Object.entries(options).map(([key, value]) => [key.replaceAll(/_([a-z])/g, (_match, c: string) => c.toUpperCase()), value]));
    const found = await deltas(await set.combine("new", weights, { ...(camel as CombineOptions), seed: g.seed, compat: "peft" }));
    expect([...found.keys()].sort()).toEqual(Object.keys(scales).sort());
    for (const { site } of set.get("new").attachments) expect(site.scale).toBeCloseTo(scales[site.path], 12);
    for (const [path, { r, A, B, delta }] of found) {
      const theirs = (role: string): ArrayLike<number> => tensors.get(`${name}/${path}.${role}`)?.data ?? [];
      expect(error(delta, product(theirs("A"), theirs("B"), theirs("A").length * r / A.length, scales[path])), path).toBeLessThan(3e-6);
      if (String(options["combination_type"]).endsWith("svd")) continue;
      expect(error(A, theirs("A")), `${path}.A`).toBeLessThan(1e-6);
      expect(error(B, theirs("B")), `${path}.B`).toBeLessThan(1e-6);
    }
  });
});

/** Adapters of different ranks, scales and modules, with numbers on the grid. */
async function setOf(): Promise<AdapterSet<Net>> {
  restart(9);
  const set = adapterSet(gridNet("f32"));
  set.add("a", { r: 2, loraAlpha: 4, targetModules: ["embed", "up", "c_fc"], rankPattern: { c_fc: 1 } });
  set.add("b", { r: 4, loraAlpha: 1, useRslora: true, targetModules: ["up"] });
  set.add("c", { r: 1, loraAlpha: 2, targetModules: "(up|c_fc)" });
  for (const name of set.names) for (const s of set.get(name).tensors().values()) s.set(await grid(s.shape, "f32").host());
  return set;
}
const weight = fc.integer({ min: -8, max: 8 }).map((k) => k / 4);
const some = fc.record({ a: weight, b: weight, c: weight }, { requiredKeys: ["a"] });

describe("combinations", () => {
  it("cat is the sum, exactly; svd of its rank is the sum to rounding; both are plain LoRA of scale 1 that PEFT's files hold", async () => {
    const set = await setOf(), ids = tensor(Int32Array.from([0, 3, 1, 4, 2, 3]), { shape: [2, 3] });
    const each = new Map(await Promise.all(set.names.map(async (name) => [name, await deltas(set.get(name))] as const)));
    let n = 0;
    await fc.assert(fc.asyncProperty(some, async (weights) => {
      const parts = Object.entries(weights).map(([name, w]) => ({ name, adapter: set.get(name), weight: w }));
      for (const combinationType of ["cat", "svd"] as const) {
        const tuned = await combine(set.base, parts, combinationType === "cat" ? { combinationType } : { svdRank: 7 }), found = await deltas(tuned);
        expect([...found.keys()].sort()).toEqual([...new Set(parts.flatMap(({ name }) => [...(each.get(name)?.keys() ?? [])]))].sort());
        for (const [path, { delta, r }] of found) {
          const here = parts.flatMap(({ name, weight: w }) => { const d = each.get(name)?.get(path); return d === undefined ? [] : [{ w, d }]; });
          const sum = delta.map((_, i) => here.reduce((s, { w, d }) => s + w * d.delta[i], 0));
          expect(error(delta, sum), path).toBeLessThanOrEqual(combinationType === "cat" ? 0 : 2e-5);
          if (combinationType === "cat") expect(r).toBe(here.reduce((s, { d }) => s + d.r, 0));
        }
        expect(tuned.targets.targets.every((t) => t.scale === 1 && t.alpha === t.r)).toBe(true);
        expect(tuned.loraConfig.useRslora).toBe(false);
        if (n > 3) continue;
        const dir = join(scratch, String(n++));
        await tuned.save(dir);
        const { tuned: again, report } = await loadLora(set.base, dir);
        expect(report).toMatchObject({ missing: [], unexpected: [], warnings: [] });
        expect([...(await again.forward(ids).data())]).toEqual([...(await tuned.forward(ids).data())]);
      }
    }), { numRuns: 8 });
  });
  it("svd of thin factors is that of the whole update, and the best of its rank", async () => {
    restart(4);
    const set = adapterSet(gridNet("f32"));
    for (const name of ["p", "q"]) for (const s of set.add(name, { r: 1, targetModules: ["up"] }).tensors().values()) s.set(await grid(s.shape, "f32").host());
    const thin = await deltas(await set.combine("thin", { p: 1, q: 0.5 }, { svdRank: 1 })), whole = await deltas(await set.combine("whole", { p: 1, q: 0.5 }, { combinationType: "magnitude_prune_svd", density: 1, svdRank: 1 })), full = await deltas(await set.combine("full", { p: 1, q: 0.5 }, { combinationType: "cat" }));
    expect(error(thin.get("up")?.delta ?? [], whole.get("up")?.delta ?? [])).toBeLessThan(1e-5);
    const norm = (x: readonly number[]): number => Math.hypot(...x), d = full.get("up")?.delta ?? [], best = thin.get("up")?.delta ?? [];
    for (const name of ["p", "q"]) { const one = (await deltas(set.get(name))).get("up")?.delta ?? []; expect(norm(d.map((v, i) => v - best[i]))).toBeLessThan(norm(d.map((v, i) => v - one[i] * (name === "p" ? 1 : 0.5)))); }
  });
  it("linear of one adapter is the adapter times its weight, of either sign", async () => {
    const set = await setOf();
    await fc.assert(fc.asyncProperty(fc.constantFrom("a", "b", "c"), weight, async (name, w) => {
      const mine = await deltas(await combine(set.base, [{ name, adapter: set.get(name), weight: w }], { combinationType: "linear" })), one = await deltas(set.get(name));
      for (const [path, { delta }] of one) expect(error(mine.get(path)?.delta ?? [], delta.map((v) => v * w))).toBeLessThan(1e-5);
    }), { numRuns: 8 });
  });
  it("takes the set's scale of an adapter with it", async () => {
    const set = await setOf();
    set.setScale("b", 0.5);
    const half = await deltas(await set.combine("half", { a: 1, b: 1 }, { combinationType: "cat" })), same = await deltas(await combine(set.base, [{ name: "a", adapter: set.get("a"), weight: 1 }, { name: "b", adapter: set.get("b"), weight: 0.5 }], { combinationType: "cat" }));
    expect(half).toEqual(same);
  });
  it("reads kernels of convolutions as rows, and takes in what PiSSA took out of the base", async () => {
    restart(12);
    const net = { conv: new Conv2d(grid([4, 2, 2, 2], "f32")), forward(x: Tensor, context: Context = {}): Tensor { return this.conv.forward(x, context); } }, set = adapterSet(net), x = grid([1, 2, 3, 3], "f32"), y = async (t: { forward(x: Tensor): Tensor }, input: Tensor): Promise<number[]> => [...(await t.forward(input).data())];
    for (const name of ["p", "q"]) for (const s of set.add(name, { r: name === "p" ? 1 : 2, targetModules: ["conv"] }).tensors().values()) s.set(await grid(s.shape, "f32").host());
    for (const combinationType of ["cat", "svd"] as const) expect(error(await y(await set.combine(combinationType, { p: 1, q: 1 }, combinationType === "svd" ? { svdRank: 3 } : { combinationType }), x), await y(set.with(["p", "q"]), x))).toBeLessThan(1e-4);
    const base = gridNet("f32"), ids = tensor(Int32Array.from([0, 3]), { shape: [1, 2] }), pissa = await createLora(base, { r: 2, initLoraWeights: "pissa", targetModules: ["up"] });
    for (const s of pissa.tensors().values()) s.set(await grid(s.shape, "f32").host());
    const plain = await combine(base, [{ name: "p", adapter: pissa, weight: 1 }], { combinationType: "cat" });
    expect(plain.targets.targets[0].r).toBe(4);
    expect(error(await y(plain, ids), await y(pissa, ids))).toBeLessThan(1e-5);
    await expect(combine(base, [{ name: "p", adapter: pissa, weight: 1 }], { compat: "peft" })).rejects.toThrow(/converted file/);
  });
  it("limits factors by their magnitudes, whatever signs the decomposition has", async () => {
    const set = await setOf(), { A = [], B = [] } = (await deltas(await set.combine("new", { a: 1, b: 1 }, { svdRank: 2, svdClamp: 0.75 }))).get("up") ?? {}, all = [...A, ...B].map(Math.abs), top = Math.max(...all);
    expect(all.filter((v) => v === top).length).toBeGreaterThanOrEqual(Math.floor(all.length / 4));
  });
  it("says by name what it cannot do", async () => {
    const set = await setOf(), other = lora(gridNet("f32"), { targetModules: ["up"] }), dora = lora(set.base, { useDora: true, targetModules: ["up"] }), of = (weights: Record<string, number>, o: CombineOptions): Promise<unknown> => set.combine("new", weights, o);
    await expect(of({}, {})).rejects.toThrow(/no adapters/);
    await expect(of({ a: NaN }, {})).rejects.toThrow(/weight of a is NaN/);
    await expect(of({ z: 1 }, {})).rejects.toThrow(/no adapter "z"/);
    await expect(of({ a: 1, b: 1 }, { combinationType: "linear" })).rejects.toThrow(/ranks 2 and 4 at up differ.*use cat or svd/s);
    await expect(of({ a: 1, b: 1 }, { combinationType: "ties" })).rejects.toThrow(/density = undefined/);
    await expect(of({ a: 1 }, { combinationType: "dare_ties", density: 0 })).rejects.toThrow(/divide by 0/);
    await expect(of({ a: 1 }, { combinationType: "ties", density: 1.5 })).rejects.toThrow(/density = 1.5/);
    await expect(of({ a: 1 }, { combinationType: "cat", svdRank: 2 })).rejects.toThrow(/svdRank does nothing with cat/);
    await expect(of({ a: 1 }, { density: 0.5 })).rejects.toThrow(/density does nothing with svd/);
    await expect(of({ a: 1 }, { svdClamp: 2 })).rejects.toThrow(/svdClamp = 2/);
    await expect(of({ a: 1 }, JSON.parse('{"combinationType":"tie"}') as CombineOptions)).rejects.toThrow(/"tie" is none[\s\S]*ties/);
    await expect(of({ a: 1 }, JSON.parse('{"svd_rank":2}') as CombineOptions)).rejects.toThrow(/svd_rank is not an option/);
    await expect(of({ a: 1, c: 1 }, { combinationType: "cat", compat: "peft" })).rejects.toThrow(/an expression in some adapters/);
    await expect(combine(set.base, [{ name: "x", adapter: other, weight: 1 }] as never)).rejects.toThrow(/another model/);
    await expect(combine(set.base, [{ name: "x", adapter: dora, weight: 1 }])).rejects.toThrow(/x has dora on up/);
    const [A] = set.get("a").tensors().values();
    A.set({ dtype: "f32", shape: A.shape, data: new Float32Array(A.size).fill(NaN) });
    await expect(of({ a: 1, b: 1 }, { combinationType: "ties_svd", density: 0.5 })).rejects.toThrow(/a holds NaN at/);
  });
});

describe("what combinations are made of", () => {
  const list = fc.array(fc.integer({ min: -16, max: 16 }).map((k) => k / 16), { minLength: 1, maxLength: 12 }).map((x) => Float64Array.from(x));
  it("keeps the largest, as many as asked, and nothing else changes", () => {
    fc.assert(fc.property(list, fc.integer({ min: 0, max: 8 }), (x, k) => {
      const y = keepLargest(x, k / 8), kept = [...y].filter((v) => v !== 0).length, dropped = [...x].filter((v, i) => v !== 0 && y[i] === 0).map(Math.abs);
      expect(kept).toBe(Math.min(Math.floor((k / 8) * x.length), [...x].filter((v) => v !== 0).length));
      y.forEach((v, i) => { expect(v === 0 || v === x[i]).toBe(true); });
      if (kept > 0 && dropped.length > 0) expect(Math.min(...[...y].filter((v) => v !== 0).map(Math.abs))).toBeGreaterThanOrEqual(Math.max(...dropped));
    }));
  });
  it("keeps at random what the seed says, with the same mean", () => {
    const x = new Float64Array(4000).fill(1), y = keepRandom(x, 0.25, 3, "s");
    expect(keepRandom(x, 0.25, 3, "s")).toEqual(y);
    expect(keepRandom(x, 0.25, 4, "s")).not.toEqual(y);
    expect(new Set(y)).toEqual(new Set([0, 4]));
    expect(Math.abs(y.reduce((a, b) => a + b) / 4000 - 1)).toBeLessThan(0.1);
  });
  it("elects signs of weighted terms: taking away with a negative weight is adding the negated numbers", () => {
    fc.assert(fc.property(list, list, fc.constantFrom("total", "frequency"), (p, q, rule) => {
      const n = Math.min(p.length, q.length), x = p.slice(0, n), y = q.slice(0, n), mean = electedMean([x, y], [1, -0.5], rule, false);
      expect(mean).toEqual(electedMean([x, y.map((v) => -v)], [1, 0.5], rule, false));
      const both = weightedSum([x, y], [1, -0.5]);
      mean.forEach((v, i) => { if (Math.sign(x[i]) === -Math.sign(y[i]) && x[i] !== 0) expect(v).toBe(both[i] / 2); });
    }));
  });
});
