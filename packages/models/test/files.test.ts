/** Models from files by name, as pages have them: bytes, Blobs and addresses give what the folder gives. */
import { readFile, readdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { loadModel, type ModelFiles } from "../src/index.ts";
import { tensor } from "@adjoint/tensor";
import { fixture } from "@adjoint/testing/fixtures";

const data = (name: string): string => fixture(`llama/${name}`);
const bytesOf = async (folder: string): Promise<Record<string, Uint8Array>> =>
  Object.fromEntries(await Promise.all((await readdir(folder)).filter((name) => /^(config|model|tokenizer)/.test(name)).map(async (name) => [name, new Uint8Array(await readFile(`${folder}/${name}`))] as const)));
const logits = async (source: string | ModelFiles): Promise<number[]> => {
  const model = await loadModel(source, { tokenizer: false });
  return Array.from(await model.logits(tensor(Int32Array.of(3, 1, 4, 1), { shape: [1, 4] })).data(), Number);
};

describe("a model from files by name", () => {
  test.each(["tiny", "tiny-sharded", "tiny-bf16"])("%s: bytes, Blobs and the folder give the same logits", async (name) => {
    const bytes = await bytesOf(data(name)), want = await logits(data(name));
    expect(await logits(bytes)).toEqual(want);
    expect(await logits(Object.fromEntries(Object.entries(bytes).map(([key, value]) => [key, new Blob([value.slice()])])))).toEqual(want);
  });
  test("an address is fetched", async () => {
    const bytes = await bytesOf(data("tiny")), config = new URL(`data:application/json;base64,${Buffer.from(bytes["config.json"]).toString("base64")}`);
    expect(await logits({ ...bytes, "config.json": config })).toEqual(await logits(data("tiny")));
  });
  test("a tokenizer comes along", async () => {
    const folder = fileURLToPath(new URL("../../tiny/model", import.meta.url)), files = await bytesOf(folder);
    const [ours, theirs] = [await loadModel(files), await loadModel(folder)];
    expect(ours.tokenizer?.encode("Call me Ishmael.")).toEqual(theirs.tokenizer?.encode("Call me Ishmael."));
    expect(ours.tokenizer?.eosTokenId).toBe(theirs.tokenizer?.eosTokenId);
  });
  test("what is missing is named with the fix", async () => {
    const { "config.json": _, ...rest } = await bytesOf(data("tiny"));
    await expect(loadModel(rest)).rejects.toThrow(/config\.json: is not among the model's files[^]*fix: add config\.json/);
    const { "model.safetensors": __, ...without } = await bytesOf(data("tiny"));
    await expect(loadModel(without)).rejects.toThrow(/model\.safetensors: is not among/);
    await expect(loadModel({ "config.json": new URL("http://127.0.0.1:1/config.json") })).rejects.toThrow(/127\.0\.0\.1:1\/config\.json: cannot be fetched[^]*fix: check the address/);
  });
});
