/**
 * `npm run benchmark -- predict`: what `adjoint memory` says of a training beside what the training takes, within 10 %.
 *
 * A Llama of random f16 numbers is written into a folder once. Each case is a process of its own: it opens the device, notes its resident memory, loads the
 * folder (quantizing on the way for qlora), trains three steps and tells: the bytes that the engine holds (stores, arena, workspace), the pages of its
 * memory, and the largest resident memory that the system saw, above what it noted. Judged is the engine's; the process's own is shown, for it holds
 * V8's heap and recorded graphs besides, some tens of MB that do not grow with the model. `--large`: 318 M parameters, LoRA and QLoRA only, and
 * QLoRA may hold at most half of LoRA's bytes.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { lora } from "@adjoint/lora";
import { type ConfigJson, initModel, loadModel, parameterShapes, parseConfig, saveModel } from "@adjoint/models";
import { setDevice } from "@adjoint/tensor";
import { adapterTrainee, fullTrainee, idsRows, mergeRecipe, type Method, predictMemory, Training, trainingOptions } from "@adjoint/train";
import { wasm } from "@adjoint/wasm";

const { values: flags } = parseArgs({ options: { smoke: { type: "boolean", default: false }, large: { type: "boolean", default: false }, threads: { type: "string", default: "2" }, folder: { type: "string" }, case: { type: "string" }, json: { type: "boolean", default: false } } });
const threads = Number(flags.threads), LIMIT = 0.1;
const json: ConfigJson = flags.smoke
  ? { model_type: "llama", vocab_size: 512, hidden_size: 128, intermediate_size: 352, num_hidden_layers: 3, num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 512 }
  : flags.large ? { model_type: "llama", vocab_size: 8192, hidden_size: 1536, intermediate_size: 4096, num_hidden_layers: 12, num_attention_heads: 24, num_key_value_heads: 4, max_position_embeddings: 1024 }
  : { model_type: "llama", vocab_size: 8192, hidden_size: 1024, intermediate_size: 2816, num_hidden_layers: 8, num_attention_heads: 16, num_key_value_heads: 4, max_position_embeddings: 1024 };
const [batch, seq, rank] = flags.smoke ? [2, 32, 4] : [1, 256, 16];

interface Case { readonly method: Method; readonly checkpointing: boolean }
const checkpointed: Readonly<Record<string, Case>> = { "LoRA, checkpoints": { method: "lora", checkpointing: true }, "QLoRA nf4, checkpoints": { method: "qlora", checkpointing: true } };
const cases: Readonly<Record<string, Case>> = flags.large ? checkpointed
  : { "full": { method: "full", checkpointing: false }, "LoRA": { method: "lora", checkpointing: false }, "QLoRA nf4": { method: "qlora", checkpointing: false }, ...checkpointed };
/** What QLoRA may hold of LoRA's bytes where weights dominate. */
const MOST = 0.5;
interface Found { readonly held: number; readonly pages: number; readonly resident: number; readonly base: number; readonly seconds: number; readonly loss: number }

async function child({ method, checkpointing }: Case, folder: string): Promise<Found> {
  const device = setDevice(await wasm({ threads })), base = process.memoryUsage.rss();
  const model = await loadModel(folder, { tokenizer: false, ...(method === "full" ? { dtype: "f32" } : {}), ...(method === "qlora" ? { quantize: { format: "nf4", doubleQuant: true } } : {}) });
  const trainee = method === "full" ? fullTrainee(model) : adapterTrainee(lora(model, { r: rank, loraAlpha: rank, targetModules: "all-linear", seed: 1 }));
  const rows = Array.from({ length: 3 * batch }, (_, r) => Array.from({ length: seq }, (_, i) => (31 * i + 7 * r) % Number(json["vocab_size"])));
  const training = new Training(trainee, trainingOptions(mergeRecipe({ max_steps: 3, per_device_train_batch_size: batch, gradient_checkpointing: checkpointing }), idsRows(rows, "rows")));
  const begun = performance.now();
  let loss = NaN;
  for (let i = 0; i < 3; i++) ({ loss } = await training.next());
  const { arenaBytes, bufferBytes, pages } = device.counters;
  return { held: arenaBytes + bufferBytes, pages: pages * 65536, resident: process.resourceUsage().maxRSS * 1024 - base, base, seconds: (performance.now() - begun) / 3000, loss };
}

