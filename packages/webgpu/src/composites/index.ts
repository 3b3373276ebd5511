/** Composites with a hand-written kernel here; everything else runs its definition. */
import type { CompositeKernel } from "@adjoint/tensor";
import type { Lower } from "../program.ts";
import { attentionBackward } from "./attention-backward.ts";
import { attentionForward } from "./attention-forward.ts";
import { dequantize } from "./dequantize.ts";

export const composites: ReadonlyMap<string, Lower<CompositeKernel>> = new Map<string, Lower<CompositeKernel>>([
  ["attentionForward", attentionForward], ["attentionBackward", attentionBackward], ["dequantize", dequantize],
]);
