/** What plain JavaScript gets wrong around a training: each is refused in words, none is ignored. */
import { beforeEach, expect, test } from "vitest";
import { lora } from "@adjoint/lora";
import { initModel } from "@adjoint/models";
import { adamw } from "@adjoint/optim";
import { createReference, setDevice } from "@adjoint/tensor";
import { adapterTrainee, type BatchOptions, evaluate, type EvaluateOptions, fullTrainee, idsRows, textData, type TextDataOptions, Training, type TrainingOptions } from "../src/index.ts";

beforeEach(() => { setDevice(createReference()); });
const model = initModel({ model_type: "llama", vocab_size: 8, hidden_size: 4, intermediate_size: 4, num_hidden_layers: 1, num_attention_heads: 1 }, 1), tuned = lora(model, { r: 1 });
const data = idsRows([[1, 2, 3], [4, 5, 6]], "rows"), optimizer = adamw(), learningRate = (): number => 1e-3;
const written = <T>(text: string): T => JSON.parse(text) as T;
const make = (subject: unknown, options: object): Training => Reflect.construct(Training, [subject, options]) as Training;

test("a training names the part that is another thing", () => {
  const good: TrainingOptions = { data, optimizer, learningRate, steps: 2 }, trainee = adapterTrainee(tuned);
  expect(make(trainee, good).options.steps).toBe(2);
  expect(make(fullTrainee(model), good).options.steps).toBe(2);
  for (const subject of [tuned, model]) expect(() => make(subject, good)).toThrow("new Training(adapterTrainee(lora(model, ...))");
  expect(() => make(trainee, { ...good, optimizer: optimizer.for(tuned.adapter) })).toThrow("without .for(...)");
  expect(() => make(trainee, { ...good, learningRate: 1e-3 })).toThrow("learningRate is 0.001, and a schedule is a function of the step");
  expect(() => make(trainee, { ...good, data: [[1, 2]] })).toThrow("the data is no DataSet");
  expect(() => make(trainee, { ...good, steps: undefined })).toThrow("steps is missing");
  expect(() => make(trainee, { ...good, batch_size: 4 })).toThrow("did you mean batchSize?");
});

test("no option of data and measurements is ignored", async () => {
  await expect(textData([{ text: "a" }], null, written<TextDataOptions>('{"max_length":2}'))).rejects.toThrow("textData: there is no option max_length\n  fix: did you mean maxLength?");
  await expect(data.batches(written<BatchOptions>('{"batchSize":2}')).next()).rejects.toThrow("known options: size, steps, epochs, seed, shuffle, start");
  await expect(evaluate(tuned, data, written<EvaluateOptions>('{"batch_size":2}'))).rejects.toThrow("did you mean batchSize?");
  await expect(evaluate(tuned, (await textDataWithout()).heldOut ?? written("null"))).rejects.toThrow("evaluate: there is no data");
});
const textDataWithout = (): Promise<{ readonly heldOut: undefined }> => Promise.resolve({ heldOut: undefined });
