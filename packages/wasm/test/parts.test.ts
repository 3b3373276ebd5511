/** Assembler, heap, options and refusals. */
import { ConfigError, DeviceError, DTypeError, leaf, type MapKernel, type PlanSpec, ShapeError } from "@adjoint/tensor";
import fc from "fast-check";
import { expect, test } from "vitest";
import { assemble, Bytes, Func, op } from "../src/assembler.ts";
import { Heap } from "../src/heap.ts";
import { checkWide, hasRelaxed, wasm, wasmSync } from "../src/index.ts";
import { collapse } from "../src/space.ts";

test("numbers are LEB128, signed and unsigned", () => {
  const decode = (b: Uint8Array, signed: boolean): number => {
    let x = 0n, s = 0n, i = 0;
    for (; ; i++) { x |= BigInt(b[i] & 127) << s; s += 7n; if ((b[i] & 128) === 0) break; }
    expect(i).toBe(b.length - 1);
    return signed ? Number(BigInt.asIntN(Number(s), x)) : Number(x);
  };
  fc.assert(fc.property(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), (n) => {
    const a = new Bytes(), b = new Bytes();
    a.signed(n); b.unsigned(n);
    expect(decode(a.view(), true)).toBe(n);
    expect(decode(b.view(), false)).toBe(n >>> 0);
  }));
});

test("a function stores what its instructions say", () => {
  const f = new Func("f", 2), s = f.i32(), i = f.i32();
  f.for(i, undefined, 1, 1, () => f.get(s).get(i).i(op.add).set(s));
  f.get(0).get(s).store(4);
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 2 });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(assemble([f], { maximum: 2, shared: false })), { e: { m: memory } });
  (exports["f"] as (p: number, n: number) => void)(8, 10);
  expect(new Int32Array(memory.buffer)[3]).toBe(45);
});

test("the heap never overlaps blocks, reuses what was freed, and merges neighbours", () => {
  fc.assert(fc.property(fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 5000 })), { maxLength: 80 }), (ops) => {
    let end = 1024;
    const heap = new Heap(100, end, (n) => { end = Math.ceil(n / 4096) * 4096; return end; });
    const live: { at: number; size: number }[] = [];
    for (const [take, n] of ops) {
      if (take || live.length === 0) {
        const at = heap.alloc(n);
        expect(at % 64).toBe(0);
        expect(at).toBeGreaterThanOrEqual(100);
        expect(at + n).toBeLessThanOrEqual(end);
        for (const b of live) expect(at + n <= b.at || b.at + b.size <= at).toBe(true);
        live.push({ at, size: n });
      } else heap.free(live.splice(n % live.length, 1)[0].at);
    }
    for (const b of live) heap.free(b.at);
    expect(heap.used).toBe(0);
    const before = end, room = end - 128;
    heap.alloc(room);                               // everything is one block again
    expect(end).toBe(before);
  }));
});

test("collapse merges what is contiguous everywhere and nothing else", () => {
  expect(collapse([2, 3, 4], [3], [[12, 4, 1], [0, 0, 0]])).toEqual({ shape: [24], groups: [1], strides: [[1], [0]] });
  expect(collapse([2, 3, 4], [3], [[12, 4, 1], [0, 4, 1]])).toEqual({ shape: [2, 12], groups: [2], strides: [[12, 1], [0, 1]] });
  expect(collapse([2, 1, 4], [1, 2], [[4, 7, 1]])).toEqual({ shape: [2, 4], groups: [1, 1], strides: [[4, 1]] });
});

