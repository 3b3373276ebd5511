/** Composites with a hand-written kernel here; everything else runs its definition. */
import type { CompositeKernel } from "@adjoint/tensor";
import type { Lower } from "../program.ts";

export const composites: ReadonlyMap<string, Lower<CompositeKernel>> = new Map<string, Lower<CompositeKernel>>();
