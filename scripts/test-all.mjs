/**
 * `npm run test:all`, after `npm test`: what takes longer or needs more. The laws and a fine-tuning in a headless Chromium and
 * in Deno, the example page driven in Chromium, the WebGPU tests on lavapipe (f16) where the system has it, packed tarballs, the suite on a newer Node, and the long
 * form of the property tests (ADJOINT_RUNS draws a law). About 25 minutes on two cores. What cannot run here is listed as not
 * run. `npm run test:all -- deno chromium` runs the named groups only.
 */
import { join } from "node:path";
import { adapters, lavapipe } from "./gpu.mjs";
import { drive } from "./drive.mjs";
import { drivePage } from "./page.mjs";
import { groups, node, reportSuite, requireNode, root, say } from "./lib.mjs";
import { setup } from "./setup.mjs";

requireNode();
const wanted = process.argv.slice(2), all = groups();
const script = (name, ...args) => node([join(root, "scripts", name), ...args], { inherit: true });
const results = join(root, ".cache", `vitest-all-${process.pid}.json`);

/** The test runner on some files, in an environment. */
async function suite(files, env) {
  const { code } = await node([join(root, "node_modules", "vitest", "vitest.mjs"), "run", "--reporter=dot", "--reporter=json", `--outputFile.json=${results}`, ...files], { inherit: true, env });
  return { code };
}

const table = {
  chromium: () => drive("chromium", { backends: ["wasm 1", "wasm 2", "webgpu"], runs: 2, steps: 20 }),
  deno: () => drive("deno", { backends: ["wasm 2", "webgpu"], runs: 2, steps: 20 }),
  page: () => drivePage({ devices: ["auto", "webgpu"] }),
  async lavapipe() {
    const env = lavapipe();
    if (env === undefined) return { skipped: "mesa-vulkan-drivers is not installed, so kernels with f16 were only compiled" };
    const { found, reason } = await adapters(env);
    if (found.length === 0) return { skipped: `Dawn refuses it (it needs Mesa 24 or newer): ${reason}` };
    say(`      WebGPU tests run on ${found.join(", ")}`);
    return suite(["packages/webgpu"], env);
  },
  "packed tarballs": () => script("pack.mjs"),
  "Node 24": () => script("node24.mjs"),
  "long form": () => suite(["packages/testing", "packages/webgpu"], { ADJOINT_RUNS: process.env.ADJOINT_RUNS ?? "60" }),
};

await all.group("set-up", () => setup("test").then(() => ({})));
for (const [name, work] of Object.entries(table)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  await all.group(name, work);
  reportSuite(results, all);
}
const unknown = wanted.filter((name) => !(name in table));
if (unknown.length > 0) {
  say(`test:all: no group is called ${unknown.join(", ")}; there are ${Object.keys(table).join(", ")}`);
  process.exitCode = 1;
} else all.end();
