/** What training reads: tokenised samples, and the batches made of them. */

/** Label of a position that is not predicted, as in Hugging Face's losses. */
export const IGNORED = -100;

/** One row of training data: token ids, and for each position the id to predict there or -100. */
export interface Sample {
  readonly ids: readonly number[];
  /** unshifted: labels[i] is ids[i] or -100; the loss compares it with the output at i - 1 */
  readonly labels: readonly number[];
  /** packed rows: lengths of the documents in it, which must not see each other */
  readonly pieces?: readonly number[];
}

/** Rows of equal length, right-padded: row r, position i lies at r * length + i. */
export interface HostBatch {
  /** the optimizer step that this batch belongs to, from 0 */
  readonly index: number;
  readonly rows: number;
  /** positions a row: the longest sample, rounded up to a multiple of 32, but no more than the longest of the data */
  readonly length: number;
  readonly inputIds: Int32Array;
  /** unshifted, -100 where nothing is predicted and on padding */
  readonly labels: Int32Array;
  /** 1 on tokens, 0 on padding */
  readonly attentionMask: Uint8Array;
  /** packed rows only: position within the document, restarting at each */
  readonly positionIds?: Int32Array;
  /** packed rows only: number of the document within its row, from 0; -1 on padding. Attention stays within equal numbers. */
  readonly segmentIds?: Int32Array;
  /** predicted tokens: labels that are not -100 after the shift, so never the first of a row */
  readonly predicted: number;
}

/** Predicted tokens of a sample: the labels after the first that are not -100. */
export function predictedTokens(sample: Sample): number {
  let count = 0;
  for (let i = 1; i < sample.labels.length; i++) if (sample.labels[i] !== IGNORED) count++;
  return count;
}

/** Batches are padded to multiples of this many positions, so that few plans serve all lengths. */
export const LENGTH_STEP = 32;

/**
 * Pads samples to one batch. Padding has the id `padTokenId`, mask 0 and label -100; it is known by the mask, never by its id, so that
 * pad = eos does not hide an eos that is to be learned. No row is longer than `most`, the longest of the data: a model may have positions for no more.
 */
export function collate(samples: readonly Sample[], padTokenId: number, index: number, most?: number): HostBatch {
  const rows = samples.length;
  const longest = samples.reduce((most, { ids }) => Math.max(most, ids.length), 1);
  const length = Math.max(longest, Math.min(most ?? Infinity, Math.ceil(longest / LENGTH_STEP) * LENGTH_STEP));
  const inputIds = new Int32Array(rows * length).fill(padTokenId);
  const labels = new Int32Array(rows * length).fill(IGNORED);
  const attentionMask = new Uint8Array(rows * length);
  const packed = samples.some(({ pieces }) => pieces !== undefined);
  const positionIds = new Int32Array(packed ? rows * length : 0);
  const segmentIds = new Int32Array(packed ? rows * length : 0).fill(-1);
  let predicted = 0;
  samples.forEach((sample, row) => {
    const at = row * length;
    inputIds.set(sample.ids, at);
    labels.set(sample.labels, at);
    attentionMask.fill(1, at, at + sample.ids.length);
    predicted += predictedTokens(sample);
    if (!packed) return;
    let start = at;
    (sample.pieces ?? [sample.ids.length]).forEach((size, segment) => {
      for (let i = 0; i < size; i++) positionIds[start + i] = i;
      segmentIds.fill(segment, start, start + size);
      start += size;
    });
  });
  return { index, rows, length, inputIds, labels, attentionMask, ...(packed ? { positionIds, segmentIds } : {}), predicted };
}
