/** Builds `@huggingface/tokenizers`' Tokenizer from file contents, with unpublished regular expressions put under a watch. */
import { SplitPreTokenizer, Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { isRecord } from "@adjoint/io";
import { FormatError } from "@adjoint/tensor";
import type { TokenizerConfig, TokenizerJson } from "./format.ts";
import { isPublished } from "./patterns.ts";
import { PatternWatch } from "./watch.ts";

/** The library's tokenizer, and the watch over its patterns if it needs one. */
export interface Built {
  readonly inner: HuggingFaceTokenizer;
  readonly watch: PatternWatch | undefined;
}

/**
 * Builds the tokenizer; `file` names it in errors.
 *
 * The library runs normalizers while it is constructed, so unpublished patterns are first replaced by harmless placeholders and the
 * watched ones are put in afterwards.
 *
 * @throws FormatError when the contents are no tokenizer, or hold something the library cannot build
 */
export function buildTokenizer(json: TokenizerJson, config: TokenizerConfig, file: string, limit?: number): Built {
  const hidden = new Map<string, string>();
  const hide = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(hide);
    if (!isRecord(value)) return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => {
      if (key !== "Regex" || typeof item !== "string" || isPublished(item)) return [key, hide(item)];
      const placeholder = `\uE000${hidden.size}\uE001`;
      hidden.set(placeholder, item);
      return [key, placeholder];
    }));
  };
  const safe: TokenizerJson = { ...json, normalizer: hide(json.normalizer), pre_tokenizer: hide(json.pre_tokenizer), decoder: hide(json.decoder) };
  const inner = attempt(file, () => new HuggingFaceTokenizer(safe, config));
  for (const decoder of parts(inner.decoder)) { // bytes EF BB BF in the middle of a text are a character, and no mark of order
    const utf8: unknown = Reflect.get(decoder, "text_decoder");
    if (utf8 instanceof TextDecoder && !utf8.ignoreBOM) Reflect.set(decoder, "text_decoder", new TextDecoder("utf-8", { ignoreBOM: true }));
  }
  if (hidden.size === 0) return { inner, watch: undefined };

  const names = (json.added_tokens ?? []).filter((token) => token.normalized).map((token) => token.content);
  const normalized = names.map((name) => inner.normalizer?.(name) ?? name);
  const watch = new PatternWatch(file, limit);
  for (const component of [inner.normalizer, inner.pre_tokenizer, inner.decoder].flatMap((top) => [...parts(top)])) {
    const written = hidden.get(placeholderOf(component));
    if (written === undefined) continue;
    const pattern = attempt(file, () => new SplitPreTokenizer({ type: "Split", pattern: { Regex: written }, behavior: "Isolated", invert: false }).pattern);
    if (pattern !== null) Reflect.set(component, "pattern", watch.guard(pattern, written));
  }
  names.forEach((name, i) => {
    if ((inner.normalizer?.(name) ?? name) === normalized[i]) return;
    throw new FormatError(`${file}: the normalizer's pattern changes the added token ${JSON.stringify(name)}`, {
      file, key: "added_tokens", value: name, fix: "mark the token as not normalized" });
  });
  return { inner, watch };
}

/** A component and, for sequences, its parts. */
function* parts(component: unknown): Generator<object> {
  if (component === null || (typeof component !== "object" && typeof component !== "function")) return;
  yield component;
  for (const key of ["normalizers", "tokenizers", "decoders"]) {
    const list: unknown = Reflect.get(component, key);
    if (Array.isArray(list)) for (const part of list) yield* parts(part);
  }
}

function placeholderOf(component: object): string {
  const config: unknown = Reflect.get(component, "config");
  const pattern = isRecord(config) ? config["pattern"] : undefined;
  const regex = isRecord(pattern) ? pattern["Regex"] : undefined;
  return typeof regex === "string" ? regex : "";
}

function attempt<T>(file: string, build: () => T): T {
  try {
    return build();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new FormatError(`${file}: not a tokenizer that can be built: ${reason}`, { file, fix: "take the tokenizer.json that came with the model", cause: error });
  }
}
