/**
 * VeRA: y = W x + diag(b) B diag(d) A x. A and B are random, frozen and shared by all modules, which take their first columns and rows; only the
 * vectors b (out) and d (r) train. With h = A x, u = d ∘ h, v = B u: db = Σ g ∘ v, du = (g ∘ b) B, dd = Σ du ∘ h, dx = (du ∘ d) A + g W.
 * Kopiczko et al. 2023 (arXiv 2310.11454).
 */
import { type HostArray, hostUniform, type Tensor } from "@adjoint/tensor";
import { type AdditiveMethod, type Factors, mergedByAdding, type Site } from "../adapter.ts";
import type { LoraConfig } from "../config/config.ts";
import { dropped, zerosOf } from "./layer.ts";
import { PREFIX } from "../files/peft-keys.ts";
import { veraDefaults } from "../config/vera-config.ts";

/** Sizes of the shared projections: the widest input and output among the modules. */
const widest = ({ widest: w, inFeatures, outFeatures }: Site): { readonly inFeatures: number; readonly outFeatures: number } => w ?? { inFeatures, outFeatures };
/** Sites that know how wide the shared projections are. */
export function withWidest(sites: readonly Site[]): readonly Site[] {
  const most = (of: (s: Site) => number): number => sites.reduce((n, s) => Math.max(n, of(s)), 0), size = { inFeatures: most((s) => s.inFeatures), outFeatures: most((s) => s.outFeatures) };
  return sites.map((s) => ({ ...s, widest: size }));
}

const projections = (site: Site): Readonly<Record<"A" | "B", readonly [number, number]>> => ({ A: [site.r, widest(site).inFeatures], B: [widest(site).outFeatures, site.r] });

/** Drawn once for each set of options: all modules get the same array, hence one tensor. */
const drawn = new WeakMap<object, Map<string, HostArray>>();
function draw(config: LoraConfig, role: "A" | "B", shape: readonly [number, number]): HostArray {
  const { vera = veraDefaults } = config, key = `${role}/${shape.join("x")}`, of = drawn.get(vera ?? veraDefaults) ?? new Map<string, HostArray>();
  drawn.set(vera ?? veraDefaults, of);
  const bound = Math.sqrt(6 / shape[1]), made = of.get(key) ?? hostUniform((vera ?? veraDefaults).projectionPrngKey % 2 ** 32, `vera/${role}`, shape, { low: -bound, high: bound }); // Kaiming's
  of.set(key, made);
  return made;
}

const sliced = ({ A, B }: Factors, { inFeatures, outFeatures }: Site): { readonly A: Tensor; readonly B: Tensor } =>
  ({ A: A.shape[1] === inFeatures ? A : A.slice(1, 0, inFeatures), B: B.shape[0] === outFeatures ? B : B.slice(0, 0, outFeatures) });

function delta(p: Factors, site: Site): Tensor {
  const { A, B } = sliced(p, site), b = B.mul(p.lambdaB.reshape([site.outFeatures, 1])), d = A.mul(p.lambdaD.reshape([site.r, 1]));
  return site.kind === "conv1d" ? d.T.matmul(b.T) : b.matmul(d);
}

/** The adapter of VeRA, on linear layers and Conv1D. */
export const vera: AdditiveMethod = {
  name: "vera",
  shapes: (site) => ({ lambdaB: [site.outFeatures], lambdaD: [site.r] }),
  fixed: projections,
  init: (site, config) => {
    const { A, B } = projections(site), d = zerosOf([site.r]);
    d.data.fill(config.vera?.dInitial ?? veraDefaults.dInitial);
    return { lambdaB: zerosOf([site.outFeatures]), lambdaD: d, A: draw(config, "A", A), B: draw(config, "B", B) };
  },
  key: (site, role) => (role === "A" || role === "B" ? `base_model.vera_${role}` : `${PREFIX}${site.path}.vera_lambda_${role === "lambdaB" ? "b" : "d"}`),
  forward: (p, site, use) => {
    const { A, B } = sliced(p, site);
    return use.y.add(dropped(use).matmul(A.T).mul(p.lambdaD).matmul(B.T).mul(p.lambdaB));
  },
  delta,
  merged: mergedByAdding(delta),
};
