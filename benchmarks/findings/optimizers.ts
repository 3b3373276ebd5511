/**
 * Findings about optimizers (E14, E19, E7b), with verdict rules written before the run.
 *
 * E14. SGD (momentum 0.9), SGD + cosine, AdamW and AdamW + cosine train a rank-16 rsLoRA adapter of the bundled model on Moby-Dick: 50 steps of
 * 4 rows of 48 tokens, clip 1, warm-up 6 steps, no decay. Each method has five learning rates, tried with seed 0, whose runs only choose; if the
 * best is the largest or the smallest, one more beyond it is tried, at most twice. Then seeds 1 to 5 (adapter and order of rows) at the chosen
 * rate. Loss: mean over 12 KiB of the development chapters at the end. With Δ = mean of paired differences over seeds and 2se = twice its standard error:
 *   a "SGD alone is worse than AdamW":               holds if Δ(SGD - AdamW) > 2se; opposite if < -2se; else not seen
 *   b "cosine helps SGD":                            holds if Δ(SGD - SGD cosine) > 2se; opposite if < -2se; else not seen
 *   c "cosine does not help AdamW":                  holds if |Δ(AdamW - AdamW cosine)| <= 2se; else does not hold
 *   d "cosine helps SGD more than AdamW":            holds if Δ(gain of SGD - gain of AdamW) > 2se; opposite if < -2se; else not seen
 *   e "SGD + cosine comes near AdamW":               holds if mean(SGD cosine) / mean(AdamW) - 1 <= 0.02; else does not hold
 * The sweep also says what each method gives at its library's default rate (1e-3).
 *
 * E19. A small Llama (width 64, 2 layers) from random numbers on the addresses, 160 steps of 16 rows of 32 tokens, cosine with 16 steps of warm-up,
 * decay 0.1, clip 1: AdamW (0.9, 0.95) and Sophia-G (0.965, 0.99, rho 0.05, labels drawn from the model every ten steps), three rates each chosen as
 * above, then seeds 1 to 5; and Sophia with a schedule of half the steps. Time is the process's CPU time.
 *   f "Sophia needs half the steps":                 holds if Δ(Sophia at half - AdamW) <= 0; does not if > 2se; else not seen
 *   g "Sophia needs half the time":                  as f, and if CPU time of the halved run is at most 0.55 of AdamW's; else does not hold
 *   h "the estimates cost less than 15 % of a step": holds if CPU time a step of Sophia / of AdamW - 1 < 0.15; else does not hold
 *   i "between 0.1 and 0.5 of the steps are unclipped": holds if the mean share at the end lies there; else does not hold
 *
 * E7b. Bytes, by the formulas that `adjoint memory` prints, at rank 8, 1 row of 512 tokens: full training and LoRA with AdamW and SGD, of Llama-2-7b and of the bundled model.
 *   j "an adapter's optimizer state hardly matters": holds if (AdamW - SGD) / all memory < 0.02 for LoRA on Llama-2-7b; else does not hold
 *   k "full training with AdamW keeps 8 bytes a parameter": holds if (AdamW - SGD) / parameters = 8; else does not hold
 *
 * `--quick` goes through all of it with three steps and two seeds: does it run?
 */
import { writeFileSync, readFileSync } from "node:fs";
import { type ConfigJson, initModel, knownConfig, loadModel, parseConfig, type Tokenizer } from "@adjoint/models";
import { lora } from "@adjoint/lora";
import { adamw, constantWithWarmup, cosine, type Optimizer, type Schedule, sgd, sophia, unclippedShare } from "@adjoint/optim";
import { clearPlans, setDevice } from "@adjoint/tensor";
import * as tiny from "@adjoint/tiny";
import { adapterTrainee, type DataSet, evaluate, firstBytes, fullTrainee, measured, predictMemory, textData, type Trainee, Training, type TrainingOptions } from "@adjoint/train";
import { wasm } from "@adjoint/wasm";

const flag = (name: string): string | undefined => { const i = process.argv.indexOf(name); return i < 0 ? undefined : process.argv[i + 1]; };
const quick = process.argv.includes("--quick"), SEEDS = quick ? [1, 2] : [1, 2, 3, 4, 5], E14_STEPS = quick ? 3 : 50, E19_STEPS = quick ? 4 : 160;
setDevice(await wasm({ threads: Number(flag("--threads") ?? 2) }));
const say = (text: string): void => { process.stderr.write(`${text}\n`); };

