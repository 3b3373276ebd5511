/** Threads: the same bits as one thread, errors within two seconds, and the next step works. */
import { type BufferSpec, DeviceError, type Kernel, leaf, type PlanSpec, type View } from "@adjoint/tensor";
import fc from "fast-check";
import { afterAll, expect, test } from "vitest";
import { wasm, type WasmBackend, wasmSync } from "../src/index.ts";
import { runsOf as runsOfRecipes } from "../src/company.ts";
import { recipeOf } from "../src/compile.ts";
import { type Case, check, planOf, runOn, same, toHost } from "./harness.ts";
import { drawCase, laws, show } from "./laws.ts";

const one = wasmSync(), opened: WasmBackend[] = [];
const open = async (threads: number): Promise<WasmBackend> => { const b = await wasm({ threads, soloBelow: 0 }); opened.push(b); return b; };
const two = await open(2), three = await open(3);
afterAll(async () => { await Promise.all(opened.map((b) => b.close())); });

test.each(laws.map((l) => [l.name, l] as const))("same bits with 1, 2 and 3 threads: %s", (_name, law) => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 2 ** 31 - 1 }), (seed) => {
    const c = drawCase(law, seed);
    try { same(one, two, c); same(one, three, c); } catch (e) { throw new Error(`${e instanceof Error ? e.message : String(e)}\n${show(c)}`); }
  }), { numRuns: 25 });
});

const target = { threads: 2, soloBelow: 0, tile: { mr: 4, nr: 8, unroll: 2, fma: false } } as const;
const runsOf = (plan: PlanSpec): readonly number[] => runsOfRecipes(plan, plan.kernels.map((k) => recipeOf(k, target)));
const view = (buffer: number, strides: number[]): View => ({ buffer, dtype: "f32", offset: 0, strides });
const x = leaf("load", 0, "float"), acc = leaf("acc", 0, "float");
const grid = (n: number): number[] => Array.from({ length: n }, (_, i) => ((i * 7919) % 257 - 128) / 16);
const caseOf = (kernel: Kernel, lengths: readonly number[]): Case => ({ kernel, buffers: lengths.map((n) => ({ dtype: "f32", values: grid(n) })), uniforms: [], types: [] });
const base = { affines: [], uniforms: [], label: "large" };

test("large shapes that threads share: long rows, wide matrices, many columns", () => {
  const n = 150_001, total = leaf("stat", 0, "float");
  const cases: Case[] = [
    caseOf({ kind: "map", shape: [n], loads: [view(0, [1])], stores: [{ view: view(1, [1]), value: x.mul(2).tanh() }], ...base }, [n, n]),
    caseOf({ kind: "rows", rowAxes: 1, shape: [1, n], loads: [view(0, [n, 1])], stats: [{ op: "sum", value: x }, { op: "sum", value: x.sub(total.mul(1 / n)).exp() }], stores: [{ perRow: true, value: leaf("stat", 1, "float"), view: view(1, [1, 0]) }, { perRow: false, value: x.sub(total), view: view(2, [n, 1]) }], ...base }, [n, 1, n]),
    caseOf({ kind: "cols", outerAxes: 0, reducedAxes: 1, op: "sum", shape: [300, 500], loads: [view(0, [500, 1])], value: x, stores: [{ view: view(1, [0, 1]), value: total }], ...base }, [150_000, 500]),
    caseOf({ kind: "contract", shape: [130, 200], k: 300, a: view(0, [300, 1]), b: view(1, [1, 300]), loads: [], stores: [{ view: view(2, [200, 1]), value: acc }], ...base }, [39_000, 60_000, 26_000]),
    caseOf({ kind: "contract", shape: [130, 200], k: 300, a: view(0, [1, 130]), b: view(1, [200, 1]), loads: [view(3, [0, 1])], stores: [{ view: view(2, [200, 1]), value: acc.add(x).tanh() }], ...base }, [39_000, 60_000, 26_000, 200]),
  ];
  for (const c of cases) { same(one, two, c); same(one, three, c); }
  check(two, cases[1], 64, n);
  check(two, cases[3], 64, 300 * 64);
});

