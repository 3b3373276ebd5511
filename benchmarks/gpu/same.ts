/** What every system gets alike: sizes of the two models, tokens, and numbers; rivals read this file too, so it needs no device. */
import { hostUniform } from "@adjoint/tensor";
import { block } from "./block.ts";

/** rank and alpha of every adapter here */
export const rank = 16, alpha = 32;

export interface Gpt2Sizes { readonly layers: number; readonly width: number; readonly heads: number; readonly vocabulary: number; readonly positions: number }
export const gpt2Small: Gpt2Sizes = { layers: 12, width: 768, heads: 12, vocabulary: 50257, positions: 1024 };
export const gpt2Tiny: Gpt2Sizes = { layers: 2, width: 64, heads: 2, vocabulary: 199, positions: 64 };

/** The shape of Llama 3.2 1B, as its config.json says it. */
export const llama1b = { model_type: "llama", vocab_size: 128256, hidden_size: 2048, intermediate_size: 8192, num_hidden_layers: 16, num_attention_heads: 32, num_key_value_heads: 8, head_dim: 64, max_position_embeddings: 8192, rms_norm_eps: 1e-5, rope_theta: 500000, tie_word_embeddings: true } as const;
export type LlamaSizes = { readonly [K in keyof typeof llama1b]: (typeof llama1b)[K] extends number ? number : (typeof llama1b)[K] };
export const llamaTiny: LlamaSizes = { ...llama1b, vocab_size: 199, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, max_position_embeddings: 64 };

/** Rows and tokens a row of a training step. */
export const batchOf = (task: "gpt2-lora" | "llama-lora", { smoke, scale }: { readonly smoke: boolean; readonly scale: number }): { readonly batch: number; readonly length: number } => {
  const [rows, length] = task === "gpt2-lora" ? [8, 512] : [4, 1024];
  return smoke ? { batch: 1, length: 32 } : { batch: Math.max(1, Math.round(rows * scale)), length };
};
/** Tokens of a step: no learning in them, all ids in reach. */
export const idsOf = (count: number, vocabulary: number): Int32Array => Int32Array.from({ length: count }, (_, i) => (i * 7919) % vocabulary);

/** Number `i` of a weight that is stored in f32, or cut to bf16. */
const short = block.map((x) => new Float32Array(Uint32Array.of(new Uint32Array(Float32Array.of(x).buffer)[0] & 0xffff0000).buffer)[0]);

/** A weight as f32 numbers: [rows, columns], laid out by rows, or turned to [columns, rows]. */
export function weightNumbers([rows, columns]: readonly [number, number], dtype: "f32" | "bf16" = "bf16", turn = false): Float32Array {
  const from = dtype === "bf16" ? short : block, mask = block.length - 1, out = new Float32Array(rows * columns);
  if (!turn) for (let at = 0; at < out.length; at += from.length) out.set(out.length - at < from.length ? from.subarray(0, out.length - at) : from, at);
  else for (let c = 0, at = 0; c < columns; c++) for (let r = 0; r < rows; r++) out[at++] = from[(r * columns + c) & mask];
  return out;
}
/** An adapter's A as [in, rank]: the numbers that `lora(model, { seed: 1 })` starts from, turned. */
export function adapterNumbers(path: string, inFeatures: number): Float32Array {
  const bound = 1 / Math.sqrt(inFeatures), { data } = hostUniform(1, `lora/init/${path}/A`, [rank, inFeatures], { low: -bound, high: bound }), out = new Float32Array(data.length);
  for (let i = 0; i < inFeatures; i++) for (let j = 0; j < rank; j++) out[i * rank + j] = Number(data[j * inFeatures + i]);
  return out;
}
