/** The output head and its loss by chunks of rows, so that the logits of a large vocabulary never lie in memory at once. */
import { ConfigError, ShapeError, type Tensor, amax, concat, iota, show, stored, sum, withGradient } from "@adjoint/tensor";

/** Logits in one chunk: 64 MiB of f32. */
const LIMIT = 2 ** 24;

export interface ChunkOptions {
  /** rows of logits at once; by default as many as make 64 MiB, in multiples of 128, spread evenly */
  readonly chunk?: number;
}

/** Rows a chunk: at most `limit` logits, a multiple of 128 or 64 (tiles of products) where there are that many, chunks as even as that allows. */
export function rowsPerChunk(rows: number, vocabulary: number, limit: number = LIMIT): number {
  const most = Math.max(1, Math.floor(limit / vocabulary)), unit = most >= 128 ? 128 : most >= 64 ? 64 : 1, cap = most - (most % unit), pieces = Math.ceil(rows / cap);
  return Math.min(rows, Math.ceil(Math.ceil(rows / pieces) / unit) * unit);
}

/**
 * Σ over rows of -log softmax(h Wᵀ)[label], and how many rows count; labels outside [0, vocabulary) (such as -100) do not.
 *
 * Shapes: h [rows, d], weight [vocabulary, d], labels [rows] i32. The gradient of a chunk, softmax - onehot, is taken where
 * its logits are at hand and turned at once into that chunk's dH and its share of dW (as Liger Kernel does, Hsu et al.
 * 2024); the backward pass only scales them. Where no gradient is asked for, none of that is computed. A second
 * derivative takes the first as a constant of h and W, so it is not right: use crossEntropySum of all logits for it.
 * @throws ShapeError, ConfigError for a chunk that is no positive integer
 */
export function linearCrossEntropy(h: Tensor, weight: Tensor, labels: Tensor, { chunk }: ChunkOptions = {}): { total: Tensor; count: Tensor } {
  const [N, d] = h.shape, [V] = weight.shape, dtype = h.dtype === "f64" ? "f64" : "f32";
  if (h.rank !== 2 || weight.rank !== 2 || weight.shape[1] !== d || labels.rank !== 1 || labels.shape[0] !== N) {
    throw new ShapeError(`linearCrossEntropy: shapes do not fit\n  h       ${show(h.shape)}\n  weight  ${show(weight.shape)}\n  labels  ${show(labels.shape)}`, { op: "linearCrossEntropy", shapes: [h.shape, weight.shape, labels.shape], fix: "h [rows, d], weight [vocabulary, d], labels [rows]" });
  }
  if (chunk !== undefined && !(Number.isInteger(chunk) && chunk > 0)) throw new ConfigError(`linearCrossEntropy: chunk is ${chunk}; it must be a positive integer`, { op: "linearCrossEntropy", key: "chunk", value: chunk, fix: "leave it out, or give a number of rows" });
  const step = chunk ?? rowsPerChunk(N, V), lost: Tensor[] = [], dH: Tensor[] = [];
  let dW: Tensor | null = null;
  const counts = (y: Tensor): Tensor => y.ge(0).where(y.lt(V).cast(dtype), 0);
  for (let from = 0; from < N; from += step) {
    const to = Math.min(N, from + step), x = h.slice(0, from, to), y = labels.slice(0, from, to).unsqueeze(-1), z = x.matmul(weight.T);
    const valid = counts(y), hit = iota(z.shape, -1).eq(y.expand(z.shape)), m = amax(z, -1), e = z.sub(m).exp(), l = sum(e, -1);
    lost.push(l.log().add(m).sub(sum(hit.where(z, 0), -1)).mul(valid));
    const dZ = e.div(l).sub(hit.cast(dtype)).mul(valid), share = dZ.T.matmul(x);
    dH.push(dZ.matmul(weight));
    dW = dW ? stored(dW.add(share)) : stored(share);
  }
  const all = concat(dH), whole = dW!;
  return { total: withGradient(sum(concat(lost)), [h, weight], (g) => [all.mul(g), whole.mul(g)]), count: sum(counts(labels)) };
}
