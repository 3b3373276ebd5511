import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { flatten, type HostArray, scope, Tensor } from "@adjoint/tensor";
import { fixture, golden, goldenTensors } from "@adjoint/testing/fixtures";
import { loadLora, readAdapterDirectory } from "../src/index.ts";
import { batchOf } from "./batch.ts";
import { baseOf, type KindGolden, kinds } from "./kinds.ts";

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;
/** Copies in a tied head that PEFT gives gradients of their own; ours are in the embedding's. */
const isCopy = (name: string, key: string): boolean => name === "targets-tied" && key.includes("lm_head");

function error(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let top = 0, difference = 0;
  for (let i = 0; i < b.length; i++) {
    top = Math.max(top, Math.abs(b[i]));
    difference = Math.max(difference, Math.abs(a[i] - b[i]));
  }
  return a.length === b.length ? (top === 0 ? difference : difference / top) : Infinity;
}

const scratch = mkdtempSync(join(tmpdir(), "adjoint-kinds-"));
afterAll(() => { rmSync(scratch, { recursive: true, force: true }); });
const weightsFile = "adapter_model.safetensors", configFile = "adapter_config.json";
const read = async (dir: string): Promise<ReadonlyMap<string, HostArray>> => (await readAdapterDirectory(dir)).tensors;

describe.each(kinds)("PEFT's adapter: %s", (name) => {
  it("gives PEFT's loss, logits and gradients, and is written again as it was", async () => {
    const g = golden<KindGolden>(`peft/${name}`), tensors = goldenTensors(`peft/${name}`), model = await baseOf(g.base), rows = g.rows.slice(0, 2);
    const dir = fixture(`peft/${name}/adapter`), { tuned, report } = await loadLora(model, dir);
    expect(report).toMatchObject({ missing: [], unexpected: [], mismatched: [], renamed: [] });
    const { loss, logits, part, grads } = scope(() => {
      const l = tuned.loss(batchOf(rows));
      return { loss: tuned.loss(batchOf(g.rows)), logits: tuned.forward(batchOf(rows).inputIds), part: l, grads: flatten(gradients(l, tuned.adapter), isTensor) };
    });
    expect(Math.abs((await loss.item()) / g.loss - 1)).toBeLessThan(2e-6);
    const theirs = tensors.get("logits"), [, T, V] = theirs?.shape ?? [], ours = await logits.data();
    rows.forEach((row, r) => {
      const of = (x: ArrayLike<number>): number[] => Array.from(x).slice(r * T * V, (r * T + row.length) * V);
      expect(error(of(ours), of(theirs?.data ?? []))).toBeLessThan(1e-5);
    });
    await part.item();
    const names = [...tensors.keys()].filter((k) => k.startsWith("grad/") && !isCopy(name, k));
    expect(grads.paths.map((k) => `grad/${k}`).sort()).toEqual(names.sort());
    for (const [i, key] of grads.paths.entries()) {
      const wanted = Float64Array.from(tensors.get(`grad/${key}`)?.data ?? []);
      if (name === "targets-tied" && key.includes("embed_tokens")) {
        const copy = tensors.get(`grad/base_model.model.lm_head.lora_${key.endsWith("A") ? "B" : "A"}.weight`), [n, m] = copy?.shape ?? [];
        for (let a = 0; a < n; a++) for (let b = 0; b < m; b++) wanted[b * n + a] += copy?.data[a * m + b] ?? 0;
      }
      expect(error(await grads.leaves[i].data(), wanted), key).toBeLessThan(2e-5);
    }
    const out = join(scratch, name), targets: unknown = JSON.parse(readFileSync(join(dir, configFile), "utf8"));
    const embeddings = [...(await read(dir)).keys()].some((k) => k.endsWith("base_layer.weight"));
    await tuned.save(out, { saveEmbeddings: embeddings });
    expect(JSON.parse(readFileSync(join(out, configFile), "utf8"))).toEqual(targets);
    expect(await read(out)).toEqual(await read(dir));
    if (existsSync(join(dir, weightsFile))) expect(readFileSync(join(out, weightsFile)).equals(readFileSync(join(dir, weightsFile)))).toBe(true);
  });
});
