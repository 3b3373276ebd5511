/** Small helpers of the scripts: where the checkout is, how to start npm without a shell, how to say what happens. */
import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, realpathSync, rmSync, statSync } from "node:fs";
import { basename, delimiter, dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");

/** One line to standard error; standard output belongs to results. */
export const say = (line) => process.stderr.write(`${line}\n`);

export const seconds = (since) => `${((performance.now() - since) / 1000).toFixed(1)} s`;

export const readJson = (path) => JSON.parse(readFileSync(path, "utf8"));

/** Folders of the packages that exist, by package name. */
export function packages() {
  const found = new Map();
  for (const name of readdirSync(join(root, "packages")).sort()) {
    const folder = join(root, "packages", name);
    const file = join(folder, "package.json");
    if (statSync(folder).isDirectory() && existsSync(file)) found.set(readJson(file).name, { folder, short: name, manifest: readJson(file) });
  }
  return found;
}

/** Files under `folder` whose name ends with `ending`, sorted; node_modules and dist are left out. */
export function filesUnder(folder, ending) {
  if (!existsSync(folder)) return [];
  const out = [];
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.name === "node_modules" || entry.name === "dist") continue;
    const path = join(folder, entry.name);
    if (entry.isDirectory()) out.push(...filesUnder(path, ending));
    else if (entry.name.endsWith(ending)) out.push(path);
  }
  return out.sort();
}

/** npm's own entry file, so that it runs under this Node on every system, Windows included, without a shell. */
export function npmCli() {
  const own = process.env.npm_execpath;
  if (own !== undefined && basename(own) === "npm-cli.js" && existsSync(own)) return own;
  const here = dirname(realpathSync(process.execPath));
  const near = [join(here, "node_modules/npm/bin/npm-cli.js"), join(here, "../lib/node_modules/npm/bin/npm-cli.js")];
  for (const folder of (process.env.PATH ?? "").split(delimiter)) {
    if (folder === "") continue;
    near.push(join(folder, "node_modules/npm/bin/npm-cli.js"));
    const link = join(folder, "npm");
    if (existsSync(link) && basename(realpathSync(link)) === "npm-cli.js") near.push(realpathSync(link));
  }
  const found = near.find((path) => existsSync(path));
  if (found === undefined) throw new Error("npm was not found beside node or on PATH; install Node.js with npm (https://nodejs.org) and try again");
  return found;
}

/**
 * Runs a program to its end and resolves with { code, output }.
 * `quiet` collects the output instead of showing it; otherwise both streams go to our standard error, or are inherited.
 */
export function run(file, args, { cwd = root, env = {}, quiet = false, inherit = false } = {}) {
  return new Promise((done, fail) => {
    const child = spawn(file, args, { cwd, env: { ...process.env, ...(inCi ? { NO_COLOR: "1" } : {}), ...env }, stdio: inherit ? "inherit" : ["ignore", "pipe", "pipe"] });
    const chunks = [];
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (chunk) => {
        if (quiet) chunks.push(chunk);
        else process.stderr.write(chunk);
      });
    }
    child.on("error", fail);
    child.on("close", (code, signal) => done({ code: code ?? (signal === null ? 1 : 130), output: Buffer.concat(chunks).toString("utf8") }));
  });
}

/** Whether a CI system reads along: then tests say failures and sums only, without colours, so that a log stays short enough to read whole. */
export const inCi = (process.env.CI ?? "") !== "";
/** The test runner's arguments for what it prints: `usual` for a person. */
export const reporter = (usual) => `--reporter=${inCi ? "minimal" : usual}`;

export const node = (args, options) => run(process.execPath, args, options);

/** Node 20.19 is the oldest that runs everything here. */
export function requireNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    say(`adjoint needs Node 20.19 or newer; this is ${process.version}. Install a newer one from https://nodejs.org`);
    process.exit(1);
  }
}

/**
 * Collects what a command ran: `group(name, work)` runs work, which resolves with { code, output?, parts? } or { skipped: why }, prints
 * its line at once, and `end()` prints the table with seconds by group and sets the exit code.
 */
export function groups() {
  const begun = performance.now(), rows = [], skipped = [];
  return {
    /** adds a line to the table under the group before it */
    add: (name, time, ok) => void rows.push({ name: `  ${name}`, time: `${time.toFixed(1)} s`, ok }),
    skip: (line) => void (skipped.includes(line) || skipped.push(line)),
    async group(name, work) {
      const start = performance.now();
      const { code = 0, output = "", parts = [], skipped: why } = await work().catch((error) => ({ code: 1, output: error.message }));
      const ok = code === 0, word = why !== undefined ? "-   " : ok ? "ok  " : "FAIL";
      rows.push({ name, time: seconds(start), ok, word });
      for (const part of parts) this.add(part.name, part.time, part.ok);
      if (why !== undefined) skipped.push(`${name}: ${why}`);
      say(`${word}  ${name}  ${why === undefined ? seconds(start) : `not run: ${why}`}`);
      if (!ok && output !== "") say(output.trim());
      return ok;
    },
    end() {
      const failed = rows.filter(({ name, ok }) => !ok && !name.startsWith(" "));
      say("");
      for (const { name, time, ok, word } of rows) say(`${word ?? (ok ? "ok  " : "FAIL")}  ${name.padEnd(52)} ${time.padStart(9)}`);
      if (skipped.length > 0) say(`not run on ${process.platform}-${process.arch}, Node ${process.version}:\n${skipped.map((each) => `  ${each}`).join("\n")}`);
      say(`${failed.length === 0 ? "all passed" : `failed: ${failed.map(({ name }) => name).join(", ")}`} in ${seconds(begun)}`);
      process.exitCode = failed.length === 0 ? 0 : 1;
    },
  };
}

/** The test runner's results by package into the table, and the names of tests that were skipped. */
export function reportSuite(file, { add, skip }) {
  if (!existsSync(file)) return;
  const byPackage = new Map();
  for (const { name, startTime, endTime, assertionResults } of readJson(file).testResults) {
    const [top, second] = relative(root, name).split(/[\\/]/), key = top === "packages" ? second : top;
    const sum = byPackage.get(key) ?? { time: 0, tests: 0, failed: 0 };
    sum.time += (endTime - startTime) / 1000;
    for (const { status, fullName } of assertionResults) {
      if (status === "passed" || status === "failed") sum.tests++;
      else skip(`${key}: ${fullName}`);
      if (status === "failed") sum.failed++;
    }
    byPackage.set(key, sum);
  }
  for (const [key, { time, tests, failed }] of [...byPackage].sort()) add(`${key} (${tests} tests)`, time, failed === 0);
  rmSync(file, { force: true });
}
