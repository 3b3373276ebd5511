/** `ensure_weight_tying`: the adapter of an embedding in the output head that shares its weight, so that the two stay one matrix. */
import { wide } from "@adjoint/nn";
import type { AdapterMethod } from "../adapter.ts";
import { factorKey } from "../files/peft-keys.ts";

/** With the embedding's A [r, vocabulary] and B [width, r], the head adds s (x B) A: as PEFT writes it, lora_A = Bᵀ and lora_B = Aᵀ. */
export const tiedLowRank: AdapterMethod = {
  name: "lora-tied",
  shapes: () => ({}),
  init: () => ({}),
  forward: ({ A, B }, { scale }, { x, y }) => y.add(x.matmul(B).mul(scale).matmul(A)),
  merged: ({ A, B }, { scale }, { weight }) => ({ weight: wide(weight).add(A.T.matmul(B.T.mul(scale))) }),
  echoes: ({ path }) => ({ [factorKey(path, "A", "linear")]: (p) => p.B.T, [factorKey(path, "B", "linear")]: (p) => p.A.T }),
};
