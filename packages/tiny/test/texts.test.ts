/** The collections and their splits are the ones that every figure in the docs refers to. */
import { existsSync, readFileSync } from "node:fs";
import { expect, test, vi } from "vitest";
import { loadTokenizer, trainTokenizer } from "@adjoint/models";
import { addresses, allAddresses, mobyDick, model, overlap, QUOTATION, quotations, sharedPassages, xz, type Text } from "../src/index.ts";

vi.setConfig({ testTimeout: 120_000 }); // ten megabytes of text on a busy machine

const texts = addresses();
const novel = mobyDick();
const plain = (list: readonly Text[]): string[] => list.map(({ text }) => text);
const bytes = (list: readonly Text[]): number => list.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0);

test("233 addresses: 202 train, 15 develop, 16 test, by position in the sorted list", () => {
  expect([texts.train.length, texts.development.length, texts.test.length]).toEqual([202, 15, 16]);
  const all = [...texts.train, ...texts.development, ...texts.test].map(({ name }) => name);
  const sorted = [...all].sort();
  expect(new Set(all).size).toBe(233);
  expect(texts.test.map(({ name }) => sorted.indexOf(name) % 15)).toEqual(texts.test.map(() => 4));
  expect(texts.development.map(({ name }) => sorted.indexOf(name) % 15)).toEqual(texts.development.map(() => 9));
  expect(sorted[0]).toBe("1790_george_washington_n");
  expect([bytes(texts.train), bytes(texts.test)]).toEqual([xz.trainBytes, xz.testBytes]);
});

test("the passages left out of the training addresses are those that held-out addresses repeat", () => {
  const whole = allAddresses();
  const found = sharedPassages(plain([...whole.test, ...whole.development]), plain(whole.train), QUOTATION);
  expect(Object.fromEntries(whole.train.flatMap(({ name }, i) => (found[i].length === 0 ? [] : [[name, found[i]]])))).toEqual(quotations);
  expect(found.flat().reduce((sum, [, length]) => sum + length, 0)).toBe(9044);
  expect(plain(whole.train).join("").length - plain(texts.train).join("").length).toBe(9044);
});

test("135 chapters of the novel, once; chapters 10, 20, ..., 130 are the test", () => {
  expect([novel.train.length, novel.test.length]).toEqual([122, 13]);
  expect(novel.test.map(({ name }) => name)).toEqual(Array.from({ length: 13 }, (_, i) => `chapter_${10 * (i + 1)}`));
  expect(novel.train[0].text).toContain("Call me Ishmael.");
  expect(plain(novel.train).join("").split("Call me Ishmael.").length).toBe(2);
});

test("at most 0.5 % of the held-out windows occur in training text", () => {
  for (const [name, heldOut, train] of [["test addresses", texts.test, texts.train], ["development addresses", texts.development, texts.train], ["Moby-Dick, test", novel.test, novel.train]] as const) {
    const found = overlap(plain(heldOut), plain(train));
    console.log(`${name}: ${found.shared} of ${found.windows} windows of 50 characters (${(100 * found.share).toFixed(3)} %) occur in training text; longest ${found.longest}: "${found.longestText}"`);
    expect(found.share).toBeLessThanOrEqual(0.005);
  }
});

test("the committed tokenizer is the one that the training addresses give, and Moby-Dick is new to it", async () => {
  const trained = trainTokenizer(plain(texts.train), { vocabSize: 2048, modelMaxLength: 512 });
  expect(readFileSync(new URL("tokenizer.json", model), "utf8")).toBe(`${JSON.stringify(trained.tokenizerJson)}\n`);
  expect(readFileSync(new URL("tokenizer_config.json", model), "utf8")).toBe(`${JSON.stringify(trained.config)}\n`);

  const tokenizer = await loadTokenizer(model);
  expect([tokenizer.vocabSize, tokenizer.eosTokenId, tokenizer.bosTokenId, tokenizer.padTokenId]).toEqual([2048, 0, 0, 0]);
  const bytesPerToken = (list: readonly Text[]): number => bytes(list) / list.reduce((sum, { text }) => sum + tokenizer.encode(text).length, 0);
  expect(bytesPerToken(texts.test)).toBeCloseTo(3.63, 2);
  expect(bytesPerToken(novel.test)).toBeCloseTo(2.728, 2);
  for (const { text } of [...texts.test, ...novel.test]) expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
});

test("no text of the data packages lies in this package", () => {
  expect(existsSync(new URL("../data", import.meta.url))).toBe(false);
});
