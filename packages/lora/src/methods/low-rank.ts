/**
 * LoRA and rsLoRA on layers that are one product: y = W x + s B (A x), with s = alpha / r or alpha / sqrt(r).
 *
 * Products go through the rank side, so B A is never formed and dW never asked for. With H = x Aᵀ and T = s g B:
 * dB = s gᵀ H, dA = Tᵀ x, dx = g W + T A. Hu et al. 2021 (arXiv 2106.09685), Kalajdzievski 2023 (arXiv 2312.03732).
 */
import { gather, type HostArray, hostNormal, hostUniform, type Shape, type Tensor } from "@adjoint/tensor";
import type { AdditiveMethod, Application, Factors, Site } from "../adapter.ts";
import type { LoraConfig } from "../config/config.ts";
import { dropped, type Layer, loraOn, type Pair, zerosOf } from "./layer.ts";

const shapes = (site: Site): Pair<readonly [number, number]> => ({ A: [site.r, site.inFeatures], B: [site.outFeatures, site.r] });

/** PEFT's rules: one factor is zero unless initLoraWeights is false, so that the adapter starts as the identity. `fanIn`: products that make one number of A x, and of B A x. */
export function initialFactors(site: Site, { initLoraWeights: rule }: LoraConfig, seed: number, { A, B }: Pair<Shape>, fanIn: Pair<number>): Pair<HostArray> {
  const uniform = (role: "A" | "B", shape: Shape): HostArray => {
    const bound = 1 / Math.sqrt(fanIn[role]);
    return hostUniform(seed, `lora/init/${site.path}/${role}`, shape, { low: -bound, high: bound });
  };
  return {
    A: rule === "gaussian" ? normal(site, seed, "A", A, 1 / site.r) : uniform("A", A),
    B: rule === false ? uniform("B", B) : zerosOf(B),
  };
}
const normal = (site: Site, seed: number, role: "A" | "B", shape: Shape, std: number): HostArray => hostNormal(seed, `lora/init/${site.path}/${role}`, shape, { std });

function init(site: Site, config: LoraConfig, seed: number): Pair<HostArray> {
  const { A, B } = shapes(site);
  if (site.kind !== "embedding") return initialFactors(site, config, seed, { A, B }, { A: site.inFeatures, B: site.r });
  return { A: config.initLoraWeights === false ? normal(site, seed, "A", A, 1) : zerosOf(A), B: normal(site, seed, "B", B, 1) };
}

/** s B A x, what the adapter adds to the output. */
export function lowRankPart({ A, B }: Factors, site: Site, use: Pick<Application, "x" | "key" | "dropout">): Tensor {
  const h = site.kind === "embedding" ? gather(A.T, use.x) : dropped(use).matmul(A.T); // (..., r)
  return h.mul(site.scale).matmul(B.T);
}

/** Weights stored (in, out) and embeddings (rows, width) have the outputs along their second axis. */
const turned = ({ kind }: Site): boolean => kind === "conv1d" || kind === "embedding";

/** s B A for a weight (out, in); transposed for the others. */
const delta = ({ A, B }: Factors, site: Site): Tensor => (turned(site) ? A.T.matmul(B.T.mul(site.scale)) : B.matmul(A.mul(site.scale)));

/** Linear, GPT-2's Conv1D, embeddings, and the weights of an LSTM. */
export const dense: Layer = {
  shapes, init, delta,
  part: lowRankPart,
  product: (site, use) => (site.kind === "embedding" ? gather(use.frozen.weight, use.x) : dropped(use).matmul(turned(site) ? use.frozen.weight : use.frozen.weight.T)),
  rows: (weight, site) => (turned(site) ? weight.T : weight),
  perOutput: (site) => ({ output: [site.outFeatures], weight: turned(site) ? [site.outFeatures] : [site.outFeatures, 1] }),
};

/** The adapter of LoRA and rsLoRA; the two differ in `site.scale` alone. */
export const lowRank: AdditiveMethod = loraOn(dense);
