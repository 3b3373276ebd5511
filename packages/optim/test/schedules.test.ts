/** Schedules: the numbers of Transformers, torch and ReLoRA, the anchors of the specification, laws, refusals. */
import { ConfigError, FormatError } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  aboutSchedule, constant, constantWithWarmup, cosine, cosineAnnealing, cosineAnnealingWarmRestarts, cosineWithMinLr, cyclicalCosine, isPlateau, jaggedCosine, joinSchedules, linear, oneCycle, oneCycleMomentum,
  plateauRule, plotSchedule, polynomial, reduceOnPlateau, schedule, scheduleNames, scheduleOptions, type Schedule, warmupStableDecay, withWarmup,
} from "@adjoint/optim";
import { golden } from "@adjoint/testing/fixtures";
import { expectClose } from "./golden.ts";

type Kwargs = Readonly<Record<string, string | number | boolean>>;
interface Row { readonly name: string; readonly total?: number; readonly warmup?: number; readonly peak: number; readonly kwargs: Kwargs; readonly values: number[]; readonly momenta?: number[] }
interface Golden {
  readonly cases: Row[]; readonly torch: Row[]; readonly relora: Row[]; readonly joined: { readonly values: number[] };
  readonly metric: number[]; readonly plateau: { readonly peak: number; readonly kwargs: Kwargs; readonly values: number[]; readonly states: [number, number, number][] }[];
}
const { cases, torch, relora, joined, metric, plateau } = golden<Golden>("schedules");
const steps = (n: number): number[] => [...Array(n).keys()];
const text = (kwargs: Kwargs): string => (Object.keys(kwargs).length === 0 ? "" : ` ${JSON.stringify(kwargs)}`);
const torchMomentum = ({ name, total, kwargs }: Row): Schedule | null => {
  if (name !== "one_cycle") return null;
  const { pct_start: pctStart, anneal_strategy, three_phase, base_momentum: baseMomentum, max_momentum: maxMomentum } = kwargs;
  return oneCycleMomentum({
    steps: total ?? 0, ...(typeof pctStart === "number" ? { pctStart } : {}), ...(anneal_strategy === "linear" ? { annealStrategy: "linear" } : {}), ...(three_phase === true ? { threePhase: true } : {}),
    ...(typeof baseMomentum === "number" ? { baseMomentum } : {}), ...(typeof maxMomentum === "number" ? { maxMomentum } : {}),
  });
};
const withoutMomentum = ({ base_momentum: _, max_momentum: __, ...kwargs }: Kwargs): Kwargs => kwargs;

