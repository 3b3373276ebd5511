/** The laws that every adapter owes, whatever its method: a new one is held to them by a line in `family`. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { convertArray, createReference, getDevice, hostNormal, scope, setDevice, type Store, type Tensor } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";
import { adaloraDefaults } from "../src/config/adalora-config.ts";
import { createLora, type CreateLoraOptions, loadLora, type Tuned } from "../src/index.ts";
import { veraDefaults } from "../src/config/vera-config.ts";
import { ids, Rich } from "./rich.ts";

interface Member {
  readonly options: CreateLoraOptions;
  /** adapted layers; linear, Conv1D and the head by default */
  readonly targets?: readonly string[];
  /** the gradient takes part of the formula as a constant, so differences do not give it */
  readonly held?: true;
}
const family: Readonly<Record<string, Member>> = {
  "LoRA": { options: {} },
  "rsLoRA": { options: { useRslora: true } },
  "LoRA on an embedding": { options: {}, targets: ["embed_tokens"] },
  "LoRA with a bias on B": { options: { loraBias: true }, targets: ["q_proj", "c_fc"] },
  "DoRA": { options: { useDora: true }, held: true },
  "DoRA on an embedding": { options: { useDora: true }, targets: ["embed_tokens"], held: true },
  "PiSSA": { options: { initLoraWeights: "pissa" } },
  "OLoRA": { options: { initLoraWeights: "olora" } },
  "orthogonal": { options: { initLoraWeights: "orthogonal" } },
  "MiCA": { options: { initLoraWeights: "mica" } },
  "AdaLoRA": { options: { adalora: { ...adaloraDefaults, initR: 2, targetR: 1, totalStep: 10, orthRegWeight: 0 } } },
  "VeRA": { options: { vera: veraDefaults } },
  "biases": { options: { bias: "all" }, targets: ["q_proj"] },
  "whole modules": { options: { modulesToSave: ["lm_head", "ln_1"] }, targets: ["q_proj"] },
  "rows of a table": { options: { trainableTokenIndices: [3, 6] }, targets: ["q_proj"] },
  "raw parameters": { options: { targetParameters: ["c_fc.weight"] }, targets: ["q_proj"] },
};
const members = Object.entries(family);

const before = getDevice(), scratch = await mkdtemp(join(tmpdir(), "adjoint-laws-"));
afterEach(() => { setDevice(before); });
afterAll(() => rm(scratch, { recursive: true, force: true }));

const numbers = async (t: Tensor): Promise<number[]> => Array.from(await t.data(), Number);
async function close(actual: Tensor | readonly number[], expected: Tensor | readonly number[], tolerance: number): Promise<void> {
  const [a, e] = await Promise.all([actual, expected].map(async (t) => ("data" in t ? numbers(t) : t))), size = Math.max(1, ...e.map(Math.abs));
  expect(a.length).toBe(e.length);
  a.forEach((v, i) => { expect(Math.abs(v - e[i])).toBeLessThanOrEqual(tolerance * size); });
}
const make = (model: Rich, { options, targets = ["q_proj", "c_fc", "down_proj", "lm_head"] }: Member, seed: number): Promise<Tuned<Rich>> =>
  createLora(model, { r: 2, ...((options.vera ?? null) === null ? { loraAlpha: 3 } : {}), targetModules: targets, seed, ...options });
/** Every number that trains moves a little. */
async function move(tuned: Tuned<Rich>, seed: number): Promise<readonly Store[]> {
  const stores = [...tuned.tensors().values()];
  for (const [i, s] of stores.entries()) {
    const now = await s.data(), step = hostNormal(seed, `move/${i}`, s.shape, { std: 0.2 }).data, data = convertArray(step, "f32", s.dtype);
    for (let j = 0; j < data.length; j++) data[j] += now[j];
    s.set({ dtype: s.dtype, shape: s.shape, data });
  }
  return stores;
}
const seeds = fc.integer({ min: 1, max: 1000 }), few = { numRuns: Math.ceil(Number(process.env["ADJOINT_RUNS"] ?? 16) / 8) };

