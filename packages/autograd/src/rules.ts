/** Functions that bring their own backward pass: recomputation, and gradients written by hand. */
import { type Op, Tensor, after, internal, record } from "@adjoint/tensor";
import { pullback } from "./gradients.ts";

let regions = 0;

/** Values from outside that a recording used: tensors older than it. */
function outside(y: Tensor, born: number): Tensor[] {
  const seen = new Set<Tensor>(), found: Tensor[] = [], stack = [y];
  while (stack.length) {
    const t = stack.pop()!;
    if (seen.has(t)) continue;
    seen.add(t);
    if (t.id < born || t.inputs.length === 0) { if (t.op.kind !== "scalar") found.push(t); } else stack.push(...t.inputs);
  }
  return found;
}

/**
 * f(...xs) whose intermediate values are not kept: the backward pass records f again, ordered after the incoming
 * gradient, and differentiates that copy (Chen et al. 2016). Bit-equal to f and to its gradient.
 */
export function checkpoint(f: (...xs: Tensor[]) => Tensor): (...xs: Tensor[]) => Tensor {
  return (...xs) => {
    const born = new Tensor(probe, [], null, [], "f32").id;
    const y = f(...xs), inputs = outside(y, born), region = ++regions;
    const op: Op = {
      name: "checkpoint", kind: "view",
      vjp: (g) => {
        const again = f(...xs.map((x) => after(x, g, region)));
        const found = pullback([[again, g]], inputs);
        return [null, ...inputs.map((x) => found.get(x) ?? null)];
      },
    };
    return record(op, [y, ...inputs], { region }, y.shape, y.dtype);
  };
}
const probe: Op = { name: "probe", kind: "leaf" };

/** f with another gradient: `backward(g, y, xs)` gives the cotangent of each x (null for none). It must be made of ops. */
export function customGradient(f: (...xs: Tensor[]) => Tensor, backward: (g: Tensor, y: Tensor, xs: readonly Tensor[]) => readonly (Tensor | null)[]): (...xs: Tensor[]) => Tensor {
  return (...xs) => {
    const y = f(...xs);
    const op: Op = { name: "customGradient", kind: "view", vjp: (g, t) => [null, ...internal(() => backward(g, t.inputs[0], t.inputs.slice(1)))] };
    return record(op, [y, ...xs], null, y.shape, y.dtype);
  };
}
