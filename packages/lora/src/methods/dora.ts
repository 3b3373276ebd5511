/**
 * DoRA: the rows of V = W + s B A keep their direction, and a trained vector m has their lengths.
 *
 * y = c ∘ (V x) + bias with c = m / n, n_j = ‖V_j‖ and no gradient through n (section 4.3 of the paper). V is never formed:
 * n² = rowsum(W²) + 2 s rowsum((W Aᵀ) ∘ B) + s² rowsum((B (A Aᵀ)) ∘ B), whose first term is kept beside the factors. With g' = c ∘ g:
 * dm = Σ g ∘ (V x) / n, dB = s g'ᵀ H, dA = s (g' B)ᵀ x, dx = g' W + s g' B A. Liu et al. 2024 (arXiv 2402.09353).
 *
 * Beside LoRA that is one product W Aᵀ of r rows a step, two of size r, a sum over (out, r), and one pass over y. A dropped input makes it dearer:
 * then W x~ is a product of its own, as in PEFT, and so is its gradient.
 */
import { type HostArray, type Shape, stopGradient, type Tensor } from "@adjoint/tensor";
import type { AdapterMethod, Factors, Site } from "../adapter.ts";
import { dropped, type Layer, loraOn, widened, zerosOf } from "./layer.ts";

/** Smallest n²: a row of zeros stays one. */
const TINY = 1e-30;
const length = (squares: Tensor): Tensor => squares.maximum(TINY).sqrt();
/** Σ over the second axis of a matrix: [out]. */
const rowSums = (x: Tensor): Tensor => x.sum(1).reshape([x.shape[0]]);
const flat = (x: Tensor): Tensor => x.reshape([x.shape[0], x.size / x.shape[0]]);

/** Lengths of the rows of V, [out], without a gradient. */
export const rowLengths = (layer: Layer, V: Tensor, site: Site): Tensor => stopGradient(length(rowSums(layer.rows(V, site).square())));

/** DoRA on a kind of layer. */
export function doraOn(layer: Layer): AdapterMethod {
  const magnitude = (site: Site): Shape => layer.perOutput(site).output;

  /** n, in the shape in which it multiplies outputs */
  function norm(p: Factors, site: Site, weight: Tensor): Tensor {
    const { A: down, B: up } = layer.factors?.(p) ?? p, A = stopGradient(flat(down)), B = stopGradient(flat(up)).T, s = site.scale;
    const AW = A.matmul(layer.rows(weight, site).T), AAB = A.matmul(A.T).matmul(B); // (r, out)
    const cross = AW.mul(2 * s).add(AAB.mul(s * s)).mul(B).sum(0).reshape([site.outFeatures]);
    return length(p.squares.add(cross)).reshape(magnitude(site));
  }
  const factor = (p: Factors, site: Site, weight: Tensor): Tensor => p.factor ?? p.magnitude.div(norm(p, site, weight));

  return {
    name: "dora",
    shapes: (site, config) => ({ ...layer.shapes(site, config), magnitude: magnitude(site) }),
    init: (site, config, seed): Readonly<Record<string, HostArray>> => ({ ...layer.init(site, config, seed), magnitude: zerosOf(magnitude(site)) }),
    constants: (site, { weight }) => ({ squares: rowSums(layer.rows(widened(weight), site).square()) }),
    start: (p, site, { weight }) => ({ magnitude: norm(p, site, weight) }),
    settled: (p, site, { weight }) => ({ factor: factor(p, site, weight) }),
    forward(p, site, use) {
      const c = factor(p, site, use.frozen.weight), { bias } = use.frozen, { y } = use, part = layer.part(p, site, use);
      const change = (x: Tensor): Tensor => (layer.lost === undefined ? part : part.sub(layer.lost(p, site, { ...use, x }))), plain = change(use.x);
      const Vx = use.key !== null ? layer.product(site, use).add(change(dropped(use))) : (bias === undefined ? y : y.sub(widened(bias).reshape(magnitude(site)))).add(plain);
      return y.add(plain).add(c.sub(1).mul(Vx)); // c V x + bias, and exactly y while c is 1 and B A is 0
    },
    merged: (p, site, { weight }) => {
      const { weight: V } = loraOn(layer).merged(p, site, { weight });
      return { weight: V.mul(p.magnitude.reshape([site.outFeatures]).div(rowLengths(layer, V, site)).reshape(layer.perOutput(site).weight)) };
    },
  };
}
