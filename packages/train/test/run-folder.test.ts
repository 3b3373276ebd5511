/** A run's folder: what is replaced and what never, lines that a power cut tore, and histories that stay apart. */
import { appendFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { lora } from "@adjoint/lora";
import { loadModel } from "@adjoint/models";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { beforeAll, describe, expect, test } from "vitest";
import { adapterTrainee, idsRows, loraOptions, mergeRecipe, readEvaluations, readMetrics, readSamples, type Recipe, run, type RunEvent, type RunOptions, type RunResult } from "../src/index.ts";
import { temporary } from "./support.ts";

const rows = golden("llama/tiny")["rows"] ?? JSON.parse(readFileSync(fixture("llama/tiny/ids.json"), "utf8"));
const base: Partial<Recipe> = { per_device_train_batch_size: 2, max_steps: 4, learning_rate: 1e-2, lora_r: 2, save_steps: 2, seed: 7, sample_prompt: "x" };
const data = idsRows(rows, "rows");
async function optionsOf(folder: string, changes: Partial<Recipe> = {}): Promise<RunOptions> {
  const recipe = mergeRecipe(base, changes), model = await loadModel(fixture("llama/tiny"), { tokenizer: false });
  return { command: "finetune", recipe, trainee: adapterTrainee(lora(model, { ...loraOptions(recipe, null), seed: recipe.seed })), data, measured: [{ name: "rows", role: "new", data }], folder, sample: () => Promise.resolve("text") };
}
async function follow(options: RunOptions, seen: (event: RunEvent) => void = () => undefined): Promise<RunResult> {
  for (const going = run(options); ;) {
    const next = await going.next();
    if (next.done === true) return next.value;
    seen(next.value);
  }
}
const losses = async (folder: string): Promise<number[][]> => (await readMetrics(folder)).map((m) => [m.step, m.loss, m.grad_norm]);
let whole: string;
beforeAll(async () => { whole = temporary(); await follow(await optionsOf(whole)); });
/** A copy of the run as a kill after its third step leaves it. */
const cut = (): string => {
  const folder = temporary();
  cpSync(whole, folder, { recursive: true });
  rmSync(join(folder, "adapter"), { recursive: true });
  return folder;
};

describe("--overwrite", () => {
  const withModel = (): string => { const proj = temporary(); mkdirSync(join(proj, "model")); writeFileSync(join(proj, "model", "config.json"), "{}"); return proj; };
  test("never takes a folder for a run because of its names", async () => {
    for (const changes of [{}, { overwrite_output_dir: true }]) {
      const proj = withModel();
      await expect(follow(await optionsOf(proj, { ...changes, model_name_or_path: join(proj, "model") }))).rejects.toThrow(/holds model, and neither run.json nor metrics.jsonl/);
      expect(existsSync(join(proj, "model", "config.json"))).toBe(true);
    }
  });

  test("never removes what the run reads", async () => {
    const link = join(temporary(), "link"), folder = cut();
    symlinkSync(folder, link);
    cpSync(join(whole, "adapter"), join(folder, "adapter"), { recursive: true });
    mkdirSync(join(folder, "model"));
    const before = readdirSync(folder);
    const reads: Partial<Recipe>[] = [{ model_name_or_path: join(folder, "model") }, { init_adapter: folder }, { init_adapter: join(link, "adapter") }, { tokenizer_name: join(folder, "model", "tok") }, { dataset_name: ["other.txt", join(folder, "samples.jsonl")] }];
    for (const changes of reads) {
      await expect(follow(await optionsOf(folder, { ...changes, overwrite_output_dir: true })), JSON.stringify(changes)).rejects.toThrow(new RegExp(`would remove (model|adapter|samples.jsonl), and ${Object.keys(changes)[0]} = .* lies in it`));
      expect(readdirSync(folder)).toEqual(before);
    }
  });
});

test("a run that was stopped before its first step is started again without a word", async () => {
  const folder = temporary(), stop = new AbortController();
  const result = await follow({ ...(await optionsOf(folder)), signal: stop.signal }, (event) => { if (event.type === "evaluation") stop.abort(new Error("stop")); });
  expect(result).toMatchObject({ status: "interrupted", checkpoint: null });
  expect(existsSync(join(folder, "run.json"))).toBe(true);
  await follow(await optionsOf(folder));
  expect(await losses(folder)).toEqual(await losses(whole));
  expect((await readEvaluations(folder)).length).toBe(2);
});

describe("resume", () => {
  test("after lines without an end writes one line a step", async () => {
    const folder = cut();
    for (const name of ["metrics.jsonl", "evaluations.jsonl", "samples.jsonl"]) {
      const first = readFileSync(join(folder, name), "utf8").split("\n").slice(0, name === "metrics.jsonl" ? 2 : 1);
      writeFileSync(join(folder, name), `${first.join("\n")}\n{"step":3,"epoch":0.6,"lo`);
    }
    await follow(await optionsOf(folder, { resume_from_checkpoint: "latest" }));
    expect(await losses(folder)).toEqual(await losses(whole));
    expect([await readEvaluations(folder), await readSamples(folder)]).toEqual([await readEvaluations(whole), await readSamples(whole)]);
  });

  test("in another folder takes the history along, and does not mix it with another run's", async () => {
    const from = join(whole, "checkpoint-2"), folder = temporary(), other = cut();
    const result = await follow(await optionsOf(folder, { resume_from_checkpoint: from }));
    expect(await losses(folder)).toEqual(await losses(whole));
    expect([result.comparisons[0].before, result.samples.map((s) => s.step)]).toEqual([expect.objectContaining({ tokens: data.predicted }), [0, 4]]);
    const before = readFileSync(join(other, "metrics.jsonl"), "utf8");
    await expect(follow(await optionsOf(other, { resume_from_checkpoint: from }))).rejects.toThrow(/holds an earlier run[^]*checkpoint's run as --output-dir/);
    expect(readFileSync(join(other, "metrics.jsonl"), "utf8")).toBe(before);
  });
});

test("what a killed process began to write goes; what a living one writes stays", async () => {
  const folder = cut(), gone = [".checkpoint-9.999999999-0.tmp", `.adapter.${process.pid}-77.tmp`], stays = [`.checkpoint-9.${process.ppid}-0.tmp`, ".notes.999999999-0.tmp"];
  for (const name of [...gone, ...stays]) { mkdirSync(join(folder, name)); appendFileSync(join(folder, name, "x"), "x"); }
  await follow(await optionsOf(folder, { resume_from_checkpoint: "latest" }));
  expect(readdirSync(folder).filter((name) => name.endsWith(".tmp")).sort()).toEqual(stays.sort());
});
