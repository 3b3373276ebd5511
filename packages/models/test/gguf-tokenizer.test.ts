/** Tokenizers in GGUF files: the ids of those that the vocabularies came from, there and back, and what damaged files answer. */
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { bytesSource, type GgufValue, ggufParts, openGguf } from "@adjoint/io";
import { ConfigError, FormatError } from "@adjoint/tensor";
import { golden as goldenOf, fixture } from "@adjoint/testing/fixtures";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { ggufTokenizer, ggufTokenizerKeys, loadModel, loadTokenizer, type Message, saveModel, type Tokenizer, tokenizerFiles, type TokenizerJson, trainTokenizer, type TrainedTokenizer } from "../src/index.ts";
import { mergesOfScores, scoresOfMerges } from "../src/tokenizer/score-merges.ts";

interface Golden {
  texts: string[];
  dialogue: Message[];
  cases: { name: string; vocab_size: number; special: number[]; bos: boolean; ids: number[][]; decoded: string[]; chat?: string }[];
}
const golden: Golden = goldenOf("gguf-tokenizer");
const path = (name: string): string => fixture(`gguf-tokenizer/${name}.gguf`);
const folder = mkdtempSync(join(tmpdir(), "adjoint-gguf-tokenizer-"));
afterAll(() => rmSync(folder, { recursive: true }));

const metadataOf = async (name: string): Promise<Map<string, GgufValue>> => { const file = await openGguf(path(name)); try { return new Map(file.metadata); } finally { await file.close(); } };
async function contents(name: string): Promise<TrainedTokenizer> {
  const found = ggufTokenizer({ label: name, metadata: await metadataOf(name) });
  if (found === null) throw new Error(`${name} holds no tokenizer`);
  return found;
}
/** What metadata say after they were written and read. */
async function again(keys: ReturnType<typeof ggufTokenizerKeys>): Promise<TrainedTokenizer | null> {
  return ggufTokenizer(await openGguf(bytesSource(new Uint8Array(Buffer.concat(ggufParts({ "general.architecture": "llama", ...keys }, []))), "again.gguf")));
}

describe.each(golden.cases.map((c) => [c.name, c] as const))("%s", (name, c) => {
  test("ids and texts are those of the tokenizer that it came from", async () => {
    const tokenizer = await loadTokenizer(path(name));
    expect(golden.texts.map((text) => tokenizer.encode(text))).toEqual(c.ids);
    expect(c.ids.map((ids) => tokenizer.decode(ids))).toEqual(c.decoded);
    expect(tokenizer.vocabSize).toBe(c.vocab_size);
    const [text] = golden.texts.slice(-1), ids = c.ids[golden.texts.length - 1];
    expect(tokenizer.encode(text, { addSpecialTokens: true })).toEqual(c.bos ? [tokenizer.bosTokenId, ...ids] : ids);
    expect([tokenizer.bosTokenId, tokenizer.eosTokenId, tokenizer.padTokenId]).toEqual(c.special);
  });

  test("its files, and the keys that are written of it, give the same tokenizer", async () => {
    const own = await contents(name), keys = ggufTokenizerKeys(own, c.vocab_size), files = tokenizerFiles(own);
    expect(keys).not.toHaveProperty(["tokenizer.huggingface.json"]);
    const { tokenizerJson, config } = (await again(keys)) ?? own;
    expect(tokenizerJson).toEqual(own.tokenizerJson);
    expect(config).toEqual(own.config);
    expect([JSON.parse(files["tokenizer.json"]), JSON.parse(files["tokenizer_config.json"])]).toEqual([own.tokenizerJson, own.config]);
    if (name === "default") expect(keys["tokenizer.ggml.pre"]).toBe("gpt-2");
    else if (!name.startsWith("spm")) expect(keys["tokenizer.ggml.pre"]).toBe(name);
  });
});

test("a piece that is a token is not merged where the split says so", async () => {
  const metadata = await metadataOf("llama-bpe"), merges = metadata.get("tokenizer.ggml.merges");
  if (merges?.type !== "array") throw new Error("no merges");
  const joined = merges.value.map((merge) => String(merge).replace(" ", "")), at = joined.findIndex((token, i) => i > 99 && /^[a-z]{3,}$/.test(token)), text = joined[at], ids = async (pre: string): Promise<number[]> => {
    metadata.set("tokenizer.ggml.pre", { type: "string", value: pre });
    metadata.set("tokenizer.ggml.merges", { ...merges, value: merges.value.slice(0, at) });
    return (await loadTokenizer(ggufTokenizer({ label: pre, metadata }) ?? "")).encode(text);
  };
  expect(await ids("llama-bpe")).toHaveLength(1);
  expect((await ids("smaug-bpe")).length).toBeGreaterThan(1);
});

