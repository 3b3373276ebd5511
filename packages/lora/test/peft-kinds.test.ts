/**
 * Adapters of every kind against PEFT: its directories give its numbers and are written again byte for byte; ours are read again as they were written.
 * With ADJOINT_WRITE_ADAPTERS=FOLDER the latter stay there, and `python fixtures/check_written.py FOLDER` loads each in PEFT.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { type CausalLM, loadModel } from "@adjoint/models";
import { flatten, type HostArray, hostArray, scope, Tensor } from "@adjoint/tensor";
import { fixture, golden, goldenTensors } from "@adjoint/testing/fixtures";
import { camelCase } from "../src/config/config.ts";
import { loadLora, lora, type LoraOptions, readAdapterDirectory, type Tuned } from "../src/index.ts";
import { batchOf } from "./batch.ts";

interface Golden {
  readonly base: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly rows: number[][];
  readonly loss: number;
  readonly loss_other?: number;
}

/** By what trains: loss, gradients and files. */
const trained = [
  "bias-all", "bias-on-b", "save-norms", "save-bias", "save-mlp", "save-tied", "targets-tied", "tokens-both", "tokens-tied", "parameters", "dora-embedding", "dora-bias",
  "qwen2-rslora", "qwen2-bias-only", "qwen2-save", "gpt2-all", "gpt2-bias-all", "gpt2-save", "gpt2-parameters",
];
/** The same on other bases, or in other words: loss, logits and files. */
const others = ["bias-only", "save-head", "save-half-tied", "tokens", "dora", "two", "qwen2", "qwen2-bias-all", "qwen2-tokens", "qwen2-dora", "gpt2", "gpt2-bias-only", "gpt2-dora", "gpt2-embedding"];

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;
const bases = new Map<string, Promise<CausalLM>>();
/** A base model, loaded once: adapters leave it as it is. */
const baseOf = (name: string): Promise<CausalLM> => {
  const found = bases.get(name) ?? loadModel(fixture(name));
  bases.set(name, found);
  return found;
};

/** max |a - b| over max |b| */
function error(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let top = 0, difference = 0;
  for (let i = 0; i < b.length; i++) {
    top = Math.max(top, Math.abs(b[i]));
    difference = Math.max(difference, Math.abs(a[i] - b[i]));
  }
  return a.length === b.length ? difference / (top === 0 ? 1 : top) : Infinity;
}

/** PEFT's gradients by our names: those of a tied head's copies belong to the embedding's factors. */
function theirGradients(name: string, tensors: ReadonlyMap<string, HostArray>): ReadonlyMap<string, Float64Array> {
  const out = new Map([...tensors].flatMap(([k, t]) => (k.startsWith("grad/") ? [[k.slice(5), Float64Array.from(t.data)] as const] : [])));
  if (name !== "targets-tied") return out;
  for (const [head, embedding] of [["lora_A.weight", "lora_embedding_B"], ["lora_B.weight", "lora_embedding_A"]]) {
    const key = `base_model.model.lm_head.${head}`, copy = tensors.get(`grad/${key}`), [n, m] = copy?.shape ?? [], into = out.get(`base_model.model.model.embed_tokens.${embedding}`);
    if (copy === undefined || into === undefined) throw new Error(key);
    for (let a = 0; a < n; a++) for (let b = 0; b < m; b++) into[b * n + a] += copy.data[a * m + b];
    out.delete(key);
  }
  return out;
}

const kept = process.env["ADJOINT_WRITE_ADAPTERS"], scratch = mkdtempSync(join(tmpdir(), "adjoint-kinds-")), expected: Record<string, { readonly base: string; readonly loss: number }> = {};
afterAll(() => {
  rmSync(scratch, { recursive: true, force: true });
  if (kept !== undefined) writeFileSync(join(kept, "expected.json"), JSON.stringify({ rows: golden<Golden>("peft/two").rows, adapters: expected }, null, 1));
});

