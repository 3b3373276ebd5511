/** Matrix-unit products: what they stage and store runs here without matrix units, and the real text is compiled for every configuration. */
import { beforeAll, describe, expect, it } from "vitest";
import { contractWith } from "../src/contract.ts";
import { problemOf } from "../src/gemm-problem.ts";
import { mergeText, segmentPlan } from "../src/merge.ts";
import type { MatrixConfig } from "../src/program.ts";
import { fits, type MatrixVariant, matrixVariants, tiles, type Variant } from "../src/tiles.ts";
import { type Bench, checkText, open } from "./execute.ts";
import { acc, type Case, differences, Draw, plain, planOf } from "./products.ts";
import { leaf } from "@adjoint/tensor";

let gpu: Bench, none: Bench;
beforeAll(async () => {
  const [found, empty] = [await open(), await open("backend=null")];
  if (found === null || empty === null) throw new Error("no WebGPU adapter: run through npm test, which brings a software GPU");
  gpu = found;
  none = empty;
});
const f16: MatrixConfig = { component: "f16", result: "f32", m: 16, n: 16, k: 16 }, thin: MatrixConfig = { ...f16, n: 8 }, tiny: MatrixConfig = { ...f16, m: 8, n: 8, k: 8 }, f32: MatrixConfig = { component: "f32", result: "f32", m: 8, n: 8, k: 8 }, wide: MatrixConfig = { component: "f16", result: "f32", m: 8, n: 16, k: 16 };
const run = async (c: Case, variant: MatrixVariant, splits = 1): Promise<string> => differences(gpu, c, contractWith(c.kernel, planOf(c), gpu.target, problemOf(c.kernel), { variant, splits }), 2e-6);

describe("emulated", () => {
  const shape = (config: MatrixConfig, prefetch: boolean): MatrixVariant => ({ kind: "matrix", config, SM: 2, SN: 2, WM: 1, WN: 2, BK: 2 * config.k, prefetch, emulate: true });
  // halves where rows are a multiple of eight, of four, and odd
  const cases = [[40, 24, 48, ["f16", "bf16"]], [20, 36, 12, ["f32", "f16"]], [9, 17, 21, ["bf16", "f32"]]] as const;
  for (const [config, prefetch, layouts] of [[tiny, true, [["row", "column"], ["column", "row"], ["any", "row"]]], [f32, false, [["row", "row"], ["column", "column"]]]] as const) for (const [x, [a, b]] of layouts.entries()) {
    it(`${config.component} ${config.m}x${config.n}x${config.k}, a by ${a}, b by ${b}`, async () => {
      for (const [m, n, k, types] of config === tiny && x < 2 ? cases : [cases[x]]) {
        const c = plain(new Draw(m), [], m, n, k, { a, b, types });
        expect(await run(c, shape(config, prefetch)), `${m} ${n} ${k}`).toBe("");
      }
    }, 120_000);
  }
  it("batches, parts of k, a second product and formulas", async () => {
    const d = new Draw(4), c = plain(d, [2], 33, 36, 72, { b: "column", types: ["f16", "f16"] });
    const kernel = { ...c.kernel, loads: [d.view([2], 33, 36, "bf16", "row")], more: [{ k: 8, a: d.view([2], 33, 8, "f16", "row"), b: d.view([2], 8, 36, "f32", "row") }], stores: [{ view: c.kernel.stores[0].view, value: acc.mul(0.5).add(leaf("load", 0, "float")) }] };
    for (const splits of [1, 3]) expect(await run({ ...c, kernel }, { ...shape(tiny, true), SN: 1, WM: 2, BK: 8 }, splits)).toBe("");
  }, 120_000);
});

describe("compiled without a device", () => {
  const all: readonly Variant[] = [
    ...tiles.map((t) => t.variant),
    ...[f16, thin, f32, wide].flatMap((c) => matrixVariants(c).map((x) => x.variant)),
  ];
  it("every variant, layout and type", async () => {
    let count = 0, merged = 0;
    for (const f16 of [true, false]) for (const variant of all) for (const [a, b] of [["row", "row"], ["row", "column"], ["column", "row"], ["column", "column"], ["any", "any"]] as const) {
      const types = [["f32", "f32"], ["f16", "f16"], ["f16", "bf16"]] as const, type = types[count % 3], n = count % 2 === 0 ? 64 : 63;
      if (variant.kind === "matrix" && !f16) continue;
      const c = plain(new Draw(1), count % 4 === 0 ? [2] : [], 64, n, 64, { a, b, types: type }), target = { ...none.target, f16, limits: { ...none.target.limits, workgroupBytes: 49152, invocations: 512 } }, problem = problemOf(c.kernel);
      if (!fits(variant, problem, target)) continue;
      for (const d of contractWith(c.kernel, planOf(c), target, problem, { variant, splits: count % 5 === 0 ? 2 : 1 }).dispatches) {
        await checkText(none, d.code);
        // and as one of several that became one dispatch
        const segments = segmentPlan(d);
        if (segments !== null && count % 3 === 0) { await checkText(none, mergeText(d.code, 3, segments)); merged++; }
        count++;
      }
    }
    expect(count).toBeGreaterThan(200);
    expect(merged).toBeGreaterThan(60);
  }, 60_000);
  it("pinned subgroups too", async () => {
    const c = plain(new Draw(1), [], 64, 64, 64, { types: ["f16", "f16"] }), target = { ...none.target, subgroups: { min: 8, max: 64, control: true } };
    const variant = matrixVariants(f16)[0].variant;
    const [d] = contractWith(c.kernel, planOf(c), target, problemOf(c.kernel), { variant, splits: 1 }).dispatches;
    expect(d.code).toContain("@subgroup_size(32)");
    await checkText(none, d.code);
  });
});