test("a chat template is read and rendered as in transformers", async () => {
  const tokenizer = await loadTokenizer(pathToFileURL(path("llama-bpe")));
  expect(tokenizer.applyChatTemplate(golden.dialogue, { addGenerationPrompt: true })).toBe(golden.cases.find(({ name }) => name === "llama-bpe")?.chat);
});

describe("with a model", () => {
  const texts = golden.texts.slice(3, 12), ids = (tokenizer: Tokenizer | null): number[][] | undefined => tokenizer === null ? undefined : texts.map((text) => tokenizer.encode(text));
  test("one file gives model and tokenizer, from disk and from memory; what is written of it holds both", async () => {
    const model = await loadModel(path("spm")), wanted = golden.cases.find(({ name }) => name === "spm")?.ids.slice(3, 12);
    expect(model.config.numHiddenLayers).toBe(1);
    expect(ids(model.tokenizer)).toEqual(wanted);
    expect(ids((await loadModel({ "m.gguf": readFileSync(path("spm")) })).tokenizer)).toEqual(wanted);
    expect((await loadModel(path("spm"), { tokenizer: false })).tokenizer).toBeNull();
    await saveModel(model, join(folder, "own.gguf"));
    const own = await loadModel(join(folder, "own.gguf"));
    expect(own.tokenizer?.source).toEqual(model.tokenizer?.source);
    await saveModel(model, join(folder, "dir"), { files: model.tokenizer === null ? {} : tokenizerFiles(model.tokenizer.source) });
    expect(ids((await loadModel(join(folder, "dir"))).tokenizer)).toEqual(wanted);
  });

  test("a tokenizer.json beside the file, or among the files of a page, comes first; a tokenizer that is given comes before both", async () => {
    const dir = join(folder, "beside"), other = await contents("spm-no-prefix"), files = tokenizerFiles(other), wanted = golden.cases.find(({ name }) => name === "spm-no-prefix")?.ids.slice(3, 12);
    mkdirSync(dir);
    copyFileSync(path("spm"), join(dir, "m.gguf"));
    for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
    expect(ids((await loadModel(join(dir, "m.gguf"))).tokenizer)).toEqual(wanted);
    expect(ids((await loadModel({ "m.gguf": readFileSync(path("spm")), "tokenizer.json": Buffer.from(files["tokenizer.json"]) })).tokenizer)).toEqual(wanted);
    const given = await loadTokenizer(await contents("spm"));
    expect((await loadModel(join(dir, "m.gguf"), { tokenizer: given })).tokenizer).toBe(given);
  });

  test("a model of more rows than tokens gets tokens that are never used; one of fewer is refused", async () => {
    const own = await contents("gpt-2"), more = await again(ggufTokenizerKeys(own, 620));
    const tokenizer = await loadTokenizer(more ?? own);
    expect([tokenizer.vocabSize, tokenizer.decode([619])]).toEqual([620, "[PAD619]"]);
    expect(ids(tokenizer)).toEqual(golden.cases[1].ids.slice(3, 12));
    expect(() => ggufTokenizerKeys(own, 400)).toThrow(/tokenizer has 605 tokens, the model 400/);
    const { metadata, entries, read, label } = await openGguf(path("spm")), tensors = await Promise.all([...entries].map(async ([name, { type, shape }]) => ({ name, type, shape, bytes: await read(name) })));
    const few = tensors.map((t) => (t.name === "token_embd.weight" ? { ...t, shape: [500, 8], bytes: t.bytes.subarray(0, 8000) } : t));
    await expect(loadModel({ "few.gguf": Buffer.concat(ggufParts(metadata, few)) })).rejects.toThrow("tokenizer.ggml.tokens has 520 entries, and token_embd.weight 500 rows");
    expect(label).toContain("spm.gguf");
  });
});

