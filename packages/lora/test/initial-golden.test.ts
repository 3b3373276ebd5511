/** PEFT's initialisations and its conversion to plain LoRA on one small model; signs of singular directions are nobody's. */
import type { Context } from "@adjoint/nn";
import { Conv1D, Linear } from "@adjoint/nn";
import { dequantize } from "@adjoint/quant";
import { type HostArray, hostNormal, type Matrix, matrixOf, product, store, type Tensor, tensor, transposed } from "@adjoint/tensor";
import { fixture, golden, goldenTensors } from "@adjoint/testing/fixtures";
import { describe, expect, it } from "vitest";
import { createLora, type CreateLoraOptions, type InitialData, loadLora, loftq, readLoraConfig, type Tuned } from "../src/index.ts";

interface Module { readonly scale: number; readonly r: number }
interface Patterns { readonly rank_pattern: Record<string, number>; readonly alpha_pattern: Record<string, number>; readonly target_modules: string[] }
const g = golden<Record<string, Record<string, Module> & { patterns: Patterns }> & { loftq: { errors: { fro: number }[]; unaided: number } }>("initial"), tensors = goldenTensors("initial");
const array = (name: string): HostArray => { const found = tensors.get(name); if (found === undefined) throw new Error(name); return found; };

class Net {
  readonly up: Linear = new Linear(store(array("base/up.weight")), store(array("base/up.bias")));
  readonly gate: Conv1D = new Conv1D(store(array("base/gate.weight")), store(array("base/gate.bias")));
  readonly down: Linear = new Linear(store(array("base/down.weight")));
  forward(x: Tensor, context: Context = {}): Tensor {
    return this.down.forward(this.up.forward(x, context).tanh().mul(this.gate.forward(x, context)), context);
  }
  loss(x: Tensor, context: Context = {}): Tensor {
    return this.forward(x, context).square().mean();
  }
}
const batches = [0, 1, 2, 3].map((i) => tensor(Float32Array.from(array("data").data).slice(480 * i, 480 * (i + 1)), { shape: [1, 40, 12] }));
const make = (net: Net, options: CreateLoraOptions): Promise<Tuned<Net>> => {
  const gradients: InitialData["gradients"] = async (weights) => new Map([...weights.keys()].map((path) => [path, array(`grad/${path}`)]));
  return createLora(net, { r: 3, loraAlpha: 6, ...options }, { batches, gradients });
};

const largest = (m: Matrix): number => Math.max(...m.data.map(Math.abs));
const distance = (a: Matrix, b: Matrix): number => { expect([a.rows, a.cols]).toEqual([b.rows, b.cols]); return largest({ ...a, data: a.data.map((x, i) => x - b.data[i]) }) / largest(b); };
const factors = async (tuned: Tuned<Net>, path: string): Promise<{ A: Matrix; B: Matrix; scale: number; r: number }> => {
  const a = tuned.attachments.find(({ site }) => site.path === path);
  if (a === undefined) throw new Error(path);
  return { A: matrixOf(await a.factors["A"].host()), B: matrixOf(await (a.factors["B"] ?? a.beside?.["B"]).host()), scale: a.site.scale, r: a.site.r };
};
const times = (m: Matrix, by: number): Matrix => ({ ...m, data: m.data.map((x) => x * by) });
/** Rows with the sign of their largest entry. */
const unsigned = (m: Matrix): Matrix => {
  const out = { ...m, data: m.data.slice() };
  for (let i = 0; i < m.rows; i++) {
    const row = out.data.subarray(i * m.cols, (i + 1) * m.cols), sign = row.reduce((best, v) => (Math.abs(v) > Math.abs(best) * 1.0001 ? v : best), 0) < 0 ? -1 : 1;
    row.forEach((v, j) => { row[j] = sign * v; });
  }
  return out;
};

