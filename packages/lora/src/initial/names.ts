/** The values of init_lora_weights, and what each means for the base and for files. */

/** How A and B start; PEFT's names. */
export type InitLoraWeights = boolean | "gaussian" | "pissa" | `pissa_niter_${number}` | "olora" | "orthogonal" | "loftq" | "eva" | "corda" | "lora_ga" | "mica";

const names: readonly string[] = ["gaussian", "pissa", "olora", "orthogonal", "loftq", "eva", "corda", "lora_ga", "mica"];

/** How many subspace iterations `pissa_niter_K` asks for; null for anything else. */
export function pissaIterations(rule: unknown): number | null {
  const found = typeof rule === "string" ? /^pissa_niter_(\d+)$/.exec(rule) : null;
  return found === null ? null : Number(found[1]);
}

export const isInitLoraWeights = (v: unknown): v is InitLoraWeights => typeof v === "boolean" || (typeof v === "string" && (names.includes(v) || pissaIterations(v) !== null));
export const initWants: string = `true, false or one of ${names.join(", ")}, pissa_niter_K with a number K`;

/** Whether it computes A and B from numbers of the model, so that only `createLora` can make it. */
export const needsNumbers = (rule: InitLoraWeights): boolean => typeof rule === "string" && rule !== "gaussian";
/** Whether B A is not zero at the start, so that its first value is taken out of the layer again. */
export const keepsOrigin = (rule: InitLoraWeights): boolean => rule === "pissa" || rule === "olora" || rule === "corda" || rule === "lora_ga" || pissaIterations(rule) !== null;
