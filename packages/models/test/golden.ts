/** Rows and tensors of the golden fixtures. */
import { type Tensor, fromHost, tensor } from "@adjoint/tensor";
import { goldenTensors } from "@adjoint/testing/fixtures";

/** The tensors of a fixture. */
export const tensorsOf = (name: string): ReadonlyMap<string, Tensor> => new Map([...goldenTensors(name)].map(([key, h]) => [key, fromHost(h)]));

/** Rows of ids, padded on the right; labels -100 at padding. */
export function rowsOf(rows: readonly (readonly number[])[], length: number = Math.max(...rows.map((r) => r.length))): { inputIds: Tensor; labels: Tensor; attentionMask: Tensor } {
  const fill = (padding: number, f: (id: number) => number): Tensor => tensor(Int32Array.from(rows.flatMap((r) => Array.from({ length }, (_, i) => (i < r.length ? f(r[i]) : padding)))), { shape: [rows.length, length] });
  return { inputIds: fill(0, (id) => id), labels: fill(-100, (id) => id), attentionMask: fill(0, () => 1).cast("bool") };
}
