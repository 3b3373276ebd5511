/**
 * What `npm run finetune` costs on a machine that has only Node and npm: clones this checkout into an empty folder, starts the
 * run there, and reports the installed size and the seconds to the first step. Fails above 40 MB or 60 s.
 */
import { spawn } from "node:child_process";
import { lstatSync, mkdtempSync, readdirSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root, run, say } from "./lib.mjs";

/** Bytes of a folder's files; links are not followed, and a file with several names counts once. */
function bytes(folder, seen = new Set()) {
  let sum = 0;
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    const stat = lstatSync(path);
    const id = `${stat.dev}:${stat.ino}`;
    if (stat.isDirectory()) sum += bytes(path, seen);
    else if (stat.isFile() && !seen.has(id)) {
      seen.add(id);
      sum += stat.size;
    }
  }
  return sum;
}

const place = mkdtempSync(join(realpathSync(tmpdir()), "adjoint-footprint-"));
try {
  const cloned = await run("git", ["clone", "--quiet", root, place], { quiet: true });
  if (cloned.code !== 0) throw new Error(cloned.output);
  const before = bytes(place);
  const begun = performance.now();
  const first = await new Promise((done, fail) => {
    // the first progress line says that a step was taken; the run is then ended
    const child = spawn(process.execPath, [join(place, "scripts", "finetune.mjs"), ...process.argv.slice(2)], { cwd: place, env: { ...process.env, INIT_CWD: place }, stdio: ["ignore", "ignore", "pipe"] });
    let text = "";
    child.stderr.setEncoding("utf8").on("data", (chunk) => {
      text += chunk;
      if (!/\b[1-9]\d*\/\d+\b.*loss/.test(text)) return;
      done((performance.now() - begun) / 1000);
      child.kill("SIGKILL");
    });
    child.on("error", fail);
    child.on("close", (code) => fail(new Error(`the run ended with exit code ${code} before its first step:\n${text.trim()}`)));
  });
  const megabytes = (bytes(place) - before) / 1e6;
  const ok = megabytes <= 40 && first <= 60;
  say(`footprint: ${megabytes.toFixed(1)} MB installed, first step reported after ${first.toFixed(1)} s${ok ? "" : " (limits: 40 MB, 60 s)"}`);
  process.exitCode = ok ? 0 : 1;
} catch (error) {
  say(`footprint: ${error.message}`);
  process.exitCode = 1;
} finally {
  rmSync(place, { recursive: true, force: true });
}
