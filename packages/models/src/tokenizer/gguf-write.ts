/** A tokenizer as metadata of a GGUF file: llama.cpp's keys where they can say it, and tokenizer.json itself where they lose something. */
import { type GgufValue, isRecord } from "@adjoint/io";
import { ConfigError } from "@adjoint/tensor";
import { tokensById, type SpecialToken, type TokenizerConfig, type TokenizerJson } from "./format.ts";
import { tokenType } from "./gguf-keys.ts";
import { ggufSplits, patternsOf } from "./gguf-splits.ts";
import { mergesOfScores, sameMerges, scoresOfMerges, type Merge } from "./score-merges.ts";
import type { TrainedTokenizer } from "./train.ts";

export type GgufKeys = Record<string, GgufValue | string | boolean>;

/** What llama.cpp's keys say of a tokenizer; `exact` is false where reading them gives another one. */
interface Said {
  readonly keys: GgufKeys;
  readonly exact: boolean;
}

/**
 * Metadata that holds a tokenizer for a model of `vocabSize` tokens: what `ggufTokenizer` reads, and llama.cpp.
 *
 * Byte-level BPE is written as "gpt2" if its split has a name, SentencePiece's BPE as "llama", with scores that order the merges. Where these keys lose something
 * (a split without a name, a token that takes the spaces beside it), `tokenizer.huggingface.json` holds all of tokenizer.json, beside them or alone.
 *
 * @throws ConfigError if the tokenizer has more tokens than the model
 */
export function ggufTokenizerKeys({ tokenizerJson: json, config }: TrainedTokenizer, vocabSize: number): GgufKeys {
  const known = tokensById(json), tokens = Array.from({ length: Math.max(vocabSize, known.length) }, (_, id) => known[id] ?? unused(id));
  if (known.length > vocabSize) throw new ConfigError(`the tokenizer has ${known.length} tokens, the model ${vocabSize}`, { op: "saveModel", key: "tokenizer", value: known.length, fix: "use the model's own tokenizer" });
  const said = byteLevel(json) ?? sentencePiece(json, tokens), around = aroundOf(json, config), flags = json.added_tokens.every(({ single_word: w, lstrip: l, rstrip: r, normalized: n }) => !w && !l && !r && !(n && json.normalizer !== null));
  const whole: GgufKeys = said !== null && said.exact && around.exact && flags ? {} : { "tokenizer.huggingface.json": JSON.stringify(json) };
  return { ...(said === null ? { "tokenizer.ggml.model": "none" } : { ...said.keys, ...vocabulary(json, tokens, known, config), ...around.keys }), ...idsOf(config, known), ...templates(config), ...whole };
}

const contentOf = (token: SpecialToken | undefined): string | null => (typeof token === "object" ? (token?.content ?? null) : (token ?? null));
const u32 = (value: number): GgufValue => ({ type: "u32", value });
const texts = (value: readonly string[]): GgufValue => ({ type: "array", of: "string", value });
/** A component without the differences that mean nothing. */
const plain = (x: unknown): unknown => (isRecord(x) && x["type"] === "Sequence" && Array.isArray(x["normalizers"]) && x["normalizers"].length < 2 ? (x["normalizers"][0] ?? null) : (x ?? null));
const typeOf = (x: unknown): unknown => (isRecord(x) ? x["type"] : undefined);

/** Merges as pairs; null where one is no pair. */
function pairs({ model }: TokenizerJson): Merge[] | null {
  const found: Merge[] = [];
  for (const merge of Array.isArray(model.merges) ? model.merges : [null]) {
    const parts: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    if (!Array.isArray(parts) || parts.length !== 2 || typeof parts[0] !== "string" || typeof parts[1] !== "string") return null;
    found.push([parts[0], parts[1]]);
  }
  return found;
}
/** BPE without options that GGUF files have no key for. */
const isPlainBpe = ({ model }: TokenizerJson): boolean => model.type === "BPE" && isRecord(model.vocab) && (model["dropout"] ?? 0) === 0 && (model["continuing_subword_prefix"] ?? "") === "" && (model["end_of_word_suffix"] ?? "") === "";

function byteLevel(json: TokenizerJson): Said | null {
  const patterns = patternsOf(json.pre_tokenizer), merges = pairs(json), normalizer = plain(json.normalizer), nfc = typeOf(normalizer) === "NFC", ignore = json.model["ignore_merges"] === true;
  if (patterns === null || merges === null || !isPlainBpe(json) || json.model["byte_fallback"] === true || typeOf(json.decoder) !== "ByteLevel" || merges.flat().some((part) => part.includes(" "))) return null;
  const alike = ggufSplits.filter((s) => JSON.stringify(s.patterns) === JSON.stringify(patterns) && s.ignoreMerges === ignore), same = alike.find((s) => s.nfc === nfc), split = same ?? alike[0];
  if (split === undefined) return null;
  return {
    exact: same !== undefined && (normalizer === null || nfc),
    keys: { "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": split.names[0], "tokenizer.ggml.merges": texts(merges.map((merge) => merge.join(" "))) },
  };
}

