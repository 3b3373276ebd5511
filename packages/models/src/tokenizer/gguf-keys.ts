/** Checked access to the tokenizer's part of a GGUF file's metadata. */
import type { GgufFile, GgufValue } from "@adjoint/io";
import { FormatError } from "@adjoint/tensor";

/** What is needed of a file. */
export type GgufHeader = Pick<GgufFile, "label" | "metadata">;

/** Kinds of tokens (`tokenizer.ggml.token_type`). */
export const tokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

const PREFIX = "tokenizer.";

/** The keys of one file; every name is without "tokenizer.". */
export class GgufTokenizerKeys {
  readonly label: string;
  private readonly metadata: ReadonlyMap<string, GgufValue>;
  constructor({ label, metadata }: GgufHeader) {
    this.label = label;
    this.metadata = metadata;
  }
  error(key: string, problem: string, value: unknown, fix = "the file is damaged or was converted wrongly: get it again, or give another tokenizer"): FormatError {
    return new FormatError(`${this.label}: ${PREFIX}${key} ${problem}`, { file: this.label, key: `${PREFIX}${key}`, value, fix });
  }
  private value(key: string): GgufValue | undefined { return this.metadata.get(PREFIX + key); }
  /** Whether an option is there and not false. */
  given(key: string): boolean { return (this.value(key)?.value ?? false) !== false; }
  text(key: string): string | null {
    const found = this.value(key);
    if (found === undefined) return null;
    if (found.type !== "string" || typeof found.value !== "string") throw this.error(key, `is ${found.type}, and should be a string`, found.type);
    return found.value;
  }
  flag(key: string): boolean | null {
    const found = this.value(key);
    if (found === undefined) return null;
    if (typeof found.value !== "boolean") throw this.error(key, `is ${found.type}, and should be a truth value`, found.type);
    return found.value;
  }
  texts(key: string): readonly string[] | null {
    const found = this.value(key);
    if (found === undefined) return null;
    const bad = (): FormatError => this.error(key, `is ${found.type === "array" ? `an array of ${found.of}` : found.type}, and should be an array of strings`, found.type);
    if (found.type !== "array") throw bad();
    return found.value.map((entry) => { if (typeof entry !== "string") throw bad(); return entry; });
  }
  /** An array of numbers, one a token. */
  numbers(key: string, count: number): readonly number[] | null {
    const found = this.value(key);
    if (found === undefined) return null;
    if (found.type !== "array") throw this.error(key, `is ${found.type}, and should be an array of numbers`, found.type);
    if (found.value.length !== count) throw this.error(key, `has ${found.value.length} entries, and tokenizer.ggml.tokens has ${count}`, found.value.length);
    return found.value.map((entry, i) => { if (typeof entry !== "number" || Number.isNaN(entry)) throw this.error(key, `is ${String(entry)} at ${i}, and should be a number`, entry); return entry; });
  }
  /** An id among so many tokens. */
  id(name: string, count: number): number | null {
    const key = `ggml.${name}_token_id`, found = this.value(key);
    if (found === undefined) return null;
    if (typeof found.value !== "number" || !Number.isInteger(found.value) || found.value < 0 || found.value >= count) throw this.error(key, `is ${String(found.value)}, and there are ${count} tokens`, found.value);
    return found.value;
  }
}
