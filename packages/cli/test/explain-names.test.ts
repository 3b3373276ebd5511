/** `adjoint explain adapter`, `format`, `optimizer` and `schedule`: every name, as text and JSON; unknown names and topics. */
import { adapterAbouts, isInitLoraWeights } from "@adjoint/lora";
import { optimizerEntries, optimizerNames, scheduleNames } from "@adjoint/optim";
import { formats } from "@adjoint/quant";
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

describe("adapters and formats", () => {
  test("all adapters and first numbers are listed; each prints equations, tensors where `lora` makes it, recipe, code and source", async () => {
    const list = await ask("adapter");
    for (const { name, kind, options } of adapterAbouts) {
      expect(list).toMatch(new RegExp(`^  ${name} +\\S.*: .+$`, "m"));
      const out = await ask("adapter", name);
      for (const part of ["recipe  ", "code    ", "use     ", "source  ", ...(options === null ? [] : ["numbers train"])]) expect(out).toContain(part);
      if (kind === "first numbers") expect(isInitLoraWeights(name)).toBe(true);
    }
    expect(await ask("adapter", "dora")).toMatch(/6,656 numbers train\n {2}q_proj\.lora_A\.weight +8 x 256/);
    expect(JSON.parse(await ask("adapter", "LoRA-GA", "--json"))).toMatchObject({ name: "lora_ga", source: expect.stringContaining("2407.05000") });
  });
  test("every format prints its table; errors are those of the codes", async () => {
    const list = await ask("format");
    for (const name of Object.keys(formats)) {
      expect(list).toMatch(new RegExp(`^  ${name} +[48] bits a code`, "m"));
      expect(await ask("format", name)).toContain("\ntable\n");
    }
    const nf4 = await ask("format", "nf4", "--json"), int8 = await ask("format", "int8", "--json"), error = (text: string): number => (JSON.parse(text) as { errors: { error: number }[] }).errors[0].error;
    expect(error(int8)).toBeLessThan(error(nf4) / 8);
    expect(await ask("format", "nf4")).toContain("-0.6962");
  });
  test("whatever is explained fits 100 columns", async () => {
    const all = [["adapter"], ["format"], ["optimizer"], ["schedule"], ...adapterAbouts.map((a) => ["adapter", a.name]), ...Object.keys(formats).map((f) => ["format", f]), ...optimizerNames.map((o) => ["optimizer", o]), ...scheduleNames.map((s) => ["schedule", s])];
    const wide: string[] = [];
    for (const words of all) for (const line of (await ask(...words)).split("\n")) if (line.length > 100) wide.push(`${words.join(" ")}: ${line}`);
    expect(wide).toEqual([]);
  });
});

test.each([[["adapter", "dorra"], /there is no adapter dorra[^]*did you mean dora/], [["format", "nf5"], /format "nf5" is not known/], [["optimizer", "adamx"], /there is no adamx[^]*known optimizers: .*adamw_torch/], [["schedule", "cosin"], /there is no cosin[^]*known schedules: .*cosine/], [["gradient"], /no topic gradient[^]*adapter, format, optimizer, schedule/], [["schedule", "cosine", "linear"], /one argument too many/]])("%j is refused", async (words, message) => {
  const { code, err } = await adjoint(["explain", ...words]);
  expect(code).toBe(1);
  expect(err).toMatch(message);
});
