/** What a user does: tests an op of their own, and sees a wrong gradient named. */
import { Linear } from "@adjoint/nn";
import { referenceBackend, stopGradient, store, tensor, unary, type Tensor } from "@adjoint/tensor";
import { wasmSync } from "@adjoint/wasm";
import { customGradient } from "@adjoint/autograd";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { checkGradient, checkModel, conform, evaluate, hostOf, judge, oracle, programs, shapes, trees } from "../src/index.ts";

const softsign = (slope: (g: Tensor, x: Tensor) => Tensor) => unary("softsign", {
  forward: (x) => x.div(x.abs().add(1)),
  vjp: (g, { inputs: [x] }) => [slope(g, x)],
  domain: [{ low: -3, high: 3 }],
});

describe("an op of one's own", () => {
  test("the README's op obeys every law", async () => {
    const right = softsign((g, x) => g.div(x.abs().add(1).square()));
    const laws = conform(referenceBackend, [right], { graphs: 5 }).laws.filter((l) => l.subject === "softsign");
    expect(laws.map((l) => l.kind)).toEqual(["values", "gradients", "differences", "fusion", "layouts"]);
    for (const law of laws) await law.check();
  });

  test("a wrong gradient is found and printed small", async () => {
    const wrong = softsign((g, x) => g.div(x.abs().add(1)));
    const law = conform(referenceBackend, [wrong]).laws.find((l) => l.kind === "differences");
    await expect(law?.check()).rejects.toThrow(/softsign\(float\[1?\]/);
  });

  test("a wrong gradient is found on a backend without f64 too", async () => {
    const wrong = softsign((g, x) => g.div(x.abs().add(1))), laws = conform(wasmSync(), [wrong], { graphs: 1, runs: 4 }).laws.filter((l) => l.subject === "softsign");
    expect(laws.map((l) => l.kind)).toEqual(["values", "gradients", "differences", "fusion", "layouts"]);
    await expect(laws.find((l) => l.kind === "differences")?.check()).rejects.toThrow("softsign(float");
    expect(conform(wasmSync()).laws.some((l) => l.kind === "differences")).toBe(false);      // ours: where the reference is tested
  });

  test("a list and known options", () => {
    expect(() => Reflect.apply(conform, null, [referenceBackend, softsign])).toThrow("conform(backend, [op])");
    expect(() => Reflect.apply(conform, null, [referenceBackend, [], { numRuns: 3 }])).toThrow("known options: runs, graphs, length, seed, column");
  });
});

describe("checkGradient", () => {
  const x = { dtype: "f64" as const, shape: [3], data: Float64Array.of(0.5, -1.25, 2) };
  test("accepts x³ at both orders and says what it compared", async () => {
    const checked = await checkGradient((t) => t.mul(t).mul(t), [x], { order: 2 });
    expect(checked.map((c) => c.order)).toEqual([1, 2]);
    for (const c of checked) expect(Math.abs(c.gradient - c.differences)).toBeLessThan(1e-6 * (1 + Math.abs(c.gradient)));
  });
  test("refuses a gradient that is right at order one only", async () => {
    const f = customGradient((t) => t.mul(t), (g, _, [t]) => [g.mul(2).mul(stopGradient(t))]);
    await checkGradient(f, [x]);
    await expect(checkGradient(f, [x], { order: 2 })).rejects.toThrow("order 2");
  });
  test("says where a gradient is wrong", async () => {
    const y = { dtype: "f64" as const, shape: [2, 2], data: Float64Array.of(1, 2, 3, 4) };
    const f = customGradient((a, b) => a.mul(b), (g, _, [a, b]) => [g.mul(b), g.mul(a).mul(tensor([[1, 1], [2, 1]]).cast("f64"))]);
    await expect(checkGradient(f, [y, y])).rejects.toThrow(/most at input 1 \[2, 2\], element \[1, 0\] = 3: the gradient of ⟨v, f⟩, v fixed, is .*, differences say/);
    const half = customGradient((a) => a.square(), (g, _, [a]) => [g.mul(a)]);       // a number: its own gradient is told
    await expect(checkGradient((a) => half(a).sum(), [y])).rejects.toThrow(/most at input 0 \[2, 2\], element \[1, 1\] = 4: the gradient is 4, differences say (8|7\.9999999\d*|8\.0000000\d*)$/);
    const last = customGradient((t) => t.mul(2), (g) => [g.mul(tensor([2, 2, 2, 3]).cast("f64"))]), w = { dtype: "f64" as const, shape: [4], data: new Float64Array(4) };
    for (let seed = 0; seed < 12; seed++) await expect(checkGradient(last, [w], { seed })).rejects.toThrow("element [3]");     // no seed leaves an element out
  });
  test("a model's parameters are named", async () => {
    const net = { fc: new Linear(store(tensor([[0.5, -0.25], [1, 0.125]])), store(tensor([0.5, 1]))), x: tensor([[1, 2]]) };
    const checked = await checkModel(net, (m) => m.fc.forward(m.x.cast("f64")).tanh().sum(), { order: 2 });
    expect(checked.length).toBe(2);
    expect(net.fc.weight.dtype).toBe("f32");
    const off = customGradient((t) => t.mul(3), (g) => [g.mul(2)]);
    await expect(checkModel(net, (m) => off(m.fc.bias ?? m.x).sum().add(m.fc.forward(m.x.cast("f64")).sum()))).rejects.toThrow(/most at fc\.bias \[2\], element/);
    await expect(checkModel({ x: tensor([1]) }, () => tensor([1]))).rejects.toThrow("no floating-point store");
  });
  test("refuses inputs that it cannot move", async () => {
    await expect(checkGradient((t) => t.mul(2), [{ dtype: "f32", shape: [1], data: Float32Array.of(1) }])).rejects.toThrow("f64");
  });
});

describe("the oracle", () => {
  test("knows sums, products and their bounds", async () => {
    const y = tensor([[1, 2], [3, 4]]).matmul(tensor([[0.1], [0.2]])), [want] = oracle([y], "wasm");
    expect(want.values[1]).toBeCloseTo(1.1, 6);
    expect(want.errors[1]).toBeGreaterThan(0);
    expect(want.errors[1]).toBeLessThan(2e-6);
    expect(judge(want, (await evaluate([y], referenceBackend))[0]).fault).toBeNull();
    expect(judge(want, [0.5, 1.1001]).fault).toMatch("element 1");
    expect(judge(want, [0.5]).fault).toMatch("1 values");
  });
});

describe("arbitraries", () => {
  test("axes of 1, equal axes and odd sizes all occur; counterexamples are readable", () => {
    const drawn = fc.sample(shapes({ minRank: 2 }), { numRuns: 300, seed: 1 });
    expect(drawn.some((s) => s.includes(1))).toBe(true);
    expect(drawn.some((s) => s[0] === s[1] && s[0] > 1)).toBe(true);
    expect(drawn.some((s) => s.some((d) => d > 3))).toBe(true);
    const [p] = fc.sample(programs(), { numRuns: 1, seed: 1 });
    expect(fc.stringify(p)).toMatch(/^v0 = float\[/);
    expect(fc.sample(trees(fc.constant(1)), { numRuns: 50, seed: 1 }).some((t) => typeof t === "object")).toBe(true);
    expect(hostOf({ shape: [1], dtype: "i32", values: [3] }, "f32").data).toEqual(Int32Array.of(3));
  });
});
