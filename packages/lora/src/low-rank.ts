/**
 * LoRA and rsLoRA: y = W x + s B (A x), with s = alpha / r or alpha / sqrt(r).
 *
 * Products go through the rank side, so B A is never formed and dW never asked for. With H = x Aᵀ and T = s g B:
 * dB = s gᵀ H, dA = Tᵀ x, dx = g W + T A. Hu et al. 2021 (arXiv 2106.09685), Kalajdzievski 2023 (arXiv 2312.03732).
 */
import { dropout, gather, type HostArray, hostArray, hostNormal, hostUniform, sizeOf, type Tensor } from "@adjoint/tensor";
import { type AdditiveMethod, type Application, type Factors, mergedByAdding, type Role, type Shapes, type Site } from "./adapter.ts";
import type { LoraConfig } from "./config.ts";

const zeros = (shape: readonly number[]): HostArray => ({ dtype: "f32", shape, data: hostArray("f32", sizeOf(shape)) });

function shapes(site: Site): Shapes & Readonly<Record<"A" | "B", readonly [number, number]>> {
  return { A: [site.r, site.inFeatures], B: [site.outFeatures, site.r] };
}

/** PEFT's rules: one factor is zero unless initLoraWeights is false, so that the adapter starts as the identity. */
function init(site: Site, config: LoraConfig, seed: number): Readonly<Record<Role, HostArray>> {
  const { A, B } = shapes(site);
  const rule = config.initLoraWeights;
  const normal = (role: Role, shape: readonly number[], std: number): HostArray => hostNormal(seed, `lora/init/${site.path}/${role}`, shape, { std });
  const uniform = (role: Role, shape: readonly number[], bound: number): HostArray =>
    hostUniform(seed, `lora/init/${site.path}/${role}`, shape, { low: -bound, high: bound });
  if (site.kind === "embedding") return { A: rule === false ? normal("A", A, 1) : zeros(A), B: normal("B", B, 1) };
  return {
    A: rule === "gaussian" ? normal("A", A, 1 / site.r) : uniform("A", A, 1 / Math.sqrt(site.inFeatures)),
    B: rule === false ? uniform("B", B, 1 / Math.sqrt(site.r)) : zeros(B),
  };
}

/** s B A x, what the adapter adds to the output. */
export function lowRankPart({ A, B }: Factors, site: Site, { x, key, dropout: p }: Pick<Application, "x" | "key" | "dropout">): Tensor {
  const h = site.kind === "embedding" ? gather(A.T, x) : (key === null ? x : dropout(x, p, key)).matmul(A.T); // (..., r)
  return h.mul(site.scale).matmul(B.T);
}

const forward = (p: Factors, site: Site, use: Application): Tensor => use.y.add(lowRankPart(p, site, use));

/** s B A for a weight (out, in); transposed for weights stored (in, out) and for embeddings (rows, width). */
function delta({ A, B }: Factors, site: Site): Tensor {
  return site.kind === "linear" ? B.matmul(A.mul(site.scale)) : A.T.matmul(B.T.mul(site.scale));
}

/** The adapter of LoRA and rsLoRA; the two differ in `site.scale` alone. */
export const lowRank: AdditiveMethod = { name: "lora", shapes, init, forward, delta, merged: mergedByAdding(delta) };
