/** Bad input: one clear message naming file, key, value and fix; a non-zero exit code; nothing half-written. */
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { withFileSystem } from "@adjoint/io";
import { failingFileSystem } from "@adjoint/io/failing";
import { fixture } from "@adjoint/testing/fixtures";
import { describe, expect, test } from "vitest";
import { adjoint, copyOf, exact, temporary } from "./support.ts";

const model = fixture("llama/tiny"), ids = join(model, "ids.json");

/** A copy of the tiny Llama with other bytes in one file. */
function damaged(file: string, change: (bytes: Buffer) => Buffer | string): string {
  const folder = copyOf("llama/tiny"), path = join(folder, file);
  writeFileSync(path, change(readFileSync(path)));
  return folder;
}
const config = (change: Record<string, unknown>) => (bytes: Buffer): string => JSON.stringify({ ...JSON.parse(bytes.toString()) as object, ...change });
const rows = (text: string): string => { const file = join(temporary(), "rows.json"); writeFileSync(file, text); return file; };
const recipe = (text: string): string => { const file = join(temporary(), "recipe.yaml"); writeFileSync(file, text); return file; };
const header = (bytes: Buffer): { start: number; json: Record<string, { dtype: string }> } => { const n = Number(bytes.readBigUInt64LE(0)); return { start: 8 + n, json: JSON.parse(bytes.subarray(8, 8 + n).toString()) as Record<string, { dtype: string }> }; };
function withDtype(bytes: Buffer, dtype: string): Buffer {
  const { start, json } = header(bytes);
  for (const [name, entry] of Object.entries(json)) if (name.endsWith("q_proj.weight")) entry.dtype = dtype;
  const text = Buffer.from(JSON.stringify(json)), length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, bytes.subarray(start)]);
}

