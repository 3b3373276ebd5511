import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { Linear } from "@adjoint/nn";
import { clearPlans, flatten, getDevice, planOf, setDevice, type Store, Tensor, tensor } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";
import { adapterSet, flora, floraAdapter, loadAdapters, loadFlora, loadLora } from "../src/index.ts";
import { grid, gridNet, type Net, restart } from "./net.ts";

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;
const numbers = async (t: Tensor | null): Promise<number[]> => (t === null ? [] : [...(await t.data())]);
const error = (a: ArrayLike<number>, b: ArrayLike<number>): number => (a.length === b.length ? Math.max(0, ...Array.from(b, (v, i) => Math.abs(a[i] - v))) : Infinity);
const ids = (batch: number): Tensor => tensor(Int32Array.from({ length: batch * 2 }, (_, i) => (i * 3 + 1) % 5), { shape: [batch, 2] });
const both = { targetModules: ["up", "c_fc"] };

let scratch = "";
const before = getDevice();
beforeAll(async () => { scratch = await mkdtemp(join(tmpdir(), "adjoint-flora-")); });
afterAll(async () => { clearPlans(); setDevice(before); await rm(scratch, { recursive: true, force: true }); });

const fill = async (stores: Iterable<Store>): Promise<void> => { for (const s of stores) s.set(await grid(s.shape, s.dtype).host()); };
const size = fc.constantFrom(1, 2, 3, 5);

