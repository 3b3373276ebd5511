/** What `adjoint data FILE` says: how many rows, how long, what is cut, what is double, and what the first rows look like token by token. */
import type { Tokenizer } from "@adjoint/models";
import { prepare, type TextDataOptions } from "./text-data.ts";
import { kindOf, readRows, type Row, type RowKind } from "./rows.ts";
import { IGNORED, type Sample } from "./sample.ts";
import { tokenizeRows } from "./tokenize.ts";

/** One token of a shown row. */
export interface ShownToken {
  readonly id: number;
  readonly text: string;
  readonly trained: boolean;
}

/** One bar of the histogram: rows with from <= tokens <= to. */
export interface LengthBin {
  readonly from: number;
  readonly to: number;
  readonly rows: number;
}

/** The numbers behind the report. */
export interface DataReport {
  readonly file: string;
  readonly kind: RowKind;
  readonly rows: number;
  readonly tokens: number;
  /** tokens with a label */
  readonly trained: number;
  readonly lengths: { readonly least: number; readonly median: number; readonly most: number; readonly bins: readonly LengthBin[] };
  readonly maxLength: number;
  /** rows cut at maxLength, and their share of all rows */
  readonly truncated: number;
  readonly truncatedShare: number;
  /** rows that repeat an earlier one */
  readonly duplicates: number;
  /** rows of training after packing or cutting */
  readonly samples: number;
  readonly warnings: readonly string[];
  /** the first rows, as they are trained */
  readonly shown: readonly (readonly ShownToken[])[];
}

/**
 * Reads a data file as training would and counts.
 *
 * @throws what `readRows`, `tokenizeRows` and `textData` throw
 */
export async function dataReport(file: string | URL, tokenizer: Tokenizer, options: TextDataOptions = {}): Promise<DataReport> {
  return reportRows(await readRows(file), String(file), tokenizer, options);
}

/** The same for rows in memory. */
export function reportRows(rows: readonly Row[], file: string, tokenizer: Tokenizer, options: TextDataOptions = {}): DataReport {
  const { maxLength = 1024 } = options;
  const { samples } = tokenizeRows(rows, tokenizer, options);
  const prepared = prepare(rows, tokenizer, options, maxLength, file);
  const lengths = samples.map(({ ids }) => ids.length).sort((a, b) => a - b);
  const middle = Math.floor(lengths.length / 2);
  return {
    file,
    kind: kindOf(rows[0]),
    rows: rows.length,
    tokens: lengths.reduce((sum, length) => sum + length, 0),
    trained: samples.reduce((sum, { labels }) => sum + labels.filter((label) => label !== IGNORED).length, 0),
    lengths: {
      least: lengths[0],
      median: lengths.length % 2 === 1 ? lengths[middle] : (lengths[middle - 1] + lengths[middle]) / 2,
      most: lengths[lengths.length - 1],
      bins: histogram(lengths),
    },
    maxLength,
    truncated: prepared.truncated,
    truncatedShare: prepared.truncated / rows.length,
    duplicates: rows.length - new Set(rows.map((row) => JSON.stringify(row))).size,
    samples: prepared.samples.length,
    warnings: prepared.warnings,
    shown: prepared.samples.slice(0, 3).map((sample) => shown(sample, tokenizer)),
  };
}

/** At most eight bins of equal width, the width a round number. */
function histogram(sorted: readonly number[]): LengthBin[] {
  const least = sorted[0], most = sorted[sorted.length - 1];
  const raw = (most - least + 1) / 8;
  const scale = 10 ** Math.floor(Math.log10(Math.max(raw, 1)));
  const width = [1, 2, 5, 10, 20].map((step) => step * scale).find((step) => Math.floor(most / step) - Math.floor(least / step) < 8) ?? 50 * scale;
  const bins: LengthBin[] = [];
  for (let from = Math.floor(least / width) * width; from <= most; from += width) {
    bins.push({ from, to: from + width - 1, rows: sorted.filter((length) => length >= from && length < from + width).length });
  }
  return bins;
}

function shown({ ids, labels }: Sample, tokenizer: Tokenizer): ShownToken[] {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  return ids.map((id, i) => {
    const bytes = tokenizer.bytesOf(id);
    let text: string;
    try {
      text = decoder.decode(bytes);
    } catch {
      text = Array.from(bytes, (byte) => `<${byte.toString(16).toUpperCase().padStart(2, "0")}>`).join(""); // part of a character
    }
    return { id, text, trained: labels[i] !== IGNORED };
  });
}

