/** The parts of Hugging Face's tokenizer files that this package reads or writes. */
import { isRecord } from "@adjoint/io";
import { FormatError } from "@adjoint/tensor";

/** A token outside the learned vocabulary's splits: matched in the text before anything else. */
export interface AddedTokenJson {
  readonly id: number;
  readonly content: string;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly normalized: boolean;
  readonly special: boolean;
}

/** `tokenizer.json`. */
export interface TokenizerJson {
  readonly version: string;
  readonly truncation: unknown;
  readonly padding: unknown;
  readonly added_tokens: readonly AddedTokenJson[];
  readonly normalizer: unknown;
  readonly pre_tokenizer: unknown;
  readonly post_processor: unknown;
  readonly decoder: unknown;
  readonly model: { readonly type: string; readonly vocab: Readonly<Record<string, number>>; readonly merges: readonly unknown[]; readonly [key: string]: unknown };
}

/** A special token in `tokenizer_config.json`: its text, or an object that holds it. */
export type SpecialToken = string | { readonly content: string } | null;

/** `tokenizer_config.json`. */
export interface TokenizerConfig {
  readonly bos_token?: SpecialToken;
  readonly eos_token?: SpecialToken;
  readonly pad_token?: SpecialToken;
  readonly unk_token?: SpecialToken;
  readonly clean_up_tokenization_spaces?: boolean;
  readonly model_max_length?: number;
  readonly chat_template?: string | readonly { readonly name: string; readonly template: string }[] | null;
  readonly [key: string]: unknown;
}

/** The contents of a tokenizer.json, with the keys that every part of this package reads. @throws FormatError naming file and key */
export function checkTokenizer(json: Readonly<Record<string, unknown>>, file: string): TokenizerJson {
  const lacks = (key: string): FormatError => new FormatError(`${file}: lacks "${key}"`, { file, key, fix: "take the tokenizer.json that came with the model (the older vocab.json and merges.txt are not read)" });
  const { model, added_tokens: added = [] } = json;
  if (!isRecord(model)) throw lacks("model");
  if (!isRecord(model["vocab"]) && !Array.isArray(model["vocab"])) throw lacks("model.vocab");
  if (!Array.isArray(added) || !added.every((token) => isRecord(token) && Number.isInteger(token["id"]) && typeof token["content"] === "string")) throw lacks("added_tokens[].id and .content");
  const whole: unknown = { version: "1.0", truncation: null, padding: null, normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, ...json, added_tokens: added };
  if (!isTokenizerJson(whole)) throw lacks("model.merges");
  return whole;
}

/** The keys were checked one by one; the components' own keys are checked where they are built. */
const isTokenizerJson = (value: unknown): value is TokenizerJson => isRecord(value) && isRecord(value["model"]);

/** The tokens of a vocabulary by id; ids that no token has are left empty. */
export function tokensById({ model, added_tokens: added }: TokenizerJson): (string | undefined)[] {
  const { vocab }: { readonly vocab: unknown } = model, tokens: (string | undefined)[] = [];
  if (Array.isArray(vocab)) vocab.forEach((entry: unknown, id) => { if (Array.isArray(entry) && typeof entry[0] === "string") tokens[id] = entry[0]; });
  else if (isRecord(vocab)) for (const [token, id] of Object.entries(vocab)) if (typeof id === "number") tokens[id] = token;
  for (const { content, id } of added) tokens[id] = content;
  return tokens;
}
