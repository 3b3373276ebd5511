/** The runtime on a double that checks what WebGPU checks: order, memory, caches, pace. */
import { type DeviceBuffer, type TypedArray } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { stepsOf } from "../src/group.ts";
import { layOut } from "../src/plan.ts";
import { BufferPool, Pages, sizeClass, Workspace } from "../src/pool.ts";
import { OperationQueue } from "../src/queue.ts";
import { type MockGpu } from "./mock.ts";
import { type Kind, lowering, mocked, planOf, settle } from "./plans.ts";

const f32 = (...xs: number[]): Float32Array => new Float32Array(xs);
const filled = (n: number, x: number): Float32Array => new Float32Array(n).fill(x);
const list = (a: TypedArray): number[] => [...a];
const clean = (gpu: MockGpu): void => { expect(gpu.problems).toEqual([]); };

/** out = in + store; store += 1. */
const stepPlan = (n: number): ReturnType<typeof planOf> => planOf([["input", n], ["store", n], ["slot", n], ["output", n]], [
  { code: "add", reads: [0, 1], writes: [2] }, { code: "inc", reads: [2], writes: [3] }, { code: "own", reads: [], writes: [1] },
]);

describe("buffers", () => {
  test("fresh memory is zeros, also where it was used before", async () => {
    const { gpu, backend } = await mocked();
    const a = backend.alloc("f32", 3);
    expect(list(await backend.read(a))).toEqual([0, 0, 0]);
    backend.write(a, f32(1, 2, 3));
    backend.free(a);
    const b = backend.alloc("f32", 3);
    expect(list(await backend.read(b))).toEqual([0, 0, 0]);
    clean(gpu);
  });
  test.each(["u8", "i8", "bool", "f16", "bf16", "i32", "u32", "f32"] as const)("%s of odd length goes and comes", async (dtype) => {
    const { gpu, backend } = await mocked(), b = backend.alloc(dtype, 5), data = await backend.read(b);
    data.set([1, 0, 1, 1, 0]);
    backend.write(b, data);
    expect(await backend.read(b)).toEqual(data);
    clean(gpu);
  });
  test("small stores share pages, 256-byte aligned, in order of first use", async () => {
    const { gpu, backend } = await mocked();
    const cells = Array.from({ length: 20 }, (_, i) => { const b = backend.alloc("f32", 10 + i); backend.write(b, filled(10 + i, i)); return b; });
    expect(backend.stats.buffersCreated).toBe(1);
    for (const [i, b] of cells.entries()) expect(list(await backend.read(b))).toEqual(list(filled(10 + i, i)));
    clean(gpu);
  });
  test("wrong lengths, foreign and freed buffers are errors", async () => {
    const { backend } = await mocked(), b = backend.alloc("f32", 4);
    expect(() => { backend.write(b, f32(1)); }).toThrow(/4 elements of f32 wanted/);
    backend.free(b);
    expect(() => { backend.write(b, f32(1, 2, 3, 4)); }).toThrow(/freed/);
    await expect(backend.read({ dtype: "f32", length: 4 })).rejects.toThrow(/another backend/);
    expect(() => backend.alloc("f64", 1)).toThrow(/f64/);
  });
});

