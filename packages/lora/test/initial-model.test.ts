/** Initialisations on a Llama: activations and gradients of a whole model, layers that share their input, and steps of training. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gradients } from "@adjoint/autograd";
import { type CausalLM, loadModel } from "@adjoint/models";
import { assign, type Backend, clearPlans, getDevice, type HostArray, setDevice, type Tensor } from "@adjoint/tensor";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { wasm } from "@adjoint/wasm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createLora, type CreateLoraOptions, type InitialData, loadLora, type Tuned } from "../src/index.ts";
import { batchOf } from "./batch.ts";

type Batch = ReturnType<typeof batchOf>;
let before: Backend, scratch: string;
beforeAll(async () => { before = getDevice(); setDevice(await wasm({ threads: 1 })); scratch = await mkdtemp(join(tmpdir(), "adjoint-start-")); });
afterAll(async () => { clearPlans(); setDevice(before); await rm(scratch, { recursive: true }); });

const { base, rows } = golden<{ base: string; rows: number[][] }>("peft/lora");
const open = (): Promise<CausalLM> => loadModel(fixture(base), { tokenizer: false });
/** dL/dW of the mean loss over batches, as a caller takes it. */
const gradientsOf = (model: CausalLM, batches: readonly Batch[]): InitialData["gradients"] => async (weights) => {
  const names = [...weights.keys()], found = new Map<string, HostArray>();
  const losses = batches.map((b) => model.loss(b)), loss = losses.reduce((a, b) => a.add(b)).div(batches.length), g = gradients(loss, Object.fromEntries(weights));
  for (const name of names) found.set(name, await (g[name] ?? loss).host());
  return found;
};
const start = async (options: CreateLoraOptions): Promise<Tuned<CausalLM>> => {
  const model = await open(), batches = [batchOf(rows), batchOf(rows.slice(0, 2))];
  return createLora(model, { r: 4, loraAlpha: 8, targetModules: "all-linear", ...options }, { batches, gradients: gradientsOf(model, batches) });
};
const nll = async (loss: Tensor): Promise<number> => loss.item();

describe("a Llama", () => {
  it.each(["pissa", "corda", "lora_ga", "eva"] as const)("with %s starts at the base's loss, trains, and is saved for the unchanged base", async (initLoraWeights) => {
    const tuned = await start({ initLoraWeights, evaConfig: initLoraWeights === "eva" ? { tau: 0.9 } : null }), batch = batchOf(rows), factors = [...tuned.tensors().values()];
    const first = await nll(tuned.loss(batch));
    expect(first).toBeCloseTo(await nll(tuned.base.loss(batch)), 5);
    for (let i = 0; i < 2; i++) {
      const g = gradients(tuned.loss(batch), factors), norm = Math.hypot(...(await Promise.all(g.map(async (d) => Math.hypot(...(await (d ?? batch.inputIds).data()))))));
      assign(factors, factors.map((p, j) => p.sub(g[j]?.mul(0.05 / norm) ?? 0)));
    }
    const last = await nll(tuned.loss(batch)), at = join(scratch, initLoraWeights);
    expect(last).toBeLessThan(first - 1e-3);
    await tuned.save(at);
    const { tuned: back } = await loadLora(await open(), at);
    expect(await nll(back.loss(batch))).toBeCloseTo(last, 5);
    if (initLoraWeights === "eva") expect(back.targets.targets.reduce((n, t) => n + t.r, 0)).toBe(4 * (tuned.targets.targets.length + tuned.targets.notAdapted.filter((p) => !p.endsWith("lm_head")).length));
  });

  it("decomposes an input that layers share once: query, key and value get the same directions", async () => {
    const tuned = await start({ initLoraWeights: "eva", evaConfig: { rho: 1, tau: 0.9 } }), of = async (name: string): Promise<HostArray["data"] | undefined> => (await tuned.tensors().get(`base_model.model.model.layers.0.self_attn.${name}.lora_A.weight`)?.host())?.data;
    expect(await of("q_proj")).toEqual(await of("k_proj"));
    expect(await of("q_proj")).toEqual(await of("v_proj"));
    expect(await of("q_proj")).not.toEqual(await of("o_proj"));
  });
});
