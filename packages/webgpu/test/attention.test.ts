/** Attention kernels against their definitions, on the software GPU; every tile and variant is compiled on the null backend. */
import { beforeAll, describe, expect, it } from "vitest";
import { lower } from "../src/lower.ts";
import { attentionTiles, bytesOfTile, chooseTile, threadsOf } from "../src/composites/attention-tiles.ts";
import { backwardWith } from "../src/composites/attention-backward.ts";
import { forwardWith } from "../src/composites/attention-forward.ts";
import type { Program, Target } from "../src/program.ts";
import { type Prepared, prepare, type Use } from "./attention.ts";
import { type Bench, compile, execute, open } from "./execute.ts";

let gpu: Bench;
beforeAll(async () => {
  const found = await open();
  if (found === null) throw new Error("no WebGPU adapter: run through npm test, which brings a software GPU");
  gpu = found;
});
const check = async (x: Prepared, program: Program, text: string): Promise<void> => {
  const out = x.kernel.outputs[0].buffer, got = (await execute(gpu, x.plan, program, x.buffers, x.uniforms))[out], scale = Math.max(1, ...x.want.map(Math.abs));
  x.want.forEach((w, i) => { if (!(Math.abs(w - got[i]) <= 2e-5 * scale)) expect.fail(`${text}: element ${i} of ${x.want.length} is ${got[i]}, expected ${w}`); });
};
const both = async (use: Use): Promise<void> => { for (const x of await prepare(use)) await check(x, lower(x.kernel, x.plan, gpu.target), `${x.kernel.name} ${JSON.stringify(use)}`); };

const LONG = 240_000;
const small: Use = { B: 2, T: 5, S: 7, KV: 2, G: 1, d: 8 };
describe("values", () => {
  for (const d of [1, 3, 32]) it(`heads of ${d}`, () => both({ ...small, d }), LONG);
  it("heads of 64 and 128", async () => {
    for (const d of [64, 128]) await both({ B: 1, T: 5, S: 9, KV: 1, G: 1, d, causal: true, offset: 4 });
  }, LONG);
  it("grouped heads, causal, with an offset", async () => {
    await both({ ...small, G: 3, causal: true, offset: 2 });
    await both({ ...small, T: 9, S: 5, G: 2, causal: true, offset: -3 });
  }, LONG);
  it("windows and marks", async () => {
    await both({ ...small, window: 2, marks: true });
    await both({ ...small, T: 19, S: 23, causal: true, marks: true, offset: 4, window: 7 });
  }, LONG);
  it("keys by head, as caches hold them, and one query", async () => {
    await both({ ...small, keys: "heads" });
    await both({ ...small, T: 1, S: 70, G: 2, keys: "heads", causal: true, offset: 33 });
    await both({ ...small, T: 3, S: 70, G: 4, keys: "heads", causal: true, offset: 60 });
  }, LONG);
  it("one tensor that holds queries, keys and values", async () => {
    await both({ ...small, S: 5, G: 2, packed: true, causal: true });
    await both({ ...small, T: 19, S: 19, d: 3, packed: true, causal: true, marks: true });
  }, LONG);
  it("many tiles of every shape, with everything at once", async () => {
    const [f, b] = await prepare({ B: 2, T: 37, S: 40, KV: 2, G: 2, d: 16, causal: true, offset: 3, window: 20, marks: true });
    for (const t of attentionTiles.filter((x) => threadsOf(x) <= 32)) {
      await check(f, forwardWith(f.kernel, f.plan, gpu.target, t), `forward ${JSON.stringify(t)}`);
      await check(b, backwardWith(b.kernel, b.plan, gpu.target, { queries: t, keys: t }), `backward ${JSON.stringify(t)}`);
    }
  }, LONG);
  it("the tiles of large GPUs", async () => {
    const [f, b] = await prepare({ B: 1, T: 70, S: 70, KV: 1, G: 1, d: 32, causal: true });
    await check(f, forwardWith(f.kernel, f.plan, gpu.target, { R: 64, C: 32, TX: 8 }), "forward");
    await check(b, backwardWith(b.kernel, b.plan, gpu.target, { queries: { R: 64, C: 16, TX: 8 }, keys: { R: 32, C: 16, TX: 8 } }), "backward");
  }, LONG);
  it("a device of eight bindings, where marks leave no room for statistics", async () => {
    const [, b] = await prepare({ ...small, marks: true, G: 2, causal: true }), target = { ...gpu.target, limits: { ...gpu.target.limits, storageBuffers: 8 } }, program = lower(b.kernel, b.plan, target);
    expect(program.dispatches.length).toBe(3);
    await check(b, program, "backward");
  }, LONG);
  it("is the same bit for bit on every run", async () => {
    const [, b] = await prepare({ ...small, T: 40, S: 40, causal: true }), program = lower(b.kernel, b.plan, gpu.target), run = async (): Promise<number[]> => (await execute(gpu, b.plan, program, b.buffers, b.uniforms))[b.kernel.outputs[0].buffer];
    expect(await run()).toEqual(await run());
  }, LONG);
});

