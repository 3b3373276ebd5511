/**
 * PiSSA: A and B are the principal part of W, so that training moves its largest directions first.
 *
 * W = U S Vᵀ; B = U_r √(S_r / s), A = √(S_r / s) V_rᵀ, hence s B A is the best approximation of W of rank r (Eckart & Young 1936).
 * `pissa_niter_K` takes the directions from a random subspace with K iterations (Halko et al. 2011), which is faster for large W.
 * Meng et al. 2024 (arXiv 2404.02948).
 */
import { svd, svdLowrank } from "@adjoint/tensor";
import { type Initialisation, mustBeLinear, mustBePositive, mustHaveRank } from "./initial.ts";
import { pissaIterations } from "./names.ts";
import { weightOf } from "./numbers.ts";
import { range, shared } from "./spectrum.ts";

export const pissa: Initialisation = {
  name: "pissa",
  begin: ({ config, seed }) => {
    const name = String(config.initLoraWeights), iterations = pissaIterations(name);
    return {
      start: async (place) => {
        const { site } = place;
        mustBeLinear(name, place);
        mustBePositive(name, place);
        mustHaveRank(name, place, site.r);
        const W = await weightOf(place);
        return shared(iterations === null ? svd(W) : svdLowrank(W, { rank: site.r, iterations, seed }), range(0, site.r), site.scale);
      },
    };
  },
};
