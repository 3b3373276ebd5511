/**
 * Runs every law and a short fine-tuning where no test runner goes: `node scripts/drive.mjs chromium|deno [--backends "wasm 1,webgpu"]
 * [--runs 2] [--steps 10]`. Chromium is the headless one of the npm registry (scripts/chromium.mjs); Deno brings another WebGPU
 * implementation (wgpu with the compiler Naga, as Firefox has it) and runs on SwiftShader. The bundles are made by esbuild.
 */
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { launch, serve } from "./chromium.mjs";
import { missing, swiftshader } from "./gpu.mjs";
import { root, run, say, seconds } from "./lib.mjs";

const folder = join(root, "packages", "webgpu", "test", "drive");

async function bundle(entry, out) {
  const { build } = await import("esbuild");
  mkdirSync(out, { recursive: true });
  await build({
    entryPoints: [join(folder, entry)], outdir: out, bundle: true, format: "esm", platform: "browser", target: "es2022", conditions: ["@adjoint/source"],
    external: ["webgpu", "@huggingface/hub"], sourcemap: "inline", sourcesContent: false, legalComments: "none", logLevel: "error",
  });
}

/** In a module worker of an isolated page. */
async function inChromium(wanted, out) {
  const { browser, reason } = await launch();
  if (browser === undefined) return { skipped: reason };
  const begun = performance.now();
  let server;
  try {
    await bundle("worker.ts", out);
    writeFileSync(join(out, "index.html"), '<!doctype html><meta charset="utf-8"><title>adjoint</title>');
    server = await serve({ "/": out });
    const page = await browser.newPage();
    page.on("console", (message) => say(`      chromium: ${message.text()}`));
    await page.exposeFunction("tell", (line) => say(`      chromium: ${line}`));
    await page.goto(server.address);
    const about = await page.evaluate(async () => {
      const adapter = await navigator.gpu?.requestAdapter();
      return { isolated: crossOriginIsolated, adapter: adapter ? `${adapter.info.vendor} ${adapter.info.architecture}` : "none" };
    });
    say(`      Chromium ${browser.version()}, adapter ${about.adapter}, ${about.isolated ? "" : "not "}isolated, started in ${seconds(begun)}`);
    if (about.adapter === "none" && wanted.backends.includes("webgpu")) throw new Error("Chromium has no WebGPU adapter");
    const done = await inWorker(page, wanted);
    if (done.verdicts !== undefined && wanted.backends.includes("wasm 2")) done.verdicts.push(await withoutIsolation(browser, out));
    return done;
  } finally {
    await browser.close();
    await server?.close();
  }
}

/** Posts what is wanted to the worker and resolves with { verdicts } or { error }. */
const inWorker = (page, wanted) => page.evaluate((message) => new Promise((done) => {
  const worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => { if (data.line !== undefined) void globalThis.tell?.(data.line); else done(data); };
  worker.onerror = (event) => done({ error: `the worker failed: ${event.message}` });
  worker.postMessage(message);
}), wanted);

/** A page without the two headers trains on one thread; two are a clear error. */
async function withoutIsolation(browser, out) {
  const begun = performance.now(), law = "without isolation one thread trains, and two are an error with the fix", failed = [];
  const server = await serve({ "/": out }, { isolated: false });
  try {
    const page = await browser.newPage();
    await page.goto(server.address);
    const one = await inWorker(page, { backends: ["wasm 1"], runs: 0, steps: 10 }), two = await inWorker(page, { backends: ["wasm 2"], runs: 0, steps: 10 });
    if (one.verdicts === undefined || one.verdicts.some((each) => each.failed.length > 0)) failed.push({ law, message: `one thread: ${one.error ?? JSON.stringify(one.verdicts)}` });
    if (!/ConfigError|no threads/.test(two.error ?? "") || !/cross-origin isolated[^]*Cross-Origin-Opener-Policy/.test(two.error ?? "")) failed.push({ law, message: `two threads: ${two.error ?? "no error"}` });
    return { name: law, laws: 1, failed, seconds: (performance.now() - begun) / 1000 };
  } finally {
    await server.close();
  }
}

