/** A data set: samples in memory, and batches as a pure function of the step. */
import { ConfigError, knownOptions, type OptionNames, pace, permutation } from "@adjoint/tensor";
import { collate, predictedTokens, type HostBatch, type Sample } from "./sample.ts";
import { Batch } from "./tensors.ts";

/** How samples become batches. */
export interface BatchOptions {
  /** samples a batch (per_device_train_batch_size) */
  readonly size: number;
  /** optimizer steps; default: `epochs` passes */
  readonly steps?: number;
  /** passes over the data when `steps` is not given (default 1) */
  readonly epochs?: number;
  /** seed of the order (default 42) */
  readonly seed?: number;
  /** a new order each pass (default true); false keeps the order of the file */
  readonly shuffle?: boolean;
  /** step to begin with: the batches are those that a run from step 0 would see there (default 0) */
  readonly start?: number;
}

/** Batches that make one optimizer step together. */
export interface GroupOptions extends BatchOptions {
  /** batches a step (gradient_accumulation_steps, default 1); the last step of a pass may have fewer */
  readonly accumulation?: number;
}

const batchNames: OptionNames<Required<BatchOptions>> = { size: true, steps: true, epochs: true, seed: true, shuffle: true, start: true };

/** What a data set knows besides its samples. */
export interface DataSetOptions {
  readonly padTokenId?: number;
  /** UTF-8 bytes of the text that the predicted tokens spell; bits per byte = loss * predicted / (bytes * ln 2) */
  readonly bytes?: number;
  /** name for tables */
  readonly name?: string;
}

/** Samples, and batches of them in an order that depends on (seed, pass) only. */
export class DataSet {
  readonly samples: readonly Sample[];
  readonly padTokenId: number;
  readonly bytes: number | undefined;
  readonly name: string;
  /** tokens of all samples, without padding */
  readonly tokens: number;
  /** predicted tokens of all samples */
  readonly predicted: number;
  /** tokens of the longest sample */
  readonly longest: number;
  private order: { readonly seed: number; readonly epoch: number; readonly rows: Int32Array } | undefined;

  constructor(samples: readonly Sample[], { padTokenId = 0, bytes, name = "data" }: DataSetOptions = {}) {
    this.samples = samples;
    this.padTokenId = padTokenId;
    this.bytes = bytes;
    this.name = name;
    this.tokens = samples.reduce((sum, { ids }) => sum + ids.length, 0);
    this.predicted = samples.reduce((sum, sample) => sum + predictedTokens(sample), 0);
    this.longest = samples.reduce((most, { ids }) => Math.max(most, ids.length), 0);
    if (this.predicted === 0) {
      throw new ConfigError(`${name}: no token is predicted in ${samples.length} samples`, { key: "data", value: samples.length, fix: "give rows of at least two tokens, with a completion that is not cut off by max_length" });
    }
  }

  /** Optimizer steps of one pass: ceil(ceil(samples / size) / accumulation). */
  stepsPerEpoch({ size, accumulation = 1 }: Pick<GroupOptions, "size" | "accumulation">): number {
    positive("size", "per_device_train_batch_size", size);
    positive("accumulation", "gradient_accumulation_steps", accumulation);
    return Math.ceil(Math.ceil(this.samples.length / size) / accumulation);
  }

  /**
   * The batches of one optimizer step, in the order in which a run from step 0 sees them. Pass e = floor(step / stepsPerEpoch) runs over
   * permutation(seed, "data-order/e"); its last batch and its last step may be smaller; then the next pass begins.
   */
  group(step: number, options: GroupOptions): HostBatch[] {
    const { size, accumulation = 1, seed = 42, shuffle = true } = options;
    const perEpoch = this.stepsPerEpoch(options);
    if (!Number.isInteger(step) || step < 0) throw new ConfigError(`step ${step} is not a whole number from 0`, { key: "step", value: step, fix: "steps count from 0" });
    const epoch = Math.floor(step / perEpoch);
    const rows = shuffle ? this.shuffled(seed, epoch) : undefined;
    const first = (step % perEpoch) * accumulation * size;
    const last = Math.min(first + accumulation * size, this.samples.length);
    const batches: HostBatch[] = [];
    for (let at = first; at < last; at += size) {
      const picked = Array.from({ length: Math.min(size, last - at) }, (_, i) => this.samples[rows === undefined ? at + i : rows[at + i]]);
      batches.push(collate(picked, this.padTokenId, step, this.longest));
    }
    return batches;
  }

  /** Groups of batches, one group an optimizer step; between two, the device catches up (`pace`) and the page gets a turn. */
  async *groups(options: GroupOptions): AsyncGenerator<HostBatch[], void, undefined> {
    const { start = 0, epochs = 1 } = options;
    const steps = options.steps ?? Math.ceil(epochs * this.stepsPerEpoch(options));
    for (let step = start; step < steps; step++) {
      yield this.group(step, options);
      await pace();
    }
  }

  /** One batch an optimizer step, as tensors. @example for await (const batch of data.batches({ size: 8, steps: 170 })) step(batch); */
  async *batches(options: BatchOptions): AsyncGenerator<Batch, void, undefined> {
    knownOptions("batches", options, batchNames);
    for await (const [batch] of this.groups({ ...options, accumulation: 1 })) yield new Batch(batch);
  }

  private shuffled(seed: number, epoch: number): Int32Array {
    if (this.order?.seed !== seed || this.order.epoch !== epoch) {
      this.order = { seed, epoch, rows: permutation(seed, `data-order/${epoch}`, this.samples.length) };
    }
    return this.order.rows;
  }
}

function positive(name: string, key: string, value: number): void {
  if (!Number.isInteger(value) || value < 1) throw new ConfigError(`${name} is ${value}, not a positive whole number`, { key, value, fix: `set ${key} to 1 or more` });
}
