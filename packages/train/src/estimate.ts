/** How long a run will take: told once, when its first steps have been measured. */
import type { StepMetrics } from "./metrics.ts";

/** What a run is going to take. */
export interface Estimate {
  /** seconds from the run's start to its end, evaluations included */
  readonly seconds: number;
  /** resident bytes of the process: the most that a step has shown */
  readonly memory: number;
}

/** What has been measured, and what is left. */
export interface Course {
  /** seconds since the run began */
  readonly elapsed: number;
  /** of the measured steps */
  readonly trainSeconds: number;
  readonly trainTokens: number;
  /** predicted tokens that are still to be trained */
  readonly tokensLeft: number;
  /** seconds of evaluations and samples that are still to come */
  readonly otherSeconds: number;
}

/** elapsed + tokensLeft · trainSeconds / trainTokens + otherSeconds: the steps to come cost per token what the measured ones did. */
export const estimateSeconds = ({ elapsed, trainSeconds, trainTokens, tokensLeft, otherSeconds }: Course): number =>
  elapsed + (trainTokens === 0 ? 0 : (tokensLeft * trainSeconds) / trainTokens) + otherSeconds;

/** What makes an estimate worth telling: four steps of three seconds in all, eight quick steps, or half a minute of slow ones. */
const isEnough = (steps: number, seconds: number): boolean => (steps >= 4 && seconds >= 3) || steps >= 8 || seconds >= 30;

/** Watches the first steps of a run. */
export class Estimator {
  #trainSeconds = 0;
  #trainTokens = 0;
  #measured = -1;
  #memory = 0;
  #told = false;

  /**
   * Takes one step; gives the estimate once, or null. The first step is left out, for it makes the plan. Nothing is told of a run that is half over.
   * `tokensLeft` are the tokens after this step; `otherSeconds` is asked for only when the estimate is made, with the seconds a token has cost.
   */
  step(m: StepMetrics, { steps, elapsed, tokensLeft, otherSeconds }: { readonly steps: number; readonly elapsed: number; readonly tokensLeft: number; readonly otherSeconds: (secondsPerToken: number) => number }): Estimate | null {
    if (this.#told) return null;
    this.#memory = Math.max(this.#memory, m.memory);
    if (++this.#measured === 0) return null;
    this.#trainSeconds += m.tokens / m.tokens_per_second;
    this.#trainTokens += m.tokens;
    this.#told = 2 * m.step > steps;
    if (this.#told || !isEnough(this.#measured, this.#trainSeconds)) return null;
    this.#told = true;
    const course = { elapsed, trainSeconds: this.#trainSeconds, trainTokens: this.#trainTokens, tokensLeft, otherSeconds: otherSeconds(this.#trainSeconds / Math.max(1, this.#trainTokens)) };
    return { seconds: estimateSeconds(course), memory: this.#memory };
  }
}
