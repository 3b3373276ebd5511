/** LLM.int8 on the device: activations in int8 as they come, columns with outliers apart (the host's reference: int8.ts). */
import { ConfigError, ShapeError, type Tensor, abs, amax, current, dequantize, internal, tensor, where, withGradient } from "@adjoint/tensor";
import { q8 } from "./tables.ts";
import { quantizedOf } from "./weight.ts";

/** f32 has no room for a fraction beside it: adding and subtracting rounds to even. */
const MAGIC = 1.5 * 2 ** 23;

/**
 * y = x Wᵀ as LLM.int8 computes it (Dettmers et al., arXiv 2208.07339): y = (Cx CWᵀ) s_x s_W / 127² + x_J dq(W_J)ᵀ, J the columns in which some |x| reaches the threshold.
 *
 * x: f32 [..., in]; W: a weight of int8 in blocks of a row, [out, in], as `loadModel(..., { quantize: { format: "int8" } })` holds it. Sums of whole numbers are exact up to
 * 1,040 columns and rounded to f32 beyond. The gradient is that of a product with the decoded weight, dx = g dq(W); nothing reaches the codes.
 * @param threshold 0: no column is an outlier (default 6)
 * @throws ConfigError for another weight or threshold, ShapeError for other columns
 * @example const y = int8Matmul(x, layer.weight);
 */
export function int8Matmul(x: Tensor, weight: Tensor, { threshold = 6 }: { readonly threshold?: number } = {}): Tensor {
  const held = quantizedOf(weight), [out, columns] = weight.shape, op = "int8Matmul";
  if (held === null || held.format.name !== "int8" || weight.rank !== 2 || held.block !== columns || held.scaleCodes !== null) {
    throw new ConfigError(`${op}: ${weight.name || "the weight"} is ${held === null ? weight.dtype : `${held.format.name} in blocks of ${held.block}`}`, { op, key: weight.name, fix: "quantize it to int8 with block = columns" });
  }
  if (!(threshold >= 0)) throw new ConfigError(`${op}: threshold ${threshold}`, { op, key: "threshold", value: threshold, fix: "0 for none, else a number above 0" });
  const a = current(x);
  if (a.shape.at(-1) !== columns) throw new ShapeError(`${op}: rows of ${a.shape.at(-1) ?? 0}, and the weight has ${columns} columns`, { op, key: weight.name, shapes: [a.shape, weight.shape] });
  const y = internal(() => {
    const flat = a.reshape([a.size / columns, columns]), size = abs(flat), apart = threshold === 0 ? null : amax(size, 0).ge(threshold).reshape([1, columns]);
    const inside = apart === null ? flat : where(size.lt(threshold), flat, 0), scale = amax(abs(inside), -1).reshape([-1, 1]), codes = inside.mul(where(scale.gt(0), tensor(127).div(scale), 0)).add(MAGIC).sub(MAGIC);
    const whole = dequantize(held.codes, { shape: [out, columns], bits: 8, block: columns, table: tensor(q8), scales: { values: tensor(new Float32Array(out).fill(1)) } });
    const rows = held.numbers.slice(0, 256, 256 + out).mul(1 / 16129), sum = (apart === null ? codes : where(apart, 0, codes)).matmul(whole.T).mul(scale).mul(rows);
    return (apart === null ? sum : sum.add(where(apart, flat, 0).matmul(weight.T))).reshape([...a.shape.slice(0, -1), out]);
  });
  return withGradient(y, [a], (g) => [g.matmul(weight)]);
}
