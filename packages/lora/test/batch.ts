/** Rows of token ids as a batch. */
import type { Batch } from "@adjoint/models";
import { type Tensor, tensor } from "@adjoint/tensor";

/** Right-padded; a causal model needs no mask for that, and -100 leaves the padding out of the loss. */
export function batchOf(rows: readonly (readonly number[])[]): Batch {
  const T = Math.max(...rows.map((r) => r.length));
  const fill = (pad: number): Tensor => tensor(Int32Array.from(rows.flatMap((r) => Array.from({ length: T }, (_, i) => r[i] ?? pad))), { shape: [rows.length, T] });
  return { inputIds: fill(0), labels: fill(-100) };
}
