/** This package as others use it: bundled for a page, and called from plain JavaScript, where no compiler minds a wrong name. */
import { fileURLToPath } from "node:url";
import { createContext, runInContext } from "node:vm";
import { build } from "esbuild";
import { expect, test } from "vitest";
import { fixture } from "@adjoint/testing/fixtures";
import { generate, type GenerateOptions, generateIds, loadModel, type LoadModelOptions, loadWeights, saveModel, type SaveModelOptions } from "../src/index.ts";

const tiny = fixture("llama/tiny");
const written = <T>(text: string): T => JSON.parse(text) as T;

test("bundles for a page without any of Node's modules; a hub id there is an error with the fix", async () => {
  const contents = `
    import { loadModel } from "./index.ts";
    globalThis.run = (source) => loadModel(source).then(() => "loaded", (error) => error.name + ": " + error.message);`;
  const { outputFiles, warnings } = await build({
    stdin: { contents, resolveDir: fileURLToPath(new URL("../src", import.meta.url)), loader: "ts" },
    bundle: true, write: false, platform: "browser", format: "iife", target: "es2022", conditions: ["@adjoint/source"], logLevel: "silent",
  });
  expect(warnings).toEqual([]);
  const context = createContext({ TextEncoder, TextDecoder, Blob, URL, WebAssembly, navigator: {} });
  runInContext(outputFiles[0].text, context);
  expect(await runInContext('run("organisation/name")', context)).toMatch(/^FileError: organisation\/name: a page has neither folders nor a cache of the hub\n {2}fix: name the files: loadModel\(\{ "config.json"/);
});

test("no option is ignored", async () => {
  await expect(loadModel(tiny, written<LoadModelOptions>('{"quantise":{"format":"nf4"}}'))).rejects.toThrow("loadModel: there is no option quantise\n  fix: did you mean quantize?");
  await expect(loadModel(tiny, written<LoadModelOptions>('{"quantize":"nf4"}'))).rejects.toThrow("loadModel: quantize: options are an object");
  await expect(loadModel(tiny, written<LoadModelOptions>('{"quantize":{"format":"nf4","double_quant":true}}'))).rejects.toThrow("did you mean doubleQuant?");
  await expect(loadWeights(tiny, written<LoadModelOptions>('{"dtypes":"f32"}'))).rejects.toThrow("did you mean dtype?");
  await expect(loadModel(written<string>("null"))).rejects.toThrow("there is no model of type null");
  const model = await loadModel(tiny, { tokenizer: false });
  await expect(generateIds(model, [1, 2], written<GenerateOptions>('{"max_new_tokens":1}'))).rejects.toThrow("did you mean maxNewTokens?");
  await expect(generate(model, "a", written<GenerateOptions>("40"))).rejects.toThrow("generate:");
  await expect(saveModel(model, "nowhere", written<SaveModelOptions>('{"maxShardSize":1}'))).rejects.toThrow("known options: files, format, maxShardBytes, metadata");
});
