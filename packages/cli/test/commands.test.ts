/** The commands, end to end on the tiny Llama: what they compute, and what goes to which stream. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseSafetensors } from "@adjoint/io";
import { initModel, saveModel } from "@adjoint/models";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { model as tinyModel } from "@adjoint/tiny";
import { describe, expect, test } from "vitest";
import { commands } from "../src/index.ts";
import { adjoint, exact, temporary } from "./support.ts";

const model = fixture("llama/tiny"), ids = join(model, "ids.json");
const near = (got: number, want: number, relative: number): void => { expect(Math.abs(got - want)).toBeLessThanOrEqual(relative * Math.abs(want)); };

describe("help answers", () => {
  test("adjoint --help names every command", async () => {
    for (const words of [["--help"], [], ["help"], ["-h"]]) {
      const { code, out, err } = await adjoint(words);
      expect(code).toBe(0);
      expect(err).toBe("");
      for (const name of Object.keys(commands)) expect(out).toContain(`  ${name}`);
    }
  });
  for (const name of Object.keys(commands)) {
    test(`adjoint ${name} --help`, async () => {
      const { code, out, err } = await adjoint([name, "--help"]);
      expect(code).toBe(0);
      expect(err).toBe("");
      expect(out).toContain(`usage: adjoint ${name}`);
      for (const flag of Object.keys(commands[name].grammar.flags)) expect(out).toContain(`--${flag}`);
      for (const key of commands[name].grammar.keys) expect(out).toMatch(new RegExp(`--(no-)?${key.replaceAll("_", "-")}\\b`));
    });
  }
});

describe("eval", () => {
  test("prints one JSON object with transformers' loss", async () => {
    const { code, out, err } = await adjoint(["eval", "--model", model, "--ids", ids, "--json", ...exact]), want = golden("llama/tiny");
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(out.trim().split("\n")).toHaveLength(1);
    const got = JSON.parse(out) as { loss: number; tokens: number };
    near(got.loss, Number(want["loss"]), 1e-6);
    expect(got.tokens).toBe(want["tokens"]);
  });
  test("with an adapter it is PEFT's, on wasm too", async () => {
    for (const device of [exact, ["--threads", "1"]]) {
      const { out } = await adjoint(["eval", "--model", model, "--adapter", fixture("peft/rslora/adapter"), "--ids", ids, "--json", ...device]);
      near((JSON.parse(out) as { loss: number }).loss, Number(golden("peft/rslora")["loss"]), 1e-5);
    }
  });
});

test("eval takes windows of as many tokens as the model has positions for", async () => {
  const folder = join(temporary(), "gpt2"), text = join(temporary(), "text.txt"), tokenizer = fileURLToPath(tinyModel);
  await saveModel(initModel({ model_type: "gpt2", vocab_size: 2048, n_embd: 8, n_layer: 1, n_head: 2, n_positions: 24 }, 1), folder);
  writeFileSync(text, "It is not down in any map; true places never are. ".repeat(4));
  const of = (...words: string[]): ReturnType<typeof adjoint> => adjoint(["eval", text, "--model", folder, "--tokenizer-name", tokenizer, "--json", ...exact, ...words]);
  const { code, out, err } = await of();
  expect(code, err).toBe(0);
  expect(out).toBe((await of("--max-length", "24")).out);
  expect((await of("--max-length", "25")).err).toMatch(/use rows of at most 24 tokens/);
});

describe("finetune --ids", () => {
  test("goes on from an adapter as PEFT does: losses, norms, rates, final adapter, files, streams", async () => {
    const folder = join(temporary(), "run"), want = golden("peft/rslora");
    const { code, out, err } = await adjoint([
      "finetune", "--model", model, "--ids", ids, "--max-steps", "5", "--init-adapter", fixture("peft/rslora/adapter"), "--no-shuffle", "--output-dir", folder,
      "--per_device_train_batch_size=2", "--learning-rate", "1e-2", "--lr-scheduler-type", "cosine", "--warmup-steps", "1", "--optim-args", "weight_decay=0", "--json", ...exact,
    ]);
    expect(code, err).toBe(0);
    const answer = JSON.parse(out) as { adapter: string; steps: number; report: string };
    expect(answer).toMatchObject({ status: "done", steps: 5, adapter: join(folder, "adapter") });
    const lines = readFileSync(join(folder, "metrics.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line) as Record<string, number>);
    const steps = want["steps"] as Record<string, number>[];
    expect(lines.map((m) => m["step"])).toEqual([1, 2, 3, 4, 5]);
    lines.forEach((m, i) => {
      near(m["loss"], steps[i]["loss"], 1e-5);
      near(m["grad_norm"], steps[i]["grad_norm"], 1e-4);
      expect(m["learning_rate"]).toBeCloseTo(steps[i]["learning_rate"], 12);
      expect(m["tokens_per_second"]).toBeGreaterThan(0);
    });
    const got = parseSafetensors(readFileSync(join(folder, "adapter", "adapter_model.safetensors")), "got").tensors;
    for (const [name, { data }] of parseSafetensors(readFileSync(fixture("peft/rslora/trained/adapter_model.safetensors")), "want").tensors) {
      const ours = got.get(name)?.data ?? [];
      expect(ours.length, name).toBe(data.length);
      for (let i = 0; i < data.length; i++) expect(Math.abs(ours[i] - data[i]), `${name}[${i}]`).toBeLessThan(2e-5);
    }
    expect(readdirSync(folder).sort()).toEqual(["adapter", "metrics.jsonl", "report.html", "run.json"]);
    expect(err).toContain("step 5/5");
    expect(JSON.parse(readFileSync(join(folder, "run.json"), "utf8"))).toMatchObject({ status: "done", command: "finetune", steps_done: 5, recipe: { learning_rate: 0.01 } });
  });

  test("run.json repeats the run, bit for bit", async () => {
    const a = join(temporary(), "a"), b = join(temporary(), "b");
    const first = await adjoint(["finetune", "--model", model, "--ids", ids, "--max-steps", "2", "--output-dir", a, "--lora-r", "2", "--lora-dropout", "0.1", "--quiet", ...exact]);
    expect(first.code, first.err).toBe(0);
    expect(first.err).toBe("");
    expect((await adjoint(["finetune", join(a, "run.json"), "--output-dir", b])).code).toBe(0);
    for (const name of readdirSync(join(a, "adapter"))) expect(readFileSync(join(b, "adapter", name)).equals(readFileSync(join(a, "adapter", name))), name).toBe(true);
  });

  test("Ctrl-C saves, says how to resume, and the resumed run equals the one that was not stopped", async () => {
    const a = join(temporary(), "a"), b = join(temporary(), "b");
    const words = (folder: string): string[] => ["finetune", "--model", model, "--ids", ids, "--max-steps", "4", "--per-device-train-batch-size", "2", "--lora-r", "2", "--logging-steps", "1", "--output-dir", folder, ...exact];
    expect((await adjoint(words(a))).code).toBe(0);
    const stopped = await adjoint(words(b), { onError: (text, interrupt) => { if (text.startsWith("step 2/4")) interrupt(); } });
    expect(stopped.code).toBe(130);
    const command = /resume\s+adjoint (.*)\n/.exec(stopped.err)?.[1] ?? "";
    expect(command).toContain("--resume latest");
    expect(existsSync(join(b, "checkpoint-2"))).toBe(true);
    expect(existsSync(join(b, "adapter"))).toBe(false);
    expect((await adjoint(command.split(" ").map((w) => w.replace(/^'(.*)'$/, "$1")))).code).toBe(0);
    for (const name of readdirSync(join(a, "adapter"))) expect(readFileSync(join(b, "adapter", name)).equals(readFileSync(join(a, "adapter", name))), name).toBe(true);
  });

  test("--resume takes what the command line leaves out from the run's own record", async () => {
    const a = join(temporary(), "a"), b = join(temporary(), "b");
    const words = (folder: string): string[] => ["finetune", "--model", model, "--ids", ids, "--max-steps", "3", "--lora-r", "2", "--save-steps", "2", "--logging-steps", "1", "--output-dir", folder, ...exact];
    expect((await adjoint(words(a))).code).toBe(0);
    expect((await adjoint(words(b), { onError: (text, interrupt) => { if (text.startsWith("step 2/3")) interrupt(); } })).code).toBe(130);
    const { code, err } = await adjoint(["finetune", "--output-dir", b, "--resume", "latest"]);
    expect(code, err).toBe(0);
    expect(err).toMatch(/what the command line leaves out is as in .*run\.json/);
    for (const name of readdirSync(join(a, "adapter"))) expect(readFileSync(join(b, "adapter", name)).equals(readFileSync(join(a, "adapter", name))), name).toBe(true);
    expect((await adjoint(["finetune", "--output-dir", b, "--resume", join(b, "checkpoint-2"), "--learning-rate", "1"])).err).toMatch(/learning_rate = 0\.0002, now it is 1\n/);
    // the record of a run that went on repeats it from the start
    expect((await adjoint(["finetune", join(b, "run.json"), "--output-dir", join(temporary(), "c"), "--quiet"])).err).toBe("");
  });

  test("rows are as long as the model has positions for, unless it is said how long", async () => {
    const folder = join(temporary(), "gpt2"), out = join(temporary(), "run"), text = join(temporary(), "text.txt");
    await saveModel(initModel({ model_type: "gpt2", vocab_size: 2048, n_embd: 8, n_layer: 1, n_head: 2, n_positions: 24 }, 1), folder);
    writeFileSync(text, "It is not down in any map; true places never are. ".repeat(8));
    const words = ["finetune", "--data", text, "--model", folder, "--tokenizer-name", fileURLToPath(tinyModel), "--lora-r", "1", "--max-steps", "1", "--output-dir", out, ...exact];
    const { code, err } = await adjoint(words);
    expect(code, err).toBe(0);
    expect(JSON.parse(readFileSync(join(out, "run.json"), "utf8"))).toMatchObject({ recipe: { max_length: 24 } });
    expect((await adjoint([...words, "--overwrite", "--max-length", "25"])).err).toMatch(/use rows of at most 24 tokens/);
  });

  test("recipes in YAML, flags before them", async () => {
    const folder = temporary(), file = join(folder, "recipe.yaml");
    writeFileSync(file, `model_name_or_path: ${JSON.stringify(model)}\nids: ${JSON.stringify(ids)}\nmax_steps: 9\nlora_r: 2\nlog_level: info\ndevice: reference\noutput_dir: ${JSON.stringify(join(folder, "out"))}\n`);
    const { code, out, err } = await adjoint(["finetune", file, "--max-steps", "1", "--json"]);
    expect(code, err).toBe(0);
    expect(err).toContain("log_level has no effect");
    expect(JSON.parse(out)).toMatchObject({ steps: 1 });
  });
});

describe("merge, inspect, explain, data", () => {
  test("a merged model has the adapter's loss", async () => {
    const folder = join(temporary(), "merged");
    const merged = await adjoint(["merge", "--model", model, "--adapter", fixture("peft/lora/adapter"), "--output-dir", folder, "--json", ...exact]);
    expect(merged.code, merged.err).toBe(0);
    const { out } = await adjoint(["eval", "--model", folder, "--ids", ids, "--json", ...exact]);
    near((JSON.parse(out) as { loss: number }).loss, Number(golden("peft/lora")["loss"]), 1e-6);
  });
  test("inspect tells models, adapters and files apart", async () => {
    const kind = async (path: string): Promise<unknown> => (JSON.parse((await adjoint(["inspect", path, "--json"])).out) as { kind: string }).kind;
    expect(await kind(model)).toBe("model");
    expect(await kind(fixture("peft/lora/adapter"))).toBe("adapter");
    expect(await kind(join(model, "model.safetensors"))).toBe("safetensors");
  });
  test("explain counts kernels, and a step has more of them than its forward pass", async () => {
    const { code, out, err } = await adjoint(["explain", "--model", model, "--max-length", "32", "--per-device-train-batch-size", "2", "--json", ...exact]);
    expect(code, err).toBe(0);
    const { parts } = JSON.parse(out) as { parts: { kernels: number; flops: number }[] };
    expect(parts).toHaveLength(3);
    expect(parts[0].kernels).toBeLessThan(parts[1].kernels);
    expect(parts[1].kernels).toBeLessThan(parts[2].kernels);
  });
  test("explain shows what gradient checkpointing costs and saves", async () => {
    const whole = async (...more: string[]): Promise<{ kernels: number; flops: number; arena: number }> => {
      const { code, out, err } = await adjoint(["explain", "--model", model, "--max-length", "64", "--per-device-train-batch-size", "2", "--json", ...more, ...exact]);
      expect(code, err).toBe(0);
      return (JSON.parse(out) as { parts: { kernels: number; flops: number; arena: number }[] }).parts[2];
    };
    const kept = await whole(), again = await whole("--gradient-checkpointing");
    expect(again.kernels).toBeGreaterThan(kept.kernels);
    expect(again.flops).toBeGreaterThan(kept.flops);
    expect(again.arena).toBeLessThan(kept.arena);
  });
  test("packing says what was given: rows of texts and of prompts, with and without", async () => {
    const folder = temporary(), texts = join(folder, "texts.jsonl"), prompts = join(folder, "prompts.jsonl");
    writeFileSync(texts, '{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n');
    writeFileSync(prompts, '{"prompt": "one ->", "completion": " 1"}\n{"prompt": "two ->", "completion": " 2"}\n{"prompt": "three ->", "completion": " 3"}\n');
    const rows = async (file: string, ...words: string[]): Promise<unknown> => (JSON.parse((await adjoint(["data", file, "--json", ...words])).out) as { samples: number }).samples;
    expect([await rows(texts), await rows(texts, "--no-packing"), await rows(texts, "--packing"), await rows(texts, "--packing-strategy", "bfd", "--max-length", "6")]).toEqual([1, 3, 1, await rows(texts, "--packing", "--max-length", "6")]);
    expect([await rows(prompts), await rows(prompts, "--no-packing"), await rows(prompts, "--packing"), await rows(prompts, "--packing-strategy", "wrapped")]).toEqual([3, 3, 1, 1]);
    expect((await adjoint(["data", texts, "--no-packing", "--packing-strategy", "wrapped"])).err).toMatch(/packing_strategy is wrapped, but packing is off\n {2}fix: /);
    expect((await adjoint(["finetune", "--model", model, "--ids", ids, "--packing", ...exact])).err).toMatch(/packing is about text.*\n {2}fix: remove it/);
  });
  test("data shows rows and tokens", async () => {
    const file = join(temporary(), "rows.jsonl");
    writeFileSync(file, '{"prompt": "two plus two ->", "completion": " 4"}\n{"prompt": "one plus two ->", "completion": " 3"}\n');
    const { code, out } = await adjoint(["data", file]);
    expect(code).toBe(0);
    expect(out).toContain("2 rows of prompt + completion");
    expect(out).toContain("⟦");
  });
});
