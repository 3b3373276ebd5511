/**
 * Findings about quantized bases (E7, E7c), with verdict rules written before the run.
 *
 * E7c. Relative RMS error √(Σ (x - dq(q(x)))² / Σ x²) of nf4, fp4, int4 and int8 in blocks of 32, 64, 128 and 256 on 2^20 numbers: N(0, 1), Student's t
 * with 5 degrees of freedom, uniform on [-1, 1], and the trained weights of the bundled model's linear layers; nf4 with double quantization too. And bits
 * per byte of the bundled model with such weights on 12 KiB of its own domain's test addresses.
 *   a "nf4 < int4 < fp4 on normal numbers":          holds if so for N(0, 1) and t(5) in every block size; else does not hold
 *   b "uniform numbers turn it around":              holds if int4 < nf4 < fp4 on them in every block size; else does not hold
 *   c "double quantization costs nothing":           holds if it raises nf4's error by less than 0.1 % in every block size on N(0, 1); else does not hold
 *   d "nf4 is the best of four bits on a model":     holds if its bits per byte are the lowest of the three in every block size; mixed if in some; else opposite
 *
 * E7. The bundled model learns Moby-Dick through rsLoRA r = 16 on all linear layers, with its f16 weights (LoRA) and with nf4 in blocks of 64, double
 * quantization (QLoRA): 120 steps of 8 rows of 128 tokens, 2e-3 cosine with 10 steps of warm-up, seeds 1 to 3. Loss: mean over 16 KiB of development chapters at the end.
 *   e "QLoRA learns as well":                        holds if mean loss(QLoRA) / mean loss(LoRA) - 1 <= 0.02; else does not hold
 * Memory and time on a Llama of random numbers whose weights dominate (107 M parameters: width 1024, 8 layers; 1 row of 256 tokens, checkpoints): bytes that the
 * engine holds, and seconds a step, LoRA and QLoRA in turns within each of nine rounds after two that warm up; the share is the median over rounds of the quotient.
 *   f "QLoRA takes at most half of LoRA's memory":   holds if bytes(QLoRA) / bytes(LoRA) <= 0.5; "saves" if < 0.67 (what seed 002 reports); else does not hold
 *   g "and at most 1.25 times the time":             holds if the share is <= 1.25; "less than 1.39" (seed 002's) if below that; else does not hold
 * Predicted bytes (`adjoint memory`) stand beside; Llama-2-7b's prediction at 1 x 512 tokens shows the same at full size.
 *
 * `--quick` goes through all of it at a tiny size: does it run? `--json FILE` keeps the numbers, `--picture FILE` draws E7c.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { buildModel, type CausalLM, type ConfigJson, initModel, knownConfig, loadModel, parseConfig, type QuantizeWeights } from "@adjoint/models";
import { lora } from "@adjoint/lora";
import { adamw, cosine } from "@adjoint/optim";
import { dequantize, type FormatName, quantize, quantizedOf, quantizedWeight } from "@adjoint/quant";
import { clearPlans, hostNormal, hostUniform, setDevice, type Tensor } from "@adjoint/tensor";
import * as tiny from "@adjoint/tiny";
import { adapterTrainee, evaluate, firstBytes, idsRows, measured, predictMemory, textData, Training } from "@adjoint/train";
import { wasm } from "@adjoint/wasm";
import type { Lines } from "../pictures/lines.mjs";

const flag = (name: string): string | undefined => { const i = process.argv.indexOf(name); return i < 0 ? undefined : process.argv[i + 1]; };
const quick = process.argv.includes("--quick"), threads = Number(flag("--threads") ?? 2), device = setDevice(await wasm({ threads }));
const COUNT = quick ? 2 ** 14 : 2 ** 20, BLOCKS = quick ? [64, 256] : [32, 64, 128, 256], SEEDS = quick ? [1] : [1, 2, 3], STEPS = quick ? 3 : 120, ROUNDS = quick ? 2 : 9;
const say = (text: string): void => { process.stderr.write(`${text}\n`); };
const mean = (xs: readonly number[]): number => xs.reduce((a, b) => a + b, 0) / xs.length;
const median = (xs: readonly number[]): number => { const s = [...xs].sort((a, b) => a - b), h = s.length >> 1; return s.length % 2 ? s[h] : (s[h - 1] + s[h]) / 2; };
type Verdicts = Record<string, string>;
const verdicts: Verdicts = {};

// ---- E7c: errors ----------------------------------------------------------------------------------------------------

const formats = ["nf4", "fp4", "int4", "int8"] as const;
const floats = (name: string, seed: number): Float32Array => Float32Array.from(hostNormal(seed, name, [COUNT]).data, Number);
function student(): Float32Array {
  const z = floats("t", 11), parts = [12, 13, 14, 15, 16].map((seed) => floats("chi", seed));
  return z.map((x, i) => x / Math.sqrt(mean(parts.map((p) => p[i] * p[i]))));
}
const model = await loadModel(tiny.model, { dtype: "f32" });
const linears = Object.entries(model.weights()).filter(([name, w]) => w.shape.length === 2 && name !== "model.embed_tokens.weight");
const trained = Float32Array.from((await Promise.all(linears.map(async ([, w]) => Array.from(await w.data(), Number)))).flat());
const samples: Readonly<Record<string, Float32Array>> = { "N(0, 1)": floats("n", 1), "t(5)": student(), "uniform": Float32Array.from(hostUniform(2, "u", [COUNT], { low: -1, high: 1 }).data, Number), "trained": trained };

function error(x: Float32Array, format: FormatName, block: number, doubleQuant = false): number {
  const y = dequantize(quantize(x, [x.length], { format, block, doubleQuant }));
  let lost = 0, all = 0;
  for (let i = 0; i < x.length; i++) { lost += (x[i] - y[i]) ** 2; all += x[i] * x[i]; }
  return Math.sqrt(lost / all);
}
interface ErrorRow { readonly sample: string; readonly format: string; readonly block: number; readonly error: number }
const errors: ErrorRow[] = [];
for (const [sample, x] of Object.entries(samples)) for (const block of BLOCKS) {
  for (const format of formats) errors.push({ sample, format, block, error: error(x, format, block) });
  errors.push({ sample, format: "nf4, double", block, error: error(x, "nf4", block, true) });
}
const at = (sample: string, format: string, block: number): number => errors.find((e) => e.sample === sample && e.format === format && e.block === block)?.error ?? NaN;
const every = (f: (block: number) => boolean): boolean => BLOCKS.every(f), held = (ok: boolean): string => (ok ? "holds" : "does not hold");
verdicts["a"] = held(every((b) => ["N(0, 1)", "t(5)"].every((s) => at(s, "nf4", b) < at(s, "int4", b) && at(s, "int4", b) < at(s, "fp4", b))));
verdicts["b"] = held(every((b) => at("uniform", "int4", b) < at("uniform", "nf4", b) && at("uniform", "nf4", b) < at("uniform", "fp4", b)));
verdicts["c"] = held(every((b) => at("N(0, 1)", "nf4, double", b) / at("N(0, 1)", "nf4", b) - 1 < 0.001));

// ---- E7c: a model's bits per byte --------------------------------------------------------------------------------------

const tokenizer = model.tokenizer;
if (!tokenizer) throw new Error("the bundled model has no tokenizer");
const own = measured([{ text: firstBytes(tiny.addresses().test.map((t) => t.text).join("\n"), (quick ? 1 : 12) * 1024) }], tokenizer, { maxLength: 256 });
const bits = async (m: CausalLM): Promise<number> => { const { bitsPerByte } = await evaluate(m, own); clearPlans(); return bitsPerByte ?? NaN; };
interface BitsRow { readonly format: string; readonly block: number | null; readonly bitsPerByte: number }
const perplexity: BitsRow[] = [{ format: "f32", block: null, bitsPerByte: await bits(model) }];
for (const format of formats) for (const block of BLOCKS) {
  const quantized = await loadModel(tiny.model, { dtype: "f32", quantize: { format, block } });
  perplexity.push({ format, block, bitsPerByte: await bits(quantized) });
  say(`${format} in blocks of ${block}: ${perplexity[perplexity.length - 1].bitsPerByte.toFixed(4)} bits per byte (f32 ${perplexity[0].bitsPerByte.toFixed(4)})`);
}
const bitsAt = (format: string, block: number): number => perplexity.find((p) => p.format === format && p.block === block)?.bitsPerByte ?? NaN;
const best = BLOCKS.filter((b) => bitsAt("nf4", b) < Math.min(bitsAt("fp4", b), bitsAt("int4", b))).length;
verdicts["d"] = best === BLOCKS.length ? "holds" : best > 0 ? `mixed: in ${best} of ${BLOCKS.length} block sizes` : "opposite";

// ---- E7: loss at equal steps --------------------------------------------------------------------------------------------

const texts = (list: readonly tiny.Text[]): { name: string; text: string }[] => list.map(({ name, text }) => ({ name, text }));
const { train } = tiny.mobyDick(), isDevelopment = (_: unknown, i: number): boolean => i % 10 === 4;
const data = await textData(texts(train.filter((t, i) => !isDevelopment(t, i)).slice(0, quick ? 2 : undefined)), tokenizer, { maxLength: quick ? 32 : 128 });
const development = measured([{ text: firstBytes(train.filter(isDevelopment).map((t) => t.text).join("\n"), (quick ? 1 : 16) * 1024) }], tokenizer, { maxLength: 128 });
const bases: Readonly<Record<string, QuantizeWeights | undefined>> = { LoRA: undefined, QLoRA: { format: "nf4", block: 64, doubleQuant: true } };
interface Run { readonly method: string; readonly seed: number; readonly loss: number; readonly before: number; readonly seconds: number }
const runs: Run[] = [];
for (const seed of SEEDS) for (const [method, how] of Object.entries(bases)) {
  const base = await loadModel(tiny.model, how === undefined ? {} : { quantize: how }), trainee = adapterTrainee(lora(base, { r: 16, loraAlpha: 16, useRslora: true, targetModules: "all-linear", seed }));
  const learningRate = cosine({ peak: 2e-3, warmup: Math.min(10, STEPS - 1), steps: STEPS }), before = (await evaluate(trainee, development)).loss;
  const training = new Training(trainee, { data, optimizer: adamw({ learningRate, weightDecay: 0, maxGradNorm: 1 }), learningRate, steps: STEPS, batchSize: quick ? 2 : 8, seed }), begun = performance.now();
  for await (const m of training.run()) if (m.step % 20 === 0) say(`${method} seed ${seed} step ${m.step} loss ${m.loss.toFixed(3)}`);
  runs.push({ method, seed, before, loss: (await evaluate(trainee, development)).loss, seconds: (performance.now() - begun) / 1000 });
  clearPlans();
}
const lossOf = (method: string): number => mean(runs.filter((r) => r.method === method).map((r) => r.loss)), worse = lossOf("QLoRA") / lossOf("LoRA") - 1;
verdicts["e"] = held(worse <= 0.02);

// ---- E7: memory and time where weights dominate ----------------------------------------------------------------------

const json: ConfigJson = quick
  ? { model_type: "llama", vocab_size: 256, hidden_size: 128, intermediate_size: 352, num_hidden_layers: 2, num_attention_heads: 4 }
  : { model_type: "llama", vocab_size: 8192, hidden_size: 1024, intermediate_size: 2816, num_hidden_layers: 8, num_attention_heads: 16, num_key_value_heads: 4 };
const config = parseConfig(json), seq = quick ? 32 : 256, request = { rank: 16, batch: 1, seq, checkpointing: true, dtype: "f16" } as const;
/** The same random weights, as they are and as codes. */
async function large(method: string): Promise<{ readonly training: Training; readonly bytes: number }> {
  const plain = initModel(json, 1, { dtype: "f16" });
  let base: CausalLM = plain;
  if (method === "QLoRA") {
    const weights: Record<string, Tensor> = { ...plain.weights() };
    for (const [name, w] of Object.entries(weights)) if (w.shape.length === 2 && !/embed_tokens|lm_head/.test(name)) weights[name] = quantizedWeight(quantize(Float32Array.from(await w.data(), Number), w.shape, { format: "nf4", block: 64, doubleQuant: true }), name);
    base = buildModel(config, (name) => weights[name]);
  }
  const trainee = adapterTrainee(lora(base, { r: 16, loraAlpha: 16, targetModules: "all-linear", seed: 1 })), rows = Array.from({ length: 4 }, (_, r) => Array.from({ length: seq }, (_, i) => (31 * i + 7 * r) % config.vocabSize));
  const training = new Training(trainee, { data: idsRows(rows, "rows"), optimizer: adamw({ learningRate: () => 1e-3, weightDecay: 0 }), learningRate: () => 1e-3, steps: 1000, batchSize: 1, gradientCheckpointing: true, seed: 1 });
  await training.next();
  const moments = Object.values(await training.optimizer.state()).reduce((n, a) => n + a.data.byteLength, 0);
  return { training, bytes: moments + Object.values(trainee.trainable).reduce((n, t) => n + t.bytes, 0) + Object.values(base.weights()).reduce((n, w) => n + (quantizedOf(w)?.bytes ?? w.bytes), 0) };
}
const fresh = setDevice(await wasm({ threads }));        // whose arena has served nothing larger
const two = { LoRA: await large("LoRA"), QLoRA: await large("QLoRA") }, arena = fresh.counters.arenaBytes;        // one arena: the same for both to the workspace
const times: { LoRA: number; QLoRA: number }[] = [];
for (let r = -2; r < ROUNDS; r++) {
  const time = { LoRA: 0, QLoRA: 0 };
  for (const method of r % 2 === 0 ? (["LoRA", "QLoRA"] as const) : (["QLoRA", "LoRA"] as const)) {
    const begun = performance.now();
    await two[method].training.next();
    time[method] = (performance.now() - begun) / 1000;
  }
  if (r >= 0) times.push(time);
}
const total = { LoRA: two.LoRA.bytes + arena, QLoRA: two.QLoRA.bytes + arena }, share = total.QLoRA / total.LoRA, slower = median(times.map((t) => t.QLoRA / t.LoRA));
const predicted = { LoRA: predictMemory(config, { ...request, method: "lora" }, device).total, QLoRA: predictMemory(config, { ...request, method: "qlora" }, device).total };
const seven = parseConfig(knownConfig("Llama-2-7b")), big = { rank: 16, batch: 1, seq: 512, checkpointing: true, dtype: "f16" } as const;
const full = { LoRA: predictMemory(seven, { ...big, method: "lora" }, device).total, QLoRA: predictMemory(seven, { ...big, method: "qlora" }, device).total };
verdicts["f"] = share <= 0.5 ? "holds" : share < 0.67 ? "saves more than a third" : "does not hold";
verdicts["g"] = slower <= 1.25 ? "holds" : slower < 1.39 ? "less than 1.39" : "does not hold";

