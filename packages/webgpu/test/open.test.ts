/** What a device is asked for, and Dawn's switches of each mode. */
import { expect, test } from "vitest";
import { dawnFlags } from "../src/gpu.ts";
import { webgpu } from "../src/index.ts";
import { MockGpu } from "./mock.ts";

test("a device is asked for every feature that kernels use and its adapter has, and for the adapter's own limits", async () => {
  const { gpu } = new MockGpu({ features: ["shader-f16", "subgroups", "timestamp-query", "depth-clip-control"], limits: { maxComputeInvocationsPerWorkgroup: 512 } });
  const adapter = (await gpu.requestAdapter())!, asked: GPUDeviceDescriptor[] = [];
  const watched = new Proxy(adapter, { get: (t, key) => (key === "requestDevice" ? (d: GPUDeviceDescriptor) => { asked.push(d); return t.requestDevice(d); } : Reflect.get(t, key) as unknown) });
  const { target } = await webgpu({ gpu: { requestAdapter: () => Promise.resolve(watched) } as unknown as GPU });
  expect([...asked[0].requiredFeatures ?? []].sort()).toEqual(["shader-f16", "subgroups", "timestamp-query"]);
  expect(asked[0].requiredLimits).toMatchObject({ maxComputeInvocationsPerWorkgroup: 512, maxStorageBufferBindingSize: expect.any(Number) });
  expect(target.f16).toBe(true);
});

test("Dawn's switches: fast drops checks, safe keeps them, both ask for f16 on NVIDIA", () => {
  const fast = dawnFlags({}).join(" "), safe = dawnFlags({ mode: "safe" }).join(" ");
  for (const flags of [fast, safe]) expect(flags).toMatch(/enable-dawn-features=\S*allow_unsafe_apis\S*vulkan_enable_f16_on_nvidia/);
  expect(fast).toMatch(/skip_validation/);
  expect(fast).toMatch(/disable-dawn-features=\S*lazy_clear_resource_on_first_use/);
  expect(safe).not.toMatch(/skip_validation|disable_robustness|lazy_clear/);
});
