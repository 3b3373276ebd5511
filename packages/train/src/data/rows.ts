/** Reads training data as people write it: .txt and .jsonl with `text`, `prompt` + `completion`, or `messages`. */
import { isRecord, readText } from "@adjoint/io";
import type { Message } from "@adjoint/models";
import { FormatError } from "@adjoint/tensor";

/** One document; every token is trained. */
export interface TextRow {
  readonly text: string;
  readonly name?: string;
}

/** A question and its answer; by default only the answer is trained. Both are strings, or both are messages. */
export interface CompletionRow {
  readonly prompt: string | readonly Message[];
  readonly completion: string | readonly Message[];
}

/** A conversation, rendered by the tokenizer's chat template. */
export interface ConversationRow {
  readonly messages: readonly Message[];
  readonly tools?: readonly unknown[];
}

/** One row of a data file. */
export type Row = TextRow | CompletionRow | ConversationRow;

/** What a file holds. */
export type RowKind = "text" | "prompt" | "messages";

/** The kind of a row. */
export const kindOf = (row: Row): RowKind => ("text" in row ? "text" : "prompt" in row ? "prompt" : "messages");

const EXAMPLE = '{"text": "..."}, {"prompt": "...", "completion": "..."} or {"messages": [{"role": "user", "content": "..."}, ...]}';

/**
 * Reads a data file; a .txt file is one document, each line of a .jsonl file is one row, and all rows are of one kind.
 *
 * @throws FormatError naming file, line, key, value and fix
 */
export async function readRows(file: string | URL): Promise<Row[]> {
  const name = String(file);
  const text = (await readText(file)).replace(/^\ufeff/, "");
  if (/\.txt$/i.test(name)) {
    if (text.trim() === "") throw new FormatError(`${name}: the file is empty`, { file: name, fix: "give it some text" });
    return [{ text }];
  }
  if (/\.jsonl$/i.test(name)) return parseJsonLines(text, name);
  const ending = /\.[^./\\]*$/.exec(name)?.[0] ?? "no ending";
  throw new FormatError(`${name}: ${ending} is not a kind of data file`, {
    file: name, value: ending, fix: ending === ".json" ? "rename it to .jsonl if each line is an object; pass token ids with --ids" : "use .txt (one document) or .jsonl (one row a line)" });
}

/** Rows of a .jsonl text; `file` names it in errors. Empty lines are skipped. */
export function parseJsonLines(text: string, file: string): Row[] {
  const rows: Row[] = [];
  let kind: RowKind | undefined;
  text.split("\n").forEach((line, i) => {
    if (line.trim() === "") return;
    const row = parseRow(line, file, i + 1);
    const found = kindOf(row);
    if (kind !== undefined && kind !== found) {
      throw new FormatError(`${file}, line ${i + 1}: a "${found}" row among "${kind}" rows`, {
        file, key: found, value: i + 1, fix: "keep one kind of row a file: split the file in two" });
    }
    kind = found;
    rows.push(row);
  });
  if (rows.length === 0) throw new FormatError(`${file}: the file has no rows`, { file, fix: `write one object a line: ${EXAMPLE}` });
  return rows;
}

function parseRow(line: string, file: string, number: number): Row {
  const bad = (problem: string, key: string | undefined, value: unknown, fix: string, cause?: unknown): FormatError =>
    new FormatError(`${file}, line ${number}: ${problem}`, { file, ...(key === undefined ? {} : { key }), value, fix, cause });
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw bad(`not JSON (${error instanceof Error ? error.message : "syntax"})`, undefined, shorten(line), `write one object a line: ${EXAMPLE}`, error);
  }
  if (!isRecord(value)) throw bad("not an object", undefined, shorten(line), `write one object a line: ${EXAMPLE}`);
  const kinds = ["text", "prompt", "messages"].filter((key) => key in value);
  if (kinds.length > 1) throw bad(`has both "${kinds[0]}" and "${kinds[1]}"`, kinds[1], value[kinds[1]], "keep one of them");
  if (kinds.length === 0) {
    const keys = Object.keys(value);
    const preference = "chosen" in value || "rejected" in value;
    throw bad(`has none of "text", "prompt" + "completion", "messages"; its keys are ${keys.length === 0 ? "none" : keys.join(", ")}`, keys[0], shorten(line),
      preference ? "preference pairs are not read here: write prompt and completion" : `rename the keys: ${EXAMPLE}`);
  }
  const string = (key: string): string => {
    const text = value[key];
    if (typeof text !== "string") throw bad(key in value ? `"${key}" is ${describe(text)}, not a string` : `lacks "${key}"`, key, text, `write "${key}": "..."`);
    return text;
  };
  const conversation = (key: string): Message[] => {
    const list = value[key];
    if (!Array.isArray(list) || list.length === 0) throw bad(`"${key}" is ${describe(list)}, not a list of messages`, key, list, 'write [{"role": "user", "content": "..."}, ...]');
    return list.map((message: unknown, i) => {
      if (!isMessage(message)) throw bad(`"${key}[${i}]" is ${describe(message)}, not a message with the strings "role" and "content"`, `${key}[${i}]`, message, 'write {"role": "user", "content": "..."}');
      return message;
    });
  };
  if ("text" in value) {
    const text = string("text");
    if (text === "") throw bad('"text" is empty', "text", text, "drop the line");
    return { text };
  }
  if ("messages" in value) {
    const tools = value["tools"];
    if (tools !== undefined && tools !== null && !Array.isArray(tools)) throw bad(`"tools" is ${describe(tools)}, not a list`, "tools", tools, 'drop it, or write "tools": [...]');
    return { messages: conversation("messages"), ...(Array.isArray(tools) ? { tools } : {}) };
  }
  if (Array.isArray(value["prompt"])) return { prompt: conversation("prompt"), completion: conversation("completion") };
  const row = { prompt: string("prompt"), completion: string("completion") };
  if (row.completion === "") throw bad('"completion" is empty: nothing would be trained', "completion", "", "give an answer, or drop the line");
  return row;
}


const isMessage = (value: unknown): value is Message => isRecord(value) && typeof value["role"] === "string" && typeof value["content"] === "string";

const shorten = (text: string): string => (text.length > 60 ? `${text.slice(0, 60)}...` : text);

const describe = (value: unknown): string =>
  value === undefined ? "missing" : value === null ? "null" : Array.isArray(value) ? (value.length === 0 ? "an empty list" : "a list") : typeof value === "object" ? "an object" : `a ${typeof value}`;