if (flags.case !== undefined && flags.folder !== undefined) {
  process.stdout.write(`${JSON.stringify(await child(cases[flags.case], flags.folder))}\n`);
  process.exit(0);
}
const folder = mkdtempSync(join(tmpdir(), "adjoint-predict-")), device = setDevice(await wasm({ threads })), config = parseConfig(json), mb = (n: number): string => (n / 1e6).toFixed(1).padStart(8);
let failed = 0;
const all: (Found & Case & { readonly name: string; readonly predicted: number; readonly terms: unknown })[] = [];
try {
  await saveModel(initModel(json, 1, { dtype: "f16" }), join(folder, "model"));
  process.stdout.write(`${([...parameterShapes(config).values()].reduce((n, s) => n + s.reduce((a, b) => a * b, 1), 0) / 1e6).toFixed(1)} M parameters, ${batch} x ${seq} tokens, rank ${rank}, ${threads} threads; MB\n${"".padEnd(24)}predicted     held   ratio    pages   resident above the process's own\n`);
  for (const [name, c] of Object.entries(cases)) {
    const predicted = predictMemory(config, { method: c.method, rank, batch, seq, checkpointing: c.checkpointing, dtype: c.method === "full" ? "f32" : "f16" }, device);
    const { status, stdout, stderr } = spawnSync(process.execPath, [...process.execArgv, fileURLToPath(import.meta.url), "--folder", join(folder, "model"), "--case", name, "--threads", flags.threads, ...(flags.smoke ? ["--smoke"] : []), ...(flags.large ? ["--large"] : [])], { encoding: "utf8" });
    if (status !== 0) throw new Error(`${name}: ${stderr}`);
    const found = JSON.parse(stdout) as Found, ratio = predicted.total / found.held, ok = flags.smoke || Math.abs(ratio - 1) <= LIMIT;
    if (!ok) failed++;
    all.push({ name, ...c, predicted: predicted.total, terms: predicted.terms, ...found });
    if (!flags.json) process.stdout.write(`${name.padEnd(24)}${mb(predicted.total)} ${mb(found.held)}   ${ratio.toFixed(3)} ${mb(found.pages)}   ${mb(found.resident)} + ${(found.base / 1e6).toFixed(0)}   ${found.seconds.toFixed(2)} s a step${ok ? "" : "   more than 10 % off"}\n`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
if (flags.json) process.stdout.write(`${JSON.stringify({ config: json, batch, seq, rank, threads, node: process.version, cases: all }, null, 2)}\n`);
else process.stdout.write(failed === 0 ? `${flags.smoke ? "a smoke run, not judged: " : ""}predict: within ${100 * LIMIT} % in ${Object.keys(cases).length} of ${Object.keys(cases).length} cases\n` : `predict: ${failed} of ${Object.keys(cases).length} cases are more than ${100 * LIMIT} % off\n`);
const share = (what: "held" | "resident"): number => (all.find((c) => c.name.startsWith("QLoRA") && c.name.endsWith("checkpoints"))?.[what] ?? NaN) / (all.find((c) => c.name === "LoRA, checkpoints")?.[what] ?? NaN);
if (!flags.json) process.stdout.write(`QLoRA holds ${share("held").toFixed(3)} of LoRA's bytes, checkpoints on both (resident: ${share("resident").toFixed(3)})${flags.large ? `, at most ${MOST} wanted` : ""}\n`);
process.exitCode = failed === 0 && !(flags.large && share("held") > MOST) ? 0 : 1;
await device.close?.();
