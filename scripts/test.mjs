/**
 * `npm test`: set-up, then types, lint, import directions and the whole suite, from a checkout with nothing but Node and npm.
 * `npm test -- packages/io` runs the suite of one part only. Prints seconds by group and, by name, what was not run.
 */
import { existsSync, rmSync } from "node:fs";
import { join, relative } from "node:path";
import { node, readJson, requireNode, root, say, seconds } from "./lib.mjs";
import { setup } from "./setup.mjs";

requireNode();
const begun = performance.now();
const only = process.argv.slice(2);
const groups = [];
const bin = (...path) => join(root, "node_modules", ...path);
const results = join(root, ".cache", `vitest-${process.pid}.json`);

/** Where the tools' binaries exist. Elsewhere nothing can run, which is said, and is not a failure. */
const supported = ["linux", "darwin", "win32"].includes(process.platform) && ["x64", "arm64"].includes(process.arch);
if (!supported) {
  say(`not run on ${process.platform}-${process.arch}: types, lint, import directions, the test suite (their tools have no binaries for this machine)`);
  process.exit(0);
}

async function group(name, work) {
  const start = performance.now();
  const { code, output } = await work();
  groups.push({ name, time: seconds(start), ok: code === 0 });
  say(`${code === 0 ? "ok  " : "FAIL"}  ${name}  ${seconds(start)}`);
  if (code !== 0 && output !== undefined && output !== "") say(output.trim());
  return code === 0;
}

async function main() {
  await group("set-up", async () => {
    await setup("test");
    return { code: 0 };
  });
  const checks =
    only.length > 0
      ? []
      : [
          group("types", () => node([bin("typescript", "bin", "tsc"), "-p", root, "--pretty", "false"], { quiet: true })),
          group("lint", () => node([bin("eslint", "bin", "eslint.js"), ".", "--max-warnings=0"], { quiet: true })),
          group("import directions", () => node([join(root, "scripts", "deps.mjs")], { quiet: true })),
        ];
  await Promise.all(checks);
  await group("suite", () =>
    node([bin("vitest", "vitest.mjs"), "run", "--reporter=default", "--reporter=json", `--outputFile.json=${results}`, ...only], { inherit: true }),
  );
  const skipped = report();
  const failed = groups.filter((each) => !each.ok && !each.name.startsWith(" "));
  say("");
  for (const { name, time, ok } of groups) say(`${ok ? "ok  " : "FAIL"}  ${name.padEnd(28)} ${time.padStart(9)}`);
  if (skipped.length > 0) say(`not run on ${process.platform}-${process.arch}, Node ${process.version}:\n${skipped.map((each) => `  ${each}`).join("\n")}`);
  say(`${failed.length === 0 ? "all passed" : `failed: ${failed.map((each) => each.name).join(", ")}`} in ${seconds(begun)}`);
  process.exitCode = failed.length === 0 ? 0 : 1;
}

/** Adds the suite's seconds by package to the table, and returns the names of skipped tests. */
function report() {
  if (!existsSync(results)) return [];
  const byPackage = new Map();
  const skipped = [];
  for (const { name, startTime, endTime, assertionResults } of readJson(results).testResults) {
    const [top, second] = relative(root, name).split(/[\\/]/);
    const key = top === "packages" ? second : top;
    const sum = byPackage.get(key) ?? { time: 0, tests: 0, failed: 0 };
    sum.time += (endTime - startTime) / 1000;
    for (const { status, fullName } of assertionResults) {
      if (status === "passed" || status === "failed") sum.tests++;
      else skipped.push(`${key}: ${fullName}`);
      if (status === "failed") sum.failed++;
    }
    byPackage.set(key, sum);
  }
  for (const [key, { time, tests, failed }] of [...byPackage].sort()) groups.push({ name: `  ${key} (${tests} tests)`, time: `${time.toFixed(1)} s`, ok: failed === 0 });
  rmSync(results, { force: true });
  return skipped;
}

try {
  await main();
} catch (error) {
  say(`test: ${error.message}`);
  process.exitCode = 1;
}