describe("FLoRA", () => {
  it("has the closed-form gradients: da = Σ g ∘ (W (b ∘ x)) / r, db = Σ x ∘ ((g ∘ a) W) / r, dx = mean b ∘ ((g ∘ a) W)", async () => {
    await fc.assert(fc.asyncProperty(size, size, size, size, fc.integer({ min: 1, max: 99 }), async (n, inputs, outputs, r, seed) => {
      restart(seed);
      const W = grid([outputs, inputs], "f64"), x = grid([n, inputs], "f64"), g = grid([n, outputs], "f64"), a = grid([r, outputs], "f64"), b = grid([r, inputs], "f64");
      const site = { path: "m", kind: "linear", r, alpha: r, scale: 1, parameters: 0, matchedBy: "m", inFeatures: inputs, outFeatures: outputs } as const, frozen = { weight: W };
      const y = flora.forward({ a, b }, site, { x, y: x.matmul(W.T), module: {}, frozen, key: null, dropout: 0 }), d = gradients(y.mul(g).sum(), { a, b, x });
      const rows = (t: Tensor): Tensor[] => Array.from({ length: r }, (_, j) => t.slice(0, j, j + 1)), A = rows(a), B = rows(b);
      const each = (f: (j: number) => Tensor): Promise<number[][]> => Promise.all(A.map((_, j) => numbers(f(j))));
      const da = (await each((j) => g.mul(x.mul(B[j]).matmul(W.T)).sum([0]).mul(1 / r))).flat(), db = (await each((j) => x.mul(g.mul(A[j]).matmul(W)).sum([0]).mul(1 / r))).flat();
      const dx = await numbers(A.map((_, j) => B[j].mul(g.mul(A[j]).matmul(W)).mul(1 / r)).reduce((p, q) => p.add(q)));
      expect(error(await numbers(d.a), da)).toBeLessThan(1e-12);
      expect(error(await numbers(d.b), db)).toBeLessThan(1e-12);
      expect(error(await numbers(d.x), dx)).toBeLessThan(1e-12);
      expect(error(await numbers(x.matmul(flora.merged({ a, b }, site, frozen)["weight"].T)), await numbers(y))).toBeLessThan(1e-12);
    }), { numRuns: 5 });
  });
  it("starts as the identity, at rank 1 bit for bit; above, components differ and so learn different things", async () => {
    restart(3);
    const net = gridNet("f32"), base = await numbers(net.forward(ids(2)));
    expect(await numbers(floraAdapter(net, { r: 1, ...both }).forward(ids(2)))).toEqual(base);
    for (const r of [2, 3]) {
      const tuned = floraAdapter(net, { r, ...both }), grads = flatten(gradients(tuned.forward(ids(2)).square().sum(), tuned.adapter), isTensor);
      expect(error(await numbers(tuned.forward(ids(2))), base)).toBeLessThan(2e-6);
      const da = await numbers(grads.leaves[grads.paths.findIndex((p) => p.endsWith("flora_a"))]), n = da.length / r;
      expect(da.slice(0, n)).not.toEqual(da.slice(n, 2 * n));
    }
  });
  it("gives each example its own adapter in one batch, as each alone; ranks may differ, and LoRA may stand beside it (wasm)", async () => {
    setDevice(await wasm({ threads: 1 }));
    try {
      restart(8);
      const set = adapterSet<Net>(gridNet("f32")), names = ["p", "__base__", "q", "p", "l"];
      set.add("p", floraAdapter(set.base, { r: 1, ...both }));
      set.add("q", floraAdapter(set.base, { r: 3, targetModules: ["up"] }));
      set.add("l", { r: 2, ...both });
      for (const name of set.names) await fill(set.get(name).tensors().values());
      const view = set.rows(names), y = view.forward(ids(5)), d = flatten(gradients(y.square().sum(), view.adapter), isTensor), ours = await numbers(y), n = ours.length / 5;
      for (const name of new Set(names)) {
        const alone = set.with(name === "__base__" ? [] : name), z = alone.forward(ids(5)), mask = tensor(Float32Array.from(names, (other) => Number(other === name)), { shape: [5, 1, 1] });
        const e = name === "__base__" ? null : flatten(gradients(z.square().mul(mask).sum(), alone.adapter), isTensor), theirs = await numbers(z);
        names.forEach((other, row) => { if (other === name) expect(error(ours.slice(row * n, row * n + n), theirs.slice(row * n, row * n + n))).toBeLessThan(2e-5); });
        for (const [i, path] of e?.paths.entries() ?? []) expect(error(await numbers(d.leaves[d.paths.indexOf(`${name}.${path}`)]), await numbers(e?.leaves[i] ?? null)), path).toBeLessThan(2e-3);
      }
      expect(() => set.with(["l", "p"])).toThrow(/name p first/);
      set.with(["p", "l"]).forward(ids(1));
      expect(() => { set.setScale("p", 2); }).toThrow(/no scale/);
    } finally { setDevice(before); }
  });
  it("never forms W ∘ a bᵀ nor a gradient of W, alone and in a mixed batch", () => {
    const [n, T, inputs, outputs] = [2, 3, 37, 29], net = { up: new Linear(grid([outputs, inputs], "f32")) }, set = adapterSet(net), x = grid([n, T, inputs], "f32");
    for (const [name, r] of [["a", 1], ["b", 2]] as const) set.add(name, floraAdapter(net, { r, targetModules: ["up"] }));
    for (const view of [set.with("b"), set.rows(["a", "b"])]) {
      const y = net.up.forward(x, view.context()), { spec } = planOf([y, ...flatten(gradients(y.square().sum(), { x, adapter: view.adapter }), isTensor).leaves]);
      for (const b of spec.buffers) if (b.kind === "slot" || b.kind === "output") expect(b.length).not.toBe(inputs * outputs);
    }
  });
  it("merges to the same function and comes out bit for bit", async () => {
    restart(6);
    const net = gridNet("f32"), tuned = floraAdapter(net, { r: 2, ...both });
    await fill(tuned.tensors().values());
    const y = await numbers(tuned.forward(ids(2))), weight = (await net.c_fc.weight.data()).slice();
    await tuned.merge();
    expect(error(await numbers(net.forward(ids(2))), y)).toBeLessThan(1e-5);
    await tuned.unmerge();
    expect(await net.c_fc.weight.data()).toEqual(weight);
  });
  it("has files of its own, which LoRA's reader refuses by name", async () => {
    restart(2);
    const net = gridNet("f32"), tuned = floraAdapter(net, { r: 2, ...both, rankPattern: { c_fc: 1 } }), set = adapterSet(net), dir = join(scratch, "f"), y = async (t: { forward(x: Tensor): Tensor }): Promise<number[]> => numbers(t.forward(ids(1)));
    await fill(tuned.tensors().values());
    expect(tuned.summary()).toMatch(/^FLoRA: 2 of 2 linear layers/);
    expect([...tuned.tensors().keys()]).toContain("base_model.model.up.flora_a");
    set.add("one", tuned);
    await set.save(dir);
    expect(await y(await loadFlora(net, `${dir}/one`))).toEqual(await y(tuned));
    expect(await y((await loadAdapters(net, dir)).with("one"))).toEqual(await y(tuned));
    await expect(loadLora(net, `${dir}/one`)).rejects.toThrow(/FLORA/);
    await expect(loadFlora({ up: new Linear(grid([3, 3], "f32")), c_fc: net.c_fc }, `${dir}/one`)).rejects.toThrow(/flora_a has shape/);
    expect(() => tuned.fileConfig()).toThrow(/PEFT has no FLoRA/);
    expect(() => floraAdapter(net, JSON.parse('{"loraAlpha":2}') as object)).toThrow(/loraAlpha is not an option of FLoRA/);
    expect(() => floraAdapter(net, { targetModules: ["embed"] })).toThrow(/of kind embedding/);
  });
});
