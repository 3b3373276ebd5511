/** Laws of the byte-level tokenizer: nothing is lost, whatever the text. */
import fc from "fast-check";
import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { expect, test } from "vitest";
import { byteToChar, loadTokenizer, tokenBytes, trainTokenizer } from "../src/tokenizer/index.ts";

const seedTexts = ["the whale's 42 ships, and they've 7 sails.\n\n", "naïve 鯨 海の鯨 👩🏽‍🚀👩🏽‍🚀 it’s it’s   \t spaces   \n"];
const files = trainTokenizer(seedTexts.map((text) => text.repeat(5)), { vocabSize: 380 });
const tokenizer = await loadTokenizer(files);

/** Any Unicode text: all scalar values, and the characters that tokenizers trip over. */
const awkward = fc.constantFrom("\ufeff", "\u0085", "\u00a0", "\u200d", "\u2028", "\u0000", "\r\n", "  ", "\n", "'s", "'", "<|endoftext|>", "<|endo", "e\u0301", "½", "٣", "👩🏽‍🚀", "\u{10ffff}", "\ufffd", "\ufffe", "Ġ", "Ċ", " the", "whale");
const unicode = fc.array(fc.oneof(fc.string({ unit: "binary", maxLength: 8 }), fc.string({ unit: "grapheme", maxLength: 8 }), awkward), { maxLength: 12 }).map((parts) => parts.join(""));
/** UTF-16 with lone surrogates, as JavaScript strings may be. */
const utf16 = fc.array(fc.integer({ min: 0, max: 0xffff }).map((unit) => String.fromCharCode(unit)), { maxLength: 20 }).map((units) => units.join(""));
const wellFormed = (text: string): string => new TextDecoder("utf-8", { ignoreBOM: true }).decode(new TextEncoder().encode(text));

test("decode(encode(s)) = s for every Unicode string", () => {
  fc.assert(fc.property(unicode, (text) => tokenizer.decode(tokenizer.encode(text)) === text), { numRuns: 1000 });
});

test("lone surrogates, which no file can hold, become U+FFFD and nothing else changes", () => {
  fc.assert(fc.property(utf16, (text) => tokenizer.decode(tokenizer.encode(text)) === wellFormed(text)), { numRuns: 500 });
});

test("ids are in range, and the remembered path equals the library's", () => {
  const library = new HuggingFaceTokenizer(files.tokenizerJson, files.config);
  fc.assert(fc.property(unicode, (text) => {
    const ids = tokenizer.encode(text);
    expect(ids).toEqual(library.encode(text, { add_special_tokens: false }).ids);
    return ids.every((id) => id >= 0 && id < tokenizer.vocabSize);
  }), { numRuns: 500 });
});

test("training on any texts gives a tokenizer that loses nothing and merges only inside pieces", async () => {
  await fc.assert(fc.asyncProperty(fc.array(unicode, { maxLength: 4 }), fc.integer({ min: 257, max: 300 }), async (texts, vocabSize) => {
    const made = trainTokenizer(texts, { vocabSize });
    const merges = made.tokenizerJson.model.merges.length;
    const tokens = Object.keys(made.tokenizerJson.model.vocab).length;
    expect(tokens).toBeLessThanOrEqual(vocabSize);
    expect(merges).toBeGreaterThanOrEqual(tokens - 257);
    const fresh = await loadTokenizer(made);
    for (const text of texts) expect(fresh.decode(fresh.encode(text))).toBe(text);
  }), { numRuns: 40 });
});

test("training twice gives the same files", () => {
  fc.assert(fc.property(fc.array(unicode, { maxLength: 3 }), (texts) => {
    expect(JSON.stringify(trainTokenizer(texts, { vocabSize: 280 }))).toBe(JSON.stringify(trainTokenizer(texts, { vocabSize: 280 })));
  }), { numRuns: 20 });
});

test("the alphabet has 256 different printable characters", () => {
  expect(new Set(byteToChar).size).toBe(256);
  expect(byteToChar[0x20]).toBe("Ġ");
  fc.assert(fc.property(fc.uint8Array({ maxLength: 20 }), (bytes) => {
    expect(tokenBytes(Array.from(bytes, (byte) => byteToChar[byte]).join(""))).toEqual(bytes);
  }));
  expect(tokenBytes("日")).toBeUndefined();
});
