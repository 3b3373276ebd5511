/** What a GPU step costs before any GPU runs it: the LoRA step of GPT-2's small size on Dawn's null device, which compiles everything and computes nothing. */
import { describe, expect, it } from "vitest";
import { accesses, bytesOf, pace, type PlanSpec, setDevice } from "@adjoint/tensor";
import { type WebGpuBackend, webgpu } from "@adjoint/webgpu";
import { lower } from "../../packages/webgpu/src/lower.ts";
import { stepsOf } from "../../packages/webgpu/src/group.ts";
import { layOut } from "../../packages/webgpu/src/plan.ts";
import { gpt2Step } from "../gpu/tasks.ts";

/** The null device, or why it cannot be had here (Dawn's binary exists for common platforms only). */
async function nullDevice(): Promise<WebGpuBackend | null> {
  try { return await webgpu({ backend: "null", allowSoftware: true }); } catch (error) {
    if (process.platform === "linux" && process.arch === "x64") throw error;
    return null;
  }
}
const device = await nullDevice();

class Counted extends Error { readonly plan: PlanSpec; constructor(plan: PlanSpec) { super("counted"); this.plan = plan; } }
/** The plan of one step, before it takes any memory. */
function planOfStep(run: () => void): PlanSpec {
  setDevice(Object.assign(Object.create(device), { prepare: (plan: PlanSpec) => { throw new Counted(plan); } }) as WebGpuBackend);
  try { run(); } catch (error) { if (error instanceof Counted) return error.plan; throw error; }
  throw new Error("the step made no plan");
}
/** Every buffer that a kernel reads or writes, once a kernel. */
const least = (plan: PlanSpec): number => plan.kernels.reduce((sum, k) => {
  const { reads, writes } = accesses(k), seen = [...reads, ...writes];
  return sum + [...new Set(seen.map((v) => v.buffer))].reduce((n, b) => n + Math.min(plan.buffers[b].length, k.kind === "gather" && b === k.table.buffer ? k.rows * k.cols : Infinity) * bytesOf(plan.buffers[b].dtype), 0);
}, 0);

describe.skipIf(device === null)("the LoRA step of GPT-2 small, r = 16 on all 48 linear layers", () => {
  it("is one submit, makes nothing, and costs at most 3 ms of host time", { timeout: 120_000 }, async () => {
    const gpu = device!;
    setDevice(gpu);
    const { run, stores = [] } = gpt2Step({ smoke: false, scale: 0.125, length: 128 });       // the null device has half a GiB
    for (const s of stores) await s.slice(0, 0, 1).sum().data();                                 // weights go up one by one
    for (let i = 0; i < 4; i++) { run(); await pace(0); }
    const start = { ...gpu.stats }, times: number[] = [], steps = 40;
    for (let i = 0; i < steps; i++) {
      const begun = performance.now();
      run();
      times.push(performance.now() - begun);
      await pace(1);
    }
    await pace(0);
    const end = { ...gpu.stats };
    times.sort((a, b) => a - b);
    console.log(`128 tokens: ${(end.dispatches - start.dispatches) / steps} dispatches in ${(end.submits - start.submits) / steps} submit; host time ${times[0].toFixed(2)} ms at best, ${times[steps >> 1].toFixed(2)} ms median`);
    expect((end.submits - start.submits) / steps).toBe(1);
    for (const key of ["buffersCreated", "bindGroupsCreated", "pipelines", "plans", "readbacksCreated"] as const) expect(end[key], key).toBe(start[key]);
    expect(times[0]).toBeLessThanOrEqual(3);        // the best of 40: other work on the machine only adds
  });

  // last: what this step would have assigned stays pending in this process
  it("takes at most 450 dispatches for 2 x 512 tokens, and moves at most 1.5 times the plan's bytes", { timeout: 120_000 }, () => {
    const plan = planOfStep(gpt2Step({ smoke: false, scale: 0.25 }).run), { target } = device!, wide = { ...target, limits: { ...target.limits, bindingBytes: 2 ** 31 - 4 } };
    const { items } = layOut(plan, plan.kernels.map((k) => lower(k, plan, wide)), wide), dispatches = items.flatMap(stepsOf).map((s) => s.dispatch);
    const bytes = dispatches.reduce((n, d) => n + d.bytes, 0), bound = least(plan);
    console.log(`${plan.kernels.length} kernels in ${items.length} dispatches; ${(bytes / 1e9).toFixed(2)} GB moved, ${(bytes / bound).toFixed(2)} times the least`);
    expect(items.length).toBeLessThanOrEqual(450);
    expect(bytes).toBeLessThanOrEqual(1.5 * bound);
  });
});
