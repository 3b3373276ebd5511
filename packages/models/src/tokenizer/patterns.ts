/** Published pre-tokenizer patterns, which are known to run in linear time; any other pattern from a file runs under a watch. */

/** GPT-2's split with digits one by one: contractions, words with their space, single digits, other runs, white space. */
export const SINGLE_DIGITS: string = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

const published: readonly string[] = [
  SINGLE_DIGITS,
  // GPT-2, RoBERTa, and Falcon, StarCoder, Phi after them
  String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
  String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
  // CLIP
  String.raw`<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`,
  // BLOOM
  String.raw` ?[^(\s|[.,!?…。，、।۔،])]+`,
  // GPT-4 (cl100k), Llama 3 (up to three digits), Qwen 2 and 3 (one digit)
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  // GPT-4o (o200k)
  String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  // digits: Falcon, StarCoder 2, DeepSeek
  String.raw`[0-9][0-9][0-9]`,
  String.raw`\p{N}{1,3}`,
  String.raw`\p{N}`,
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