test("small kernels on one thread between large ones on all", async () => {
  const b = await wasm({ threads: 3 }), n = 70_000, y = leaf("load", 1, "float"), rounds = 12;
  opened.push(b);
  // s = sum(x) / n; x = x * 0.5 + s; t[i] = t[i] + s: each kernel needs what the others wrote
  const sum = leaf("stat", 0, "float"), kernels: Kernel[] = [];
  for (let i = 0; i < rounds; i++) {
    kernels.push({ kind: "rows", rowAxes: 1, shape: [1, n], loads: [view(0, [n, 1])], stats: [{ op: "sum", value: x }], stores: [{ perRow: true, value: sum.mul(1 / n), view: view(1, [1, 0]) }], ...base });
    kernels.push({ kind: "map", shape: [8], loads: [view(2, [1]), view(1, [0])], stores: [{ view: view(2, [1]), value: x.mul(0.5).add(y) }], ...base });
    kernels.push({ kind: "map", shape: [n], loads: [view(0, [1]), view(2, [0])], stores: [{ view: view(0, [1]), value: x.mul(0.5).add(y) }], ...base });
    kernels.push({ kind: "map", shape: [8], loads: [view(2, [1]), view(0, [8000])], stores: [{ view: view(2, [1]), value: x.add(y) }], ...base });
  }
  const run = (d: WasmBackend): number[][] => {
    const lengths = [n, 1, 8], stores = lengths.map((l) => { const s = d.alloc("f32", l); d.write(s, Float32Array.from(grid(l))); return s; });
    const plan = d.prepare({ kernels, uniforms: [], arenaBytes: 0, inputs: 0, outputs: 0, buffers: lengths.map((length, position) => ({ kind: "store", dtype: "f32", length, offset: 0, position })) });
    for (let i = 0; i < 5; i++) d.run(plan, { stores, inputs: [], uniforms: [] });
    return stores.map((s) => Array.from(d.readSync(s)));
  };
  expect(run(b)).toEqual(run(one));
});

const add = (n: number): Case => caseOf({ kind: "map", shape: [n], loads: [view(0, [1])], stores: [{ view: view(1, [1]), value: x.add(1) }], ...base }, [n, n]);

test("a trap in a kernel is a DeviceError within 2 s, and the next step works", async () => {
  const b = await open(2), good = add(5000);
  runOn(b, good);
  // strides that leave the memory: both threads trap
  const bad: Case = { ...good, kernel: { kind: "map", shape: [5000], loads: [view(0, [100_000])], stores: [{ view: view(1, [1]), value: x.sub(1) }], ...base } };
  const begin = performance.now();
  expect(() => runOn(b, bad)).toThrow(DeviceError);
  expect(performance.now() - begin).toBeLessThan(2000);
  check(b, good);
  // only the other thread traps: its half of the rows lies outside
  const half: Case = { ...good, kernel: { kind: "map", shape: [64, 40], loads: [{ ...view(0, [30_000_000, 1]) }], stores: [{ view: view(1, [40, 1]), value: x.sub(1) }], ...base } };
  expect(() => runOn(b, half)).toThrow(DeviceError);
  check(b, good);
  same(one, b, good);
});

test("a killed worker is a DeviceError within 2 s, and the next step works", async () => {
  const b = await open(2), good = add(5000), plan = b.prepare(planOf(good));
  const stores = good.buffers.map((d) => { const s = b.alloc(d.dtype, d.values.length); b.write(s, toHost(d)); return s; });
  const run = (): void => { b.run(plan, { stores, inputs: [], uniforms: [] }); };
  run();
  const gone = b.killWorker(1);
  const begin = performance.now();
  expect(run).toThrow(DeviceError);
  expect(performance.now() - begin).toBeLessThan(2000);
  run();
  await gone;
  // noticed while idle: nothing was lost, so nothing is thrown
  await b.killWorker(1);
  run();
  check(b, good);
  expect(Array.from(b.readSync(stores[1])).slice(0, 3)).toEqual(good.buffers[0].values.slice(0, 3).map((v) => v + 1));
});