const mean = (xs: readonly number[]): number => xs.reduce((a, b) => a + b, 0) / xs.length;
const deviation = (xs: readonly number[]): number => Math.sqrt(xs.reduce((s, x) => s + (x - mean(xs)) ** 2, 0) / (xs.length - 1));
const cpu = (): number => { const { user, system } = process.cpuUsage(); return (user + system) / 1e6; };
const texts = (list: readonly tiny.Text[]): { name: string; text: string }[] => list.map(({ name, text }) => ({ name, text }));
/** Of a list of texts, every tenth is kept as development text. */
const isDevelopment = (_: unknown, i: number): boolean => i % 10 === 4;
const clipped = (list: readonly { readonly text: string }[], limit: number): { text: string }[] => [{ text: firstBytes(list.map((t) => t.text).join("\n"), limit) }];

interface Run { readonly method: string; readonly rate: number; readonly seed: number; readonly loss: number; readonly seconds: number; readonly steps: number; readonly unclipped?: number }
interface Method { readonly name: string; readonly rates: readonly number[]; readonly steps: number; readonly optimizer: (rate: Schedule) => Optimizer; readonly schedule: (peak: number, steps: number) => Schedule; readonly more?: Pick<TrainingOptions, "curvature">; readonly watch?: (training: Training) => Promise<number> }
interface Task { readonly data: DataSet; readonly development: DataSet; readonly batchSize: number; readonly trainee: (seed: number) => Promise<Trainee> }

async function run(task: Task, m: Method, rate: number, seed: number): Promise<Run> {
  const trainee = await task.trainee(seed), learningRate = m.schedule(rate, m.steps);
  const training = new Training(trainee, { data: task.data, optimizer: m.optimizer(learningRate), learningRate, steps: m.steps, batchSize: task.batchSize, seed, ...m.more });
  await training.next();                       // kernels are compiled in the first step
  const begun = cpu();
  for await (const _ of training.run());
  const seconds = (cpu() - begun) / Math.max(1, m.steps - 1), { loss } = await evaluate(trainee, task.development), unclipped = await m.watch?.(training);
  clearPlans();
  const done: Run = { method: m.name, rate, seed, loss: Number.isFinite(loss) ? loss : 99, seconds, steps: m.steps, ...(unclipped === undefined ? {} : { unclipped }) };
  say(`${m.name.padEnd(16)} rate ${String(rate).padEnd(8)} seed ${seed}  loss ${done.loss.toFixed(4)}  ${(1000 * seconds).toFixed(0)} ms a step${unclipped === undefined ? "" : `  unclipped ${unclipped.toFixed(2)}`}`);
  return done;
}

/** The rate of lowest loss with seed 0, going one step further where it stands at an end. */
async function sweep(task: Task, m: Method): Promise<{ rate: number; tried: Run[] }> {
  const tried: Run[] = [];
  for (const rate of m.rates) tried.push(await run(task, m, rate, 0));
  for (let more = 0; ; more++) {
    tried.sort((a, b) => a.rate - b.rate);
    const best = tried.reduce((a, b) => (b.loss < a.loss ? b : a)), at = tried.indexOf(best), ratio = m.rates[1] / m.rates[0];
    if (more === 2 || quick || (at > 0 && at < tried.length - 1)) return { rate: best.rate, tried };
    tried.push(await run(task, m, Number((at === 0 ? best.rate / ratio : best.rate * ratio).toPrecision(2)), 0));
  }
}
interface Result { readonly method: string; readonly rate: number; readonly sweep: readonly Run[]; readonly runs: readonly Run[]; readonly mean: number; readonly sd: number }
async function measure(task: Task, m: Method, rate?: number): Promise<Result> {
  const chosen = rate === undefined ? await sweep(task, m) : { rate, tried: [] }, runs: Run[] = [];
  for (const seed of SEEDS) runs.push(await run(task, m, chosen.rate, seed));
  const losses = runs.map((r) => r.loss);
  return { method: m.name, rate: chosen.rate, sweep: chosen.tried, runs, mean: mean(losses), sd: deviation(losses) };
}

