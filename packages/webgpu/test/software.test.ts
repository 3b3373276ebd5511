/** The runtime on real implementations: a software driver where one is found, and Dawn's null backend, which compiles everything and runs nothing. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { type Tensor, add, assign, clearPlans, compile, explain, fromHost, getDevice, matmul, memory, mul, setDevice, store, tensor } from "@adjoint/tensor";
import { build } from "esbuild";
import { afterAll, describe, expect, test } from "vitest";
import { adapters, showProfile, webgpu } from "../src/index.ts";
import { WebGpuBackend } from "../src/backend.ts";
import { Session } from "../src/session.ts";
import { planOf } from "./plans.ts";

const host = getDevice(), found = (await adapters({ mode: "safe" })).length > 0;
afterAll(() => { setDevice(host); });

test("this machine has a GPU, if only a software one", () => { expect(found, "no adapter: run tests through `npm test`, or see docs/webgpu.md").toBe(true); });

describe.runIf(found)("software driver", () => {
  test("a compiled step: equal to plain numbers, one submit, nothing made in its steady state", async () => {
    const device = await webgpu({ mode: "safe", allowSoftware: true });
    setDevice(device);
    const s = store(tensor([1, 1, 1, 1])), y = tensor([10, 20, 30, 40]);
    const step = compile((x: Tensor) => { const v = add(mul(x, y), s.read()); assign([s], [v]); return v.sum(); });
    let sum = 4, before = { ...device.stats };
    for (let i = 0; i < 8; i++) {
      if (i === 3) before = { ...device.stats };
      const x = tensor([i, i, i, i]);
      sum += 100 * i;
      expect(await step(x).item()).toBe(sum);
    }
    const { stats } = device;
    expect(stats.submits - before.submits).toBe(5);
    for (const key of ["buffersCreated", "bindGroupsCreated", "pipelines", "readbacksCreated", "plans", "devices"] as const) expect([key, stats[key]]).toEqual([key, before[key]]);
    expect(memory(device).pages).toBe(stats.buffersCreated);
    expect(device.memoryByClass.state).toBe(256);
    expect(device.showMemory()).toMatch(/other stores that plans write +0\.0 MiB/);
    await device.close();
  });
  test("explain shows WGSL; profile shows where the time went", async () => {
    const device = await webgpu({ mode: "safe", allowSoftware: true, profile: true });
    setDevice(device);
    const a = fromHost({ dtype: "f32", shape: [32, 32], data: new Float32Array(1024).fill(0.5) });
    const y = matmul(a, a).add(a);
    expect(explain(y).source).toMatch(/workgroups[\s\S]*@compute/);
    expect((await y.data())[0]).toBe(8.5);
    const rows = await device.profile();
    expect(rows.length).toBeGreaterThan(0);
    expect(rows.every((r) => r.count === 1 && r.ms >= 0)).toBe(true);
    expect(showProfile(rows)).toMatch(/GFLOP\/s[\s\S]*matmul/);
    expect(await device.profile()).toEqual([]);
    await device.close();
    await expect((await webgpu({ mode: "safe", allowSoftware: true })).profile()).rejects.toThrow(/times were not measured/);
  });
  test("a WGSL mistake: kernel, line and Dawn's message", async () => {
    const backend = new WebGpuBackend(await Session.open({ mode: "safe", allowSoftware: true }), () => ({
      scratch: [], dispatches: [{ code: "@group(0) @binding(0) var<uniform> P: array<vec4<u32>, 1>;\n@group(0) @binding(2) var<storage, read_write> b0: array<f32>;\n@compute @workgroup_size(1) fn main() {\n  b0[0] = sinus(1.0);\n}", bindings: [{ buffer: 0, access: "read_write" }], params: [0, 0, 0, 0], numbers: false, workgroups: [1, 1, 1], label: "sine", flops: 0, bytes: 0 }],
    }));
    const plan = backend.prepare(planOf([["output", 1]], [{ code: "x", reads: [], writes: [0] }]));
    await expect(backend.read(backend.run(plan, { stores: [], inputs: [], uniforms: [] }).take!(0))).rejects.toThrow(/kernel "sine" does not compile\n {2}line 4: .*sinus[\s\S]*b0\[0\] = sinus\(1\.0\);/);
    await backend.close();
  });
  test("a destroyed device is replaced", async () => {
    const session = await Session.open({ mode: "safe", allowSoftware: true }), device = new WebGpuBackend(session), b = device.alloc("f32", 2);
    device.write(b, new Float32Array([1, 2]));
    const reading = device.read(b);
    session.device.gpu.destroy();
    await expect(reading).rejects.toThrow(/lost \(destroyed/);
    const fresh = device.alloc("f32", 2);
    device.write(fresh, new Float32Array([3, 4]));
    expect([...(await device.read(fresh))]).toEqual([3, 4]);
    await expect(device.read(b)).rejects.toThrow(/resume from the last checkpoint/);
    await device.close();
  });
});

describe("null backend", () => {
  test("compiles and replays, and says when memory ends", async () => {
    const device = await webgpu({ backend: "null" });
    setDevice(device);
    const a = fromHost({ dtype: "f32", shape: [16, 16], data: new Float32Array(256) });
    await matmul(a, a).data();
    expect(device.target.f16).toBe(true);
    clearPlans(device);
    // Dawn's null backend has half a gigabyte
    const cells = Array.from({ length: 12 }, () => device.alloc("f32", 2 ** 24));
    await expect((async () => { for (const c of cells) { device.write(c, new Float32Array(2 ** 24)); await new Promise((r) => { setTimeout(r, 0); }); await device.pace(0); } })()).rejects.toThrow(/out of memory[\s\S]*parameters +\d+\.\d MiB/);
    await device.close();
  });
});

test.each(["null", "software"])("a process ends by itself when its work is done: %s", async (kind) => {
  if (kind === "software" && !found) return;
  const folder = fileURLToPath(new URL("../node_modules/.exit", import.meta.url)), file = `${folder}/${kind}.mjs`;
  await build({
    bundle: true, platform: "node", format: "esm", conditions: ["@adjoint/source"], external: ["webgpu"], outfile: file, logLevel: "error",
    stdin: {
      resolveDir: fileURLToPath(new URL("../src", import.meta.url)), loader: "ts",
      contents: `import { webgpu } from "./index.ts"; import { setDevice, tensor } from "@adjoint/tensor";
        setDevice(await webgpu(${kind === "null" ? '{ backend: "null" }' : '{ mode: "safe", allowSoftware: true }'}));
        const x = await tensor([1, 2]).add(1).data(); console.log("done", x.length);`,
    },
  });
  const r = spawnSync(process.execPath, [file], { encoding: "utf8", timeout: 25_000 });
  expect([r.status, r.stdout.trim()]).toEqual([0, "done 2"]);
});