describe("golden", () => {
  for (const row of [...cases, ...torch, ...relora]) {
    const { name, total, warmup = 0, peak, kwargs, values } = row;
    it(`${name}${text(kwargs)}${total === undefined ? "" : `, ${total} steps, ${warmup} of them warm-up`}`, () => {
      const options = { peak, ...(total === undefined ? {} : { steps: total }), ...(warmup > 0 && name !== "constant" ? { warmup } : {}), ...scheduleOptions(name, withoutMomentum(kwargs)) };
      const phases = name === "warmup_stable_decay" && warmup + Number(kwargs["num_decay_steps"]) > (total ?? 0);
      if ((warmup > (total ?? Infinity) && name !== "constant") || phases) {
        expect(() => schedule(name, options)).toThrow(ConfigError);      // Transformers never reaches the peak and says nothing
        return;
      }
      const f = schedule(name, options), momentum = torchMomentum(row);
      expectClose(values.map((_, t) => f(t)), values, 1e-12, name);
      if (momentum && row.momenta) expectClose(row.momenta.map((_, t) => momentum(t)), row.momenta, 1e-12, "momentum");
    });
  }
  it("a fixture knows every name, so that none is left out", () => {
    const known = new Set([...cases, ...torch, ...relora].map((r) => r.name));
    expect([...scheduleNames].filter((name) => !known.has(name))).toEqual(["reduce_lr_on_plateau"]);
  });
  it("joined as torch's SequentialLR", () => {
    const rise: Schedule = (t) => 0.5 * (0.1 + 0.9 * Math.min(1, t / 5));
    const f = joinSchedules([rise, constant({ peak: 0.5 }), cosineAnnealing({ peak: 0.5, tMax: 8, etaMin: 0.0625 })], [5, 9]);
    expectClose(joined.values.map((_, t) => f(t)), joined.values, 1e-12);
  });
  for (const { peak, kwargs, values, states } of plateau) {
    it(`reduce_lr_on_plateau${text(kwargs)}`, () => {
      const f = schedule("reduce_lr_on_plateau", { peak, ...scheduleOptions("reduce_lr_on_plateau", kwargs) });
      if (!isPlateau(f)) throw new Error("no plateau");
      metric.forEach((m, i) => {
        expect(f.observe(m)).toBeCloseTo(values[i], 14);
        const { best, badEvaluations, cooldown } = f.state();
        expect([best, badEvaluations, cooldown]).toEqual(states[i]);
      });
    });
  }
  it("the anchors of the specification (A.6)", () => {
    const ten = steps(11);
    expect(ten.map(linear({ peak: 1, warmup: 2, steps: 10 }))).toEqual([0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]);
    expectClose(ten.map(cosine({ peak: 1, warmup: 2, steps: 10 })), [0, 0.5, 1, 0.961939766, 0.853553391, 0.691341716, 0.5, 0.308658284, 0.146446609, 0.038060234, 0], 5e-10);
    const jagged = jaggedCosine({ peak: 1, steps: 40, warmup: 4, restartEvery: 10, restartWarmup: 2, minLrRatio: 0.1 });
    expectClose([...steps(13), 20, 21, 22, 30, 31, 32, 39].map(jagged), [0, 0.25, 0.5, 0.75, 1, 0.998288, 0.993163, 0.984667, 0.972862, 0.957839, 0, 0.44736, 0.89472, 0, 0.275, 0.55, 0, 0.10264, 0.20528, 0.101712], 6e-7);
    expectClose(steps(10).map(oneCycle({ peak: 1, steps: 10 })), [0.04, 0.52, 1, 0.950484632, 0.811745654, 0.611262022, 0.388741978, 0.188258346, 0.049519368, 4e-6], 5e-10);
  });
});

