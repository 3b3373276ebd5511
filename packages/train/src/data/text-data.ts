/** Data sets from files or texts: tokenised, cut or packed, with a held-out part. */
import type { Tokenizer } from "@adjoint/models";
import { ConfigError, knownOptions, type OptionNames } from "@adjoint/tensor";
import { DataSet, type DataSetOptions } from "./dataset.ts";
import { measured } from "./heldout.ts";
import { cut, pack, type PackingStrategy } from "./pack.ts";
import { kindOf, readRows, type Row } from "./rows.ts";
import { predictedTokens, type Sample } from "./sample.ts";
import { tokenizeRows, type TokenizeOptions } from "./tokenize.ts";

/** A source that brings its own split. */
export interface SplitRows {
  readonly train: readonly Row[];
  readonly test: readonly Row[];
}

/** Where data comes from: a .txt or .jsonl file, rows in memory, rows already split, or a function that gives either. */
export type DataSource = string | URL | readonly Row[] | SplitRows | (() => readonly Row[] | SplitRows);

/** Options of `textData`; names as in TRL's SFTConfig. */
export interface TextDataOptions extends TokenizeOptions {
  /** tokens a row at most (default 1024) */
  readonly maxLength?: number;
  /** several documents a row: true for "wrapped" on texts and "bfd" on the rest, false for none (default: true for texts only) */
  readonly packing?: boolean;
  readonly packingStrategy?: PackingStrategy;
  /** share of the rows kept for measuring: with k = round(1 / share), rows k, 2k, 3k, ...; of one single text its end (default 0) */
  readonly heldOut?: number;
}

const textNames: OptionNames<Required<TextDataOptions>> = { maxLength: true, packing: true, packingStrategy: true, heldOut: true, completionOnlyLoss: true, assistantOnlyLoss: true, chatTemplate: true };

/** Training samples with their held-out part. */
export class TextData extends DataSet {
  readonly heldOut: DataSet | undefined;
  /** what the reader should be told: merged boundaries, rows without a trained token */
  readonly warnings: readonly string[];
  /** rows longer than maxLength whose end was cut off */
  readonly truncated: number;

  constructor(samples: readonly Sample[], options: DataSetOptions & { heldOut: DataSet | undefined; warnings: readonly string[]; truncated: number }) {
    super(samples, options);
    this.heldOut = options.heldOut;
    this.warnings = options.warnings;
    this.truncated = options.truncated;
  }
}

/**
 * Reads, tokenises and packs data.
 *
 * Texts become rows of `maxLength` tokens, one document after another with an end token between (`wrapped`); their held-out part is
 * measured byte by byte (`measured`). Prompts with completions and conversations are cut at `maxLength`, keeping the start.
 *
 * @throws FormatError for a bad file; ConfigError for options that contradict each other or the data
 * Source: TRL, sft_trainer.py
 */
export async function textData(source: DataSource, tokenizer: Tokenizer | null, options: TextDataOptions = {}): Promise<TextData> {
  knownOptions("textData", options, textNames);
  if (tokenizer === null) throw new ConfigError("the model has no tokenizer, so text cannot become tokens", { key: "tokenizer", value: null, fix: "put tokenizer.json into the model's folder, or pass rows of ids (--ids)" });
  const { maxLength = 1024, heldOut: share = 0 } = options;
  if (!Number.isInteger(maxLength) || maxLength < 2) throw new ConfigError(`max_length is ${maxLength}`, { key: "max_length", value: maxLength, fix: "take a whole number from 2, such as 256" });
  const name = typeof source === "string" || source instanceof URL ? String(source) : "data";
  const given = typeof source === "string" || source instanceof URL ? await readRows(source) : typeof source === "function" ? source() : source;
  const split = "train" in given ? given : divide(given, share);
  if ("train" in given && share !== 0) throw new ConfigError("heldOut is set, but the source brings its own split", { key: "heldOut", value: share, fix: "drop heldOut, or pass the rows as one list" });
  if (split.train.length === 0) throw new ConfigError(`${name}: no row is left for training`, { key: "heldOut", value: share, fix: "hold out less" });

  const { samples, warnings, truncated } = prepare(split.train, tokenizer, options, maxLength, name);
  return new TextData(samples, { padTokenId: tokenizer.padTokenId ?? 0, name, heldOut: held(split.test, tokenizer, options, maxLength, name), warnings, truncated });
}

