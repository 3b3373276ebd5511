/** Products that read codes: bit for bit those of the numbers that the codes mean, by every kind of kernel; and codes decoded into memory. */
import type { CompositeKernel, DequantizeAttrs, View } from "@adjoint/tensor";
import fc from "fast-check";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { contractWith } from "../src/contract.ts";
import { operandBuffers, problemOf } from "../src/gemm-problem.ts";
import { lower } from "../src/lower.ts";
import { mergeText, segmentPlan } from "../src/merge.ts";
import type { Target } from "../src/program.ts";
import { classOf, lookUp } from "../src/tile-table.ts";
import { candidates, type Choice, fits, matrixVariants, type TileVariant, tiles, type Variant } from "../src/tiles.ts";
import { coded, type Coding, encoded, one, oneHot, output, planFor, withCodes } from "./codes.ts";
import { type Bench, checkText, open } from "./execute.ts";
import { type Case, differences, Draw, plain, planOf, uniforms } from "./products.ts";

vi.setConfig({ testTimeout: 120_000 });
let gpu: Bench, none: Bench;
beforeAll(async () => {
  const [found, empty] = [await open(), await open("backend=null")];
  if (found === null || empty === null) throw new Error("no WebGPU adapter: run through npm test, which brings a software GPU");
  gpu = found;
  none = empty;
});
const small: TileVariant = { kind: "tile", BM: 16, BN: 16, BK: 8, TM: 4, TN: 4, KG: 1, prefetch: false }, vec: Variant = { kind: "vec", lanes: 4, threads: 16, step: 8 };
const units: Variant = { kind: "matrix", config: { component: "f16", result: "f32", m: 8, n: 8, k: 8 }, SM: 1, SN: 2, WM: 1, WN: 1, BK: 8, prefetch: false, emulate: true };
const nf4: Coding = { bits: 4, block: 64 }, double: Coding = { bits: 4, block: 64, nested: 256 }, q4k: Coding = { bits: 4, block: 32, nested: 8, mins: true };
type Place = { readonly pad?: number; readonly offset?: number; readonly at?: number };
/** x by codes, in any order of the codes. */
const product = (seed: number, m: number, n: number, k: number, coding: Coding, b: "row" | "column" | "any", place: Place = {}): { c: Case; kernel: Case["kernel"]; out: number; d: Draw } => {
  const d = new Draw(seed), { kernel: k1, ...rest } = plain(d, [], m, n, k), c: Case = { ...rest, kernel: { ...k1, b: d.view([], k, n, "f32", b, place) } }, kernel = withCodes(c.kernel, "b", encoded(d, c.kernel.b, coding));
  return { c, kernel, out: c.kernel.stores[0].view.buffer, d };
};
const run = (c: Case, kernel: Case["kernel"], out: number, choice: Choice, target: Target = gpu.target): Promise<number[]> => output(gpu, c.buffers, kernel, contractWith(kernel, planOf(c), target, problemOf(kernel), choice), out);

describe("equal to the product of the decoded weight, bit for bit", () => {
  it("x Wᵀ by tiles", async () => {
    const { c, kernel, out } = product(1, 20, 36, 64, nf4, "column");
    const want = await run(c, c.kernel, out, { variant: small, splits: 1 });
    expect(new Set(want).size).toBeGreaterThan(500);
    expect(await run(c, kernel, out, { variant: small, splits: 1 })).toEqual(want);
  });
  it("one row by words of eight codes", async () => {
    const { c, kernel, out } = product(2, 2, 12, 64, double, "column");
    expect(problemOf(kernel).products[0].b.width).toBe(8);
    const want = await run(c, c.kernel, out, { variant: vec, splits: 1 });
    expect(await run(c, kernel, out, { variant: vec, splits: 1 })).toEqual(want);
    expect(await differences(gpu, c, contractWith(c.kernel, planOf(c), gpu.target, problemOf(c.kernel), { variant: vec, splits: 1 }), 1e-4)).toBe("");
  });
});