describe.each(members)("%s", (_name, member) => {
  it("starts as the base, and merged it is the same as beside it; unmerged, the base is back bit for bit", () => fc.assert(fc.asyncProperty(seeds, async (seed) => {
    setDevice(createReference());
    const model = new Rich({ dtype: "f64", seed }), tuned = await make(model, member, seed), base = await numbers(model.forward(ids));
    await close(tuned.forward(ids), base, 1e-6); // first factors are rounded to f32 once
    await move(tuned, seed);
    const beside = await numbers(tuned.forward(ids));
    expect(beside.some((v, i) => Math.abs(v - base[i]) > 1e-6)).toBe(true);
    await tuned.merge();
    await close(model.forward(ids), beside, 1e-12);
    await tuned.unmerge();
    expect(await numbers(model.forward(ids))).toEqual(base);
  }), few));

  if (member.held !== true) it("has the gradient that differences give", () => fc.assert(fc.asyncProperty(seeds, async (seed) => {
    setDevice(createReference());
    const tuned = await make(new Rich({ dtype: "f64", seed }), member, seed), stores = await move(tuned, seed), h = 1e-5;
    const found = await Promise.all(gradients(tuned.loss(ids), stores).map((g) => (g === null ? Promise.resolve([]) : numbers(g))));
    for (const [i, s] of stores.entries()) {
      const now = (await s.data()).slice(), way = hostNormal(seed, `way/${i}`, s.shape).data;
      const at = async (k: number): Promise<number> => {
        const data = convertArray(Float32Array.from(way), "f32", s.dtype);
        for (let j = 0; j < data.length; j++) data[j] = now[j] + k * data[j];
        s.set({ dtype: s.dtype, shape: s.shape, data });
        return tuned.loss(ids).item();
      };
      const slope = ((await at(h)) - (await at(-h))) / (2 * h), along = found[i].reduce((sum, g, j) => sum + g * way[j], 0);
      await at(0);
      expect(Math.abs(slope - along)).toBeLessThanOrEqual(1e-6 * Math.max(1, Math.abs(slope)));
    }
  }), few));

  it("does not change by a bit when A is multiplied by a power of two and B divided by it", async () => {
    setDevice(await wasm({ threads: 1 }));
    const tuned = await make(new Rich({ seed: 6 }), member, 7);
    await move(tuned, 8);
    const y = await numbers(tuned.forward(ids)), times = async (s: Store, by: number): Promise<void> => { s.set({ dtype: s.dtype, shape: s.shape, data: Float32Array.from(await s.data(), (v) => v * by) }); };
    let pairs = 0;
    for (const { factors: { A, B } } of tuned.attachments) {
      if (A === undefined || B === undefined) continue;       // MiCA's B and VeRA's pair do not train
      await times(A, 4);
      await times(B, 0.25);
      pairs++;
    }
    expect(pairs > 0).toBe(!("initLoraWeights" in member.options && member.options.initLoraWeights === "mica") && (member.options.vera ?? null) === null);
    expect(await numbers(tuned.forward(ids))).toEqual(y);
  });

  it("computes and learns on wasm as on the reference", () => fc.assert(fc.asyncProperty(seeds, async (seed) => {
    const answers = async (): Promise<number[][]> => {
      const tuned = await make(new Rich({ seed }), member, seed), stores = await move(tuned, seed);
      const { y, g } = scope(() => { const y = tuned.forward(ids); return { y, g: gradients(y.square().mean(), stores) }; });
      return Promise.all([y, ...g].map((t) => (t === null ? Promise.resolve([]) : numbers(t))));
    };
    setDevice(createReference());
    const want = await answers();
    setDevice(await wasm({ threads: 1 }));
    const got = await answers();
    for (const [i, w] of want.entries()) await close(got[i], w, 1e-5);
  }), few));

  it("is in its files what it is in memory", async () => {
    setDevice(await wasm({ threads: 1 }));
    const model = new Rich({ seed: 3 }), tuned = await make(model, member, 4), folder = await mkdtemp(join(scratch, "a-"));
    await move(tuned, 5);
    await tuned.save(folder);
    const { tuned: again, report } = await loadLora(model, folder);
    expect([report.missing, report.unexpected, report.mismatched]).toEqual([[], [], []]);
    await close(again.forward(ids), tuned.forward(ids), 1e-6);
  });
});
