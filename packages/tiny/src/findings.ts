/** What was measured once beside the bundled job: full fine-tuning as far as the point that the adapter reaches. */

/** A point of a training: bits per byte on the new and on the old domain. */
export interface Point { readonly learning_rate: number; readonly step: number; readonly new: number; readonly old: number }

/** Learned and forgotten, by adapter and in full. */
export interface JobFindings {
  /** where all runs of the measurement stand */
  readonly source: string;
  /** the job, as keys of a recipe: the figures are about no other one */
  readonly recipe: Readonly<Record<string, unknown>>;
  readonly before: { readonly new: number; readonly old: number };
  readonly adapter: Point;
  /** at the first evaluation whose development loss is no higher than the adapter's at its end; the best of three rates */
  readonly full: Point;
}

/** Reads `findings.json`, which `npm run benchmark -- findings --job packages/tiny/findings.json` writes. */
export const jobFindings = (): JobFindings => JSON.parse(process.getBuiltinModule("node:fs").readFileSync(new URL("../findings.json", import.meta.url), "utf8")) as JobFindings;
