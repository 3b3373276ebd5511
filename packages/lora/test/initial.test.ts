/** Initialisations that look at the model: what each promises, whatever the numbers. */
import { gradients } from "@adjoint/autograd";
import type { Context } from "@adjoint/nn";
import { Conv1D, Embedding, Linear } from "@adjoint/nn";
import { dequantize, quantize, quantizedOf, quantizedWeight } from "@adjoint/quant";
import { type Backend, clearPlans, getDevice, type HostArray, hostNormal, hostOf, type Matrix, matrixOf, product, scalar, setDevice, store, svd, type Tensor, tensor } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";
import fc from "fast-check";
import { copyFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { adapterSet, createLora, type CreateLoraOptions, type InitialData, initialisations, loadAdapters, loadLora, loftq, lora, type LoraOptions, loraConfig, plainLora, readAdapterDirectory, readLoraConfig, type Site, type Tuned, writeLoraConfig } from "../src/index.ts";
import { IncrementalPCA } from "../src/initial/pca.ts";
import { dense } from "../src/methods/low-rank.ts";
import { originOn } from "../src/methods/origin.ts";

const normal = (name: string, shape: readonly number[], std = 0.5, seed = 1): HostArray => hostNormal(seed, name, shape, { std });

/** down(tanh(up x) * gate x) + x, where gate stores its weight (in, out). */
class Net {
  readonly up: Linear;
  readonly gate: Conv1D;
  readonly down: Linear;
  constructor(width = 8, inner = 12, seed = 1) {
    this.up = new Linear(store(normal("up", [inner, width], 0.5, seed)), store(normal("bias", [inner], 0.5, seed)));
    this.gate = new Conv1D(store(normal("gate", [width, inner], 0.5, seed)), store(normal("gate bias", [inner], 0.5, seed)));
    this.down = new Linear(store(normal("down", [width, inner], 0.5, seed)));
  }
  forward(x: Tensor, context: Context = {}): Tensor {
    return this.down.forward(this.up.forward(x, context).tanh().mul(this.gate.forward(x, context)), context).add(x);
  }
  loss(x: Tensor, context: Context = {}): Tensor {
    return this.forward(x, context).square().mean();
  }
}
const all = ["up", "gate", "down"] as const;
const inputs = (n: number, width = 8, seed = 5): Tensor => tensor(normal("x", [n, width], 1, seed).data, { shape: [n, width] });

const data: InitialData<Tensor> = {
  batches: [inputs(40, 8, 1), inputs(40, 8, 2)],
  gradients: async (weights) => {
    throw new Error(`nobody gave gradients of ${[...weights.keys()].join()}`);
  },
};
/** Gradients of the mean loss of a net, as a caller takes them. */
const gradientsOf = (net: Net): InitialData<Tensor>["gradients"] => async (weights) => {
  const names = [...weights.keys()], g = gradients(net.loss(inputs(16)), names.map((name) => weights.get(name) ?? tensor([0])));
  return new Map(await Promise.all(names.map(async (name, i) => [name, await (g[i] ?? tensor([0])).host()] as const)));
};
const make = (net: Net, options: CreateLoraOptions, more: InitialData<Tensor> = {}): Promise<Tuned<Net>> => createLora(net, { r: 2, loraAlpha: 6, targetModules: all, ...options }, { ...data, gradients: gradientsOf(net), ...more });

const origins = ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga"] as const, zeros = ["orthogonal", "eva", "mica"] as const;
const numbers = async (t: Tensor): Promise<number[]> => Array.from(await t.data());
const most = (v: readonly number[]): number => Math.max(...v.map(Math.abs));
const worst = (a: readonly number[], b: readonly number[]): number => most(a.map((x, i) => x - b[i])) / most(b);
const norm = (m: Matrix): number => Math.hypot(...m.data);
const minus = (a: Matrix, b: Matrix): Matrix => ({ ...a, data: a.data.map((x, i) => x - b.data[i]) });
/** s B A of one module, from its stores. */
async function deltaOf(tuned: Tuned<Net>, path: string): Promise<{ A: Matrix; B: Matrix; delta: Matrix; scale: number }> {
  const a = tuned.attachments.find(({ site }) => site.path === path);
  if (a === undefined) throw new Error(path);
  const A = matrixOf(await a.factors["A"].host()), B = matrixOf(await (a.factors["B"] ?? a.beside?.["B"]).host()), BA = product(B, A);
  return { A, B, scale: a.site.scale, delta: { ...BA, data: BA.data.map((x) => x * a.site.scale) } };
}

const before = getDevice();
const devices: Record<string, () => Promise<Backend>> = { reference: async () => before, wasm: async () => wasm({ threads: 1 }) };
afterAll(() => { clearPlans(); setDevice(before); });

describe.each(Object.keys(devices))("the model at the start, on %s", (device) => {
  afterAll(() => { setDevice(before); });
  it.each([...origins, ...zeros])("computes what the base computes: %s", async (initLoraWeights) => {
    setDevice(await devices[device]());
    const net = new Net(), tuned = await make(net, { initLoraWeights }), x = inputs(5), y = await numbers(net.forward(x)), ours = await numbers(tuned.forward(x));
    if (initLoraWeights === "orthogonal") expect(worst(ours, y)).toBeLessThan(1e-6);
    else expect(ours).toEqual(y);
    const untouched = new Net();
    for (const path of all) expect(await numbers(net[path].weight)).toEqual(await numbers(untouched[path].weight));
    const { A, B } = await deltaOf(tuned, "up");
    expect(norm(A)).toBeGreaterThan(initLoraWeights === "mica" ? -1 : 0.01);
    expect(norm(B)).toBeGreaterThan(initLoraWeights === "eva" ? -1 : 0.01);
  });
});

let scratch = "";
beforeAll(async () => { scratch = await mkdtemp(join(tmpdir(), "adjoint-initial-")); });
afterAll(async () => { await rm(scratch, { recursive: true }); });
const wide = (m: Matrix): Tensor => store(hostOf(m, "f64"));
const grid = (rows: number, cols: number): fc.Arbitrary<Matrix> =>
  fc.array(fc.integer({ min: -32, max: 32 }).map((k) => k / 16), { minLength: rows * cols, maxLength: rows * cols }).map((v) => ({ rows, cols, data: Float64Array.from(v) }));

describe("LoRA from an origin", () => {
  const size = fc.constantFrom(1, 2, 3, 5);
  const layer = fc.record({ n: size, i: size, o: size, r: size, s: fc.constantFrom(0.5, 2, -1) }).chain(({ n, i, o, r, s }) =>
    fc.record({ x: grid(n, i), W: grid(o, i), A: grid(r, i), B: grid(o, r), A0: grid(r, i), B0: grid(o, r), g: grid(n, o) })
      .map((v) => ({ ...v, site: { path: "m", kind: "linear", r, alpha: s * r, scale: s, parameters: 0, matchedBy: "m", inFeatures: i, outFeatures: o } satisfies Site })));
  const method = originOn(dense);

  it("is y = W x + s (B A - B0 A0) x with LoRA's gradients, and merged it is the same", async () => {
    await fc.assert(fc.asyncProperty(layer, async (l) => {
      const s = l.site.scale, [x, W, A, B, A0, B0, g] = [l.x, l.W, l.A, l.B, l.A0, l.B0, l.g].map(wide);
      const p = { A, B, A0, B0 }, y = method.forward(p, l.site, { x, y: x.matmul(W.T), module: {}, frozen: { weight: W }, key: null, dropout: 0 });
      const d = gradients(y.mul(g).sum(), { x, A, B }), T = g.matmul(B).mul(s), close = async (a: Tensor | null, b: Tensor): Promise<void> => { expect(a).not.toBeNull(); if (a !== null) expect(most((await numbers(a.sub(b))))).toBeLessThan(1e-10); };
      await close(d.B, g.T.matmul(x.matmul(A.T)).mul(s));
      await close(d.A, T.T.matmul(x));
      const sum = method.merged(p, l.site, { weight: W })["weight"];
      await close(sum, W.add(B.matmul(A).sub(B0.matmul(A0)).mul(s)));
      await close(d.x, g.matmul(sum));
      await close(y, x.matmul(sum.T));
    }), { numRuns: 12 });
  });

  it("drops inputs of what trains, never of what the layer gave up", async () => {
    const [n, r] = [16, 16], eye = tensor(Float32Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0)), { shape: [n, n] });
    const site: Site = { path: "m", kind: "linear", r, alpha: r, scale: 1, parameters: 0, matchedBy: "m", inFeatures: n, outFeatures: n }, ones = tensor(new Float32Array(n * n).fill(1), { shape: [n, n] });
    const y = await numbers(method.forward({ A: eye, B: eye, A0: eye, B0: eye }, site, { x: ones, y: ones, module: {}, frozen: {}, key: { seed: 1, stream: "d", step: scalar(0, "u32") }, dropout: 0.5 }));
    expect(new Set(y)).toEqual(new Set([0, 2])); // 1 + {0, 2} - 1
  });
});

