/** A set of adapters as text. */
import type { Tuned } from "../tuned.ts";

/** One adapter of a set, in one view. */
export interface SetRow {
  readonly name: string;
  readonly tuned: Tuned<unknown>;
  readonly factor: number;
  readonly merged: boolean;
  readonly on: boolean;
  readonly trains: boolean;
}

const short = (x: number): string => String(Number(x.toPrecision(4)));
const yes = (x: boolean): string => (x ? "yes" : "-");
/** 4, or 2 to 8. */
function span(values: readonly number[]): string {
  const low = short(Math.min(...values)), high = short(Math.max(...values));
  return low === high ? low : `${low} to ${high}`;
}

/** A line for each adapter: methods, rank, scale, modules, tensors; whether it is merged, on, and training. */
export function setTable(rows: readonly SetRow[]): string {
  const lines = [["adapter", "method", "r", "scale", "modules", "parameters", "merged", "on", "trains"]];
  for (const { name, tuned, factor, merged, on, trains } of rows) {
    const { targets, parameters } = tuned.targets, methods = [...new Set(tuned.attachments.map((a) => a.method.name))];
    lines.push([name, methods.join("+"), span(targets.map((t) => t.r)), span(targets.map((t) => t.scale * factor)), String(targets.length), parameters.toLocaleString("en-US"), yes(merged), yes(on), yes(trains)]);
  }
  const widths = lines[0].map((_, i) => Math.max(...lines.map((l) => l[i].length)));
  return lines.map((l) => l.map((cell, i) => (i > 1 && i < 6 ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join("  ").trimEnd()).join("\n");
}