/** How `formatDataReport` prints. */
export interface FormatOptions {
  /** ANSI colours: the untrained part grey; without, it stands in ⟦ ⟧ (default false; the caller looks at NO_COLOR and the terminal) */
  readonly color?: boolean;
  /** columns (default 100) */
  readonly width?: number;
  /** tokens shown of each row (default 60) */
  readonly tokens?: number;
}

/** Whether a stream should get colours: it is a terminal, and NO_COLOR is unset or empty (no-color.org). */
export const wantsColor = (stream: { readonly isTTY?: boolean }, environment: Readonly<Record<string, string | undefined>>): boolean => stream.isTTY === true && (environment["NO_COLOR"] ?? "") === "";

/** The report as text. */
export function formatDataReport(report: DataReport, { color = false, width = 100, tokens = 60 }: FormatOptions = {}): string {
  const number = (n: number): string => n.toLocaleString("en-US", { maximumFractionDigits: 1 });
  const percent = (share: number): string => `${(100 * share).toLocaleString("en-US", { maximumFractionDigits: 1 })} %`;
  const dim = (text: string): string => (color ? `\x1b[2m${text}\x1b[22m` : text);
  const line = (label: string, text: string): string => `${dim(label.padEnd(11))}${text}`;
  const kinds = { text: "text", prompt: "prompt + completion", messages: "messages" };
  const { lengths, rows } = report;
  const most = Math.max(...lengths.bins.map((bin) => bin.rows));
  const names = lengths.bins.map(({ from, to }) => (from === to ? number(from) : `${number(from)}-${number(to)}`));
  const nameWidth = Math.max(...names.map((name) => name.length));
  const room = Math.max(10, Math.min(50, width - 11 - nameWidth - 12));
  return [
    line("data", `${report.file}   ${number(rows)} ${rows === 1 ? "row" : "rows"} of ${kinds[report.kind]}`),
    line("tokens", `${number(report.tokens)}   trained ${number(report.trained)} (${percent(report.trained / report.tokens)})`),
    line("lengths", `least ${number(lengths.least)}   median ${number(lengths.median)}   most ${number(lengths.most)} tokens`),
    ...lengths.bins.map((bin, i) => `${" ".repeat(11)}${names[i].padStart(nameWidth)} ${bar(bin.rows / most, room)} ${number(bin.rows)}`),
    line("training", `${number(report.samples)} ${report.samples === 1 ? "row" : "rows"} of at most ${number(report.maxLength)} tokens`),
    line("truncated", `${number(report.truncated)} of ${number(rows)} rows (${percent(report.truncatedShare)}) at ${number(report.maxLength)} tokens`),
    line("duplicates", `${number(report.duplicates)} of ${number(rows)} rows`),
    ...report.warnings.map((warning) => line("warning", warning)),
    ...report.shown.flatMap((row, i) => ["", line(`row ${i + 1}`, `${number(row.length)} tokens${row.length > tokens ? `, the first ${tokens}` : ""}, ${color ? "grey" : "in ⟦ ⟧"}: not trained`), ...wrapTokens(row.slice(0, tokens), width, color)]),
  ].join("\n");
}

const bar = (share: number, room: number): string => (share === 0 ? "" : "▇".repeat(Math.max(1, Math.round(share * room))));

/** Tokens between bars, line breaks and tabs spelled out, broken at `width` columns. */
function wrapTokens(row: readonly ShownToken[], width: number, color: boolean): string[] {
  const lines: string[] = [];
  let line = "", columns = 0;
  for (const { text, trained } of row) {
    const visible = text.replaceAll("\n", "\\n").replaceAll("\r", "\\r").replaceAll("\t", "\\t").replace(/[\u0000-\u001f\u007f-\u009f]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
    const marked = trained || color ? visible : `⟦${visible}⟧`;
    if (columns > 0 && columns + marked.length + 1 > width) {
      lines.push(line);
      [line, columns] = ["", 0];
    }
    line += `${!trained && color ? `\x1b[90m${marked}\x1b[39m` : marked}│`;
    columns += marked.length + 1;
  }
  return line === "" ? lines : [...lines, line];
}
