/** The tokenizer that a GGUF file holds, as the files of Hugging Face: byte-level BPE ("gpt2") and SentencePiece ("llama"). */
import { parseJsonObject } from "@adjoint/io";
import { ConfigError } from "@adjoint/tensor";
import { byteToChar, tokenBytes } from "./bytes.ts";
import { checkTokenizer, tokensById, type AddedTokenJson, type TokenizerConfig, type TokenizerJson } from "./format.ts";
import { GgufTokenizerKeys, tokenType, type GgufHeader } from "./gguf-keys.ts";
import { ggufSplits, splitJson, splitNamed } from "./gguf-splits.ts";
import { mergesOfScores, type Merge } from "./score-merges.ts";
import type { TrainedTokenizer } from "./train.ts";

const named = { bos_token: "bos", eos_token: "eos", unk_token: "unknown", pad_token: "padding" } as const;
type Named = Partial<Record<keyof typeof named, { readonly id: number; readonly token: string }>>;

/**
 * The tokenizer of an open GGUF file; null if it holds none. `loadTokenizer` takes the result.
 *
 * A `tokenizer.huggingface.json` is taken as it is. Of the kinds that llama.cpp knows, "gpt2" is split as `tokenizer.ggml.pre` says, and "llama" is
 * turned from scores into merges, as transformers does both. Tokens marked as control or user-defined are matched in the text before all else.
 *
 * @throws ConfigError naming file and key for a kind or a split that is not known; FormatError for arrays that contradict each other
 * @example const tokenizer = await loadTokenizer(ggufTokenizer(await openGguf("model.gguf"))!);
 */
export function ggufTokenizer(file: GgufHeader): TrainedTokenizer | null {
  const keys = new GgufTokenizerKeys(file), kind = keys.text("ggml.model"), whole = keys.text("huggingface.json");
  if (whole === null && (kind === null || kind === "none" || kind === "no_vocab")) return null;
  const tokens = tokensOf(keys);
  if (whole !== null) return ofWhole(keys, whole, tokens);
  if (tokens === null) throw keys.error("ggml.tokens", "is missing", null);
  const architecture = file.metadata.get("general.architecture")?.value;
  if (kind === "llama" && /^(gemma|phi3)/.test(String(architecture))) throw unknown(keys, "general.architecture", String(architecture), "its SentencePiece vocabularies are read in another way, which is not implemented");
  if (kind !== "gpt2" && kind !== "llama") throw unknown(keys, "tokenizer.ggml.model", String(kind), "gpt2 and llama are read");
  for (const key of ["add_sep_token", "remove_extra_whitespaces", "precompiled_charsmap"]) if (keys.given(`ggml.${key}`)) throw unknown(keys, `tokenizer.ggml.${key}`, "true", "this is not implemented");
  const types = keys.numbers("ggml.token_type", tokens.length), odd = types?.findIndex((type) => !Number.isInteger(type) || type < 0 || type > tokenType.byte) ?? -1;
  if (odd !== -1) throw keys.error("ggml.token_type", `is ${types?.[odd]} at ${odd}, and kinds of tokens go from 1 to 6`, types?.[odd]);
  const special = specialsOf(keys, tokens), config = configOf(keys, special);
  return kind === "gpt2" ? { tokenizerJson: byteLevel(keys, tokens, types, special), config } : { tokenizerJson: sentencePiece(keys, tokens, types, special), config };
}

const unknown = (keys: GgufTokenizerKeys, key: string, value: string, what: string): ConfigError =>
  new ConfigError(`${keys.label}: ${key} is "${value}": ${what}`, { op: "loadTokenizer", file: keys.label, key, value, fix: "give the tokenizer of the original model: put its tokenizer.json beside the file, or name its folder (--tokenizer-name DIR, loadModel's tokenizer)" });

/** Tokens by id; nameless ones get the names that llama.cpp gives them. */
function tokensOf(keys: GgufTokenizerKeys): readonly string[] | null {
  const listed = keys.texts("ggml.tokens");
  if (listed === null) return null;
  const tokens = listed.map((token, id) => (token === "" ? `[EMPTY_${id}]` : token)), ids = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    const before = ids.get(token);
    if (before !== undefined) throw keys.error("ggml.tokens", `holds ${JSON.stringify(token)} twice, at ${before} and ${id}`, token);
    ids.set(token, id);
  }
  return tokens;
}

function specialsOf(keys: GgufTokenizerKeys, tokens: readonly string[]): Named {
  return Object.fromEntries(Object.entries(named).flatMap(([name, key]) => { const id = keys.id(key, tokens.length); return id === null ? [] : [[name, { id, token: tokens[id] }]]; }));
}

function configOf(keys: GgufTokenizerKeys, special: Named): TokenizerConfig {
  const template = keys.text("chat_template"), others = (keys.texts("chat_templates") ?? []).flatMap((name) => { const text = keys.text(`chat_template.${name}`); return text === null ? [] : [{ name, template: text }]; });
  const all = [...(template === null ? [] : [{ name: "default", template }]), ...others];
  return {
    tokenizer_class: "PreTrainedTokenizerFast", clean_up_tokenization_spaces: false, ...Object.fromEntries(Object.entries(special).map(([name, { token }]) => [name, token])),
    ...(others.length > 0 ? { chat_template: all } : template === null ? {} : { chat_template: template }),
  };
}

function ofWhole(keys: GgufTokenizerKeys, text: string, tokens: readonly string[] | null): TrainedTokenizer {
  const where = `${keys.label}: tokenizer.huggingface.json`, tokenizerJson = checkTokenizer(parseJsonObject(text, where), where);
  const list = tokens ?? Array.from(tokensById(tokenizerJson), (token, id) => token ?? `[EMPTY_${id}]`);
  return { tokenizerJson, config: configOf(keys, specialsOf(keys, list)) };
}