describe("equals PEFT", () => {
  const changed: readonly (readonly [string, CreateLoraOptions, readonly string[]])[] = [
    ["pissa", { initLoraWeights: "pissa" }, ["up", "down"]],
    ["pissa-conv1d", { initLoraWeights: "pissa" }, ["gate"]],
    ["olora", { initLoraWeights: "olora" }, ["up", "down"]],
    ["corda-ipm", { initLoraWeights: "corda" }, ["up", "down", "gate"]],
    ["corda-kpm", { initLoraWeights: "corda", cordaConfig: { cordaMethod: "kpm" } }, ["up", "down", "gate"]],
  ];
  it.each(changed)("%s: s B A and what is left of W", async (name, options, targetModules) => {
    const tuned = await make(new Net(), { ...options, targetModules });
    for (const path of targetModules) {
      const { A, B, scale } = await factors(tuned, path), delta = times(product(B, A), scale), theirs = times(product(matrixOf(array(`${name}/${path}.B`)), matrixOf(array(`${name}/${path}.A`))), g[name][path].scale);
      const tolerance = name === "corda-kpm" ? 2e-3 : 2e-5; // PEFT takes the smallest directions of W C in f32
      expect(distance(delta, theirs), path).toBeLessThan(tolerance);
      const W = matrixOf(array(`base/${path}.weight`)), rest = { ...W, data: W.data.map((w, i) => w - (path === "gate" ? transposed(delta) : delta).data[i]) };
      expect(distance(rest, matrixOf(array(`${name}/${path}.weight`))), path).toBeLessThan(tolerance);
    }
  });

  it("mica: B up to signs, A zero", async () => {
    const tuned = await make(new Net(), { initLoraWeights: "mica", targetModules: ["up", "down"] });
    for (const path of ["up", "down"]) {
      const { A, B } = await factors(tuned, path);
      expect(largest(A)).toBe(0);
      expect(distance(unsigned(transposed(B)), unsigned(transposed(matrixOf(array(`mica/${path}.B`)))))).toBeLessThan(1e-4);
    }
  });

  it("orthogonal: PEFT's factors have the property that ours have", () => {
    expect(largest(product(matrixOf(array("orthogonal/up.B")), matrixOf(array("orthogonal/up.A"))))).toBeLessThan(1e-7);
  });

  it("loftq: the error of each round, the decoded codes and B A", () => {
    const W = matrixOf(array("loftq/weight")), { errors, unaided } = loftq(W, { format: "nf4", rank: 8, iterations: 5 });
    expect(unaided / g.loftq.unaided).toBeCloseTo(1, 5);
    errors.forEach((e, i) => { expect(e / g.loftq.errors[i].fro).toBeCloseTo(1, 3); });
    for (const [iterations, tolerance] of [[1, 1e-4], [5, 0.05]] as const) {
      const { quantized, A, B } = loftq(W, { format: "nf4", rank: 8, iterations }), q = matrixOf({ dtype: "f32", shape: [48, 64], data: dequantize(quantized) }), theirs = matrixOf(array(`loftq/${iterations}/q`));
      const other = q.data.filter((v, i) => Math.abs(v - theirs.data[i]) > 1e-3).length;
      expect(other / q.data.length).toBeLessThan(iterations === 1 ? 1e-9 : 0.02); // roundings of PEFT's f32 decompositions turn a few codes
      expect(distance(product(B, A), matrixOf(array(`loftq/${iterations}/delta`)))).toBeLessThan(tolerance);
    }
  });

  it("loftq: a normal matrix of 256 x 256 loses as much as measured with bitsandbytes (E23)", () => {
    const { errors, unaided } = loftq(matrixOf(hostNormal(1, "W", [256, 256], { std: 1 / 16 })), { format: "nf4", rank: 16, iterations: 3 });
    [1.473, 1.309, 1.223, 1.186].forEach((measured, i) => { expect(Math.abs([unaided, ...errors][i] / measured - 1)).toBeLessThan(0.01); });
  });

  // 2 r rho directions of 12 inputs are all of them with rho = 2; with less both take a random subspace
  it.each([["eva", {}, 1e-4], ["eva-fixed-alpha", { rho: 1.5, adjustScalingFactors: false }, 1e-3], ["eva-whiten", { rho: 1, whiten: true, tau: 0.9 }, 0.03]] as const)("%s: ranks, scales and A", async (name, evaConfig, tolerance) => {
    const tuned = await make(new Net(), { initLoraWeights: "eva", evaConfig, targetModules: ["up", "down"] });
    for (const path of ["up", "down"]) {
      const { A, B, scale, r } = await factors(tuned, path);
      expect([r, scale]).toEqual([g[name][path].r, g[name][path].scale]);
      expect(distance(unsigned(A), unsigned(matrixOf(array(`${name}/${path}.A`))))).toBeLessThan(tolerance);
      expect(largest(B)).toBe(0);
    }
    const { rank_pattern: ranks, alpha_pattern: alphas } = g[name].patterns, { rankPattern, alphaPattern } = tuned.loraConfig, anchored = (p: Record<string, number>): Record<string, number> => Object.fromEntries(Object.entries(p).map(([k, v]) => [`^${k}`, v]));
    expect({ rankPattern, alphaPattern }).toEqual({ rankPattern: anchored(ranks), alphaPattern: anchored(alphas) });
  });

  it.each([["ArB2r", "stable"], ["A2rBr", "unit"], ["ArBr", "gd_scale"], ["ArB2r", "weight_svd"]] as const)("lora_ga: A and B up to signs, %s %s", async (direction, scale) => {
    const tuned = await make(new Net(), { initLoraWeights: "lora_ga", loraGaConfig: { direction, scale }, targetModules: ["up", "gate", "down"] }), name = `lora_ga-${direction}-${scale}`;
    for (const path of ["up", "gate", "down"]) {
      // PEFT counts the rows of the stored weight, which are inputs in Conv1D
      const { A, B } = await factors(tuned, path), rows = scale === "stable" && path === "gate" ? (12 / 16) ** 0.25 : 1;
      expect(distance(unsigned(A), unsigned(matrixOf(array(`${name}/${path}.A`)))), path).toBeLessThan(1e-3);
      const tolerance = scale === "weight_svd" ? 0.05 : 1e-3; // PEFT takes the largest singular value from a random subspace of r directions
      expect(distance(unsigned(transposed(times(B, rows))), unsigned(transposed(matrixOf(array(`${name}/${path}.B`))))), path).toBeLessThan(tolerance);
    }
  });
});

