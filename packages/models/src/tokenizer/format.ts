/** The parts of Hugging Face's tokenizer files that this package reads or writes. */

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
