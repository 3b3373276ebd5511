/**
 * `npm run benchmark -- adapters`: what adapters add to the step of a frozen model, and what their rank costs.
 *
 * A Llama of two layers, 512 tokens a step. `frozen` is the model's forward pass and the gradient with respect to what enters its layers: the
 * work that any adapter needs. Every other task is a whole training step with all linear layers adapted: forward, gradients, AdamW.
 * Tasks of one width take turns; a ratio is the median over rounds of quotients within a round.
 */
import { parseArgs } from "node:util";
import { gradients } from "@adjoint/autograd";
import { lora, type NewLoraOptions } from "@adjoint/lora";
import { type CausalLM, initModel } from "@adjoint/models";
import type { Context, ModuleAdapter } from "@adjoint/nn";
import { adamw } from "@adjoint/optim";
import { type PlanSpec, type Store, type Tensor, compile, operationsOf, planOf, setDevice, tensor, zeroStore } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";

const { values: flags } = parseArgs({ options: {
  threads: { type: "string", default: "2" }, rounds: { type: "string", default: "7" }, milliseconds: { type: "string", default: "1500" }, tasks: { type: "string", default: "" },
  smoke: { type: "boolean", default: false }, limits: { type: "boolean", default: false },
} });
const rounds = flags.smoke ? 1 : Number(flags.rounds), budget = flags.smoke ? 1 : Number(flags.milliseconds);
setDevice(await wasm({ threads: Number(flags.threads) }));

interface Task { readonly name: string; readonly options: NewLoraOptions | null }
interface Limit { readonly what: string; readonly over: readonly [string, string]; readonly most: number; readonly flops?: boolean }
interface Case { readonly width: number; readonly tasks: readonly Task[]; readonly limits: readonly Limit[] }

const all = { targetModules: "all-linear", loraAlpha: 16, seed: 1 } as const, rank = (r: number): Task => ({ name: `lora r=${r}`, options: { ...all, r } });
const small = (width: number): Case => ({
  width, tasks: [{ name: "frozen", options: null }, rank(8), { name: "dora r=8", options: { ...all, r: 8, useDora: true } }],
  limits: [{ what: "LoRA, r = 8, over the frozen model", over: ["lora r=8", "frozen"], most: 1.15 }, { what: "DoRA over LoRA", over: ["dora r=8", "lora r=8"], most: 1.5 }],
});
const ranks: Case = {
  width: 1024, tasks: [4, 16, 64, 256].map(rank),
  limits: [{ what: "rank 256 over rank 16, beside the products'", over: ["lora r=256", "lora r=16"], most: 1.1, flops: true }, { what: "rank 64 over rank 4", over: ["lora r=64", "lora r=4"], most: 1.2 }],
};
const sets: readonly Case[] = [small(256), small(512), ranks].filter((s) => flags.tasks === "" || flags.tasks.split(",").includes(String(s.width)));

const median = (xs: readonly number[]): number => [...xs].sort((a, b) => a - b)[xs.length >> 1];
const productFlops = ({ kernels }: PlanSpec): number => kernels.reduce((n, k) => n + (k.kind === "contract" ? operationsOf(k) : 0), 0);

/** A step, and what its plan is. */
function stepOf(model: CausalLM, { options }: Task, batch: { inputIds: Tensor; labels: Tensor }): { readonly step: () => Tensor; readonly spec: PlanSpec } {
  if (options === null) {
    const shift: Store = zeroStore([model.config.hiddenSize], "f32", "shift"), table = model.modules().find((m) => m.kind === "embedding")?.module;
    const adapter: ModuleAdapter = { output: (module, _x, y) => (module === table ? y.add(shift) : y) }, context: Context = { adapter };
    const both = (): Tensor => { const loss = model.loss(batch, context); return gradients(loss, { shift }).shift!.sum().add(loss); };
    return { step: compile(both), spec: planOf([both()]).spec };
  }
  const tuned = lora(model, options), trainable = Object.fromEntries(tuned.tensors()), optimizer = adamw({ learningRate: 1e-4 }).for(trainable);
  const loss = (): Tensor => tuned.base.loss(batch, tuned.context());
  const grads = Object.values(gradients(loss(), trainable)).filter((g) => g !== null);
  return { step: compile(() => { const l = loss(); optimizer.step(gradients(l, trainable)); return l; }), spec: planOf(grads).spec };
}

async function time(step: () => Tensor): Promise<number> {
  const begun = performance.now();
  let n = 0;
  do { await step().data(); n++; } while (performance.now() - begun < budget);
  return (performance.now() - begun) / n;
}

let missed = 0;
for (const { width, tasks, limits } of sets) {
  const size = flags.smoke ? 32 : width, [rows, length] = flags.smoke ? [1, 8] : [4, 128];
  const model = initModel({ model_type: "llama", vocab_size: 512, hidden_size: size, intermediate_size: Math.round((size * 8) / 3 / 32) * 32, num_hidden_layers: 2, num_attention_heads: size / 32 }, 1);
  const ids = tensor(Int32Array.from({ length: rows * length }, (_, i) => (i * 7919) % 512), { shape: [rows, length] }), batch = { inputIds: ids, labels: ids };
  const run = tasks.map((t) => ({ ...t, ...stepOf(model, t, batch), times: [] as number[] }));
  for (const t of run) for (let i = 0; i < 2; i++) await t.step().data();
  for (let i = 0; i < rounds; i++) for (let j = 0; j < run.length; j++) { const t = run[(i + j) % run.length]; t.times.push(await time(t.step)); }
  console.log(`\nwidth ${width}, ${rows * length} tokens\n${"".padEnd(14)}${"median".padStart(10)}${"kernels".padStart(9)}${"GFLOP".padStart(8)}${"GFLOP/s".padStart(9)}   rounds`);
  for (const t of run) console.log(`${t.name.padEnd(14)}${`${median(t.times).toFixed(1)} ms`.padStart(10)}${String(t.spec.kernels.length).padStart(9)}${(productFlops(t.spec) / 1e9).toFixed(2).padStart(8)}${(productFlops(t.spec) / 1e6 / median(t.times)).toFixed(1).padStart(9)}   ${t.times.map((x) => x.toFixed(0)).join(" ")}`);
  for (const { what, over: [a, b], most, flops } of limits) {
    const [x, y] = [a, b].map((name) => run.find((t) => t.name === name)!), ratio = median(x.times.map((v, i) => v / y.times[i])), products = productFlops(x.spec) / productFlops(y.spec), limit = flops ? most * products : most;
    if (ratio > limit) missed++;
    console.log(`  ${what}: ${ratio.toFixed(3)} (products: ${products.toFixed(3)}; at most ${limit.toFixed(3)}${flops ? ` = ${most} times the products'` : ""})${ratio > limit ? "  MISSED" : ""}`);
  }
}
process.exit(flags.limits && missed > 0 ? 1 : 0);