/** Rows of x have one number, a power of two: every element of the result is one decoded element, exactly. */
async function exact(seed: number, m: number, n: number, k: number, coding: Coding, b: "row" | "column" | "any", choice: Choice, target: Target = gpu.target, place: Place = {}): Promise<void> {
  const { c, kernel, out, d } = product(seed, m, n, k, coding, b, place), start = c.kernel.b.offset + (place.at ?? 0) * uniforms[1];
  oneHot(d, c.kernel.a, m, k);
  const x = c.buffers[c.kernel.a.buffer].values, w = c.buffers[c.kernel.b.buffer].values, [sk, sn] = c.kernel.b.strides;
  const got = await run(c, kernel, out, choice, target);
  for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) {
    let want = 0;
    for (let p = 0; p < k; p++) want += x[i * k + p] * w[start + p * sk + j * sn];
    expect(got[i * n + j], `${i}, ${j}`).toBe(want);
  }
}
describe("decoded exactly", () => {
  const tile: Choice = { variant: small, splits: 1 };
  it("g W, scales quantized again, in parts of k", () => exact(3, 18, 32, 24, double, "row", { variant: small, splits: 2 }));
  it("odd lengths, blocks that are no power of two, minima", () => exact(4, 17, 19, 13, { bits: 8, block: 12, nested: 3, mins: true }, "column", tile));
  it("odd rows of four bits", () => exact(5, 5, 7, 9, { bits: 4, block: 7 }, "row", tile));
  it("with as few buffers as it takes", async () => {
    const few: Target = { ...gpu.target, limits: { ...gpu.target.limits, storageBuffers: 5 } };
    await exact(6, 16, 16, 32, q4k, "column", tile, few);
    const { kernel, c } = product(6, 16, 16, 32, q4k, "column"), problem = problemOf(kernel), { dispatches } = contractWith(kernel, planOf(c), few, problem, tile);
    expect(operandBuffers(problem).size).toBe(11);
    expect(dispatches.map((d) => d.bindings.length)).toEqual([5, 5, 5]);
  });
});

it("matrix units take eight codes at once, rounded as the numbers would be", async () => {
  const { c, kernel, out } = product(7, 9, 20, 32, nf4, "column"), target: Target = { ...gpu.target, matmul: "f16" }, choice: Choice = { variant: units, splits: 1 };
  expect(await run(c, kernel, out, choice, target)).toEqual(await run(c, c.kernel, out, choice, target));
});

describe("codes decoded into memory", () => {
  const composite = (d: Draw, length: number, coding: Coding): { kernel: CompositeKernel; out: number; values: number[]; plan: ReturnType<typeof planFor>; buffers: Draw["buffers"] } => {
    const { codes, decode: { table, scales, mins }, values } = coded(d, length, coding), out = d.buffers.push({ dtype: "f32", values: values.map(() => 0) }) - 1;
    const flat = (x: typeof scales): View[] => [x.values, ...(x.nested === undefined ? [] : [x.nested.codes, x.nested.table, x.nested.offset])], nested = coding.nested ?? 0;
    const attrs: DequantizeAttrs = { shape: [length], bits: coding.bits, block: coding.block, nested, mins: mins === undefined ? null : nested };
    const sized = (v: View): View & { shape: number[] } => ({ ...v, shape: [d.buffers[v.buffer].values.length] });
    const kernel: CompositeKernel = { kind: "composite", label: "dequantize", name: "dequantize", attrs, uniforms: [], inputs: [one(codes, "u8"), table, ...flat(scales), ...(mins === undefined ? [] : flat(mins))].map(sized), outputs: [sized(one(out))] };
    return { kernel, out, values, plan: planFor(d.buffers, kernel), buffers: d.buffers };
  };
  for (const [length, coding, start] of [[600, double, 4], [21, { bits: 8, block: 5, mins: true }, 3]] as const) it(`${length} of ${coding.bits} bits`, async () => {
    const { buffers, plan, kernel, out, values } = composite(new Draw(length), length, coding), [codes, ...rest] = kernel.inputs;
    expect(await output(gpu, buffers, kernel, lower(kernel, plan, gpu.target), out)).toEqual(values);
    // codes that begin later in their buffer
    const moved = buffers.map((b, i) => (i === codes.buffer ? { ...b, values: [...Array.from({ length: start }, () => 255), ...b.values] } : b)), later = { ...kernel, inputs: [{ ...codes, offset: start }, ...rest] };
    expect(await output(gpu, moved, later, lower(later, planFor(moved, later), gpu.target), out)).toEqual(values);
  });
  it("with few buffers", async () => {
    const { plan, kernel } = composite(new Draw(1), 96, q4k);
    const { dispatches, scratch } = lower(kernel, plan, { ...none.target, limits: { ...none.target.limits, storageBuffers: 8 } });
    expect(scratch).toEqual([2 * 3 * 4]);
    for (const d of dispatches) await checkText(none, d.code);
  });
});

