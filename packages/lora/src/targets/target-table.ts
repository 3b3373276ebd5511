/** What an adapter would touch, as lines of text: modules that differ only in a number are one row. */
import type { Beside } from "../extras/select.ts";
import type { Target } from "./targets.ts";

/** Paths that differ only in numbers are one row: model.layers.{0-5}.mlp.up_proj. */
export function print(targets: readonly Target[], beside: readonly Beside[], notAdapted: readonly string[]): string {
  const rows = new Map<string, { first: Target; paths: string[]; parameters: number }>();
  for (const t of targets) {
    const key = [t.path.replaceAll(/\.\d+(?=\.)/g, ".#"), t.r, t.alpha, t.scale, t.parameters, t.matchedBy].join("|");
    const row = rows.get(key) ?? { first: t, paths: [], parameters: 0 };
    row.paths.push(t.path);
    row.parameters += t.parameters;
    rows.set(key, row);
  }
  const number = (x: number): string => String(Number(x.toPrecision(6)));
  const table = [["module", "count", "r", "alpha", "scale", "parameters", "matched by"]];
  for (const { first, paths, parameters: n } of rows.values()) {
    table.push([condense(paths), String(paths.length), String(first.r), number(first.alpha), number(first.scale), n.toLocaleString("en-US"), first.matchedBy]);
  }
  const widths = table[0].map((_, i) => Math.max(...table.map((row) => row[i].length)));
  const lines = table.map((row) => row.map((cell, i) => (i === 0 || i === 6 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join("  ").trimEnd());
  const sum = (sites: readonly Target[]): string => sites.reduce((n, t) => n + t.parameters, 0).toLocaleString("en-US");
  lines.push(`${targets.length} modules, ${sum(targets)} parameters`);
  if (beside.length > 0) lines.push(`beside them, ${sum(beside.map((b) => b.site))} parameters:`, ...describeBeside(beside).map((line) => `  ${line}`));
  if (notAdapted.length > 0) lines.push(`linear layers not adapted: ${[...groups(notAdapted).values()].map(condense).join(", ")}`);
  return lines.join("\n");
}

function groups(paths: readonly string[]): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const p of paths) {
    const key = p.replaceAll(/\.\d+(?=\.)/g, ".#");
    found.set(key, [...(found.get(key) ?? []), p]);
  }
  return found;
}

/** model.layers.0.q, model.layers.1.q -> model.layers.{0-1}.q; a single path stays. */
function condense(paths: readonly string[]): string {
  if (paths.length === 1) return paths[0];
  return paths[0]
    .split(".")
    .map((part, i) => {
      const values = [...new Set(paths.map((p) => p.split(".")[i]))];
      return values.length === 1 ? part : `{${spans(values.map(Number))}}`;
    })
    .join(".");
}

function spans(numbers: readonly number[]): string {
  const order = [...numbers].sort((a, b) => a - b);
  const out: [number, number][] = [];
  for (const n of order) {
    const last = out.at(-1);
    if (last !== undefined && n === last[1] + 1) last[1] = n;
    else out.push([n, n]);
  }
  return out.map(([a, b]) => (a === b ? `${a}` : `${a}-${b}`)).join(",");
}

/** Lines of a table: names of what trains beside, for people. */
function describeBeside(beside: readonly Beside[]): readonly string[] {
  const rows = new Map<string, { readonly b: Beside; readonly paths: string[]; parameters: number }>();
  for (const b of beside) {
    const [shape] = groups([b.site.path]).keys(), id = [shape, b.what, b.site.parameters, b.site.matchedBy].join("|");
    const row = rows.get(id) ?? { b, paths: [], parameters: 0 };
    row.paths.push(b.site.path);
    row.parameters += b.site.parameters;
    rows.set(id, row);
  }
  return [...rows.values()].map(({ b, paths, parameters }) => `${condense(paths)}: ${b.what}, ${parameters.toLocaleString("en-US")} parameters, by ${b.site.matchedBy}`);
}