describe("runs", () => {
  test("a step is one submit and in its steady state makes nothing", async () => {
    const { gpu, backend } = await mocked(), plan = backend.prepare(stepPlan(4)), store = backend.alloc("f32", 4);
    const step = async (x: number): Promise<number[]> => {
      const answer = backend.run(plan, { stores: [store], inputs: [filled(4, x)], uniforms: [] }).take!(0), out = list(await backend.read(answer));
      backend.free(answer);
      return out;
    };
    expect(await step(10)).toEqual([11, 11, 11, 11]);
    expect(await step(10)).toEqual([12, 12, 12, 12]);
    const before = { ...gpu.count }, counters = { ...backend.counters };
    for (let i = 0; i < 5; i++) expect(await step(20)).toEqual(list(filled(4, 23 + i)));
    const after = gpu.count;
    expect(backend.counters).toEqual(counters);
    expect(after.createBuffer).toBe(before.createBuffer);
    expect(after.createBindGroup).toBe(before.createBindGroup);
    expect(after.pipelines).toBe(before.pipelines);
    expect(after.submits - before.submits).toBe(5);
    expect(after.mapAsync - before.mapAsync).toBe(5);
    expect(after.workDone).toBe(0);
    clean(gpu);
  });
  test("calls before the pipelines are there happen later, in order, with the numbers of their time", async () => {
    const { gpu, backend } = await mocked({ slowCompile: true }), plan = backend.prepare(stepPlan(2)), store = backend.alloc("f32", 2), input = f32(1, 1);
    backend.write(store, f32(5, 5));
    const first = backend.run(plan, { stores: [store], inputs: [input], uniforms: [] }).take!(0);
    input.fill(100);
    const then = backend.read(store);
    const numbers = f32(50, 50);
    backend.write(store, numbers);
    numbers.fill(0);
    const second = backend.run(plan, { stores: [store], inputs: [input], uniforms: [] }).take!(0);
    backend.free(backend.alloc("f32", 2));
    await settle();
    expect(gpu.count.submits).toBe(0);
    gpu.compiled();
    expect(list(await backend.read(first))).toEqual([7, 7]);
    expect(list(await then)).toEqual([6, 6]);
    expect(list(await backend.read(second))).toEqual([151, 151]);
    expect(list(await backend.read(store))).toEqual([51, 51]);
    clean(gpu);
  });
  test("equal texts are compiled once, over plans", async () => {
    const { gpu, backend } = await mocked();
    backend.prepare(stepPlan(2));
    backend.prepare(stepPlan(300));
    await settle();
    expect(gpu.count.pipelines).toBe(3);
    expect(backend.stats.pipelines).toBe(3);
  });
  test("step numbers are of their run, also with many runs under way", async () => {
    const { gpu, backend } = await mocked();
    const plan = backend.prepare(planOf([["input", 2], ["output", 2]], [{ code: "number", reads: [0], writes: [1], numbers: true }], ["float", "i32"]));
    const answers = [1, 2, 3].map((n) => backend.run(plan, { stores: [], inputs: [f32(10, 20)], uniforms: [n, 7] }).take!(0));
    expect(await Promise.all(answers.map(async (a) => list(await backend.read(a))))).toEqual([[11, 21], [12, 22], [13, 23]]);
    clean(gpu);
  });
  test("answers outlive later runs, small and large; large ones keep their bind groups", async () => {
    for (const n of [4, 4096]) {
      const { gpu, backend } = await mocked(), plan = backend.prepare(stepPlan(n)), store = backend.alloc("f32", n);
      const go = (x: number): DeviceBuffer => backend.run(plan, { stores: [store], inputs: [filled(n, x)], uniforms: [] }).take!(0);
      const a = go(1), b = go(2), c = go(3);
      for (const [i, x] of [a, b, c].entries()) expect((await backend.read(x))[n - 1]).toBe(i + 1 + i + 1);
      for (const x of [a, b, c]) backend.free(x);
      const groups = gpu.count.createBindGroup, buffers = gpu.count.createBuffer;
      for (let i = 0; i < 5; i++) { const x = go(0); await backend.read(x); backend.free(x); }
      expect(gpu.count.createBindGroup).toBe(groups);
      expect(gpu.count.createBuffer).toBe(buffers);
      clean(gpu);
    }
  });
  test("an answer is an input of the next run without a round trip", async () => {
    for (const n of [4, 70000]) {
      const { gpu, backend } = await mocked(), plan = backend.prepare(planOf([["input", n], ["output", n]], [{ code: "inc", reads: [0], writes: [1] }]));
      let x: DeviceBuffer | Float32Array = filled(n, 0);
      for (let i = 0; i < 4; i++) {
        const next: DeviceBuffer = backend.run(plan, { stores: [], inputs: [x], uniforms: [] }).take!(0);
        if (!ArrayBuffer.isView(x)) backend.free(x);
        x = next;
      }
      expect((await backend.read(x as DeviceBuffer))[n - 1]).toBe(4);
      clean(gpu);
    }
  });
  test("a store as an input is copied: its page may be written by the same plan", async () => {
    const { gpu, backend } = await mocked(), a = backend.alloc("f32", 2), b = backend.alloc("f32", 2);
    backend.write(a, f32(5, 6));
    const plan = backend.prepare(planOf([["input", 2], ["store", 2]], [{ code: "copy", reads: [0], writes: [1] }]));
    backend.run(plan, { stores: [b], inputs: [a], uniforms: [] });
    expect(list(await backend.read(b))).toEqual([5, 6]);
    clean(gpu);
  });
  test("a run with nothing to do answers zeros of its own", async () => {
    const { gpu, backend } = await mocked(), plan = backend.prepare(planOf([["input", 2], ["slot", 2]], [{ code: "copy", reads: [0], writes: [1] }]));
    backend.run(plan, { stores: [], inputs: [f32(1, 2)], uniforms: [] });
    await backend.pace(0);
    clean(gpu);
  });
  test("a plan is split into submits where asked", async () => {
    const { gpu, backend } = await mocked({}, { dispatchesPerSubmit: 2 }), plan = backend.prepare(stepPlan(2)), store = backend.alloc("f32", 2);
    const x = backend.run(plan, { stores: [store], inputs: [f32(1, 1)], uniforms: [] }).take!(0);
    expect(list(await backend.read(x))).toEqual([2, 2]);
    expect(gpu.count.submits).toBe(2);
    clean(gpu);
  });
  test("wrong bindings throw at the call", async () => {
    const { backend } = await mocked(), plan = backend.prepare(stepPlan(4)), store = backend.alloc("f32", 4);
    const go = (stores: DeviceBuffer[], inputs: (TypedArray | DeviceBuffer)[]) => () => backend.run(plan, { stores, inputs, uniforms: [] });
    expect(go([], [filled(4, 0)])).toThrow(/another backend/);
    expect(go([backend.alloc("f32", 3)], [filled(4, 0)])).toThrow(/holds 3 f32, the plan wants 4 f32/);
    expect(go([store], [])).toThrow(/input 0: 4 elements of f32 wanted/);
    expect(go([store], [filled(3, 0)])).toThrow(/input 0/);
    expect(go([store], [backend.alloc("i32", 4)])).toThrow(/input 0/);
    const foreign = await mocked();
    expect(() => foreign.backend.run({ plan: plan.plan }, { stores: [], inputs: [], uniforms: [] })).toThrow(/another backend/);
    backend.release(plan);
    expect(go([store], [filled(4, 0)])).toThrow(/released/);
  });
});