describe("laws", () => {
  const shapes = fc.record({ W: fc.integer({ min: 0, max: 20 }), D: fc.integer({ min: 1, max: 200 }), peak: fc.integer({ min: 1, max: 64 }).map((k) => k / 16) });
  const falling: readonly ((o: { peak: number; warmup: number; steps: number }) => Schedule)[] = [linear, cosine, (o) => polynomial({ ...o, lrEnd: 0, power: 1.5 }), (o) => cosineWithMinLr({ ...o, minLrRate: 0 }), (o) => cosineAnnealing(o)];
  it("the peak is reached at the end of the warm-up and never passed; the end is 0", () => {
    fc.assert(fc.property(shapes, fc.constantFrom(...falling), ({ W, D, peak }, make) => {
      const T = W + D, f = make({ peak, warmup: W, steps: T }), all = steps(T + 1).map(f);
      expect(f(W)).toBeCloseTo(peak, 12);
      expect(Math.max(...all)).toBeLessThanOrEqual(peak);
      expect(f(T)).toBeCloseTo(0, 12);
      if (W > 0) expect(f(0)).toBe(0);
      for (let t = 1; t <= T; t++) expect(t <= W ? all[t] > all[t - 1] : all[t] <= all[t - 1]).toBe(true);
    }));
  });
  it("no schedule gives a negative rate, none passes the peak", () => {
    for (const name of scheduleNames) for (const v of plotSchedule(name, 100)) expect(v >= 0 && v <= 1).toBe(true);
  });
  it("a warm-up below 1 is a share of the steps, rounded up", () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 15 }), (T, k) => {
      const share = cosine({ peak: 3, warmup: k / 16, steps: T }), counted = cosine({ peak: 3, warmup: Math.ceil((T * k) / 16), steps: T });
      for (let t = 0; t <= T; t++) expect(share(t)).toBe(counted(t));
    }));
  });
  it("numCycles 1.5 comes back to the peak at two thirds", () => {
    expect(cosine({ peak: 2, steps: 300, numCycles: 1.5 })(200)).toBeCloseTo(2, 12);
  });
  it("a joined schedule is each part from its own start", () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 }), (lengths) => {
      const parts = [...lengths, 5].map((_, i): Schedule => (t) => 100 * i + t), boundaries = lengths.map((_, i) => lengths.slice(0, i + 1).reduce((a, b) => a + b, 0)), f = joinSchedules(parts, boundaries);
      let t = 0;
      [...lengths, 5].forEach((n, i) => { for (let s = 0; s < n; s++) expect(f(t++)).toBe(100 * i + s); });
    }));
    const warm = withWarmup(cosine({ peak: 2, steps: 8 }), 4);
    expect(steps(5).map(warm)).toEqual([0, 0.5, 1, 1.5, 2]);
    expect(warm(12)).toBe(cosine({ peak: 2, steps: 8 })(8));
    expect(cosine({ peak: 2, warmup: 4, steps: 12 })(7)).toBeCloseTo(warm(7), 14);
  });
  it("one cycle: the momentum is lowest where the rate is highest", () => {
    const rate = steps(40).map(oneCycle({ peak: 1, steps: 40 })), momentum = steps(40).map(oneCycleMomentum({ steps: 40 }));
    expect(rate.indexOf(Math.max(...rate))).toBe(momentum.indexOf(Math.min(...momentum)));
    expect([momentum[0], momentum[11], momentum[39]].map((x) => x.toFixed(6))).toEqual(["0.950000", "0.850000", "0.950000"]);
  });
  it("warm restarts: whole periods, however long the run", () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 7 }), fc.integer({ min: 1, max: 3 }), (t0, tMult) => {
      const f = cosineAnnealingWarmRestarts({ peak: 1, t0, tMult });
      for (let start = 0, length = t0, i = 0; i < 5; i++, start += length, length *= tMult) expect(f(start)).toBe(1);
    }));
  });
  it("a plateau's rule is a function: the same metrics give the same rates, from any saved state", () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 0, max: 8 }), { maxLength: 30 }), fc.nat(29), (metrics, cut) => {
      const options = { peak: 1, patience: 1, factor: 0.5, cooldown: 1 }, { start, next } = plateauRule(options);
      const whole = metrics.reduce(next, start), f = reduceOnPlateau(options), g = reduceOnPlateau(options);
      metrics.slice(0, cut).forEach((m) => f.observe(m));
      g.load(JSON.parse(JSON.stringify(f.state())));
      metrics.slice(cut).forEach((m) => g.observe(m));
      expect(g.state()).toEqual(whole);
      expect(g(0)).toBe(whole.learningRate);
    }));
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
    ["a warm-up of one cycle", () => oneCycle({ peak: 1, steps: 9, warmup: 3 }), "warmup"],
    ["cycles of a line", () => schedule("linear", { peak: 1, steps: 3, numCycles: 2 }), "numCycles"],
    ["an end above the peak", () => polynomial({ peak: 1e-8, steps: 3 }), "lrEnd"],
    ["no floor", () => cosineWithMinLr({ peak: 1, steps: 3 }), "minLrRate"],
    ["two floors", () => cosineWithMinLr({ peak: 1, steps: 3, minLr: 0.1, minLrRate: 0.1 }), "minLrRate"],
    ["a floor above the peak", () => cosineWithMinLr({ peak: 1, steps: 3, minLr: 2 }), "minLr"],
    ["phases longer than the schedule", () => warmupStableDecay({ peak: 1, warmup: 5, numDecaySteps: 6, steps: 10 }), "numDecaySteps"],
    ["the same with a stable phase", () => warmupStableDecay({ peak: 1, warmup: 2, numStableSteps: 5, numDecaySteps: 6, steps: 10 }), "numDecaySteps"],
    ["no decay", () => warmupStableDecay({ peak: 1, steps: 10 }), "numDecaySteps"],
    ["a shape that is not there", () => schedule("warmup_stable_decay", { peak: 1, steps: 10, ...scheduleOptions("warmup_stable_decay", { num_decay_steps: 2, decay_type: "round" }) }), "decayType"],
    ["a share of 2", () => oneCycle({ peak: 1, steps: 9, pctStart: 2 }), "pctStart"],
    ["three phases of which two take all", () => oneCycle({ peak: 1, steps: 9, pctStart: 0.6, threePhase: true }), "pctStart"],
    ["a period of 0", () => cosineAnnealingWarmRestarts({ peak: 1, t0: 0 }), "t0"],
    ["no period", () => schedule("cosine_annealing_warm_restarts", { peak: 1, steps: 9 }), "t0"],
    ["restarts that do not divide the steps", () => jaggedCosine({ peak: 1, steps: 25, restartEvery: 10, restartWarmup: 2 }), "restartEvery"],
    ["a restart within the warm-up", () => jaggedCosine({ peak: 1, steps: 20, warmup: 11, restartEvery: 10, restartWarmup: 2 }), "restartEvery"],
    ["a floor of 0", () => jaggedCosine({ peak: 1, steps: 20, restartEvery: 10, restartWarmup: 2, minLrRatio: 0 }), "minLrRatio"],
    ["a cycle shorter than its warm-up", () => cyclicalCosine({ peak: 1, steps: 20, warmup: 6, cycleLength: 5 }), "warmup"],
    ["a factor of 1", () => reduceOnPlateau({ peak: 1, factor: 1 }), "factor"],
    ["boundaries that do not rise", () => joinSchedules([constant({ peak: 1 }), constant({ peak: 1 }), constant({ peak: 1 })], [5, 5]), "boundaries[1]"],
    ["no lists to join", () => joinSchedules(null as unknown as readonly Schedule[], []), "schedules"],
    ["a metric that is no number", () => reduceOnPlateau({ peak: 1 }).observe("0.5" as unknown as number), "metric"],
    ["too few boundaries", () => joinSchedules([constant({ peak: 1 }), constant({ peak: 1 })], []), "boundaries"],
    ["a further option that is not there", () => scheduleOptions("cosine", { numcycles: 2 }), "lr_scheduler_kwargs.numcycles"],
    ["a text for a number", () => scheduleOptions("cosine", { num_cycles: "many" }), "lr_scheduler_kwargs.num_cycles"],
    ["a number for a flag", () => scheduleOptions("one_cycle", { three_phase: 3 }), "lr_scheduler_kwargs.three_phase"],
  ])("%s", (_, make, key) => {
    expect(make).toThrow(expect.objectContaining({ name: "ConfigError", details: expect.objectContaining({ key, fix: expect.any(String) }) }));
  });
  it("an unknown name lists the known ones", () => {
    for (const f of [() => schedule("cosin", { peak: 1, steps: 3 }), () => aboutSchedule("cosin"), () => scheduleOptions("cosin", {})]) expect(f).toThrow(new RegExp(scheduleNames.join(", ")));
  });
  it("a plateau's state of something else", () => {
    const f = reduceOnPlateau({ peak: 1 });
    for (const bad of [null, 3, {}, { ...f.state(), learningRate: -1 }, { ...f.state(), best: "low" }, { ...f.state(), cooldown: 0.5 }]) expect(() => { f.load(bad); }).toThrow(FormatError);
  });
});
