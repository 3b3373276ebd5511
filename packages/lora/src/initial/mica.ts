/** MiCA's start: A = 0, B = the r left singular vectors of W with the smallest singular values (arXiv 2604.01694). */
import { svd, zeroMatrix } from "@adjoint/tensor";
import { type Initialisation, mustBeLinear, mustHaveRank } from "./initial.ts";
import { weightOf } from "./numbers.ts";
import { columns, range } from "./spectrum.ts";

export const mica: Initialisation = {
  name: "mica",
  begin: () => ({
    start: async (place) => {
      const { r, inFeatures } = place.site;
      mustBeLinear("mica", place);
      mustHaveRank("mica", place, r);
      const { u, s } = svd(await weightOf(place));
      return { A: zeroMatrix(r, inFeatures), B: columns(u, range(s.length - r, r)) };
    },
  }),
};
