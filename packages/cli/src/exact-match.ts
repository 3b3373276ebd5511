/** How many held-out prompts a model answers exactly. */
import { generate, type Generator } from "@adjoint/models";
import type { Row } from "@adjoint/train";

export interface MatchRow { readonly prompt: string; readonly want: string; readonly got: string; readonly right: boolean }
export interface ExactMatch { readonly right: number; readonly rows: readonly MatchRow[] }

/** Rows with a prompt and a completion as texts. */
export const matchRows = (rows: readonly Row[]): { prompt: string; completion: string }[] =>
  rows.flatMap((row) => ("prompt" in row && typeof row.prompt === "string" && typeof row.completion === "string" ? [{ prompt: row.prompt, completion: row.completion }] : []));

/** The most likely answer to each prompt, compared with the completion (white space around it does not count). */
export async function exactMatch(model: Generator, rows: readonly { prompt: string; completion: string }[], onRow: (done: number) => void): Promise<ExactMatch> {
  const done: MatchRow[] = [];
  for (const { prompt, completion } of rows) {
    const got = await generate(model, prompt, { temperature: 0, maxNewTokens: Math.max(8, completion.length + 2) });
    done.push({ prompt, want: completion, got: got.replaceAll(/\s+/g, " ").trimEnd(), right: got.trim() === completion.trim() });
    onRow(done.length);
  }
  return { right: done.filter((r) => r.right).length, rows: done };
}
