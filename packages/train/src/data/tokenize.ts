/** Rows to samples: token ids, the end token, and which positions are trained. */
import type { Message, Tokenizer } from "@adjoint/models";
import { ConfigError } from "@adjoint/tensor";
import type { CompletionRow, ConversationRow, Row } from "./rows.ts";
import { kindOf } from "./rows.ts";
import { IGNORED, type Sample } from "./sample.ts";

/** What is trained in a row; names as in TRL's SFTConfig. */
export interface TokenizeOptions {
  /** train the completion only (default: true for prompt + completion; the other kinds have no prompt) */
  readonly completionOnlyLoss?: boolean;
  /** train only what the chat template puts between `{% generation %}` and `{% endgeneration %}` (default false) */
  readonly assistantOnlyLoss?: boolean;
  /** template text instead of the tokenizer's own */
  readonly chatTemplate?: string;
}

/** Samples, one a row, and what the caller should be told. */
export interface Tokenized {
  readonly samples: Sample[];
  readonly warnings: string[];
}

/**
 * Tokenises rows.
 *
 * - `text`: the text and the end token; every token is trained.
 * - `prompt`, `completion`: the tokens of prompt + completion + end token; those of the prompt alone get the label -100. Where the
 *   tokenizer merges across the boundary, the boundary is the prompt's own length, and a warning says so.
 * - `messages`: what the chat template renders, without further special tokens; nothing is added.
 *
 * The end token is added unless it is there.
 * @throws ConfigError when an option does not fit the rows, or nothing of a row would be trained
 * Source: TRL, sft_trainer.py
 */
export function tokenizeRows(rows: readonly Row[], tokenizer: Tokenizer, options: TokenizeOptions = {}): Tokenized {
  const { completionOnlyLoss, assistantOnlyLoss = false, chatTemplate } = options;
  const chat = chatTemplate === undefined ? {} : { chatTemplate };
  const kind = rows.length === 0 ? "text" : kindOf(rows[0]);
  if (completionOnlyLoss === true && kind !== "prompt") {
    throw new ConfigError(`completion_only_loss needs "prompt" and "completion", the rows have "${kind}"`, { key: "completion_only_loss", value: true, fix: "drop the option, or write prompt and completion" });
  }
  const conversational = kind === "messages" || (rows.length > 0 && "prompt" in rows[0] && typeof rows[0].prompt !== "string");
  if (assistantOnlyLoss && !conversational) {
    throw new ConfigError(`assistant_only_loss needs messages, the rows have "${kind}"`, { key: "assistant_only_loss", value: true, fix: "drop the option, or write messages" });
  }
  let merged = 0;

  const withEnd = (ids: number[]): number[] => {
    const end = tokenizer.eosTokenId;
    return end === undefined || ids[ids.length - 1] === end ? ids : [...ids, end];
  };
  const all = (ids: number[]): Sample => ({ ids, labels: ids });
  const text = (row: string): number[] => tokenizer.encode(row, { addSpecialTokens: true });

  const completion = (row: CompletionRow): Sample => {
    const { prompt, completion: answer } = row;
    let promptIds: number[], ids: number[], mask: boolean[] | undefined;
    if (typeof prompt === "string" && typeof answer === "string") {
      promptIds = text(prompt);
      ids = withEnd(text(prompt + answer));
    } else {
      const asked = messages(prompt), given = messages(answer);
      promptIds = tokenizer.encode(tokenizer.applyChatTemplate(asked, { ...chat, addGenerationPrompt: true }));
      ({ ids, mask } = render({ messages: [...asked, ...given] }));
    }
    if (promptIds.some((id, i) => ids[i] !== id)) merged++;
    const from = completionOnlyLoss === false ? 0 : promptIds.length;
    return { ids, labels: ids.map((id, i) => (i < from || mask?.[i] === false ? IGNORED : id)) };
  };

  const render = (row: ConversationRow): { ids: number[]; mask: boolean[] | undefined } => {
    const rendered = tokenizer.renderChat(row.messages, { ...chat, ...(row.tools === undefined ? {} : { tools: row.tools }) });
    const ids = tokenizer.encode(rendered.text);
    return { ids, mask: assistantOnlyLoss ? spanMask(tokenizer, rendered.text, ids, rendered.assistant) : undefined };
  };

  const samples = rows.map((row, i): Sample => {
    if (kindOf(row) !== kind) throw new ConfigError(`row ${i} has "${kindOf(row)}", the rows before have "${kind}"`, { key: kindOf(row), value: i, fix: "keep one kind of row a data set" });
    if ("text" in row) return all(withEnd(text(row.text)));
    if ("prompt" in row) return completion(row);
    const { ids, mask } = render(row);
    return mask === undefined ? all(ids) : { ids, labels: ids.map((id, j) => (mask[j] ? id : IGNORED)) };
  });
  const warnings = merged === 0 ? [] : [`in ${merged} of ${rows.length} rows the prompt's tokens are no prefix of the row's: the tokenizer merges across the boundary, so that the completion's first characters are not trained; end the prompt without a space and begin the completion with one`];
  return { samples, warnings };
}

const messages = (value: string | readonly Message[]): readonly Message[] => (typeof value === "string" ? [{ role: "assistant", content: value }] : value);

/** Tokens that share a byte with one of the spans (UTF-16 units of `text`), as in Transformers. */
function spanMask(tokenizer: Tokenizer, text: string, ids: readonly number[], spans: readonly (readonly [number, number])[]): boolean[] {
  const bytes = (end: number): number => new TextEncoder().encode(text.slice(0, end)).length;
  const ranges = spans.map(([start, end]) => [bytes(start), bytes(end)] as const);
  let at = 0;
  const mask = ids.map((id) => {
    const start = at;
    at += tokenizer.bytesOf(id).length;
    return ranges.some(([from, to]) => start < to && at > from);
  });
  if (at !== bytes(text.length)) throw new ConfigError("assistant_only_loss needs a tokenizer whose tokens spell the text byte by byte", { key: "assistant_only_loss", value: true, fix: "use prompt and completion instead" });
  if (!mask.includes(true)) {
    throw new ConfigError("assistant_only_loss: the chat template marks no token of a row as the assistant's", { key: "chat_template", fix: "put {% generation %} ... {% endgeneration %} around the assistant's content in the template" });
  }
  return mask;
}
