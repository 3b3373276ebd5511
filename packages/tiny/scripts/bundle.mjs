/** Loads TypeScript sources into a script: Node 20 runs no TypeScript, so esbuild bundles them first. */
import { build } from "esbuild";
import { pathToFileURL } from "node:url";

/** Imports `code` (an ES module text whose relative imports start at this folder). */
export async function load(code) {
  const result = await build({
    stdin: { contents: code, resolveDir: import.meta.dirname, loader: "ts" },
    bundle: true,
    write: false,
    platform: "node",
    format: "esm",
    target: "node20",
    conditions: ["@adjoint/source"],
    define: { "import.meta.url": JSON.stringify(pathToFileURL(`${import.meta.dirname}/../src/files.ts`).href) },
    logLevel: "warning",
  });
  return import(`data:text/javascript;base64,${Buffer.from(result.outputFiles[0].contents).toString("base64")}`);
}
