/**
 * Learned and forgotten: rsLoRA against full fine-tuning on the bundled model, each with the best of three learning rates.
 *
 * Rules, written before the run. Chapters 5, 15, ..., 135 of the training chapters are development text and do not train. A method's rate is
 * the one of lowest development loss after 170 steps of 8 x 256 tokens. Full fine-tuning is compared at the first evaluation (every ten
 * steps) at which its development loss is no higher than rsLoRA's at the end: "the same new-domain loss". The test chapters and the old
 * domain (the first 6 KiB of each test address) are measured there, once a run, and only the chosen runs are quoted.
 */
import { writeFileSync } from "node:fs";
import { loadModel } from "@adjoint/models";
import { lora } from "@adjoint/lora";
import { adamw, cosine } from "@adjoint/optim";
import { clearPlans, setDevice } from "@adjoint/tensor";
import * as tiny from "@adjoint/tiny";
import { Training, adapterTrainee, evaluate, firstBytes, fullTrainee, measured, textData } from "@adjoint/train";
import { wasm } from "@adjoint/wasm";

const STEPS = 170;
const rates = { rslora: [1e-3, 2e-3, 4e-3], full: [2e-4, 5e-4, 1e-3] } as const;
type Method = keyof typeof rates;

const flag = (name: string): string | undefined => { const i = process.argv.indexOf(name); return i < 0 ? undefined : process.argv[i + 1]; };
setDevice(await wasm({ threads: Number(flag("--threads") ?? 2) }));

const { train, test } = tiny.mobyDick();
const isDevelopment = (_: tiny.Text, i: number): boolean => i % 10 === 4;      // about every tenth of the training chapters, in book order
const rows = (texts: readonly tiny.Text[]): { name: string; text: string }[] => texts.map(({ name, text }) => ({ name, text }));
const old = tiny.addresses().test.map(({ name, text }) => ({ name, text: firstBytes(text, 6 * 1024) }));

interface Row { method: Method; rate: number; step: number; development: number; test: number; old: number; at: "end" | "equal loss" }
const results: Row[] = [], before: Record<string, number> = {};
let target = Infinity;

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
  let reached = method !== "full";
  for await (const m of training.run()) {
    if (m.step % 10 !== 0) continue;
    const end = m.step === STEPS;
    if (!end && reached) continue;
    const development = await bits("development"), equal = !reached && development <= target;
    process.stderr.write(`${method} ${rate} step ${m.step} loss ${m.loss.toFixed(3)} development ${development.toFixed(4)}${equal ? "  reached" : ""}\n`);
    if (end || equal) {
      const measuredNow = { method, rate, step: m.step, development, test: await bits("test"), old: await bits("old") };
      if (equal) { reached = true; results.push({ ...measuredNow, at: "equal loss" }); }
      if (end) results.push({ ...measuredNow, at: "end" });
    }
  }
  clearPlans();
}

const best = (method: Method): Row => results.filter((r) => r.method === method && r.at === "end").sort((a, b) => a.development - b.development)[0];
for (const rate of rates.rslora) await run("rslora", rate);
target = best("rslora").development;
for (const rate of rates.full) await run("full", rate);

const chosen = { rslora: best("rslora"), fullEnd: best("full"), fullEqual: results.find((r) => r.method === "full" && r.at === "equal loss" && r.rate === best("full").rate) ?? null };
const report = { before, results, chosen, steps: STEPS, node: process.version };
if (flag("--json") !== undefined) writeFileSync(flag("--json") ?? "findings.json", `${JSON.stringify(report, null, 2)}\n`);
const line = (title: string, r: Row | null): string => (r === null ? `${title}: not reached in ${STEPS} steps` : `${title.padEnd(34)} rate ${r.rate}  step ${String(r.step).padStart(3)}  new ${r.test.toFixed(3)}  old ${r.old.toFixed(3)}  forgotten ${(100 * (r.old / before["old"] - 1)).toFixed(1)} %`);
process.stdout.write(`before${" ".repeat(52)}new ${before["test"].toFixed(3)}  old ${before["old"].toFixed(3)}   bits per byte\n${line("rsLoRA r=16, end", chosen.rslora)}\n${line("full fine-tuning, equal new loss", chosen.fullEqual)}\n${line("full fine-tuning, end", chosen.fullEnd)}\n`);