interface Verdict { readonly claim: string; readonly verdict: "holds" | "does not hold" | "the opposite holds" | "not seen"; readonly figure: string }
/** Mean of paired differences, and twice its standard error. */
function paired(differences: readonly number[]): { readonly mean: number; readonly wide: number } {
  return { mean: mean(differences), wide: (2 * deviation(differences)) / Math.sqrt(differences.length) };
}
const shown = ({ mean: m, wide }: { readonly mean: number; readonly wide: number }): string => `${m >= 0 ? "+" : ""}${m.toFixed(4)} ± ${wide.toFixed(4)}`;
const sided = (claim: string, d: ReturnType<typeof paired>): Verdict => ({ claim, verdict: d.mean > d.wide ? "holds" : d.mean < -d.wide ? "the opposite holds" : "not seen", figure: shown(d) });
const differences = (a: Result, b: Result): number[] => a.runs.map((r, i) => r.loss - b.runs[i].loss);

async function e14(): Promise<{ results: Result[]; verdicts: Verdict[] }> {
  const first = await loadModel(tiny.model, { dtype: "f32" }), { tokenizer } = first;
  if (!tokenizer) throw new Error("the bundled model has no tokenizer");
  const { train } = tiny.mobyDick(), chapters = texts(train);
  const task: Task = {
    batchSize: 4, data: await textData(chapters.filter((t, i) => !isDevelopment(t, i)), tokenizer, { maxLength: 48 }),
    development: measured(clipped(chapters.filter(isDevelopment), quick ? 1024 : 12 * 1024), tokenizer, { maxLength: 48 }),
    trainee: async (seed) => adapterTrainee(lora(await loadModel(tiny.model, { dtype: "f32" }), { r: 16, loraAlpha: 16, useRslora: true, targetModules: "all-linear", seed })),
  };
  const flat = (peak: number): Schedule => constantWithWarmup({ peak, warmup: Math.min(6, E14_STEPS) }), curved = (peak: number, steps: number): Schedule => cosine({ peak, warmup: Math.min(6, steps), steps });
  const sgdRates = quick ? [1e-2] : [1e-3, 1e-2, 3e-2, 1e-1, 3e-1], adamRates = quick ? [1e-3] : [3e-4, 1e-3, 3e-3, 1e-2, 3e-2];
  const withSgd = (learningRate: Schedule): Optimizer => sgd({ learningRate, momentum: 0.9, maxGradNorm: 1 }), withAdam = (learningRate: Schedule): Optimizer => adamw({ learningRate, weightDecay: 0, maxGradNorm: 1 });
  const methods: readonly Method[] = [
    { name: "SGD", rates: sgdRates, steps: E14_STEPS, optimizer: withSgd, schedule: flat }, { name: "SGD cosine", rates: sgdRates, steps: E14_STEPS, optimizer: withSgd, schedule: curved },
    { name: "AdamW", rates: adamRates, steps: E14_STEPS, optimizer: withAdam, schedule: flat }, { name: "AdamW cosine", rates: adamRates, steps: E14_STEPS, optimizer: withAdam, schedule: curved },
  ];
  const results: Result[] = [];
  for (const m of methods) results.push(await measure(task, m));
  const [s, sc, a, ac] = results, gainS = differences(s, sc), gainA = differences(a, ac), adam = paired(gainA), near = sc.mean / a.mean - 1;
  return {
    results,
    verdicts: [
      sided("SGD alone is worse than AdamW", paired(differences(s, a))), sided("cosine helps SGD", paired(gainS)),
      { claim: "cosine does not help AdamW", verdict: Math.abs(adam.mean) <= adam.wide ? "holds" : "does not hold", figure: shown(adam) },
      sided("cosine helps SGD more than AdamW", paired(gainS.map((g, i) => g - gainA[i]))),
      { claim: "SGD + cosine comes within 2 % of AdamW", verdict: near <= 0.02 ? "holds" : "does not hold", figure: `${(100 * near).toFixed(1)} %` },
    ],
  };
}

