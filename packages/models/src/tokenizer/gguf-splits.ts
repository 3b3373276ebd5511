/** How byte-level vocabularies of GGUF files split text: `tokenizer.ggml.pre` names it, and the names are llama.cpp's. */
import { isRecord } from "@adjoint/io";
import { GPT2, GPT4O, LLAMA3, NUMERALS, QWEN2, TEKKEN } from "./patterns.ts";

/** A way to split. */
export interface GgufSplit {
  /** what files call it; the first name is written */
  readonly names: readonly [string, ...string[]];
  /** regular expressions, applied one after another, whose matches stand alone */
  readonly patterns: readonly string[];
  /** a piece that is a token is not merged from bytes */
  readonly ignoreMerges: boolean;
  /** canonical composition before all else, as the tokenizer that the name stands for has it */
  readonly nfc: boolean;
  /** what is done where the file does not say whether bos is put first */
  readonly addBos: boolean;
}

const split = (names: GgufSplit["names"], patterns: readonly string[], { ignoreMerges = false, nfc = false, addBos = false } = {}): GgufSplit => ({ names, patterns, ignoreMerges, nfc, addBos });

/**
 * The known ones. "default" is what converters wrote before there were names, and is read as GPT-2's split, as transformers reads it;
 * llama.cpp splits punctuation and digits otherwise there.
 */
export const ggufSplits: readonly GgufSplit[] = [
  split(["gpt-2", "default", "mellum", "trillion"], [GPT2]),
  split(["smollm", "starcoder", "minerva-7b"], [NUMERALS, GPT2]),
  split(["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"], [LLAMA3], { ignoreMerges: true, addBos: true }),
  split(["smaug-bpe", "dbrx"], [LLAMA3]),
  split(["qwen2"], [QWEN2], { nfc: true }),
  split(["deepseek-r1-qwen", "megrez", "kormo"], [QWEN2]),
  split(["gpt-4o", "llama4", "kanana2"], [GPT4O]),
  split(["tekken"], [TEKKEN], { ignoreMerges: true, addBos: true }),
];

/** The split of this name, if it is known. */
export const splitNamed = (name: string): GgufSplit | undefined => ggufSplits.find(({ names }) => names.includes(name));

/** The pre-tokenizer of tokenizer.json that splits so. */
export const splitJson = ({ patterns }: GgufSplit): unknown => ({
  type: "Sequence",
  pretokenizers: [...patterns.map((Regex) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false })), { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false }],
});

/** The patterns of a byte-level pre-tokenizer, by the part of tokenizer.json; null for another kind of it. */
export function patternsOf(json: unknown): readonly string[] | null {
  if (!isRecord(json)) return null;
  const listed = json["type"] === "Sequence" ? json["pretokenizers"] : [json], steps: readonly unknown[] = Array.isArray(listed) ? listed : [], patterns: string[] = [];
  for (const [i, step] of steps.entries()) {
    if (!isRecord(step)) return null;
    const { type, pattern, behavior, invert = false } = step, regex = isRecord(pattern) ? pattern["Regex"] : undefined, last = i === steps.length - 1;
    if (last !== (type === "ByteLevel")) return null;
    if (last) {
      if (step["add_prefix_space"] === true) return null;
      if (step["use_regex"] !== false) patterns.push(GPT2);
    } else if (type === "Digits" && step["individual_digits"] === true) patterns.push(NUMERALS);
    else if (type === "Split" && typeof regex === "string" && /^isolated$/i.test(String(behavior)) && invert === false) patterns.push(regex);
    else return null;
  }
  return steps.length === 0 ? null : patterns;
}
