/** How the figures are compared and printed. */
export interface Row { readonly task: string; readonly system: string; /** median of the rounds */ readonly ms: number; readonly rounds: readonly (number | undefined)[]; readonly work: number; readonly unit: string; readonly bytes: number; readonly first?: readonly number[] }

export const median = (xs: readonly number[]): number => [...xs].sort((a, b) => a - b)[xs.length >> 1];

/** Work a second in its unit. */
export function rate({ work, ms, unit }: { readonly work: number; readonly ms: number; readonly unit: string }): string {
  const per = work / (ms / 1000), [scale, prefix] = per >= 1e12 ? [1e12, "T"] : per >= 1e9 ? [1e9, "G"] : [1e6, "M"];
  return unit === "tokens" ? `${per >= 100 ? per.toFixed(0) : per.toPrecision(2)} tok/s` : `${digits(per / scale)} ${prefix}${unit === "bytes" ? "B/s" : "FLOP/s"}`;
}
const digits = (x: number): string => x.toFixed(x >= 100 ? 0 : x >= 10 ? 1 : 2);
export const bytesText = (n: number): string => (n >= 2 ** 30 ? `${(n / 2 ** 30).toFixed(2)} GiB` : `${(n / 2 ** 20).toFixed(1)} MiB`);

/** Whose rate stands over whose: f32 products of ours over what computes in f32, f16 products over bf16. */
export const pairs: readonly (readonly [ours: string, theirs: string])[] = [["adjoint", "torch"], ["adjoint-f16", "torch-bf16"], ["adjoint", "jax-js"], ["adjoint", "tfjs-webgpu"]];
/** Times that ours is faster: the median over rounds of the quotient within a round, so that a slow minute is slow for both. */
export function times(rows: readonly Row[], task: string, [ours, theirs]: readonly [string, string]): number | undefined {
  const of = (system: string): Row | undefined => rows.find((r) => r.task === task && r.system === system), a = of(ours), b = of(theirs);
  if (a === undefined || b === undefined) return undefined;
  const quotients = a.rounds.flatMap((x, i) => { const y = b.rounds[i]; return x === undefined || y === undefined ? [] : [y / x]; });
  return quotients.length === 0 ? undefined : median(quotients);
}

/** The greatest relative difference of another system's first numbers, as many as it has. */
export const apart = (ours: readonly number[], theirs: readonly number[]): number => Math.max(...theirs.map((x, i) => Math.abs(x - ours[i]) / Math.abs(ours[i])));
/** Whether two systems did the same work: their first numbers differ by less than a thousandth (of 0.02 where numbers are small). */
export const agree = (a: readonly number[], b: readonly number[]): boolean => a.length === b.length && a.every((x, i) => Math.abs(x - b[i]) <= 1e-3 * Math.max(Math.abs(x), 0.02));

/** A table: the first column to the left, the others to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((h, i) => Math.max(h.length, ...rows.map((r) => r[i].length)));
  return [head, ...rows].map((r) => r.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i] + 3))).join("").trimEnd()).join("\n");
}

/** "gpt2-lora:jax-js=3,...": what must be reached; a system without a figure does not count, unless none has one. */
export function judge(wanted: string, rows: readonly Row[], why: (task: string, system: string) => string): { readonly lines: readonly string[]; readonly reached: boolean } {
  const lines: string[] = [];
  let compared = 0, missed = 0;
  for (const part of wanted.split(",")) {
    const [, task, theirs, least] = /^([\w-]+):([\w-]+)=([\d.]+)$/.exec(part) ?? [], pair = pairs.find(([, b]) => b === theirs);
    if (pair === undefined) throw new Error(`--at-least: ${part} is not task:system=number; systems: ${pairs.map(([, b]) => b).join(", ")}`);
    const got = times(rows, task, pair);
    if (got === undefined) {
      const none = pair.find((s) => !rows.some((r) => r.task === task && r.system === s)) ?? theirs;
      if (none !== theirs) missed++;
      lines.push(`not compared  ${task}: ${none} has no figure${why(task, none)}`);
      continue;
    }
    compared++;
    if (got < Number(least)) missed++;
    lines.push(`${got < Number(least) ? "NOT reached" : "reached"}  ${task}: ${pair[0]} over ${theirs} ${got.toFixed(2)}, wanted ${least}`);
  }
  return { lines, reached: compared > 0 && missed === 0 };
}
