/** Trains a byte-level BPE tokenizer and writes it in Hugging Face's format. */
import { SplitPreTokenizer } from "@huggingface/tokenizers";
import { ConfigError } from "@adjoint/tensor";
import { learnMerges, type CountedWord } from "./bpe-trainer.ts";
import { bytesByChar, byteToChar } from "./bytes.ts";
import type { TokenizerConfig, TokenizerJson } from "./format.ts";
import { SINGLE_DIGITS } from "./patterns.ts";

/** Options of `trainTokenizer`; names as in `tokenizers`' BpeTrainer. */
export interface TokenizerTraining {
  /** tokens in all: special tokens, the 256 bytes, and what is learned */
  readonly vocabSize: number;
  /** smallest count of a pair that is still merged (default 0, as in BpeTrainer) */
  readonly minFrequency?: number;
  /** first ids of the vocabulary (default `<|endoftext|>`) */
  readonly specialTokens?: readonly string[];
  /** token at the end of a document, also used as bos and pad (default the first special token) */
  readonly eosToken?: string;
  /** split before merging (default: GPT-2's, with digits one by one) */
  readonly pattern?: string;
  /** longest input noted in tokenizer_config.json, tokens */
  readonly modelMaxLength?: number;
}

/** The two files of a tokenizer, as values: `JSON.stringify` gives the compact files. */
export interface TrainedTokenizer {
  readonly tokenizerJson: TokenizerJson;
  readonly config: TokenizerConfig;
}

/**
 * Learns a byte-level BPE from texts: split, count the pieces, then merge the most frequent pair until `vocabSize` tokens exist.
 *
 * The vocabulary holds all 256 bytes, so decode(encode(s)) = s for every Unicode string. Merges equal those of Python `tokenizers`'
 * BpeTrainer with the same split, `initial_alphabet` = all bytes and the same special tokens.
 *
 * @param texts documents; nothing is merged across two of them
 * @throws ConfigError when vocabSize cannot hold the bytes and the special tokens, or eosToken is not a special token
 * Source: Radford et al. 2019 (byte-level BPE); Sennrich et al. 2016.
 */
export function trainTokenizer(texts: Iterable<string>, options: TokenizerTraining): TrainedTokenizer {
  const { vocabSize, minFrequency = 0, specialTokens = ["<|endoftext|>"], pattern = SINGLE_DIGITS } = options;
  const eosToken = options.eosToken ?? specialTokens[0];
  const smallest = 256 + specialTokens.length;
  if (!Number.isInteger(vocabSize) || vocabSize < smallest || vocabSize >= 2 ** 21) {
    throw new ConfigError(`trainTokenizer: vocabSize is ${vocabSize}, the 256 bytes and the special tokens need ${smallest}`, {
      op: "trainTokenizer", key: "vocabSize", value: vocabSize, fix: `take an integer from ${smallest} to ${2 ** 21 - 1}` });
  }
  if (new Set(specialTokens).size !== specialTokens.length || specialTokens.some((token) => [...token].length < 2)) {
    throw new ConfigError("trainTokenizer: special tokens must differ and have at least two characters", {
      op: "trainTokenizer", key: "specialTokens", value: specialTokens, fix: "drop the double or the short one" });
  }
  if (eosToken !== undefined && !specialTokens.includes(eosToken)) {
    throw new ConfigError(`trainTokenizer: eosToken "${eosToken}" is not a special token`, {
      op: "trainTokenizer", key: "eosToken", value: eosToken, fix: `add it to specialTokens, or take one of ${specialTokens.join(", ")}` });
  }

  const split = { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false } as const;
  const firstByte = specialTokens.length;
  const alphabet = [...specialTokens, ...bytesByChar.map((byte) => byteToChar[byte])];
  const byteId = new Int32Array(256);
  bytesByChar.forEach((byte, i) => (byteId[byte] = firstByte + i));
  const { tokens, merges } = learnMerges(countWords(texts, new SplitPreTokenizer(split), byteId), alphabet, vocabSize, minFrequency);

  return {
    tokenizerJson: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: specialTokens.map((content, id) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true })),
      normalizer: null,
      pre_tokenizer: { type: "Sequence", pretokenizers: [split, { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false }] },
      post_processor: null,
      decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: false,
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: merges.map(([a, b]) => `${a} ${b}`),
      },
    },
    config: {
      tokenizer_class: "PreTrainedTokenizerFast",
      clean_up_tokenization_spaces: false,
      model_max_length: options.modelMaxLength ?? 1_000_000,
      ...(eosToken === undefined ? {} : { bos_token: eosToken, eos_token: eosToken, pad_token: eosToken }),
    },
  };
}

/** Pieces of the texts with their counts, as symbols of the alphabet. */
function countWords(texts: Iterable<string>, splitter: SplitPreTokenizer, byteId: Int32Array): CountedWord[] {
  const pieces = new Map<string, number>();
  for (const text of texts) {
    for (const piece of splitter.pre_tokenize_text(text)) pieces.set(piece, (pieces.get(piece) ?? 0) + 1);
  }
  const encoder = new TextEncoder();
  return Array.from(pieces, ([piece, count]) => ({ symbols: Array.from(encoder.encode(piece), (byte) => byteId[byte]), count }));
}