/** Tokens that are matched in the text itself: control and user-defined ones, and those that are named. */
function addedOf(tokens: readonly string[], types: readonly number[] | null, special: Named): AddedTokenJson[] {
  const ids = new Set(Object.values(special).map(({ id }) => id));
  return tokens.flatMap((content, id) => {
    const type = types?.[id], isSpecial = type === tokenType.control || ids.has(id);
    return isSpecial || type === tokenType.userDefined ? [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: isSpecial }] : [];
  });
}

/** What puts bos and eos around a text. */
function around(keys: GgufTokenizerKeys, special: Named, addBos: boolean): unknown {
  const one = (key: "bos" | "eos", wanted: boolean): NonNullable<Named["bos_token"]>[] => {
    const said = keys.flag(`ggml.add_${key}_token`), token = special[`${key}_token`];
    if (said === true && token === undefined) throw keys.error(`ggml.add_${key}_token`, `is true, and tokenizer.ggml.${key}_token_id is missing`, true);
    return (said ?? wanted) && token !== undefined ? [token] : [];
  };
  const bos = one("bos", addBos), eos = one("eos", false), all = [...bos, ...eos];
  if (all.length === 0) return null;
  const put = (list: Named["bos_token"][], type_id: number): unknown[] => list.map((t) => ({ SpecialToken: { id: t?.token, type_id } })), text = (id: string, type_id: number): unknown => ({ Sequence: { id, type_id } });
  const single = [...put(bos, 0), text("A", 0), ...put(eos, 0)];
  return {
    type: "TemplateProcessing", single, pair: [...single, ...put(bos, 1), text("B", 1), ...put(eos, 1)],
    special_tokens: Object.fromEntries(all.map(({ id, token }) => [token, { id: token, ids: [id], tokens: [token] }])),
  };
}

const bpe = { type: "BPE", dropout: null, continuing_subword_prefix: null, end_of_word_suffix: null } as const;
const files = { version: "1.0", truncation: null, padding: null } as const;
const vocabOf = (tokens: readonly string[]): Record<string, number> => Object.fromEntries(tokens.map((token, id) => [token, id]));

function byteLevel(keys: GgufTokenizerKeys, listed: readonly string[], types: readonly number[] | null, special: Named): TokenizerJson {
  const name = keys.text("ggml.pre") ?? "default", split = splitNamed(name), added = addedOf(listed, types, special), whole = new Set(added.map(({ id }) => id));
  if (split === undefined) throw unknown(keys, "tokenizer.ggml.pre", name, `how it splits text is not known here (known are ${ggufSplits.flatMap(({ names }) => names).join(", ")})`);
  const tokens = listed.map((token, id) => (whole.has(id) || tokenBytes(token) !== undefined ? token : spelled(token))), known = new Set(tokens);
  if (known.size !== tokens.length) throw keys.error("ggml.tokens", "holds a token twice, as text and as bytes", tokens.length);
  const merges = mergesOf(keys, known);
  if (merges === null) throw keys.error("ggml.merges", "is missing", null, "convert the model anew: byte-level vocabularies need merges");
  return {
    ...files, added_tokens: added, normalizer: split.nfc ? { type: "NFC" } : null, pre_tokenizer: splitJson(split), post_processor: around(keys, special, split.addBos),
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: { ...bpe, unk_token: null, fuse_unk: false, byte_fallback: false, ignore_merges: split.ignoreMerges, vocab: vocabOf(tokens), merges },
  };
}
/** A token in the alphabet of bytes. */
const spelled = (token: string): string => Array.from(new TextEncoder().encode(token), (byte) => byteToChar[byte]).join("");

/** The file's merges: two tokens with a space between, whose join is a token too. */
function mergesOf(keys: GgufTokenizerKeys, known: ReadonlySet<string>): Merge[] | null {
  return keys.texts("ggml.merges")?.map((text, i): Merge => {
    const cut = text.indexOf(" ", 1), left = text.slice(0, cut), right = text.slice(cut + 1);
    if (cut === -1 || right === "") throw keys.error("ggml.merges", `is ${JSON.stringify(text)} at ${i}, and should be two tokens with a space between`, text);
    const missing = [left, right, left + right].find((part) => !known.has(part));
    if (missing !== undefined) throw keys.error("ggml.merges", `is ${JSON.stringify(text)} at ${i}, and ${JSON.stringify(missing)} is not in tokenizer.ggml.tokens`, text);
    return [left, right];
  }) ?? null;
}

function sentencePiece(keys: GgufTokenizerKeys, tokens: readonly string[], types: readonly number[] | null, special: Named): TokenizerJson {
  const scores = keys.numbers("ggml.scores", tokens.length), prefix = keys.flag("ggml.add_space_prefix") ?? true, listed = mergesOf(keys, new Set(tokens));
  if (listed === null && scores === null) throw keys.error("ggml.scores", "is missing, and there are no merges", null, "convert the model anew: SentencePiece vocabularies need scores");
  return {
    ...files, added_tokens: addedOf(tokens, types, special), normalizer: null,
    pre_tokenizer: { type: "Metaspace", replacement: "\u2581", prepend_scheme: prefix ? "first" : "never", split: false }, post_processor: around(keys, special, true),
    decoder: { type: "Sequence", decoders: [{ type: "Replace", pattern: { String: "\u2581" }, content: " " }, { type: "ByteFallback" }, { type: "Fuse" }, ...(prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : [])] },
    model: { ...bpe, unk_token: special.unk_token?.token ?? null, fuse_unk: true, byte_fallback: true, ignore_merges: false, vocab: vocabOf(tokens), merges: listed ?? mergesOfScores(tokens, scores ?? []) },
  };
}

