/**
 * LoRA-GA: A and B span directions of the first gradient, so that the first step of the adapter is near that of full fine-tuning.
 *
 * dL/dW = U S Vᵀ; by `direction` A takes r rows of Vᵀ and B r columns of U diag(S); by `scale` both are brought to a size. What s B A adds at the start
 * is taken out of the layer again. Wang et al. 2024 (arXiv 2407.05000); numbers as PEFT's, except that out^¼ counts outputs in layers that store W
 * as (in, out) too, and that directions are drawn from our own random numbers.
 */
import { hostInteger, type HostArray, type Matrix, scaleColumns, type SVD, type Tensor } from "@adjoint/tensor";
import { quantizedOf } from "@adjoint/quant";
import { parametersOf } from "../targets/modules.ts";
import { type LoraGaConfig, partDefaults } from "./configs.ts";
import { cannot, type Initialisation, mustBeLinear, mustHaveRank, type Place, type Setting } from "./initial.ts";
import { orientedMatrix, weightOf } from "./numbers.ts";
import { columns, leading, range, rows } from "./spectrum.ts";

/** Which of the first 2r directions A and B take. */
const directions: { readonly [D in LoraGaConfig["direction"]]: (r: number, draw: (n: number, i: number) => number) => { readonly a: readonly number[]; readonly b: readonly number[] } } = {
  ArBr: (r) => ({ a: range(0, r).map((i) => 2 * i + 1), b: range(0, r).map((i) => 2 * i) }),
  A2rBr: (r) => ({ a: range(r, r), b: range(0, r) }),
  ArB2r: (r) => ({ a: range(0, r), b: range(r, r) }),
  random: (r, draw) => {
    const left = [...range(0, 2 * r)], some = range(0, r).map((i) => left.splice(draw(left.length, i), 1)[0]);
    return { a: some, b: some };
  },
};

/** What A and B are multiplied by. */
interface Size { readonly a: number; readonly b: number }
const times = (m: Matrix, by: number): Matrix => ({ ...m, data: m.data.map((x) => x * by) });

async function sizeOf(own: LoraGaConfig, place: Place, top: number, seed: number): Promise<Size> {
  const { outFeatures, scale: s } = place.site;
  switch (own.scale) {
    case "stable": return { a: 1, b: outFeatures ** 0.25 / Math.sqrt(own.stableGamma) };
    case "weight_svd": return { a: 1, b: top > 0 ? leading(await weightOf(place), 8, 8, seed).s[0] / top : 1 };
    case "gd_scale": return { a: 1 / s, b: 1 / s };
    case "unit": return { a: 1, b: 1 };
  }
}

async function gradientsOf<B>({ places, data }: Setting<B>): Promise<ReadonlyMap<string, HostArray>> {
  if (data.gradients === undefined) throw cannot("lora_ga", "it needs gradients of the weights", "pass data.gradients: async (weights) => a map from paths to dL/dW, such as gradients(loss, weights) of @adjoint/autograd summed over a few batches", { key: "gradients" });
  const weights = new Map<string, Tensor>(places.map(({ site, module }) => [site.path, parametersOf(module).weight])), found = await data.gradients(weights);
  const missing = places.find(({ site }) => !found.has(site.path));
  if (missing !== undefined) throw cannot("lora_ga", `data.gradients gave none for ${missing.site.path}`, "give one for every path that it is asked for", { key: "gradients", value: [...found.keys()] });
  return found;
}

export const loraGa: Initialisation = {
  name: "lora_ga",
  begin: async (setting) => {
    const own = setting.config.loraGaConfig ?? partDefaults.loraGaConfig, { seed } = setting;
    for (const place of setting.places) {
      mustBeLinear("lora_ga", place);
      mustHaveRank("lora_ga", place, 2 * place.site.r, `twice r = ${place.site.r}`);
      const codes = quantizedOf(parametersOf(place.module).weight);
      if (codes !== null) throw cannot("lora_ga", `the weight of ${place.site.path} is held as ${codes.format.name}, which has no gradient`, "load the base unquantized", { value: place.site.path });
    }
    const gradients = await gradientsOf(setting);
    return {
      start: async (place) => {
        const { path, r } = place.site, G = orientedMatrix(place, gradients.get(path) ?? { dtype: "f32", shape: [0, 0], data: new Float32Array(0) }, "the gradient");
        const parts: SVD = leading(G, Math.min(4 * r, G.rows, G.cols), 4, seed), { a, b } = directions[own.direction](r, (n, i) => hostInteger(seed, `lora/init/${path}/directions`, i, n));
        const size = await sizeOf(own, place, parts.s[b[0]], seed);
        return { A: times(rows(parts.vt, a), size.a), B: times(scaleColumns(columns(parts.u, b), b.map((i) => parts.s[i])), size.b) };
      },
    };
  },
};