const small = (vocabulary: number): ConfigJson => ({ model_type: "llama", hidden_size: 64, intermediate_size: 176, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 4, vocab_size: vocabulary, max_position_embeddings: 64, rms_norm_eps: 1e-5, rope_theta: 10000, tie_word_embeddings: true, hidden_act: "silu" });

async function e19(): Promise<{ results: Result[]; verdicts: Verdict[] }> {
  const { tokenizer } = await loadModel(tiny.model, { dtype: "f32" });
  if (!tokenizer) throw new Error("the bundled model has no tokenizer");
  const known: Tokenizer = tokenizer, { train, development } = tiny.addresses(), batchSize = 16, maxLength = 32, bs = batchSize * (maxLength - 1), rho = 0.05;
  const task: Task = {
    batchSize, data: await textData(texts(train), known, { maxLength }), development: measured(clipped(development, quick ? 1024 : 12 * 1024), known, { maxLength }),
    trainee: (seed) => Promise.resolve(fullTrainee(initModel(small(known.vocabSize), seed, { tokenizer: known }))),
  };
  const curved = (peak: number, steps: number): Schedule => cosine({ peak, warmup: Math.ceil(steps / 10), steps });
  const withSophia = (learningRate: Schedule): Optimizer => sophia({ learningRate, rho, bs, weightDecay: 0.1, maxGradNorm: 1 });
  const watch = async (t: Training): Promise<number> => (await unclippedShare(t.optimizer, { rho, bs }).data())[0];
  const rates = (list: readonly number[]): readonly number[] => (quick ? list.slice(0, 1) : list);
  const adam = await measure(task, { name: "AdamW", rates: rates([1e-3, 3e-3, 1e-2]), steps: E19_STEPS, optimizer: (learningRate) => adamw({ learningRate, betas: [0.9, 0.95], weightDecay: 0.1, maxGradNorm: 1 }), schedule: curved });
  const base: Method = { name: "Sophia", rates: rates([3e-4, 1e-3, 3e-3]), steps: E19_STEPS, optimizer: withSophia, schedule: curved, more: { curvature: { beta2: 0.99 } }, watch };
  const whole = await measure(task, base), half = await measure(task, { ...base, name: "Sophia, half", steps: E19_STEPS / 2 }, whole.rate);
  const d = paired(differences(half, adam)), step = (r: Result): number => mean(r.runs.map((x) => x.seconds)), time = (step(half) * half.runs[0].steps) / (step(adam) * adam.runs[0].steps), cost = step(whole) / step(adam) - 1, share = mean(whole.runs.map((r) => r.unclipped ?? NaN));
  const steps: Verdict = { claim: "Sophia needs half the steps", verdict: d.mean <= 0 ? "holds" : d.mean > d.wide ? "does not hold" : "not seen", figure: shown(d) };
  return {
    results: [adam, whole, half],
    verdicts: [
      steps, { claim: "Sophia needs half the time", verdict: steps.verdict === "holds" && time <= 0.55 ? "holds" : "does not hold", figure: `${time.toFixed(2)} of AdamW's time` },
      { claim: "the estimates cost less than 15 % of a step", verdict: cost < 0.15 ? "holds" : "does not hold", figure: `${(100 * cost).toFixed(1)} %` },
      { claim: "0.1 to 0.5 of the steps are unclipped at the end", verdict: share >= 0.1 && share <= 0.5 ? "holds" : "does not hold", figure: share.toFixed(2) },
    ],
  };
}

