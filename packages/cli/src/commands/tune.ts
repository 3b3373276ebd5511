/** `adjoint tune`: measures which matmul kernels are fastest on this GPU and keeps the answer for later runs. */
import { defaultRecipe } from "@adjoint/train";
import { ConfigError } from "@adjoint/tensor";
import type { TuneProgress, WebGpuOptions } from "@adjoint/webgpu";
import type { Arguments } from "../arguments.ts";
import type { Answer, Command } from "../command.ts";
import { adapterOption, findGpu } from "../devices.ts";
import { checkOutput } from "../output.ts";
import { bar } from "../progress.ts";
import { duration, padStart, paint, type Terminal } from "../terminal.ts";
import { tilesFile, writeTiles } from "../tiles-file.ts";

const shapeText = ({ m, n, k, batch = 1, codes }: TuneProgress["shape"]): string => `${batch > 1 ? `${batch} x ` : ""}${m} x ${n} x ${k}${codes === undefined ? "" : `, codes of ${codes} bits`}`;
const choiceText = ({ variant: v, splits }: TuneProgress["choice"]): string =>
  `${v.kind === "vec" ? `vec ${v.lanes}/${v.threads}${v.step === undefined ? "" : ` by ${v.step}`}` : v.kind === "tile" ? `tile ${v.BM}x${v.BN}x${v.BK}` : `matrix ${v.SM * v.WM}x${v.SN * v.WN}x${v.BK}`}${splits > 1 ? `, k in ${splits}` : ""}`;

/** What is being measured, on one line. */
class Line {
  readonly #terminal: Terminal;
  readonly #seconds: number;
  readonly #begun = performance.now();
  #last = 0;
  #best = { shape: "", gflops: 0, choice: "" };
  constructor(terminal: Terminal, seconds: number) { this.#terminal = terminal; this.#seconds = seconds; }
  show(p: TuneProgress): void {
    const shape = shapeText(p.shape), { dim } = paint(this.#terminal);
    if (shape !== this.#best.shape) { this.#finish(); this.#best = { shape, gflops: 0, choice: "" }; }
    if (p.gflops > this.#best.gflops) this.#best = { shape, gflops: p.gflops, choice: choiceText(p.choice) };
    const now = performance.now();
    if (!this.#terminal.live || now - this.#last < 80) return;
    this.#last = now;
    const spent = (now - this.#begun) / 1000;
    this.#terminal.err(`\r\u001b[K${bar(Math.min(1, spent / this.#seconds), 24, dim, this.#terminal.color)}  ${shape}  ${p.done}/${p.of}  ${Math.round(this.#best.gflops)} GFLOP/s  ${dim(`${duration(this.#seconds - spent)} at most`)}`);
  }
  #finish(): void {
    if (this.#best.shape === "") return;
    this.#terminal.err(`${this.#terminal.live ? "\r\u001b[K" : ""}${padStart(this.#best.shape, 22)}  ${padStart(this.#best.gflops < 10 ? this.#best.gflops.toFixed(2) : String(Math.round(this.#best.gflops)), 7)} GFLOP/s  ${this.#best.choice || "no candidate was right"}\n`);
  }
  end(): void { this.#finish(); this.#best = { shape: "", gflops: 0, choice: "" }; }
}

async function run(args: Arguments, terminal: Terminal): Promise<Answer> {
  const { nameOf, adapters, tune } = await import("@adjoint/webgpu"), part = args.text("adapter"), seconds = args.number("seconds") ?? 180;
  if (!(seconds > 0)) throw new ConfigError("tune: --seconds must be positive", { key: "seconds", value: seconds, fix: "--seconds 180" });
  const chosenFile = args.text("output");
  if (chosenFile !== null) await checkOutput("tune", chosenFile, { overwrite: args.recipe.overwrite_output_dir === true, key: "output" });
  let options: WebGpuOptions;
  if (part === null) {
    const found = await findGpu();
    if ("none" in found) throw new ConfigError(`tune: there is no GPU: ${found.none}`, { key: "adapter", fix: "adjoint doctor says what is missing; --adapter PART measures an adapter that is a program" });
    options = { adapter: found.index };
  } else options = { adapter: adapterOption(part), allowSoftware: true };
  const all = await adapters(options), want = options.adapter, chosen = typeof want === "number" ? all[want] : all.find((a) => nameOf(a).toLowerCase().includes(String(want).toLowerCase()));
  if (chosen === undefined) throw new ConfigError(`tune: no adapter ${JSON.stringify(part)}`, { key: "adapter", value: part, fix: `one of: ${all.map(nameOf).join("; ")}` });
  const name = nameOf(chosen), stop = new AbortController(), undo = terminal.onInterrupt(() => { stop.abort(new ConfigError("tune: stopped; nothing was written")); }), quiet = args.flag("quiet"), line = new Line(terminal, seconds);
  if (!quiet) terminal.err(`${name}\n`);
  try {
    const table = await tune({ ...options, matmul: args.flag("f16") ? "f16" : "f32" }, { seconds, signal: stop.signal, onProgress: (p) => { if (!quiet) line.show(p); } });
    if (!quiet) line.end();
    const file = chosenFile ?? tilesFile(name), classes = Object.keys(table.entries).length;
    await writeTiles(file, table);
    return { text: `${file}: ${classes} classes of products for ${name}; runs with --device webgpu use it\n`, json: { file, ...table } };
  } finally { undo(); }
}

export const tuneCommand: Command = {
  grammar: {
    name: "tune", positionals: [], keys: ["overwrite_output_dir"], summary: "Measures which matmul kernels are fastest on this GPU and keeps the answer for later runs.",
    text: "Without it, kernels are chosen by a model of the device. A kernel whose result is wrong is never chosen.",
    flags: {
      adapter: { kind: "text", value: "PART", help: "the adapter: a number or a part of its name as adjoint doctor prints them; by default the first GPU" },
      seconds: { kind: "number", value: "N", help: "begin no new measurement after so many seconds (180)" },
      f16: { kind: "flag", help: "measure for matmul in f16 (webgpu({ matmul: \"f16\" }))" },
      output: { kind: "text", value: "FILE", help: "where the table goes; by default where later runs look for it" },
    },
    examples: ["adjoint tune", "adjoint tune --seconds 60 --json"],
  },
  defaults: defaultRecipe,
  run,
};
