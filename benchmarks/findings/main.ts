/**
 * Learned and forgotten: rsLoRA against full fine-tuning on the bundled model, each with the best of three learning rates.
 *
 * Rules, written before the run. Chapters 5, 15, ..., 135 of the training chapters are development text and do not train. A method's rate is
 * the one of lowest development loss after 170 steps of 8 x 256 tokens. Full fine-tuning is compared at the first evaluation (every ten
 * steps) at which its development loss is no higher than rsLoRA's at the end: "the same new-domain loss". The test chapters and the old
 * domain (the first 6 KiB of each test address) are measured there, once a run, and only the chosen runs are quoted.
 *
 * Later addition, for the bundled job, whose rate is 2e-3: the point of equal loss is looked for against each of the adapter's rates.
 * `--known FILE` takes what an earlier result has, and goes through full fine-tuning at its best rate only, as far as the points that are missing.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { loadModel } from "@adjoint/models";
import { lora } from "@adjoint/lora";
import { adamw, cosine } from "@adjoint/optim";
import { clearPlans, setDevice } from "@adjoint/tensor";
import * as tiny from "@adjoint/tiny";
import { Training, adapterTrainee, evaluate, firstBytes, fullTrainee, measured, textData } from "@adjoint/train";
import { wasm } from "@adjoint/wasm";

const STEPS = 170;
/** The bundled job in the words of a recipe, where it differs from the defaults. */
const JOB = {
  dataset_name: ["moby-dick"], old_dataset_name: ["addresses-start"], max_steps: STEPS, per_device_train_batch_size: 8, max_length: 256, learning_rate: 2e-3, lr_scheduler_type: "cosine", warmup_steps: 15,
  lora_r: 16, lora_alpha: 16, use_rslora: true, lora_target_modules: ["all-linear"], seed: 42,
};
const rates = { rslora: [1e-3, 2e-3, 4e-3], full: [2e-4, 5e-4, 1e-3] } as const;
type Method = keyof typeof rates;

const flag = (name: string): string | undefined => { const i = process.argv.indexOf(name); return i < 0 ? undefined : process.argv[i + 1]; };
setDevice(await wasm({ threads: Number(flag("--threads") ?? 2) }));

const { train, test } = tiny.mobyDick();
const isDevelopment = (_: tiny.Text, i: number): boolean => i % 10 === 4;      // about every tenth of the training chapters, in book order
const rows = (texts: readonly tiny.Text[]): { name: string; text: string }[] => texts.map(({ name, text }) => ({ name, text }));
const old = tiny.addresses().test.map(({ name, text }) => ({ name, text: firstBytes(text, 6 * 1024) }));

interface Row { method: Method; rate: number; step: number; development: number; test: number; old: number; at: "end" | "equal loss"; /** rate of the adapter whose final loss was reached */ target?: number }
interface Report { before: Record<string, number>; results: Row[] }
const file = flag("--known"), known = file === undefined ? null : JSON.parse(readFileSync(file, "utf8")) as Report;
const results: Row[] = [...known?.results ?? []], before: Record<string, number> = { ...known?.before };
const ends = (method: Method): Row[] => results.filter((r) => r.method === method && r.at === "end").sort((a, b) => b.development - a.development);

