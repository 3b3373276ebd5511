/** AdaLoRA's options, its scale, its budget at every step, and its masks as PEFT's rank_pattern. */
import type { JsonValue } from "./config-keys.ts";
import type { Refuse } from "./kinds.ts";

/** Options of AdaLoRA; names are PEFT's in camelCase. */
export interface AdaloraConfig {
  /** mean rank of a module at the end */
  readonly targetR: number;
  /** rank of every module at the start */
  readonly initR: number;
  /** steps at the start in which no rank is given up */
  readonly tinit: number;
  /** steps at the end in which the ranks stay as they are */
  readonly tfinal: number;
  /** steps between two allocations */
  readonly deltaT: number;
  /** decay of the mean of |p g| */
  readonly beta1: number;
  /** decay of the mean of its deviation */
  readonly beta2: number;
  /** weight of the penalty on A Aᵀ - I and Bᵀ B - I */
  readonly orthRegWeight: number;
  /** optimizer steps of the whole run; 0: not known yet, for an adapter that is not trained */
  readonly totalStep: number;
  /** what of each module's rank is left, by path; null: all of it, or not settled yet */
  readonly rankPattern: Readonly<Record<string, readonly boolean[]>> | null;
  /** "ranknum": alpha / (init_r + 1e-5), as PEFT; "sqrt": alpha / sqrt(init_r); a number: that */
  readonly scaling: "ranknum" | "sqrt" | number;
}

export const adaloraDefaults: AdaloraConfig = { targetR: 8, initR: 12, tinit: 0, tfinal: 0, deltaT: 1, beta1: 0.85, beta2: 0.85, orthRegWeight: 0.5, totalStep: 0, rankPattern: null, scaling: "ranknum" };

/** s of B diag(E) A. */
export const adaloraScale = ({ scaling, initR }: AdaloraConfig, alpha: number): number => (scaling === "ranknum" ? alpha / (initR + 1e-5) : scaling === "sqrt" ? alpha / Math.sqrt(initR) : scaling);

/** Options that can be; throws by `refuse`. */
export function checkAdalora(c: AdaloraConfig, refuse: Refuse): AdaloraConfig {
  const whole = (least: number): ((v: unknown) => boolean) => (v) => Number.isSafeInteger(v) && Number(v) >= least, share = (v: unknown): boolean => typeof v === "number" && v > 0 && v < 1;
  const rules: { readonly [K in keyof AdaloraConfig]: readonly [(v: unknown) => boolean, string] } = {
    targetR: [whole(1), "an integer of at least 1"], initR: [whole(1), "an integer of at least 1, such as 1.5 targetR"], tinit: [whole(0), "a number of steps"], tfinal: [whole(0), "a number of steps"],
    deltaT: [whole(1), "a number of steps of at least 1"], beta1: [share, "a number between 0 and 1"], beta2: [share, "a number between 0 and 1"], orthRegWeight: [(v) => typeof v === "number" && v >= 0, "a number of at least 0"],
    totalStep: [whole(0), "the optimizer steps of the run"], rankPattern: [(v) => v === null || (typeof v === "object" && Object.values(v).every((m) => Array.isArray(m) && m.length === c.initR && m.every((x) => typeof x === "boolean"))), `null, or ${c.initR} times true or false for each module`],
    scaling: [(v) => v === "ranknum" || v === "sqrt" || (typeof v === "number" && Number.isFinite(v) && v > 0), '"ranknum", "sqrt" or a number above 0: files hold no other scale'],
  };
  for (const [key, value] of Object.entries(c)) {
    const rule = Object.entries(rules).find(([k]) => k === key)?.[1];
    if (rule === undefined) refuse(`adalora.${key}`, value, "is not an option", `options: ${Object.keys(rules).join(", ")}`);
    else if (!rule[0](value)) refuse(`adalora.${key}`, value, "is not valid", `use ${rule[1]}`);
  }
  if (c.initR < c.targetR) refuse("adalora.initR", c.initR, `is below targetR = ${c.targetR}`, "start with a larger rank: AdaLoRA gives ranks up");
  if (c.totalStep > 0 && c.tinit >= c.totalStep - c.tfinal) refuse("adalora.tinit", c.tinit, `and tfinal = ${c.tfinal} leave none of ${c.totalStep} steps for the budget`, "shorten tinit or tfinal, or train for longer");
  return c;
}

/** Where the budget stands at step t = 0, 1, ...: triplets in all, and whether the ranks are allocated now. */
export function budgetAt(c: AdaloraConfig, modules: number, t: number): { readonly budget: number; readonly allocate: boolean } {
  const start = c.initR * modules, end = c.targetR * modules, last = c.totalStep - c.tfinal;
  if (t <= c.tinit) return { budget: start, allocate: false };
  if (t > last) return { budget: end, allocate: true };
  return { budget: Math.trunc((start - end) * (1 - (t - c.tinit) / (last - c.tinit)) ** 3 + end), allocate: t % c.deltaT === 0 };
}

const SUFFIX = /\.lora_E(?:\.[^.]+)?$/;
/** Masks by module path from PEFT's rank_pattern, whose keys end in lora_E. */
export function masksFromFile(value: unknown, refuse: Refuse): AdaloraConfig["rankPattern"] {
  if (value === null || typeof value !== "object" || Object.keys(value).length === 0) return value === null || typeof value === "object" ? null : refuse("rank_pattern", value, "is not valid", "use null, or true and false for each module");
  return Object.fromEntries(Object.entries(value).map(([key, mask]: [string, unknown]) => {
    if (!SUFFIX.test(key) || !Array.isArray(mask)) refuse(`rank_pattern[${JSON.stringify(key)}]`, mask, "is not a mask of lora_E", "use the file as AdaLoRA wrote it");
    return [key.replace(SUFFIX, ""), (mask as unknown[]).map((x) => x === true)];
  }));
}
export const masksToFile = (masks: AdaloraConfig["rankPattern"]): JsonValue => (masks === null ? null : Object.fromEntries(Object.entries(masks).map(([path, mask]) => [`${path}.lora_E`, mask])));
