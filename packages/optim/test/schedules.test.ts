/** Schedules: Transformers' numbers, the anchors of the specification, laws, refusals. */
import { ConfigError } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { constant, constantWithWarmup, cosine, linear, schedule, scheduleNames } from "@adjoint/optim";
import { golden } from "@adjoint/testing/fixtures";
import { expectClose } from "./golden.ts";

interface Row { readonly name: string; readonly total: number; readonly warmup: number; readonly values: number[] }

describe("golden", () => {
  for (const { name, total, warmup, values } of golden<{ cases: Row[] }>("schedules").cases) {
    it(`${name}, ${total} steps, ${warmup} of them warm-up`, () => {
      if (warmup > total && (name === "linear" || name === "cosine")) {
        expect(() => schedule(name, { peak: 1, warmup, steps: total })).toThrow(ConfigError);      // Transformers never reaches the peak and says nothing
        return;
      }
      const f = schedule(name, name === "constant" ? { peak: 1 } : name === "constant_with_warmup" ? { peak: 1, warmup } : { peak: 1, warmup, steps: total });
      expectClose(values.map((_, t) => f(t)), values, 1e-12, name);
    });
  }
  it("the anchors of the specification (A.6)", () => {
    const steps = [...Array(11).keys()];
    expect(steps.map(linear({ peak: 1, warmup: 2, steps: 10 }))).toEqual([0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]);
    expectClose(steps.map(cosine({ peak: 1, warmup: 2, steps: 10 })), [0, 0.5, 1, 0.961939766, 0.853553391, 0.691341716, 0.5, 0.308658284, 0.146446609, 0.038060234, 0], 5e-10);
  });
});

describe("laws", () => {
  const shapes = fc.record({ W: fc.integer({ min: 0, max: 20 }), D: fc.integer({ min: 1, max: 200 }), peak: fc.integer({ min: 1, max: 64 }).map((k) => k / 16) });
  it("the peak is reached at the end of the warm-up and never passed; the end is 0", () => {
    fc.assert(fc.property(shapes, fc.constantFrom(linear, cosine), ({ W, D, peak }, make) => {
      const steps = W + D, f = make({ peak, warmup: W, steps }), all = [...Array(steps + 1).keys()].map(f);
      expect(f(W)).toBe(peak);
      expect(Math.max(...all)).toBe(peak);
      expect(f(steps)).toBeCloseTo(0, 12);
      if (W > 0) expect(f(0)).toBe(0);
      for (let t = 1; t <= steps; t++) expect(t <= W ? all[t] > all[t - 1] : all[t] <= all[t - 1]).toBe(true);
    }));
  });
  it("a warm-up below 1 is a share of the steps, rounded up", () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 15 }), (steps, k) => {
      const share = cosine({ peak: 3, warmup: k / 16, steps }), counted = cosine({ peak: 3, warmup: Math.ceil((steps * k) / 16), steps });
      for (let t = 0; t <= steps; t++) expect(share(t)).toBe(counted(t));
    }));
  });
  it("numCycles 1.5 comes back to the peak at two thirds", () => {
    expect(cosine({ peak: 2, steps: 300, numCycles: 1.5 })(200)).toBeCloseTo(2, 12);
  });
});

describe("refusals", () => {
  it.each<[string, () => unknown, string]>([
    ["a warm-up longer than the schedule", () => cosine({ peak: 1, warmup: 11, steps: 10 }), "warmup"],
    ["the same for a constant rate", () => constantWithWarmup({ peak: 1, warmup: 11, steps: 10 }), "warmup"],
    ["a negative peak", () => constant({ peak: -1 }), "peak"],
    ["a negative warm-up", () => linear({ peak: 1, warmup: -1, steps: 3 }), "warmup"],
    ["a warm-up of 1.5 steps", () => linear({ peak: 1, warmup: 1.5, steps: 3 }), "warmup"],
    ["a share of unknown steps", () => constantWithWarmup({ peak: 1, warmup: 0.1 }), "warmup"],
    ["no steps", () => cosine({ peak: 1 }), "steps"],
    ["0 steps", () => cosine({ peak: 1, steps: 0 }), "steps"],
    ["a warm-up that constant has no use for", () => constant({ peak: 1, warmup: 3 }), "warmup"],
    ["cycles of a line", () => schedule("linear", { peak: 1, steps: 3, numCycles: 2 }), "numCycles"],
  ])("%s", (_, make, key) => {
    expect(make).toThrow(expect.objectContaining({ name: "ConfigError", details: expect.objectContaining({ key }) }));
  });
  it("an unknown name lists the known ones", () => {
    expect(() => schedule("cosin", { peak: 1, steps: 3 })).toThrow(new RegExp(scheduleNames.join(", ")));
  });
});