const kernel: MapKernel = { kind: "map", label: "k", shape: [4], loads: [{ buffer: 0, dtype: "f32", offset: 0, strides: [1] }], affines: [], uniforms: [0], stores: [{ view: { buffer: 1, dtype: "f32", offset: 0, strides: [1] }, value: leaf("load", 0, "float").mul(leaf("uniform", 0, "float")) }] };
const plan: PlanSpec = {
  kernels: [kernel], uniforms: ["float"], arenaBytes: 128, inputs: 1, outputs: 1,
  buffers: [{ kind: "input", dtype: "f32", length: 4, offset: 0, position: 0 }, { kind: "output", dtype: "f32", length: 4, offset: 64, position: 0 }],
};
test("inputs are copied in and outputs out; numbers change without new code", () => {
  const b = wasmSync(), p = b.prepare(plan), modules = b.counters.modules;
  const first = b.run(p, { stores: [], inputs: [Float32Array.of(1, 2, 3, 4)], uniforms: [2] }), second = b.run(p, { stores: [], inputs: [Float32Array.of(1, 1, 1, 1)], uniforms: [0.5] });
  expect(Array.from(first.readSync?.(0) ?? [])).toEqual([2, 4, 6, 8]);
  expect(Array.from(second.readSync?.(0) ?? [])).toEqual([0.5, 0.5, 0.5, 0.5]);
  // another length is other data, not other code
  const longer: PlanSpec = { ...plan, kernels: [{ ...kernel, shape: [9] }], arenaBytes: 256, buffers: plan.buffers.map((x, i) => ({ ...x, length: 9, offset: i * 64 })) };
  const q = b.prepare(longer);
  expect(b.counters.modules).toBe(modules);
  expect(Array.from(b.run(q, { stores: [], inputs: [Float32Array.from({ length: 9 }, (_, i) => i)], uniforms: [1] }).readSync?.(0) ?? [])).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  expect(Array.from(b.run(p, { stores: [], inputs: [Float32Array.of(1, 2, 3, 4)], uniforms: [2] }).readSync?.(0) ?? [])).toEqual([2, 4, 6, 8]);
});

test("steady state allocates nothing; a released plan's memory is used again", () => {
  const b = wasmSync(), p = b.prepare(plan);
  const before = { ...b.counters };
  for (let i = 0; i < 300; i++) { b.run(p, { stores: [], inputs: [new Float32Array(4)], uniforms: [i] }); const q = b.prepare(plan); b.release(q); b.free(b.alloc("f32", 1000)); }
  expect({ ...b.counters }).toEqual(before);
});

test("what cannot be done is refused by name", async () => {
  const b = wasmSync(), p = b.prepare(plan);
  expect(() => b.alloc("f64", 3)).toThrow(DTypeError);
  expect(() => b.prepare({ ...plan, buffers: plan.buffers.map((x) => ({ ...x, dtype: "f64" as const })) })).toThrow(/f64/);
  expect(() => b.run(p, { stores: [], inputs: [new Float32Array(3)], uniforms: [1] })).toThrow(ShapeError);
  expect(() => b.prepare({ ...plan, kernels: [{ kind: "composite", label: "c", name: "flash", attrs: null, inputs: [], outputs: [], uniforms: [] }] })).toThrow(/flash/);
  b.release(p);
  expect(() => b.run(p, { stores: [], inputs: [new Float32Array(4)], uniforms: [1] })).toThrow(DeviceError);
  const gone = b.alloc("f32", 4);
  b.free(gone);
  expect(() => b.readSync(gone)).toThrow(DeviceError);
  await expect(wasm({ threads: 0 })).rejects.toThrow(ConfigError);
  await expect(wasm(JSON.parse('{"thread":2}'))).rejects.toThrow("did you mean threads?");
  await expect(wasm(JSON.parse("4"))).rejects.toThrow("options are an object");
  if (!hasRelaxed()) await expect(wasm({ fma: true })).rejects.toThrow(/fma|multiply-add/);
});

test("a kernel's source names operands, formula and size", () => {
  const text = wasmSync().source(kernel);
  expect(text).toContain("map k [4]");
  expect(text).toContain("x0: f32 contiguous");
  expect(text).toMatch(/mul\(x0, u0\)/);
});

test("the wide tile is right on every engine, fast or not", () => {
  const { sound, speedup } = checkWide();
  expect(sound).toBe(true);
  expect(speedup).toBeGreaterThan(0);
  expect(checkWide({ fma: false }).sound).toBe(true);
});