describe("what llama.cpp's keys cannot say", () => {
  const texts = ["the  12 ships,\n 3 whales", "  <|endoftext|> x"];
  const same = async (source: TrainedTokenizer): Promise<ReturnType<typeof ggufTokenizerKeys>> => {
    const keys = ggufTokenizerKeys(source, 700), read = await again(keys), before = await loadTokenizer(source), after = await loadTokenizer(read ?? source);
    expect(read?.tokenizerJson).toEqual(source.tokenizerJson);
    for (const text of texts) expect(after.encode(text)).toEqual(before.encode(text));
    expect(after.eosTokenId).toBe(before.eosTokenId);
    return keys;
  };
  test("a split without a name: the file holds tokenizer.json", async () => {
    const keys = await same(trainTokenizer(["the 12 ships the 123 whales"], { vocabSize: 300 }));
    expect(Object.keys(keys).sort()).toEqual(["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.model", "tokenizer.ggml.padding_token_id", "tokenizer.huggingface.json"]);
  });
  test("a token that takes spaces, a space put before every piece, merges that scores do not order: both are held", async () => {
    const own = await contents("gpt-2"), { tokenizerJson: json } = own, spm = await contents("spm"), sp = spm.tokenizerJson;
    const odd: TrainedTokenizer[] = [
      { ...own, tokenizerJson: { ...json, added_tokens: json.added_tokens.map((t) => ({ ...t, lstrip: true })) } },
      { ...spm, tokenizerJson: { ...sp, pre_tokenizer: null, normalizer: { type: "Sequence", normalizers: [{ type: "Prepend", prepend: "▁" }, { type: "Replace", pattern: { String: " " }, content: "▁" }] } } },
      { ...spm, tokenizerJson: { ...sp, model: { ...sp.model, merges: sp.model.merges.slice(0, -3) } } },
      { ...spm, tokenizerJson: { ...sp, post_processor: { type: "BertProcessing", sep: ["</s>", 2], cls: ["<s>", 1] } } },
    ];
    for (const source of odd) expect(Object.keys(await same(source))).toEqual(expect.arrayContaining(["tokenizer.ggml.tokens", "tokenizer.ggml.model", "tokenizer.huggingface.json"]));
  });
  test("GPT-2's and SmolLM's own spellings of their splits, and Llama 3's pair of processors, are known", async () => {
    const level = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true }, { tokenizerJson: json, config } = await contents("gpt-2"), llama = (await contents("llama-bpe")).tokenizerJson;
    const pre = (own: Partial<TokenizerJson>, of: TokenizerJson = json): unknown => { const keys = ggufTokenizerKeys({ tokenizerJson: { ...of, ...own }, config }, 620); expect(keys).not.toHaveProperty(["tokenizer.huggingface.json"]); return keys["tokenizer.ggml.pre"]; };
    expect(pre({ pre_tokenizer: level })).toBe("gpt-2");
    expect(pre({ pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "Digits", individual_digits: true }, level] } })).toBe("smollm");
    expect(pre({ post_processor: { type: "Sequence", processors: [level, llama.post_processor] } }, llama)).toBe("llama-bpe");
  });
});

describe("scores and merges", () => {
  test("law: scores of merges that scores gave order them alike", () => {
    const token = fc.array(fc.constantFrom("a", "b", "▁", "𝔘"), { minLength: 1, maxLength: 5 }).map((parts) => parts.join(""));
    fc.assert(fc.property(fc.uniqueArray(token, { maxLength: 12 }), fc.array(fc.integer({ min: -8, max: 0 }), { minLength: 12, maxLength: 12 }), (list, some) => {
      const tokens = [...new Set([...list, "a", "b", "▁", "𝔘"])], scores = tokens.map((_, i) => some[i % 12] - i / 64), merges = mergesOfScores(tokens, scores);
      expect(mergesOfScores(tokens, scoresOfMerges(tokens, merges, () => true))).toEqual(merges);
      for (const [left, right] of merges) expect(tokens).toEqual(expect.arrayContaining([left, right, left + right]));
    }));
  });
  test("a tie goes to the longer left part, then to the smaller id", () => {
    expect(mergesOfScores(["a", "b", "ab", "aab", "aa", "bb"], [0, 0, -1, -2, -3, -1])).toEqual([["a", "b"], ["b", "b"], ["aa", "b"], ["a", "ab"], ["a", "a"]]);
  });
});

