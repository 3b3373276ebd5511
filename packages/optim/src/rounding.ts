/** Half precision: which parameters are half, and rounding by chance, so that updates below half a step are kept on average. */
import { type DType, type Key, type Tensor, isHalf, randomUniform } from "@adjoint/tensor";

/** Steps between neighbours at 1, times 1/2, and the smallest step there is. */
const grid = { bf16: { half: 2 ** -8, least: 2 ** -133 }, f16: { half: 2 ** -11, least: 2 ** -24 } } as const;

export const isHalfType = (dtype: DType): dtype is "f16" | "bf16" => isHalf(dtype);

/**
 * x (f32) rounded to one of its two neighbours in f16 or bf16: to the far one with probability |x - near| / |far - near|, so that the
 * expected value is x. What half precision holds exactly stays. The chance is randomUniform(x.shape, key): 24 bits.
 *
 * The far neighbour is found by arithmetic: 5/8 to 5/4 of a step away from the near one, rounded to nearest.
 */
export function roundByChance(x: Tensor, dtype: "f16" | "bf16", key: Key): Tensor {
  const { half, least } = grid[dtype], near = x.cast(dtype).cast("f32"), rest = x.sub(near), up = rest.gt(0);
  const reach = near.abs().mul(1.25 * half).maximum(0.75 * least);
  const far = near.add(up.where(reach, reach.neg())).cast(dtype).cast("f32");
  const away = randomUniform(x.shape, key).mul(far.sub(near).abs()).lt(rest.abs());
  return away.where(far, near).cast(dtype);
}
