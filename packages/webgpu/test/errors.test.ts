/** Everything that can go wrong on a device is a clear error; nothing hangs. */
import { type DeviceBuffer, DeviceError } from "@adjoint/tensor";
import { describe, expect, test, vi } from "vitest";
import { adapters, webgpu } from "../src/index.ts";
import { MockGpu } from "./mock.ts";
import { mocked, planOf, settle } from "./plans.ts";

const f32 = (...xs: number[]): Float32Array => new Float32Array(xs);
const inc = (n = 2): ReturnType<typeof planOf> => planOf([["input", n], ["output", n]], [{ code: "inc", reads: [0], writes: [1] }]);
const grow = (n = 2): ReturnType<typeof planOf> => planOf([["store", n], ["output", n]], [{ code: "inc", reads: [0], writes: [1] }]);

describe("opening", () => {
  test("no adapter, no device, a device that is refused", async () => {
    await expect(webgpu({ gpu: new MockGpu({ noAdapter: true }).gpu })).rejects.toThrow(/no adapter was found[\s\S]*fix: install the GPU's driver/);
    await expect(webgpu({ gpu: new MockGpu({ device: "null" }).gpu })).rejects.toThrow(/gives no device/);
    await expect(webgpu({ gpu: new MockGpu({ device: "reject" }).gpu })).rejects.toThrow(/gives no device: no more devices/);
  });
  test("unknown options and values", async () => {
    await expect(webgpu({ speed: "high" } as object)).rejects.toThrow(/unknown option speed[\s\S]*fix: one of adapter/);
    await expect(webgpu({ mode: "quick" } as object)).rejects.toThrow(/mode is "quick"[\s\S]*fix: one of fast, safe/);
    await expect(webgpu({ matmul: "bf16" } as object)).rejects.toThrow(/matmul/);
    await expect(webgpu({ dispatchesPerSubmit: 0 })).rejects.toThrow(/dispatchesPerSubmit/);
  });
  test("an adapter by number or by a part of its name", async () => {
    const gpu = new MockGpu().gpu;
    expect((await adapters({ gpu })).map((a) => a.architecture)).toEqual(["paper"]);
    expect((await webgpu({ gpu, adapter: "PAPER" })).adapter.vendor).toBe("mock");
    expect((await webgpu({ gpu, adapter: 0 })).adapter.vendor).toBe("mock");
    await expect(webgpu({ gpu, adapter: "nvidia" })).rejects.toThrow(/no adapter "nvidia"[\s\S]*0 mock paper a GPU that is not one/);
    await expect(webgpu({ gpu, adapter: 3 })).rejects.toThrow(/no adapter 3/);
  });
  test("a software adapter is said aloud, unless it is wanted", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    await webgpu({ gpu: new MockGpu({ info: { isFallbackAdapter: true } }).gpu });
    expect(warn.mock.calls.flat().join()).toMatch(/mock paper .* is a program on the CPU/);
    warn.mockClear();
    await webgpu({ gpu: new MockGpu({ info: { architecture: "llvmpipe" } }).gpu, allowSoftware: true });
    expect(warn).not.toHaveBeenCalled();
    expect((await adapters({ gpu: new MockGpu({ info: { description: "llvmpipe (LLVM 15)" } }).gpu }))[0].software).toBe(true);
    warn.mockRestore();
  });
});

