/**
 * `npm run page` builds examples/browser with Vite and serves it on 127.0.0.1.
 * `npm run page -- --test [--device auto,webgpu] [--steps 12] [--screenshots FOLDER]` drives it in a headless Chromium as a visitor
 * would: drop a text, fine-tune, watch, download the adapter; stop a run; a text that is too short; and the same page without
 * cross-origin isolation.
 */
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { launch, serve } from "./chromium.mjs";
import { groups, root } from "./lib.mjs";
import { setup } from "./setup.mjs";

const project = join(root, "examples", "browser");

/** The built page's folder. */
export async function buildPage(out) {
  const { build } = await import("vite");
  await build({ root: project, configFile: join(project, "vite.config.ts"), logLevel: "error", build: { outDir: out, emptyOutDir: true } });
}

const text = () => readFileSync(join(project, "public", "moby-dick.txt"), "utf8").slice(0, 9000);
const check = (fact, what) => { if (!fact) throw new Error(`page: ${what}`); };

/** Opens the page; errors of its console end the test. */
async function visit(browser, address) {
  const page = await browser.newPage({ viewport: { width: 1100, height: 1500 }, deviceScaleFactor: 1, locale: "en-US" }), problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => { if (message.type() === "error") problems.push(message.text()); });
  await page.goto(address);
  return { page, problems };
}

/** Starts a run as a visitor does. */
async function begin(page, { content, steps, device }) {
  await page.setInputFiles("#file", { name: "my text.txt", mimeType: "text/plain", buffer: Buffer.from(content) });
  await page.fill("#steps", String(steps));
  await page.selectOption("#device", device);
  await page.click("#start");
}
const ended = (page, limit) => page.waitForFunction(() => /^(Done|Stopped)/.test(document.querySelector("#status").textContent) || !document.querySelector("#error").hidden, undefined, { timeout: limit });
const words = (page, selector) => page.textContent(selector);

/** A whole run: what is shown, and the files that are handed over. */
async function wholeRun(browser, address, { steps, device, shots }) {
  const { page, problems } = await visit(browser, address);
  if (shots !== undefined) await page.screenshot({ path: join(shots, "page-empty.png") });
  await begin(page, { content: text(), steps, device });
  await ended(page, 900_000);
  check(await page.isHidden("#error"), `the run failed: ${await words(page, "#error")}`);
  const status = await words(page, "#status"), [before, after] = (await words(page, "#bits")).split(" → ").map(Number);
  check(status.startsWith("Done"), `the status says "${status}"`);
  check(after < before, `bits per byte went from ${before} to ${after}`);
  for (const id of ["#before", "#after"]) check((await words(page, id)).length > 40, `${id} holds no sample`);
  check(await page.evaluate(() => { const c = document.querySelector("#curve canvas"); return c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((v) => v > 0); }), "the curve is blank");
  const files = new Map();
  for (const link of await page.locator("#files a").all()) {
    const [download] = await Promise.all([page.waitForEvent("download"), link.click()]);
    files.set(download.suggestedFilename(), readFileSync(await download.path()));
  }
  const config = JSON.parse(files.get("adapter_config.json").toString("utf8")), weights = files.get("adapter_model.safetensors");
  check(config.peft_type === "LORA" && config.r === 16 && config.use_rslora === true, "adapter_config.json is not that of the run");
  const header = JSON.parse(weights.subarray(8, 8 + Number(weights.readBigUInt64LE(0))).toString("utf8"));
  const trained = Object.entries(header).filter(([key]) => key.endsWith("lora_B.weight")), start = 8 + Number(weights.readBigUInt64LE(0));
  check(trained.length === 42, `adapter_model.safetensors holds ${trained.length} of 42 factors B`);
  check(trained.every(([, { data_offsets: [from, to] }]) => weights.subarray(start + from, start + to).some((byte) => byte !== 0)), "a factor B is still zero");
  check(problems.length === 0, `the console says: ${problems.join("; ")}`);
  if (shots !== undefined) {
    await page.screenshot({ path: join(shots, "page-done.png"), fullPage: true });
    await page.emulateMedia({ colorScheme: "dark" });
    await page.waitForTimeout(100);
    await page.screenshot({ path: join(shots, "page-done-dark.png"), fullPage: true });
    await page.setViewportSize({ width: 390, height: 844 });
    await page.waitForTimeout(200);
    await page.screenshot({ path: join(shots, "page-done-narrow.png"), fullPage: true });
  }
  await page.close();
  return { status, name: `${status.split(" · ").at(-1)}: ${steps} steps, ${before} to ${after} bits per byte` };
}

