/** Matrix products of every layout, type and size against plain loops, on the software GPU. */
import { type ContractKernel, type DType, type Expr, leaf, literal, type StoreTo, type View } from "@adjoint/tensor";
import fc from "fast-check";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { contractWith, lowerContract } from "../src/contract.ts";
import { problemOf } from "../src/gemm-problem.ts";
import type { Choice, TileVariant, Variant } from "../src/tiles.ts";
import { type Bench, open } from "./execute.ts";
import { acc, type Case, differences, Draw, plain, planOf, uniforms } from "./products.ts";

// drivers in software compile for seconds where many tests run at once
vi.setConfig({ testTimeout: 120_000 });

let gpu: Bench;
beforeAll(async () => {
  const found = await open();
  if (found === null) throw new Error("no WebGPU adapter: run through npm test, which brings a software GPU");
  gpu = found;
});
/** a tile with every path of a large one, which software runs fast */
const small: TileVariant = { kind: "tile", BM: 16, BN: 16, BK: 8, TM: 4, TN: 4, KG: 1, prefetch: false };
const check = async (c: Case, bench = gpu, choice: Choice = { variant: small, splits: 1 }): Promise<void> => {
  expect(await differences(bench, c, contractWith(c.kernel, planOf(c), bench.target, problemOf(c.kernel), choice)), `${c.kernel.shape.join()} k ${c.kernel.k}`).toBe("");
};

describe("layouts", () => {
  for (const a of ["row", "column", "any"] as const) for (const b of ["row", "column", "any"] as const) {
    it(`a by ${a}, b by ${b}`, async () => {
      for (const [m, n, k] of [[33, 17, 5], [68, 36, 20]] as const) await check(plain(new Draw(m + n), [], m, n, k, { a, b }));
    });
  }
});

describe("types", () => {
  for (const [x, y] of [["f32", "f16"], ["f32", "bf16"], ["f16", "f16"], ["bf16", "f16"], ["bf16", "bf16"]] as const) it(`${x} by ${y}`, async () => {
    await check(x === "f32" ? plain(new Draw(1), [], 36, 32, 24, { types: [x, y] }) : plain(new Draw(2), [], 9, 19, 33, { types: [x, y], a: "column", b: "column" }));
  });
});

/** Two stores of a formula with a bias along n, a residual, a column of m, a step number and a position. */
function rich(d: Draw, batch: readonly number[], m: number, n: number, k: number, types: readonly DType[], turned = false): Case {
  const shape = [...batch, m, n], base = plain(d, batch, m, n, k), zeros = batch.map(() => 0);
  const bias: View = { buffer: d.buffer(types[0], n + 4), dtype: types[0], offset: 4, strides: [...zeros, 0, 1] };
  const column: View = { buffer: d.buffer("f32", m), dtype: "f32", offset: 0, strides: [...zeros, 1, 0] };
  const residual = d.view(batch, m, n, types[1], "row", { at: 4 }), odd = d.view(batch, m, n, "f32", "any");
  const x: Expr = acc.add(leaf("load", 0, "float")).mul(leaf("uniform", 0, "float"));
  const stores: StoreTo[] = [
    { view: d.view(batch, m, n, types[2], turned ? "column" : "row", { repeat: false, offset: 4 }), value: x.max(0).add(leaf("load", 1, "float")) },
    { view: d.view(batch, m, n, types[3], turned ? "column" : "row", { repeat: false }), value: x.mul(leaf("load", 2, "float")).add(leaf("load", 3, "float")).add(leaf("affine", 0, "i32").toF().mul(literal(1 / 64))) },
  ];
  const kernel: ContractKernel = { ...base.kernel, shape, loads: [bias, residual, column, odd], affines: [{ offset: 3, strides: [...zeros.map(() => m * n), n, 1] }], stores };
  return { kernel, buffers: d.buffers, uniforms };
}

