/** Quantization-aware training: numbers as they will be after quantization, with a gradient that looks through it. */
import { ConfigError, DTypeError, type Tensor, abs, amax, bitAnd, cast, concat, current, div, gather, internal, reciprocal, tensor, where, withGradient } from "@adjoint/tensor";
import { searchOf } from "./encode.ts";
import { type Format, type FormatName, blockOf, formatOf } from "./format.ts";

export interface FakeQuantizeOptions {
  readonly format: FormatName;
  /** elements a scale (default: the format's) */
  readonly block?: number;
}

/** How the scaled numbers of one block size become values of codes. */
type Snap = (x: Tensor, scale: Tensor, short: boolean) => Tensor;
/** f32 has no room for a fraction beside it: adding and subtracting rounds to even. */
const MAGIC = 1.5 * 2 ** 23;
/** Blocks below this are zeros. */
const TINY = 2 ** -118;

const even = (levels: number): Snap => (x, scale) => x.mul(div(levels, scale)).add(MAGIC).sub(MAGIC).div(levels);
function byTable({ table }: Format): Snap {
  const { codes, above } = searchOf(table), thresholds = tensor(above.slice(0, -1)), values = tensor(Float32Array.from(codes, (c) => table[c]), { shape: [codes.length, 1] });
  return (x, scale, short) => {
    const s = short ? x.div(scale) : x.mul(reciprocal(scale)), rank = cast(s.unsqueeze(-1).gt(thresholds), "f32").sum(-1);
    return gather(values, cast(rank.reshape(x.shape), "i32")).reshape(x.shape);
  };
}
const known = new Map<FormatName, Snap>();
function snapOf(format: Format): Snap {
  let snap = known.get(format.name);
  if (!snap) {
    if (format.scale !== "f32") throw new ConfigError(`fakeQuantize: ${format.name} is not offered, its scales are ${format.scale}`, { op: "fakeQuantize", key: "format", value: format.name, fix: "use nf4, fp4, int4 or int8" });
    known.set(format.name, (snap = format.name === "int4" ? even(7) : format.name === "int8" ? even(127) : byTable(format)));
  }
  return snap;
}

/**
 * y = dequantize(quantize(x)), computed where x is, with the straight-through gradient (Bengio et al. 2013): dx = dy where x lies
 * between the least and the largest value of its block's code, 0 elsewhere.
 *
 * x: f32 of any shape; blocks follow the row-major order and the last one may be short. Blocks whose largest magnitude is below 2^-118 become 0.
 * @throws ConfigError for a format whose scales are not f32, or a block size it does not have; DTypeError unless x is f32
 * @example const y = x.matmul(fakeQuantize(w, { format: "int4", block: 64 }).T); // w stays f32 and learns
 */
export function fakeQuantize(x: Tensor, { format: name, block: asked }: FakeQuantizeOptions): Tensor {
  const format = formatOf(name), block = blockOf(format, asked), snap = snapOf(format), w = current(x), n = w.size, full = n - (n % block);
  if (w.dtype !== "f32") throw new DTypeError(`fakeQuantize: ${w.dtype} is not f32`, { op: "fakeQuantize", key: x.name, value: w.dtype, fix: 'x.cast("f32")' });
  const least = Math.min(...format.table), largest = Math.max(...format.table), flat = w.reshape([n]);
  const { y, inside } = internal(() => {
    const parts = ([[0, full, block], [full, n, n - full]] as const).filter(([from, to]) => to > from).map(([from, to, size]) => {
      const part = flat.slice(0, from, to).reshape([(to - from) / size, size]), max = amax(abs(part), -1), scale = where(max.ge(TINY), max, 1);
      return { y: snap(part, scale, size < block).mul(scale), inside: bitAnd(part.ge(scale.mul(least)), part.le(scale.mul(largest))) };
    });
    const whole = (of: (p: (typeof parts)[number]) => Tensor): Tensor => (parts.length === 1 ? of(parts[0]) : concat(parts.map((p) => of(p).reshape([-1])))).reshape(w.shape);
    return { y: whole((p) => p.y), inside: whole((p) => p.inside) };
  });
  return withGradient(y, [w], (g) => [where(inside, g, 0)]);
}
