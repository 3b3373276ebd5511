/** Half-precision parameters in arithmetic that is not a product. */
import { type Tensor, isHalf } from "@adjoint/tensor";

/** The tensor in f32 if it is stored in half precision, else itself. */
export const wide = (x: Tensor): Tensor => (isHalf(x.dtype) ? x.cast("f32") : x);
