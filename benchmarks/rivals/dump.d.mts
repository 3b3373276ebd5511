/** Types of dump.mjs: the weights and the batch that all systems start from. */
export interface Sizes { readonly layers: number; readonly width: number; readonly heads: number; readonly length: number; readonly batch: number; readonly vocabulary: number }
export interface Dump {
  readonly sizes: Sizes;
  readonly rate: number;
  readonly decay: number;
  readonly ids: Int32Array;
  readonly labels: Int32Array;
  readonly weights: ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Float32Array }>;
}
export function readDump(folder: string, options?: { readonly turn?: boolean }): Dump;
export const products: Readonly<Record<"gemm-1024" | "lora-down" | "lora-up", readonly [number, number, number]>>;
export function numbers(count: number, seed: number): Float32Array;