describe("formulas after the product", () => {
  for (const types of [["f32", "bf16", "f32", "f32"], ["bf16", "f16", "f16", "bf16"]] as const) for (const turned of [false, true]) {
    it(`${types.join()}${turned ? ", transposed results" : ""}`, async () => {
      for (const [batch, m, n, k] of [[[], 36, 32, 8], [[2, 3], 9, 11, 8]] as const) await check(rich(new Draw(m), batch, m, n, k, types, turned));
    });
  }
  it("a result in place of a load", async () => {
    const d = new Draw(5), c = plain(d, [], 33, 20, 8), out = c.kernel.stores[0].view;
    await check({ ...c, kernel: { ...c.kernel, loads: [out], stores: [{ view: out, value: acc.add(leaf("load", 0, "float")) }] } });
  });
  it("a result in place of an operand", async () => {
    const d = new Draw(6), c = plain(d, [], 20, 20, 20), out = { ...c.kernel.stores[0].view, buffer: c.kernel.a.buffer };
    await check({ ...c, kernel: { ...c.kernel, stores: [{ view: out, value: acc }] } });
  });
  it("a matrix by itself", async () => {
    const d = new Draw(7), c = plain(d, [], 20, 20, 20);
    await check({ ...c, kernel: { ...c.kernel, b: c.kernel.a } });
    await check({ ...c, kernel: { ...c.kernel, b: { ...c.kernel.a, strides: [1, 20] } } });
  });
  it("starts that are data", async () => {
    const d = new Draw(8), c = plain(d, [], 16, 16, 16);
    await check({ ...c, kernel: { ...c.kernel, a: d.view([], 16, 16, "f32", "row", { at: 16 }), b: d.view([], 16, 16, "bf16", "row", { at: 3 }) } });
  });
  it("more buffers than a dispatch may bind", async () => {
    const c = rich(new Draw(9), [2], 9, 12, 8, ["f32", "f32", "f32", "f32"]), few = { ...gpu, target: { ...gpu.target, limits: { ...gpu.target.limits, storageBuffers: 7 } } };
    const program = lowerContract(c.kernel, planOf(c), few.target);
    expect(program.dispatches.length).toBeGreaterThan(1);
    expect(Math.max(...program.dispatches.map((x) => x.bindings.length))).toBeLessThanOrEqual(7);
    await check(c, few);
  });
});

describe("batches", () => {
  it("strided, repeated and of two axes", async () => {
    for (const [i, batch] of [[2], [3, 2], [2, 1, 3], [1]].entries()) await check(plain(new Draw(40 + i), batch, 10, 12, 9));
  });
});

describe("parts of k", () => {
  for (const splits of [2, 3, 7]) it(`${splits}`, async () => {
    for (const c of [plain(new Draw(1), [], 20, 12, 90), rich(new Draw(2), [2], 9, 13, 40, ["f32", "f16", "bf16", "f32"])]) {
      const program = contractWith(c.kernel, planOf(c), gpu.target, problemOf(c.kernel), { variant: small, splits });
      expect(program.dispatches.length).toBe(2);
      expect(await differences(gpu, c, program)).toBe("");
    }
  });
});

describe("sums of products", () => {
  it("of different layouts and lengths", async () => {
    const d = new Draw(3), c = plain(d, [2], 20, 24, 16);
    const more = [{ k: 5, a: d.view([2], 20, 5, "f16", "row"), b: d.view([2], 5, 24, "f32", "column") }];
    await check({ ...c, kernel: { ...c.kernel, more } });
    const turned = d.view([2], 20, 24, "f32", "column", { repeat: false });
    await check({ ...c, kernel: { ...c.kernel, more, stores: [{ view: turned, value: acc }] }, buffers: d.buffers });
  });
});

describe("few rows", () => {
  const vec: Choice = { variant: { kind: "vec", lanes: 8, threads: 32 }, splits: 1 };
  for (const [a, b] of [["row", "column"], ["row", "row"], ["any", "any"], ["column", "row"]] as const) it(`a by ${a}, b by ${b}`, async () => {
    for (const [m, n, k, types] of [[1, 36, 72, ["f32", "f32"]], [3, 37, 41, ["f32", "bf16"]], [4, 20, 8, ["f16", "f32"]]] as const) {
      await check(plain(new Draw(m + n), [2], m, n, k, { a, b, types }), gpu, { ...vec, splits: m === 1 ? 2 : 1 });
    }
  });
  it("few columns are few rows of the transposed product", async () => {
    const c = plain(new Draw(3), [], 40, 1, 64);
    expect(problemOf(c.kernel).turned).toBe(true);
    await check(c);
  });
  it("with formulas and a second product", async () => {
    const d = new Draw(12), c = rich(d, [], 2, 24, 32, ["f32", "bf16", "f16", "f32"]);
    await check({ ...c, kernel: { ...c.kernel, more: [{ k: 8, a: d.view([], 2, 8, "f32", "row"), b: d.view([], 8, 24, "f32", "column") }] } }, gpu, vec);
  });
});

