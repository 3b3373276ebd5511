/** Memory, quantized models and adapters over them, from the command line. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadModel } from "@adjoint/models";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { beforeAll, describe, expect, test } from "vitest";
import { held } from "../src/open.ts";
import { adjoint, temporary } from "./support.ts";

const full = fixture("qlora/full"), device = ["--device", "cpu", "--threads", "1"];
let folder = "", ids = "";
beforeAll(() => {
  folder = temporary();
  ids = join(folder, "ids.json");
  writeFileSync(ids, JSON.stringify(golden<{ rows: number[][] }>("qlora/nf4").rows));
});
const json = (out: string): Record<string, unknown> => JSON.parse(out) as Record<string, unknown>;
const lossOf = async (...words: string[]): Promise<number> => {
  const { code, out, err } = await adjoint(["eval", "--ids", ids, "--json", "--quiet", ...device, ...words]);
  expect(err, err).toBe("");
  expect(code).toBe(0);
  return Number(json(out)["loss"]);
};

describe("memory", () => {
  const total = (out: string): number => Number(json(out)["total"]) / 2 ** 30;
  test("predicts from a name alone, and the terms are the total", async () => {
    const { out, code } = await adjoint(["memory", "meta-llama/Llama-2-7b-hf", "--method", "qlora", "--rank", "8", "--seq", "128", "--gradient-checkpointing", "--json"]);
    expect(code).toBe(0);
    const found = json(out) as { terms: { name: string; bytes: number }[]; total: number; parameters: number; trainable: number };
    expect([found.parameters, found.trainable]).toEqual([6_738_415_616, 19_988_480]);
    expect(found.terms.map((t) => t.name)).toEqual(["weights", "adapter", "gradients", "optimizer", "activations", "logits", "workspace"]);
    expect(found.terms.reduce((n, t) => n + t.bytes, 0)).toBe(found.total);
    expect(total(out)).toBeGreaterThan(3.9);
    expect(total(out)).toBeLessThan(4.3);
  });
  test("shows a table, and orders methods", async () => {
    const of = (...words: string[]): Promise<{ out: string; code: number; err: string }> => adjoint(["memory", full, "--batch", "2", "--seq", "16", ...words]);
    const text = (await of("--method", "lora")).out;
    expect(text).toMatch(/MiB +share/);
    expect((await adjoint(["memory", "Llama-3.2-1B", "--method", "full", "--seq", "16"])).out).toMatch(/GiB +share.*more than the 4 GiB/s);
    expect(text).toMatch(/weights .*%.*activations .*%.*total/s);
    const [qlora, lora, all] = await Promise.all(["qlora", "lora", "full"].map(async (m) => total((await of("--method", m, "--json")).out)));
    expect(qlora).toBeLessThan(lora);
    expect(lora).toBeLessThan(all);
    expect((await of("--method", "lora", "--rank", "2", "--init-lora-weights", "pissa", "--modules-to-save", "lm_head")).out).toMatch(/LoRA from pissa, r 2: .*adapter .* train, and .* beside \(first factors\), x 32 bits/s);
  });
  test("a base that is codes already is planned as it is held: folders of bitsandbytes, GGUF files", async () => {
    const weights = async (path: string): Promise<number> => (json((await adjoint(["memory", path, "--seq", "8", "--json"])).out) as { terms: { bytes: number }[] }).terms[0].bytes;
    for (const [format, name] of [["int8", "int8-memory"], ["q8_0", "q8.gguf"]] as const) {
      const path = join(folder, name);
      expect((await adjoint(["quantize", full, "--format", format, "--out", path, "--quiet"])).err).toBe("");
      expect(await weights(path)).toBe(held(await loadModel(path)).bytes);
      expect((await adjoint(["memory", path, "--seq", "8"])).out).toContain(`QLoRA, ${format}, rank 16`);
      expect((await adjoint(["memory", path, "--method", "lora"])).err).toMatch(new RegExp(`the weights are ${format}, over which an adapter trains\n {2}fix: use --method qlora`));
      expect((await adjoint(["memory", path, "--format", "nf4"])).err).toMatch(/--format: .* says how its weights are held/);
    }
  });
  test("refuses what makes no sense, by name", async () => {
    for (const [words, message] of [
      [["gpt-5"], /sizes of gpt-5 are not known.*Llama-2-7b/s], [[full, "--method", "qlroa"], /--method qlroa.*full, lora, qlora/s], [[full, "--method", "lora", "--format", "nf4"], /--format goes with --method qlora/],
      [[full, "--method", "full", "--rank", "8"], /--rank goes with an adapter/], [[full, "--method", "full", "--peft-type", "VERA"], /--peft-type goes with an adapter/], [[full, "--peft-type", "VERA", "--dora"], /use_dora = true is not for VeRA/], [[full, "--format", "nf5"], /--format nf5/], [[full, "--block", "48"], /block 48/], [[full, "--batch", "0"], /batch is 0/], [[full, "--targets", "q_prj"], /q_proj/], [[full, "--optim", "adamx"], /adamx/],
    ] as const) {
      const { code, err } = await adjoint(["memory", ...words]);
      expect(code, words.join(" ")).toBe(1);
      expect(err).toMatch(message);
    }
  });
});

describe("quantized bases", () => {
  test("quantize writes what --load-in-4bit computes; the loss is bitsandbytes's", async () => {
    const dir = join(folder, "nf4");
    const made = await adjoint(["quantize", full, "--format", "nf4", "--double-quant", "--out", dir]);
    expect(made.err).not.toContain("adjoint:");
    expect(made.out).toMatch(/nf4, 7 layers, \d\.\d+ bits a weight/);
    expect(readdirSync(dir).sort()).toEqual(["config.json", "model.safetensors"]);
    const stored = await lossOf("--model", dir), loaded = await lossOf("--model", full, "--load-in-4bit", "--bnb-4bit-use-double-quant");
    expect(stored).toBe(loaded);
    expect(stored / golden<{ loss_base: number }>("qlora/nf4").loss_base).toBeCloseTo(1, 6);
    expect((await adjoint(["inspect", dir])).out).toContain("7 layers as codes of bitsandbytes");
    const gguf = join(folder, "m.gguf");
    expect((await adjoint(["quantize", full, "--format", "q8_0", "--out", gguf, "--quiet"])).err).toBe("");
    expect((await adjoint(["inspect", gguf])).out).toMatch(/GGUF 3.*Q8_0 +\[64, 64\] +blk\.0\.attn_q\.weight/s);
    expect(await lossOf("--model", gguf) / await lossOf("--model", full)).toBeCloseTo(1, 2);
  });
  test("finetune --load-in-4bit trains, goes on from a checkpoint that holds no base, and merges three ways", async () => {
    const out = join(folder, "run"), base = ["--model", full, "--load-in-4bit"], train = ["finetune", ...base, "--ids", ids, "--max-steps", "4", "--save-steps", "2", "--per-device-train-batch-size", "2", "--learning-rate", "2e-2", "--lora-r", "2", "--quiet", "--json", ...device];
    const first = await adjoint([...train, "--output-dir", out]);
    expect(first.err).toBe("");
    expect(readdirSync(join(out, "checkpoint-2")).filter((n) => n.endsWith(".safetensors")).sort()).toEqual(["adapter_model.safetensors", "optimizer.safetensors"]);
    const again = await adjoint([...train, "--output-dir", out, "--resume-from-checkpoint", join(out, "checkpoint-2")]);
    expect(json(again.out)["train_loss"]).toEqual(json(first.out)["train_loss"]);
    const adapter = ["--adapter", join(out, "adapter")], tuned = await lossOf(...base, ...adapter);
    expect(tuned).toBeLessThan(await lossOf(...base));
    const refused = await adjoint(["merge", ...base, ...adapter, "--output-dir", join(folder, "no"), ...device]);
    expect(refused.err).toMatch(/holds codes.*--dequantize.*--requantize/s);
    expect(existsSync(join(folder, "no"))).toBe(false);
    const merged = async (name: string, ...words: string[]): Promise<string> => {
      const { code, err, out: text } = await adjoint(["merge", ...adapter, "--output-dir", join(folder, name), "--quiet", ...device, ...words]);
      expect([code, err]).toEqual([0, ""]);
      return text;
    };
    await merged("decoded", ...base, "--dequantize");
    expect(await lossOf("--model", join(folder, "decoded")) / tuned).toBeCloseTo(1, 5);
    expect(await merged("again", ...base, "--requantize")).toMatch(/requantized: rounding is \d+\.\d+ % of the weights and [\d.]+ times what the adapter adds/);
    expect(Math.abs(await lossOf("--model", join(folder, "again")) / tuned - 1)).toBeLessThan(0.1);
    await merged("whole", "--model", full);
    expect(Math.abs(await lossOf("--model", join(folder, "whole")) / await lossOf("--model", full, ...adapter) - 1)).toBeLessThan(2e-7);        // products are fused on newer engines
    expect(JSON.parse(readFileSync(join(folder, "whole", "config.json"), "utf8"))).not.toHaveProperty("quantization_config");
  });
  test("--llm-int8-skip-modules none and --skip none quantize the head too; LoftQ asks for the weights behind codes", async () => {
    const dir = join(folder, "with-head"), gguf = join(folder, "loftq.gguf");
    expect((await adjoint(["quantize", full, "--skip", "none", "--out", dir, "--quiet"])).err).toBe("");
    expect(await lossOf("--model", full, "--load-in-4bit", "--llm-int8-skip-modules", "none")).toBe(await lossOf("--model", dir));
    expect(await lossOf("--model", dir)).not.toBe(await lossOf("--model", full, "--load-in-4bit"));
    await adjoint(["quantize", full, "--format", "q4_0", "--out", gguf, "--quiet"]);
    for (const model of [dir, gguf]) {
      const { err } = await adjoint(["finetune", "--model", model, "--init-lora-weights", "loftq", "--ids", ids, "--max-steps", "1", "--warmup-steps", "0", "--output-dir", join(folder, "loftq"), "--quiet", ...device]);
      expect(err).toMatch(/holds codes, and loftq begins with the weights that they were made of\n {2}fix: give the model that was quantized/);
    }
  });
  test("refuses keys that contradict each other", async () => {
    for (const [words, message] of [
      [["--load-in-4bit", "--load-in-8bit"], /choose one/], [["--load-in-4bit", "--no-use-peft"], /codes do not train/], [["--bnb-4bit-use-double-quant"], /goes with load_in_4bit/], [["--quant-block-size", "32"], /goes with load_in_4bit/], [["--load-in-4bit", "--bnb-4bit-quant-type", "nf5"], /nf5/],
      [["--load-in-4bit", "--llm-int8-skip-modules", "lm_hed"], /lm_hed/], [["--load-in-4bit", "--quant-block-size", "33"], /block 33/],
    ] as const) {
      const { code, err } = await adjoint(["finetune", "--model", full, "--ids", ids, "--max-steps", "1", "--output-dir", join(folder, "bad"), "--quiet", ...device, ...words]);
      expect(code, words.join(" ")).toBe(1);
      expect(err).toMatch(message);
    }
    const recipe = join(folder, "r.yaml");
    writeFileSync(recipe, "load_in_4bit: true\nbnb_4bit_compute_dtype: bfloat16\n");
    expect((await adjoint(["finetune", recipe])).err).toMatch(/bnb_4bit_compute_dtype = "bfloat16" is not implemented/);
    for (const [words, message] of [[[full, "--format", "int4", "--out", join(folder, "x")], /--format int4/], [[full, "--format", "nf4", "--out", join(folder, "x.gguf")], /GGUF files hold no nf4/], [[full], /where shall the model go/], [[full, "--format", "int8", "--double-quant", "--out", join(folder, "x")], /one scale a row/]] as const) expect((await adjoint(["quantize", ...words])).err).toMatch(message);
  });
});
