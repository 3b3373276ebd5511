/** The GPU benchmark's own arithmetic, and that no rival can take the table down. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { agree, judge, rate, type Row, table, times } from "../gpu/report.ts";
import { adapterNumbers, gpt2Tiny, weightNumbers } from "../gpu/same.ts";
import { System } from "../gpu/system.ts";
import { Gpt2 } from "../gpu/gpt2.ts";
import { lora } from "@adjoint/lora";
import { flatten, Tensor } from "@adjoint/tensor";

const row = (system: string, rounds: readonly (number | undefined)[], task = "gpt2-lora"): Row => ({ task, system, ms: 1, rounds, work: 1, unit: "tokens", bytes: 0 });
const child = (program: string, patience = 20): System => new System("x", [process.execPath, ["-e", program]], { rival: true, patience });
const question = { task: "gemm-f32", seconds: 0.1, smoke: true, scale: 1 };
const hello = `console.log(JSON.stringify({ system: "s", adapter: "a", software: true }));`;

describe("the report of the GPU benchmark", () => {
  it("times: the median of quotients within rounds, of rounds that both finished", () => {
    const rows = [row("adjoint", [2, 20, undefined, 4]), row("jax-js", [6, 60, 1, 20])];
    expect(times(rows, "gpt2-lora", ["adjoint", "jax-js"])).toBe(3);
    expect(times(rows, "gpt2-lora", ["adjoint", "torch"])).toBeUndefined();
    fc.assert(fc.property(fc.array(fc.tuple(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 50 })), { minLength: 1, maxLength: 5 }), fc.integer({ min: 1, max: 9 }), (xs, slow) => {
      // a minute in which everything is slower changes no quotient
      const quotient = (f: number): number | undefined => times([row("adjoint", xs.map(([a], i) => (i === 0 ? f * a : a))), row("jax-js", xs.map(([, b], i) => (i === 0 ? f * b : b)))], "gpt2-lora", ["adjoint", "jax-js"]);
      expect(quotient(slow)).toBeCloseTo(quotient(1)!, 10);
    }));
  });
  it("rates in units that fit the column", () => {
    expect(rate({ work: 2 * 4096 ** 3, ms: 5, unit: "flops" })).toBe("27.5 TFLOP/s");
    expect(rate({ work: 2 ** 29, ms: 0.2, unit: "bytes" })).toBe("2.68 TB/s");
    expect(rate({ work: 4096, ms: 100, unit: "tokens" })).toBe("40960 tok/s");
    expect(table(["a", "bb"], [["ccc", "d"]])).toBe("a     bb\nccc    d");
  });
  it("losses agree within a thousandth, small numbers within a thousandth of 0.02", () => {
    expect(agree([5, 4], [5.004, 4.003])).toBe(true);
    expect(agree([5, 4], [5.004, 4.005])).toBe(false);
    expect(agree([5], [5, 5])).toBe(false);
    expect(agree([1e-4], [1.1e-4])).toBe(true);
    expect(agree([5], [NaN])).toBe(false);
  });
  it("a goal counts where both have a figure, and fails where ours has none or nobody could be compared with", () => {
    const rows = [row("adjoint", [1]), row("jax-js", [4])], why = (): string => " (no)";
    expect(judge("gpt2-lora:jax-js=3,gpt2-lora:tfjs-webgpu=3", rows, why)).toEqual({ lines: ["reached  gpt2-lora: adjoint over jax-js 4.00, wanted 3", "not compared  gpt2-lora: tfjs-webgpu has no figure (no)"], reached: true });
    expect(judge("gpt2-lora:jax-js=5", rows, why).reached).toBe(false);
    expect(judge("gpt2-lora:tfjs-webgpu=3", rows, why).reached).toBe(false);
    expect(judge("gpt2-lora:jax-js=3,llama-lora:jax-js=3", rows, why).reached).toBe(false);
    expect(() => judge("gpt2-lora=3", rows, why)).toThrow("not task:system=number");
  });
  it("rivals get our numbers: matrices turned, adapters as they start here", async () => {
    const turned = weightNumbers([3, 2], "bf16", true), straight = weightNumbers([3, 2], "bf16");
    expect([...turned]).toEqual([0, 2, 4, 1, 3, 5].map((i) => straight[i]));
    const tuned = lora(new Gpt2(gpt2Tiny), { r: 16, loraAlpha: 32, targetModules: "all-linear", seed: 1 }), { paths, leaves } = flatten(tuned.adapter, (x): x is Tensor => x instanceof Tensor);
    const ours = await leaves[paths.findIndex((path) => path.includes("h.1.mlp.c_fc.lora_A"))].data(), theirs = adapterNumbers("h.1.mlp.c_fc", 64), weight = await tuned.base.h[1].mlp.c_fc.weight.cast("f32").data();
    for (const [r, i] of [[0, 0], [3, 7], [15, 63]]) expect(theirs[i * 16 + r]).toBe(ours[r * 64 + i]);
    expect([...weight].slice(0, 100).map(Number)).toEqual([...weightNumbers([256, 64])].slice(0, 100));
  });
  it("a system that is missing, refuses, dies or hangs is a line, never a crash", { timeout: 60_000 }, async () => {
    await expect(new System("x", ["no-such-program", []], { rival: false, patience: 20 }).start()).rejects.toThrow("there is no program no-such-program here");
    await expect(child(`console.log(JSON.stringify({ error: "no adapter" }))`).start()).rejects.toThrow("no adapter");
    await expect(child(`console.error("Segmentation fault"); process.exit(3)`).start()).rejects.toThrow("it ended with exit code 3: Segmentation fault");
    const dies = child(`${hello} process.stdin.once("data", () => process.exit(9))`);
    expect(await dies.ask(question)).toMatchObject({ error: "it ended with exit code 9" });
    expect(dies.running).toBe(false);
    expect(await dies.ask(question)).toMatchObject({ error: "it ended with exit code 9" });      // started again
    const hangs = child(`${hello} setInterval(() => {}, 1000)`, 2);
    expect(await hangs.ask(question)).toMatchObject({ error: "no answer in 2 s" });
    const prints = child(`${hello} process.stdin.once("data", () => { console.log("tuning ..."); console.log(JSON.stringify({ task: "gemm-f32", ms: 1 })); })`);
    expect(await prints.ask(question)).toMatchObject({ ms: 1 });
    prints.end();
  });
});