describe("tiles", () => {
  for (const v of [{ ...small, TM: 8, prefetch: true }, { kind: "tile", BM: 32, BN: 8, BK: 16, TM: 4, TN: 8, KG: 1, prefetch: true }, { kind: "tile", BM: 8, BN: 64, BK: 4, TM: 4, TN: 4, KG: 1, prefetch: false }, { kind: "tile", BM: 16, BN: 8, BK: 16, TM: 4, TN: 4, KG: 4, prefetch: false }, { kind: "tile", BM: 8, BN: 16, BK: 32, TM: 8, TN: 4, KG: 8, prefetch: true }, { kind: "tile", BM: 16, BN: 16, BK: 64, TM: 4, TN: 4, KG: 16, prefetch: false }] as const) it(JSON.stringify(v), async () => {
    const d = new Draw(3), c = plain(d, [], 37, 44, 70, { b: "column" });
    await check({ ...c, kernel: { ...c.kernel, more: [{ k: 9, a: d.view([], 37, 9, "f32", "column"), b: d.view([], 9, 44, "f32", "row") }] } }, gpu, { variant: v, splits: 1 });
  });
  it("the chosen ones", async () => {
    for (const [m, n, k] of [[40, 40, 40], [70, 8, 300], [2, 64, 64]] as const) {
      const c = plain(new Draw(m), [], m, n, k);
      expect(await differences(gpu, c, lowerContract(c.kernel, planOf(c), gpu.target))).toBe("");
    }
  });
});

describe("law", () => {
  const runs = Number(process.env["ADJOINT_RUNS"] ?? 6), types: readonly DType[] = ["f32", "f16", "bf16"], layouts = ["row", "column", "any"] as const, sizes = [1, 2, 4, 5, 8, 12, 17, 31];
  it("any product equals plain loops, by any kernel", async () => {
    await fc.assert(fc.asyncProperty(fc.integer(), async (seed) => {
      const d = new Draw(seed), batch = d.of([[], [], [2], [3, 2]]), [m, n, k] = [d.of(sizes), d.of(sizes), d.of([1, 3, 8, 20, 33])];
      const pick = (): DType => d.of(types), wild = (r: number, c: number): View => d.view(batch, r, c, pick(), d.of(layouts), { pad: d.of([0, 4, 3]), offset: d.of([0, 8, 1]), at: d.of([0, 0, 8, 3]) });
      const base: ContractKernel = { kind: "contract", label: "law", shape: [...batch, m, n], k, a: wild(m, k), b: wild(k, n), loads: [], affines: [], uniforms: [0, 1], stores: [] };
      const stores: StoreTo[] = [{ view: d.view(batch, m, n, pick(), d.of(["row", "column"] as const), { pad: d.of([0, 4]), repeat: false }), value: acc }];
      const loads = [wild(m, n)], formula: StoreTo = { ...stores[0], value: acc.mul(leaf("load", 0, "float")).add(leaf("uniform", 0, "float")) };
      const kernel = { ...base, loads, stores: d.int(2) === 0 ? stores : [formula], ...(d.int(3) === 0 ? { more: [{ k: 5, a: wild(m, 5), b: wild(5, n) }] } : {}) };
      const c: Case = { kernel, buffers: d.buffers, uniforms }, problem = problemOf(kernel), splits = d.of([1, 1, 2, 3]);
      const emulated: Variant = { kind: "matrix", config: { component: "f32", result: "f32", m: 8, n: 8, k: 8 }, SM: 1, SN: 2, WM: 1, WN: 1, BK: 8, prefetch: d.int(2) === 0, emulate: true };
      const variant = problem.m <= 4 ? d.of<Variant>([small, { kind: "vec", lanes: 4, threads: 16 }]) : d.of<Variant>([small, { ...small, prefetch: true }, emulated]);
      expect(await differences(gpu, c, contractWith(kernel, planOf(c), gpu.target, problem, { variant, splits })), JSON.stringify([variant, splits, kernel.shape, k])).toBe("");
    }), { numRuns: runs, seed: Number(process.env["ADJOINT_SEED"] ?? 1), endOnFailure: true });
  }, 600_000);
});
