/** Samples for measuring bits per byte: every byte of the text is predicted exactly once. */
import type { Tokenizer } from "@adjoint/models";
import { ConfigError } from "@adjoint/tensor";
import { DataSet } from "./dataset.ts";
import { IGNORED, type Sample } from "./sample.ts";

/** Options of `measured`. */
export interface MeasuredOptions {
  /** tokens a row */
  readonly maxLength: number;
  /** tokens at the start of a row that were predicted in the row before and serve as context only (default 1) */
  readonly context?: number;
  readonly name?: string;
}

/**
 * Texts as rows in which each token is predicted once, and each text by itself.
 *
 * A text's tokens follow the start token (bos, else eos), so that its first token is predicted too; rows of `maxLength` tokens overlap by
 * `context`, whose labels are -100. With loss L (nats a predicted token), bits per byte = L * predicted / (bytes * ln 2).
 *
 * @throws ConfigError unless 1 <= context < maxLength, or when the tokenizer has neither bos nor eos
 */
export function measured(texts: readonly { readonly text: string }[], tokenizer: Tokenizer, options: MeasuredOptions): DataSet {
  const { maxLength, context = 1, name = "held-out text" } = options;
  if (!Number.isInteger(maxLength) || maxLength < 2) throw new ConfigError(`max_length is ${maxLength}`, { key: "max_length", value: maxLength, fix: "take a whole number from 2" });
  if (!Number.isInteger(context) || context < 1 || context >= maxLength) {
    throw new ConfigError(`context is ${context}, a row has ${maxLength} tokens`, { key: "context", value: context, fix: `take a whole number from 1 to ${maxLength - 1}` });
  }
  const start = tokenizer.bosTokenId ?? tokenizer.eosTokenId;
  if (start === undefined) throw new ConfigError("the tokenizer has neither bos nor eos: the first token of a text cannot be predicted", { key: "bos_token", fix: "name a bos_token or eos_token in tokenizer_config.json" });

  const samples: Sample[] = [];
  let bytes = 0;
  for (const { text } of texts) {
    bytes += new TextEncoder().encode(text).length;
    const stream = [start, ...tokenizer.encode(text)];
    for (let done = 1; done < stream.length; ) {
      const from = Math.max(0, done - context);
      const to = Math.min(stream.length, from + maxLength);
      const ids = stream.slice(from, to);
      samples.push({ ids, labels: ids.map((id, i) => (from + i < done ? IGNORED : id)) });
      done = to;
    }
  }
  return new DataSet(samples, { padTokenId: tokenizer.padTokenId ?? 0, bytes, name });
}

/** The longest prefix of a text that takes at most `limit` bytes in UTF-8. */
export function firstBytes(text: string, limit: number): string {
  const { read } = new TextEncoder().encodeInto(text, new Uint8Array(limit));
  return text.slice(0, read);
}