/** Deno's binary, which its npm package keeps in one package a platform. */
function denoBinary() {
  const system = `${{ linux: "linux", darwin: "darwin", win32: "win32" }[process.platform]}-${process.arch}${process.platform === "linux" ? "-glibc" : ""}`;
  const store = join(root, "node_modules", ".pnpm"), found = existsSync(store) ? readdirSync(store).find((name) => name.startsWith(`@deno+${system}@`)) : undefined;
  const binary = found === undefined ? undefined : join(store, found, "node_modules", "@deno", system, process.platform === "win32" ? "deno.exe" : "deno");
  return binary !== undefined && existsSync(binary) ? binary : undefined;
}

async function inDeno(wanted, out) {
  const binary = denoBinary();
  if (binary === undefined) return { skipped: `the npm package deno has no binary for ${process.platform}-${process.arch}` };
  const reason = missing();
  if (reason !== undefined) return { skipped: reason };
  await bundle("deno.ts", out);
  const env = { ...swiftshader(), DENO_NO_UPDATE_CHECK: "1", DENO_DIR: join(root, ".cache", "deno"), NO_COLOR: "1" };
  const asked = await run(binary, ["eval", "--unstable-webgpu", 'const a = await navigator.gpu.requestAdapter(); console.log("Deno " + Deno.version.deno + ", adapter " + (a === null ? "none" : a.info.description || a.info.device));'], { env, quiet: true });
  if (asked.code !== 0) return { skipped: `Deno does not start: ${asked.output.trim().split("\n")[0]}` };
  say(`      ${asked.output.trim()}`);
  if (asked.output.includes("adapter none")) throw new Error("Deno finds no WebGPU adapter");
  const { code, output } = await run(binary, ["run", "--unstable-webgpu", "--no-prompt", "--allow-env", "--allow-sys", join(out, "deno.js"), JSON.stringify(wanted)], { env, quiet: true });
  const lines = output.trim().split("\n");
  for (const line of code === 0 ? lines.slice(0, -1) : lines) say(`      deno: ${line}`);
  return code === 0 ? { verdicts: JSON.parse(lines.at(-1)) } : { error: `Deno ended with code ${code}` };
}

/** Drives one of the two; resolves as `group` of lib.mjs wants it, with `parts` for its table. */
export async function drive(where, wanted) {
  const out = join(root, ".cache", `drive-${where}-${process.pid}`);
  try {
    const { verdicts, error, skipped } = where === "deno" ? await inDeno(wanted, out) : await inChromium(wanted, out);
    if (skipped !== undefined) return { skipped };
    if (error !== undefined) return { code: 1, output: error };
    const failed = verdicts.flatMap((each) => each.failed.map(({ law, message }) => `${where}, ${each.name}: ${law}\n  ${message.split("\n").slice(0, 8).join("\n  ")}`));
    return { code: failed.length === 0 ? 0 : 1, output: failed.join("\n"), parts: verdicts.map(({ name, laws, seconds: time, failed: bad }) => ({ name: `${name}${laws > 1 ? ` (${laws} laws)` : ""}`, time, ok: bad.length === 0 })) };
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

if (process.argv[1] !== undefined && basename(process.argv[1]) === "drive.mjs") {
  const args = process.argv.slice(2), option = (name, usual) => { const at = args.indexOf(`--${name}`); return at < 0 ? usual : args[at + 1]; };
  const { groups } = await import("./lib.mjs");
  const all = groups(), where = args[0] ?? "chromium";
  await all.group(where, () => drive(where, { backends: option("backends", "wasm 1,webgpu").split(","), runs: Number(option("runs", "2")), steps: Number(option("steps", "10")) }));
  all.end();
}
