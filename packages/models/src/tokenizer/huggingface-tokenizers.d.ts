/** Types of the parts of `@huggingface/tokenizers` used here: the package's own declarations have no file extensions, which NodeNext cannot follow. */
declare module "@huggingface/tokenizers" {
  export interface PreTokenizer {
    pre_tokenize(text: string | readonly string[]): string[];
    pre_tokenize_text(text: string): string[];
  }

  export class SplitPreTokenizer implements PreTokenizer {
    constructor(config: { type: "Split"; pattern: { Regex: string }; behavior: string; invert: boolean });
    readonly pattern: RegExp | null;
    pre_tokenize(text: string | readonly string[]): string[];
    pre_tokenize_text(text: string): string[];
  }

  export class ByteLevelPreTokenizer implements PreTokenizer {
    readonly add_prefix_space: boolean;
    readonly use_regex: boolean;
    pre_tokenize(text: string | readonly string[]): string[];
    pre_tokenize_text(text: string): string[];
  }

  export class SequencePreTokenizer implements PreTokenizer {
    readonly tokenizers: readonly (PreTokenizer | null)[];
    pre_tokenize(text: string | readonly string[]): string[];
    pre_tokenize_text(text: string): string[];
  }

  export class BPE {
    readonly tokens_to_ids: ReadonlyMap<string, number>;
    encode(tokens: readonly string[]): string[];
  }

  export class Tokenizer {
    constructor(tokenizer: object, config: object);
    readonly normalizer: ((text: string) => string) | null;
    readonly pre_tokenizer: PreTokenizer | null;
    readonly model: unknown;
    readonly decoder: unknown;
    encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
    decode(ids: number[], options: { skip_special_tokens: boolean }): string;
    token_to_id(token: string): number | undefined;
    id_to_token(id: number): string | undefined;
    get_vocab(): ReadonlyMap<string, number>;
  }
}
