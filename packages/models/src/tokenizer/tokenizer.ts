/** The tokenizer that the rest of adjoint uses: a thin layer over `@huggingface/tokenizers` with a memory of pieces. */
import { BPE, ByteLevelPreTokenizer, SequencePreTokenizer, type PreTokenizer, type Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { ConfigError, FormatError } from "@adjoint/tensor";
import { buildTokenizer } from "./build.ts";
import { tokenBytes } from "./bytes.ts";
import { renderChat, type ChatOptions, type Message, type RenderedChat } from "./chat.ts";
import type { SpecialToken, TokenizerConfig, TokenizerJson } from "./format.ts";

/** Text to token ids and back. */
export interface Tokenizer {
  /** one more than the largest id */
  readonly vocabSize: number;
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  readonly padTokenId: number | undefined;
  /** the tokenizer's own chat template, if it has one */
  readonly chatTemplate: string | undefined;
  /** what it was built of; `tokenizerFiles` makes files of it, `loadTokenizer` the same tokenizer again */
  readonly source: { readonly tokenizerJson: TokenizerJson; readonly config: TokenizerConfig };
  /** Token ids of a text. `addSpecialTokens` (default false) adds what the tokenizer's post-processor adds, such as bos. */
  encode(text: string, options?: { readonly addSpecialTokens?: boolean }): number[];
  /** Text of token ids; bytes that are not UTF-8 become U+FFFD. An unknown id is a FormatError. */
  decode(ids: readonly number[], options?: { readonly skipSpecialTokens?: boolean }): string;
  /** The bytes of one token (byte-level and byte-fallback vocabularies), else its text in UTF-8. */
  bytesOf(id: number): Uint8Array;
  /** The prompt that the chat template makes of messages; tokenize it without special tokens. */
  applyChatTemplate(messages: readonly Message[], options?: ChatOptions): string;
  /** The same with the spans of `{% generation %}` blocks. */
  renderChat(messages: readonly Message[], options?: ChatOptions): RenderedChat;
}

/** Pieces kept in memory before the memory starts anew. */
const MEMORY = 1 << 17;

/** Builds a tokenizer from the contents of its files; `file` names it in errors. */
export function createTokenizer(json: TokenizerJson, config: TokenizerConfig, file: string, patternLimit?: number): Tokenizer {
  const { inner } = buildTokenizer(json, { ...config, clean_up_tokenization_spaces: config.clean_up_tokenization_spaces ?? false }, file, patternLimit);
  let vocabSize = 0;
  for (const id of inner.get_vocab().values()) if (id >= vocabSize) vocabSize = id + 1;
  const named = (token: SpecialToken | undefined): string | undefined => (typeof token === "object" ? token?.content : token);
  const idOf = (key: "bos_token" | "eos_token" | "pad_token"): number | undefined => {
    const text = named(config[key]);
    if (text === undefined) return undefined;
    const id = inner.token_to_id(text);
    if (id === undefined) throw new FormatError(`${file}: ${key} "${text}" is not in the vocabulary`, { file, key, value: text, fix: `add it to added_tokens, or correct ${key} in tokenizer_config.json` });
    return id;
  };
  const addedIds = new Set((json.added_tokens ?? []).map((token) => token.id));
  const special = new Set((json.added_tokens ?? []).filter((token) => token.special).map((token) => token.id));
  const chatTemplate = templateOf(config);
  const fast = memoized(json, inner);
  const byteLevel = usesBytes(json);
  const utf8 = new TextEncoder();

  const renderChatTemplate = (messages: readonly Message[], options: ChatOptions = {}): RenderedChat => {
    const template = options.chatTemplate ?? chatTemplate;
    if (template === undefined) {
      throw new ConfigError(`${file}: this tokenizer has no chat template`, { op: "applyChatTemplate", file, key: "chat_template", fix: "pass chatTemplate, or use prompt and completion instead of messages" });
    }
    const tokens = Object.fromEntries(Object.entries(config).flatMap(([key, value]) => {
      const text = key.endsWith("_token") && (typeof value === "string" || isToken(value)) ? named(value) : undefined;
      return text === undefined ? [] : [[key, text]];
    }));
    return renderChat(template, messages, tokens, options, file);
  };

  return {
    vocabSize,
    bosTokenId: idOf("bos_token"),
    eosTokenId: idOf("eos_token"),
    padTokenId: idOf("pad_token"),
    chatTemplate,
    source: { tokenizerJson: json, config },
    encode(text, { addSpecialTokens = false } = {}) {
      return (addSpecialTokens ? undefined : fast?.(text)) ?? inner.encode(text, { add_special_tokens: addSpecialTokens }).ids;
    },
    decode(ids, { skipSpecialTokens = false } = {}) {
      const unknown = ids.find((id) => inner.id_to_token(id) === undefined);
      if (unknown !== undefined) throw new FormatError(`${file}: there is no token ${unknown}`, { file, key: "id", value: unknown, fix: `ids go from 0 to ${vocabSize - 1}: use the tokenizer of the model that made them` });
      const kept = skipSpecialTokens ? ids.filter((id) => !special.has(id)) : [...ids];
      return kept.length === 0 ? "" : inner.decode(kept, { skip_special_tokens: false });
    },
    bytesOf(id) {
      const token = inner.id_to_token(id);
      if (token === undefined) throw new FormatError(`${file}: there is no token ${id}`, { file, key: "id", value: id, fix: `ids go from 0 to ${vocabSize - 1}` });
      if (addedIds.has(id)) return utf8.encode(token);
      const fallback = /^<0x([0-9A-F]{2})>$/.exec(token);
      if (fallback !== null) return Uint8Array.of(Number.parseInt(fallback[1], 16));
      return (byteLevel ? tokenBytes(token) : undefined) ?? utf8.encode(token.replaceAll("\u2581", " "));
    },
    applyChatTemplate: (messages, options) => renderChatTemplate(messages, options).text,
    renderChat: renderChatTemplate,
  };
}

/** Whether the vocabulary is byte-level: its decoder or pre-tokenizer says so. */
const usesBytes = (json: TokenizerJson): boolean => JSON.stringify([json.decoder, json.pre_tokenizer]).includes('"ByteLevel"');

const isToken = (value: unknown): value is { readonly content: string } => typeof value === "object" && value !== null && "content" in value && typeof value.content === "string";

function templateOf(config: TokenizerConfig): string | undefined {
  const { chat_template: template } = config;
  if (typeof template === "string") return template;
  return template?.find((entry) => entry.name === "default")?.template;
}

/**
 * A faster `encode` for tokenizers that split first and then merge the bytes of each piece: the ids of a piece depend on the piece alone,
 * so they are remembered. Undefined when the tokenizer is of another kind; the function returns undefined for texts that hold an added
 * token, which the library must find first.
 */
function memoized(json: TokenizerJson, inner: HuggingFaceTokenizer): ((text: string) => number[] | undefined) | undefined {
  const { model, pre_tokenizer: split } = inner;
  if (inner.normalizer !== null || !(model instanceof BPE) || !(split instanceof SequencePreTokenizer)) return undefined;
  const steps: readonly (PreTokenizer | null)[] = split.tokenizers;
  const last = steps[steps.length - 1];
  if (!(last instanceof ByteLevelPreTokenizer) || last.use_regex || last.add_prefix_space || steps.length < 2) return undefined;
  const post: unknown = json.post_processor;                                     // a template adds special tokens, or nothing
  if (post !== null && post !== undefined && !(typeof post === "object" && "type" in post && (post.type === "ByteLevel" || post.type === "TemplateProcessing"))) return undefined;

  const added = (json.added_tokens ?? []).map((token) => token.content);
  let memory = new Map<string, readonly number[]>();
  return (text) => {
    if (added.some((token) => text.includes(token))) return undefined;
    let pieces = [text];
    for (const step of steps.slice(0, -1)) if (step !== null) pieces = step.pre_tokenize(pieces);
    const ids: number[] = [];
    for (const piece of pieces) {
      let found = memory.get(piece);
      if (found === undefined) {
        found = model.encode(last.pre_tokenize_text(piece)).map((token) => model.tokens_to_ids.get(token) ?? -1);
        if (found.includes(-1)) return undefined;
        if (memory.size >= MEMORY) memory = new Map();
        memory.set(piece, found);
      }
      for (const id of found) ids.push(id);
    }
    return ids;
  };
}
