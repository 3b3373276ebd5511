/**
 * OLoRA: W = Q R; B is the first r columns of Q, which are orthonormal, and A the first r rows of R.
 *
 * Büyükakyüz 2024 (arXiv 2406.01775). The factors are not divided by s, as in PEFT: what the layer gives up is s B A. For layers that
 * store W as (in, out) the matrix of the equation is decomposed; PEFT decomposes what lies in memory.
 */
import { qr } from "@adjoint/tensor";
import { type Initialisation, mustBeLinear, mustHaveRank } from "./initial.ts";
import { weightOf } from "./numbers.ts";

export const olora: Initialisation = {
  name: "olora",
  begin: () => ({
    start: async (place) => {
      mustBeLinear("olora", place);
      mustHaveRank("olora", place, place.site.r);
      const { q, r } = qr(await weightOf(place), { rank: place.site.r });
      return { A: r, B: q };
    },
  }),
};
