/** Evaluation: the mean over predicted tokens, and an error where it is no number. */
import { createReference, setDevice, tensor } from "@adjoint/tensor";
import { beforeAll, expect, test } from "vitest";
import { evaluate, idsRows, type Scorer } from "../src/index.ts";

beforeAll(() => { setDevice(createReference()); });
const data = idsRows([[1, 2, 3], [4, 5]], "rows.json"), scorer = (total: number): Scorer => ({ lossSum: () => ({ total: tensor([total]), count: tensor([3]) }) });

test("a loss that is not finite is an error that names data and model", async () => {
  expect(await evaluate(scorer(6), data)).toEqual({ loss: 2, tokens: 3, bitsPerByte: null });
  for (const total of [Number.NaN, Number.POSITIVE_INFINITY]) await expect(evaluate(scorer(total), data, { model: "models/a" })).rejects.toThrow(`rows.json: the loss of models/a is ${total} over 3 tokens`);
});