// ---- the table ---------------------------------------------------------------------------------------------------------

const pad = (x: number, digits = 4): string => x.toFixed(digits).padStart(9), lines: string[] = [];
for (const sample of Object.keys(samples)) {
  lines.push(`relative RMS error, ${sample}`, `  ${"block".padEnd(8)}${["nf4", "nf4, double", "int4", "fp4", "int8"].map((f) => f.padStart(12)).join("")}`);
  for (const b of BLOCKS) lines.push(`  ${String(b).padEnd(8)}${["nf4", "nf4, double", "int4", "fp4", "int8"].map((f) => at(sample, f, b).toFixed(5).padStart(12)).join("")}`);
}
lines.push(`bits per byte of the bundled model (f32: ${perplexity[0].bitsPerByte.toFixed(4)})`, ...BLOCKS.map((b) => `  ${String(b).padEnd(8)}${formats.map((f) => `${f} ${bitsAt(f, b).toFixed(4)}`.padStart(14)).join("")}`));
lines.push(`loss on development chapters   LoRA ${pad(lossOf("LoRA"))}   QLoRA ${pad(lossOf("QLoRA"))}   ${(100 * worse).toFixed(2)} %  (before: ${pad(runs[0].before)} and ${pad(runs[1].before)})`);
lines.push(`memory, MB   LoRA ${(total.LoRA / 1e6).toFixed(0)} (predicted ${(predicted.LoRA / 1e6).toFixed(0)})   QLoRA ${(total.QLoRA / 1e6).toFixed(0)} (predicted ${(predicted.QLoRA / 1e6).toFixed(0)})   share ${share.toFixed(3)};  Llama-2-7b, predicted: ${(full.LoRA / 2 ** 30).toFixed(2)} and ${(full.QLoRA / 2 ** 30).toFixed(2)} GiB, share ${(full.QLoRA / full.LoRA).toFixed(3)}`);
lines.push(`seconds a step   LoRA ${pad(median(times.map((t) => t.LoRA)), 3)}   QLoRA ${pad(median(times.map((t) => t.QLoRA)), 3)}   share ${slower.toFixed(3)}`, ...Object.entries(verdicts).map(([key, v]) => `  ${key}  ${v}`));
process.stdout.write(`${quick ? "a quick run: the numbers mean nothing\n" : ""}${lines.join("\n")}\n`);