/** Maps between stores and arena slots chosen by a seed: some depend on each other, some do not. */
const random = (choices: readonly number[], n: number): PlanSpec => {
  const buffers: BufferSpec[] = Array.from({ length: 9 }, (_, i) => (i < 5 ? { kind: "store", dtype: "f32", length: n, offset: 0, position: i } : { kind: "slot", dtype: "f32", length: n, offset: (i - 5) * 4 * n, position: 0 }));
  // the last slot lies half on the first: nobody may see both
  buffers.push({ kind: "slot", dtype: "f32", length: n, offset: 2 * n, position: 0 });
  const kernels = choices.map((c, i): Kernel => ({ kind: "map", shape: [n], loads: [view(c % 10, [1]), view(Math.floor(c / 10) % 10, [1])], stores: [{ view: view(Math.floor(c / 100) % 10, [1]), value: x.mul(0.5).add(leaf("load", 1, "float")).add(i) }], ...base }));
  return { kernels, buffers, uniforms: [], arenaBytes: 4 * n * 4, inputs: 0, outputs: 0 };
};
/** A kernel that reads memory which it overwrites elsewhere: no plan holds one. */
const torn = (c: number): boolean => { const from = [c % 10, Math.floor(c / 10) % 10], to = Math.floor(c / 100) % 10; return to === 9 ? from.some((b) => b === 5 || b === 6) : (to === 5 || to === 6) && from.includes(9); };
const after = (d: WasmBackend, plan: PlanSpec): number[][] => {
  const stores = plan.buffers.filter((b) => b.kind === "store").map((b) => { const s = d.alloc("f32", b.length); d.write(s, Float32Array.from(grid(b.length))); return s; }), ready = d.prepare(plan);
  for (let i = 0; i < 3; i++) d.run(ready, { stores, inputs: [], uniforms: [] });
  const out = stores.map((s) => Array.from(d.readSync(s)));
  d.release(ready);
  stores.forEach((s) => { d.free(s); });
  return out;
};

test("neighbours that do not touch each other run without a meeting in between, and give the same bits", () => {
  fc.assert(fc.property(fc.array(fc.integer({ min: 0, max: 999 }).filter((c) => !torn(c)), { minLength: 1, maxLength: 40 }), fc.constantFrom(16, 100, 1024), (choices, n) => {
    // every slot is written before it is read
    const fill = [5, 6, 7, 8].map((slot) => 100 * slot + 10 * (slot - 5) + 4), plan = random([...fill, ...choices], n), want = after(one, plan);
    expect(after(two, plan)).toEqual(want);
    expect(after(three, plan)).toEqual(want);
  }), { numRuns: 40 });
});

test("a run of kernels ends where one needs what another wrote, or writes what another needs", () => {
  const of = (...choices: number[]): readonly number[] => runsOf(random(choices, 16));
  expect(of(100, 211, 322, 433)).toEqual([0, 1, 2, 3]);          // 1 from 0, 2 from 1, ...
  expect(of(0, 111, 222, 333)).toEqual([0, 0, 0, 0]);            // each its own
  expect(of(100, 0)).toEqual([0, 1]);                            // 0 is read, then written
  expect(of(500, 600, 700)).toEqual([0, 0, 0]);                  // one reads the same as the others
  expect(of(500, 911)).toEqual([0, 1]);                          // 9 lies on 5 and 6
  const between = (kernel: Kernel): readonly number[] => runsOf({ ...random([], 16), kernels: [...random([0], 16).kernels, kernel, ...random([111], 16).kernels] });
  expect(between({ kind: "cols", outerAxes: 0, reducedAxes: 1, shape: [4, 4], loads: [view(3, [4, 1])], op: "sum", value: x, stores: [{ view: view(4, [0, 1]), value: leaf("stat", 0, "float") }], ...base })).toEqual([0, 1, 2]);
  expect(between({ kind: "rows", rowAxes: 1, shape: [1, 16], loads: [view(3, [16, 1])], stats: [{ op: "sum", value: x }], stores: [], ...base })).toEqual([0, 0, 0]);
  expect(between({ kind: "rows", rowAxes: 1, shape: [4, 4], loads: [view(3, [4, 1])], stats: [{ op: "max", value: x }, { op: "sum", value: x.sub(leaf("stat", 0, "float")).exp() }], stores: [{ view: view(4, [4, 1]), value: x.sub(leaf("stat", 0, "float")).exp(), perRow: false }], ...base })).toEqual([0, 0, 0]);        // keeps its exponentials in each thread's own work space
});

