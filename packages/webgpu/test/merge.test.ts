/** Merged dispatches: the text, the choice, and the same numbers as before. */
import { type PlanSpec, type Store, type Tensor, add, assign, compile, concat, createReference, fromHost, getDevice, memory, mul, scalar, setDevice, store, sum, tensor, total } from "@adjoint/tensor";
import { conform, tensorSubjects } from "@adjoint/testing";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { group, type Home, isGroup, type Step, stepsOf } from "../src/group.ts";
import { WebGpuBackend } from "../src/backend.ts";
import { adapters, webgpu } from "../src/index.ts";
import { lower } from "../src/lower.ts";
import { mergeText, segmentPlan, segmentWords } from "../src/merge.ts";
import type { Dispatch } from "../src/program.ts";
import { Session } from "../src/session.ts";
import { type Kind, planOf } from "./plans.ts";

const host = getDevice(), found = (await adapters({ mode: "safe" })).length > 0;
afterAll(() => { setDevice(host); });

const dispatch = (code: string, n: number): Dispatch => ({ code, bindings: [{ buffer: 0, access: "read" }, { buffer: 1, access: "read_write" }], params: [n, 7, 0, 0], numbers: false, workgroups: [n, 1, 1], label: "k", flops: 1, bytes: 1 });
const text = `@group(0) @binding(0) var<uniform> P: array<vec4<u32>, 1>;
@group(0) @binding(2) var<storage, read> b0: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> b1: array<f32>;
fn twice(x: f32) -> f32 { return 2.0 * x; }
fn store(i: u32, x: f32) { if (i < P[0].x) { b1[i + P[0].y] = twice(x); } }
@compute @workgroup_size(64, 2, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_id) lid: vec3<u32>, @builtin(local_invocation_index) li: u32, @builtin(global_invocation_id) gid: vec3<u32>) {
let i = gid.x;
let b0_k = i;
store(i, b0[(i + u32(b1[P[0].x])) >> 2u].x);
}`;

describe("text", () => {
  const d = dispatch(text, 3), p = segmentPlan(d)!;
  test("segments have a head, displacements and parameters", () => {
    expect(p).toEqual({ vectors: 3, head: 2, cells: [16, 4] });
    expect(segmentWords([d, dispatch(text, 5)], p, [[0, 0], [512, 256]])).toEqual([0, 3, 1, 1, 0, 0, 0, 0, 3, 7, 0, 0, 3, 5, 1, 1, 32, 64, 0, 0, 5, 7, 0, 0]);
  });
  test("indices move, parameters move, helpers are told where", () => {
    const merged = mergeText(text, 2, p);
    expect(merged).toContain("var<uniform> P: array<vec4<u32>, 6>");
    expect(merged).toContain("fn twice(x: f32)");
    expect(merged).toContain("fn store(sP: u32, i: u32, x: f32) { if (i < P[sP + 0u].x) { b1[P[sP - 1u].y + (i + P[sP + 0u].y)] = twice(x); } }");
    expect(merged).toContain("store(sP, i, b0[P[sP - 1u].x + ((i + u32(b1[P[sP - 1u].y + (P[sP + 0u].x)])) >> 2u)].x);");
    expect(merged).toContain("wg_: vec3<u32>");
    expect(merged).toContain("let gid = wg * vec3<u32>(64, 2, 1) + lid;");
    expect(merged).toContain("let b0_k = i;");
  });
  test("texts that take the address of a binding, or do other things with P, stay alone", () => {
    expect(segmentPlan(dispatch(text.replace("let b0_k = i;", "let q = &b1;"), 1))).toBeNull();
    expect(segmentPlan(dispatch(text.replace("let b0_k = i;", "let n = arrayLength(&b1);"), 1))).toBeNull();
    expect(segmentPlan(dispatch(text.replace("let b0_k = i;", "let q = P[i];"), 1))).toBeNull();
  });
});