describe("memory of a step", () => {
  test("plans share it, and it is as large as the largest", async () => {
    const { gpu, backend } = await mocked();
    const chain = (n: number): ReturnType<typeof planOf> => planOf([["input", n], ["slot", n], ["slot", n], ["slot", n], ["output", 1]], [
      { code: "inc", reads: [0], writes: [1] }, { code: "inc", reads: [1], writes: [2] }, { code: "inc", reads: [2], writes: [3] }, { code: "copy", reads: [3], writes: [4] },
    ]);
    const large = backend.prepare(chain(1000)), bytes = backend.counters.arenaBytes, made = backend.stats.buffersCreated;
    expect(bytes).toBe(sizeClass(4000) * 2);                   // two alternate; the answer takes the one that is free
    const small = backend.prepare(chain(10));
    expect(backend.counters.arenaBytes).toBe(bytes);
    expect(backend.stats.buffersCreated).toBe(made + 1);       // its parameters
    for (const [p, n] of [[large, 1000], [small, 10], [large, 1000]] as const) {
      const x = backend.run(p, { stores: [], inputs: [filled(n, 5)], uniforms: [] }).take!(0);
      expect(list(await backend.read(x))).toEqual([8]);
    }
    backend.release(large);
    backend.release(small);
    expect(backend.counters.arenaBytes).toBe(0);
    // what stays is there for the next plan: its life moves the count of GPU buffers up, and back
    const alive = backend.counters.pages, again = backend.prepare(chain(1000));
    expect(backend.counters.pages).toBe(alive + 3);
    const last = backend.run(again, { stores: [], inputs: [filled(1000, 5)], uniforms: [] }).take!(0);
    await backend.read(last);
    backend.free(last);
    backend.release(again);
    expect(backend.counters.pages).toBe(alive);
    clean(gpu);
  });
  test("law: no two tenants of a buffer live at once, scratch included", () => {
    const line = fc.record({ reads: fc.array(fc.nat(9), { maxLength: 3 }), writes: fc.array(fc.nat(9), { minLength: 1, maxLength: 2 }), scratch: fc.option(fc.constantFrom(8, 300, 5000), { nil: undefined }) });
    const kinds: Kind[] = ["input", "input", "store", "output", "slot", "slot", "slot", "slot", "slot", "slot"];
    fc.assert(fc.property(fc.array(line, { maxLength: 20 }), fc.array(fc.constantFrom(1, 3, 64, 100, 5000), { minLength: 10, maxLength: 10 }), (lines, sizes) => {
      const plan = planOf(kinds.map((k, i) => [k, sizes[i]]), lines.map((l) => ({ ...l, code: "copy" })));
      const target = { f16: false, subgroups: null, matrix: [], limits: { storageBuffers: 10, workgroupBytes: 32768, invocations: 256, workgroups: 65535, bindingBytes: 2 ** 27 }, matmul: "f32", units: 1 } as const;
      const { items, places, offsets, sizes: shared, bytes, homes } = layOut(plan, plan.kernels.map((k) => lowering(k, plan, target)), target);
      const steps = items.flatMap(stepsOf);
      const tenants = new Map<number, { b: number; from: number; to: number }[]>();
      places.forEach((p, b) => {
        if (p < 0) return;
        expect(shared[p]).toBeGreaterThanOrEqual(offsets[b] + bytes[b]);
        expect(homes[b]).toBe("step");
        const touched = steps.flatMap((s, i) => (s.buffers.includes(b) ? [i] : [])), kind = plan.buffers[b]?.kind;
        const from = kind === "input" ? -1 : Math.min(...touched, steps.length), to = kind === "output" ? steps.length : Math.max(...touched);
        tenants.set(p, [...(tenants.get(p) ?? []), { b, from, to }]);
      });
      for (const t of tenants.values()) for (const x of t) for (const y of t) if (x.b < y.b) expect(x.to < y.from || y.to < x.from).toBe(true);
      for (const s of steps) for (const b of s.buffers) if (homes[b] === "step") expect(places[b]).toBeGreaterThanOrEqual(0);
    }), { numRuns: 60 });
  });
});

