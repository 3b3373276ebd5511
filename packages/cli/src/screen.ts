/** The lines of a run: labels dim in one column, nothing wider than 110 columns. */
import { clip, padEnd, padStart, paint, type Paint, type Terminal, width } from "./terminal.ts";

const LABEL = 10;

export class Screen {
  readonly #columns: number;
  readonly #paint: Paint;
  #write: (line: string) => void;

  constructor(terminal: Pick<Terminal, "err" | "color" | "columns">, quiet: boolean) {
    this.#columns = terminal.columns;
    this.#paint = paint(terminal);
    this.#write = quiet ? () => undefined : (line) => { terminal.err(`${line}\n`); };
  }
  /** Lines go into an array instead. */
  capture(lines: string[]): void { this.#write = (line) => { lines.push(line); }; }

  header(text: string): void { this.#write(text); this.#write(""); }
  gap(): void { this.#write(""); }
  plain(text: string): void { this.#write(clip(text.replaceAll(/\s+$/g, ""), this.#columns)); }
  /** label, name, what it is, and how large */
  row(label: string, name: string, what: string, size: string): void {
    const text = `${padEnd(clip(name, 24), 11)} ${size === "" ? what : `${padEnd(what, 44)}  ${size}`}`;
    this.#write(`${this.#paint.dim(padEnd(label, LABEL))}${clip(text, this.#columns - LABEL)}`);
  }
  line(label: string, text: string): void {
    // paths and commands are not cut: they are there to be copied
    this.#write(`${this.#paint.dim(padEnd(label, LABEL))}${text}`);
  }
  note(text: string): void { this.line("note", text); }

  /** What was learned and what was forgotten. Cells: role, name, before, after, change, word, and what stands beside it. */
  table(rows: readonly (readonly string[])[], unit: string): void {
    const name = Math.max(...rows.map((r) => width(r[1])), 12);
    this.#write(this.#paint.dim(`       ${padEnd("", name)}  ${padStart("before", 7)} ${padStart("after", 7)}    ${unit}`));
    for (const [role, title, before, after, change, word, beside = ""] of rows) {
      this.#write(`  ${this.#paint.dim(padEnd(role, 4))} ${padEnd(clip(title, name), name)}  ${padStart(before, 7)} ${padStart(after, 7)}   ${padStart(change, 6)}  ${word}${beside === "" ? "" : `   ${this.#paint.dim(beside)}`}`);
    }
  }
  /** A sample of one prompt, before and after. */
  sample(prompt: string, before: string | null, after: string): void {
    const one = (text: string): string => text.replaceAll(/\s+/g, " ").trim();
    const head = `  "${clip(one(prompt), 32)}"   `, room = this.#columns - width(head) - 9;
    if (before !== null) this.#write(`${head}${this.#paint.dim("before   ")}${clip(one(before), room)}`);
    this.#write(`${before === null ? head : " ".repeat(width(head))}${this.#paint.dim("after    ")}${clip(one(after), room)}`);
  }
}
