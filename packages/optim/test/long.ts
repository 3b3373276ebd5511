/** The stream of numbers of the fixtures, the trees it fills, and runs of fifty steps. */
import { type DType, type HostArray, type Store, type Tensor, convertArray, fromHost, store } from "@adjoint/tensor";
import { golden, goldenTensors } from "@adjoint/testing/fixtures";
import { expect } from "vitest";

interface LongCase { readonly name: string; readonly optimizer: string; readonly options: Readonly<Record<string, unknown>> }
interface Long {
  readonly leaves: Shapes; readonly matrices: Shapes; readonly adapter: Shapes; readonly scales: Readonly<Record<string, number>>;
  readonly cases: readonly LongCase[]; readonly adapters: readonly LongCase[]; readonly eight_bit: readonly LongCase[];
}
export type Shapes = Readonly<Record<string, readonly number[]>>;
export const long: Long = golden<Long>("optim-long");
export const longTensors: ReadonlyMap<string, HostArray> = goldenTensors("optim-long");
export const SEED = 97;

/** `Grid` of fixtures/generate/common.py: a linear congruential stream on a dyadic grid. */
export class Grid {
  #state: number;
  constructor(seed: number) { this.#state = seed >>> 0; }
  host(shape: readonly number[], scale: number, dtype: DType): HostArray {
    const data = Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => {
      this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
      return (((this.#state >>> 8) % 129) - 64) / 64 * scale;
    });
    return { dtype, shape, data: convertArray(data, "f64", dtype) };
  }
  stores(shapes: Shapes, dtype: DType): Record<string, Store> { return Object.fromEntries(Object.entries(shapes).map(([k, s]) => [k, store(this.host(s, 1, dtype), k)])); }
  gradients(shapes: Shapes, dtype: DType): Record<string, Tensor> { return Object.fromEntries(Object.entries(shapes).map(([k, s]) => [k, fromHost(this.host(s, 2, dtype))])); }
}

/** lr, weight_decay, lr_decay, ... as this library's options; every leaf decays, as in the libraries. */
export function optionsOf(options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const camel = (key: string): string => (key === "lr" ? "learningRate" : key.replace(/_(\w)/g, (_, c: string) => c.toUpperCase()));
  return { ...Object.fromEntries(Object.entries(options).map(([k, v]) => [camel(k), v])), noDecay: null };
}

/** |a - b| ≤ bound · max |b| over a tensor. */
export function expectNear(a: ArrayLike<number>, name: string, bound: number): void {
  const want = longTensors.get(name)!.data, size = Math.max(...Array.from(want, Math.abs), 1e-300);
  expect(a.length, name).toBe(want.length);
  let worst = 0, where = 0;
  for (let i = 0; i < a.length; i++) { const d = Math.abs(a[i] - want[i]) / size; if (!(d <= worst)) { worst = d; where = i; } }
  expect(worst, `${name}: element ${where}: ${a[where]} instead of ${want[where]}`).toBeLessThanOrEqual(bound);
}
