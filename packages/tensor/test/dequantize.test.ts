/** `dequantize`: its formula, what a plan makes of it, and what it refuses. */
import { describe, expect, test } from "vitest";
import { type DequantizeOptions, type Kernel, type PlanSpec, type Tensor, assign, buildGraph, compile, dequantize, derived, fromHost, makePlan, memory, store, tensor } from "../src/index.ts";

const u8 = (values: readonly number[]): Tensor => fromHost({ dtype: "u8", shape: [values.length], data: Uint8Array.from(values) });
const table = tensor(Array.from({ length: 16 }, (_, i) => i - 8));
const small = (codes: Tensor, more: Partial<DequantizeOptions> = {}): Tensor => dequantize(codes, { shape: [5], bits: 4, block: 2, table, scales: { values: tensor([1, 0.5, 2]) }, ...more });
const planOf = (outputs: readonly Tensor[], decodes = true): PlanSpec => { const graph = buildGraph(outputs, new Set(["dequantize"])); return makePlan(graph, outputs.map((t) => graph.of(t)), [], true, 1, decodes); };
const kinds = (plan: PlanSpec): string[] => plan.kernels.map((k: Kernel) => (k.kind === "contract" ? `contract${k.a.decode ? " a" : ""}${k.b.decode ? " b" : ""}` : k.kind === "composite" ? k.name : k.kind));

test("the high half comes first, an odd last half is not read", async () => {
  const codes = u8([0x9f, 0x08, 0x3a]);                                      // 9 15 0 8 3 (10)
  expect(await small(codes).array()).toEqual([1, 7, -4, 0, -10]);
  expect(await small(codes, { mins: { values: tensor([1, 2, 3]) } }).array()).toEqual([0, 6, -6, -2, -13]);
});

test("scales that were quantized again", async () => {
  const nested = { codes: u8([0, 1, 2]), table: tensor(Array.from({ length: 256 }, (_, i) => i / 2)), block: 2, offset: tensor([0.25]) };
  // scales 0·4 + 0.25, 0.5·4 + 0.25, 1·8 + 0.25
  expect(await small(u8([0x99, 0x99, 0x90]), { scales: { values: tensor([4, 8]), nested } }).array()).toEqual([0.25, 0.25, 2.25, 2.25, 8.25]);
});

describe("plans", () => {
  const weight = (n: number, k: number): Tensor => dequantize(u8(Array.from({ length: (n * k) / 2 }, (_, i) => i % 256)), { shape: [n, k], bits: 4, block: 4, table, scales: { values: tensor(Array.from({ length: (n * k) / 4 }, (_, i) => i / 8)) } });
  const x = tensor(Array.from({ length: 24 }, (_, i) => i / 4)).reshape([3, 8]), w = weight(6, 8);
  test("a product reads codes through transposes, slices and reshapes", () => {
    const plan = planOf([x.matmul(w.T), x.slice(1, 0, 6).matmul(w), w.matmul(x.T), x.matmul(w.slice(0, 1, 3).T), x.matmul(w.reshape([2, 3, 8]).permute([0, 2, 1]))]);
    expect(kinds(plan)).toEqual(["contract b", "contract b", "contract a", "contract b", "contract b"]);
    const [nt, nn, , part] = plan.kernels.map((k) => (k.kind === "contract" ? k.b : null));
    expect([nt?.strides, nt?.offset, nn?.strides, part?.offset]).toEqual([[1, 8], 0, [8, 1], 8]);
    expect(plan.buffers.some((b) => b.kind === "slot")).toBe(false);
  });
  test("it is made whole once for those who want numbers, and products read codes all the same", () => {
    expect(kinds(planOf([x.matmul(w.T), w.mul(2)])).sort()).toEqual(["contract b", "dequantize", "map"]);
    expect(kinds(planOf([x.matmul(w.T), w])).sort()).toEqual(["contract b", "dequantize"]);
  });
  test("a device that does not decode reads numbers", () => { expect(kinds(planOf([x.matmul(w.T)], false))).toEqual(["dequantize", "contract"]); });
  test("codes that begin inside a buffer are copied, for blocks count from the first one", () => {
    const codes = u8(Array.from({ length: 32 }, (_, i) => i)).slice(0, 8, 32), part = dequantize(codes, { shape: [6, 8], bits: 4, block: 4, table, scales: { values: tensor(Array.from({ length: 12 }, () => 1)) } });
    expect(kinds(planOf([x.matmul(part.T)]))).toEqual(["map", "contract b"]);
  });
});

describe("derived tensors", () => {
  test("reading one leaves it a recipe; its stores may change", async () => {
    const s = store(tensor([1, 2])), twice = derived([s], () => s.mul(2), "twice"), before = twice.add(1);
    expect(await twice.array()).toEqual([2, 4]);
    expect(twice.value).toBe(null);
    assign([s], [s.add(1)]);
    expect(await twice.add(1).array()).toEqual([5, 7]);
    await expect(before.data()).rejects.toThrow(/version/);
    s.set({ dtype: "f32", shape: [2], data: Float32Array.of(5, 6) });
    expect(await twice.array()).toEqual([10, 12]);
  });
  test("a compiled step takes one in its arguments as it takes a store", async () => {
    const s = store(tensor([1, 2])), model = { w: derived([s], () => s.mul(2)) }, step = compile((m: { w: Tensor }, x: Tensor) => x.mul(m.w));
    expect(await step(model, tensor([1, 1])).array()).toEqual([2, 4]);
    const { plansMade } = memory();
    s.set({ dtype: "f32", shape: [2], data: Float32Array.of(3, 4) });
    expect(await step(model, tensor([1, 2])).array()).toEqual([6, 16]);
    expect(memory().plansMade).toBe(plansMade);
    const same = compile((m: { w: Tensor; s: Tensor }) => ({ ...m, y: m.w.sum() })), whole = { ...model, s };
    for (let i = 0; i < 2; i++) { const r = same(whole); expect([r.w, r.s]).toEqual([model.w, s]); expect(r.w === model.w && r.s === s).toBe(true); }
  });
});

test.each([
  ["codes", () => small(u8([1, 2])), /codes must be \[3\] for \[5\] with 4 bits/],
  ["scales", () => small(u8([1, 2, 3]), { block: 1 }), /scales must be \[5\]/],
  ["table", () => small(u8([1, 2, 3]), { table: tensor([1, 2]) }), /table must be \[16\]/],
  ["bits", () => small(u8([1, 2, 3]), { bits: 5 as 4 }), /4 or 8 bits, not 5/],
  ["block", () => small(u8([1, 2, 3]), { block: 0.5 }), /block must be a whole number/],
  ["dtype", () => small(tensor([1, 2, 3])), /codes must be u8, got f32/],
])("refuses wrong %s", (_what, make, message) => { expect(make).toThrow(message); });