const file = flag("--json"), picture = flag("--picture");
if (file !== undefined) writeFileSync(file, `${JSON.stringify({ node: process.version, threads, errors, perplexity, runs, memory: { held: total, predicted, share, llama2_7b: full }, seconds: { times, share: slower }, verdicts }, null, 2)}\n`);
if (picture !== undefined) {
  const { drawLines } = (await import(pathToFileURL(join(flag("--drawing") ?? "benchmarks/pictures", "lines.mjs")).href)) as { drawLines: (picture: Lines) => Promise<string> };
  const series = (f: (format: string, block: number) => number, named: readonly string[]): { label: string; points: [number, number][] }[] => named.map((label) => ({ label, points: BLOCKS.map((b) => [b, f(label, b)] as [number, number]) }));
  writeFileSync(picture, await drawLines({
    x: "weights a scale", panels: [
      ...(["N(0, 1)", "uniform", "trained"] as const).map((sample) => ({ title: sample === "trained" ? "trained weights" : sample, y: "relative RMS error", lines: series((f, b) => at(sample, f, b), ["nf4", "int4", "fp4"]) })),
      { title: `bits per byte (f32: ${perplexity[0].bitsPerByte.toFixed(3)})`, y: "bits per byte", lines: series(bitsAt, ["nf4", "int4", "fp4"]) },
    ],
  }));
  say(picture);
}
await fresh.close?.();
await device.close?.();
process.exit(0);
