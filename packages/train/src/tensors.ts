/** Batches of typed arrays as tensors for a model. */
import { fromHost, type Tensor } from "@adjoint/tensor";
import type { Batch } from "./data/sample.ts";

/**
 * Rows of tokens as tensors [rows, length]. A class, so that `compile` sees its tensors and nothing else.
 *
 * There is no attention mask: rows are padded on the right, a causal model's real tokens never see what comes after them,
 * and the labels of padding are -100. That saves a kernel's input and a second plan for batches without padding.
 */
export class TensorBatch {
  readonly inputIds: Tensor;
  /** not shifted, -100 where nothing is predicted */
  readonly labels: Tensor;
  declare readonly positionIds?: Tensor;
  declare readonly segmentIds?: Tensor;
  constructor({ rows, length, inputIds, labels, positionIds, segmentIds }: Batch) {
    const ids = (data: Int32Array): Tensor => fromHost({ dtype: "i32", shape: [rows, length], data });
    this.inputIds = ids(inputIds);
    this.labels = ids(labels);
    if (positionIds !== undefined) this.positionIds = ids(positionIds);
    if (segmentIds !== undefined) this.segmentIds = ids(segmentIds);
  }
}

/** The tensors of a batch. */
export const toTensors = (batch: Batch): TensorBatch => new TensorBatch(batch);