function held(rows: readonly Row[], tokenizer: Tokenizer, options: TextDataOptions, maxLength: number, name: string): DataSet | undefined {
  if (rows.length === 0) return undefined;
  const texts = rows.filter((row) => "text" in row);
  if (texts.length === rows.length) return measured(texts, tokenizer, { maxLength, name: `${name}, held out` });
  const { packingStrategy: _, ...plain } = options, { samples } = prepare(rows, tokenizer, { ...plain, packing: false }, maxLength, name);
  return new DataSet(samples, { padTokenId: tokenizer.padTokenId ?? 0, name: `${name}, held out` });
}

/** Tokenised rows, packed or cut. */
export function prepare(rows: readonly Row[], tokenizer: Tokenizer, options: TextDataOptions, maxLength: number, name: string): { samples: Sample[]; warnings: string[]; truncated: number } {
  const texts = kindOf(rows[0]) === "text";
  const packing = options.packing ?? (texts || options.packingStrategy !== undefined);
  if (!packing && options.packingStrategy !== undefined) {
    throw new ConfigError(`packing_strategy is ${options.packingStrategy}, but packing is off`, { key: "packing_strategy", value: options.packingStrategy, fix: "set packing: true, or drop packing_strategy" });
  }
  const { samples, warnings } = tokenizeRows(rows, tokenizer, options);
  const strategy = options.packingStrategy ?? (texts ? "wrapped" : "bfd");
  const keeps = packing && strategy !== "bfd";
  const long = samples.filter(({ ids }) => ids.length > maxLength).length;
  if (packing) return { samples: pack(samples, maxLength, strategy), warnings, truncated: keeps ? 0 : long };
  const short = samples.map((sample) => cut(sample, 0, maxLength));
  const empty = short.filter((sample) => predictedTokens(sample) === 0).length;
  if (empty > 0) warnings.push(`${empty} of ${short.length} rows of ${name} train no token: max_length ${maxLength} cuts off all of the completion`);
  return { samples: short, warnings, truncated: long };
}

/** A place to cut a text that is not inside of a character: the place itself, or the end of the character there, or its start where the text ends. */
function whole(text: string, at: number): number {
  const inside = at > 0 && /[\uD800-\uDBFF]/.test(text[at - 1]) && /[\uDC00-\uDFFF]/.test(text[at] ?? "");
  return !inside ? at : at + 1 < text.length ? at + 1 : at - 1;
}

/** Rows k, 2k, 3k, ... are held out, k = round(1 / share); of a single text its end, from a line or word boundary on. */
function divide(rows: readonly Row[], share: number): SplitRows {
  if (share === 0) return { train: rows, test: [] };
  if (!(share > 0 && share < 1)) throw new ConfigError(`heldOut is ${share}`, { key: "heldOut", value: share, fix: "take a share between 0 and 1, such as 0.1" });
  const [only] = rows;
  if (rows.length === 1 && only !== undefined && "text" in only) {
    const { text } = only;
    const end = text.length, from = Math.max(1, Math.floor(end * (1 - share)));
    const line = text.indexOf("\n", from) + 1, word = text.indexOf(" ", from) + 1;
    const at = line > 0 && line < from + (end - from) / 4 ? line : word > 0 && word < end ? word : whole(text, from);
    if (at < 1 || at >= end) throw new ConfigError(`heldOut is ${share}, but the text has only ${end} characters: one of the two parts would be empty`, { key: "heldOut", value: share, fix: "give more text, or hold out nothing (validation_split_percentage: 0)" });
    return { train: [{ ...only, text: text.slice(0, at) }], test: [{ ...only, text: text.slice(at) }] };
  }
  const k = Math.max(2, Math.round(1 / share));
  if (rows.length < k) throw new ConfigError(`heldOut is ${share}, but there are only ${rows.length} rows: none would be held out`, { key: "heldOut", value: share, fix: `take at least ${1 / Math.max(rows.length, 2)}, or give more rows` });
  return { train: rows.filter((_, i) => i % k !== k - 1), test: rows.filter((_, i) => i % k === k - 1) };
}
