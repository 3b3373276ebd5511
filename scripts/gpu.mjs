/**
 * A software GPU from the npm registry, for tests: SwiftShader out of the dev dependency @sparticuz/chromium, with its own
 * Vulkan loader, unpacked once into .cache/swiftshader. The loader looks where it is told when a process starts, so the
 * environment is for child processes: those that use WebGPU, and no browser, which brings its own.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliDecompressSync } from "node:zlib";
import { node, readJson, root } from "./lib.mjs";

const browser = join(root, "node_modules", "@sparticuz", "chromium");

/** Why there is no software GPU here, or undefined. */
export function missing() {
  if (process.platform !== "linux" || process.arch !== "x64") return `no software GPU for ${process.platform}-${process.arch} in the npm registry`;
  return existsSync(browser) ? undefined : "the dev dependency @sparticuz/chromium is not installed";
}

/** Files of a tar archive (ustar, and GNU's long names): { name, mode, type, link, data }. */
export function* untar(bytes) {
  const text = (at, length) => bytes.subarray(at, at + length).toString("latin1").replace(/\0.*$/s, "");
  let long;
  for (let at = 0; at + 512 <= bytes.length && bytes[at] !== 0;) {
    const size = parseInt(text(at + 124, 12).trim() || "0", 8), type = text(at + 156, 1) || "0";
    const data = bytes.subarray(at + 512, at + 512 + size), prefix = text(at + 257, 5) === "ustar" ? text(at + 345, 155) : "";
    if (type === "L") long = data.toString("utf8").replace(/\0.*$/s, "");
    else {
      yield { name: long ?? (prefix === "" ? text(at, 100) : `${prefix}/${text(at, 100)}`), mode: parseInt(text(at + 100, 8), 8) & 0o777, type, link: text(at + 157, 100), data };
      long = undefined;
    }
    at += 512 + Math.ceil(size / 512) * 512;
  }
}

/** Unpacks archives of the browser package's `bin` into the folder .cache/<name>-<version>, once, and returns it. */
export function unpack(name, archives = [`${name}.tar.br`]) {
  const place = join(root, ".cache", `${name}-${readJson(join(browser, "package.json")).version}`);
  if (existsSync(place)) return place;
  const draft = `${place}.${process.pid}.tmp`;
  mkdirSync(draft, { recursive: true });
  for (const archive of archives) {
    const bytes = brotliDecompressSync(readFileSync(join(browser, "bin", archive)));
    if (!archive.endsWith(".tar.br")) writeFileSync(join(draft, archive.slice(0, -3)), bytes, { mode: 0o755 });
    else for (const { name: file, mode, type, link, data } of untar(bytes)) {
      const to = resolve(draft, file);
      if (to !== draft && !to.startsWith(`${draft}/`)) throw new Error(`${archive} holds "${file}", which leaves its folder`);
      mkdirSync(type === "5" ? to : dirname(to), { recursive: true });
      if (type === "2") symlinkSync(link, to);
      else if (type === "0") writeFileSync(to, data, { mode });
    }
  }
  try {
    renameSync(draft, place);
  } catch (error) {
    if (!existsSync(place)) throw error; // another process made it first
    rmSync(draft, { recursive: true, force: true });
  }
  return place;
}

/** The environment in which `webgpu` (Dawn) and Deno find SwiftShader; empty where there is none. */
export function swiftshader() {
  if (missing() !== undefined) return {};
  const folder = unpack("swiftshader");
  const icd = readdirSync(folder).find((name) => name.endsWith("_icd.json"));
  return environment(folder, join(folder, icd));
}

/** Mesa's software GPU, where the system has it and the loader came with SwiftShader; undefined elsewhere. It offers f16. */
export function lavapipe() {
  if (missing() !== undefined) return undefined;
  const folder = "/usr/share/vulkan/icd.d";
  const icd = existsSync(folder) ? readdirSync(folder).find((name) => /^lvp_icd.*\.json$/.test(name)) : undefined;
  return icd === undefined ? undefined : environment(unpack("swiftshader"), join(folder, icd));
}

/** Adapters that `webgpu` (Dawn) finds in an environment, one line each: "google swiftshader (SwiftShader driver ...), software". */
export async function adapters(env) {
  const { code, output } = await node(["--input-type=module", "-e", probe], { quiet: true, env });
  const found = output.split("\n").filter((line) => line.startsWith("adapter: ")).map((line) => line.slice(9));
  return { found, reason: found.length > 0 ? "" : code === 0 ? "Dawn finds no adapter" : output.trim().split("\n").slice(-3).join("; ") };
}
const probe = `
import { create } from "webgpu";
const adapter = await create([]).requestAdapter();
if (adapter !== null) {
  const { vendor, architecture, description, isFallbackAdapter } = adapter.info;
  console.log("adapter: " + vendor + " " + architecture + " (" + description + ")" + (adapter.features.has("shader-f16") ? ", f16" : "") + (isFallbackAdapter ? ", software" : ""));
}`;

const environment = (libraries, icd) => ({
  LD_LIBRARY_PATH: [libraries, process.env.LD_LIBRARY_PATH].filter((each) => each !== undefined && each !== "").join(":"),
  VK_DRIVER_FILES: icd,
});

// `node scripts/gpu.mjs [--lavapipe]` prints lines for a shell's `export`; `node scripts/gpu.mjs -- program ...` runs one in it
if (process.argv[1] !== undefined && basename(process.argv[1]) === "gpu.mjs" && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const args = process.argv.slice(2), wanted = args.includes("--lavapipe") ? lavapipe() : swiftshader(), at = args.indexOf("--");
  if (at >= 0) {
    const { run } = await import("./lib.mjs");
    process.exitCode = (await run(args[at + 1], args.slice(at + 2), { cwd: process.cwd(), inherit: true, env: wanted ?? {} })).code;
  } else for (const [key, value] of Object.entries(wanted ?? {})) console.log(`export ${key}=${JSON.stringify(value)}`);
}