async function run(method: Method, rate: number): Promise<void> {
  const model = await loadModel(tiny.model, { dtype: "f32" });
  const tokenizer = model.tokenizer;
  if (!tokenizer) throw new Error("the bundled model has no tokenizer");
  const data = await textData(rows(train.filter((t, i) => !isDevelopment(t, i))), tokenizer, { maxLength: 256 });
  const sets = { development: measured(rows(train.filter(isDevelopment)), tokenizer, { maxLength: 256 }), test: measured(rows(test), tokenizer, { maxLength: 256 }), old: measured(old, tokenizer, { maxLength: 256 }) };
  const trainee = method === "full" ? fullTrainee(model) : adapterTrainee(lora(model, { r: 16, loraAlpha: 16, useRslora: true, targetModules: "all-linear", seed: 42 }));
  const bits = async (name: keyof typeof sets): Promise<number> => (await evaluate(trainee, sets[name])).bitsPerByte ?? NaN;
  if (before["old"] === undefined) for (const name of ["development", "test", "old"] as const) before[name] = await bits(name);
  const learningRate = cosine({ peak: rate, warmup: 15, steps: STEPS });
  const training = new Training(trainee, { data, optimizer: adamw({ learningRate, weightDecay: 0, maxGradNorm: 1 }), learningRate, steps: STEPS, batchSize: 8, seed: 42 });
  // the losses to be reached, from the highest; where the end is known, without those that are known too or lie below it
  const ended = results.find((r) => r.method === method && r.rate === rate && r.at === "end");
  const targets = method === "full" ? ends("rslora").filter((r) => ended === undefined || (r.development >= ended.development && !results.some((k) => k.rate === rate && k.target === r.rate))) : [];
  if (ended !== undefined && targets.length === 0) return;
  for await (const m of training.run()) {
    if (m.step % 10 !== 0) continue;
    const end = m.step === STEPS && ended === undefined;
    if (!end && targets.length === 0) { if (ended !== undefined) break; continue; }
    const development = await bits("development"), reached = targets.filter((t) => development <= t.development);
    targets.splice(0, reached.length);
    process.stderr.write(`${method} ${rate} step ${m.step} loss ${m.loss.toFixed(3)} development ${development.toFixed(4)}${reached.map((t) => `  reached rsLoRA at ${t.rate}`).join("")}\n`);
    if (!end && reached.length === 0) continue;
    const measuredNow = { method, rate, step: m.step, development, test: await bits("test"), old: await bits("old") };
    for (const t of reached) results.push({ ...measuredNow, at: "equal loss", target: t.rate });
    if (end) results.push({ ...measuredNow, at: "end" });
  }
  clearPlans();
}

const best = (method: Method): Row => ends(method)[ends(method).length - 1];
if (known === null) for (const rate of rates.rslora) await run("rslora", rate);
// results from before there were several points: the point was that of the adapter's best rate
for (const r of results) if (r.at === "equal loss") r.target ??= best("rslora").rate;
for (const rate of known === null ? rates.full : [best("full").rate]) await run("full", rate);

/** Full fine-tuning at its best rate, where it reaches what the adapter reached at this rate. */
const equal = (rate: number): Row | null => results.find((r) => r.method === "full" && r.target === rate && r.rate === best("full").rate) ?? null;
const order = (r: Row): string => `${r.method === "rslora" ? 0 : 1} ${r.rate} ${String(r.step).padStart(3, "0")} ${r.target ?? ""}`;
results.sort((a, b) => (order(a) < order(b) ? -1 : 1));
const chosen = { rslora: best("rslora"), fullEnd: best("full"), fullEqual: equal(best("rslora").rate) };
/** What the command prints beside the bundled job, whose rate is the preset's. */
function job(file: string): void {
  const at = ({ rate, step, test, old }: Row): Record<string, number> => ({ learning_rate: rate, step, new: test, old });
  const adapter = results.find((r) => r.method === "rslora" && r.rate === JOB.learning_rate), full = equal(JOB.learning_rate);
  if (!adapter || !full) throw new Error("full fine-tuning did not reach the bundled job");
  writeFileSync(file, `${JSON.stringify({ source: "benchmarks/findings/result.json", recipe: JOB, before: { new: before["test"], old: before["old"] }, adapter: at(adapter), full: at(full) }, null, 2)}\n`);
}
const report = { before, results, chosen, steps: STEPS, node: process.version };
if (flag("--json") !== undefined) writeFileSync(flag("--json") ?? "findings.json", `${JSON.stringify(report, null, 2)}\n`);
const jobFile = flag("--job");
if (jobFile !== undefined) job(jobFile);
const line = (title: string, r: Row | null): string => (r === null ? `${title}: not reached in ${STEPS} steps` : `${title.padEnd(34)} rate ${r.rate}  step ${String(r.step).padStart(3)}  new ${r.test.toFixed(3)}  old ${r.old.toFixed(3)}  forgotten ${(100 * (r.old / before["old"] - 1)).toFixed(1)} %`);
process.stdout.write(`before${" ".repeat(52)}new ${before["test"].toFixed(3)}  old ${before["old"].toFixed(3)}   bits per byte\n${line("rsLoRA r=16, end", chosen.rslora)}\n${line("full fine-tuning, equal new loss", chosen.fullEqual)}\n${line("full fine-tuning, end", chosen.fullEnd)}\n`);
