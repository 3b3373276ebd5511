/** The small GPT with frozen weights and adapters of rank 8 on every query and value projection. */
import { type Store, type Tensor, fromHost, hostUniform, store, zeroStore } from "@adjoint/tensor";
import type { Sizes } from "../rivals/dump.mjs";
import { type Gpt } from "./gpt.ts";

/** y = x Wᵀ + b + s (x Aᵀ) Bᵀ with A [r, in], B [out, r], s = alpha/r = 2; only A and B train. */
export function loraGpt(s: Sizes, base: Gpt, r = 8): Gpt {
  const parameters: Record<string, Store> = {}, bound = 1 / Math.sqrt(s.width);
  for (let i = 0; i < s.layers; i++) for (const site of ["q", "v"]) {
    const name = `h${i}.${site}`;
    parameters[`${name}.A`] = store(fromHost(hostUniform(1, `${name}.A`, [r, s.width], { low: -bound, high: bound })), `${name}.A`);
    parameters[`${name}.B`] = zeroStore([s.width, r], "f32", `${name}.B`);
  }
  const beside = (x: Tensor, name: string): Tensor | null => {
    const a = parameters[`${name}.A`];
    return a === undefined ? null : x.matmul(a.T).matmul(parameters[`${name}.B`].T).mul(2);
  };
  return { parameters, loss: (ids, labels) => base.loss(ids, labels, beside) };
}
