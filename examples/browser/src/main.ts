/** The page: takes a text, starts the worker, and shows what it reports. */
import { curve } from "./curve.ts";
import type { DeviceChoice, Report, Request } from "./protocol.ts";

function element<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${kind.name} "${id}"`);
  return found;
}
const at = (id: string): HTMLElement => element(id, HTMLElement);
const [form, file, drop] = [element("form", HTMLFormElement), element("file", HTMLInputElement), at("drop")];
const [start, stop, progress] = [element("start", HTMLButtonElement), element("stop", HTMLButtonElement), element("progress", HTMLProgressElement)];
const plot = curve(at("curve"));
const number = (n: number): string => n.toLocaleString("en");

let text: { readonly name: string; readonly text: string } | null = null;
let worker: Worker | null = null;
let bits: { before?: number; after?: number } = {};

// ---- the text

function choose(name: string, content: string): void {
  at("error").hidden = true;
  text = { name, text: content.replace(/^\uFEFF/, "") };
  at("chosen").textContent = name;
  at("about").textContent = `${number(new Blob([content]).size)} bytes, about ${number(content.split(/\s+/).length)} words`;
  drop.classList.add("full");
  start.disabled = worker !== null;
}
async function read(chosen: File | undefined): Promise<void> {
  if (chosen === undefined) return;
  try {
    choose(chosen.name, new TextDecoder("utf-8", { fatal: true }).decode(await chosen.arrayBuffer()));
  } catch {
    at("error").textContent = `${chosen.name} is not a text in UTF-8. Save it as plain text in UTF-8 and choose it again.`;
    at("error").hidden = false;
  }
}
file.addEventListener("change", () => { void read(file.files?.[0]); });
for (const kind of ["dragenter", "dragover"] as const) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const kind of ["dragleave", "drop"] as const) drop.addEventListener(kind, () => { drop.classList.remove("over"); });
drop.addEventListener("drop", (event) => { event.preventDefault(); void read(event.dataTransfer?.files[0]); });
drop.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); file.click(); } });
at("example").addEventListener("click", () => {
  void fetch("moby-dick.txt").then((response) => response.text()).then((content) => { choose("moby-dick.txt", content); });
});

// ---- the run

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (text === null || worker !== null) return;
  bits = {};
  for (const id of ["before", "after"]) at(id).textContent = "";
  for (const id of ["loss", "bits", "speed"]) at(id).textContent = "–";
  at("error").hidden = true;
  at("result").hidden = true;
  at("run").hidden = false;
  const steps = element("steps", HTMLInputElement).valueAsNumber;
  progress.value = 0;
  plot.clear(steps);
  worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "training" });
  worker.addEventListener("message", ({ data }: MessageEvent<Report>) => { show(data); });
  worker.addEventListener("error", (problem) => { show({ type: "error", message: problem.message || "The worker could not be started." }); });
  post({ type: "start", ...text, steps, prompt: element("prompt", HTMLInputElement).value, device: element("device", HTMLSelectElement).value as DeviceChoice });
  busy(true);
});
stop.addEventListener("click", () => {
  post({ type: "stop" });
  status("Stopping after this step");
});
const post = (request: Request): void => { worker?.postMessage(request); };

function busy(on: boolean): void {
  start.disabled = on || text === null;
  stop.hidden = !on;
  form.classList.toggle("busy", on);
  if (!on) {
    worker?.terminate();
    worker = null;
  }
}

let device = "";
const status = (what: string): void => { at("status").textContent = device === "" ? what : `${what} · ${device}`; };

function show(report: Report): void {
  switch (report.type) {
    case "doing": return status(report.what);
    case "ready":
      device = report.device;
      return status(`${number(report.tokens)} tokens, ${(100 * report.trainable / report.parameters).toFixed(0)} % of the weights train`);
    case "measured":
      bits = { ...bits, [report.when]: report.bitsPerByte };
      at("bits").textContent = [bits.before, bits.after].filter((n) => n !== undefined).map((n) => n.toFixed(2)).join(" → ");
      return;
    case "token":
      if (at(report.when).textContent === "") at(report.when).append(Object.assign(document.createElement("b"), { textContent: element("prompt", HTMLInputElement).value }));
      at(report.when).append(report.text);
      return;
    case "step": {
      const { step, loss, tokens_per_second: speed, tokens } = report.metrics, left = ((report.steps - step) * tokens) / speed;
      plot.add(step, loss);
      progress.value = step / report.steps;
      at("loss").textContent = loss.toFixed(2);
      at("speed").textContent = number(Math.round(speed));
      return status(`Step ${step} of ${report.steps}${step < report.steps ? `, ${left < 90 ? `${Math.ceil(left)} s` : `${Math.ceil(left / 60)} min`} left` : ""}`);
    }
    case "done":
      busy(false);
      status(report.stopped ? "Stopped" : "Done");
      offer(report.files);
      return;
    case "error":
      busy(false);
      status("");
      at("error").textContent = report.message;
      at("error").hidden = false;
      return;
  }
}

function offer(files: readonly { readonly name: string; readonly blob: Blob }[]): void {
  at("files").replaceChildren(...files.map(({ name, blob }) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name, textContent: name });
    link.append(Object.assign(document.createElement("small"), { textContent: ` ${number(Math.ceil(blob.size / 1024))} KiB` }));
    return link;
  }));
  at("result").hidden = files.length === 0;
}
