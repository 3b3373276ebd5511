/** Merges of a SentencePiece vocabulary from its scores, and scores from merges. */

/** Two tokens that become one. */
export type Merge = readonly [string, string];

/**
 * Every pair of tokens whose join is a token, best score first; of one score the longer left part, then the longer right part, then the smaller id.
 *
 * SentencePiece and llama.cpp merge the neighbours whose join scores best; a list of ranked pairs does the same. This is the order of
 * transformers' conversion (lengths in code points).
 *
 * @param tokens by id
 * @param scores of the tokens
 */
export function mergesOfScores(tokens: readonly string[], scores: readonly number[]): Merge[] {
  interface Found { readonly left: string; readonly right: string; readonly score: number; readonly id: number }
  const known = new Set(tokens), found: Found[] = [];
  tokens.forEach((token, id) => {
    for (let cut = 1; cut < token.length; cut++) {
      const left = token.slice(0, cut);
      if (!known.has(left)) continue;
      const right = token.slice(cut);
      if (known.has(right)) found.push({ left, right, score: scores[id], id });
    }
  });
  const length = (text: string): number => { let n = 0; for (const _ of text) n++; return n; };
  found.sort((a, b) => b.score - a.score || length(b.left) - length(a.left) || length(b.right) - length(a.right) || a.id - b.id);
  return found.map(({ left, right }) => [left, right]);
}

/**
 * Scores from which `mergesOfScores` gives these merges again, where any do: minus the rank of a token's first merge. Tokens that no merge
 * makes score below all of them, special ones and bytes (`plain` is false) 0, as in SentencePiece's files.
 */
export function scoresOfMerges(tokens: readonly string[], merges: readonly Merge[], plain: (id: number) => boolean): number[] {
  const first = new Map<string, number>();
  merges.forEach(([left, right], rank) => { if (!first.has(left + right)) first.set(left + right, -rank); });
  let below = -merges.length;
  return tokens.map((token, id) => first.get(token) ?? (plain(id) ? --below : 0));
}

export const sameMerges = (a: readonly Merge[], b: readonly Merge[]): boolean => a.length === b.length && a.every(([left, right], i) => left === b[i][0] && right === b[i][1]);
