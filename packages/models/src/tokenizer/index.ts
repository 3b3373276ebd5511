/** Tokenizers: train, load, encode, decode, chat templates. */
export { byteToChar, tokenBytes } from "./bytes.ts";
export type { ChatOptions, Message, RenderedChat } from "./chat.ts";
export type { AddedTokenJson, SpecialToken, TokenizerConfig, TokenizerJson } from "./format.ts";
export { loadTokenizer, type LoadTokenizerOptions, type TokenizerSource } from "./load.ts";
export { SINGLE_DIGITS } from "./patterns.ts";
export type { Tokenizer } from "./tokenizer.ts";
export { trainTokenizer, type TokenizerTraining, type TrainedTokenizer } from "./train.ts";
