/** Tokenizers: train, load, encode, decode, chat templates. */
export { byteToChar, tokenBytes } from "./bytes.ts";
export type { ChatOptions, Message, RenderedChat } from "./chat.ts";
export type { AddedTokenJson, SpecialToken, TokenizerConfig, TokenizerJson } from "./format.ts";
export { tokenizerAmong, tokenizerFiles } from "./files.ts";
export { ggufTokenizer } from "./gguf-read.ts";
export { ggufTokenizerKeys } from "./gguf-write.ts";
export { loadTokenizer, type LoadTokenizerOptions, type TokenizerSource } from "./load.ts";
export { SINGLE_DIGITS } from "./patterns.ts";
export type { Tokenizer } from "./tokenizer.ts";
export { trainTokenizer, type TokenizerTraining, type TrainedTokenizer } from "./train.ts";
