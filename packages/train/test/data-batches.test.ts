/** Batches: padding, masks, positions, order, resume; and pre-tokenised files. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { ConfigError, FormatError } from "@adjoint/tensor";
import { collate, DataSet, idsData, IGNORED, LENGTH_STEP, pack, predictedTokens, type Batch, type HostBatch, type GroupOptions, type Sample } from "../src/data/index.ts";

const sample: fc.Arbitrary<Sample> = fc.array(fc.tuple(fc.integer({ min: 0, max: 9 }), fc.boolean()), { minLength: 1, maxLength: 70 })
  .map((row) => ({ ids: row.map(([id]) => id), labels: row.map(([id, trained]) => (trained ? id : IGNORED)) }));
const samples = fc.array(sample, { minLength: 1, maxLength: 8 });
/** n samples, told apart by their first id. */
const counted = (n: number): Sample[] => Array.from({ length: n }, (_, i) => ({ ids: [i, 1], labels: [i, 1] }));
const idsOf = ({ inputIds }: Batch | HostBatch): ArrayLike<number> => ("dataSync" in inputIds ? inputIds.dataSync() : inputIds);
const firstIds = (batch: Batch | HostBatch): number[] => Array.from({ length: batch.rows }, (_, r) => idsOf(batch)[r * batch.length]);
async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

describe("collate", () => {
  test("tokens on the left, padding on the right: masked, unlabelled, a multiple of 32 wide", () => {
    fc.assert(fc.property(samples, fc.integer({ min: 0, max: 9 }), (rows, pad) => {
      const batch = collate(rows, pad, 3);
      expect([batch.index, batch.rows, batch.length % LENGTH_STEP]).toEqual([3, rows.length, 0]);
      expect(batch.length - Math.max(...rows.map(({ ids }) => ids.length))).toBeLessThan(LENGTH_STEP);
      rows.forEach(({ ids, labels }, r) => {
        const row = (data: Int32Array | Uint8Array): number[] => [...data.subarray(r * batch.length, (r + 1) * batch.length)];
        const padding = batch.length - ids.length;
        expect(row(batch.inputIds)).toEqual([...ids, ...new Array<number>(padding).fill(pad)]);
        expect(row(batch.labels)).toEqual([...labels, ...new Array<number>(padding).fill(IGNORED)]);
        expect(row(batch.attentionMask)).toEqual([...ids.map(() => 1), ...new Array<number>(padding).fill(0)]);
      });
      expect(batch.predicted).toBe(rows.reduce((sum, row) => sum + predictedTokens(row), 0));
      expect(batch.positionIds).toBeUndefined();
    }));
  });

  test("predicted counts the labels that the shifted loss looks at", () => {
    fc.assert(fc.property(samples, (rows) => {
      const { labels, length, predicted } = collate(rows, 0, 0);
      expect(predicted).toBe(labels.filter((label, i) => i % length !== 0 && label !== IGNORED).length);
    }));
  });

  test("packed rows: positions restart with each document, and documents are numbered", () => {
    fc.assert(fc.property(samples, fc.integer({ min: 2, max: 80 }), (rows, limit) => {
      const packed = pack(rows, limit, "bfd");
      const { positionIds = new Int32Array(), segmentIds = new Int32Array(), attentionMask, labels, length } = collate(packed, 0, 0);
      packed.forEach(({ pieces = [] }, r) => {
        const at = r * length;
        const positions = pieces.flatMap((size) => Array.from({ length: size }, (_, i) => i));
        const segments = pieces.flatMap((size, s) => new Array<number>(size).fill(s));
        expect([...positionIds.subarray(at, at + positions.length)]).toEqual(positions);
        expect([...segmentIds.subarray(at, at + segments.length)]).toEqual(segments);
      });
      for (let i = 0; i < labels.length; i++) {
        expect(segmentIds[i] === -1).toBe(attentionMask[i] === 0);
        if (positionIds[i] === 0) expect(labels[i]).toBe(IGNORED);
      }
    }));
  });
});

const options = fc.record({ size: fc.integer({ min: 1, max: 5 }), accumulation: fc.integer({ min: 1, max: 4 }), seed: fc.integer({ min: 0, max: 1000 }), shuffle: fc.boolean() });