describe("PEFT's adapter", () => {
  it.each([...trained, ...others])("gives PEFT's numbers and is written again as it was: %s", async (name) => {
    const g = golden<Golden>(`peft/${name}`), tensors = goldenTensors(`peft/${name}`), rows = g.rows.slice(0, 2);
    const dir = fixture(`peft/${name}/adapter`), { tuned, report } = await loadLora(await baseOf(g.base), dir);
    expect(report).toMatchObject({ missing: [], unexpected: [], mismatched: [], renamed: [] });
    expect(Math.abs((await tuned.loss(batchOf(g.rows)).item()) / g.loss - 1)).toBeLessThan(2e-6);
    if (trained.includes(name)) {
      const grads = scope(() => flatten(gradients(tuned.loss(batchOf(rows)), tuned.adapter), isTensor));
      const wanted = theirGradients(name, tensors);
      expect(grads.paths.toSorted()).toEqual([...wanted.keys()].sort());
      for (const [i, key] of grads.paths.entries()) expect(error(await grads.leaves[i].data(), wanted.get(key) ?? []), key).toBeLessThan(2e-5);
    }
    if (others.includes(name)) {
      const theirs = tensors.get("logits"), [, T, V] = theirs?.shape ?? [], ours = await tuned.forward(batchOf(rows).inputIds).data();
      rows.forEach((row, r) => {
        const of = (x: ArrayLike<number>): number[] => Array.from(x).slice(r * T * V, (r * T + row.length) * V);
        expect(error(of(ours), of(theirs?.data ?? []))).toBeLessThan(1e-5);
      });
    }
    const out = join(scratch, name), { tensors: inFile } = await readAdapterDirectory(dir);
    await tuned.save(out, { saveEmbeddings: [...inFile.keys()].some((k) => k.endsWith("base_layer.weight")) });
    expect(JSON.parse(readFileSync(join(out, "adapter_config.json"), "utf8"))).toEqual(JSON.parse(readFileSync(join(dir, "adapter_config.json"), "utf8")));
    expect(Buffer.compare(readFileSync(join(out, "adapter_model.safetensors")), readFileSync(join(dir, "adapter_model.safetensors")))).toBe(0);
  });

  it("may lie in a subfolder of its name", async () => {
    const { base, rows, loss_other: loss = NaN } = golden<Golden>("peft/two"), { tuned } = await loadLora(await baseOf(base), fixture("peft/two/adapter/other"));
    expect(Math.abs((await tuned.loss(batchOf(rows)).item()) / loss - 1)).toBeLessThan(2e-6);
  });
});

/** Factors on a grid; what started as a copy of the base moves a little. */
async function fill<M>(tuned: Tuned<M>): Promise<Tuned<M>> {
  let k = 3;
  for (const [name, s] of tuned.tensors()) {
    const data = hostArray("f32", s.size), now = await s.data(), fresh = name.includes(".lora_") && !name.includes("magnitude");
    for (let i = 0; i < data.length; i++) data[i] = (fresh ? 0 : now[i]) + ((((k = (Math.imul(k, 1664525) + 1013904223) >>> 0) >>> 8) % 65) - 32) / (fresh ? 256 : 512);
    s.set({ dtype: "f32", shape: s.shape, data });
  }
  return tuned;
}

describe("a new adapter", () => {
  // save-half-tied parts tied weights, which a new adapter must not
  it.each(kept === undefined ? ["save-bias", "targets-tied", "tokens-both", "gpt2-save"] : [...trained, ...others].filter((k) => k !== "save-half-tied"))("is read again as it was written: %s", async (name) => {
    const { base, options, rows } = golden<Golden>(`peft/${name}`), { others: _, ...own } = options;
    const given: LoraOptions = Object.fromEntries(Object.entries(own).map(([k, v]) => [camelCase(k), v]));
    const model = await baseOf(base), tuned = await fill(lora(model, given)), loss = await tuned.loss(batchOf(rows)).item(), dir = join(kept ?? scratch, kept === undefined ? `${name}-new` : name);
    await tuned.save(dir);
    const { tuned: again, report } = await loadLora(model, dir);
    expect(report).toMatchObject({ missing: [], unexpected: [], mismatched: [], renamed: [] });
    expect(await again.loss(batchOf(rows)).item()).toBe(loss);
    expect(again.fileConfig()).toEqual({ ...tuned.fileConfig(), inferenceMode: false, targetModules: again.fileConfig().targetModules });
    expected[name] = { base, loss };
  });
});
