/** Reads the folders under fixtures/data. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseSafetensors } from "@adjoint/io";
import { type Tensor, fromHost, tensor } from "@adjoint/tensor";

export const fixture = (path: string): string => fileURLToPath(new URL(`../../../fixtures/data/${path}`, import.meta.url));
export const golden = <T>(name: string): T => JSON.parse(readFileSync(fixture(`${name}/golden.json`), "utf8")) as T;
export const goldenTensors = (name: string): ReadonlyMap<string, Tensor> =>
  new Map([...parseSafetensors(readFileSync(fixture(`${name}/golden.safetensors`)), name).tensors].map(([key, h]) => [key, fromHost(h)]));

/** Rows of ids, padded on the right; labels -100 at padding. */
export function rowsOf(rows: readonly (readonly number[])[], length: number = Math.max(...rows.map((r) => r.length))): { inputIds: Tensor; labels: Tensor; attentionMask: Tensor } {
  const fill = (padding: number, f: (id: number) => number): Tensor => tensor(Int32Array.from(rows.flatMap((r) => Array.from({ length }, (_, i) => (i < r.length ? f(r[i]) : padding)))), { shape: [rows.length, length] });
  return { inputIds: fill(0, (id) => id), labels: fill(-100, (id) => id), attentionMask: fill(0, () => 1).cast("bool") };
}
