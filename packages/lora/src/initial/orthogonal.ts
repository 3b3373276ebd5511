/**
 * Orthogonal rows: neither A nor B is zero, yet B A is, because their row spaces come from two halves of one orthogonal matrix.
 *
 * Q (r, r) from the QR of a normal matrix; A = (Z₁ Q_even)ᵀ / 10 with Z₁ (in, r/2), B = Z₂ᵀ Q_odd / 10 with Z₂ (r/2, out), Z normal.
 * B A = Z₂ᵀ Q_odd Q_evenᵀ Z₁ᵀ / 100 = 0. Source: PEFT's `orthogonal`, after datta0's "rethinking LoRA initialisation".
 */
import { hostNormal, type Matrix, matrixOf, product, qr } from "@adjoint/tensor";
import { cannot, type Initialisation, mustBeLinear } from "./initial.ts";
import { rows } from "./spectrum.ts";

const tenth = (a: Matrix): Matrix => ({ ...a, data: a.data.map((x) => x / 10) });

export const orthogonal: Initialisation = {
  name: "orthogonal",
  begin: ({ seed }) => ({
    start: (place) => {
      const { path, r, inFeatures, outFeatures } = place.site;
      mustBeLinear("orthogonal", place);
      if (r % 2 !== 0) throw cannot("orthogonal", `the rank of ${path} is ${r}, which has no halves`, "use an even r", { key: "r", value: r });
      const normal = (what: string, m: number, n: number): Matrix => matrixOf(hostNormal(seed, `lora/init/${path}/${what}`, [m, n]));
      const { q } = qr(normal("Q", r, r)), half = Array.from({ length: r / 2 }, (_, i) => 2 * i);
      const A = product(rows(q, half), normal("A", inFeatures, r / 2), { transposeA: true, transposeB: true });
      const B = product(normal("B", r / 2, outFeatures), rows(q, half.map((i) => i + 1)), { transposeA: true });
      return { A: tenth(A), B: tenth(B) };
    },
  }),
};
