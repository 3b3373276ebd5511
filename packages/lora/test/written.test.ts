/**
 * Adapters that are made here, of every kind, read again. With ADJOINT_WRITE_ADAPTERS=FOLDER the directories stay there, with what they should give:
 * `python fixtures/check_written.py FOLDER` then loads each in PEFT.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { type HostArray, hostArray } from "@adjoint/tensor";
import { golden } from "@adjoint/testing/fixtures";
import { camelCase } from "../src/config.ts";
import { loadLora, lora, type LoraOptions, type Tuned } from "../src/index.ts";
import { batchOf } from "./batch.ts";
import { baseOf, type KindGolden, kinds } from "./kinds.ts";

const kept = process.env["ADJOINT_WRITE_ADAPTERS"], folder = kept ?? mkdtempSync(join(tmpdir(), "adjoint-written-"));
const chosen = kept === undefined ? ["save-tied", "tokens-both", "gpt2-save", "gpt2-parameters", "dora-bias"] : kinds.filter((k) => k !== "save-half-tied"); // that one parts tied weights, which a new adapter must not
const expected: Record<string, { readonly base: string; readonly loss: number }> = {};
afterAll(() => {
  if (kept === undefined) rmSync(folder, { recursive: true, force: true });
  else writeFileSync(join(folder, "expected.json"), JSON.stringify({ rows: golden<KindGolden>("peft/two").rows, adapters: expected }, null, 1));
});

/** Factors on a grid; what started as a copy of the base moves a little. */
async function fill<M>(tuned: Tuned<M>): Promise<Tuned<M>> {
  let k = 3;
  for (const [name, s] of tuned.tensors()) {
    const data = hostArray("f32", s.size), now = await s.data(), small = name.includes(".lora_") && !name.includes("magnitude") ? 1 : 0.5;
    for (let i = 0; i < data.length; i++) data[i] = now[i] * (small === 1 ? 0 : 1) + (small * ((((k = (Math.imul(k, 1664525) + 1013904223) >>> 0) >>> 8) % 65 - 32) / 64)) / 4;
    s.set({ dtype: "f32", shape: s.shape, data } satisfies HostArray);
  }
  return tuned;
}

it.each(chosen)("a new adapter reads again as it was written: %s", async (name) => {
  const { base, options, rows } = golden<KindGolden>(`peft/${name}`), { others: _, ...own } = options;
  const given: LoraOptions = Object.fromEntries(Object.entries(own).map(([k, v]) => [camelCase(k), v]));
  const model = await baseOf(base), tuned = await fill(lora(model, given)), loss = await tuned.loss(batchOf(rows)).item(), dir = join(folder, name);
  await tuned.save(dir);
  const { tuned: again, report } = await loadLora(model, dir);
  expect(report).toMatchObject({ missing: [], unexpected: [], mismatched: [], renamed: [] });
  expect(await again.loss(batchOf(rows)).item()).toBe(loss);
  expect(again.fileConfig()).toEqual({ ...tuned.fileConfig(), inferenceMode: false, targetModules: again.fileConfig().targetModules });
  expected[name] = { base, loss };
});
