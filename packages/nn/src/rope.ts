/** Rotary position embedding (Su et al. 2021) in the layout of halves: element j turns with element j + d/2. */
import { ShapeError, type Store, type Tensor, composite, iota, show, store } from "@adjoint/tensor";

/** How the frequencies of a longer context are made from those of training. */
export type RopeScaling =
  | { readonly type: "default" }
  | { readonly type: "linear"; readonly factor: number }
  | { readonly type: "llama3"; readonly factor: number; readonly lowFreqFactor: number; readonly highFreqFactor: number; readonly originalMaxPositionEmbeddings: number };

/** Radians per position of each pair: theta^(-2j/d), scaled; d/2 of them, rounded to f32 as in the models' training. */
export function ropeFrequencies(dim: number, theta = 10000, scaling: RopeScaling = { type: "default" }): Float32Array {
  if (!(Number.isInteger(dim) && dim > 0 && dim % 2 === 0)) throw new ShapeError(`rope: the head size must be even, got ${dim}`, { op: "rope", value: dim });
  return Float32Array.from({ length: dim / 2 }, (_, j) => scaled(theta ** ((-2 * j) / dim), scaling));
}
function scaled(f: number, scaling: RopeScaling): number {
  switch (scaling.type) {
    case "default": return f;
    case "linear": return f / scaling.factor;
    case "llama3": {
      const { factor, lowFreqFactor: low, highFreqFactor: high, originalMaxPositionEmbeddings: length } = scaling, wave = (2 * Math.PI) / f;
      if (wave < length / high) return f;
      if (wave > length / low) return f / factor;
      const smooth = (length / wave - low) / (high - low);
      return ((1 - smooth) * f) / factor + smooth * f;
    }
    default: return scaling satisfies never;
  }
}

/** cos and sin of position · frequency for positions 0 ... length-1: stores [length, d/2]. */
export interface RopeTables { readonly length: number; readonly cos: Store; readonly sin: Store }

/** Tables made on the host: angles are rounded to f32, as the models were trained with. */
export function ropeTables(length: number, frequencies: Float32Array): RopeTables {
  const half = frequencies.length, table = (f: (x: number) => number, name: string): Store => {
    const data = new Float32Array(length * half);
    for (let t = 0; t < length; t++) for (let j = 0; j < half; j++) data[t * half + j] = f(Math.fround(t * frequencies[j]));
    return store({ dtype: "f32", shape: [length, half], data }, name);
  };
  return { length, cos: table(Math.cos, "rope.cos"), sin: table(Math.sin, "rope.sin") };
}

const rotation: ReturnType<typeof composite<null>> = composite<null>("rope", {
  doc: "(a, b) -> (a cos - b sin, b cos + a sin) for the halves a, b of the last axis; a rotation, so its gradient turns back.",
  define: ([x, cos, sin]) => {
    const [B, T, H, d] = x.shape, h = d / 2, halves = x.reshape([B, T, H, 2, h]);
    const a = halves.slice(3, 0, 1), b = halves.slice(3, 1, 2), c = table(cos), s = table(sin);
    return iota([1, 1, 1, 2, 1], 3).eq(0).where(a.mul(c).sub(b.mul(s)), b.mul(c).add(a.mul(s))).reshape(x.shape);
  },
  vjp: (g, { inputs: [, cos, sin] }) => [rotation([g, cos, sin.neg()], null), null, null],
});
const table = (t: Tensor): Tensor => t.reshape([t.shape[0], t.shape[1], 1, 1, t.shape[2]]);

/**
 * Turns each pair (x[j], x[j + d/2]) by its angle.
 * Shapes: x [batch, time, heads, d]; cos and sin [batch or 1, time, d/2], rows of `ropeTables`.
 * @throws ShapeError if the tables do not fit
 */
export function rope(x: Tensor, cos: Tensor, sin: Tensor): Tensor {
  const [B, T, , d] = x.shape;
  for (const t of [cos, sin]) {
    if (x.rank !== 4 || t.rank !== 3 || (t.shape[0] !== B && t.shape[0] !== 1) || t.shape[1] !== T || 2 * t.shape[2] !== d) {
      throw new ShapeError(`rope: tables ${show(t.shape)} do not fit x ${show(x.shape)}`, { op: "rope", shapes: [x.shape, t.shape], fix: "x is [batch, time, heads, d], the tables [batch or 1, time, d/2]" });
    }
  }
  return rotation([x, cos.cast(x.dtype), sin.cast(x.dtype)], null);
}
