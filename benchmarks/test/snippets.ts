/**
 * TypeScript snippets of Markdown pages, and what they promise to print.
 *
 * A block ```ts runs by itself; ```ts more continues the block before it. Expected output stands in the code, as `// prints: TEXT`
 * after a statement or on lines of its own, or whole in a block ```text prints right after it. A block that trains for minutes
 * is marked ```ts slow: its types are checked, and it runs with the numbers that `shorter` replaces. Of a block ```ts types, which
 * wants a machine that tests may lack, the types are checked and nothing runs.
 */

export interface Snippet {
  readonly page: string;
  /** line of the opening fence, from 1 */
  readonly line: number;
  readonly code: string;
  readonly slow: boolean;
  readonly typesOnly: boolean;
  /** lines that it must print; null: anything */
  readonly prints: readonly string[] | null;
  /** lines of the page that hold the expected output as a block: [first, end) from 0 */
  readonly block: readonly [number, number] | null;
}

const fence = /^```(\S*) ?(.*)$/;

export function snippetsOf(page: string, text: string): Snippet[] {
  const lines = text.split("\n"), found: Snippet[] = [];
  for (let i = 0; i < lines.length; i++) {
    const open = fence.exec(lines[i]);
    if (open === null) continue;
    const start = i + 1;
    while (++i < lines.length && lines[i] !== "```");
    const body = lines.slice(start, i), [, language, info] = open, last = found.length - 1;
    if (language === "ts") {
      const before = info === "more" ? found[last] : undefined;
      if (info === "more" && before === undefined) throw new Error(`${page}:${start}: nothing to continue`);
      if (!["", "more", "slow", "types"].includes(info)) throw new Error(`${page}:${start}: a TypeScript block marked "${info}" is neither more nor slow nor types`);
      const comments = body.flatMap((l) => { const m = /\/\/ prints: ?(.*)$/.exec(l); return m === null ? [] : [m[1]]; });
      const prints = [...(before?.prints ?? []), ...comments];
      found.push({ page, line: start, code: [before?.code, ...body].filter((x) => x !== undefined).join("\n"), slow: info === "slow", typesOnly: info === "types", prints: prints.length > 0 ? prints : null, block: null });
    } else if (language === "text" && info === "prints") {
      if (last < 0) throw new Error(`${page}:${start}: output without a snippet`);
      found[last] = { ...found[last], prints: [...(found[last].prints ?? []), ...body], block: [start, i] };
    }
  }
  return found;
}

/** The page with the output block of one snippet replaced by what was printed. */
export function updated(text: string, snippet: Snippet, printed: readonly string[]): string {
  if (snippet.block === null) return text;
  const lines = text.split("\n"), [first, end] = snippet.block, held = (snippet.prints?.length ?? 0) - (end - first);
  return [...lines.slice(0, first), ...printed.slice(held), ...lines.slice(end)].join("\n");
}

const replacements: readonly (readonly [RegExp, string])[] = [[/\bsteps: \d+/g, "steps: 2"], [/\bwarmup: \d+/g, "warmup: 1"], [/\bmaxNewTokens: \d+/g, "maxNewTokens: 3"], [/\bmaxLength: \d+/g, "maxLength: 32"], [/\bsize: \d+/g, "size: 2"], [/"out\//g, '"out/docs/']];
/** A slow snippet with fewer steps. */
export const shorter = (code: string): string => replacements.reduce((c, [from, to]) => c.replaceAll(from, to), code);
