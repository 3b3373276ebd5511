/** Tokenizers against Python `tokenizers` and `transformers`: merges, ids, chat templates; and what bad files answer. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { ConfigError, FormatError } from "@adjoint/tensor";
import { golden as goldenOf } from "@adjoint/testing/fixtures";
import { loadTokenizer, trainTokenizer, type Message, type TrainedTokenizer } from "../src/tokenizer/index.ts";

interface Golden {
  cases: { texts: string[]; vocab_size: number; min_frequency: number; special: string[]; learned: string[]; merges: string[] }[];
  encodings: { text: string; ids: number[] }[];
  dialogue: Message[];
  chats: { name: string; template: string; add_generation_prompt: boolean; text: string; ids?: number[]; assistant_mask?: number[] }[];
}
const golden: Golden = goldenOf("tokenizer");

const trained = (index: number): TrainedTokenizer => {
  const c = golden.cases[index];
  return trainTokenizer(c.texts, { vocabSize: c.vocab_size, minFrequency: c.min_frequency, specialTokens: c.special, eosToken: "<|endoftext|>" });
};
const prose = trained(golden.cases.length - 1);
const folder = mkdtempSync(join(tmpdir(), "adjoint-tokenizer-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("training", () => {
  test.each(golden.cases.map((c, i) => [i, c] as const))("case %i has the merges and the vocabulary of Python tokenizers", (i, c) => {
    const { model } = trained(i).tokenizerJson;
    const byId = Object.entries(model.vocab).sort((p, q) => p[1] - q[1]).map(([token]) => token);
    expect(model.merges).toEqual(c.merges);
    expect(byId.slice(0, c.special.length)).toEqual(c.special);
    expect(byId.slice(256 + c.special.length)).toEqual(c.learned);
  });

  test("digits stand alone", async () => {
    const tokenizer = await loadTokenizer(trainTokenizer(["1999 1999 1999 19 99"], { vocabSize: 300 }));
    expect(tokenizer.encode("1999").map((id) => tokenizer.decode([id]))).toEqual(["1", "9", "9", "9"]);
  });

  test("a vocabulary too small, or an end token that is not special, is refused by name", () => {
    expect(() => trainTokenizer([], { vocabSize: 256 })).toThrow(ConfigError);
    expect(() => trainTokenizer([], { vocabSize: 256 })).toThrow(/vocabSize is 256.*need 257/);
    expect(() => trainTokenizer([], { vocabSize: 300, eosToken: "</s>" })).toThrow(/eosToken "<\/s>"/);
    expect(() => trainTokenizer([], { vocabSize: 300, specialTokens: ["<a>", "<a>"] })).toThrow(/specialTokens|special tokens/);
  });
});

describe("encoding", () => {
  test.each(golden.encodings.map((e) => [JSON.stringify(e.text).slice(0, 40), e] as const))("%s", async (_, { text, ids }) => {
    const tokenizer = await loadTokenizer(prose);
    expect(tokenizer.encode(text)).toEqual(ids);
    expect(tokenizer.decode(ids)).toBe(text);
  });

  test("files written compactly load from a path and from a file: URL", async () => {
    writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(prose.tokenizerJson));
    writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(prose.config));
    const memory = await loadTokenizer(prose);
    for (const source of [folder, pathToFileURL(folder)]) {
      const tokenizer = await loadTokenizer(source);
      expect(tokenizer.encode("the sea 12<|endoftext|>")).toEqual(memory.encode("the sea 12<|endoftext|>"));
      expect([tokenizer.vocabSize, tokenizer.eosTokenId, tokenizer.bosTokenId, tokenizer.padTokenId]).toEqual([Object.keys(prose.tokenizerJson.model.vocab).length, 0, 0, 0]);
    }
    expect(memory.decode([0, ...memory.encode("sea"), 0], { skipSpecialTokens: true })).toBe("sea");
    expect(memory.decode([])).toBe("");
    expect(() => memory.decode([700])).toThrow(/no token 700/);
  });

  test("bytes of the tokens are the bytes of the text", async () => {
    const tokenizer = await loadTokenizer(prose);
    const text = "鯨 and<|endoftext|> the naïve 🐋";
    const bytes = tokenizer.encode(text).flatMap((id) => [...tokenizer.bytesOf(id)]);
    expect(new TextDecoder().decode(Uint8Array.from(bytes))).toBe(text);
  });
});

describe("chat templates", () => {
  test.each(golden.chats.map((c) => [`${c.name} ${c.add_generation_prompt}`, c] as const))("%s renders as in transformers", async (_, c) => {
    const tokenizer = await loadTokenizer({ ...prose, config: { ...prose.config, chat_template: c.template } });
    const text = tokenizer.applyChatTemplate(golden.dialogue, { addGenerationPrompt: c.add_generation_prompt });
    expect(text).toBe(c.text);
    if (c.ids !== undefined) expect(tokenizer.encode(text)).toEqual(c.ids);
  });

  test("generation blocks give the assistant's spans", async () => {
    const c = golden.chats[0];
    const tokenizer = await loadTokenizer(prose);
    const { text, assistant } = tokenizer.renderChat(golden.dialogue, { chatTemplate: c.template });
    const encoder = new TextEncoder();
    let at = 0;
    const mask = tokenizer.encode(text).map((id) => {
      const start = new TextDecoder().decode(encoder.encode(text).subarray(0, at)).length;
      at += tokenizer.bytesOf(id).length;
      return assistant.some(([from, to]) => start >= from && start < to) ? 1 : 0; // these spans begin and end with tokens
    });
    expect(mask).toEqual(c.assistant_mask);
  });

  test("no template, or one that refuses, is said with the file", async () => {
    const tokenizer = await loadTokenizer(prose);
    expect(() => tokenizer.applyChatTemplate(golden.dialogue)).toThrow(/no chat template/);
    expect(() => tokenizer.applyChatTemplate([], { chatTemplate: "{{ raise_exception('roles must alternate') }}" })).toThrow(/refused the messages: .*roles must alternate/);
  });
});

describe("bad files", () => {
  const load = (json: unknown): Promise<unknown> => {
    writeFileSync(join(folder, "tokenizer.json"), typeof json === "string" ? json : JSON.stringify(json));
    return loadTokenizer(folder);
  };

  test.each([
    ["cut", JSON.stringify(prose.tokenizerJson).slice(0, 500), /not JSON/],
    ["a list", "[]", /not a JSON object/],
    ["no model", {}, /lacks "model"/],
    ["no vocabulary", { model: {} }, /lacks "model.vocab"/],
    ["unknown pre-tokenizer", { ...prose.tokenizerJson, pre_tokenizer: { type: "Nope" } }, /not a tokenizer that can be built.*Nope/],
  ])("%s", async (_, json, message) => {
    const failure = load(json);
    await expect(failure).rejects.toThrow(FormatError);
    await expect(failure).rejects.toThrow(message);
    await expect(failure).rejects.toThrow(/tokenizer\.json/);
  });

  test("a folder without a tokenizer is named", async () => {
    await expect(loadTokenizer(join(folder, "nothing"))).rejects.toThrow(/nothing.*tokenizer\.json/);
  });
});

describe("regular expressions from files", () => {
  const withSplit = (pattern: string): TrainedTokenizer["tokenizerJson"] => ({
    ...prose.tokenizerJson,
    pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false }, { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false }] },
  });

  test("an unpublished pattern runs in a worker and gives the same ids", async () => {
    const watched = await loadTokenizer({ tokenizerJson: withSplit(String.raw`(?:'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)`) });
    for (const { text, ids } of golden.encodings) expect(watched.encode(text)).toEqual(ids);
  });

  test.each(["pre_tokenizer", "normalizer"])("a pattern in the %s that never ends is stopped, and the process goes on", async (place) => {
    const evil = String.raw`(?:a+)+$`;
    const tokenizerJson = place === "pre_tokenizer" ? withSplit(evil) : { ...prose.tokenizerJson, normalizer: { type: "Replace", pattern: { Regex: evil }, content: "b" } };
    const tokenizer = await loadTokenizer({ tokenizerJson }, { patternLimit: 1500 });
    const started = performance.now();
    expect(() => tokenizer.encode(`${"a".repeat(40)}!`)).toThrow(/regular expression \(\?:a\+\)\+\$ was stopped/);
    expect(performance.now() - started).toBeLessThan(10_000);
    expect(tokenizer.decode(tokenizer.encode("x"))).toBe("x");
  });

  test("a watched normalizer still normalizes", async () => {
    const tokenizer = await loadTokenizer({ tokenizerJson: { ...prose.tokenizerJson, normalizer: { type: "Replace", pattern: { Regex: "q+" }, content: "k" } } });
    expect(tokenizer.decode(tokenizer.encode("aqqqbq"))).toBe("akbk");
  });
});

test("a vocabulary of 150,000 tokens loads and works", async () => {
  const { model } = prose.tokenizerJson;
  const size = Object.keys(model.vocab).length;
  const vocab = { ...model.vocab, ...Object.fromEntries(Array.from({ length: 150_000 - size }, (_, i) => [`filler${i}`, size + i])) };
  const tokenizer = await loadTokenizer({ tokenizerJson: { ...prose.tokenizerJson, model: { ...model, vocab } }, config: prose.config });
  expect(tokenizer.vocabSize).toBe(150_000);
  expect(tokenizer.decode(tokenizer.encode("the sea"))).toBe("the sea");
});