const run = (m: string, ...more: string[]): string[] => ["finetune", "--model", m, "--ids", ids, "--max-steps", "1", ...more];
const cases: [string, () => string[], RegExp][] = [
  ["a truncated safetensors header", () => run(damaged("model.safetensors", (b) => b.subarray(0, 40))), /model\.safetensors.*\n {2}fix: /s],
  ["a safetensors file cut in its data", () => run(damaged("model.safetensors", (b) => b.subarray(0, b.length - 100))), /model\.safetensors.*\n {2}fix: /s],
  ["a corrupt safetensors header", () => run(damaged("model.safetensors", (b) => { const c = Buffer.from(b); c.fill(0x7b, 8, 60); return c; })), /model\.safetensors.*\n {2}fix: /s],
  ["a wrong dtype", () => run(damaged("model.safetensors", (b) => withDtype(b, "F16"))), /q_proj\.weight.*\n {2}fix: /s],
  ["shapes that disagree with the config", () => run(damaged("config.json", config({ intermediate_size: 24 }))), /gate_proj\.weight.*expected \[24, 16\].*\n {2}fix: /s],
  ["an unknown model_type", () => run(damaged("config.json", config({ model_type: "mamba" }))), /config\.json: model_type is "mamba".*\n {2}fix: .*llama/s],
  ["a model folder that is not there", () => run("no/such/folder/at/all"), /no\/such\/folder.*\n {2}fix: /s],
  ["an unknown recipe key", () => ["finetune", recipe("learning_rat: 1e-3\n")], /recipe\.yaml: "learning_rat" is not a known key\n {2}fix: did you mean learning_rate\?/],
  ["an unknown flag", () => run(model, "--lora-rank", "4"), /no flag --lora-rank\n {2}fix: did you mean --lora-r\?/],
  ["a negative rank", () => run(model, "--lora-r", "-4"), /--lora-r: lora_r = -4 is not valid\n {2}fix: use an integer, at least 1/],
  ["a flag without its value", () => run(model, "--learning-rate"), /--learning-rate needs a value/],
  ["targets that match nothing", () => run(model, "--lora-target-modules", "c_attn"), /c_attn.*\n {2}fix: /s],
  ["a regular expression that would hang", () => run(model, "--lora-target-modules", "(.*)*(.*)*(.*)*x{900}{900}"), /\n {2}fix: /],
  ["an adapter made for another model", () => ["eval", "--model", fixture("llama/tiny-headdim"), "--adapter", fixture("peft/rslora/adapter"), "--ids", ids], /adapter.*\n {2}fix: .*base/s],
  ["an adapter folder that holds a model", () => ["eval", "--model", model, "--adapter", model, "--ids", ids], /adapter_config\.json.*\n {2}fix: /s],
  ["token ids beyond the vocabulary", () => ["eval", "--model", model, "--ids", rows("[[1, 2], [3, 61]]")], /rows\.json: row 1, position 1: id 61.*\n {2}fix: /s],
  ["token ids that are no rows", () => ["eval", "--model", model, "--ids", rows('{"a": 1}')], /rows\.json: not an array of rows.*\n {2}fix: /s],
  ["text for a model without a tokenizer", () => ["eval", "--model", model, recipe("x")], /no tokenizer\.json.*\n {2}fix: .*--ids/s],
  ["data that is not there", () => ["finetune", "--model", copyOfTokenizer(), "--data", "nowhere.txt"], /nowhere\.txt: there is no such data\n {2}fix: /],
  ["both ids and data", () => run(model, "--data", "x.txt"), /both ids and dataset_name/],
  ["no training at all", () => ["finetune", "--model", model, "--ids", ids, "--max-steps", "0"], /max_steps = 0.*\n {2}fix: /s],
  ["a checkpoint that is not there", () => run(model, "--resume", "latest"), /no checkpoint to resume from\n {2}fix: /],
  ["an option of another optimizer", () => run(model, "--optim-args", "momentum=0.9"), /adamw_torch has no option momentum/],
  ["a warm-up longer than the run", () => run(model, "--warmup-steps", "9"), /warm-up of 9 steps is longer/],
  ["an unknown optimizer", () => run(model, "--optim", "adamx"), /optim = "adamx" is not valid\n {2}fix: use a text, one of sgd, .*adamw_torch/],
  ["an unknown schedule", () => run(model, "--lr-scheduler-type", "cosin"), /lr_scheduler_type = "cosin" is not valid\n {2}fix: use a text, one of constant, .*polynomial/],
  ["an option of another schedule", () => run(model, "--lr-scheduler-kwargs", "power=2"), /cosine: there is no option power\n {2}fix: its options: num_cycles/],
  ["a plateau that nothing is measured for", () => run(model, "--lr-scheduler-type", "reduce_lr_on_plateau"), /no(ne| evaluations)? .*\n {2}fix: set eval_steps/],
  ["a negative learning rate", () => run(model, "--learning-rate", "-1"), /learning_rate = -1 is not valid\n {2}fix: use a number, at least 0/],
  ["a rate and Adafactor's own", () => run(model, "--optim", "adafactor", "--optim-args", "relative_step=true"), /relative.*\n {2}fix: /is],
  ["a ratio of LoRA+ below 1", () => run(model, "--loraplus-lr-ratio", "0.5"), /loraplus_lr_ratio = 0\.5 is not valid\n {2}fix: use a number, at least 1/],
  ["a rate for parameters that are not there", () => run(model, "--learning-rate-pattern", "lora_C=1e-3"), /learning_rate_pattern\["lora_C"\] takes no parameter.*\n {2}fix: parameters are named like .*lora_A/s],
  ["an unknown command", () => ["evl"], /no command "evl"\n {2}fix: did you mean adjoint eval\?/],
  ["nothing to measure", () => ["eval", "--model", model], /nothing to measure\n {2}fix: /],
];

/** The tiny Llama with a tokenizer whose vocabulary fits. */
function copyOfTokenizer(): string {
  const folder = copyOf("llama/tiny");
  const vocab = Object.fromEntries(Array.from({ length: 61 }, (_, i) => [String.fromCharCode(33 + i), i]));
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify({ version: "1.0", truncation: null, padding: null, added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, model: { type: "BPE", vocab, merges: [], unk_token: null } }));
  writeFileSync(join(folder, "tokenizer_config.json"), "{}");
  return folder;
}

describe("each gives one clear message and leaves nothing behind", () => {
  for (const [name, words, message] of cases) {
    test(name, async () => {
      const line = words(), folder = join(temporary(), "out");
      const given = line[0] === "finetune" ? [...line, "--output-dir", folder] : line;
      const { code, out, err } = await adjoint(line[0] === "evl" ? line : [...given, ...exact]);
      expect(err).toMatch(message);
      expect(code).toBe(1);
      expect(out).toBe("");
      expect(err).not.toMatch(/\n\s+at /);
      expect(err.match(/adjoint: /g)).toHaveLength(1);
      expect(existsSync(folder)).toBe(false);
    });
  }
});

