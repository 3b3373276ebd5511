/** Closeness to golden fixtures, and the devices that must be close. */
import { type Backend, createReference } from "@adjoint/tensor";
import { wasmSync } from "@adjoint/wasm";
import { expect } from "vitest";

/** |a - b| ≤ bound · max(1, |b|), element by element. */
export function expectClose(a: ArrayLike<number>, b: ArrayLike<number>, bound: number, what = ""): void {
  expect(a.length, what).toBe(b.length);
  let worst = 0, where = 0;
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs(a[i] - b[i]) / Math.max(1, Math.abs(b[i]));
    if (!(d <= worst)) { worst = d; where = i; }
  }
  expect(worst, `${what}: element ${where}: ${a[where]} instead of ${b[where]}`).toBeLessThanOrEqual(bound);
}

/** The reference, one kernel a node; fused; fused with a memory plan that shows its faults; WebAssembly. */
export const devices: readonly Backend[] = [createReference(), createReference({ name: "fused", fuse: true }), createReference({ name: "arena", fuse: true, arena: true }), wasmSync()];
const lenient: ReadonlySet<Backend> = new Set([devices[1], devices[2]]);

/** Bit for bit where every node rounds; to 1e-5 where fused kernels of the reference round less often, by what shares a plan. */
export function expectSame(device: Backend, a: readonly number[], b: readonly number[]): void {
  if (lenient.has(device)) expectClose(a, b, 1e-5); else expect(a).toEqual(b);
}