describe("what each initialisation promises", () => {
  const forms = fc.record({ width: fc.constantFrom(3, 5, 8), inner: fc.constantFrom(4, 9), seed: fc.nat(50), alpha: fc.constantFrom(1, 2, 6), useRslora: fc.boolean() });
  const weightOf = async (net: Net, path: (typeof all)[number]): Promise<Matrix> => { const w = matrixOf(await net[path].weight.host()); return path === "gate" ? matrixOf(await net.gate.weight.T.host()) : w; };

  it("PiSSA: of all changes of rank r, s B A leaves the smallest rest; with iterations nearly so", async () => {
    await fc.assert(fc.asyncProperty(forms, async ({ width, inner, seed, alpha, useRslora }) => {
      for (const [initLoraWeights, slack] of [["pissa", 1e-6], ["pissa_niter_16", 0.05]] as const) {
        const net = new Net(width, inner, seed), tuned = await make(net, { initLoraWeights, loraAlpha: alpha, useRslora, seed });
        for (const path of all) {
          const W = await weightOf(net, path), { delta } = await deltaOf(tuned, path), best = Math.hypot(...svd(W).s.slice(2)), rest = norm(minus(W, delta));
          expect(rest).toBeGreaterThan(best * (1 - 1e-6) - 1e-6);
          expect(rest).toBeLessThan(best * (1 + slack) + 1e-6);
        }
      }
    }), { numRuns: 6 });
  });

  it("OLoRA: B has orthonormal columns, A is the upper part of R, and B A agrees with W in its first r columns", async () => {
    await fc.assert(fc.asyncProperty(forms, async ({ width, inner, seed, alpha }) => {
      const net = new Net(width, inner, seed), tuned = await make(net, { initLoraWeights: "olora", loraAlpha: alpha });
      for (const path of all) {
        const W = await weightOf(net, path), { A, B } = await deltaOf(tuned, path), BtB = product(B, B, { transposeA: true }), BA = product(B, A);
        BtB.data.forEach((v, i) => { expect(Math.abs(v - (i % 3 === 0 ? 1 : 0))).toBeLessThan(1e-6); });
        expect(A.data[A.cols]).toBe(0);
        for (let i = 0; i < W.rows; i++) for (let j = 0; j < 2; j++) expect(Math.abs(BA.data[i * W.cols + j] - W.data[i * W.cols + j])).toBeLessThan(1e-6);
      }
    }), { numRuns: 6 });
  });

  it("orthogonal: B A = 0, and an odd rank is refused", async () => {
    for (const r of [2, 6]) for (const path of all) expect(most([...(await deltaOf(await make(new Net(), { initLoraWeights: "orthogonal", r }), path)).delta.data])).toBeLessThan(1e-7);
    await expect(make(new Net(), { initLoraWeights: "orthogonal", r: 3 })).rejects.toThrow(/rank of up is 3.*even/s);
  });

  it("MiCA: B is the directions that W uses least, A alone trains, and the file holds both", async () => {
    const net = new Net(), tuned = await make(net, { initLoraWeights: "mica" });
    expect([...tuned.tensors().keys()].every((key) => key.endsWith("lora_A.weight"))).toBe(true);
    for (const path of all) {
      const W = await weightOf(net, path), { B } = await deltaOf(tuned, path), smallest = svd(W).s.slice(-2);
      expect(norm(product(B, W, { transposeA: true }))).toBeCloseTo(Math.hypot(...smallest), 5);
    }
    await shaken(tuned);
    await tuned.save(join(scratch, "mica"));
    const { tuned: back } = await loadLora(new Net(), join(scratch, "mica"));
    expect([...(await back.snapshot()).keys()].sort()).toEqual(all.flatMap((p) => [`base_model.model.${p}.lora_A.weight`, `base_model.model.${p}.lora_B.weight`]).sort());
    expect(await numbers(back.forward(inputs(4)))).toEqual(await numbers(tuned.forward(inputs(4))));
    expect([...back.tensors().keys()]).toEqual([...tuned.tensors().keys()]);
  });

  it("CorDA: all directions together are W; ipm serves the inputs better than kpm of the same rank", async () => {
    const net = new Net(), whole = await make(net, { initLoraWeights: "corda", r: 8 });
    for (const path of all) expect(norm(minus(await weightOf(net, path), (await deltaOf(whole, path)).delta))).toBeLessThan(1e-5);
    const rest = async (cordaMethod: "ipm" | "kpm"): Promise<number> => {
      const tuned = await make(net, { initLoraWeights: "corda", cordaConfig: { cordaMethod } }), { delta } = await deltaOf(tuned, "up"), x = matrixOf(await inputs(40, 8, 1).host());
      return norm(product(x, minus(await weightOf(net, "up"), delta), { transposeB: true }));
    };
    expect(await rest("ipm")).toBeLessThan(0.8 * (await rest("kpm")));
  });

  it("CorDA leaves out the rows that the mask leaves out", async () => {
    const net = new Net(), one = { initLoraWeights: "corda", targetModules: ["up"] } as const, x = matrixOf(await inputs(40).host()), shifted = Float32Array.from(x.data, (v) => v - 9); // all below 0
    const [whole, part] = [tensor(shifted, { shape: [40, 8] }), tensor(shifted.slice(0, 80), { shape: [10, 8] })], mask = tensor(Float32Array.from({ length: 40 }, (_, i) => (i < 10 ? 1 : 0)));
    const [masked, few] = [await deltaOf(await make(net, one, { batches: [whole], mask: () => mask }), "up"), await deltaOf(await make(net, one, { batches: [part] }), "up")];
    expect(norm(minus(masked.delta, few.delta)) / norm(few.delta)).toBeLessThan(1e-4);
    expect(norm(minus(masked.delta, (await deltaOf(await make(net, one, { batches: [whole] }), "up")).delta)) / norm(few.delta)).toBeGreaterThan(0.01);
    await expect(make(net, one, { mask: () => tensor([1]) })).rejects.toThrow(/mask has 1 values/);
  });

  it("LoRA-GA: s B A has the gradient's directions, and each option its size", async () => {
    const net = new Net(), given = await gradientsOf(net)?.(new Map([["up", net.up.weight]])), G = matrixOf(given?.get("up") ?? normal("", [1, 1])), { u, s, vt } = svd(G);
    const of = async (loraGaConfig: LoraOptions["loraGaConfig"]): Promise<{ A: Matrix; B: Matrix; scale: number }> => deltaOf(await make(net, { initLoraWeights: "lora_ga", targetModules: ["up"], loraGaConfig: loraGaConfig ?? null }), "up");
    const taken = ({ A, B }: { A: Matrix; B: Matrix }): number[][] => {
      const a = product(A, vt, { transposeB: true }), b = product(u, B, { transposeA: true });
      return [[0, 1].map((i) => Math.hypot(a.data[i * 8], a.data[i * 8 + 1])), [0, 1].map((j) => Math.hypot(b.data[j], b.data[2 + j]))]; // what lies in directions 0 and 1
    };
    const inside = taken(await of({ direction: "ArB2r", scale: "unit" })), outside = taken(await of({ direction: "A2rBr", scale: "unit" }));
    expect(inside).toEqual([[expect.closeTo(1, 5), expect.closeTo(1, 5)], [expect.closeTo(0, 5), expect.closeTo(0, 5)]]);
    expect(outside).toEqual([[expect.closeTo(0, 5), expect.closeTo(0, 5)], [expect.closeTo(s[0], 5), expect.closeTo(s[1], 5)]]);
    const sizes = async (scale: "stable" | "weight_svd" | "gd_scale" | "unit"): Promise<[number, number]> => { const { A, B } = await of({ scale }); return [norm(A), norm(B)]; };
    const [[a1, b1], [a2, b2], [a3, b3], [a4, b4]] = [await sizes("unit"), await sizes("stable"), await sizes("gd_scale"), await sizes("weight_svd")];
    expect([a2 / a1, b2 / b1]).toEqual([expect.closeTo(1, 5), expect.closeTo(12 ** 0.25 / 4, 5)]);
    expect([a3 / a1, b3 / b1]).toEqual([expect.closeTo(1 / 3, 5), expect.closeTo(1 / 3, 5)]); // s = 6 / 2
    expect([a4 / a1, b4 / b1]).toEqual([expect.closeTo(1, 5), expect.closeTo(svd(await weightOf(net, "up")).s[0] / s[2], 3)]);
    const some = await of({ direction: "random", scale: "unit" }), random = product(some.A, vt, { transposeB: true });
    expect(Array.from(random.data, (v) => Math.abs(v)).filter((v) => v > 0.5).length).toBe(2);
    expect(most([...random.data.filter((_, i) => i % 8 > 3)])).toBeLessThan(1e-5);
  });
});

