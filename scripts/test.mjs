/**
 * `npm test`: set-up, then types, lint, import directions and the whole suite, from a checkout with nothing but Node and npm.
 * `npm test -- packages/io` runs the suite of one part only. Prints seconds by group and, by name, what was not run.
 * WebGPU tests get a software GPU (scripts/gpu.mjs); the line "adapters" says which one, and fails in CI if there is none.
 */
import { join } from "node:path";
import { adapters, missing, swiftshader } from "./gpu.mjs";
import { groups, inCi, node, reporter, reportSuite, requireNode, root, say } from "./lib.mjs";
import { setup } from "./setup.mjs";

requireNode();
const only = process.argv.slice(2);
const bin = (...path) => join(root, "node_modules", ...path);
const results = join(root, ".cache", `vitest-${process.pid}.json`);

/** Where the tools' binaries exist. Elsewhere nothing can run, which is said, and is not a failure. */
const supported = ["linux", "darwin", "win32"].includes(process.platform) && ["x64", "arm64"].includes(process.arch);
if (!supported) {
  say(`not run on ${process.platform}-${process.arch}: types, lint, import directions, the test suite (their tools have no binaries for this machine)`);
  process.exit(0);
}

/** The line about adapters: which one the WebGPU tests run on. */
async function adapter() {
  const { found, reason } = await adapters(swiftshader());
  if (found.length > 0) say(`      WebGPU tests run on ${found.join(", ")}`);
  const none = missing() ?? reason;
  return found.length > 0 ? {} : missing() === undefined && inCi ? { code: 1, output: none } : { skipped: none };
}

async function main() {
  const all = groups(), { group } = all;
  await group("set-up", () => setup("test").then(() => ({})));
  const checks = [group("adapters", adapter)];
  if (only.length === 0) {
    checks.push(
      group("types", () => node([bin("typescript", "bin", "tsc"), "-p", root, "--pretty", "false"], { quiet: true })),
      group("lint", () => node([bin("eslint", "bin", "eslint.js"), ".", "--max-warnings=0"], { quiet: true })),
      group("import directions", () => node([join(root, "scripts", "deps.mjs")], { quiet: true })),
    );
  }
  await Promise.all(checks);
  await group("suite", () =>
    node([bin("vitest", "vitest.mjs"), "run", reporter("default"), "--reporter=json", `--outputFile.json=${results}`, ...only], { inherit: true }),
  );
  reportSuite(results, all);
  all.end();
}

try {
  await main();
} catch (error) {
  say(`test: ${error.message}`);
  process.exitCode = 1;
}