describe("texts", () => {
  it("compile for every tile and head size, with and without marks, offset and groups", async () => {
    const none = await open("backend=null");
    if (none === null) throw new Error("no null backend");
    let texts = 0;
    for (const d of [1, 8, 30, 32, 40, 48, 64, 72, 80, 96, 112, 120, 128]) for (const on of [false, true]) {
      const [f, b] = await prepare({ B: 1, T: 2, S: 2, KV: 1, G: on ? 2 : 1, d, marks: on, ...(on ? { offset: 1 } : {}) });
      for (const t of attentionTiles) {
        const roomy = { ...none.target, limits: { ...none.target.limits, workgroupBytes: 65536, invocations: 1024 } };
        const programs: Program[] = [forwardWith(f.kernel, f.plan, roomy, t), backwardWith(b.kernel, b.plan, roomy, { queries: t, keys: t })], fit = bytesOfTile("keys", t, d) <= none.target.limits.workgroupBytes && threadsOf(t) <= none.target.limits.invocations;
        for (const { dispatches } of programs) for (const { code } of dispatches) {
          texts++;
          if (fit) { await compile(none, code); continue; }
          const bad = (await none.device.createShaderModule({ code }).getCompilationInfo()).messages.find((m) => m.type !== "info");
          expect(bad?.message).toBeUndefined();
        }
      }
    }
    expect(texts).toBeGreaterThan(1000);
  }, 120_000);
  it("do not depend on sizes, and fit 8 bindings and 16 KiB", async () => {
    const text = async (use: Use, limits = {}): Promise<string[]> => {
      const target = { ...gpu.target, units: 1, limits: { ...gpu.target.limits, storageBuffers: 8, ...limits } };
      return (await prepare(use)).flatMap((x) => lower(x.kernel, x.plan, target).dispatches.map((d) => { expect(d.bindings.length).toBeLessThanOrEqual(8); return d.code; }));
    };
    const use: Use = { B: 1, T: 70, S: 70, KV: 1, G: 2, d: 16, causal: true, marks: true, offset: 0 };
    expect(await text({ ...use, B: 2, T: 90, S: 130, KV: 2, G: 3, causal: false, window: 3, keys: "heads" })).toEqual(await text(use));
    for (const d of [32, 64, 128]) for (const code of await text({ ...use, d }, { workgroupBytes: 16384 })) {
      const bytes = [...code.matchAll(/var<workgroup> \w+: array<(vec4<f32>|f32), (\d+)>/g)].reduce((n, m) => n + Number(m[2]) * (m[1] === "f32" ? 4 : 16), 0);
      expect(bytes).toBeGreaterThan(0);
      expect(bytes).toBeLessThanOrEqual(16384);
    }
  });
  it("are chosen to fill the device, and to fit its memory", () => {
    const target = (units: number, workgroupBytes: number): Target => ({ ...gpu.target, units, limits: { ...gpu.target.limits, workgroupBytes, invocations: 256 } }), long = { own: 1024, passing: 1024, pairs: 48 };
    expect(chooseTile("forward", 64, long, target(132, 49152))).toEqual({ R: 64, C: 32, TX: 8 });
    expect(chooseTile("forward", 128, long, target(132, 49152))).toEqual({ R: 64, C: 16, TX: 8 });
    expect(chooseTile("queries", 64, long, target(132, 49152))).toEqual({ R: 64, C: 16, TX: 8 });
    expect(chooseTile("keys", 64, long, target(132, 49152))).toEqual({ R: 32, C: 32, TX: 8 });
    expect(chooseTile("forward", 64, { ...long, pairs: 12 }, target(132, 49152))?.R).toBe(32);
    expect(chooseTile("forward", 64, { own: 128, passing: 128, pairs: 1 }, target(132, 49152))?.R).toBe(16);
    expect(chooseTile("forward", 64, { own: 1, passing: 1024, pairs: 8 }, target(132, 49152))?.C).toBe(64);
    for (const kind of ["forward", "queries", "keys"] as const) for (const size of [32, 64, 96, 128]) expect(chooseTile(kind, size, long, target(8, 16384)), `${kind} ${size}`).not.toBeNull();
  });
  it("name the head that is too large", async () => {
    const [f] = await prepare({ ...small, d: 3000 });
    expect(() => lower(f.kernel, f.plan, gpu.target)).toThrow("heads of 3000");
  });
});