test("--json gives the error as an object, --verbose its stack", async () => {
  const { out, code } = await adjoint([...run(model, "--lora-r", "-4"), "--json"]);
  expect(code).toBe(1);
  expect(JSON.parse(out)).toMatchObject({ error: { name: "ConfigError", key: "lora_r", value: -4, fix: expect.stringContaining("integer") as unknown } });
  expect((await adjoint([...run(model, "--lora-r", "-4"), "--verbose"])).err).toMatch(/\n\s+at /);
});

test("a full disk at any write of a run: an error that names the file, and no half-written output", async () => {
  let n = 0;
  for (const stride of [1, 1, 2, 3, 5, 8, 13]) {
    n += stride;
    const folder = join(temporary(), "out"), fs = failingFileSystem(n, "full");
    const { code, err } = await withFileSystem(fs, () => adjoint([...run(model, "--output-dir", folder, "--lora-r", "1", "--save-steps", "1", "--quiet"), ...exact]));
    if (code === 0) { expect(fs.operations()).toBeLessThanOrEqual(n); break; }
    expect(err).toMatch(/cannot write .*ENOSPC\n {2}fix: the disk is full/);
    // each file is whole or not there
    if (existsSync(join(folder, "run.json"))) expect(JSON.parse(readFileSync(join(folder, "run.json"), "utf8"))).toMatchObject({ format: "adjoint-run" });
    if (existsSync(join(folder, "metrics.jsonl"))) for (const line of readFileSync(join(folder, "metrics.jsonl"), "utf8").trim().split("\n").filter(Boolean)) JSON.parse(line);
    if (existsSync(join(folder, "adapter"))) expect(existsSync(join(folder, "adapter", "adapter_config.json"))).toBe(true);
  }
  expect(n).toBeGreaterThan(10);
});

describe("what is read is not written over", () => {
  const adapter = fixture("peft/lora/adapter");
  const writers: readonly (readonly [string, (input: string, output: string) => string[]])[] = [
    ["merge", (input, output) => ["merge", "--model", input, "--adapter", adapter, "--output-dir", output]],
    ["quantize", (input, output) => ["quantize", input, "--out", output]],
    ["combine", (input, output) => ["combine", adapter, "--model", input, "--output-dir", output]],
    ["finetune", (input, output) => ["finetune", "--model", input, "--ids", ids, "--max-steps", "1", "--overwrite", "--no-use-peft", "--output-dir", output]],
  ];
  test.each(writers)("%s: output = input, inside, around, by a link", async (name, words) => {
    const folder = copyOf("llama/tiny"), weights = readFileSync(join(folder, "model.safetensors")), link = join(temporary(), "link");
    symlinkSync(folder, link);
    // a run writes into a folder of its own inside of output_dir
    const own = name === "finetune" ? join(temporary(), "model") : folder;
    if (name === "finetune") cpSync(folder, own, { recursive: true });
    for (const [input, output] of name === "finetune" ? [[own, dirname(own)]] : [[folder, folder], [folder, link], [link, folder], [folder, join(folder, "new", "er")], [folder, dirname(folder)]]) {
      const { code, err } = await adjoint([...words(input, output), "--overwrite", ...(name === "quantize" ? [] : exact)]);
      expect(err).toMatch(/(is what is read|(lies inside of|holds) .*, which is read)\n {2}fix: .*--output-dir/);
      expect(code).toBe(1);
    }
    expect(readFileSync(join(own, "model.safetensors")).equals(weights)).toBe(true);
  });
  test("what is there already takes --overwrite", async () => {
    for (const [name, words] of writers.slice(0, 3)) {
      const folder = join(temporary(), "out"), device = name === "quantize" ? [] : exact, line = [...words(model, folder), ...device];
      mkdirSync(folder);
      expect((await adjoint(line)).code, name).toBe(0);
      const again = await adjoint(line);
      expect(again.code).toBe(1);
      expect(again.err).toMatch(/holds files already\n {2}fix: choose another --output-dir, or add --overwrite/);
      expect((await adjoint([...line, "--overwrite"])).code, name).toBe(0);
    }
    const file = join(temporary(), "a.gguf");
    writeFileSync(file, "kept");
    expect((await adjoint(["quantize", model, "--format", "q8_0", "--out", file])).err).toMatch(/a\.gguf is there already\n {2}fix: /);
    expect(readFileSync(file, "utf8")).toBe("kept");
    expect((await adjoint(["tune", "--output", file])).err).toMatch(/a\.gguf is there already\n {2}fix: choose another --output, or add --overwrite/);
  });
});
