/** Fixtures and small helpers of the training tests. */
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadLora, type Tuned } from "@adjoint/lora";
import { type CausalLM, loadModel } from "@adjoint/models";
import type { HostArray } from "@adjoint/tensor";
import { fixture } from "@adjoint/testing/fixtures";
import { afterAll, expect } from "vitest";

const made: string[] = [];
/** A folder that is gone after the tests. */
export function temporary(): string {
  const folder = mkdtempSync(join(tmpdir(), "adjoint-train-"));
  made.push(folder);
  return folder;
}
afterAll(() => { for (const folder of made) rmSync(folder, { recursive: true, force: true }); });

/** The tiny Llama with the adapter of a PEFT fixture. */
export async function tunedOf(name = "rslora", base = "llama/tiny"): Promise<Tuned<CausalLM>> {
  return (await loadLora(await loadModel(fixture(base), { tokenizer: false }), fixture(`peft/${name}/adapter`))).tuned;
}

/** |got - want| <= relative * |want| */
export const near = (got: number, want: number, relative: number, what = ""): void => {
  expect(Math.abs(got - want), `${what}: ${got} is not ${want} to ${relative}`).toBeLessThanOrEqual(relative * Math.max(Math.abs(want), 1e-12));
};
/** largest |got - want| */
export function worst(got: ArrayLike<number>, want: ArrayLike<number>): number {
  expect(got.length).toBe(want.length);
  let most = 0;
  for (let i = 0; i < got.length; i++) most = Math.max(most, Math.abs(got[i] - want[i]));
  return most;
}
/** Hashes of the bytes of arrays by name, for comparisons bit by bit. */
export const bits = (arrays: Iterable<readonly [string, HostArray]>): Record<string, string> =>
  Object.fromEntries([...arrays].map(([name, { data }]) => [name, createHash("sha256").update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength)).digest("hex").slice(0, 16)]));
