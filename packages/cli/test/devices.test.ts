/** --device, doctor and tune; on a software GPU where there is one. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { getDevice } from "@adjoint/tensor";
import { adapters, nameOf } from "@adjoint/webgpu";
import { tilesFile } from "../src/tiles-file.ts";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { adjoint, temporary } from "./support.ts";

const found = await adapters().catch(() => []), program = found.find((a) => a.software), part = program === undefined ? "" : program.architecture || program.description;
const model = fixture("llama/tiny"), ids = join(model, "ids.json");
afterEach(async () => { delete process.env["ADJOINT_CACHE"]; await getDevice().close?.(); });

test("a device that does not exist is refused with those that do", async () => {
  for (const device of ["gpu", "cpu:2", "webgpu:no such adapter"]) {
    const { code, err } = await adjoint(["eval", "--model", model, "--ids", ids, "--device", device]);
    expect(code, device).toBe(1);
    expect(err).toMatch(device === "gpu" ? /auto, cpu, webgpu/ : device === "cpu:2" ? /--device cpu/ : /webgpu/);
  }
});

test("doctor says what --device auto is, and a cure for everything that is missing", async () => {
  const { code, out } = await adjoint(["doctor", "--json"]), said = JSON.parse(out) as { auto: string; findings: { name: string; ok: boolean | null; cure?: string }[]; adapters: { software: boolean }[] };
  expect(code).toBe(0);
  expect(said.auto).toBe(said.adapters.some((a) => !a.software) ? "webgpu" : "cpu");
  for (const f of said.findings) if (f.ok === false && f.name !== "adapter") expect(f.cure, f.name).toMatch(/\w/);
  const { out: text } = await adjoint(["doctor"]);
  expect(text).toContain(`--device auto is ${said.auto} here`);
});

test("auto never takes a program for a GPU", async () => {
  const { out } = await adjoint(["eval", "--model", model, "--ids", ids, "--json", "--device", "auto", "--threads", "1"]), { device } = JSON.parse(out) as { device: string };
  expect(device.startsWith("webgpu")).toBe(found.some((a) => !a.software));
});

describe.skipIf(program === undefined)("on a software GPU", () => {
  test("eval gives transformers' loss", async () => {
    const { code, out, err } = await adjoint(["eval", "--model", model, "--ids", ids, "--json", "--device", `webgpu:${part}`]);
    expect(code, err).toBe(0);
    expect(Math.abs((JSON.parse(out) as { loss: number }).loss - Number(golden("llama/tiny")["loss"]))).toBeLessThan(1e-4);
  }, 60_000);

  test("finetune follows the CPU's run", async () => {
    const losses: number[][] = [];
    for (const device of [`webgpu:${part}`, "cpu"]) {
      const folder = join(temporary(), "run");
      const { code, err } = await adjoint(["finetune", "--model", model, "--ids", ids, "--max-steps", "6", "--per-device-train-batch-size", "2", "--lora-r", "4", "--learning-rate", "1e-2", "--no-shuffle", "--output-dir", folder, "--device", device, "--threads", "1"]);
      expect(code, err).toBe(0);
      losses.push(readFileSync(join(folder, "metrics.jsonl"), "utf8").trim().split("\n").map((l) => JSON.parse(l) as Record<string, number>).filter((m) => "grad_norm" in m).map((m) => m["loss"]));
    }
    expect(losses[0]).toHaveLength(6);
    losses[0].forEach((l, i) => { expect(Math.abs(l - losses[1][i]) / losses[1][i], `step ${i + 1}`).toBeLessThan(1e-3); });
  }, 120_000);

  test("tune keeps a table that later runs take; a broken one is named", async () => {
    process.env["ADJOINT_CACHE"] = temporary();
    const { code, out, err } = await adjoint(["tune", "--adapter", part, "--seconds", "1", "--json"]), name = nameOf(program!), file = tilesFile(name);
    expect(code, err).toBe(0);
    expect((JSON.parse(out) as { file: string; device: string })).toMatchObject({ file, device: name });
    const evaluate = ["eval", "--model", model, "--ids", ids, "--json", "--device", `webgpu:${part}`];
    expect((JSON.parse((await adjoint(evaluate)).out) as { device: string }).device).toMatch(/, tuned$/);
    mkdirSync(join(file, ".."), { recursive: true });
    writeFileSync(file, '{ "version": 1, "device": "x", "entries": { "f32·f32 along·along 0 1 1 1": 3 } }');
    const broken = await adjoint(evaluate);
    expect(broken.code).toBe(1);
    expect(broken.err).toContain("tiles:");
    expect(broken.err).toContain("adjoint tune");
  }, 120_000);
});
