/**
 * Runs the suite on a newer Node, taken from the npm registry (its package per platform holds the binary; no install script).
 * `node scripts/node24.mjs [vitest arguments]`. Where no such package exists, that is said, and is not a failure.
 */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { npmCli, reporter, root, run, say, seconds } from "./lib.mjs";
import { setup } from "./setup.mjs";

const version = "24";
const system = { linux: "linux", darwin: "darwin", win32: "win" }[process.platform];
const name = `node-${system}-${process.arch}`;
const place = join(root, ".cache", `node${version}`);
const binary = join(place, "node_modules", name, "bin", process.platform === "win32" ? "node.exe" : "node");

async function fetchNode() {
  if (existsSync(binary)) return true;
  mkdirSync(place, { recursive: true });
  const args = [npmCli(), "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", place, `${name}@${version}`];
  const { code, output } = await run(process.execPath, args, { cwd: place, quiet: true });
  if (code !== 0 || !existsSync(binary)) say(`node24: not run: ${name}@${version} could not be installed${code === 0 ? "" : `\n${output.trim()}`}`);
  return existsSync(binary);
}

const begun = performance.now();
await setup("test");
if (await fetchNode()) {
  const asked = await run(binary, ["--version"], { quiet: true });
  say(`node24: the suite on ${asked.output.trim()}`);
  const { code } = await run(binary, [join(root, "node_modules", "vitest", "vitest.mjs"), "run", reporter("dot"), ...process.argv.slice(2)], { inherit: true });
  say(`node24: ${code === 0 ? "ok" : "FAILED"} in ${seconds(begun)}`);
  process.exitCode = code;
}
