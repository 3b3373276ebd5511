import { describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { type CausalLM, loadModel } from "@adjoint/models";
import { flatten, type HostArray, scope, Tensor } from "@adjoint/tensor";
import { fixture, golden, goldenTensors } from "@adjoint/testing/fixtures";
import { loadLora, type Tuned } from "../src/index.ts";
import { batchOf } from "./batch.ts";

interface Golden {
  readonly base: string;
  readonly rows: number[][];
  readonly loss: number;
  readonly loss_base: number;
  readonly gradient_loss: number;
  readonly training: { readonly batch_size: number; readonly betas: [number, number]; readonly eps: number };
  readonly steps: readonly { readonly loss: number; readonly grad_norm: number; readonly learning_rate: number }[];
  readonly loss_after: number;
}

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;
const adapters = ["lora", "rslora", "patterns", "bf16-base", "embedding"];

async function open(name: string): Promise<{ g: Golden; model: CausalLM; tuned: Tuned<CausalLM>; tensors: ReadonlyMap<string, HostArray> }> {
  const g = golden<Golden>(`peft/${name}`);
  const model = await loadModel(fixture(g.base));
  const { tuned } = await loadLora(model, fixture(`peft/${name}/adapter`));
  return { g, model, tuned, tensors: goldenTensors(`peft/${name}`) };
}

/** max |a - b| over max |b| */
function error(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let top = 0, difference = 0;
  for (let i = 0; i < b.length; i++) {
    top = Math.max(top, Math.abs(b[i]));
    difference = Math.max(difference, Math.abs(a[i] - b[i]));
  }
  return a.length === b.length ? difference / top : Infinity;
}

async function gradientsOf(tuned: Tuned<CausalLM>, rows: readonly (readonly number[])[]): Promise<{ loss: number; grads: Map<string, Float64Array> }> {
  const { loss, leaves } = scope(() => {
    const l = tuned.loss(batchOf(rows));
    return { loss: l, leaves: flatten(gradients(l, tuned.adapter), isTensor).leaves };
  });
  const { paths } = flatten(tuned.adapter, isTensor);
  const grads = new Map<string, Float64Array>();
  for (const [i, g] of leaves.entries()) grads.set(paths[i], Float64Array.from(await g.data()));
  return { loss: await loss.item(), grads };
}

describe("against PEFT", () => {
  it.each(adapters)("logits, loss and gradients of A and B: %s", async (name) => {
    const { g, model, tuned, tensors } = await open(name);
    expect(Math.abs((await tuned.loss(batchOf(g.rows)).item()) / g.loss - 1)).toBeLessThan(2e-6);
    expect(Math.abs((await model.loss(batchOf(g.rows)).item()) / g.loss_base - 1)).toBeLessThan(2e-6);
    const logits = tensors.get("logits"), [, T, V] = logits?.shape ?? [];
    const ours = await tuned.forward(batchOf(g.rows).inputIds).data();
    g.rows.forEach((row, r) => {
      const part = (x: ArrayLike<number>): number[] => Array.from(x).slice(r * T * V, (r * T + row.length) * V);
      expect(error(part(ours), part(logits?.data ?? []))).toBeLessThan(1e-5);
    });
    const { loss, grads } = await gradientsOf(tuned, g.rows.slice(0, g.training.batch_size));
    expect(Math.abs(loss / g.gradient_loss - 1)).toBeLessThan(2e-6);
    expect([...grads.keys()].map((k) => `grad/${k}`).sort()).toEqual([...tensors.keys()].filter((k) => k.startsWith("grad/")).sort());
    for (const [key, value] of grads) expect(error(value, tensors.get(`grad/${key}`)?.data ?? []), key).toBeLessThan(1e-5);
  });

  it.each(adapters)("merged weights: %s", async (name) => {
    const { tuned, tensors } = await open(name);
    const merged = tuned.mergedWeights();
    expect([...merged.keys()].map((k) => `merged/${k}`).sort()).toEqual([...tensors.keys()].filter((k) => k.startsWith("merged/")).sort());
    for (const [key, value] of merged) {
      const theirs = tensors.get(`merged/${key}`);
      const tolerance = value.dtype === "bf16" ? 2 ** -8 : 1e-6; // PEFT merged onto the widened base there
      expect(error(await value.data(), theirs?.data ?? []), key).toBeLessThan(tolerance);
    }
  });

  it.each(adapters)("five AdamW steps end at PEFT's adapter: %s", async (name) => {
    const { g, tuned } = await open(name);
    const { betas: [b1, b2], eps, batch_size: size } = g.training;
    const moments = new Map([...tuned.tensors()].map(([k, s]) => [k, { m: new Float64Array(s.size), v: new Float64Array(s.size) }]));
    for (const [t, step] of g.steps.entries()) {
      const { loss, grads } = await gradientsOf(tuned, Array.from({ length: size }, (_, i) => g.rows[(t * size + i) % g.rows.length]));
      const norm = Math.hypot(...[...grads.values()].map((x) => Math.hypot(...x)));
      expect(Math.abs(loss / step.loss - 1)).toBeLessThan(1e-5);
      expect(Math.abs(norm / step.grad_norm - 1)).toBeLessThan(1e-4);
      const clip = Math.min(1, 1 / (norm + 1e-6));
      for (const [key, p] of tuned.tensors()) {
        const grad = grads.get(key), moment = moments.get(key);
        if (grad === undefined || moment === undefined) continue;
        const old = await p.data();
        const next = Float32Array.from(old, (w, i) => {
          const gi = grad[i] * clip;
          moment.m[i] = b1 * moment.m[i] + (1 - b1) * gi;
          moment.v[i] = b2 * moment.v[i] + (1 - b2) * gi * gi;
          return w - (step.learning_rate * moment.m[i]) / (1 - b1 ** (t + 1)) / (Math.sqrt(moment.v[i] / (1 - b2 ** (t + 1))) + eps);
        });
        p.set({ dtype: "f32", shape: p.shape, data: next });
      }
    }
    const trained = goldenTensors(`peft/${name}`, "trained/adapter_model.safetensors");
    for (const [key, p] of tuned.tensors()) {
      const theirs = trained.get(key)?.data ?? new Float32Array(0);
      (await p.data()).forEach((v, i) => { expect(Math.abs(v - theirs[i]), `${key}[${i}]`).toBeLessThan(5e-5); });
    }
    expect(Math.abs((await tuned.loss(batchOf(g.rows)).item()) / g.loss_after - 1)).toBeLessThan(1e-4);
  });
});
