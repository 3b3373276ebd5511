/** Sylvester's equation A X + X B = C for small matrices. */
import { ConfigError, ShapeError } from "../errors.ts";
import { eigSymmetric } from "./eigen.ts";
import { finite, largest, type Matrix, shapeOf, square, zeroMatrix } from "./matrix.ts";
import { product } from "./product.ts";
import { solve } from "./solve.ts";

/** The most unknowns m·n that go through the Kronecker matrix of a general equation: 8 MiB and a second. */
const MOST = 1024;

/**
 * X with A X + X B = C: A (m, m), B (n, n), C and X (m, n).
 *
 * Symmetric A and B of any size: with A = P diag(α) Pᵀ and B = Q diag(β) Qᵀ, X = P Y Qᵀ, Y[i, j] = (Pᵀ C Q)[i, j] / (α[i] + β[j]).
 * Others: the linear system (A ⊗ I + I ⊗ Bᵀ) vec X = vec C, of m·n <= 1024 unknowns. There is one solution unless an eigenvalue of A is
 * the negative of one of B. Sources: Roth 1952; Golub & Van Loan, 7.6. On devices, stacked and iterated: packages/optim/src/solve.ts.
 * @throws ShapeError where the sizes do not fit; ConfigError where eigenvalues cancel, where general A or B are too large, for NaN and infinity
 */
export function sylvester(a: Matrix, b: Matrix, c: Matrix): Matrix {
  const op = "sylvester", m = square(op, a).rows, n = square(op, b).rows;
  finite(op, c);
  if (c.rows !== m || c.cols !== n) throw new ShapeError(`sylvester: C is [${c.rows}, ${c.cols}] for A [${m}, ${m}] and B [${n}, ${n}]`, { op, shapes: [shapeOf(a), shapeOf(b), shapeOf(c)], fix: `pass a C of [${m}, ${n}]` });
  if (isSymmetric(a) && isSymmetric(b)) {
    const { values: alpha, vectors: p } = eigSymmetric(a), { values: beta, vectors: q } = eigSymmetric(b), y = product(product(p, c, { transposeA: true }), q);
    const limit = Math.max(m, n) * 2 ** -52 * Math.max(largest(alpha), largest(beta));
    for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) {
      const sum = alpha[i] + beta[j];
      if (Math.abs(sum) <= limit) throw new ConfigError(`sylvester: eigenvalue ${alpha[i]} of A and ${beta[j]} of B cancel`, { op, value: sum, fix: "add a small multiple of the identity to A" });
      y.data[i * n + j] /= sum;
    }
    return product(product(p, y), q, { transposeB: true });
  }
  if (m * n > MOST) throw new ConfigError(`sylvester: ${m}·${n} unknowns with A or B not symmetric`, { op, value: m * n, fix: `at most ${MOST} unknowns, or symmetric A and B` });
  const size = m * n, k = zeroMatrix(size, size);
  for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) {
    for (let p = 0; p < m; p++) k.data[(i * n + j) * size + p * n + j] += a.data[i * m + p];
    for (let p = 0; p < n; p++) k.data[(i * n + j) * size + i * n + p] += b.data[p * n + j];
  }
  return { rows: m, cols: n, data: solve(k, { rows: size, cols: 1, data: c.data }).data };
}

const isSymmetric = ({ rows, data }: Matrix): boolean => {
  for (let i = 0; i < rows; i++) for (let j = 0; j < i; j++) if (data[i * rows + j] !== data[j * rows + i]) return false;
  return true;
};
