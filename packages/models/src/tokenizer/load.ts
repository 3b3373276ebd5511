/** Loads a tokenizer from a Hugging Face folder, a GGUF file, or from the contents of its files. */
import { openGguf, parseJsonObject, readText } from "@adjoint/io";
import { FormatError } from "@adjoint/tensor";
import type { Origin } from "../origin.ts";
import { checkTokenizer, type TokenizerConfig, type TokenizerJson } from "./format.ts";
import { ggufTokenizer } from "./gguf-read.ts";
import { createTokenizer, type Tokenizer } from "./tokenizer.ts";

/** Where a tokenizer comes from: a folder or a .gguf file (path or file: URL), or the parsed contents of its files. */
export type TokenizerSource = string | URL | { readonly tokenizerJson: TokenizerJson; readonly config?: TokenizerConfig };

/** Options of `loadTokenizer`. */
export interface LoadTokenizerOptions {
  /** milliseconds that a regular expression from the file may run, unless it is a published one (default 5,000) */
  readonly patternLimit?: number;
}

/**
 * Loads `tokenizer.json` and, if there, `tokenizer_config.json` and `chat_template.jinja`; or what a GGUF file holds of a tokenizer.
 *
 * @throws FormatError when a file is not JSON, lacks a key, or holds a component that cannot be built
 * Source: the file formats of Hugging Face `tokenizers` and `transformers`.
 */
export async function loadTokenizer(source: TokenizerSource, options: LoadTokenizerOptions = {}): Promise<Tokenizer> {
  if (typeof source === "object" && "tokenizerJson" in source) return createTokenizer(source.tokenizerJson, source.config ?? {}, "tokenizer.json", options.patternLimit);
  const path = typeof source === "string" ? source : source.pathname;
  if (/\.gguf$/i.test(path)) return ofGguf(source, options);
  const at = (name: string): string | URL => (typeof source === "string" ? `${source.replace(/\/$/, "")}/${name}` : new URL(name, source.href.endsWith("/") ? source : `${source.href}/`));
  const texts = new Map<string, string | undefined>([["tokenizer.json", await readText(at("tokenizer.json"))]]);
  for (const name of ["tokenizer_config.json", "chat_template.jinja"]) texts.set(name, await readText(at(name)).catch(missing));
  return tokenizerFrom({ label: (name) => String(at(name)), has: async (name) => texts.get(name) !== undefined, text: async (name) => texts.get(name) ?? "" }, options.patternLimit);
}

async function ofGguf(source: string | URL, { patternLimit }: LoadTokenizerOptions): Promise<Tokenizer> {
  const file = await openGguf(source);
  try {
    const own = ggufTokenizer(file);
    if (own === null) throw new FormatError(`${file.label}: holds no tokenizer`, { file: file.label, key: "tokenizer.ggml.model", value: null, fix: "give a folder with tokenizer.json" });
    return createTokenizer(own.tokenizerJson, own.config, file.label, patternLimit);
  } finally {
    await file.close();
  }
}

/** The same from files by name, wherever they are. */
export async function tokenizerFrom({ label, has, text }: Pick<Origin, "label" | "has" | "text">, patternLimit?: number): Promise<Tokenizer> {
  const file = label("tokenizer.json"), json = checkTokenizer(parseJsonObject(await text("tokenizer.json"), file), file);
  const config = (await has("tokenizer_config.json")) ? parseJsonObject(await text("tokenizer_config.json"), label("tokenizer_config.json")) : {};
  const template = (await has("chat_template.jinja")) ? { chat_template: await text("chat_template.jinja") } : {};
  return createTokenizer(json, { ...config, ...template }, file, patternLimit);
}

/** A file that is not there is no error; anything else is. */
function missing(error: unknown): undefined {
  const code: unknown = error instanceof Error && error.cause instanceof Error && "code" in error.cause ? error.cause.code : undefined;
  if (code !== "ENOENT") throw error;
}
