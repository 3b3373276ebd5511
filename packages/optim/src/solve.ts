/**
 * Small symmetric problems on the device: inverses of r x r matrices, and Sylvester's equation, by matrix products alone.
 *
 * No step may wait for the host, and no backend has a factorisation, so both are iterations of a fixed number of products; matrices of
 * one size are stacked, so that all adapters share the iterations' kernels (docs/decisions/0011-small-inverses-are-products.md).
 */
import { type DType, type Tensor, concat, fromHost, hostArray } from "@adjoint/tensor";

function identity(r: number, dtype: DType): Tensor {
  const data = hostArray(dtype, r * r);
  for (let i = 0; i < r; i++) data[i * (r + 1)] = 1;
  return fromHost({ dtype, shape: [r, r], data });
}
const doublings = (dtype: DType): number => (dtype === "f64" ? 46 : 26);
const epsilon = (dtype: DType): number => (dtype === "f64" ? 2 ** -52 : 2 ** -23);

/** [n, r, r] of n matrices of one size, and back. */
const stacked = (xs: readonly Tensor[]): Tensor => concat(xs.map((x) => x.reshape([1, ...x.shape])), 0);
const parts = (x: Tensor): Tensor[] => Array.from({ length: x.shape[0] }, (_, i) => x.slice(0, i, i + 1).reshape(x.shape.slice(1)));

/** Applies f to stacks of matrices of equal size and type; the answers come in the order of the questions. */
function bySize(xs: readonly Tensor[], f: (stack: Tensor, places: readonly number[]) => Tensor): readonly Tensor[] {
  const groups = new Map<string, number[]>(), out: Tensor[] = [];
  xs.forEach((x, i) => { const key = `${x.dtype} ${x.shape.join()}`; groups.set(key, [...(groups.get(key) ?? []), i]); });
  for (const places of groups.values()) parts(f(stacked(places.map((i) => xs[i])), places)).forEach((y, i) => { out[places[i]] = y; });
  return out;
}

/**
 * (M + δI)⁻¹ of symmetric positive semidefinite matrices. M + δI is scaled to a diagonal of 1, and Newton and Schulz's iteration
 * X ← X(2I - MX) starts from X = I / ‖M‖∞: after k of them an eigenvalue λ has become (1 - (1 - λ/‖M‖)^(2^k)) / λ, the inverse
 * wherever λ is above ‖M‖·2^-k and a bounded number elsewhere: the pseudo-inverse's cut, without a factorisation.
 */
export function inverses(ms: readonly Tensor[], damping: number): readonly Tensor[] {
  return bySize(ms, (m) => {
    const r = m.shape[1], eye = identity(r, m.dtype), damped = m.add(eye.mul(damping));
    const d = damped.mul(eye).sum(-1).sqrt().maximum(1e-30), scale = d.mul(d.reshape([m.shape[0], 1, r]));
    const unit = damped.div(scale).add(eye.mul(r * epsilon(m.dtype)));
    let x = eye.div(unit.abs().sum(-1).amax(-2)).expand(m.shape);
    for (let k = 0; k < doublings(m.dtype); k++) x = x.mul(2).sub(x.matmul(unit).matmul(x));
    return x.div(scale);
  });
}

/**
 * X with PX + XQ = C for symmetric positive semidefinite P, Q of one size, by Smith's doubling: with q > 0, U = (P + qI)⁻¹(P - qI) and
 * V = (Q - qI)(Q + qI)⁻¹, X = Σ UⁱWVⁱ over i with W = 2q (P + qI)⁻¹C(Q + qI)⁻¹, and each doubling adds as many terms as there are.
 */
export function sylvester(ps: readonly Tensor[], qs: readonly Tensor[], cs: readonly Tensor[]): readonly Tensor[] {
  return bySize(ps, (p, places) => {
    const r = p.shape[1], n = p.shape[0], q = stacked(places.map((i) => qs[i])), c = stacked(places.map((i) => cs[i])), eye = identity(r, p.dtype);
    const trace = (x: Tensor): Tensor => x.mul(eye).sum([-2, -1]);
    const shift = trace(p).maximum(trace(q)).div(r).maximum(1e-30), side = eye.mul(shift);
    const inverse = stacked(inverses([...parts(p.add(side)), ...parts(q.add(side))], 0)), left = inverse.slice(0, 0, n), right = inverse.slice(0, n, 2 * n);
    let u = left.matmul(p.sub(side)), v = q.sub(side).matmul(right), x = left.matmul(c).matmul(right).mul(shift.mul(2));
    for (let k = 0; k < doublings(p.dtype) / 2; k++) {
      x = x.add(u.matmul(x).matmul(v));
      u = u.matmul(u);
      v = v.matmul(v);
    }
    return x;
  });
}