/** Other numbers in what trains. */
async function shaken(tuned: Tuned<Net>, seed = 3): Promise<void> {
  for (const [name, s] of tuned.tensors()) {
    const now = await s.data(), noise = normal(name, s.shape, 0.1, seed).data;
    s.set({ dtype: "f32", shape: s.shape, data: Float32Array.from(now, (v, i) => v + noise[i]) });
  }
}

describe("EVA", () => {
  const rows = (n: number, seed: number): Tensor => tensor(Float32Array.from(normal("x", [n, 8], 1, seed).data, (v, i) => v * 2 ** (-(i % 8))), { shape: [n, 8] });
  const batches = [rows(60, 1), rows(60, 2), rows(60, 3)];

  it("gives out all ranks, at most round(rho r) to a module, keeps each scale, and points A along orthonormal directions of the inputs", async () => {
    const sum = (v: readonly number[]): number => v.reduce((a, b) => a + b, 0);
    for (const [rho, useRslora] of [[1, false], [1.5, false], [2, true], [4, false]] as const) {
      const tuned = await make(new Net(), { initLoraWeights: "eva", evaConfig: { rho, tau: 0.9 }, useRslora, r: 3 }, { batches }), { targets } = tuned.targets;
      expect(sum(targets.map((t) => t.r))).toBe(9);
      for (const t of targets) {
        expect(t.r).toBeLessThanOrEqual(Math.min(t.inFeatures, Math.round(3 * rho)));
        expect(t.scale).toBeCloseTo(useRslora ? 6 / Math.sqrt(3) : 2, 12);
        const { A, B } = await deltaOf(tuned, t.path);
        expect(norm(B)).toBe(0);
        product(A, A, { transposeB: true }).data.forEach((v, i) => { expect(v).toBeCloseTo(i % (t.r + 1) === 0 ? 1 : 0, 5); });
      }
      expect(targets.every((t) => t.r === 3)).toBe(rho === 1);
      const read = loraConfig(readLoraConfig(writeLoraConfig(tuned.fileConfig())).config);
      expect(read.rankPattern).toEqual(tuned.loraConfig.rankPattern);
      expect(read.evaConfig).toEqual({ rho, tau: 0.9, useLabelMask: true, labelMaskValue: -100, whiten: false, adjustScalingFactors: true });
    }
  });

  it("leaves out modules without rank, and starts no others", async () => {
    const wide = rows(60, 4), data = { batches: [wide], run: (x: Tensor, context: Context) => [nets.up.forward(x, context), nets.down.forward(tensor(Float32Array.from({ length: 60 * 12 }, (_, i) => Math.sin(i * i)), { shape: [60, 12] }), context)] };
    const nets = new Net(), tuned = await make(nets, { initLoraWeights: "eva", targetModules: ["up", "down"], r: 1, evaConfig: { rho: 2 } }, data);
    expect(tuned.targets.targets.map((t) => [t.path, t.r])).toEqual([["up", 2]]);
    await tuned.save(join(scratch, "eva"));
    expect((await readAdapterDirectory(join(scratch, "eva"))).config.targetModules).toEqual(["up"]);
    expect((await loadLora(new Net(), join(scratch, "eva"))).tuned.targets.targets.map((t) => t.r)).toEqual([2]);
  });

  it("whitens by the root of the singular value, and sees only rows that count", async () => {
    const [net, one] = [new Net(), { targetModules: ["up"], initLoraWeights: "eva" } as const];
    const plain = await deltaOf(await make(net, { ...one, evaConfig: { rho: 1 } }, { batches: [rows(60, 1)] }), "up"), white = await deltaOf(await make(net, { ...one, evaConfig: { rho: 1, whiten: true } }, { batches: [rows(60, 1)] }), "up");
    const x = matrixOf(await rows(60, 1).host()), mean = Float64Array.from({ length: 8 }, (_, j) => Array.from({ length: 60 }, (_, i) => x.data[i * 8 + j]).reduce((a, b) => a + b, 0) / 60);
    const { s, vt } = svd({ ...x, data: x.data.map((v, i) => v - mean[i % 8]) });
    for (let i = 0; i < 2; i++) {
      expect(Math.hypot(...white.A.data.subarray(8 * i, 8 * i + 8)) ** -2).toBeCloseTo(Math.SQRT2 * s[i], 4); // one batch is seen twice before its directions are known to stand still
      expect(Math.abs(product(plain.A, vt, { transposeB: true }).data[i * 9])).toBeCloseTo(1, 5);
    }
    const mask = Float32Array.from({ length: 60 }, (_, i) => (i < 40 ? 1 : 0)), part = tensor(Float32Array.from(x.data.slice(0, 320)), { shape: [40, 8] });
    const masked = await make(net, one, { batches: [rows(60, 1)], mask: () => tensor(mask) }), few = await make(net, one, { batches: [part] });
    expect((await deltaOf(masked, "up")).A).toEqual((await deltaOf(few, "up")).A);
    const labels = tensor(Int32Array.from(mask, (v) => (v === 1 ? 7 : -100))), run = ({ x: input }: { x: Tensor }, context: Context): Tensor => net.forward(input, context);
    const labelled = await createLora(net, { r: 2, loraAlpha: 6, ...one }, { batches: [{ x: rows(60, 1), labels }], run });
    expect((await deltaOf(labelled, "up")).A).toEqual((await deltaOf(few, "up")).A);
  });

  it("says why it cannot: no batches, too few rows, a mask of another length, an unreachable tau", async () => {
    const go = (evaConfig: LoraOptions["evaConfig"], more: InitialData<Tensor>): Promise<Tuned<Net>> => make(new Net(), { initLoraWeights: "eva", evaConfig: evaConfig ?? null }, more);
    await expect(go({}, { batches: [] })).rejects.toThrow(/no batch.*data\.batches/s);
    await expect(go({}, { batches: [rows(3, 1)] })).rejects.toThrow(/no batch has 4 rows/);
    await expect(go({}, { mask: () => tensor([1]) })).rejects.toThrow(/mask has 1 values/);
    await expect(go({ tau: 1 }, { batches: [inputs(20, 8, 1), inputs(20, 8, 2)] })).rejects.toThrow(/still change.*lower tau/s);
  });

  it("components of batches are those of all rows together, however they are cut", () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 4, max: 9 }), { minLength: 1, maxLength: 4 }), fc.nat(1000), (cuts, seed) => {
      const total = cuts.reduce((a, b) => a + b, 0), all = matrixOf(normal("rows", [total, 4], 1, seed)), pieces = new IncrementalPCA(4, 0), whole = new IncrementalPCA(4, 0);
      let at = 0;
      for (const n of cuts) { pieces.add({ rows: n, cols: 4, data: all.data.slice(4 * at, 4 * (at + n)) }); at += n; }
      whole.add(all);
      whole.singularValues.forEach((v, i) => { expect(pieces.singularValues[i]).toBeCloseTo(v, 9); expect(pieces.explained[i]).toBeCloseTo(whole.explained[i], 9); });
      expect(whole.explained.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 9);
    }), { numRuns: 20 });
  });
});

