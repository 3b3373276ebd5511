/** Published pre-tokenizer patterns, which are known to run in linear time; any other pattern from a file runs under a watch. */

/** GPT-2's split with digits one by one: contractions, words with their space, single digits, other runs, white space. */
export const SINGLE_DIGITS: string = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** GPT-2, RoBERTa, and Falcon, StarCoder, Phi after them. */
export const GPT2: string = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
/** GPT-4 (cl100k) and Llama 3: up to three digits. */
export const LLAMA3: string = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
/** Qwen 2 and 3: the same with single digits. */
export const QWEN2: string = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
/** GPT-4o (o200k). */
export const GPT4O: string = String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
/** Mistral's Tekken: the same without contractions, with single digits. */
export const TEKKEN: string = String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
/** Numerals one by one. */
export const NUMERALS: string = String.raw`\p{N}`;

const published: readonly string[] = [
  SINGLE_DIGITS,
  GPT2,
  String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
  // CLIP
  String.raw`<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`,
  // BLOOM
  String.raw` ?[^(\s|[.,!?…。，、।۔،])]+`,
  LLAMA3,
  QWEN2,
  GPT4O,
  TEKKEN,
  // digits: Falcon, StarCoder 2, DeepSeek
  String.raw`[0-9][0-9][0-9]`,
  String.raw`\p{N}{1,3}`,
  NUMERALS,
  String.raw`\d`,
  // lines and spaces: DeepSeek, Gemma, Phi 3
  String.raw`[\r\n]`,
  String.raw`\s+`,
  String.raw`\s+$`,
  String.raw` {2,}`,
  " ",
];

const known: ReadonlySet<string> = new Set(published);

/** Whether a pattern is one of the published ones that run as they are. */
export const isPublished = (pattern: string): boolean => known.has(pattern);