describe("PEFT's files of a changed base", () => {
  it.each(["convert", "convert-rslora", "convert-patterns"])("%s: as they train and converted, both fit the base as it is", async (name) => {
    const y = array(`${name}/output`).data, outputs = async (which: string): Promise<ArrayLike<number>> => (await loadLora(new Net(), fixture(`initial/${name}/${which}`))).tuned.forward(batches[0]).data();
    for (const which of ["trained", "converted"]) {
      const ours = await outputs(which);
      expect(Math.max(...Array.from(ours, (v, i) => Math.abs(v - y[i]))), which).toBeLessThan(5e-5 * Math.max(...Array.from(y, Math.abs)));
    }
  });

  it("what we convert has PEFT's ranks, alphas and shapes", async () => {
    for (const name of ["convert", "convert-rslora", "convert-patterns"]) {
      const { tuned } = await loadLora(new Net(), fixture(`initial/${name}/trained`)), files = await tuned.files(), text = files["adapter_config.json"], theirs = (await loadLora(new Net(), fixture(`initial/${name}/converted`))).tuned;
      const { config } = readLoraConfig(typeof text === "string" ? text : "");
      for (const key of ["r", "loraAlpha", "rankPattern", "alphaPattern", "initLoraWeights", "useRslora"] as const) expect(config[key], key).toEqual(theirs.loraConfig[key]);
      expect(config.cordaConfig).toBe(null);
    }
  });
});
