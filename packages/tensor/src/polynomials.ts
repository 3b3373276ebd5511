/**
 * Least-maximum polynomials in f32 that every backend's own functions are made of, lowest power first; a backend owns only
 * the way it evaluates them.
 *
 * With k = round(x log2 e) and r = x - k ln 2 in [-ln 2 / 2, ln 2 / 2]:
 * e^r = 1 + r + r² exp(r); e^r - 1 = r + r² expm1(r) to a relative error; log(1 + m) = m - m²/2 + m³ log(m) for
 * 1 + m in [√½, √2]; for |r| ≤ π/4: sin r = r + r³ sin(r²) and cos r = 1 - r²/2 + r⁴ cos(r²);
 * erf x = x erfSmall(x²) near 0, and 1 - e^(-erfBig(|x|)) further out.
 */
export interface Polynomials {
  /** ln 2 in two parts, the first with few digits, so that its products with whole numbers are exact */
  readonly ln2: { readonly high: number; readonly low: number };
  readonly exp: readonly number[];
  readonly expm1: readonly number[];
  readonly log: readonly number[];
  readonly sin: readonly number[];
  readonly cos: readonly number[];
  readonly erfSmall: readonly number[];
  readonly erfBig: readonly number[];
}

export const polynomials: Polynomials = {
  ln2: { high: 0.693359375, low: -2.12194440e-4 },
  exp: [0.5, 0.166665182, 0.041666206, 0.00836895406, 0.00139505998],
  expm1: [0.5, 0.166666672, 0.041666355, 0.00833327416, 0.0013941077, 0.00019913679],
  log: [0.333333313, -0.250008225, 0.200012267, -0.166233569, 0.142017618, -0.131601945, 0.127615511, -0.0763443187],
  sin: [-0.166666552, 0.00833215471, -0.000195140834],
  cos: [0.0416666456, -0.00138873374, 0.000024434843],
  erfSmall: [1.12837911, -0.37612626, 0.112835854, -0.026853811, 0.00518832775, -0.000801019254, 0.0000785385637],
  erfBig: [0.000312692137, 1.12720132, 0.637966573, 0.103254773, -0.0219057705, 0.0029638249, -0.00018795277],
};
