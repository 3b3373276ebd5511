/** Batches of typed arrays as tensors for a model. */
import { fromHost, type Tensor } from "@adjoint/tensor";
import type { HostBatch } from "./sample.ts";

/**
 * Rows of tokens as tensors [rows, length]. A class, so that `compile` sees its tensors and nothing else.
 *
 * There is no attention mask: rows are padded on the right, a causal model's real tokens never see what comes after them,
 * and the labels of padding are -100. That saves a kernel's input and a second plan for batches without padding.
 */
export class Batch {
  /** the optimizer step that this batch belongs to, from 0 */
  readonly index: number;
  readonly rows: number;
  /** positions a row */
  readonly length: number;
  /** predicted tokens */
  readonly predicted: number;
  readonly inputIds: Tensor;
  /** not shifted, -100 where nothing is predicted */
  readonly labels: Tensor;
  declare readonly positionIds?: Tensor;
  declare readonly segmentIds?: Tensor;
  constructor({ index, rows, length, predicted, inputIds, labels, positionIds, segmentIds }: HostBatch) {
    const ids = (data: Int32Array): Tensor => fromHost({ dtype: "i32", shape: [rows, length], data });
    this.index = index;
    this.rows = rows;
    this.length = length;
    this.predicted = predicted;
    this.inputIds = ids(inputIds);
    this.labels = ids(labels);
    if (positionIds !== undefined) this.positionIds = ids(positionIds);
    if (segmentIds !== undefined) this.segmentIds = ids(segmentIds);
  }
}

/** The tensors of a batch; a batch of tensors stays as it is. */
export const toTensors = (batch: HostBatch | Batch): Batch => (batch instanceof Batch ? batch : new Batch(batch));