describe("order", () => {
  test("each pass shows every sample once", () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 30 }), options, fc.integer({ min: 0, max: 3 }), (n, o, epoch) => {
      const data = new DataSet(counted(n));
      const steps = data.stepsPerEpoch(o);
      const seen = Array.from({ length: steps }, (_, i) => data.group(epoch * steps + i, o)).flat(2).flatMap(firstIds);
      expect([...seen].sort((a, b) => a - b)).toEqual(Array.from({ length: n }, (_, i) => i));
      if (!o.shuffle) expect(seen).toEqual(Array.from({ length: n }, (_, i) => i));
    }));
  });

  test("a resumed run sees the batches of the uninterrupted one, whatever ran before", async () => {
    await fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 20 }), options, fc.integer({ min: 0, max: 12 }), async (n, o, start) => {
      const whole = await collect(new DataSet(counted(n)).groups({ ...o, steps: 12 }));
      const resumed = await collect(new DataSet(counted(n)).groups({ ...o, steps: 12, start }));
      expect(whole.length).toBe(12);
      expect(resumed).toEqual(whole.slice(start));
    }), { numRuns: 50 });
  });

  test("accumulated batches are the large batch in parts", () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 20 }), options, fc.integer({ min: 0, max: 9 }), (n, o, step) => {
      const data = new DataSet(counted(n));
      const large: GroupOptions = { ...o, size: o.size * o.accumulation, accumulation: 1 };
      expect(data.group(step, o).flatMap(firstIds)).toEqual(data.group(step, large).flatMap(firstIds));
      expect(data.group(step, o).every((batch) => batch.index === step && batch.rows <= o.size)).toBe(true);
    }));
  });

  test("passes differ in order, seeds differ, and both are the same on every machine", () => {
    const data = new DataSet(counted(8));
    const order = (seed: number, step: number): number[] => data.group(step, { size: 8, seed }).flatMap(firstIds);
    expect(order(42, 0)).not.toEqual(order(42, 1));
    expect(order(42, 0)).not.toEqual(order(43, 0));
    expect(order(42, 0)).toEqual(new DataSet(counted(8)).group(0, { size: 8 }).flatMap(firstIds));
  });

  test("epochs and steps set the length; one pass is the default", async () => {
    const data = new DataSet(counted(5));
    expect((await collect(data.batches({ size: 2 }))).map((batch) => batch.rows)).toEqual([2, 2, 1]);
    expect(await collect(data.batches({ size: 2, epochs: 2 }))).toHaveLength(6);
    expect((await collect(data.batches({ size: 2, steps: 7, shuffle: false }))).map(firstIds)).toEqual([[0, 1], [2, 3], [4], [0, 1], [2, 3], [4], [0, 1]]);
  });

  test("sizes that make no sense are refused by their recipe key", () => {
    const data = new DataSet(counted(5));
    expect(() => data.stepsPerEpoch({ size: 0 })).toThrow(/per_device_train_batch_size|size is 0/);
    expect(() => data.group(0, { size: 1, accumulation: 1.5 })).toThrow(ConfigError);
    expect(() => data.group(-1, { size: 1 })).toThrow(/step -1/);
    expect(() => new DataSet([{ ids: [1], labels: [1] }], { name: "x.json" })).toThrow(/x\.json: no token is predicted/);
  });
});

describe("ids", () => {
  const folder = mkdtempSync(join(tmpdir(), "adjoint-ids-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const file = join(folder, "rows.json");
  const read = (text: string, vocabSize?: number): Promise<DataSet> => {
    writeFileSync(file, text);
    return idsData(file, vocabSize === undefined ? {} : { vocabSize });
  };

  test("a row is a sample as it is, in the file's order, starting again until max-steps", async () => {
    await fc.assert(fc.asyncProperty(fc.array(fc.array(fc.integer({ min: 0, max: 50 }), { minLength: 2, maxLength: 40 }), { minLength: 1, maxLength: 5 }), async (rows) => {
      const data = await read(JSON.stringify(rows), 51);
      const batches = (await collect(data.groups({ size: 1, steps: 2 * rows.length, shuffle: false }))).flat();
      expect(batches.map(({ inputIds, attentionMask }) => [...inputIds].filter((_, i) => attentionMask[i] === 1))).toEqual([...rows, ...rows]);
      expect(data.predicted).toBe(rows.reduce((sum, row) => sum + row.length - 1, 0));
    }), { numRuns: 20 });
  });

  test.each([
    ["{", /not JSON/], ["{}", /not an array of rows/], ["[]", /not an array of rows/], ["[[1],[]]", /row 1 is not an array/],
    ["[[1, 2.5]]", /row 0, position 1: 2\.5 is not a token id/], ['[[1,"2"]]', /position 1: "2"/], ["[[3, -1]]", /position 1: -1/], ["[[3, 61]]", /id 61, but the model has 61 tokens/],
  ])("%s", async (text, message) => {
    const failure = read(text, 61);
    await expect(failure).rejects.toThrow(FormatError);
    await expect(failure).rejects.toThrow(message);
    await expect(failure).rejects.toThrow(/rows\.json/);
  });
});
