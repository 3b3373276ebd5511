/** Which keys a query may see: masks as formulas of positions, and the same as structure for devices with kernels for attention. */
import { ShapeError, type Tensor, attentionKernels, bitAnd, full, getDevice, iota } from "@adjoint/tensor";

/** True where a key's position is not after the query's: query t stands at `offset` + t (a number that is data; 0 by default). [1, 1, 1, T, S] */
export function causalMask(T: number, S: number = T, options: { readonly offset?: Tensor; readonly window?: number } = {}): Tensor {
  const query = iota([1, 1, 1, T, 1], 3), at = options.offset ? query.add(options.offset) : query, key = iota([1, 1, 1, 1, S], 4);
  const past = key.le(at);
  return options.window === undefined ? past : bitAnd(past, at.sub(key).lt(options.window));
}
const realOf = (real: Tensor): Tensor => (real.dtype === "bool" ? real : real.ne(0));
/** From [batch, S] (true or nonzero: a real token) to [batch, 1, 1, 1, S]. */
export const paddingMask = (real: Tensor): Tensor => realOf(real).reshape([real.shape[0], 1, 1, 1, real.shape[1]]);
/** True where query and key carry the same number of segment (block-diagonal, for packed rows): [batch, T] to [batch, 1, 1, T, T]. */
export function segmentMask(segments: Tensor): Tensor {
  const [B, T] = segments.shape;
  return segments.reshape([B, 1, 1, T, 1]).eq(segments.reshape([B, 1, 1, 1, T]));
}
/** True where all masks are; null for none. */
export const allOf = (masks: readonly (Tensor | null)[]): Tensor | null => masks.reduce((a, b) => (a && b ? bitAnd(a, b) : (a ?? b)), null);

/** Whether the device that is recorded for now computes attention without keeping its scores. */
export const fusedAttention = (): boolean => attentionKernels.every((name) => getDevice().composites.has(name));

export interface Visibility {
  readonly queries: number;
  /** as many as queries by default */
  readonly keys?: number;
  /** position of the first query, a scalar of i32; 0 by default */
  readonly offset?: Tensor | null;
  /** positions that a query sees, itself and back; all by default */
  readonly window?: number | null;
  /** [batch, keys], true or nonzero at real tokens */
  readonly padding?: Tensor | null;
  /** [batch, queries] i32; tokens see their own segment only */
  readonly segments?: Tensor | null;
}

/** A causal mask with its structure: what `attention` needs to skip keys that nobody sees. Made once a pass, for all layers. */
export class CausalMask {
  readonly visibility: Visibility;
  #dense: Tensor | null = null;
  #marks: { readonly queries: Tensor; readonly keys: Tensor } | null = null;
  /** @throws ShapeError when segments do not stand beside as many keys */
  constructor(visibility: Visibility) {
    const { queries: T, keys: S = T, segments } = visibility;
    if (segments && S !== T) throw new ShapeError(`attention: segments of ${T} queries and ${S} keys`, { op: "attention", shapes: [segments.shape], fix: "segments are for rows that see themselves" });
    this.visibility = visibility;
    if (fusedAttention()) void this.marks; else void this.dense;      // recorded here, outside of what may be computed again
  }
  /** bool, broadcasts to [batch, 1, 1, queries, keys]. */
  get dense(): Tensor {
    const { queries: T, keys: S = T, offset, window, padding, segments } = this.visibility;
    return (this.#dense ??= allOf([
      causalMask(T, S, { ...(offset ? { offset } : {}), ...(window === undefined || window === null ? {} : { window }) }),
      segments ? segmentMask(segments) : null, padding ? paddingMask(padding) : null,
    ])!);
  }
  /** Numbers of queries [batch, T] and keys [batch, S] that must be equal; null where positions say it all. */
  get marks(): { readonly queries: Tensor; readonly keys: Tensor } | null {
    const { padding, segments } = this.visibility;
    if (!padding && !segments) return null;
    if (this.#marks) return this.#marks;
    const { queries: T, keys: S = T } = this.visibility, zeros = (n: number): Tensor => full([padding!.shape[0], n], 0, "i32"), queries = segments ?? zeros(T);
    return (this.#marks = { queries, keys: padding ? realOf(padding).where(segments ?? zeros(S), HIDDEN_MARK) : queries });
  }
}
/** No segment has this number. */
const HIDDEN_MARK = -2147483647;
