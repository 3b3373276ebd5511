/** `adjoint explain optimizer` and `adjoint explain schedule`: every name, as text and JSON; unknown names and topics. */
import { optimizerEntries, optimizerNames, scheduleNames } from "@adjoint/optim";
import { describe, expect, test } from "vitest";
import { plot, sparkline } from "../src/plot.ts";
import { adjoint } from "./support.ts";

const ask = async (...words: string[]): Promise<string> => {
  const { code, out, err } = await adjoint(["explain", ...words]);
  expect(err).toBe("");
  expect(code).toBe(0);
  return out;
};

describe("optimizers", () => {
  test("all are listed, each with its use", async () => {
    const out = await ask("optimizer");
    for (const { name } of optimizerEntries) expect(out).toMatch(new RegExp(`^  ${name} +\\S.*: .+$`, "m"));
  });
  test("each prints its equations, defaults, bytes of state and source", async () => {
    for (const name of optimizerNames) {
      const out = await ask("optimizer", name), json: unknown = JSON.parse(await ask("optimizer", name, "--json"));
      for (const part of ["optim_args and their defaults", "state   ", "bytes   a parameter: ", "use     ", "source  "]) expect(out).toContain(part);
      expect(json).toMatchObject({ equations: expect.arrayContaining([expect.stringContaining("←")]), source: expect.any(String) });
    }
  });
  test("where a recipe's own keys go before the defaults, they are named", async () => {
    const lines = async (name: string): Promise<string[]> => (await ask("optimizer", name)).split("\n").filter((l) => l.includes("a recipe's")).map((l) => l.trim().replaceAll(/ +/g, " "));
    expect(await lines("muon")).toEqual(["weight_decay 0.1 a recipe's: weight_decay, 0", "eps 1e-7 a recipe's: adam_epsilon, where it is not 1e-8", "rate 0.001; a recipe's: learning_rate"]);
    expect(await lines("lion")).toEqual(["beta1 0.9 a recipe's: adam_beta1, where it is not 0.9", "beta2 0.99 a recipe's: adam_beta2, where it is not 0.999", "weight_decay 0 a recipe's: weight_decay, 0", "rate 1e-4; a recipe's: learning_rate"]);
    expect((await lines("paged_lion_8bit"))[1]).toBe("beta2 0.99 a recipe's: adam_beta2, 0.999");
    expect(await lines("adamw_hf")).toContain("eps 1e-6 a recipe's: adam_epsilon, 1e-8");
    expect(await lines("adafactor")).toEqual(["weight_decay 0 a recipe's: weight_decay, 0", "rate 0.001; a recipe's: learning_rate"]);
    expect(JSON.parse(await ask("optimizer", "adamw", "--json"))).toMatchObject({ learning_rate: 1e-3, recipe_keys: { beta1: "adam_beta1", beta2: "adam_beta2", eps: "adam_epsilon", weight_decay: "weight_decay" } });
  });
  test("bytes are counted on what would be allocated: the formulas of the specification", async () => {
    const of = async (name: string): Promise<unknown> => (JSON.parse(await ask("optimizer", name, "--json")) as { bytes_per_parameter: Record<string, number> }).bytes_per_parameter["a 512 x 512 matrix"];
    expect(await Promise.all(["sgd", "adamw", "lion", "rmsprop", "sophia", "adamw_8bit", "lion_8bit", "adafactor"].map(of))).toEqual([0, 8, 4, 4, 8, 2.03125, 1.015625, (4 * 1024) / 512 ** 2]);
  });
});

describe("schedules", () => {
  test("all are listed with a curve; each prints its plot, equation and options", async () => {
    const list = await ask("schedule");
    for (const name of scheduleNames) {
      expect(list).toMatch(new RegExp(`^  ${name} `, "m"));
      const out = await ask("schedule", name);
      expect(out).toMatch(/^  1 │[^]*^  0 │ ?[█▁-▇]/m);
      expect(out).toContain("source  ");
    }
    expect(await ask("schedule", "cosine", "--json")).toContain('"curve":[0,');
  });
  test("a picture of numbers", () => {
    expect(sparkline([0, 0.01, 0.5, 1])).toBe(" ▁▄█");
    expect(plot([0, 0.25, 0.5, 0.75, 1], 2)).toEqual(["  1 │   ▄█", "  0 │ ▄███"]);
  });
});

test.each([[["optimizer", "adamx"], /there is no adamx[^]*known optimizers: .*adamw_torch/], [["schedule", "cosin"], /there is no cosin[^]*known schedules: .*cosine/], [["gradient"], /no topic gradient[^]*optimizer, schedule/], [["schedule", "cosine", "linear"], /one argument too many/]])("%j is refused", async (words, message) => {
  const { code, err } = await adjoint(["explain", ...words]);
  expect(code).toBe(1);
  expect(err).toMatch(message);
});
