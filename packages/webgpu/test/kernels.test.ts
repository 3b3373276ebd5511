/** Laws of single kernels on a software GPU: printed WGSL equals the interpreter for any shape, strides, dtype and formula. */
import { decode, type DType, type Kernel, leaf, type PlanSpec, type View } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Case, close, expected, planOf, toHost } from "../../wasm/test/harness.ts";
import { drawCase, laws, type Law, show } from "../../wasm/test/laws.ts";
import { lower } from "../src/lower.ts";
import type { Program, Target } from "../src/program.ts";
import { type Bench, compile, execute, open } from "./execute.ts";

const gpu = await open(), compiler = await open("backend=null");
const runs = (law: Law): number => Math.min(60, Math.ceil((law.runs ?? 150) / 3));
const mine = laws.filter((l) => !/matrices|epilogues/.test(l.name));

const encoded = (dtype: DType, values: readonly number[]) => { const host = toHost({ dtype, values: [...values] }); return host; };
async function check(bench: Bench, c: Case, n: number, scale: number, target: Target = bench.target): Promise<Program> {
  const plan: PlanSpec = planOf(c), program = lower(c.kernel, plan, target);
  const want = expected(c), got = await execute(bench, plan, program, c.buffers.map((b) => ({ dtype: b.dtype, values: [...b.values] })), c.uniforms);
  want.forEach((w, i) => { close(encoded(w.dtype, got[i]), w, n, scale); });
  return program;
}
const explain = (e: unknown, c: Case): Error => new Error(`${e instanceof Error ? e.message : String(e)}\n${show(c)}`);

describe.runIf(gpu !== null)("on a software GPU", () => {
  const bench = gpu as Bench;
  test.each(mine.map((l) => [l.name, l] as const))("%s", async (_name, law) => {
    await fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 2 ** 31 - 1 }), async (seed) => {
      const c = drawCase(law, seed);
      try { await check(bench, c, law.ulp ?? 64, law.scale ?? 8); } catch (e) { throw explain(e, c); }
    }), { numRuns: runs(law), seed: 1 });
  });
});
