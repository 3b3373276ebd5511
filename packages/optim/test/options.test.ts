/** Options that make no sense, or that nobody knows: each is refused by its name, none is silently ignored. */
import { ConfigError, setDevice, store, tensor } from "@adjoint/tensor";
import { describe, expect, it } from "vitest";
import { adafactor, adafactorTorch, adafactorTrainer, adam, adamw, adamw8bit, averageWeights, byRole, clipAdaptively, constant, cosine, joinSchedules, lion, loraPlus, matches, muon, nadam, optimizer, optimizerNames, resetState, riemannian, rulesOf, scaleByAdam, scaleByRms, schedule, scheduleNames, sgd, sophia, trace, withWarmup } from "@adjoint/optim";
import { devices } from "./golden.ts";

setDevice(devices[0]);
/** What a caller without types may give. */
const bad = <T>(x: unknown): T => x as T;
const group = (x: unknown): (() => unknown) => () => adamw({ groups: [bad({ match: "a", ...(x as object) })] });
const refused = (build: () => unknown, key: string): void => {
  let error: unknown = null;
  try { build(); } catch (e) { error = e; }
  expect(error).toBeInstanceOf(ConfigError);
  const { message, details } = error as ConfigError;
  expect([key, typeof details["op"], "value" in details, String(details["fix"]).length > 5]).toEqual([details["key"], "string", true, true]);
  expect(message).not.toMatch(/does be|undefined is not|that does/);
};

describe("groups", () => {
  it.each<[string, () => unknown, string]>([
    ["torch's spelling of the rate", group({ lr: 0.001 }), "groups[0].lr"],
    ["torch's spelling of the decay", group({ weight_decay: 0 }), "groups[0].weight_decay"],
    ["an option of the optimizer that groups do not have", group({ betas: [0.9, 0.99] }), "groups[0].betas"],
    ["no match", () => adamw({ groups: [bad({ learningRate: 1 })] }), "groups[0].match"],
    ["a regular expression", group({ match: /a/ }), "groups[0].match"],
    ["a list", group({ match: ["a"] }), "groups[0].match"],
    ["an unknown role, though optional", group({ match: { role: "adapterC" }, optional: true }), "groups[0].match.role"],
    ["an unknown role among known ones", group({ match: { role: ["norm", "adapterC"] }, optional: true }), "groups[0].match.role"],
    ["no roles", group({ match: { role: [] }, optional: true }), "groups[0].match.role"],
    ["a role that is no text", group({ match: { role: 3 } }), "groups[0].match.role"],
    ["a role and more", group({ match: { role: "norm", path: "a" } }), "groups[0].match.path"],
    ["a rate that is text", group({ learningRate: "1e-3" }), "groups[0].learningRate"],
    ["a schedule that is a number", group({ schedule: 0.5 }), "groups[0].schedule"],
    ["a decay that is text", group({ weightDecay: "0" }), "groups[0].weightDecay"],
    ["a flag that is text", group({ optional: "yes" }), "groups[0].optional"],
    ["a name that is a number", group({ name: 1 }), "groups[0].name"],
    ["no list", () => adamw({ groups: bad({}) }), "groups"],
    ["no list, in adafactor", () => adafactor({ groups: bad({}) }), "groups"],
    ["a group that is text", () => adamw({ groups: [bad("a")] }), "groups[0]"],
    ["no group at all", () => adamw({ groups: [bad(null)] }), "groups[0]"],
    ["a role's rate misspelled", () => byRole({ adapterB: bad({ lr: 1 }) }), "adapterB.lr"],
    ["no roles at all", () => byRole(bad(null)), "rates"],
  ])("%s", (_, build, key) => { refused(build, key); });
  it("what is right is taken", () => {
    const p = { a: store(tensor([1])), norm: { weight: store(tensor([1])) } };
    for (const match of ["a", (path: string) => path === "a", { role: "norm" as const }, { role: ["norm" as const, "bias" as const] }]) expect(() => adamw({ groups: [{ match, name: "one", optional: false, learningRate: 1, weightDecay: 0, schedule: () => 1 }] }).for(p)).not.toThrow();
    expect(matches("a", "x.a")).toBe(true);
    expect([rulesOf("t", { learningRate: 1, weightDecay: 0 }).constant, rulesOf("t", { learningRate: () => 1, weightDecay: 0 }).constant, rulesOf("t", { learningRate: 1, weightDecay: 0, groups: [{ match: "a", schedule: () => 1 }] }).constant]).toEqual([true, false, false]);
  });
});

