/**
 * `npm run test:all`, after `npm test`: what takes longer or needs more. The laws and a fine-tuning in a headless Chromium and in
 * Deno, the example page driven as a visitor would, the laws of kernels on lavapipe (f16) where the system has it, packed tarballs,
 * the suite on a newer Node, and the long form of the property tests (ADJOINT_RUNS draws a law). About 25 minutes on two cores.
 * What cannot run here is listed as not run; in CI a browser or Deno that does not start on Linux is a failure.
 * `npm run test:all -- deno chromium` runs the named groups only.
 */
import { join } from "node:path";
import { adapters, lavapipe, missing } from "./gpu.mjs";
import { drive } from "./drive.mjs";
import { drivePage } from "./page.mjs";
import { groups, inCi, node, reporter, reportSuite, requireNode, root, say } from "./lib.mjs";
import { setup } from "./setup.mjs";

requireNode();
const wanted = process.argv.slice(2), all = groups();
const script = (name, ...args) => node([join(root, "scripts", name), ...args], { inherit: true });
const results = [];

/** The test runner on some files, in an environment. */
async function suite(files, env, ...flags) {
  const file = join(root, ".cache", `vitest-all-${process.pid}-${results.length}.json`);
  results.push(file);
  const { code } = await node([join(root, "node_modules", "vitest", "vitest.mjs"), "run", reporter("dot"), "--reporter=json", `--outputFile.json=${file}`, ...files, ...flags], { inherit: true, env });
  return { code };
}
/** Mesa's software GPU where it works: a step on it takes half of SwiftShader's time. */
async function quicker() {
  const env = lavapipe();
  return env !== undefined && (await adapters(env)).found.length > 0 ? env : {};
}
/** Each law of the CPU draws ADJOINT_RUNS values; beside it, on a software GPU, what is too slow for `npm test`: fifty steps, and a run that loses its device. */
async function long() {
  const runs = { ADJOINT_RUNS: process.env.ADJOINT_RUNS ?? "60" };
  const all = await Promise.all([suite(["packages/testing"], runs), suite(["packages/webgpu/test/curve", "packages/train/test/lost-device"], { ...await quicker(), ...runs })]);
  return { code: all.find(({ code }) => code !== 0)?.code ?? 0 };
}
/** Laws of kernels do not depend on Node: the newer one runs WebGPU's device, plans, errors and memory. */
const kernelLaws = ["conform", "kernels", "attention", "matrix", "merge", "adapters"].map((name) => `--exclude=packages/webgpu/test/${name}.test.ts`);

/** Where its binary exists, CI wants it to run. */
const demanded = async (work) => {
  const result = await work;
  return result.skipped !== undefined && missing() === undefined && inCi ? { code: 1, output: result.skipped } : result;
};

const table = {
  chromium: () => demanded(drive("chromium", { backends: ["wasm 1", "wasm 2", "webgpu"], runs: 1, steps: 10 })),
  deno: () => demanded(drive("deno", { backends: ["wasm 2", "webgpu"], runs: 1, steps: 10 })),
  page: () => demanded(drivePage({ devices: ["auto", "webgpu"] })),
  async lavapipe() {
    const env = lavapipe();
    if (env === undefined) return { skipped: "mesa-vulkan-drivers is not installed, so kernels with f16 were only compiled" };
    const { found, reason } = await adapters(env);
    if (found.length === 0) return { skipped: `Dawn refuses it (it needs Mesa 24 or newer): ${reason}` };
    say(`      WebGPU tests run on ${found.join(", ")}`);
    // LLVM takes seconds for each text: every law, and the products of halves; the tiles' other texts say nothing new here
    const laws = await suite(["packages/webgpu/test/open", "packages/webgpu/test/conform"], env);
    const halves = await suite(["packages/webgpu/test/contract"], env, "-t", "layouts|types|formulas after");
    return { code: laws.code === 0 ? halves.code : laws.code };
  },
  "packed tarballs": () => script("pack.mjs"),
  "Node 24": () => script("node24.mjs", ...kernelLaws),
  "long form": long,
};

await all.group("set-up", () => setup("test").then(() => ({})));
for (const [name, work] of Object.entries(table)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  await all.group(name, work);
  for (const file of results.splice(0)) reportSuite(file, all);
}
const unknown = wanted.filter((name) => !(name in table));
if (unknown.length > 0) {
  say(`test:all: no group is called ${unknown.join(", ")}; there are ${Object.keys(table).join(", ")}`);
  process.exitCode = 1;
} else all.end();
