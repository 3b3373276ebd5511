/** Runs the main job as `npm run finetune` does and judges it: at most 3 minutes, new-domain bits per byte down by at least 13 %. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { node, root, say } from "./lib.mjs";
import { setup } from "./setup.mjs";

await setup("job");
const out = mkdtempSync(join(tmpdir(), "adjoint-job-"));
try {
  const begun = performance.now();
  const { code, output } = await node([join(root, "scripts", "finetune.mjs"), "--output-dir", join(out, "run"), "--json", "--quiet"], { quiet: true });
  const took = (performance.now() - begun) / 1000;
  if (code !== 0) throw new Error(`the job failed\n${output}`);
  const evaluations = readFileSync(join(out, "run", "evaluations.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
  const of = (domain) => evaluations.filter((e) => e.data === domain).map((e) => e.bits_per_byte);
  const [before, after] = [of("Moby-Dick").at(0), of("Moby-Dick").at(-1)];
  const change = after / before - 1, text = `new domain ${before.toFixed(3)} to ${after.toFixed(3)} bits per byte (${(100 * change).toFixed(1)} %), ${took.toFixed(0)} s`;
  if (!(change <= -0.13)) throw new Error(`${text}: not down by 13 %`);
  if (!(took < 180)) throw new Error(`${text}: over 3 minutes`);
  console.log(`main job: ${text}`);
} catch (error) {
  say(`main job: ${error.message}`);
  process.exitCode = 1;
} finally {
  rmSync(out, { recursive: true, force: true });
}