describe("options of optimizers and schedules", () => {
  it.each<[string, () => unknown, string]>([
    ["one number for two betas", () => adam({ betas: bad(0.9) }), "betas"],
    ["one beta", () => adam({ betas: bad([0.9]) }), "betas"],
    ["three betas", () => adamw({ betas: bad([0.9, 0.99, 0.999]) }), "betas"],
    ["three betas of lion", () => lion({ betas: bad([0.9, 0.99, 0.999]) }), "betas"],
    ["one beta of eight bits", () => adamw8bit({ betas: bad([0.9]) }), "betas"],
    ["a beta that is text", () => adamw({ betas: bad(["0.9", 0.999]) }), "betas[0]"],
    ["a second beta by the step", () => adamw({ betas: bad([0.9, () => 0.9]) }), "betas[1]"],
    ["a beta by the step in nadam", () => nadam({ betas: bad([() => 0.9, 0.9]) }), "betas[0]"],
    ["an unknown option of a transform", () => scaleByAdam(bad({ beta1: 0.9 })), "beta1"],
    ["an unknown option of another", () => trace(bad({ momentum: 0.9, damping: 1 })), "damping"],
    ["one more", () => scaleByRms(bad({ beta: 0.9 })), "beta"],
    ["betas of a transform", () => scaleByAdam({ betas: bad([0.9]) }), "betas"],
    ["a rate that is text", () => sgd({ learningRate: bad("1e-3") }), "learningRate"],
    ["no rate", () => sgd({ learningRate: bad(null) }), "learningRate"],
    ["a schedule that is a number", () => adamw({ schedule: bad(0.5) }), "schedule"],
    ["a list for noDecay", () => adamw({ noDecay: bad(["bias"]) }), "noDecay"],
    ["a list for noDecay of LoRA+", () => loraPlus({ learningRate: 1, ratio: 2, noDecay: bad(["bias"]) }), "noDecay"],
    ["an unknown option of LoRA+", () => loraPlus(bad({ learningRate: 1, ratio: 2, eps: 1 })), "eps"],
    ["no options of LoRA+", () => loraPlus(bad(undefined)), "options"],
    ["a list of two for three", () => muon({ nsCoefficients: bad([1, 2]) }), "nsCoefficients"],
    ["coefficients that are text", () => muon({ nsCoefficients: bad([1, 2, "3"]) }), "nsCoefficients[2]"],
    ["one eps of two", () => adafactor({ eps: bad([1e-30]) }), "eps"],
    ["one eps for two", () => adafactor({ eps: bad(1e-30) }), "eps"],
    ["one eps of torch's two", () => adafactorTorch({ eps: bad([null]) }), "eps"],
    ["a threshold that is text", () => adafactor({ clipThreshold: bad("1") }), "clipThreshold"],
    ["no curvature", () => sophia({ rho: 0 }), "rho"],
    ["no curvature either", () => sophia({ bs: 0 }), "bs"],
    ["a momentum that is text", () => sgd({ momentum: bad("0.9") }), "momentum"],
    ["null", () => adamw(bad(null)), "options"],
    ["a list", () => sgd(bad([])), "options"],
    ["a rate in the place of options", () => adamw(bad(1e-3)), "options"],
    ["null for the Trainer's adafactor", () => adafactorTrainer(bad(null)), "options"],
    ["null for riemannian", () => riemannian(bad(null)), "options"],
    ["what keeps 32 bits", () => adamw8bit({ keep32bit: bad(/a/) }), "keep32bit"],
    ["a clip that is text", () => clipAdaptively(bad("0.1")), "options"],
    ["a decay of averages that is text", () => averageWeights({ p: store(tensor([1])) }, { decay: bad("0.9") }), "decay"],
    ["a schedule without options", () => cosine(bad(undefined)), "options"],
    ["a constant without options", () => constant(bad(undefined)), "options"],
    ["numbers in the place of schedules", () => joinSchedules([bad(0.5), () => 1], [1]), "schedules[0]"],
    ["a warm-up to a number", () => withWarmup(bad(0.5), 2), "schedule"],
  ])("%s", (_, build, key) => { refused(build, key); });
  it("null by every name", () => {
    for (const name of optimizerNames) refused(() => optimizer(name, bad(null)), "options");
    for (const name of scheduleNames) refused(() => schedule(name, bad(null)), "options");
  });
  it("a match of resetState", async () => {
    const o = adamw().for({ a: store(tensor([1])) });
    await expect(resetState(o, { mode: "zero", match: bad(/a/) })).rejects.toThrow(expect.objectContaining({ name: "ConfigError", details: expect.objectContaining({ key: "match" }) }));
  });
  it("momentum and betas by the step are refused at the step that gives no sense, before anything has changed", async () => {
    for (const [make, key] of [[() => sgd({ momentum: (t) => (t === 1 ? NaN : 0.5) }), "momentum"], [() => sgd({ momentum: (t) => 0.5 - t }), "momentum"], [() => adam({ betas: [(t) => 0.5 + 1.5 * t, 0.9] }), "betas[0]"], [() => adamw({ betas: [(t) => (t === 0 ? 0.5 : NaN), 0.9] }), "betas[0]"]] as const) {
      const p = store(tensor([1])), o = make().for({ p });
      o.step({ p: tensor([1]) });
      const kept = await p.item();
      refused(() => o.step({ p: tensor([1]) }), key);
      expect(() => o.step({ p: tensor([1]) })).toThrow(/of step 1 must be/);
      expect([o.counter.value, await p.item()]).toEqual([1, kept]);
    }
  });
});
