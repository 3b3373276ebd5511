/** A table of vectors by id. */
import { ShapeError, type Store, type Tensor, gather, show } from "@adjoint/tensor";
import { adapted, type Context } from "./context.ts";

/** y[..., :] = weight[ids[...], :]; weight [vocabulary, width]. Half-precision tables give f32. */
export class Embedding {
  readonly weight: Store;
  /** @throws ShapeError unless weight is a matrix */
  constructor(weight: Store) {
    if (weight.rank !== 2) throw new ShapeError(`Embedding: the weight must be [vocabulary, width], got ${show(weight.shape)}`, { op: "Embedding", key: weight.name, shapes: [weight.shape] });
    this.weight = weight;
  }
  get numEmbeddings(): number { return this.weight.shape[0]; }
  get embeddingDim(): number { return this.weight.shape[1]; }
  /** ids i32 of any shape to [...ids.shape, width]. @throws ShapeError for an id outside the table */
  forward(ids: Tensor, context: Context = {}): Tensor {
    return adapted(this, ids, gather(this.weight, ids), context);
  }
}
