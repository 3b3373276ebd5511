/** Near names for error messages. */

/** Number of insertions, deletions and substitutions between two words. */
export function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length];
}

/** The candidates nearest to `name`, best first; none that differs in more than about half of its letters, unless one contains the other. */
export function nearest(name: string, candidates: readonly string[], count = 3): readonly string[] {
  const plain = (s: string): string => s.toLowerCase().replaceAll(/[_.-]/g, "").slice(0, 60);
  const wanted = plain(name);
  return [...new Set(candidates)]
    .map((c) => {
      const p = plain(c);
      const inside = Math.min(wanted.length, p.length) > 2 && (p.includes(wanted) || wanted.includes(p));
      return { c, d: Math.min(inside ? 0.5 : 1, editDistance(wanted, p) / Math.max(1, wanted.length, p.length)) };
    })
    .filter(({ d }) => d <= 0.5)
    .sort((x, y) => x.d - y.d)
    .slice(0, count)
    .map(({ c }) => c);
}
