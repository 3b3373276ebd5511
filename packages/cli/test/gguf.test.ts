/** One GGUF file as a base: it trains, is measured and continues prompts with the tokenizer that it holds, and what is written of it carries that tokenizer. */
import { copyFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openGguf } from "@adjoint/io";
import { initModel, loadTokenizer, saveModel, tokenizerFiles, trainTokenizer } from "@adjoint/models";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { expect, test } from "vitest";
import { adjoint, exact, temporary } from "./support.ts";

const { texts, cases } = golden<{ texts: string[]; cases: { name: string; ids: number[][] }[] }>("gguf-tokenizer"), ids = cases.find(({ name }) => name === "spm")?.ids;
const folder = temporary(), base = join(folder, "m.gguf"), data = join(folder, "notes.txt");
copyFileSync(fixture("gguf-tokenizer/spm.gguf"), base);
writeFileSync(data, "the whale and the sea\n".repeat(40));
const ok = async (...words: string[]): Promise<string> => { const { code, err, out } = await adjoint(words); expect([code, err]).toEqual([0, ""]); return out; };
const tokens = async (path: string): Promise<number[][]> => { const tokenizer = await loadTokenizer(path); return texts.map((text) => tokenizer.encode(text)); };

test("finetune, eval, generate, data and merge need nothing beside the file; adapter and merged model hold its tokenizer", async () => {
  const out = join(folder, "run"), merged = join(folder, "merged");
  await ok("finetune", "--model", base, "--data", data, "--max-length", "16", "--max-steps", "2", "--lora-r", "1", "--output-dir", out, "--quiet", ...exact);
  expect(readdirSync(join(out, "adapter"))).toEqual(expect.arrayContaining(["adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"]));
  expect(await tokens(join(out, "adapter"))).toEqual(ids);
  expect(await ok("eval", "--model", base, "--adapter", join(out, "adapter"), "--data", data, "--max-length", "16", "--quiet", ...exact)).toMatch(/notes\.txt/);
  expect(await ok("generate", "--model", base, "--prompt", "the whale", "--max-new-tokens", "3", "--quiet", ...exact)).toContain("the whale");
  expect(await ok("data", data, "--model", base, "--max-length", "16")).toContain("tokens");
  await ok("merge", "--model", base, "--adapter", join(out, "adapter"), "--output-dir", merged, "--quiet", ...exact);
  expect(await tokens(merged)).toEqual(ids);
});

test("quantize writes the tokenizer into a GGUF file, and out of one", async () => {
  const dir = join(folder, "dir"), own = join(folder, "own"), again = join(folder, "again.gguf"), trained = trainTokenizer(["the 12 whales and the sea"], { vocabSize: 270 }), prompt = ["--prompt", "the  12 sea", "--max-new-tokens", "2", "--seed", "1", "--quiet", ...exact];
  await ok("quantize", base, "--format", "int8", "--out", dir, "--quiet");
  expect(await tokens(dir)).toEqual(ids);
  const small = { model_type: "llama", vocab_size: 270, hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 1, initializer_range: 0.5 };
  await saveModel(initModel(small, 3), own, { files: tokenizerFiles(trained) });
  await ok("quantize", own, "--format", "q8_0", "--out", again, "--quiet");                  // its split has no name in GGUF files
  const file = await openGguf(again);
  await file.close();
  expect(JSON.parse(String(file.metadata.get("tokenizer.huggingface.json")?.value))).toEqual(trained.tokenizerJson);
  expect(await ok("generate", "--model", again, ...prompt)).toContain("the  12 sea");
});

test("a folder that holds one GGUF file is that file, for every command; bits are those of the file", async () => {
  const full = fixture("qlora/full"), dir = join(folder, "q8"), rows = join(folder, "rows.json"), out = join(folder, "q8-run"), json = (text: string): Record<string, unknown> => JSON.parse(text) as Record<string, unknown>;
  writeFileSync(rows, JSON.stringify([[1, 5, 9, 3, 2], [4, 4, 7, 1, 3]]));
  expect(await ok("quantize", full, "--format", "q8_0", "--out", dir, "--quiet")).toContain("8.500 bits a weight");
  expect(readdirSync(dir)).toEqual(["model.gguf"]);
  const loss = async (model: string): Promise<unknown> => json(await ok("eval", "--model", model, "--ids", rows, "--quiet", "--json", ...exact))["loss"];
  expect(await loss(dir)).toBe(await loss(join(dir, "model.gguf")));
  expect(await ok("inspect", dir)).toMatch(/model\.gguf: GGUF 3, .*general\.file_type: 7\n/s);
  const { python } = json(await ok("finetune", "--model", dir, "--ids", rows, "--max-steps", "1", "--warmup-steps", "0", "--lora-r", "1", "--output-dir", out, "--quiet", "--json", ...exact));
  expect(python).toContain(`from_pretrained("${dir}", gguf_file="model.gguf")`);
  await ok("merge", "--model", dir, "--adapter", join(out, "adapter"), "--requantize", "--output-dir", join(folder, "q8-merged"), "--quiet", ...exact);
  expect(readdirSync(join(folder, "q8-merged"))).toEqual(["model.gguf"]);
  expect((await ok("inspect", base)).split("\n").filter((line) => line.length > 160)).toEqual([]);
});
