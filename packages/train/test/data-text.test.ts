/** Rows, tokenising, held-out text: what is trained, what is cut, what bad files answer. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { loadTokenizer, trainTokenizer, type Message } from "@adjoint/models";
import { ConfigError, FormatError } from "@adjoint/tensor";
import { firstBytes, IGNORED, measured, numbers, numberWords, parseJsonLines, textData, tokenizeRows, type Row, type TextDataOptions } from "../src/data/index.ts";

const tokenizer = await loadTokenizer(trainTokenizer(["the sea and the ship, the whale and the sea: 12 -> 34. ".repeat(9)], { vocabSize: 290 }));
const END = 0;
const folder = mkdtempSync(join(tmpdir(), "adjoint-data-"));
afterAll(() => rmSync(folder, { recursive: true }));
const write = (name: string, text: string): string => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};
const words = fc.array(fc.constantFrom("the", "sea", "whale", "12", "é", "🐋", "\n", ", "), { minLength: 1, maxLength: 12 }).map((list) => list.join(" "));

describe("tokenising", () => {
  test("texts train every token, and end once", () => {
    fc.assert(fc.property(words, fc.boolean(), (text, ended) => {
      const { samples: [sample] } = tokenizeRows([{ text: ended ? `${text}<|endoftext|>` : text }], tokenizer);
      expect(sample.labels).toEqual(sample.ids);
      expect(sample.ids.filter((id) => id === END)).toEqual([END]);
      expect(tokenizer.decode(sample.ids)).toBe(`${text}<|endoftext|>`);
    }));
  });

  test("only the completion is trained, and its end", () => {
    fc.assert(fc.property(words, words, (prompt, answer) => {
      const { samples: [sample], warnings } = tokenizeRows([{ prompt, completion: ` ${answer}` }], tokenizer);
      const promptIds = tokenizer.encode(prompt);
      expect(tokenizer.decode(sample.ids)).toBe(`${prompt} ${answer}<|endoftext|>`);
      expect(sample.labels).toEqual(sample.ids.map((id, i) => (i < promptIds.length ? IGNORED : id)));
      expect(sample.labels[sample.labels.length - 1]).toBe(END);
      expect(warnings.length).toBe(promptIds.every((id, i) => sample.ids[i] === id) ? 0 : 1);
    }));
  });

  test("a boundary inside a token is told", () => {
    expect(tokenizeRows([{ prompt: "th", completion: "e sea" }], tokenizer).warnings[0]).toMatch(/1 of 1 rows.*merges across the boundary/);
  });

  const template = "{% for m in messages %}{% if m.role == 'assistant' %}A: {% generation %}{{ m.content }};{% endgeneration %}{% else %}Q: {{ m.content }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}A: {% endif %}";
  const messages: Message[] = [{ role: "user", content: "the sea?" }, { role: "assistant", content: "the 🐋" }, { role: "user", content: "and" }, { role: "assistant", content: "ship" }];

  test("messages are rendered, and train all or the assistant's part", () => {
    const [everything] = tokenizeRows([{ messages }], tokenizer, { chatTemplate: template }).samples;
    expect(tokenizer.decode(everything.ids)).toBe("Q: the sea?A: the 🐋;Q: andA: ship;");
    expect(everything.labels).toEqual(everything.ids);
    const [own] = tokenizeRows([{ messages }], tokenizer, { chatTemplate: template, assistantOnlyLoss: true }).samples;
    expect(own.ids).toEqual(everything.ids);
    expect(tokenizer.decode(own.labels.filter((label) => label !== IGNORED)).replaceAll(" ", "")).toBe("the🐋;ship;");
  });

  test("prompts that are messages train the answer after the assistant's header", () => {
    const [sample] = tokenizeRows([{ prompt: messages.slice(0, 1), completion: messages.slice(1, 2) }], tokenizer, { chatTemplate: template }).samples;
    expect(tokenizer.decode(sample.labels.filter((label) => label !== IGNORED))).toContain("🐋;");
    expect(tokenizer.decode(sample.ids.filter((_, i) => sample.labels[i] === IGNORED))).toMatch(/^Q: the sea\?A:/);
  });

  test("options that do not fit the rows are refused", () => {
    expect(() => tokenizeRows([{ text: "a" }], tokenizer, { completionOnlyLoss: true })).toThrow(/completion_only_loss needs/);
    expect(() => tokenizeRows([{ text: "a" }], tokenizer, { assistantOnlyLoss: true })).toThrow(/assistant_only_loss needs messages/);
    expect(() => tokenizeRows([{ messages }], tokenizer)).toThrow(/no chat template/);
    expect(() => tokenizeRows([{ messages }], tokenizer, { chatTemplate: "{{ messages[0].content }}", assistantOnlyLoss: true })).toThrow(/marks no token/);
    expect(tokenizeRows([{ prompt: "a", completion: " b" }], tokenizer, { completionOnlyLoss: false }).samples[0].labels).not.toContain(IGNORED);
  });
});

describe("held-out text", () => {
  test("every token of every text is predicted once, every byte is counted", () => {
    fc.assert(fc.property(fc.array(words, { minLength: 1, maxLength: 4 }), fc.integer({ min: 2, max: 9 }), fc.integer({ min: 1, max: 8 }), (texts, maxLength, context) => {
      fc.pre(context < maxLength);
      const data = measured(texts.map((text) => ({ text })), tokenizer, { maxLength, context });
      const predicted = data.samples.flatMap(({ labels }) => labels.slice(1).filter((label) => label !== IGNORED));
      expect(predicted).toEqual(texts.flatMap((text) => tokenizer.encode(text)));
      expect(data.predicted).toBe(predicted.length);
      expect(data.bytes).toBe(Buffer.byteLength(texts.join("")));
      for (const { ids, labels } of data.samples) {
        expect(ids.length).toBeLessThanOrEqual(maxLength);
        const known = labels.findIndex((label, i) => i > 0 && label !== IGNORED);
        expect(known === context || ids[0] === END).toBe(true);
      }
    }));
  });

  test("the first bytes of a text end at a character", () => {
    fc.assert(fc.property(fc.string({ unit: "binary" }), fc.integer({ min: 0, max: 30 }), (text, limit) => {
      const head = firstBytes(text, limit);
      const size = Buffer.byteLength(head);
      expect(text.startsWith(head) && size <= limit).toBe(true);
      const next = [...text.slice(head.length)][0];
      if (next !== undefined) expect(size + Buffer.byteLength(next)).toBeGreaterThan(limit);
    }));
  });
});

describe("textData", () => {
  test("a .txt file is one document in wrapped rows, with its end held out", async () => {
    const text = "the sea and the ship, the whale. ".repeat(20);
    const data = await textData(write("sea.txt", text), tokenizer, { maxLength: 16, heldOut: 0.25 });
    const train = tokenizer.decode(data.samples.flatMap(({ ids }) => ids));
    const test = tokenizer.decode(data.heldOut?.samples.flatMap(({ labels }) => labels.filter((label) => label !== IGNORED)) ?? []);
    expect(train.replace("<|endoftext|>", "") + test).toBe(text);
    expect(data.samples.slice(0, -1).every(({ ids }) => ids.length === 16)).toBe(true);
    expect(data.heldOut?.bytes).toBe(test.length);
    expect(Math.abs(test.length / text.length - 0.25)).toBeLessThan(0.05);
  });

  test("one text: both parts hold text, no character is cut, and the end is about the share", async () => {
    await fc.assert(fc.asyncProperty(fc.array(fc.constantFrom("a", "b", "\u{1F433}", "\u6D77", " ", "\n"), { minLength: 8, maxLength: 40 }), fc.constantFrom(0.1, 0.25, 0.5, 0.9), async (parts, share) => {
      const text = parts.join("");
      const { samples, heldOut } = await textData([{ text }], tokenizer, { maxLength: 64, heldOut: share });
      const train = tokenizer.decode(samples.flatMap(({ ids }) => ids)).replace("<|endoftext|>", ""), test = tokenizer.decode(heldOut?.samples.flatMap(({ labels }) => labels.filter((label) => label !== IGNORED)) ?? []);
      expect(train + test).toBe(text);
      expect(Math.min(train.length, test.length)).toBeGreaterThan(0);
    }));
    for (const text of ["a".repeat(20) + " ", "\u{1F433}".repeat(5), "\u{1F433}\u{1F433}"]) for (const share of [0.1, 0.3, 0.9]) {
      const { samples, heldOut } = await textData([{ text }], tokenizer, { maxLength: 64, heldOut: share });
      expect(tokenizer.decode(samples.flatMap(({ ids }) => ids))).not.toContain("\uFFFD");
      expect(heldOut?.bytes).toBeGreaterThan(0);
    }
    for (const text of ["a", "\u{1F433}"]) await expect(textData([{ text }], tokenizer, { heldOut: 0.5 })).rejects.toThrow(/one of the two parts would be empty/);
  });

  test("of many rows, rows k, 2k, 3k, ... are held out; a source's own split is kept", async () => {
    const rows: Row[] = Array.from({ length: 25 }, (_, i) => ({ prompt: `${i}`, completion: " the sea" }));
    const data = await textData(write("rows.jsonl", rows.map((row) => JSON.stringify(row)).join("\n")), tokenizer, { heldOut: 0.1 });
    expect([data.samples.length, data.heldOut?.samples.length]).toEqual([23, 2]);
    expect(tokenizer.decode(data.heldOut?.samples[0].ids ?? [])).toBe("9 the sea<|endoftext|>");
    const split = await textData(() => ({ train: [{ text: "the sea and" }], test: [{ text: "the whale" }] }), tokenizer);
    expect(split.heldOut?.bytes).toBe(9);
    await expect(textData({ train: [{ text: "a" }], test: [] }, tokenizer, { heldOut: 0.5 })).rejects.toThrow(/brings its own split/);
    await expect(textData(rows.slice(0, 3), tokenizer, { heldOut: 0.1 })).rejects.toThrow(/none would be held out/);
  });

  test("long rows keep their start, and are counted", async () => {
    const rows = [{ prompt: "the sea", completion: " and the ship" }, { prompt: "1", completion: " 3" }];
    const data = await textData(rows, tokenizer, { maxLength: 5 });
    expect(data.truncated).toBe(1);
    expect(data.samples.map(({ ids }) => ids)).toEqual(tokenizeRows(rows, tokenizer).samples.map(({ ids }) => ids.slice(0, 5)));
    const none = await textData([{ prompt: "the sea and the ship", completion: " 3" }, rows[1]], tokenizer, { maxLength: 4 });
    expect(none.warnings[0]).toMatch(/1 of 2 rows.*max_length 4 cuts off all/);
  });

  test("packing: on for texts, on request for the rest, never half", async () => {
    const rows = Array.from({ length: 6 }, () => ({ prompt: "12", completion: " 3" }));
    const of = async (o: TextDataOptions): Promise<number> => (await textData(rows, tokenizer, { maxLength: 16, ...o })).samples.length;
    expect(await of({})).toBe(6);
    expect(await of({ packing: true })).toBeLessThan(6);
    expect(await of({ packingStrategy: "wrapped" })).toBeLessThan(6);
    // what is held out is not packed, however the rest is
    const kept = await textData(rows, tokenizer, { maxLength: 16, packing: true, packingStrategy: "bfd", heldOut: 0.34 });
    expect([kept.heldOut?.samples.length, kept.heldOut?.samples.some((sample) => sample.pieces !== undefined)]).toEqual([2, false]);
    await expect(of({ packing: false, packingStrategy: "bfd" })).rejects.toThrow(ConfigError);
    await expect(of({ maxLength: 1 })).rejects.toThrow(/max_length is 1/);
  });
});

describe("bad files", () => {
  test.each([
    ['{"text": "a"}\n{"text": ', /line 2: not JSON/],
    ["[1]", /line 1: not an object/],
    ['{"text": 5}', /line 1: "text" is a number, not a string/],
    ['{"text": ""}', /"text" is empty/],
    ['{"prompt": "a"}', /lacks "completion"/],
    ['{"prompt": "a", "completion": ""}', /"completion" is empty/],
    ['{"prompt": "a", "text": "b"}', /has both "text" and "prompt"/],
    ['{"instruction": "a", "output": "b"}', /its keys are instruction, output/],
    ['{"chosen": "a", "rejected": "b"}', /preference pairs/],
    ['{"messages": []}', /"messages" is an empty list/],
    ['{"messages": [{"role": "user"}]}', /"messages\[0\]" is an object, not a message/],
    ['\n{"text": "a"}\n\n{"prompt": "a", "completion": "b"}', /line 4: a "prompt" row among "text" rows/],
    ["\n \n", /no rows/],
  ])("%s", (text, message) => {
    expect(() => parseJsonLines(text, "rows.jsonl")).toThrow(FormatError);
    expect(() => parseJsonLines(text, "rows.jsonl")).toThrow(message);
    expect(() => parseJsonLines(text, "rows.jsonl")).toThrow(/rows\.jsonl[^]*fix: /);
  });

  test("wrong endings, empty and missing files", async () => {
    await expect(textData(write("a.csv", "x"), tokenizer)).rejects.toThrow(/\.csv is not a kind of data file/);
    await expect(textData(write("a.json", "[]"), tokenizer)).rejects.toThrow(/--ids/);
    await expect(textData(write("empty.txt", " \n"), tokenizer)).rejects.toThrow(/empty/);
    await expect(textData(join(folder, "none.txt"), tokenizer)).rejects.toThrow(/none\.txt/);
  });

  test("a byte order mark and Windows line ends do no harm", () => {
    expect(parseJsonLines('{"text": "a"}\r\n{"text": "b"}\r\n', "x.jsonl")).toEqual([{ text: "a" }, { text: "b" }]);
    expect(readFileSync(write("bom.txt", "\ufeffthe"), "utf8").charCodeAt(0)).toBe(0xfeff);
    return expect(textData(join(folder, "bom.txt"), tokenizer).then((data) => tokenizer.decode(data.samples[0].ids))).resolves.toBe("the<|endoftext|>");
  });
});

describe("numbers", () => {
  /** The value of number words, by another way than they were made. */
  const value = (text: string): number => {
    const small = new Map(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"].map((word, i) => [word, i]));
    ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"].forEach((word, i) => small.set(word, 20 + 10 * i));
    let total = 0, part = 0;
    for (const word of text.split(/[ -]/)) {
      if (word === "hundred") part *= 100;
      else if (word === "thousand") [total, part] = [part * 1000, 0];
      else part += small.get(word) ?? Number.NaN;
    }
    return total + part;
  };

  test("words and digits say the same", () => {
    fc.assert(fc.property(fc.integer({ min: 0, max: 999_999 }), (n) => value(numberWords(n)) === n));
    expect(numberWords(342)).toBe("three hundred forty-two");
    expect(numberWords(100_007)).toBe("one hundred thousand seven");
    expect(() => numberWords(1_000_000)).toThrow(ConfigError);
  });

  test("held-out rows are new combinations of known words; the same seed gives the same split", () => {
    fc.assert(fc.property(fc.integer({ min: 0, max: 400 }), fc.integer({ min: 300, max: 1500 }), fc.integer({ min: 0, max: 60 }), fc.integer({ min: 0, max: 99 }), (from, more, heldOut, seed) => {
      const made = numbers({ from, to: from + more, heldOut, seed });
      expect([made.train.length, made.test.length]).toEqual([more + 1 - heldOut, heldOut]);
      const known = new Set(made.train.flatMap(({ prompt }) => prompt.split(/[ -]/)));
      const prompts = new Set(made.train.map(({ prompt }) => prompt));
      for (const { prompt, completion } of [...made.train, ...made.test]) expect(value(prompt.replace(" ->", ""))).toBe(Number(completion));
      for (const { prompt } of made.test) {
        expect(prompts.has(prompt)).toBe(false);
        expect(prompt.split(/[ -]/).every((word) => known.has(word))).toBe(true);
      }
      expect(numbers({ from, to: from + more, heldOut, seed })).toEqual(made);
    }), { numRuns: 30 });
  });

  test("more than there is cannot be held out", () => {
    expect(() => numbers({ from: 0, to: 20, heldOut: 5 })).toThrow(/only 0 of the 5/);
  });
});
