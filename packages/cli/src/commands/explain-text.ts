/** Tables and lines of `adjoint explain`, in 100 columns. */
import { padEnd } from "../terminal.ts";

const WIDTH = 100;
/** Text in lines of at most `width` characters, broken at spaces. */
export function folded(text: string, width: number): string[] {
  const out: string[] = [];
  let rest = text;
  while (rest.length > width) {
    const at = rest.lastIndexOf(" ", width);
    if (at <= 0) break;
    out.push(rest.slice(0, at).trimEnd());
    rest = rest.slice(at).trimStart();
  }
  return [...out, rest];
}
export const indent = (all: readonly string[]): string => all.flatMap((l) => folded(l, WIDTH - 4).map((part, i) => `${i === 0 ? "  " : "    "}${part}\n`)).join("");
/** Two columns; the second one folds below itself. */
export function foldedTable(rows: readonly (readonly [string, string])[], margin = "  "): string {
  const wide = Math.max(0, ...rows.map(([name]) => name.length)), room = WIDTH - wide - margin.length - 2;
  return rows.map(([name, text]) => folded(text, room).map((part, i) => `${margin}${padEnd(i === 0 ? name : "", wide)}  ${part}`.trimEnd()).join("\n") + "\n").join("");
}
/** The same without a margin, for what stands at the end. */
export const lines = (rows: readonly (readonly [string, string])[]): string => foldedTable(rows, "");
