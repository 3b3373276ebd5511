/** JSON from files, strict: valid UTF-8, no duplicate key anywhere, errors that name the file. */
import { FormatError } from "@adjoint/tensor";

/** Parses bytes as JSON; FormatError if they are not, or if an object has a key twice. */
export function parseUniqueJson(bytes: Uint8Array, label: string): unknown {
  const bad = (problem: string, value: unknown, cause?: unknown): FormatError =>
    new FormatError(`${label}: ${problem}`, { file: label, key: "header", value, fix: "the file is damaged or of another format: get it again", cause });
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw bad("the header is not UTF-8 text", undefined, error);
  }
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw bad(`the header is not JSON (${error instanceof Error ? error.message : "syntax"})`, text.slice(0, 80), error);
  }
  const twice = duplicateKey(text);
  if (twice !== undefined) throw bad(`"${twice}" is there twice`, twice);
  return value;
}

/** The first key that some object of a valid JSON text has twice (JSON.parse keeps the last one and says nothing). */
export function duplicateKey(text: string): string | undefined {
  const tokens = /"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?|[{}]/g;
  const open: Set<string>[] = [];
  for (const [token, colon] of text.matchAll(tokens)) {
    if (token === "{") open.push(new Set());
    else if (token === "}") open.pop();
    else if (colon !== undefined) {
      const key: unknown = JSON.parse(token.slice(0, token.length - colon.length));
      const keys = open[open.length - 1];
      if (typeof key !== "string" || keys === undefined) continue; // cannot be, in valid JSON
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}
