/** JSON from files, with errors that name the file; tensor files strictly: valid UTF-8, no key twice anywhere. */
import { FormatError } from "@adjoint/tensor";

/** Whether a JSON value is an object. */
export const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> => typeof value === "object" && value !== null && !Array.isArray(value);

/** Parses the text of a JSON file. @throws FormatError naming the file and what to do */
export function parseJson(text: string, file: string, fix = "get the file again: it is cut or damaged"): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new FormatError(`${file}: not JSON: ${cause instanceof Error ? cause.message : String(cause)}`, { file, fix, cause });
  }
}

/** The same for a file that holds one object. @throws FormatError naming the file and what to do */
export function parseJsonObject(text: string, file: string, fix?: string): Readonly<Record<string, unknown>> {
  const value = parseJson(text, file, fix);
  if (!isRecord(value)) throw new FormatError(`${file}: not a JSON object`, { file, value, fix: fix ?? "take the file that came with the model" });
  return value;
}

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
