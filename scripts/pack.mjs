/**
 * Packs every public package as it would be published, checks each tarball with publint and "are the types wrong", installs
 * them all in an empty folder by plain npm, imports each one, bundles them for pages, and starts the command.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "./build.mjs";
import { node, npmCli, packages, readJson, root, run, say, seconds } from "./lib.mjs";

const begun = performance.now();
const pnpm = readJson(join(root, "package.json")).packageManager;
const modules = [...packages()].filter(([, { manifest }]) => manifest.private !== true);
const problems = [];

async function pack(out) {
  const found = new Map();
  for (const [name, { folder }] of modules) {
    const made = await run(process.execPath, [npmCli(), "exec", "--yes", "--prefer-offline", "--", pnpm, "pack", "--pack-destination", out], { cwd: folder, quiet: true });
    if (made.code !== 0) throw new Error(`${name}: ${made.output.trim()}`);
    const file = readdirSync(out).find((each) => each.endsWith(".tgz") && ![...found.values()].includes(join(out, each)));
    found.set(name, join(out, file));
  }
  return found;
}

async function checkTypes(name, file) {
  const { publint } = await import("publint");
  const { formatMessage } = await import("publint/utils");
  const bytes = readFileSync(file);
  const tarball = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  const { messages, pkg } = await publint({ pack: { tarball }, strict: false });
  for (const message of messages) if (message.type === "error") problems.push(`${name}: publint: ${formatMessage(message, pkg)}`);
  const { checkPackage, createPackageFromTarballData } = await import("@arethetypeswrong/core");
  const result = await checkPackage(createPackageFromTarballData(new Uint8Array(bytes)));
  if (result.types === false) problems.push(`${name}: the tarball carries no types`);
  // ESM only: what a CommonJS consumer or the resolution of 2015 cannot do is intended
  const intended = ["CJSResolvesToESM", "NoResolution", "InternalResolutionError"];
  for (const problem of result.problems ?? []) {
    const old = problem.resolutionKind === "node10" || problem.resolutionKind === "node16-cjs" || problem.resolutionOption === "node10";
    if (!(intended.includes(problem.kind) && old)) problems.push(`${name}: types: ${JSON.stringify(problem)}`);
  }
}

/** What a page would load: every package in one bundle for browsers, without any of Node's modules. */
async function bundleForPages(place, names) {
  const { build: bundle } = await import("esbuild");
  const contents = names.map((name, i) => `import * as p${i} from ${JSON.stringify(name)};\n`).join("") + `globalThis.all = [${names.map((_, i) => `p${i}`).join(", ")}];`;
  const { errors, outputFiles } = await bundle({ stdin: { contents, resolveDir: place }, bundle: true, write: false, platform: "browser", format: "esm", target: "es2022", logLevel: "silent" }).catch((error) => ({ errors: error.errors, outputFiles: [] }));
  for (const { text, location } of errors) problems.push(`page: ${location?.file ?? ""}: ${text}`);
  const left = [...new Set(outputFiles.flatMap(({ text }) => [...text.matchAll(/(?:from|import)\s*\(?\s*"(node:[\w/]+)"/g)].map((m) => m[1])))];
  if (left.length > 0) problems.push(`page: the bundle imports ${left.join(", ")}`);
}

async function main() {
  await build();
  const out = join(root, ".cache", "pack");
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  const tarballs = await pack(out);
  for (const [name, file] of tarballs) await checkTypes(name, file);
  say(`pack: ${tarballs.size} tarballs checked`);

  const place = mkdtempSync(join(realpathSync(tmpdir()), "adjoint-pack-"));
  try {
    const files = Object.fromEntries([...tarballs].map(([name, file]) => [name, `file:${file}`]));
    writeFileSync(join(place, "package.json"), JSON.stringify({ name: "consumer", private: true, type: "module", dependencies: { ...files, "fast-check": "^4.0.0" }, overrides: files }, null, 2));
    const installed = await run(process.execPath, [npmCli(), "install", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"], { cwd: place, quiet: true });
    if (installed.code !== 0) throw new Error(`the tarballs do not install:\n${installed.output.trim()}`);
    for (const name of tarballs.keys()) {
      const { code, output } = await node(["--input-type=module", "-e", `const m = await import(${JSON.stringify(name)}); if (Object.keys(m).length === 0) throw new Error("exports nothing");`], { cwd: place, quiet: true });
      if (code !== 0) problems.push(`${name}: import failed: ${output.trim().split("\n").slice(0, 6).join("\n  ")}`);
    }
    await bundleForPages(place, [...tarballs.keys()].filter((name) => !["adjoint", "@adjoint/testing"].includes(name)));
    const bin = tarballs.has("adjoint") ? readJson(join(place, "node_modules", "adjoint", "package.json")).bin?.adjoint : undefined;
    if (bin !== undefined) {
      const { code, output } = await node([join(place, "node_modules", "adjoint", bin), "--help"], { cwd: place, quiet: true });
      if (code !== 0) problems.push(`adjoint --help failed: ${output.trim().slice(0, 600)}`);
    }
  } finally {
    rmSync(place, { recursive: true, force: true });
  }
  for (const problem of problems) say(problem);
  say(`pack: ${problems.length === 0 ? "all packages install and import" : `${problems.length} problems`}, ${seconds(begun)}`);
  process.exitCode = problems.length === 0 ? 0 : 1;
}

try {
  await main();
} catch (error) {
  say(`pack: ${error.message}`);
  process.exitCode = 1;
}
