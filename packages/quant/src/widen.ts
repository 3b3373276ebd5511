/** From the bits of half floats to f32, exactly. */
import { fromF16 } from "@adjoint/tensor";
import type { Elements, Input } from "./simd.ts";

/** Elements [from, to) to the beginning of `wide`, whose bits are `words`. */
export function widen(data: Elements, input: Input, from: number, to: number, wide: Float32Array, words: Uint32Array): void {
  if (input === "bf16") for (let i = from; i < to; i++) words[i - from] = data[i] << 16;
  else for (let i = from, table = (halves ??= Float32Array.from({ length: 65536 }, (_, bits) => fromF16(bits))); i < to; i++) wide[i - from] = table[data[i]];
}
let halves: Float32Array | undefined;