test("rows of one number each, which write parts of one tensor, are one run that the threads share, and give the same bits", () => {
  const count = 11, n = 700, total = leaf("stat", 0, "float");
  const part = (i: number, more: number): Kernel => ({ kind: "rows", rowAxes: 1, shape: [1, n], loads: [view(i, [n, 1])], stats: [{ op: "sum64", value: x.mul(x) }], stores: [{ view: { ...view(count, [0, 0]), offset: i }, value: total.add(more), perRow: true }], ...base });
  const joined: Kernel = { kind: "rows", rowAxes: 1, shape: [1, count], loads: [view(count, [count, 1])], stats: [{ op: "sum64", value: x }], stores: [{ view: view(0, [0, 0]), value: total, perRow: true }], ...base };
  const buffers: BufferSpec[] = [...Array.from({ length: count }, (_, i): BufferSpec => ({ kind: "store", dtype: "f32", length: n, offset: 0, position: i })), { kind: "slot", dtype: "f32", length: count, offset: 0, position: 0 }];
  const plan = (kernels: Kernel[]): PlanSpec => ({ kernels, buffers, uniforms: [], arenaBytes: 64, inputs: 0, outputs: 0 }), whole = plan([...Array.from({ length: count }, (_, i) => part(i, i)), joined]);
  expect(runsOf(whole)).toEqual([...Array.from({ length: count }, () => 0), count]);
  expect(runsOf(plan([part(0, 0), part(1, 0), part(0, 1)]))).toEqual([0, 0, 2]);        // the same place twice
  const want = after(one, whole);
  for (let i = 0; i < 5; i++) { expect(after(two, whole)).toEqual(want); expect(after(three, whole)).toEqual(want); }
});

test("rows that keep values in each thread's own share of the work space are one run where the shares are equal, and give the same bits", () => {
  const count = 9, shifted = x.sub(leaf("stat", 0, "float")).exp();
  const soft = (i: number, length: number): Kernel => ({ kind: "rows", rowAxes: 1, shape: [840 / length, length], loads: [view(i, [length, 1])], stats: [{ op: "max", value: x }, { op: "sum", value: shifted }], stores: [{ view: view(i, [length, 1]), value: shifted.div(leaf("stat", 1, "float")).mul(4), perRow: false }], ...base });
  const buffers = Array.from({ length: count }, (_, i): BufferSpec => ({ kind: "store", dtype: "f32", length: 840, offset: 0, position: i }));
  const plan = (kernels: Kernel[]): PlanSpec => ({ kernels, buffers, uniforms: [], arenaBytes: 64, inputs: 0, outputs: 0 }), all = Array.from({ length: count }, (_, i) => i);
  expect(runsOf(plan(all.map((i) => soft(i, 40))))).toEqual(all.map(() => 0));
  expect(runsOf(plan([soft(0, 40), soft(1, 60), soft(2, 60)]))).toEqual([0, 1, 1]);        // one thread's share would begin in another's
  for (const mixed of [all.map(() => 40), all.map((i) => (i % 3 === 0 ? 70 : 24))]) {
    const whole = plan(mixed.map((length, i) => soft(i, length))), want = after(one, whole);
    for (let i = 0; i < 5; i++) { expect(after(two, whole)).toEqual(want); expect(after(three, whole)).toEqual(want); }
  }
});

test("steady state moves no counter", () => {
  const c = add(70_000), plan = two.prepare(planOf(c)), stores = c.buffers.map((d) => two.alloc(d.dtype, d.values.length));
  const run = (): void => { two.run(plan, { stores, inputs: [], uniforms: [] }); };
  run();
  const before = { ...two.counters };
  for (let i = 0; i < 200; i++) run();
  expect({ ...two.counters }).toEqual(before);
  two.release(plan);
});