/** A run that is stopped keeps what it learned so far. */
async function stopped(browser, address) {
  const { page } = await visit(browser, address);
  await begin(page, { content: text(), steps: 2000, device: "cpu" });
  await page.waitForFunction(() => /^Step [2-9]/.test(document.querySelector("#status").textContent), undefined, { timeout: 60_000 });
  await page.click("#stop");
  await ended(page, 20_000);
  check((await words(page, "#status")).startsWith("Stopped"), `after Stop the status says "${await words(page, "#status")}"`);
  check(await page.locator("#files a").count() === 2, "a stopped run hands over no adapter");
  check(await page.isEnabled("#start"), "no new run can be started after Stop");
  await page.close();
  return { name: "a stopped run hands over its adapter" };
}

/** A text that is too short is an error that says what to do, and the page goes on. */
async function tooShort(browser, address) {
  const { page } = await visit(browser, address);
  await begin(page, { content: "Too short.", steps: 2, device: "cpu" });
  await ended(page, 30_000);
  check(await page.isVisible("#error") && (await words(page, "#error")).length > 20, "a text that is too short is no error");
  check(await page.isEnabled("#start"), "no new run can be started after an error");
  const said = (await words(page, "#error")).split("\n")[0];
  await page.close();
  return { name: `a short text: "${said}"` };
}

/** Drives the page; resolves as `group` of lib.mjs wants it. */
export async function drivePage({ devices = ["auto"], steps = 12, shots } = {}) {
  const { browser, reason } = await launch();
  if (browser === undefined) return { skipped: reason };
  const out = join(root, ".cache", `page-${process.pid}`), parts = [];
  if (shots !== undefined) mkdirSync(shots, { recursive: true });
  const part = async (work) => {
    const begun = performance.now(), { name, ...rest } = await work();
    parts.push({ name, time: (performance.now() - begun) / 1000, ok: true });
    return rest;
  };
  let isolated, plain;
  try {
    await buildPage(out);
    isolated = await serve({ "/": out });
    plain = await serve({ "/": out }, { isolated: false });
    for (const [i, device] of devices.entries()) {
      const { status } = await part(() => wholeRun(browser, isolated.address, { steps: device === "webgpu" ? Math.min(steps, 4) : steps, device, shots: i === 0 ? shots : undefined }));
      // the only adapter here is a program on the CPU, which "automatic" never takes
      if (device === "auto") check(/WebAssembly, \d threads/.test(status), `"automatic" ran on ${status}`);
      if (device === "webgpu") check(/WebGPU/.test(status), `"WebGPU" ran on ${status}`);
    }
    await part(() => stopped(browser, isolated.address));
    await part(() => tooShort(browser, isolated.address));
    const { status } = await part(() => wholeRun(browser, plain.address, { steps: 6, device: "auto" }));
    check(/one thread/.test(status), `without isolation it ran on ${status}`);
    return { code: 0, parts };
  } catch (error) {
    return { code: 1, output: error.message, parts };
  } finally {
    await browser.close();
    await isolated?.close();
    await plain?.close();
    rmSync(out, { recursive: true, force: true });
  }
}

if (process.argv[1] !== undefined && basename(process.argv[1]) === "page.mjs") {
  const args = process.argv.slice(2), option = (name, usual) => { const at = args.indexOf(`--${name}`); return at < 0 ? usual : args[at + 1]; };
  await setup("test");
  if (args.includes("--test")) {
    const all = groups();
    await all.group("page", () => drivePage({ devices: option("device", "auto").split(","), steps: Number(option("steps", "12")), shots: option("screenshots") }));
    all.end();
  } else {
    const out = join(root, ".cache", "page");
    await buildPage(out);
    const { address } = await serve({ "/": out });
    console.log(`the page is at ${address} until you press Ctrl-C`);
  }
}