describe("kernels and validation", () => {
  test("a text that does not compile says kernel, line and message, at the answer and at the next call", async () => {
    const { backend } = await mocked(), plan = backend.prepare(planOf([["input", 2], ["output", 2]], [{ code: "fine\nlet x = !!;", reads: [0], writes: [1] }]));
    const answer = backend.run(plan, { stores: [], inputs: [f32(1, 2)], uniforms: [] }).take!(0);
    await expect(backend.read(answer)).rejects.toThrow(/kernel "fine\nlet x = !!;" does not compile\n {2}line 2: no such thing: !!\n {4}let x = !!;/);
    expect(() => backend.run(plan, { stores: [], inputs: [f32(1, 2)], uniforms: [] })).toThrow(/does not compile/);
    const good = backend.prepare(inc());
    expect([...(await backend.read(backend.run(good, { stores: [], inputs: [f32(1, 2)], uniforms: [] }).take!(0)))]).toEqual([2, 3]);
  });
  test("an invalid submit fails its own answers and the next call", async () => {
    const { gpu, backend } = await mocked(), plan = backend.prepare(inc());
    await settle();
    for (const b of gpu.device.buffers) if (b.label === "adjoint step values") b.destroy();
    const answer = backend.run(plan, { stores: [], inputs: [f32(1, 2)], uniforms: [] }).take!(0);
    await expect(backend.read(answer)).rejects.toThrow(/webgpu: a step: submit uses adjoint step values, which is destroyed/);
    await expect(backend.pace(0)).rejects.toThrow(/destroyed/);
    await backend.pace(0);
  });
  test("an error of no call reaches the next read", async () => {
    const { gpu, backend } = await mocked(), b = backend.alloc("f32", 2);
    await backend.read(b);
    gpu.device.onuncapturederror!({ error: new Error("strange things") });
    await expect(backend.read(b)).rejects.toThrow(/the device reports: strange things/);
    await backend.read(b);
  });
  test("reading back that fails", async () => {
    const { gpu, backend } = await mocked(), plan = backend.prepare(inc());
    gpu.failMap = "no memory to map";
    await expect(backend.read(backend.run(plan, { stores: [], inputs: [f32(1, 2)], uniforms: [] }).take!(0))).rejects.toThrow(/reading back failed: no memory to map/);
  });
});

describe("too much", () => {
  test("a buffer over the binding limit is named", async () => {
    const { backend } = await mocked({ limits: { maxStorageBufferBindingSize: 4096 } });
    expect(() => backend.alloc("f32", 2000)).toThrow(/a buffer of 2000 f32 takes 8000 bytes; this device binds at most 4096[\s\S]*fix: store it in half precision/);
    expect(() => backend.prepare(inc(2000))).toThrow(/input of 2000 f32 \(kernel "inc"\) takes 8000 bytes; this device binds at most 4096/);
    const plan = inc(2000), named = { ...plan, buffers: plan.buffers.map((b) => ({ ...b, name: "model.embed_tokens.weight" })) };
    expect(() => backend.prepare(named)).toThrow(/model\.embed_tokens\.weight, input of 2000 f32/);
    expect(() => backend.prepare(planOf([["input", 2], ["output", 2]], [{ code: "inc", reads: [0], writes: [1], scratch: 5000 }]))).toThrow(/temporary memory of inc\*5000/);
  });
  test("a buffer over the device's size", async () => {
    const { backend } = await mocked({ limits: { maxBufferSize: 2 ** 19 } });
    const b = backend.alloc("f32", 2 ** 18);
    backend.write(b, new Float32Array(2 ** 18));
    await expect(backend.read(b)).rejects.toThrow(/a buffer of 1048576 bytes .* this device allows 524288/);
  });
  test("out of memory says which class holds what, before anything runs", async () => {
    const { gpu, backend } = await mocked();
    const b = backend.alloc("f32", 2 ** 20);
    backend.write(b, new Float32Array(2 ** 20));
    gpu.device.room = 2 ** 20;
    const plan = backend.prepare(inc(2 ** 20)), submits = gpu.count.submits;
    const answer = backend.run(plan, { stores: [], inputs: [new Float32Array(2 ** 20)], uniforms: [] }).take!(0);
    await expect(backend.read(answer)).rejects.toThrow(/out of memory[\s\S]*parameters +4\.0 MiB[\s\S]*activations/);
    expect(gpu.count.submits).toBe(submits);
  });
});