describe("LoftQ", () => {
  it("each round is nearer to W, and all are nearer than codes alone; what it says is what it left", () => {
    for (const format of ["nf4", "int8"] as const) for (const [rows, cols] of [[48, 64], [64, 24]] as const) {
      const W = matrixOf(normal("W", [rows, cols], 1)), scale = 3, one = (iterations: number): ReturnType<typeof loftq> => loftq(W, { format, rank: 6, iterations, scale });
      const { quantized, A, B, errors, unaided } = one(5), BA = product(B, A), Q = dequantize(quantized);
      expect(unaided).toBeCloseTo(norm({ ...W, data: W.data.map((w, i) => w - dequantize(quantize(Float32Array.from(W.data), [rows, cols], { format }))[i]) }), 6);
      expect(errors[0]).toBeLessThan(unaided);
      errors.slice(1).forEach((e, i) => { expect(e).toBeLessThan(errors[i]); });
      expect(errors[4]).toBeCloseTo(norm({ ...W, data: W.data.map((w, i) => w - Q[i] - scale * BA.data[i]) }), 6);
      expect(one(2).errors).toEqual(errors.slice(0, 2));
    }
  });

  it("replaces the codes of the base, and the layer with its adapter is nearer to the layer before it was quantized, for any scale", async () => {
    for (const [loftqBits, doubleQuant, loraAlpha] of [[4, false, 2], [4, true, 6], [8, false, 1]] as const) {
      const net = new Net(16, 24), how = { format: loftqBits === 4 ? "nf4" : "int8", block: 32, doubleQuant } as const, weights = new Map<string, HostArray>();
      const coded: Record<string, Linear> = {};
      for (const path of ["up", "down"] as const) {
        const array = await net[path].weight.host();
        weights.set(`${path}.weight`, array);
        coded[path] = new Linear(quantizedWeight(quantize(Float32Array.from(array.data), array.shape, how), path));
      }
      const x = inputs(20, 16), exact = await numbers(net.up.forward(x).sub(net.up.bias ?? 0)), off = async (y: Tensor): Promise<number> => Math.hypot(...(await numbers(y)).map((v, i) => v - exact[i]));
      const alone = await off(coded["up"].forward(x)), was = (await quantizedOf(coded["up"].weight)?.host())?.codes;
      const options = { r: 4, loraAlpha, targetModules: ["up", "down"], initLoraWeights: "loftq", loftqConfig: { loftqBits, loftqIter: 3 } } as const, tuned = await createLora(coded, options, { weights });
      expect(await off(coded["up"].forward(x, tuned.context()))).toBeLessThan(0.9 * alone);
      expect((await quantizedOf(coded["up"].weight)?.host())?.codes).not.toEqual(was);
      const theirs = await createLora(coded, { ...options, compat: "peft" }, { weights: (name) => weights.get(name) ?? normal("", [1]) }), s = loraAlpha / 4;
      const [ours, peft] = await Promise.all([tuned, theirs].map(async (t) => { const f = t.attachments[0].factors; return product(matrixOf(await f["B"].host()), matrixOf(await f["A"].host())); }));
      expect(most([...ours.data].map((v, i) => s * v - peft.data[i]))).toBeLessThan(1e-5);
      await tuned.save(join(scratch, "loftq"));
      expect((await readAdapterDirectory(join(scratch, "loftq"))).config).toMatchObject({ initLoraWeights: true, loftqConfig: null });
      await tuned.save(join(scratch, "loftq"), { convert: false });
      expect(await numbers((await loadLora(coded, join(scratch, "loftq"))).tuned.tensors().values().next().value ?? x)).toEqual(await numbers(tuned.tensors().values().next().value ?? x));
      await expect(loadLora(net, join(scratch, "loftq"))).rejects.toThrow(/LoftQ's codes.*up is held as numbers/);
    }
  });

  it("says what it needs, and changes no codes unless every module succeeds", async () => {
    const W = normal("w", [8, 8]), coded = { a: new Linear(quantizedWeight(quantize(Float32Array.from(W.data), [8, 8], { format: "nf4" }))), b: new Linear(store(W)) }, was = await quantizedOf(coded.a.weight)?.host();
    const go = (options: CreateLoraOptions, weights: InitialData["weights"]): Promise<unknown> => createLora(coded, { r: 2, targetModules: ["a"], initLoraWeights: "loftq", ...options }, weights === undefined ? {} : { weights });
    await expect(go({}, undefined)).rejects.toThrow(/a\.weight before it was quantized.*data\.weights/s);
    await expect(go({ loftqConfig: { loftqBits: 8 } }, new Map())).rejects.toThrow(/loftq_bits is 8.*nf4/s);
    await expect(go({ targetModules: ["a", "b"] }, () => W)).rejects.toThrow(/weight of b is held as numbers/);
    await expect(go({}, () => normal("w", [8, 4]))).rejects.toThrow(/shape \[8, 4\]/);
    expect(await quantizedOf(coded.a.weight)?.host()).toEqual(was);
    for (const [key, value] of [["rank", 9], ["iterations", 0], ["scale", -1]] as const) expect(() => loftq(matrixOf(W), { format: "nf4", rank: 2, [key]: value })).toThrow(key);
  });
});

describe("files", () => {
  const forms: readonly LoraOptions[] = [{}, { useRslora: true }, { rankPattern: { down: 1 }, alphaPattern: { up: 5 } }, { useRslora: true, rankPattern: { down: 1 }, alphaPattern: { up: 5 } }, { scaling: (alpha, r) => alpha / r ** 0.75 }];

  it.each(origins)("of %s fit the base as it is: rank 2r, the same outputs, and as they train with the origin beside them", async (initLoraWeights) => {
    const forRun = initLoraWeights === "pissa" ? forms : forms.slice(0, 1);
    for (const [i, form] of forRun.entries()) {
      const tuned = await make(new Net(), { initLoraWeights, ...form }), at = join(scratch, `${initLoraWeights}-${i}`), x = inputs(6);
      await shaken(tuned);
      const y = await numbers(tuned.forward(x)), far = await numbers(tuned.base.forward(x));
      expect(worst(y, far)).toBeGreaterThan(0.01);
      await tuned.save(at);
      const { tuned: plain } = await loadLora(new Net(), at);
      expect(plain.loraConfig).toMatchObject({ initLoraWeights: true, r: 4, cordaConfig: null, loraGaConfig: null });
      expect(plain.targets.targets.map((t) => t.r)).toEqual(tuned.targets.targets.map((t) => 2 * t.r));
      plain.targets.targets.forEach((t, j) => { expect(t.scale).toBeCloseTo(tuned.targets.targets[j].scale, 12); });
      expect(worst(await numbers(plain.forward(x)), y)).toBeLessThan(1e-5);
      expect(plain.origin().size).toBe(0);
      expect(await (await plainLora(tuned)).snapshot()).toEqual(await plain.snapshot());
      await tuned.save(at, { convert: false });
      const { tuned: raw } = await loadLora(new Net(), at);
      expect(raw.loraConfig.initLoraWeights).toBe(initLoraWeights);
      expect(await numbers(raw.forward(x))).toEqual(y);
    }
  });

  it("without the origin are read where it follows from the base, and refused by name where it does not", async () => {
    for (const initLoraWeights of origins) {
      const tuned = await make(new Net(), { initLoraWeights }), at = join(scratch, `raw-${initLoraWeights}`), x = inputs(6);
      await shaken(tuned);
      await tuned.save(at, { convert: false });
      const { origin, ...rest } = await readAdapterDirectory(at);
      expect(origin?.size).toBe(6);
      if (initLoraWeights === "pissa" || initLoraWeights === "olora") expect(worst(await numbers((await loadLora(new Net(), rest)).tuned.forward(x)), await numbers(tuned.forward(x)))).toBeLessThan(1e-5);
      else await expect(loadLora(new Net(), rest)).rejects.toThrow(new RegExp(`init_lora_weights = "${initLoraWeights}".*converted form`, "s"));
    }
  });

  it("take an origin only beside the tensors that it was written with", async () => {
    const at = join(scratch, "origin-of"), x = inputs(6), one = await make(new Net(), { initLoraWeights: "corda" }), two = await make(new Net(), { initLoraWeights: "corda" });
    for (const tuned of [one, two]) await shaken(tuned);
    const [first] = two.tensors().values(), { data, ...rest } = await first.host();
    await one.save(at, { convert: false });
    expect(await numbers((await loadLora(new Net(), at)).tuned.forward(x))).toEqual(await numbers(one.forward(x)));
    first.set({ ...rest, data: Float32Array.from(data, (v, i) => (i === 1 ? v + 1 : v)) });
    await two.save(`${at}-other`, { convert: false });
    for (const file of ["adapter_config.json", "adapter_model.safetensors"]) await copyFile(join(`${at}-other`, file), join(at, file));
    await expect(loadLora(new Net(), at)).rejects.toThrow(/adapter_origin\.safetensors was not written with this adapter_model\.safetensors.*delete adapter_origin/s);
    await rm(join(at, "adapter_origin.safetensors"));
    await expect(loadLora(new Net(), at)).rejects.toThrow(/how it was changed is not in the file/);
  });

  it.each(["pissa", "olora"] as const)("without the origin are read as well while another adapter is merged: %s", async (initLoraWeights) => {
    const tuned = await make(new Net(), { initLoraWeights }), at = join(scratch, `raw-merged-${initLoraWeights}`), x = inputs(6), net = new Net();
    await shaken(tuned);
    await tuned.save(at, { convert: false });
    const { origin: _, ...rest } = await readAdapterDirectory(at), other = lora(net, { r: 2, targetModules: all, initLoraWeights: false });
    await other.merge();
    const { tuned: back } = await loadLora(net, rest);
    await other.unmerge();
    expect(worst(await numbers(back.forward(x)), await numbers(tuned.forward(x)))).toBeLessThan(1e-5);
    await other.merge({ keep: false });
    await expect(loadLora(net, rest)).rejects.toThrow(/needs the base's own up\.weight/);
  });

  it("a resumed training takes the first factors from tuned.origin()", async () => {
    const first = await make(new Net(), { initLoraWeights: "lora_ga" });
    const origin = new Map(await Promise.all([...first.origin()].map(async ([name, s]) => [name, await s.host()] as const))), again = await createLora(new Net(), { r: 2, loraAlpha: 6, targetModules: all, initLoraWeights: "lora_ga" }, { origin });
    expect([...origin.keys()][0]).toBe("base_model.model.up.lora_A0.weight");
    expect(await again.snapshot()).toEqual(await first.snapshot());
    expect(await numbers(again.forward(inputs(3)))).toEqual(await numbers(first.forward(inputs(3))));
    await expect(createLora(new Net(), { r: 3, targetModules: all, initLoraWeights: "lora_ga" }, { origin })).rejects.toThrow(/lora_A0\.weight as \[2, 8\], here it is \[3, 8\]/);
    await expect(createLora(new Net(), { targetModules: all, initLoraWeights: "eva" }, { origin })).rejects.toThrow(/no meaning/);
    origin.delete("base_model.model.up.lora_A0.weight");
    await expect(createLora(new Net(), { r: 2, targetModules: all, initLoraWeights: "lora_ga" }, { origin })).rejects.toThrow(/lacks base_model\.model\.up\.lora_A0/);
  });

  it("merging is W + s (B A - B0 A0), and back bit for bit", async () => {
    const tuned = await make(new Net(), { initLoraWeights: "pissa" }), x = inputs(6);
    await shaken(tuned);
    const y = await numbers(tuned.forward(x)), was = await numbers(tuned.base.up.weight);
    await tuned.merge();
    expect(worst(await numbers(tuned.forward(x)), y)).toBeLessThan(1e-5);
    await tuned.unmerge();
    expect(await numbers(tuned.base.up.weight)).toEqual(was);
  });
});

describe("in a set of adapters", () => {
  it("shares the base with others: alone, in a mixed batch, under a factor, in a combination and from a folder", async () => {
    const net = new Net(), set = adapterSet(net), first = await make(net, { initLoraWeights: "pissa" }), second = await make(net, { initLoraWeights: "mica", seed: 2 }), x = inputs(3);
    for (const t of [first, second]) await shaken(t);
    set.add("first", first);
    set.add("second", second);
    const base = await numbers(net.forward(x)), [a, b] = [await numbers(first.forward(x)), await numbers(second.forward(x))];
    const mixed = await numbers(set.rows(["first", null, "second"]).forward(x));
    expect(worst(mixed, [...a.slice(0, 8), ...base.slice(8, 16), ...b.slice(16)])).toBeLessThan(1e-6);
    const up = first.attachments.filter(({ site }) => site.path === "up"), y = async (k: number): Promise<number[]> => numbers(net.up.forward(x, set.with({ first: k }).context()));
    expect(up.length).toBe(1);
    const [none, half, whole] = [await y(0), await y(0.5), await y(1)];
    expect(worst(half.map((v, i) => v - none[i]), whole.map((v, i) => (v - none[i]) / 2))).toBeLessThan(1e-5);
    await set.save(join(scratch, "set"));
    const back = (await loadAdapters(new Net(), join(scratch, "set"))).with("first");
    expect(worst(await numbers(back.forward(x)), a)).toBeLessThan(1e-5);
  });
});

describe("createLora", () => {
  it("draws what lora draws where nothing is looked at, and lora names it where something is", async () => {
    for (const initLoraWeights of [true, false, "gaussian"] as const) expect(await (await make(new Net(), { initLoraWeights, seed: 4 })).snapshot()).toEqual(await lora(new Net(), { r: 2, loraAlpha: 6, targetModules: all, initLoraWeights, seed: 4 }).snapshot());
    for (const initLoraWeights of [...origins, ...zeros, "loftq"] as const) expect(() => lora(new Net(), { targetModules: all, initLoraWeights })).toThrow(/computed from numbers.*await createLora/s);
    expect(Object.keys(initialisations).sort()).toEqual(["corda", "eva", "loftq", "lora_ga", "mica", "olora", "orthogonal", "pissa"]);
  });

  it("gives equal bits for equal seeds, and says each module when it is done", async () => {
    const seen: string[] = [], onModule: CreateLoraOptions["onModule"] = ({ path, index, count }) => { seen.push(`${index + 1}/${count} ${path}`); };
    const one = async (seed: number): Promise<ReadonlyMap<string, HostArray>> => (await make(new Net(), { initLoraWeights: "pissa_niter_1", seed, onModule })).snapshot(), a = await one(4);
    expect(seen).toEqual(["1/3 up", "2/3 gate", "3/3 down"]);
    expect(await one(4)).toEqual(a);
    expect(await one(5)).not.toEqual(a);
  });

  it("starts from codes too: the weight that they stand for is decomposed", async () => {
    const W = normal("w", [12, 16]), q = quantize(Float32Array.from(W.data), [12, 16], { format: "nf4" }), coded = { a: new Linear(quantizedWeight(q)) }, plain = { a: new Linear(store({ dtype: "f32", shape: [12, 16], data: dequantize(q) })) };
    for (const initLoraWeights of ["pissa", "olora"] as const) {
      const [ours, theirs] = await Promise.all([coded, plain].map(async (net) => (await createLora(net, { r: 3, targetModules: ["a"], initLoraWeights })).snapshot()));
      expect(ours).toEqual(theirs);
    }
    await expect(createLora(coded, { r: 3, targetModules: ["a"], initLoraWeights: "lora_ga" })).rejects.toThrow(/nf4, which has no gradient/);
  });

  it("refuses what cannot be, by name", async () => {
    const net = { e: new Embedding(store(normal("e", [6, 4]))), up: new Linear(store(normal("w", [4, 6]))) }, go = (options: CreateLoraOptions, more: InitialData = {}): Promise<unknown> => createLora(net, { r: 2, targetModules: ["up"], ...options }, more);
    for (const initLoraWeights of ["pissa", "olora", "orthogonal", "mica", "lora_ga", "corda"] as const) await expect(go({ initLoraWeights, targetModules: ["e"] })).rejects.toThrow(/e is no linear layer/);
    for (const initLoraWeights of ["pissa", "olora", "mica"] as const) await expect(go({ initLoraWeights, r: 5 })).rejects.toThrow(/up is 4 x 6 and has 4 singular directions; r = 5/);
    await expect(go({ initLoraWeights: "lora_ga", r: 3 })).rejects.toThrow(/twice r = 3 needs 6/);
    await expect(go({ initLoraWeights: "lora_ga" })).rejects.toThrow(/data\.gradients/);
    await expect(go({ initLoraWeights: "lora_ga" }, { gradients: async () => new Map() })).rejects.toThrow(/gave none for up/);
    await expect(go({ initLoraWeights: "pissa", scaling: () => -1 })).rejects.toThrow(/scale of up is -1/);
    await expect(go({ initLoraWeights: "pissa", compat: "peft" })).rejects.toThrow(/LoftQ alone/);
    await expect(go({ initLoraWeights: "corda", cordaConfig: { cacheFile: "x" } })).rejects.toThrow(/cacheFile = "x" is not implemented/);
    await expect(go({ initLoraWeights: "corda" }, { batches: [] })).rejects.toThrow(/no batch/);
    await expect(createLora(new Net(), { r: 2, targetModules: ["up"], initLoraWeights: "corda" }, { batches: [inputs(4)], run: () => null })).rejects.toThrow(/up is not used/);
  });

  it("keeps options of the chosen initialisation alone", () => {
    expect(loraConfig({ initLoraWeights: "corda", cordaConfig: { cordaMethod: "kpm" } }).cordaConfig).toMatchObject({ cordaMethod: "kpm", verbose: false });
    expect(loraConfig({ initLoraWeights: "lora_ga" }).loraGaConfig).toEqual({ direction: "ArB2r", scale: "stable", stableGamma: 16 });
    expect(() => loraConfig({ evaConfig: { rho: 2 } })).toThrow(/evaConfig.*does nothing/);
    expect(() => loraConfig({ initLoraWeights: "eva", evaConfig: { rho: 0.5 } })).toThrow(/evaConfig\.rho = 0\.5/);
    expect(() => loraConfig({ initLoraWeights: "eva", evaConfig: JSON.parse('{"rhoo": 2}') as { rho: number } })).toThrow(/evaConfig\.rhoo.*is not an option/);
    expect(() => loraConfig({ initLoraWeights: "mica", useDora: true })).toThrow(/useDora.*initLoraWeights/);
  });
});
