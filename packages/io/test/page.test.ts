/** This package in a page: bundled for browsers without any of Node's modules, and run where there is no process. */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { createContext, runInContext } from "node:vm";
import { build } from "esbuild";
import { expect, it } from "vitest";

it("parses, opens Blobs and writes to memory without Node; a path is an error with the fix", async () => {
  const entry = `
    import { openSafetensors, parseSafetensors, serializeSafetensors } from "./index.ts";
    globalThis.run = async (bytes) => {
      const { tensors, metadata } = parseSafetensors(bytes, "plain");
      const file = await openSafetensors(new Blob([bytes]));
      const fromBlob = [...(await file.read("i32")).data];
      const path = await openSafetensors("x.safetensors").catch((error) => error.name + ": " + error.message);
      return JSON.stringify({ names: tensors.size, same: String(serializeSafetensors(tensors, metadata)) === String(bytes), fromBlob, path });
    };`;
  const { outputFiles } = await build({
    stdin: { contents: entry, resolveDir: fileURLToPath(new URL("../src", import.meta.url)), loader: "ts" },
    bundle: true, write: false, platform: "browser", format: "iife", conditions: ["@adjoint/source"], logLevel: "silent",
  });
  const context = createContext({ TextEncoder, TextDecoder, Blob, URL });
  runInContext(outputFiles[0].text, context);
  const bytes = await readFile(new URL("../../../fixtures/data/io/plain.safetensors", import.meta.url));
  context["input"] = new Uint8Array(bytes);
  const result: unknown = JSON.parse(await runInContext("run(new Uint8Array(input))", context));
  expect(result).toEqual({ names: 15, same: true, fromBlob: [-2147483648, 2147483647, 0], path: expect.stringMatching(/^FileError: there is no file system here\n {2}fix: outside Node pass bytes or a Blob/) });
});
