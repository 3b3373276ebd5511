/** What a reader wants to know of each optimizer beside its entry in the catalogue: a title, when to use it, and its options as recipes spell them (`optim_args`). */
import { ConfigError } from "@adjoint/tensor";
import { type OptimizerEntry, optimizerEntry } from "./catalogue.ts";

/** An option as recipes spell it. */
export interface OptimizerKey {
  readonly option: string;
  readonly kind: "number" | "flag" | "text";
  readonly default: number | boolean | string | null;
  /** place in an option of two numbers */
  readonly index: 0 | 1 | null;
}
/** An optimizer's entry with what explains it. */
export interface OptimizerAbout extends OptimizerEntry {
  readonly title: string;
  readonly use: string;
  readonly keys: Readonly<Record<string, OptimizerKey>>;
  /** whether adam_beta1, adam_beta2 and adam_epsilon of a recipe are its options: always, or only where a recipe changes them; `lion_8bit` and `lion` differ */
  readonly moments: "always" | "changed";
}

type Texts = readonly [title: string, use: string];
const texts: Readonly<Record<string, Texts>> = {
  sgd: ["SGD", "the least memory; wants a rate of its own for each model, and a schedule"],
  adagrad: ["Adagrad", "rare features; its steps only ever shrink"],
  rmsprop: ["RMSprop", "half of Adam's memory; DPO's authors used it"],
  adam: ["Adam", "as AdamW without decay; its decay is L2 regularisation"],
  amsgrad: ["AMSGrad", "where Adam's steps grow again late in a run"],
  adamw: ["AdamW", "the default, for adapters and full fine-tuning alike"],
  adamw_hf: ["Transformers' own AdamW", "to repeat runs of Transformers before version 5"],
  nadam: ["NAdam", "Adam that looks ahead along its momentum"],
  adafactor: ["Adafactor", "the memory of SGD with the manners of Adam: full fine-tuning of large models"],
  adafactor_torch: ["torch's Adafactor", "as the other, with steps in proportion to the parameter"],
  lamb: ["LAMB", "very large batches"],
  lion: ["Lion", "half of Adam's memory; a rate 3 to 10 times smaller and a decay as much larger"],
  sophia: ["Sophia-G", "pretraining; an estimate of the curvature every 10 steps"],
  muon: ["Muon", "matrices of hidden layers in pretraining; vectors want Adam beside it (others: adam)"],
  adam_8bit: ["8-bit Adam", "as AdamW 8-bit, without decay"],
  adamw_8bit: ["8-bit AdamW", "full fine-tuning, where states are the largest part of memory"],
  lion_8bit: ["8-bit Lion", "the smallest states that still have a momentum"],
  rmsprop_bnb_8bit: ["8-bit RMSprop", "a quarter of RMSprop's memory"],
  lorafa: ["LoRA-FA", "adapters whose A stays: no gradient and no state for it"],
  riemannian: ["Riemannian LoRA", "adapters: steps that do not depend on how the product is split in two factors"],
  lorapro: ["LoRA-Pro", "adapters: steps as near to those of full fine-tuning as factors allow"],
};

/** Spellings that are not the option's own in snake_case: those of Transformers and bitsandbytes. */
const spellings: Readonly<Record<string, string>> = { min8bitSize: "min_8bit_size", adjustLrFn: "adjust_lr_fn" };
const snake = (option: string): string => spellings[option] ?? option.replaceAll(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
const pairs: Readonly<Record<string, readonly [string, string]>> = { betas: ["beta1", "beta2"], eps: ["eps1", "eps2"] };

/** Options that no recipe sets: the rate is its own key, an adapter's scale comes from the adapter, and lists of three have no spelling. */
const kindOf = (value: unknown): OptimizerKey["kind"] | null => (value === null || typeof value === "number" ? "number" : typeof value === "boolean" ? "flag" : typeof value === "string" ? "text" : null);

function keysOf({ defaults }: OptimizerEntry): Readonly<Record<string, OptimizerKey>> {
  const keys: Record<string, OptimizerKey> = {};
  for (const [option, value] of Object.entries(defaults)) {
    if (option === "learningRate" || value === "needed") continue;
    if (Array.isArray(value)) {
      const names = value.length === 2 ? pairs[option] : undefined;
      names?.forEach((name, i) => { keys[name] = { option, kind: "number", default: value[i] as number | null, index: i === 0 ? 0 : 1 }; });
      continue;
    }
    const kind = kindOf(value);
    if (kind !== null) keys[snake(option)] = { option, kind, default: value as OptimizerKey["default"], index: null };
  }
  return keys;
}

/** Optimizers whose betas are Adam's own, and the names under which Transformers' Trainer gives Lion those of Adam, (0.9, 0.999). */
const alwaysMoments: ReadonlySet<string> = new Set([
  "adam", "amsgrad", "adamw", "adamw_hf", "nadam", "adam_8bit", "adamw_8bit", "lorafa", "riemannian", "lorapro", "lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit",
]);

/** What is known of an optimizer, by any of its names. Errors: ConfigError for an unknown name (lists the known ones). */
export function aboutOptimizer(name: string): OptimizerAbout {
  const entry = optimizerEntry(name), [title, use] = texts[entry.name] ?? [entry.name, ""];
  return { ...entry, title, use, keys: keysOf(entry), moments: alwaysMoments.has(entry.name) || alwaysMoments.has(name) ? "always" : "changed" };
}

/**
 * `optim_args` as options, values as a recipe or a command line has them.
 * Errors: ConfigError for a key that this optimizer does not have (lists its own), or a value of another kind.
 * @example optimizerOptions("adamw_torch", { beta1: "0.8", amsgrad: "true" })   // { betas: [0.8, 0.999], amsgrad: true }
 */
export function optimizerOptions(name: string, args: Readonly<Record<string, string | number | boolean>>): Readonly<Record<string, unknown>> {
  const { keys, defaults } = aboutOptimizer(name), found: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(args)) {
    const refuse = (message: string, fix: string): never => { throw new ConfigError(`optim_args: ${message}`, { key: `optim_args.${key}`, value, fix }); };
    if (!Object.hasOwn(keys, key)) return refuse(`${name} has no option ${key}`, `its options: ${Object.keys(keys).join(", ")}`);
    const { kind, option, index } = keys[key];
    if (kind === "text") found[option] = String(value);
    else if (kind === "flag") found[option] = /^true$/i.test(String(value)) ? true : /^false$/i.test(String(value)) ? false : refuse(`${key} = ${String(value)} is not true or false`, "write true or false");
    else {
      const x = typeof value === "number" ? value : typeof value === "string" && value.trim() !== "" ? Number(value) : NaN;
      if (Number.isNaN(x)) return refuse(`${key} = ${String(value)} is not a number`, "write a number such as 0.9");
      const whole = found[option] ?? defaults[option];
      found[option] = index === null || !Array.isArray(whole) ? x : whole.map((v: unknown, i) => (i === index ? x : v));
    }
  }
  return found;
}