describe("bad files", () => {
  const texts = (value: readonly string[]): GgufValue => ({ type: "array", of: "string", value }), numbers = (value: readonly number[]): GgufValue => ({ type: "array", of: "i32", value });
  const ofKeys = async (name: string, keys: Readonly<Record<string, GgufValue | null>>): Promise<TrainedTokenizer | null> => {
    const metadata = await metadataOf(name);
    for (const [key, value] of Object.entries(keys)) if (value === null) metadata.delete(`tokenizer.${key}`); else metadata.set(`tokenizer.${key}`, value);
    return ggufTokenizer({ label: "bad.gguf", metadata });
  };
  test.each<[string, string, Record<string, GgufValue | null>, typeof FormatError | typeof ConfigError, RegExp]>([
    ["a merge of no token", "gpt-2", { "ggml.merges": texts(["a b", "t qzq"]) }, FormatError, /bad\.gguf: tokenizer\.ggml\.merges is "a b" at 0, and "ab" is not in tokenizer\.ggml\.tokens/],
    ["a merge whose part is no token", "gpt-2", { "ggml.merges": texts(["t qzq"]) }, FormatError, /tokenizer\.ggml\.merges is "t qzq" at 0, and "qzq" is not/],
    ["a merge of one part", "gpt-2", { "ggml.merges": texts(["t"]) }, FormatError, /tokenizer\.ggml\.merges is "t" at 0, and should be two tokens/],
    ["no merges", "gpt-2", { "ggml.merges": null }, FormatError, /tokenizer\.ggml\.merges is missing/],
    ["no tokens", "gpt-2", { "ggml.tokens": null }, FormatError, /tokenizer\.ggml\.tokens is missing/],
    ["fewer scores than tokens", "spm", { "ggml.scores": numbers([1, 2]) }, FormatError, /bad\.gguf: tokenizer\.ggml\.scores has 2 entries, and tokenizer\.ggml\.tokens has 520/],
    ["no scores", "spm", { "ggml.scores": null }, FormatError, /tokenizer\.ggml\.scores is missing, and there are no merges/],
    ["scores that are no numbers", "spm", { "ggml.scores": texts(Array.from({ length: 520 }, () => "x")) }, FormatError, /tokenizer\.ggml\.scores is x at 0/],
    ["more kinds than tokens", "qwen2", { "ggml.token_type": numbers([1]) }, FormatError, /tokenizer\.ggml\.token_type has 1 entries/],
    ["a kind that is none", "spm", { "ggml.token_type": numbers(Array.from({ length: 520 }, () => 7)) }, FormatError, /tokenizer\.ggml\.token_type is 7 at 0/],
    ["tokens that are no strings", "spm", { "ggml.tokens": numbers([1]) }, FormatError, /tokenizer\.ggml\.tokens is an array of i32, and should be an array of strings/],
    ["a token twice", "spm", { "ggml.tokens": texts(["a", "b", "a"]) }, FormatError, /tokenizer\.ggml\.tokens holds "a" twice, at 0 and 2/],
    ["an id that is no token's", "spm", { "ggml.eos_token_id": { type: "u32", value: 520 } }, FormatError, /tokenizer\.ggml\.eos_token_id is 520, and there are 520 tokens/],
    ["bos without its id", "spm", { "ggml.bos_token_id": null, "ggml.add_bos_token": { type: "bool", value: true } }, FormatError, /tokenizer\.ggml\.add_bos_token is true, and tokenizer\.ggml\.bos_token_id is missing/],
    ["a truth value that is none", "spm", { "ggml.add_space_prefix": { type: "u32", value: 1 } }, FormatError, /tokenizer\.ggml\.add_space_prefix is u32, and should be a truth value/],
    ["a model that is not known", "spm", { "ggml.model": { type: "string", value: "t5" } }, ConfigError, /bad\.gguf: tokenizer\.ggml\.model is "t5": gpt2 and llama are read/],
    ["a split that is not known", "gpt-2", { "ggml.pre": { type: "string", value: "deepseek-llm" } }, ConfigError, /tokenizer\.ggml\.pre is "deepseek-llm": how it splits text is not known here/],
    ["an option that is not implemented", "spm", { "ggml.remove_extra_whitespaces": { type: "bool", value: true } }, ConfigError, /tokenizer\.ggml\.remove_extra_whitespaces is "true": this is not implemented/],
    ["a tokenizer.json that is none", "gpt-2", { "huggingface.json": { type: "string", value: "{" } }, FormatError, /bad\.gguf: tokenizer\.huggingface\.json: not JSON/],
  ])("%s", async (_, name, keys, kind, message) => {
    await expect(ofKeys(name, keys)).rejects.toThrow(kind);
    await expect(ofKeys(name, keys)).rejects.toThrow(message);
  });

  test("an error says what to do, and names file and key apart", async () => {
    await expect(ofKeys("gpt-2", { "ggml.pre": { type: "string", value: "viking" } })).rejects.toMatchObject({ details: { file: "bad.gguf", key: "tokenizer.ggml.pre", value: "viking", fix: expect.stringContaining("tokenizer.json") } });
  });

  test("no tokenizer is none; tokens without names are named", async () => {
    expect(await ofKeys("spm", { "ggml.model": null })).toBeNull();
    expect(await ofKeys("spm", { "ggml.model": { type: "string", value: "none" } })).toBeNull();
    const found = await ofKeys("gpt-2", { "ggml.tokens": texts(["", "", "a"]), "ggml.merges": texts([]), "ggml.token_type": null, "ggml.bos_token_id": null, "ggml.eos_token_id": null, "ggml.padding_token_id": null });
    expect(Object.keys(found?.tokenizerJson.model.vocab ?? {})).toEqual(["[EMPTY_0]", "[EMPTY_1]", "a"]);
  });

  test("a file cut inside of an array names the key", async () => {
    const bytes = readFileSync(path("spm"));
    for (const key of ["tokens", "scores", "token_type"]) {
      const at = bytes.indexOf(`tokenizer.ggml.${key}`) + 300;
      await expect(openGguf(bytesSource(bytes.subarray(0, at), "cut.gguf"))).rejects.toThrow(new RegExp(`^cut\\.gguf: .*"tokenizer\\.ggml\\.${key}"`));
    }
  });
});