describe("law: grouping", () => {
  const target = { f16: false, subgroups: null, matrix: [], limits: { storageBuffers: 10, workgroupBytes: 32768, invocations: 256, workgroups: 65535, bindingBytes: 2 ** 20 }, matmul: "f32", units: 1 } as const;
  const kinds: Kind[] = ["input", "input", "store", "store", "store", "output", "slot", "slot", "slot", "slot", "slot", "slot", "slot", "slot"], n = kinds.length;
  const line = fc.record({ code: fc.constantFrom("a", "b"), out: fc.integer({ min: 2, max: n - 1 }), in: fc.nat(n - 1), kind: fc.constantFrom("map", "contract") });
  const code = (name: string): string => `// ${name}\n@group(0) @binding(0) var<uniform> P: array<vec4<u32>, 1>;\n@group(0) @binding(2) var<storage, read_write> b0: array<f32>;\n@group(0) @binding(3) var<storage, read> b1: array<f32>;\nfn main() { b0[P[0].x] = b1[0u]; }`;
  const build = (lines: readonly { code: string; out: number; in: number; kind: string }[]): { plan: PlanSpec; steps: Step[]; bytes: number[]; homes: Home[] } => {
    const used = lines.filter((l) => l.in !== l.out), plain = planOf(kinds.map((k, i) => [k, 4 + i]), used.map((l) => ({ code: l.code, reads: [l.in], writes: [l.out] })));
    const plan = { ...plain, kernels: plain.kernels.map((k, i) => ({ ...k, kind: used[i].kind })) } as unknown as PlanSpec;
    const steps = used.map((l, kernel): Step => ({ kernel, buffers: [l.out, l.in], dispatch: { code: code(l.code), bindings: [{ buffer: l.out, access: "read_write" }, { buffer: l.in, access: "read" }], params: [kernel, 0, 0, 0], numbers: false, workgroups: [1, 1, 1], label: l.code, flops: 0, bytes: 64 } }));
    return { plan, steps, bytes: kinds.map((_, i) => 16 * (1 + i)), homes: kinds.map((k) => (k === "store" ? "store" : "step")) };
  };
  /** What every buffer holds in the end, as a term: each step writes its text and parameters of what it reads and overwrites. */
  const meaning = (steps: readonly Step[]): string[] => {
    const held = kinds.map((_, i) => `x${i}`);
    for (const s of steps) held[s.buffers[0]] = `${s.dispatch.params[0]}(${held[s.buffers[0]]},${held[s.buffers[1]]})`;
    return held;
  };
  test("changes no meaning, and what is bound together lies together", () => {
    let merged = 0;
    fc.assert(fc.property(fc.array(line, { maxLength: 14 }), (lines) => {
      const { plan, steps, bytes, homes } = build(lines), { items, unions, storeUnions } = group(plan, steps, bytes, homes, target);
      expect(items.flatMap(stepsOf).map((s) => s.kernel).sort((a, b) => a - b)).toEqual(steps.map((s) => s.kernel));
      expect(meaning(items.flatMap(stepsOf))).toEqual(meaning(steps));
      const home = (b: number): string => { const u = unions.findIndex((x) => x.members.includes(b)), v = storeUnions.findIndex((x) => x.includes(b)); return u >= 0 ? `u${u}` : v >= 0 ? `s${v}` : `b${b}`; };
      for (const x of items) {
        const parts = stepsOf(x);
        for (let k = 0; k < 2; k++) expect(new Set(parts.map((s) => home(s.buffers[k]))).size).toBe(1);
        for (const s of parts) if (homes[s.buffers[0]] !== "store") expect(home(s.buffers[0])).not.toBe(home(s.buffers[1]));
        // any order of its segments is right: none reads or writes what another writes
        for (const s of parts) for (const t of parts) if (s !== t) expect(s.buffers).not.toContain(t.buffers[0]);
        if (isGroup(x)) merged += parts.length;
      }
      for (const u of unions) u.members.forEach((b, i) => { expect(u.offsets[i] % 256).toBe(0); expect(u.offsets[i] + bytes[b]).toBeLessThanOrEqual(u.offsets[i + 1] ?? u.bytes); });
    }), { numRuns: 300, seed: 7 });
    expect(merged).toBeGreaterThan(50);
  });
});

test("every text that the ops of the table become compiles merged", async () => {
  const session = await Session.open({ backend: "null", mode: "safe" }), texts = new Map<string, Dispatch>();
  const backend = new WebGpuBackend(session, (kernel, plan, target) => {
    const program = lower(kernel, plan, target);
    for (const d of program.dispatches) texts.set(d.code, d);
    return program;
  });
  // the null driver computes nothing, so values are wrong; what was to be compiled is known by then
  for (const law of conform(backend, tensorSubjects, { runs: 1, graphs: 0 }).laws) if (law.kind === "values") await law.check().catch(() => {});
  const merged = [...texts.values()].flatMap((d) => { const p = segmentPlan(d); return p === null ? [] : [session.device.pipeline({ ...d, code: mergeText(d.code, 3, p) })]; });
  await Promise.all(merged.map((m) => m.ready));
  expect(merged.flatMap((m) => (m.error === null ? [] : [m.error.message]))).toEqual([]);
  expect(merged.length).toBeGreaterThan(60);
  await backend.close();
}, 120_000);

