/** `target_parameters`: P + s B A for a matrix P as it is stored, whatever its layer computes with it: A [r, columns], B [rows, r]. */
import { wide } from "@adjoint/nn";
import { gather, type Tensor } from "@adjoint/tensor";
import type { AdditiveMethod, Factors, Site } from "../adapter.ts";
import { factorKey } from "../files/peft-keys.ts";
import { lowRank } from "../methods/low-rank.ts";

/** The parameter as the weight of a linear layer [out, in] = [rows, columns]. */
const asLinear = (site: Site): Site => ({ ...site, kind: "linear" });

const delta = ({ A, B }: Factors, { scale }: Site): Tensor => B.matmul(A.mul(scale));

/** The matrix `weight` of a linear layer, of GPT-2's Conv1D or of an embedding; `site` counts rows as outputs and columns as inputs. */
export const lowRankParameter: AdditiveMethod = {
  name: "parameter",
  shapes: (site, config) => lowRank.shapes(asLinear(site), config),
  init: (site, config, seed) => lowRank.init(asLinear(site), config, seed),
  key: ({ path }, role) => factorKey(path, role, "linear"),
  delta,
  forward: (p, site, { x, y }) => {
    const { A, B } = p, { kind, scale } = site;
    // x Pᵀ, x P or the rows x of P: each goes through the rank side
    if (kind === "linear") return y.add(x.matmul(A.T).mul(scale).matmul(B.T));
    return y.add((kind === "embedding" ? gather(B, x) : x.matmul(B)).mul(scale).matmul(A));
  },
  merged: (p, site, { weight }) => ({ weight: wide(weight).add(delta(p, site)) }),
};
