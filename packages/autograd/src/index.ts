/** @adjoint/autograd: reverse mode over the recorded graph. */
export { gradients, pullback, valueAndGrad, grad, vjp, jvp, type Gradients } from "./gradients.ts";
export { checkpoint, customGradient } from "./rules.ts";
export { stopGradient } from "@adjoint/tensor";