/** Whether spaces become the sign of SentencePiece, one more is put first, and all of it as reading does it; null for other tokenizers. */
function spacesOf({ normalizer, pre_tokenizer: pre }: TokenizerJson): { readonly prefix: boolean; readonly exact: boolean } | null {
  const before = plain(normalizer), steps: readonly unknown[] = isRecord(before) && Array.isArray(before["normalizers"]) ? before["normalizers"] : [before], kinds = steps.map(typeOf).join();
  if (before === null && isRecord(pre) && pre["type"] === "Metaspace" && (pre["replacement"] ?? "\u2581") === "\u2581") {
    const scheme = pre["prepend_scheme"] ?? (pre["add_prefix_space"] === false ? "never" : "always");
    return { prefix: scheme !== "never", exact: scheme !== "always" && pre["split"] === false };
  }
  if (pre !== null && pre !== undefined) return null;
  return kinds === "Prepend,Replace" ? { prefix: true, exact: false } : kinds === "Replace" ? { prefix: false, exact: true } : null;
}

function sentencePiece(json: TokenizerJson, tokens: readonly string[]): Said | null {
  const spaces = spacesOf(json), merges = pairs(json);
  if (spaces === null || merges === null || !isPlainBpe(json) || json.model["byte_fallback"] !== true || !JSON.stringify(json.decoder).includes('"ByteFallback"')) return null;
  const added = new Set(json.added_tokens.map(({ id }) => id)), scores = scoresOfMerges(tokens, merges, (id) => !added.has(id) && !isByte(tokens[id]));
  return {
    exact: spaces.exact && json.model["ignore_merges"] !== true && sameMerges(merges, mergesOfScores(tokens, scores)),
    keys: { "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.scores": { type: "array", of: "f32", value: scores }, "tokenizer.ggml.add_space_prefix": spaces.prefix },
  };
}
const isByte = (token: string): boolean => /^<0x[0-9A-F]{2}>$/.test(token);
const unused = (id: number): string => `[PAD${id}]`;

/** Tokens with their kinds, as many as the model has rows for them. */
function vocabulary({ added_tokens: added, model }: TokenizerJson, tokens: readonly string[], known: readonly (string | undefined)[], { unk_token }: TokenizerConfig): GgufKeys {
  const special = new Map(added.map((token) => [token.id, token.special])), no = contentOf(unk_token);
  const types = tokens.map((token, id) => {
    if (known[id] === undefined) return tokenType.unused;
    if (token === no && special.get(id) === true) return tokenType.unknown;
    const isSpecial = special.get(id);
    return isSpecial === true ? tokenType.control : isSpecial === false ? tokenType.userDefined : model["byte_fallback"] === true && isByte(token) ? tokenType.byte : tokenType.normal;
  });
  return { "tokenizer.ggml.tokens": texts(tokens), "tokenizer.ggml.token_type": { type: "array", of: "i32", value: types } };
}

/** Whether bos and eos are put around a text. */
function aroundOf({ post_processor: post }: TokenizerJson, config: TokenizerConfig): { readonly keys: GgufKeys; readonly exact: boolean } {
  const steps: readonly unknown[] = isRecord(post) && post["type"] === "Sequence" && Array.isArray(post["processors"]) ? post["processors"] : [post ?? null], template = steps.find((step) => typeOf(step) === "TemplateProcessing");
  const known = steps.every((step) => step === null || step === template || typeOf(step) === "ByteLevel"), single: unknown = isRecord(template) ? template["single"] : [];
  const items = (Array.isArray(single) ? single : []).map((item: unknown) => (isRecord(item) && isRecord(item["SpecialToken"]) ? item["SpecialToken"]["id"] : null)), text = items.indexOf(null);
  const before = text === -1 ? [] : items.slice(0, text), after = text === -1 ? [] : items.slice(text + 1), bos = contentOf(config.bos_token), eos = contentOf(config.eos_token);
  const only = (list: readonly unknown[], token: string | null): boolean => list.length === 0 || (list.length === 1 && token !== null && list[0] === token);
  return { keys: { "tokenizer.ggml.add_bos_token": before.length > 0 && only(before, bos), "tokenizer.ggml.add_eos_token": after.length > 0 && only(after, eos) }, exact: known && only(before, bos) && only(after, eos) };
}

function idsOf(config: TokenizerConfig, tokens: readonly (string | undefined)[]): GgufKeys {
  const ids = { bos: config.bos_token, eos: config.eos_token, unknown: config.unk_token, padding: config.pad_token };
  return Object.fromEntries(Object.entries(ids).flatMap(([name, token]) => { const text = contentOf(token), id = text === null ? -1 : tokens.indexOf(text); return id === -1 ? [] : [[`tokenizer.ggml.${name}_token_id`, u32(id)]]; }));
}

function templates({ chat_template: template }: TokenizerConfig): GgufKeys {
  if (typeof template === "string") return { "tokenizer.chat_template": template };
  const named = (template ?? []).filter(({ name }) => name !== "default"), main = template?.find(({ name }) => name === "default");
  return {
    ...(main === undefined ? {} : { "tokenizer.chat_template": main.template }), ...Object.fromEntries(named.map(({ name, template: text }) => [`tokenizer.chat_template.${name}`, text])),
    ...(named.length === 0 ? {} : { "tokenizer.chat_templates": texts(named.map(({ name }) => name)) }),
  };
}
