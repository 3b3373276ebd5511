/** Measured tables: made on the software GPU, kept as JSON, and obeyed. */
import { describe, expect, it } from "vitest";
import { choose } from "../src/gemm-choose.ts";
import { problemOf } from "../src/gemm-problem.ts";
import { classOf, tileTable } from "../src/tile-table.ts";
import { provenMatrix } from "../src/matrix-check.ts";
import { candidates } from "../src/tiles.ts";
import { tune, type TuneProgress } from "../src/tune.ts";
import type { Target } from "../src/program.ts";
import { open } from "./execute.ts";
import { Draw, plain } from "./products.ts";

const target: Target = { f16: false, subgroups: null, matrix: [], limits: { storageBuffers: 8, workgroupBytes: 16384, invocations: 256, workgroups: 65535, bindingBytes: 2 ** 27 }, matmul: "f32", units: 16 };
const problem = (m: number, n: number, k: number, layout: "row" | "column" = "row"): ReturnType<typeof problemOf> => {
  const { kernel } = plain(new Draw(1), [], 8, 8, 8, { b: layout });
  return problemOf({ ...kernel, shape: [m, n], k, a: { ...kernel.a, strides: [k, 1] }, b: { ...kernel.b, strides: layout === "row" ? [n, 1] : [1, k] } });
};

describe("tables", () => {
  it("are measured, saved, read and obeyed", async () => {
    const seen: TuneProgress[] = [];
    const table = await tune({ allowSoftware: true }, { shapes: [{ m: 40, n: 36, k: 64, b: "column" }], most: 3, onProgress: (p) => { seen.push(p); } });
    expect(seen.length).toBe(3);
    expect(seen.map((p) => p.error)).toEqual([undefined, undefined, undefined]);
    expect(seen.every((p) => p.gflops > 0)).toBe(true);
    expect(table.device).not.toBe("");
    const read = tileTable(JSON.parse(JSON.stringify(table)));
    expect(read).toEqual(table);
    const p = problem(40, 36, 64, "column"), [key] = Object.keys(read.entries);
    expect(classOf(p, target)).toBe(key);
    expect(choose(p, { ...target, tiles: read })).toEqual(read.entries[key]);
  });
  it("serve near classes, and only those", () => {
    const far = candidates(problem(512, 512, 512), target).findLast((c) => c.splits === 4);
    if (far === undefined) throw new Error("no candidate with four parts");
    const tiles = tileTable({ version: 1, device: "x", entries: { [classOf(problem(512, 512, 512), target)]: far } }), with_ = { ...target, tiles };
    expect(choose(problem(512, 512, 512), with_)).toEqual(far);
    expect(choose(problem(1024, 512, 512), with_)).toEqual(far);
    expect(choose(problem(512, 512, 128), with_).splits).toBeLessThan(4);
    expect(choose(problem(8192, 4096, 512), with_)).toEqual(choose(problem(8192, 4096, 512), target));
    expect(choose(problem(1, 512, 512), with_).variant.kind).toBe("vec");
  });
  it("that are damaged are refused by name", () => {
    expect(() => tileTable({ version: 2 })).toThrow(/version is 2/);
    expect(() => tileTable({ version: 1, device: "x", entries: { "f32·f32 along·along 0 1 2 3": { splits: 1, variant: { kind: "tile", BM: 65 } } } })).toThrow(/along·along 0 1 2 3/);
  });
});

describe("matrix units", () => {
  it("that do not work are not used, and said aloud", async () => {
    const gpu = await open();
    if (gpu === null) throw new Error("no WebGPU adapter: run through npm test, which brings a software GPU");
    // software has none: their text does not compile there
    const config = { component: "f32", result: "f32", m: 8, n: 8, k: 8 } as const, lines: string[] = [];
    const proven = await provenMatrix(gpu.device, { ...gpu.target, subgroups: { min: 32, max: 32, control: false }, matrix: [config] }, (line) => { lines.push(line); });
    expect(proven.matrix).toEqual([]);
    expect(lines.join()).toMatch(/matrix units f32 8x8x8 are not used/);
    const none = await open("backend=null");
    if (none === null) throw new Error("no null adapter");
    // every text compiles there, and computes zeros by either kernel
    expect((await provenMatrix(none.device, { ...none.target, limits: { ...none.target.limits, workgroupBytes: 16384 } }, (line) => { lines.push(line); })).matrix).toEqual(none.target.matrix);
    expect(lines.length).toBe(1);
  });
});

describe("the rule", () => {
  it("prefers large tiles for large products, parts of k for thin ones, and rows for decoding", () => {
    expect(choose(problem(4096, 4096, 4096), target)).toEqual({ variant: { kind: "tile", BM: 128, BN: 64, BK: 16, TM: 8, TN: 8, KG: 1, prefetch: false }, splits: 1 });
    expect(choose(problem(8, 768, 4096), target).splits).toBeGreaterThan(1);
    expect(choose(problem(1, 768, 768), target).variant.kind).toBe("vec");
  });
  it("takes matrix units for halves, and for f32 where rounding is allowed", () => {
    const units: Target = { ...target, f16: true, subgroups: { min: 32, max: 32, control: true }, matrix: [{ component: "f16", result: "f32", m: 16, n: 16, k: 16 }], limits: { ...target.limits, workgroupBytes: 49152, invocations: 1024 } };
    expect(choose(problem(1024, 1024, 1024), units).variant.kind).toBe("tile");
    expect(choose(problem(1024, 1024, 1024), { ...units, matmul: "f16" }).variant.kind).toBe("matrix");
    const half = problem(1024, 1024, 1024), f16 = { ...half, products: half.products.map(({ k, a, b }) => ({ k, a: { ...a, view: { ...a.view, dtype: "f16" as const } }, b: { ...b, view: { ...b.view, dtype: "f16" as const } } })) };
    expect(choose(f16, units).variant.kind).toBe("matrix");
  });
});