interface Bytes { readonly model: string; readonly method: "full" | "lora"; readonly optimizer: string; readonly state: number; readonly total: number; readonly trainable: number }
function e7b(): { table: Bytes[]; verdicts: Verdict[] } {
  const configs: readonly (readonly [string, ConfigJson])[] = [["Llama-2-7b", knownConfig("Llama-2-7b")], ["the bundled model", JSON.parse(readFileSync(new URL("config.json", tiny.model), "utf8")) as ConfigJson]];
  const table = configs.flatMap(([model, json]) => (["full", "lora"] as const).flatMap((method) => ["adamw_torch", "sgd"].map((optimizer): Bytes => {
    const p = predictMemory(parseConfig(json), { method, rank: 8, optimizer, dtype: method === "full" ? "f32" : "bf16", batch: 1, seq: 512 });
    return { model, method, optimizer, state: p.counts.optimizer, total: p.total, trainable: p.counts.trainable };
  })));
  const at = (method: "full" | "lora", optimizer: string): Bytes => table.find((r) => r.model === "Llama-2-7b" && r.method === method && r.optimizer === optimizer) ?? table[0];
  const share = (at("lora", "adamw_torch").state - at("lora", "sgd").state) / at("lora", "adamw_torch").total, each = (at("full", "adamw_torch").state - at("full", "sgd").state) / at("full", "adamw_torch").trainable;
  return {
    table,
    verdicts: [
      { claim: "an adapter's optimizer state is below 2 % of all memory", verdict: share < 0.02 ? "holds" : "does not hold", figure: `${(100 * share).toFixed(2)} %` },
      { claim: "full training with AdamW keeps 8 bytes a parameter", verdict: each === 8 ? "holds" : "does not hold", figure: `${each.toFixed(2)} bytes` },
    ],
  };
}

const parts = (flag("--only") ?? "e7b,e14,e19").split(","), begun = cpu();
const report = {
  ...(parts.includes("e7b") ? { e7b: e7b() } : {}), ...(parts.includes("e14") ? { e14: await e14() } : {}), ...(parts.includes("e19") ? { e19: await e19() } : {}),
  seeds: SEEDS, quick, cpuSeconds: 0, node: process.version,
};
report.cpuSeconds = Math.round(cpu() - begun);
const file = flag("--json");
if (file !== undefined) writeFileSync(file, `${JSON.stringify(report, null, 1)}\n`);

/** The tables of docs/findings-optimizers.md. */
function markdown(): string {
  const lines: string[] = [], verdicts = (list: readonly Verdict[]): void => { lines.push("| claim | verdict | figure |", "|---|---|---|", ...list.map((v) => `| ${v.claim} | **${v.verdict}** | ${v.figure} |`), ""); };
  const table = (results: readonly Result[]): void => {
    lines.push("| method | chosen rate | loss of the sweep, by rate | loss, mean ± sd of the seeds | CPU ms a step |", "|---|---|---|---|---|");
    for (const r of results) lines.push(`| ${r.method} | ${r.rate} | ${r.sweep.map((s) => `${s.rate}: ${s.loss.toFixed(3)}`).join(", ") || "as above"} | ${r.mean.toFixed(4)} ± ${r.sd.toFixed(4)} | ${(1000 * mean(r.runs.map((x) => x.seconds))).toFixed(0)} |`);
    lines.push("");
  };
  const GiB = (n: number): string => (n >= 2 ** 29 ? `${(n / 2 ** 30).toFixed(2)} GiB` : `${(n / 2 ** 20).toFixed(2)} MiB`);
  if (report.e14) { lines.push("### SGD, AdamW, and a cosine", ""); table(report.e14.results); verdicts(report.e14.verdicts); }
  if (report.e19) { lines.push("### Sophia beside AdamW", ""); table(report.e19.results); verdicts(report.e19.verdicts); }
  if (report.e7b) {
    lines.push("### The share of optimizer state", "", "| model | method | optimizer | trains | state | all memory | share |", "|---|---|---|---|---|---|---|");
    for (const r of report.e7b.table) lines.push(`| ${r.model} | ${r.method === "lora" ? "LoRA, rank 8" : "full"} | ${r.optimizer} | ${r.trainable.toLocaleString("en-US")} | ${GiB(r.state)} | ${GiB(r.total)} | ${((100 * r.state) / r.total).toFixed(1)} % |`);
    lines.push("");
    verdicts(report.e7b.verdicts);
  }
  return lines.join("\n");
}
const page = flag("--page");
if (page !== undefined) {
  const text = readFileSync(page, "utf8"), [from, to] = ["<!-- results -->", "<!-- end of results -->"], a = text.indexOf(from), b = text.indexOf(to);
  if (a < 0 || b < a) throw new Error(`${page} has no place for results: ${from} ... ${to}`);
  writeFileSync(page, `${text.slice(0, a + from.length)}\n\n${markdown()}\n${text.slice(b)}`);
}
process.stdout.write(`${markdown()}\nCPU ${report.cpuSeconds} s\n`);