describe("loss", () => {
  test("pending work is rejected, the next call gets a new device, old numbers are errors, new ones work", async () => {
    const { gpu, backend } = await mocked({ manual: true }), plan = backend.prepare(grow()), old = backend.alloc("f32", 2), other = backend.alloc("f32", 2);
    backend.write(old, f32(1, 2));
    backend.write(other, f32(3, 4));
    const answer = backend.run(plan, { stores: [old], inputs: [], uniforms: [] }).take!(0);
    await settle();
    const pending = [backend.read(answer), backend.read(old), backend.pace(0)];
    await settle();
    gpu.device.lose();
    for (const p of pending) await expect(p).rejects.toThrow(/the device was lost \(unknown: the driver crashed\)[\s\S]*resume from the last checkpoint/);
    expect(gpu.devices.length).toBe(1);
    expect(() => backend.run(plan, { stores: [old], inputs: [], uniforms: [] })).toThrow(/store 0 \(2 f32\) was lost with its device[\s\S]*resume from the last checkpoint/);
    await expect(backend.read(old)).rejects.toThrow(/was lost/);
    await expect(backend.read(answer)).rejects.toThrow(/was lost/);
    const fresh = backend.alloc("f32", 2);
    backend.write(fresh, f32(10, 20));
    backend.write(other, f32(30, 40));                      // written wholly: it lives again
    const again = backend.run(plan, { stores: [fresh], inputs: [], uniforms: [] }).take!(0), more = backend.run(plan, { stores: [other], inputs: [], uniforms: [] }).take!(0);
    const reading = Promise.all([backend.read(again), backend.read(more)]);
    while (gpu.devices.length < 2) await settle();
    for (let i = 0; i < 5; i++) { await settle(); gpu.device.finish(); }
    expect((await reading).map((x) => [...x])).toEqual([[11, 21], [31, 41]]);
    await expect(backend.read(old)).rejects.toThrow(/was lost/);
    expect(backend.stats.devices).toBe(2);
    expect(gpu.problems).toEqual([]);
    backend.free(old);
    backend.free(answer);
  });
  test("a plan that writes a whole store brings it back", async () => {
    const { gpu, backend } = await mocked(), fill = backend.prepare(planOf([["input", 2], ["store", 2]], [{ code: "copy", reads: [0], writes: [1] }])), b = backend.alloc("f32", 2);
    backend.write(b, f32(1, 2));
    gpu.device.lose();
    await settle();
    backend.run(fill, { stores: [b], inputs: [f32(7, 8)], uniforms: [] });
    expect([...(await backend.read(b))]).toEqual([7, 8]);
  });
  test("a device that does not come back is an error of each call, not an end", async () => {
    const { gpu, backend } = await mocked(), plan = backend.prepare(inc());
    gpu.device.lose();
    await settle();
    gpu.failDevice = "the driver is updating";
    const go = (): DeviceBuffer => backend.run(plan, { stores: [], inputs: [f32(1, 2)], uniforms: [] }).take!(0);
    await expect(backend.read(go())).rejects.toThrow(/the driver is updating/);
    gpu.failDevice = null;
    await expect(backend.pace(0)).rejects.toThrow(/the driver is updating/);
    expect([...(await backend.read(go()))]).toEqual([2, 3]);
  });
  test("a device lost while pipelines compile", async () => {
    const { gpu, backend } = await mocked({ slowCompile: true }), plan = backend.prepare(inc());
    const answer = backend.run(plan, { stores: [], inputs: [f32(1, 2)], uniforms: [] }).take!(0);
    await settle();
    gpu.device.lose();
    await expect(backend.read(answer)).rejects.toThrow(/was lost/);
  });
});

describe("closing", () => {
  test("what waits is rejected, what comes is refused", async () => {
    const { backend } = await mocked({ manual: true }), plan = backend.prepare(inc()), b = backend.alloc("f32", 2);
    const answer = backend.run(plan, { stores: [], inputs: [f32(1, 2)], uniforms: [] }).take!(0);
    await settle();
    const reads = [backend.read(answer), backend.read(b), backend.pace(0)];
    await backend.close();
    for (const r of reads) await expect(r).rejects.toThrow(DeviceError);
    const refused: (() => unknown)[] = [() => backend.alloc("f32", 1), () => { backend.write(b, f32(1, 2)); }, () => backend.prepare(inc()), () => backend.run(plan, { stores: [], inputs: [f32(1, 2)], uniforms: [] })];
    for (const f of refused) expect(f).toThrow(/the backend was closed[\s\S]*fix: make another one/);
    await expect(backend.read(b)).rejects.toThrow(/closed/);
    await expect(backend.pace(0)).rejects.toThrow(/closed/);
    backend.free(b);
    backend.release(plan);
    await backend.close();
  });
});