describe("pools", () => {
  const maker = { limit: 2 ** 30, create: (size: number): GPUBuffer => ({ size, destroy: () => {} }) as unknown as GPUBuffer, destroy: (b: GPUBuffer): void => { b.destroy(); } };
  test("law: regions of pages never overlap, and what is given back is found again", () => {
    fc.assert(fc.property(fc.array(fc.tuple(fc.nat(3), fc.integer({ min: 1, max: 300_000 })), { maxLength: 60 }), (ops) => {
      const pages = new Pages(maker, "test"), live: ReturnType<Pages["take"]>[] = [];
      for (const [what, bytes] of ops) {
        if (what === 0 && live.length > 0) pages.give(live.splice(bytes % live.length, 1)[0]);
        else {
          const r = pages.take(bytes);
          expect(r.offset % 256).toBe(0);
          expect(r.bytes).toBeGreaterThanOrEqual(bytes);
          expect(r.offset + r.bytes).toBeLessThanOrEqual(r.buffer.size);
          for (const o of live) expect(o.serial !== r.serial || o.offset + o.bytes <= r.offset || r.offset + r.bytes <= o.offset).toBe(true);
          live.push(r);
        }
      }
      const bytes = pages.bytes;
      for (const r of live) pages.give(r);
      expect(pages.used).toBe(0);
      if (bytes > 0) { pages.take(2 ** 20); expect(pages.bytes).toBe(bytes); }            // free ranges grew together again
    }), { numRuns: 60 });
  });
  test("law: a size class holds its size, wastes an eighth at most, and never passes the device's limit", () => {
    fc.assert(fc.property(fc.integer({ min: 256, max: 2 ** 30 }), (n) => {
      const c = sizeClass(n);
      expect(c).toBeGreaterThanOrEqual(n);
      expect(c % 256).toBe(0);
      expect(c).toBeLessThanOrEqual(Math.max(256, Math.ceil(n / 256) * 256, n * 1.125 + 256));
      expect(sizeClass(n, n + 15)).toBeLessThanOrEqual(n + 15);
    }));
  });
  test("whole buffers come back by size", () => {
    const pool = new BufferPool(maker, "test", 10_000), a = pool.take(1000);
    pool.give(a);
    expect(pool.take(1010).serial).toBe(a.serial);
    expect(pool.take(1010).serial).not.toBe(a.serial);
    const workspace = new Workspace(maker), [x, y] = workspace.take([500, 5000]), [z] = workspace.take([400]);
    expect(z.serial).toBe(x.serial);
    workspace.give([x, y]);
    expect(workspace.bytes).toBe(x.bytes);
    workspace.give([z]);
    expect(workspace.bytes).toBe(0);
  });
});

