/**
 * FLoRA proper: a multiplicative adapter, W' = W ∘ (mean over j of a_j b_jᵀ) for W (out, in), so that many examples can each have one in a batch:
 * y = mean_j a_j ∘ (W (b_j ∘ x)) + bias.
 *
 * It takes the place of the module's own product. da_j = Σ g ∘ (W (b_j ∘ x)) / r, db_j = Σ x ∘ ((g ∘ a_j) W) / r, dx = mean_j b_j ∘ ((g ∘ a_j) W).
 * Wen & Chaudhuri 2023 (arXiv 2312.05677). Another function class than LoRA; PEFT has none of it.
 */
import { ConfigError, type HostArray, hostArray, hostInteger, sizeOf, type Tensor } from "@adjoint/tensor";
import type { AdapterMethod, Application, Factors, Parameters, Role, Site } from "../adapter.ts";
import type { LoraConfig } from "../config/config.ts";
import { PREFIX } from "../files/peft-keys.ts";

/** What b's components differ by at the start: equal ones would get equal gradients and stay one component for good. */
const SPREAD = 1 / 16;

const shapes = ({ r, inFeatures, outFeatures, kind, path }: Site): Readonly<Record<Role, readonly number[]>> => {
  if (kind !== "linear" && kind !== "conv1d") throw new ConfigError(`FLoRA multiplies the weight of a linear layer, and ${path} is of kind ${kind}`, { op: "flora", key: path, value: kind, fix: "name linear layers in targetModules" });
  return { a: [r, outFeatures], b: [r, inFeatures] };
};

/** a all 1; b 1 at rank 1, else 1 ± 1/16 in pairs, so that the mean of a_j b_jᵀ is all ones. */
function init(site: Site, config: LoraConfig, seed: number): Readonly<Record<Role, HostArray>> {
  const { a, b } = shapes(site), of = (shape: readonly number[]): HostArray => ({ dtype: "f32", shape, data: hostArray("f32", sizeOf(shape)).fill(1) });
  const [A, B] = [of(a), of(b)], n = site.inFeatures;
  for (let j = 0; j + 1 < site.r; j += 2) {
    for (let i = 0; i < n; i++) {
      const step = hostInteger(seed, `flora/init/${site.path}/${j}`, i, 2) === 0 ? SPREAD : -SPREAD;
      B.data[j * n + i] += step;
      B.data[(j + 1) * n + i] -= step;
    }
  }
  return { a: A, b: B };
}

/** x W of the frozen module, without its bias, for inputs (..., in). */
export const product = (x: Tensor, { weight }: Parameters, { kind }: Site): Tensor => x.matmul(kind === "conv1d" ? weight : weight.T);

function forward({ a, b }: Factors, site: Site, { x, frozen }: Application): Tensor {
  const r = a.shape[0];
  let sum: Tensor | null = null;
  for (let j = 0; j < r; j++) {
    const row = (t: Tensor): Tensor => t.slice(0, j, j + 1).reshape([t.shape[1]]), term = product(x.mul(row(b)), frozen, site).mul(row(a));
    sum = sum === null ? term : sum.add(term);
  }
  const mean = r === 1 ? (sum ?? x) : (sum ?? x).mul(1 / r), { bias } = frozen;
  return bias === undefined ? mean : mean.add(bias.dtype === mean.dtype ? bias : bias.cast(mean.dtype));
}

function merged({ a, b }: Factors, { kind, r }: Site, { weight }: Parameters): Parameters {
  const mask = (kind === "conv1d" ? b.T.matmul(a) : a.T.matmul(b)).mul(1 / r);
  return { weight: (weight.dtype === mask.dtype ? weight : weight.cast(mask.dtype)).mul(mask) };
}

/** The adapter of FLoRA; its tensors are called flora_a and flora_b in files. */
export const flora: AdapterMethod = { name: "flora", shapes, init, key: ({ path }, role) => `${PREFIX}${path}.flora_${role}`, forward, merged };
