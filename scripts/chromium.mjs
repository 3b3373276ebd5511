/**
 * A headless Chromium from the npm registry (@sparticuz/chromium, driven by playwright-core) and a static server on
 * 127.0.0.1, for the tests that need a page. WebGPU runs on the browser's own SwiftShader. Where a system lacks nss and
 * nspr, those of the package are used.
 */
import { createServer } from "node:http";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { extname, join, normalize } from "node:path";
import { missing, unpack } from "./gpu.mjs";

const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".svg": "image/svg+xml", ".txt": "text/plain", ".wasm": "application/wasm" };
const args = ["--no-sandbox", "--enable-unsafe-webgpu", "--no-first-run", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

/**
 * Serves `folders` ({ "/": folder, "/part/": other }) and resolves with { address, close }. `isolated` sends the two headers
 * with which a page may share memory between its threads.
 */
export async function serve(folders, { isolated = true } = {}) {
  const roots = Object.entries(folders).sort(([a], [b]) => b.length - a.length);
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url, "http://127.0.0.1").pathname), [at, folder] = roots.find(([prefix]) => path.startsWith(prefix)) ?? [];
    const file = folder === undefined ? undefined : join(folder, normalize(`/${path.slice(at.length)}`));
    const found = file === undefined ? undefined : existsSync(file) && statSync(file).isDirectory() ? join(file, "index.html") : file;
    if (found === undefined || !existsSync(found)) {
      response.writeHead(404).end(path.endsWith("favicon.ico") ? "" : `no ${path}`);
      return;
    }
    response.setHeader("content-type", types[extname(found)] ?? "application/octet-stream");
    if (isolated) {
      response.setHeader("cross-origin-opener-policy", "same-origin");
      response.setHeader("cross-origin-embedder-policy", "require-corp");
    }
    response.end(readFileSync(found));
  });
  await new Promise((done, fail) => server.on("error", fail).listen(0, "127.0.0.1", done));
  return { address: `http://127.0.0.1:${server.address().port}/`, close: () => new Promise((done) => { server.closeAllConnections(); server.close(done); }) };
}

/** Starts the browser. Resolves with { browser } or { reason } where it cannot run. */
export async function launch() {
  const reason = missing();
  if (reason !== undefined) return { reason: reason.replace("software GPU", "headless Chromium") };
  const { chromium } = await import("playwright-core");
  const folder = unpack("chromium", ["chromium.br", "swiftshader.tar.br", "fonts.tar.br"]);
  const fonts = join(folder, "own-fonts.conf");
  writeFileSync(fonts, `<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig><include ignore_missing="yes">/etc/fonts/fonts.conf</include><dir>${join(folder, "fonts")}</dir></fontconfig>\n`);
  const start = (env) => chromium.launch({ executablePath: join(folder, "chromium"), args: [...args, "--lang=en-US"], env: { ...process.env, LANG: "en_US.UTF-8", LC_ALL: "en_US.UTF-8", FONTCONFIG_FILE: fonts, ...env } });
  try {
    return { browser: await start({}) };
  } catch (error) {
    if (!/error while loading shared libraries/.test(error.message)) return { reason: `Chromium does not start: ${lines(error)}` };
  }
  try {
    return { browser: await start({ LD_LIBRARY_PATH: join(unpack("al2023"), "lib") }) };
  } catch (error) {
    return { reason: `Chromium does not start: ${lines(error)}` };
  }
}
const lines = (error) => error.message.split("\n").filter((each) => /error|cannot|missing/i.test(each)).slice(0, 3).join("; ") || error.message.split("\n")[0];
