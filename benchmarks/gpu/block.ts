/** Random numbers fast: one block of normals, repeated, since speed does not depend on the numbers but must not meet NaN or zeros. */
import { hostNormal } from "@adjoint/tensor";

/** 65,536 numbers of N(0, 0.02²). */
export const block: Float32Array = Float32Array.from(hostNormal(1, "benchmark", [1 << 16], { std: 0.02 }).data, Number);
