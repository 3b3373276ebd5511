/**
 * Installs what a command needs, with nothing but Node and npm, and makes the bundle that the `adjoint` commands run.
 * Three profiles, each containing the one before it: `job` (the bundled fine-tuning run), `run` (every command, with the
 * hub client) and `test` (all development tools). A stamp in node_modules makes the second call instant.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { node, npmCli, readJson, requireNode, root, run, say, seconds } from "./lib.mjs";

const profiles = ["job", "run", "test"];
const selection = {
  job: ["--prod", "--filter", "adjoint-job", "--filter", "@adjoint/tiny", "--filter", "@adjoint/train"], // texts, and the report's chart library
  run: ["--prod", "--filter", "adjoint-job", "--filter", "adjoint..."],
  test: [],
};
const stampFile = join(root, "node_modules", ".adjoint-setup.json");
const lockFolder = join(root, ".cache", "setup.lock");

/** Identifies an installation: the lock file, the profile's definition and the machine's kind. */
const fingerprint = () =>
  createHash("sha256")
    .update(readFileSync(join(root, "pnpm-lock.yaml")))
    .update(JSON.stringify([selection, process.platform, process.arch]))
    .digest("hex")
    .slice(0, 16);

/** True where the development tools are there already: installing less would take them away. */
const hasTools = () => existsSync(join(root, "node_modules", "typescript"));

function installed() {
  if (hasTools() && same(join(root, "node_modules", ".pnpm", "lock.yaml"), join(root, "pnpm-lock.yaml"))) return "test";
  try {
    const stamp = readJson(stampFile);
    return stamp.fingerprint === fingerprint() ? stamp.profile : undefined;
  } catch {
    return undefined;
  }
}

function same(a, b) {
  return existsSync(a) && readFileSync(a).equals(readFileSync(b));
}

const covers = (have, want) => have !== undefined && profiles.indexOf(have) >= profiles.indexOf(want);

/** Waits for another set-up in the same checkout; a lock whose process is gone is taken over. */
async function lock() {
  mkdirSync(join(root, ".cache"), { recursive: true });
  for (;;) {
    try {
      mkdirSync(lockFolder);
      writeFileSync(join(lockFolder, "pid"), String(process.pid));
      return () => rmSync(lockFolder, { recursive: true, force: true });
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    }
    if (!holderLives()) rmSync(lockFolder, { recursive: true, force: true });
    else await new Promise((wake) => setTimeout(wake, 200));
  }
}

function holderLives() {
  try {
    process.kill(Number(readFileSync(join(lockFolder, "pid"), "utf8")), 0);
    return true;
  } catch (error) {
    if (error.code === "EPERM") return true;
    if (error.code !== "ENOENT") return false;
    // the lock was made a moment ago and its file is not written yet, or it is gone
    return existsSync(lockFolder) && Date.now() - statSync(lockFolder).mtimeMs < 2000;
  }
}

/** Each State of the Union address comes twice, as .txt and as .json; only the .txt files are ever read. */
function trimTexts() {
  const data = join(root, "packages", "tiny", "node_modules", "@stdlib", "datasets-sotu", "data");
  if (!existsSync(data)) return;
  for (const name of readdirSync(data)) if (name.endsWith(".json")) rmSync(join(data, name), { force: true });
}

async function install(profile) {
  const begun = performance.now();
  const pnpm = readJson(join(root, "package.json")).packageManager;
  say(`setup: installing ${profile === "test" ? "everything for the tests" : profile === "run" ? "the command's libraries" : "what the run needs"} (${pnpm}, by npm exec) ...`);
  const args = [npmCli(), "exec", "--yes", "--prefer-offline", "--", pnpm, "install", "--frozen-lockfile", "--ignore-scripts", "--prefer-offline", ...selection[profile]];
  // pnpm must neither ask nor see the npm variables of the script that called us
  const { code, output } = await run(process.execPath, args, { quiet: true, env: { CI: "true", npm_config_loglevel: "warn" } });
  if (code !== 0) {
    say(output.trim());
    throw new Error(`the installation failed with exit code ${code}; its output is above. Is the npm registry reachable?`);
  }
  trimTexts();
  writeFileSync(stampFile, JSON.stringify({ profile, fingerprint: fingerprint() }));
  say(`setup: installed in ${seconds(begun)}`);
}

/** Makes sure that `profile` is installed; returns at once when it is. */
export async function setup(profile) {
  requireNode();
  if (covers(installed(), profile)) return;
  const release = await lock();
  try {
    if (!covers(installed(), profile)) await install(hasTools() ? "test" : profile);
  } finally {
    release();
  }
}

/** Installs `profile` and returns the file URL of the bundled command. */
export async function command(profile) {
  await setup(profile);
  // a process of its own: esbuild's service must not live in the process that trains
  const { code, output } = await node([join(root, "scripts", "job", "bundle.mjs")], { quiet: true });
  const lines = output.trim().split("\n");
  for (const line of code === 0 ? lines.slice(0, -1) : lines) say(line);
  if (code !== 0) throw new Error("the command could not be bundled");
  return pathToFileURL(lines.at(-1)).href;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const profile = process.argv[2] ?? "test";
  if (!profiles.includes(profile)) throw new Error(`unknown profile "${profile}"; known: ${profiles.join(", ")}`);
  await setup(profile);
}
