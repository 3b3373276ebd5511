/**
 * LoRA on convolutions: A is a convolution to r channels with the layer's kernel, stride, padding and dilation, B one with a kernel of one element
 * and the layer's groups. y = conv(x, W) + s conv(conv(x, A), B).
 *
 * As PEFT has it, A reads all channels, also beside a convolution with groups: its update then has no place in the grouped weight, so it cannot be
 * merged (PEFT refuses too), and its rows have no length together with W's, so that DoRA is refused (PEFT sums numbers of different rows there).
 * Beside a dilated convolution A is dilated; PEFT's is not, and fails on the first input.
 */
import { Conv1d, Conv2d, convolve, type ConvolutionGeometry } from "@adjoint/nn";
import { ConfigError, type Shape } from "@adjoint/tensor";
import type { AdditiveMethod, Application, Site } from "../adapter.ts";
import { dropped, type Layer, loraOn, type Pair } from "./layer.ts";
import { initialFactors } from "./low-rank.ts";

/** Channels and kernel that one output of A reads: [C, k] or [C, kh, kw]. */
const windowOf = ({ window, path }: Site): Shape => {
  if (window === undefined) throw new ConfigError(`${path}: a convolution's site must say its window`, { key: path, fix: "take the site from describeTargets" });
  return window;
};
/** A kernel of one element, for each spatial axis. */
const point = (site: Site): Shape => windowOf(site).slice(1).map(() => 1);
const fail = (site: Site, problem: string, key: string, value: unknown, fix: string): never => { throw new ConfigError(`${site.path} is a convolution with ${site.groups} groups: ${problem}`, { key, value, fix }); };

function shapes(site: Site): Pair<Shape> {
  const { r, outFeatures, groups = 1 } = site;
  if (r % groups !== 0) fail(site, `the rank must be a multiple of that, not ${r}`, "r", r, `give it another rank (rank_pattern), or list it in exclude_modules`);
  return { A: [r, ...windowOf(site)], B: [outFeatures, r / groups, ...point(site)] };
}

function geometryOf({ module }: Application): ConvolutionGeometry {
  if (module instanceof Conv1d || module instanceof Conv2d) return module.geometry;
  throw new ConfigError("the adapter of a convolution is used on another module", { op: "lora" });
}

export const convolutional: Layer = {
  shapes,
  init: (site, config, seed) => initialFactors(site, config, seed, shapes(site), { A: site.inFeatures, B: site.r / (site.groups ?? 1) }),
  part({ A, B }, site, use) {
    const geometry = geometryOf(use), { groups } = geometry;
    return convolve(convolve(dropped(use), A, null, { ...geometry, groups: 1 }).mul(site.scale), B, null, { groups });
  },
  delta({ A, B }, site) {
    if ((site.groups ?? 1) > 1) fail(site, "its adapter reads all channels, so the update has no place in the weight", "merge", site.path, "keep the adapter beside the model");
    return B.reshape([site.outFeatures, site.r]).matmul(A.reshape([site.r, site.inFeatures]).mul(site.scale)).reshape([site.outFeatures, ...windowOf(site)]);
  },
  product: (_, use) => convolve(dropped(use), use.frozen.weight, null, geometryOf(use)),
  rows: (weight, site) => weight.reshape([site.outFeatures, weight.size / site.outFeatures]),
  perOutput: (site) => ({ output: [1, site.outFeatures, ...point(site)], weight: [site.outFeatures, 1, ...point(site)] }),
};

/** LoRA on Conv1d and Conv2d. */
export const convolution: AdditiveMethod = loraOn(convolutional);

/** The same layer where rows of the weight are looked at as wholes. @throws ConfigError for groups */
export const ungrouped: Layer = {
  ...convolutional,
  shapes(site) {
    if ((site.groups ?? 1) > 1) fail(site, "DoRA needs rows of W + s B A, and B A has other rows than a grouped W", "use_dora", true, "use plain LoRA (use_dora: false), or list it in exclude_modules");
    return shapes(site);
  },
};