describe("compiled without a device", () => {
  it("every variant, layout and coding, alone and merged", async () => {
    const f16 = { component: "f16", result: "f32", m: 16, n: 16, k: 16 } as const, f32 = { component: "f32", result: "f32", m: 8, n: 8, k: 8 } as const;
    const all: readonly Variant[] = [...tiles.map((t) => t.variant), ...[f16, f32].flatMap((c) => matrixVariants(c).map((x) => x.variant)), { kind: "vec", lanes: 32, threads: 128 }, { kind: "vec", lanes: 32, threads: 128, step: 8 }];
    const codings: readonly Coding[] = [nf4, double, q4k, { bits: 8, block: 64 }, { bits: 8, block: 96, nested: 3 }, { bits: 4, block: 3, mins: true }];
    const target: Target = { ...none.target, f16: true, matmul: "f16", limits: { ...none.target.limits, workgroupBytes: 49152, invocations: 512, storageBuffers: 16 } };
    let count = 0, merged = 0;
    for (const variant of all) for (const layout of ["row", "column"] as const) {
      const coding = codings[count % codings.length], m = variant.kind === "vec" ? 2 : 64, { c, kernel: whole, d } = product(count, m, count % 5 === 0 ? 63 : 64, 64, coding, layout);
      const kernel = count % 2 === 0 ? whole : { ...whole, a: d.view([], m, 64, "f16", "row") }, problem = problemOf(kernel);
      if (!fits(variant, problem, target)) continue;
      for (const d of contractWith(kernel, planOf(c), target, problem, { variant, splits: count % 4 === 0 ? 2 : 1 }).dispatches) {
        await checkText(none, d.code);
        const segments = segmentPlan(d);
        if (segments !== null && count % 3 === 0) { await checkText(none, mergeText(d.code, 3, segments)); merged++; }
        count++;
      }
    }
    expect(count).toBeGreaterThan(100);
    expect(merged).toBeGreaterThan(30);
  }, 60_000);
  it("x Wᵀ + (x Aᵀ) Bᵀ with eight buffers, and with six", async () => {
    for (const storageBuffers of [8, 6]) {
      const { c, kernel, d } = product(1, 64, 64, 64, double, "column"), target: Target = { ...none.target, limits: { ...none.target.limits, storageBuffers } };
      const both = { ...kernel, more: [{ k: 8, a: d.view([], 64, 8, "f32", "row"), b: d.view([], 8, 64, "f32", "column") }] };
      const { dispatches } = contractWith(both, planOf(c), target, problemOf(both), { variant: small, splits: 1 });
      expect(dispatches.map((x) => x.bindings.length)).toEqual(storageBuffers === 8 ? [5, 7] : [5, 5, 3, 2]);
      for (const x of dispatches) await checkText(none, x.code);
    }
  });
});

describe("choices", () => {
  const problem = (m: number, coding: Coding): ReturnType<typeof problemOf> => problemOf(product(1, m, 64, 64, coding, "column").kernel);
  it("are made for codes as such, else for the numbers that they mean", () => {
    const p = problem(64, nf4), target = gpu.target, choice: Choice = { variant: small, splits: 1 }, other: Choice = { variant: { ...small, BK: 16 }, splits: 1 };
    expect(classOf(p, target)).toMatch(/^f32·q4 along·along/);
    const plainly = classOf(p, target, false);
    expect(plainly).toMatch(/^f32·f32 /);
    expect(lookUp({ version: 1, device: "x", entries: { [plainly]: other } }, p, target)).toEqual(other);
    expect(lookUp({ version: 1, device: "x", entries: { [plainly]: other, [classOf(p, target)]: choice } }, p, target)).toEqual(choice);
  });
  it("leave room for tables", () => {
    const p = problem(64, { bits: 8, block: 64 }), tight = { ...gpu.target, limits: { ...gpu.target.limits, workgroupBytes: 16384 } };
    const most = (q: typeof p): boolean => fits({ kind: "tile", BM: 64, BN: 64, BK: 29, TM: 8, TN: 8, KG: 1, prefetch: false }, q, tight);
    expect([most(p), most(problem(64, nf4))]).toEqual([false, true]);
  });
  it("are those of the plain product, with words of eight for the tuner to judge", () => {
    const of = (m: number, codes: boolean): readonly Choice[] => { const { c, kernel } = product(1, m, 64, 64, nf4, "column"); return candidates(problemOf(codes ? kernel : c.kernel), gpu.target); };
    for (const m of [1, 64]) {
      const codes = of(m, true), numbers = of(m, false);
      expect(codes[0]).toEqual(numbers[0]);
      expect(codes.some((x) => x.variant.kind === "vec" && x.variant.step === 8)).toBe(m === 1);
      expect(numbers.some((x) => x.variant.kind === "vec" && x.variant.step === 8)).toBe(false);
    }
  });
});

describe("law", () => {
  const runs = Math.min(Number(process.env["ADJOINT_RUNS"] ?? 2), 20);
  it("any coding, layout and kernel decodes exactly", async () => {
    await fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 2 ** 31 - 1 }), async (seed) => {
      const d = new Draw(seed), coding: Coding = { bits: d.of([4, 8] as const), block: d.of([1, 2, 4, 8, 12, 32, 64, 5]), nested: d.of([0, 2, 3, 256]), mins: d.int(3) === 0 };
      const m = d.of([1, 3, 8, 17]), layout = d.of(["row", "column", "any"] as const), variant = m <= 4 ? vec : small;
      await exact(seed, m, d.of([4, 8, 5, 20]), d.of([1, 4, 8, 24, 33]), coding, layout, { variant, splits: d.of([1, 2]) }, gpu.target, { pad: d.of([0, 4, 3]), offset: d.of([0, 8, 1]), at: d.of([0, 0, 8, 3]) });
    }), { numRuns: runs, seed: Number(process.env["ADJOINT_SEED"] ?? 1), endOnFailure: true });
  }, 600_000);
});