test("law: operations happen in the order of their calls, whatever waits", async () => {
  await fc.assert(fc.asyncProperty(fc.array(fc.constantFrom("now", "later", "throws", "fails late"), { maxLength: 12 }), async (kinds) => {
    const queue = new OperationQueue(), done: string[] = [];
    kinds.forEach((kind, i) => {
      let waited = false;
      queue.push({
        wait: () => { if (kind === "later" || kind === "fails late") { if (waited) return null; waited = true; return new Promise<void>((r) => { setTimeout(r, 0); }); } return null; },
        run: () => { if (kind === "throws" || kind === "fails late") throw new Error(kind); done.push(`${i}`); },
        fail: () => { done.push(`${i}!`); },
      });
    });
    for (let i = 0; i <= kinds.length; i++) await settle();
    expect(done).toEqual(kinds.map((k, i) => `${i}${k === "throws" || k === "fails late" ? "!" : ""}`));
    expect(queue.idle).toBe(true);
  }), { numRuns: 30 });
});

describe("pace", () => {
  test("waits until few runs are unfinished; a loop that never awaits is told", async () => {
    const { gpu, backend } = await mocked({ manual: true }), plan = backend.prepare(planOf([["input", 2], ["slot", 2]], [{ code: "copy", reads: [0], writes: [1] }]));
    await settle();
    const go = (): void => { backend.run(plan, { stores: [], inputs: [f32(1, 2)], uniforms: [] }); };
    go(); go(); go();
    let passed = false;
    const waiting = backend.pace(2).then(() => { passed = true; });
    await settle();
    expect(passed).toBe(false);
    gpu.device.finish();
    await waiting;
    expect(passed).toBe(true);
    await backend.pace(0);
    for (let i = 0; i < 100; i++) go();
    expect(go).toThrow(/100 runs are unfinished/);
    gpu.device.finish();
    await backend.pace(0);
    go();
    clean(gpu);
  });
});