describe.runIf(found)("on a software driver", () => {
  const sizes = [1000, 3, 2048, 4096, 257, 12288, 1000, 5000, 3000, 6000, 2000], count = sizes.length;
  /** AdamW-like updates of many stores, and the sum of the squares of their gradients. */
  const trainer = (): { step: (x: Tensor) => Tensor; stores: Store[] } => {
    const make = (name: string, at: number): Store[] => sizes.map((n, i) => store(fromHost({ dtype: "f32", shape: [n], data: Float32Array.from({ length: n }, (_, j) => ((i + at + j) % 7) / 8) }), `${name}${i}`));
    const p = make("p", 0), m = make("m", 3), v = make("v", 5), stores = [...p, ...m, ...v];
    const step = compile((x: Tensor) => {
      const g = p.map((w) => add(mul(w.read(), x), 0.125));
      const norm = g.map((y) => sum(mul(y, y))).reduce((a, b) => add(a, b));
      const m2 = m.map((s, i) => add(mul(s.read(), 0.5), g[i])), v2 = v.map((s, i) => add(mul(s.read(), 0.75), mul(g[i], g[i])));
      const p2 = p.map((s, i) => s.read().sub(mul(m2[i], 0.125)).add(mul(v2[i], norm.minimum(scalar(1)).mul(0.0625))));
      assign(stores, [...p2, ...m2, ...v2]);
      return norm;
    });
    return { step, stores };
  };
  const play = async (steps: number): Promise<{ losses: number[]; ends: number[][] }> => {
    const { step, stores } = trainer(), losses: number[] = [], ends: number[][] = [];
    for (let i = 0; i < steps; i++) losses.push(await step(tensor([0.25 * (i + 1)])).item());
    for (const s of stores) ends.push([...(await s.data())]);
    return { losses, ends };
  };
  test("equal updates of many tensors are few dispatches with equal results", async () => {
    setDevice(createReference({ fuse: true }));
    const want = await play(4), device = await webgpu({ mode: "safe", allowSoftware: true });
    setDevice(device);
    const kernels = memory(device).kernels, got = await play(4);
    got.losses.forEach((x, i) => { expect(Math.abs(x / want.losses[i] - 1)).toBeLessThan(1e-5); });
    got.ends.forEach((xs, i) => { xs.forEach((x, j) => { expect(Math.abs(x - want.ends[i][j])).toBeLessThan(1e-5 * (1 + Math.abs(x))); }); });
    // odd sizes have texts of their own
    expect(device.stats.dispatches).toBeLessThan(0.6 * (memory(device).kernels - kernels));
    expect(memory(device).kernels - kernels).toBeGreaterThanOrEqual(4 * 2 * count);
    await device.close();
  });
  test("parts of one tensor are written by one dispatch; halves, which share words, are not", async () => {
    const n = 40, xs = Array.from({ length: n }, (_, i) => store(fromHost({ dtype: "f32", shape: [300], data: Float32Array.from({ length: 300 }, (_, j) => (i * j) % 7) })));
    const dispatches = async (device: WebGpuBackend, dtype: "f32" | "f16"): Promise<readonly [number, readonly number[]]> => {
      const before = device.stats.dispatches, out = await concat(xs.map((x) => total(x).cast(dtype).reshape([1]))).cast("f32").mul(1).data();
      return [device.stats.dispatches - before, [...out]];
    };
    const device = await webgpu({ mode: "safe", allowSoftware: true }), want = Array.from({ length: n }, (_, i) => Array.from({ length: 300 }, (_, j) => (i * j) % 7).reduce((a, b) => a + b, 0));
    setDevice(device);
    const [few, sums] = await dispatches(device, "f32"), [many, halves] = await dispatches(device, "f16");
    expect(sums).toEqual(want);
    expect(few).toBeLessThanOrEqual(3);
    expect(halves).toEqual(want);
    expect(many).toBeGreaterThanOrEqual(n);
    await device.close();
  });
  test("plans that want different stores side by side come to rest, with right numbers", async () => {
    const play = async (): Promise<number[][]> => {
      const w = Array.from({ length: 9 }, (_, i) => store(fromHost({ dtype: "f32", shape: [600 + 4 * i], data: new Float32Array(600 + 4 * i).fill(i) })));
      const grow = (from: number, to: number, by: number): (() => Tensor) => compile(() => { const part = w.slice(from, to); assign(part, part.map((s) => add(mul(s.read(), 0.5), by))); return scalar(0).add(by); });
      const plans = [grow(0, 5, 1), grow(3, 8, 2), grow(0, 9, 3), grow(6, 9, 4)];
      for (let i = 0; i < 3; i++) for (const p of plans) await p().data();
      return Promise.all(w.map(async (s) => [...(await s.data())]));
    };
    setDevice(createReference({ fuse: true }));
    const want = await play(), device = await webgpu({ mode: "safe", allowSoftware: true });
    setDevice(device);
    expect(await play()).toEqual(want);
    const made = device.stats.buffersCreated, kernels = memory(device).kernels, dispatches = device.stats.dispatches;
    expect(await play()).toEqual(want);
    expect(device.stats.dispatches - dispatches).toBeLessThan(0.4 * (memory(device).kernels - kernels));
    expect(device.stats.buffersCreated - made).toBeLessThan(20);
    await device.close();
  });
});
