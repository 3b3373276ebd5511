/** What a user does: tests an op of their own, and sees a wrong gradient named. */
import { referenceBackend, stopGradient, tensor, unary, type Tensor } from "@adjoint/tensor";
import { customGradient } from "@adjoint/autograd";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { checkGradient, conform, evaluate, hostOf, judge, oracle, programs, shapes, trees } from "../src/index.ts";

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
